"""Scores of predicted against true classes, and how far they can be trusted."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from sklearn import metrics


def scores(labels: ArrayLike, predicted: ArrayLike, n_classes: int) -> dict[str, float]:
    """Accuracy and macro-averaged F1; with two classes (1 = positive) also sensitivity, specificity, precision, F1
    and MAcc = (sensitivity + specificity) / 2. Fractions; NaN where a denominator is zero.

    Notebook: 02_spoken_digits_cnn
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    if labels.shape != predicted.shape or labels.size == 0:
        raise ValueError(f"expected as many predictions as labels, got {predicted.size} and {labels.size}")
    confusion = confusion_matrix(labels, predicted, n_classes)
    found = {"accuracy": float(np.trace(confusion) / confusion.sum())}
    if n_classes != 2:
        all_classes = list(range(n_classes))
        f1 = metrics.f1_score(labels, predicted, labels=all_classes, average="macro", zero_division=np.nan)
        return found | {"macro_f1": float(f1)}
    (tn, fp), (fn, tp) = confusion
    ratio = {
        "sensitivity": (tp, tp + fn),
        "specificity": (tn, tn + fp),
        "precision": (tp, tp + fp),
        "f1": (2 * tp, 2 * tp + fp + fn),
    }
    found |= {name: float(part / whole) if whole else float("nan") for name, (part, whole) in ratio.items()}
    return found | {"macc": (found["sensitivity"] + found["specificity"]) / 2}


def confusion_matrix(labels: ArrayLike, predicted: ArrayLike, n_classes: int) -> np.ndarray:
    """Counts, shape (n_classes, n_classes): a row for each true class, a column for each predicted one.

    Notebook: 02_spoken_digits_cnn
    """
    return metrics.confusion_matrix(labels, predicted, labels=list(range(n_classes)))


def interval(
    values: ArrayLike, groups: ArrayLike | None = None, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap interval of the mean of `values`, resampling whole `groups` (None: each value is its own group).

    A group is drawn with all its values, because the recordings of one speaker or device are right or wrong
    together. Percentile interval that holds `level` of `draws` means. Source: Efron and Tibshirani 1993.

    Notebook: 02_spoken_digits_cnn
    """
    values = np.asarray(values, dtype=float)
    if values.size == 0 or not 0 < level < 1:
        raise ValueError("an interval needs at least one value and a level between 0 and 1")
    if groups is None:
        sums, counts = values, np.ones_like(values)
    else:
        _, member = np.unique(np.asarray(groups), return_inverse=True)
        sums, counts = np.bincount(member, weights=values), np.bincount(member)
    random = np.random.default_rng(seed)
    times = random.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=draws)
    means = (times @ sums) / (times @ counts)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def balanced_interval(
    values: ArrayLike, cells: ArrayLike, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap interval of the mean over `cells` of the means of their `values`, each cell resampled by itself.

    With whether each recording was right as values: that of MAcc with the classes as cells, that of its mean over
    devices with the classes of every device. NaN values are refused with ValueError.
    Source: Efron and Tibshirani 1993, the several-sample problem.

    Notebook: 05_heart_sounds_physionet
    """
    values, cells = np.asarray(values, dtype=float), np.asarray(cells)
    if values.size == 0 or np.isnan(values).any() or not 0 < level < 1:
        raise ValueError("an interval needs at least one value, no NaN, and a level between 0 and 1")
    random, means = np.random.default_rng(seed), np.zeros(draws)
    names = np.unique(cells)
    for cell in names:
        # How often each distinct value is drawn: the same as drawing recordings, and much faster.
        distinct, counts = np.unique(values[cells == cell], return_counts=True)
        drawn = random.multinomial(counts.sum(), counts / counts.sum(), size=draws)
        means += drawn @ distinct / counts.sum() / len(names)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
