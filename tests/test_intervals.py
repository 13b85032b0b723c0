"""Intervals against scipy, against formulas written out by hand, and against the share of times they hold the truth."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from course_lib.evaluation import (
    bootstrap,
    clopper_pearson,
    interval,
    interval_of_cells,
    mean_of_cells,
    paired_difference,
    t_interval,
    wilson,
)

counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
marks = st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 2)), min_size=2, max_size=30)


# Proportions


@given(counts, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_proportions_have_the_intervals_of_scipy(count: tuple[int, int], level: float) -> None:
    right, n = count
    expected, ours = scipy.stats.binomtest(right, n).proportion_ci(level, "wilson"), wilson(right / n, n, level)
    assert ours == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= ours.low <= right / n <= ours.high <= 1
    values = [1.0] * right + [0.0] * (n - right)
    assert interval(values, level=level) == pytest.approx(wilson(right / n, n, level))


@given(counts)
def test_a_proportion_and_its_complement_have_mirrored_intervals(count: tuple[int, int]) -> None:
    right, n = count
    one, other = wilson(right / n, n), wilson((n - right) / n, n)
    assert one == pytest.approx((1 - other.high, 1 - other.low), abs=1e-9)


@given(counts)
def test_ten_times_the_recordings_leave_less_doubt_and_a_higher_level_more(count: tuple[int, int]) -> None:
    right, n = count
    few, many, sure = wilson(right / n, n), wilson(right / n, 10 * n), wilson(right / n, n, 0.99)
    assert many.high - many.low < few.high - few.low < sure.high - sure.low


def test_about_95_of_100_intervals_hold_the_truth() -> None:
    for n, truth in ((30, 0.8), (60, 0.95)):
        shares = scipy.stats.binom.pmf(np.arange(n + 1), n, truth)
        holds = [low <= truth <= high for low, high in (wilson(k / n, n) for k in range(n + 1))]
        assert 0.92 <= shares @ np.array(holds) <= 0.98


# Balanced accuracy


def test_cells_of_one_size_count_like_one_proportion_and_others_by_their_effective_size() -> None:
    assert interval_of_cells([0.8, 0.6], [50, 50]) == pytest.approx(wilson(0.7, 100))
    # The mean of two independent proportions has a quarter of the sum of their variances: n = 4 / (1 / 200 + 1 / 50).
    assert interval_of_cells([0.8, 0.6], [200, 50]) == pytest.approx(wilson(0.7, 160))
    right, labels = np.repeat([1.0, 0.0, 1.0, 0.0], [160, 40, 45, 5]), np.repeat([0, 1], [200, 50])
    assert interval(right, labels) == pytest.approx(wilson(0.85, 160))
    spread = np.sqrt(0.8 * 0.2 / 200 + 0.9 * 0.1 / 50) / 2
    assert interval(right, labels) == pytest.approx((0.85 - 1.96 * spread, 0.85 + 1.96 * spread), abs=0.02)


def test_intervals_of_balanced_accuracy_hold_the_truth() -> None:
    random, hits = np.random.default_rng(0), 0
    for _ in range(500):
        parts = [random.random(150) < 0.9, random.random(40) < 0.7]
        low, high = interval(np.concatenate(parts), np.repeat([0, 1], [150, 40]))
        hits += low <= 0.8 <= high
    assert 460 <= hits <= 497


@given(marks, st.randoms(use_true_random=False))
def test_intervals_lie_around_the_mean_within_0_and_1_and_do_not_depend_on_the_order(pairs, random) -> None:
    values, cells = map(np.array, zip(*pairs, strict=True))
    order = list(range(len(values)))
    random.shuffle(order)
    ways = [{}, {"cells": cells}]
    if len(set(cells)) > 1:
        ways += [{"groups": cells}, {"groups": cells, "cells": np.arange(len(cells)) % 2}]
    for way in ways:
        low, high = interval(values, **way)
        shuffled = interval(values[order], **{name: marks[order] for name, marks in way.items()})
        assert shuffled == pytest.approx((low, high))
        if "groups" not in way:
            mean = mean_of_cells(values, way.get("cells", np.zeros(len(values))))
            assert 0 <= low <= mean + 1e-12 and mean - 1e-12 <= high <= 1
    assert bootstrap(values, draws=200) == pytest.approx(bootstrap(np.sort(values), draws=200))


# Groups


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_few_groups_have_the_interval_of_a_t_test(level: float) -> None:
    random = np.random.default_rng(0)
    scores = random.uniform(0.3, 0.9, 6)
    expected = scipy.stats.ttest_1samp(scores, 0).confidence_interval(level)
    assert t_interval(scores, level) == pytest.approx(tuple(expected))
    groups, values = np.repeat(np.arange(6), 10), np.repeat(scores, 10)
    assert interval(values, groups=groups, level=level) == pytest.approx(tuple(expected))
    reach = scipy.stats.t.ppf((1 + level) / 2, 5) * np.std(scores, ddof=1) / np.sqrt(6)
    assert t_interval(scores, level) == pytest.approx((scores.mean() - reach, scores.mean() + reach))


def test_the_score_of_a_group_is_the_mean_of_its_cells_means() -> None:
    values = [1, 1, 1, 0, 0, 1, 1, 0]
    cells = [0, 0, 0, 1, 0, 0, 1, 1]
    groups = ["a", "a", "a", "a", "b", "b", "b", "b"]
    assert interval(values, cells, groups) == t_interval([1 / 2, 1 / 2])
    assert interval(values, groups=groups) == pytest.approx((0, 1))  # 3 / 4 and 2 / 4, and no fraction is beyond 0 or 1


def test_intervals_over_six_groups_hold_the_truth_where_plain_ones_do_not() -> None:
    random, truth, plain, grouped = np.random.default_rng(0), 0.7, 0, 0
    groups = np.repeat(np.arange(6), 40)
    for _ in range(300):
        speakers = random.beta(2.8, 1.2, 6)  # some speakers are nearly always understood, some seldom
        values = random.random(240) < speakers[groups]
        low, high = interval(values)
        plain += low <= truth <= high
        low, high = interval(values, groups=groups)
        grouped += low <= truth <= high
    assert plain < 200 < 270 <= grouped


def test_many_groups_are_drawn_anew_as_wholes() -> None:
    random = np.random.default_rng(1)
    groups = np.repeat(np.arange(30), random.integers(1, 6, 30))
    values = random.integers(0, 2, len(groups)).astype(float)
    means = []
    for _ in range(4000):
        drawn = [values[groups == group] for group in random.integers(0, 30, 30)]
        means.append(np.concatenate(drawn).mean())
    assert interval(values, groups=groups) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.02)
    clustered = (groups >= 9).astype(float)
    assert np.diff(interval(clustered, groups=groups)) > 1.5 * np.diff(interval(clustered))


def test_many_groups_of_unequal_classes_have_an_interval_of_balanced_accuracy() -> None:
    groups, cells = np.repeat(np.arange(40), 10), np.tile([1, 0, 0, 0, 0, 0, 0, 0, 0, 0], 40)
    low, high = interval(1.0 - cells, cells, groups)  # class 0 is always right, class 1 never
    assert (low, high) == pytest.approx((0.5, 0.5))


# The bootstrap


def test_the_bootstrap_of_three_values_by_hand() -> None:
    means = sorted(np.mean(draw) for draw in product([0, 0, 1], repeat=3))  # 8 of 27 are 0, 1 of 27 is 1
    assert bootstrap([0, 0, 1], level=0.9) == pytest.approx((means[1], means[24]))
    assert bootstrap([-3.0] * 9) == (-3.0, -3.0)
    assert bootstrap([0, 1, 1, 1], ["one"] * 4) == (0.75, 0.75)


def test_the_bootstrap_agrees_with_scipy_and_repeats_with_its_seed() -> None:
    values = np.random.default_rng(0).normal(10, 3, 50)
    expected = scipy.stats.bootstrap([values], np.mean, method="percentile", rng=0).confidence_interval
    assert bootstrap(values) == pytest.approx((expected.low, expected.high), abs=0.15)
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3) != bootstrap(values, seed=4)
    weights = np.random.default_rng(1).integers(1, 4, 50)
    repeated = bootstrap(np.repeat(values, weights), np.repeat(np.arange(50), weights))
    assert bootstrap(values, weights=weights) == pytest.approx(repeated)


# Differences


def test_a_paired_difference_has_the_interval_of_a_paired_test() -> None:
    random = np.random.default_rng(0)
    first, second = random.random(400), random.random(400) + 0.1
    mean, found = paired_difference(first, second)
    expected = scipy.stats.ttest_rel(second, first).confidence_interval(0.95)
    assert mean == pytest.approx(np.mean(second - first))
    assert found == pytest.approx((expected.low, expected.high), abs=1e-3)  # normal, and t with 399 degrees
    groups = np.repeat(np.arange(8), 50)
    over_groups = [np.mean((second - first)[groups == group]) for group in range(8)]
    assert paired_difference(first, second, groups=groups)[1] == pytest.approx(t_interval(over_groups))


def test_a_paired_difference_of_balanced_accuracy_averages_the_classes() -> None:
    classes = np.repeat([0, 1], [80, 20])
    first, second = np.zeros(100), np.where(classes == 1, np.arange(100) % 2, 0.0)
    mean, (low, high) = paired_difference(first, second, classes)
    error = np.sqrt(np.var(second[80:], ddof=1) / 20) / 2
    assert mean == pytest.approx(0.25)
    assert (low, high) == pytest.approx((0.25 - 1.96 * error, 0.25 + 1.96 * error), abs=1e-4)
    mirrored, (below, above) = paired_difference(second, first, classes)
    assert (mirrored, below, above) == pytest.approx((-mean, -high, -low))


# What is refused


@pytest.mark.parametrize(("values", "level"), [([], 0.95), ([1.0], 0.0), ([1.0], 1.0), ([np.nan, 1.0], 0.95)])
def test_an_impossible_interval_is_refused(values: list[float], level: float) -> None:
    for function in (interval, t_interval, bootstrap, lambda v, level: paired_difference(v, v, level=level)):
        with pytest.raises(ValueError, match="at least one value, no NaN, and a level between 0 and 1"):
            function(values, level=level)


def test_one_group_and_marks_of_another_length_and_other_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two"):
        interval([1.0, 0.0], groups=["a", "a"])
    for way in ({"groups": ["a", "b"]}, {"cells": [1, 0]}, {"cells": [1, 0, 1, 0]}):
        with pytest.raises(ValueError, match="3 values need as many"):
            interval([1.0, 0.0, 1.0], **way)
        with pytest.raises(ValueError, match="3 values need as many"):
            paired_difference([1.0, 0.0, 1.0], [1.0, 0.0, 1.0], **way)
    with pytest.raises(ValueError, match="3 values need as many"):
        paired_difference([1.0, 0.0, 1.0], [1.0])
    with pytest.raises(ValueError, match="not fractions; use bootstrap"):
        interval([20.0, 30.0])


@pytest.mark.parametrize(("right", "n"), [(0, 10), (7, 10), (10, 10), (131, 146)])
def test_the_exact_interval_leaves_half_of_what_is_left_in_each_tail(right: int, n: int) -> None:
    low, high = clopper_pearson(right, n)
    if right:
        assert scipy.stats.binom.sf(right - 1, n, low) == pytest.approx(0.025)
    if right < n:
        assert scipy.stats.binom.cdf(right, n, high) == pytest.approx(0.025)
    assert low <= right / n <= high
    with pytest.raises(ValueError, match="not a proportion"):
        clopper_pearson(n + 1, n)
