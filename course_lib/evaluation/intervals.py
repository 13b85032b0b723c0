"""How far a score can be trusted: 95 % intervals of means, and of differences between two systems."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

FEW_GROUPS = 20


class Interval(NamedTuple):
    """Lower and upper end of an interval."""

    low: float
    high: float


def interval(
    values: ArrayLike, cells: ArrayLike | None = None, groups: ArrayLike | None = None, level: float = 0.95
) -> Interval:
    """Interval of a mean of fractions (recordings,), such as whether, or how often, each recording is right.

    Over `groups` (speakers, devices, locations), whose recordings are right or wrong together: below 20 groups the t
    interval of the groups' means, else a bootstrap of whole groups. Without groups each recording counts by itself and
    the interval is Wilson's; with `cells` (classes) it is that of the mean of the cells' means, which is balanced
    accuracy. With both, a group's score is the mean of its cells' means. Raises ValueError for no values, NaN, values
    that are no fractions, one group, and groups or cells that are not as many as the values.

    Notebook: 02_spoken_digits_cnn
    """
    values = _checked(values, level)
    cells = _matching(cells, values)
    if groups is None:
        parts = [values[cells == cell] for cell in np.unique(cells)]
        return interval_of_cells([part.mean() for part in parts], [len(part) for part in parts], level)
    groups = _matching(groups, values)
    if len(np.unique(groups)) >= FEW_GROUPS:
        _, member, sizes = np.unique(cells, return_inverse=True, return_counts=True)
        return bootstrap(values, groups, 1 / sizes[member], level)
    means = [mean_of_cells(values[groups == group], cells[groups == group]) for group in np.unique(groups)]
    low, high = t_interval(means, level)
    return Interval(max(low, 0.0), min(high, 1.0))


def mean_of_cells(values: ArrayLike, cells: ArrayLike) -> float:
    """Mean over the cells of the means of their values: balanced accuracy, with the classes as cells.

    Notebook: 05_heart_sounds_physionet
    """
    _, member = np.unique(np.asarray(cells), return_inverse=True)
    return float((np.bincount(member, np.asarray(values, dtype=float)) / np.bincount(member)).mean())


def wilson(mean: float, n: float, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion `mean` of `n` independent trials. Source: Wilson 1927.

    Notebook: 02_spoken_digits_cnn
    """
    z = float(stats.norm.ppf((1 + level) / 2))
    centre = (mean + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2))
    # Rounding must not leave a mean of exactly 0 or 1 outside.
    return Interval(min(mean, max(0.0, float(centre - reach))), max(mean, min(1.0, float(centre + reach))))


def clopper_pearson(right: int, n: int, level: float = 0.95) -> Interval:
    """The exact interval of a proportion: `right` of `n` independent trials. Source: Clopper and Pearson 1934.

    Notebook: 02_spoken_digits_cnn
    """
    if not 0 <= right <= n or n < 1:
        raise ValueError(f"{right} of {n} is not a proportion")
    exact = stats.binomtest(right, n).proportion_ci(level, method="exact")
    return Interval(float(exact.low), float(exact.high))


def t_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Student's interval of the mean of a few values, such as the scores of six speakers. Source: Student 1908.

    A percentile bootstrap over six values covers 86 % instead of 95. Raises ValueError for fewer than two.

    Notebook: 02_spoken_digits_cnn
    """
    values = _checked(values, level)
    if len(values) < 2:
        raise ValueError("an interval over groups needs at least two of them")
    reach = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return Interval(float(values.mean() - reach), float(values.mean() + reach))


def bootstrap(
    values: ArrayLike, groups: ArrayLike | None = None, weights: ArrayLike | None = None, level: float = 0.95,
    draws: int = 10_000, seed: int = 0,
) -> Interval:  # fmt: skip
    """Percentile bootstrap of the mean of any values (n,), weighted by `weights` (n,), whole `groups` at a time.

    Source: Efron and Tibshirani 1993.

    Notebook: 02_spoken_digits_cnn
    """
    values = _checked(values, level)
    groups = np.arange(len(values)) if groups is None else _matching(groups, values)
    _, member = np.unique(groups, return_inverse=True)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=float)
    pairs = np.stack([np.bincount(member, weights * values), np.bincount(member, weights)], axis=1)
    # Groups of equal sum and size are alike: to draw how often each kind comes is the same, and much faster.
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)
    times = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=draws)
    means = (times @ kinds[:, 0]) / (times @ kinds[:, 1])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def paired_difference(
    first: ArrayLike, second: ArrayLike, cells: ArrayLike | None = None, groups: ArrayLike | None = None,
    level: float = 0.95,
) -> tuple[float, Interval]:  # fmt: skip
    """How much better the second of two systems is on the same recordings (n,): the mean difference and its interval.

    Over `groups` the t interval of the groups' differences; else a normal interval over the recordings, within each of
    the `cells` (classes) whose means are averaged.

    Notebook: 02_spoken_digits_cnn
    """
    first = _checked(first, level)
    difference = _matching(_checked(second, level), first) - first
    cells = _matching(cells, first)
    if groups is not None:
        groups = _matching(groups, first)
        means = [mean_of_cells(difference[groups == group], cells[groups == group]) for group in np.unique(groups)]
        return float(np.mean(means)), t_interval(means, level)
    parts = [difference[cells == cell] for cell in np.unique(cells)]
    mean = float(np.mean([part.mean() for part in parts]))
    error = np.sqrt(sum(part.var(ddof=1) / len(part) if len(part) > 1 else 0.0 for part in parts)) / len(parts)
    reach = float(stats.norm.ppf((1 + level) / 2) * error)
    return mean, Interval(mean - reach, mean + reach)


def interval_of_cells(means: ArrayLike, sizes: ArrayLike, level: float = 0.95) -> Interval:
    """Interval of the mean of several proportions, `means` of `sizes` recordings each: balanced accuracy.

    Wilson's, with the effective number of recordings, which is the number of all where the cells are of one size.
    Sources: Wilson 1927; Kish 1965, "Survey sampling" (the effective size of a weighted sample).
    """
    means, sizes = np.asarray(means, dtype=float), np.asarray(sizes, dtype=float)
    if means.min() < 0 or means.max() > 1:
        raise ValueError("these values are not fractions; use bootstrap")
    return wilson(float(means.mean()), len(sizes) ** 2 / float((1 / sizes).sum()), level)


def _checked(values: ArrayLike, level: float) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all() or not 0 < level < 1:
        raise ValueError("an interval needs at least one value, no NaN, and a level between 0 and 1")
    return values


def _matching(marks: ArrayLike | None, values: np.ndarray) -> np.ndarray:
    """The cell or the group of each value; one cell of all where none are given."""
    marks = np.zeros(len(values)) if marks is None else np.asarray(marks)
    if marks.shape != values.shape:
        raise ValueError(f"{len(values)} values need as many partners, groups or cells, not an array {marks.shape}")
    return marks
