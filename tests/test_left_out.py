"""Known and left-out groups side by side, and rules for the threshold, on a few recordings counted by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from course_lib.evaluation import mean_of_groups, paired_difference, scores_by_rule, seen_and_unseen, t_interval, wilson


def decided(rows: list[tuple[str, str, int, float]], threshold: float = 0.5) -> pd.DataFrame:
    """A table of decisions from recording, group, label and probability."""
    table = pd.DataFrame(rows, columns=["recording", "group", "label", "probability"]).set_index("recording")
    return table.assign(predicted=(table["probability"] >= threshold).astype(int))


def of(group: str, negative: list[float], positive: list[float], threshold: float = 0.5) -> pd.DataFrame:
    values = [(0, value) for value in negative] + [(1, value) for value in positive]
    rows = [(f"{group}{number}", group, label, value) for number, (label, value) in enumerate(values)]
    return decided(rows, threshold)


# Rules


def test_four_rules_for_the_threshold_of_a_group_that_was_left_out() -> None:
    large = of("large", [0.1] * 20, [0.3] * 20)  # the best pooled threshold is low
    small = of("small", [0.4, 0.4], [0.9, 0.6])
    new = of("new", [0.3, 0.35, 0.6, 0.7], [0.65, 0.8, 0.9])
    table = scores_by_rule([(pd.concat([large, small]), new)])
    assert table.index.tolist() == ["new"]
    # from 0.18: all are positive; 0.5 and the mean of groups: two of four negative ones; the median is 0.65 itself
    assert table.loc["new"].tolist() == pytest.approx([0.5, 0.75, 0.75, (3 / 4 + 2 / 3) / 2, 11 / 12])


def test_seeds_are_averaged_and_a_group_with_one_class_has_no_score() -> None:
    held_out = of("known", [0.1], [0.9])
    first, second = of("new", [0.2], [0.8]), of("new", [0.8], [0.2])
    table = scores_by_rule([(held_out, first), (held_out, second), (held_out, of("odd", [0.1], []))])
    assert table.loc["new", "one half"] == 0.5 == table.loc["new", "area under ROC"]
    assert table.loc["odd"].isna().all()


def test_the_mean_of_groups_has_the_interval_of_student() -> None:
    scores = pd.DataFrame({"score": [0.5, 0.6, 0.8, np.nan], "alone": [0.7, np.nan, np.nan, np.nan]})
    means = mean_of_groups(scores)
    assert means.loc["score"].tolist() == pytest.approx([1.9 / 3, *t_interval([0.5, 0.6, 0.8])])
    assert means.loc["alone", "mean"] == 0.7 and means.loc["alone", ["low", "high"]].isna().all()


# The gap

SEEN = [
    pd.concat([of("a", [0.1, 0.6], [0.7, 0.8]), of("b", [0.1, 0.2], [0.9, 0.3])]),
    pd.concat([of("c", [0.0, 0.1, 0.1], [0.9, 0.9])]),
]
UNSEEN = [of("a", [0.1, 0.2, 0.9], [0.4, 0.8]), of("b", [0.4, 0.6], [0.5, 0.3]), of("c", [0.6, 0.7, 0.2], [0.1, 0.3])]


def test_each_group_has_one_metric_on_both_sides() -> None:
    table = seen_and_unseen(SEEN, UNSEEN)
    assert table.index.tolist() == ["a", "b", "c", "mean of groups", "mean without", "all recordings", "all without"]
    assert table["seen"][:3].tolist() == pytest.approx([3 / 4, 3 / 4, 1])
    assert table["unseen"][:3].tolist() == pytest.approx([(2 / 3 + 1 / 2) / 2, 1 / 2, 1 / 6])
    assert table["seen_auc"][:3].tolist() == pytest.approx([1, 1, 1])
    assert table["unseen_auc"][:3].tolist() == pytest.approx([4 / 6, 1 / 4, 1 / 6])
    assert table[["seen_recordings", "unseen_recordings"]][:4].to_numpy().tolist() == [[4, 5], [4, 4], [5, 5], [13, 14]]
    assert table.loc["a", ["seen_low", "seen_high"]].tolist() == pytest.approx(wilson(3 / 4, 4))
    np.testing.assert_allclose(table["difference"], table["unseen"] - table["seen"])


def test_the_mean_and_its_interval_are_over_groups_and_leave_a_confounded_one_out() -> None:
    table = seen_and_unseen(SEEN, UNSEEN, confounded=["c"])
    means = table.loc["mean of groups"]
    assert means["seen"] == pytest.approx(table.loc[["a", "b", "c"], "seen"].mean())
    gain = table.loc[["a", "b", "c"], "difference"]
    assert means[["difference_low", "difference_high"]].tolist() == pytest.approx(t_interval(gain))
    mean, interval = paired_difference(table["seen"][:2], table["unseen"][:2], groups=["a", "b"])
    without = table.loc["mean without"]
    assert without[["difference", "difference_low", "difference_high"]].tolist() == pytest.approx([mean, *interval])
    assert without["seen_recordings"] == 8


def test_the_rows_of_a_confounded_group_show_that_one_class_is_guessed() -> None:
    table = seen_and_unseen(SEEN, UNSEEN, confounded=["c"])
    assert table.loc["c, class 0", ["seen", "unseen"]].tolist() == pytest.approx([1, 1 / 3])
    assert table.loc["c, class 1", ["seen", "unseen"]].tolist() == pytest.approx([1, 0])
    assert table.loc["c, class 1", ["seen_auc", "unseen_auc"]].isna().all()
    assert table.loc["c", "unseen"] == pytest.approx((1 / 3 + 0) / 2)


def test_recordings_together_are_pooled_and_pairs_of_two_networks_are_not_ranked() -> None:
    table = seen_and_unseen(SEEN, UNSEEN, confounded=["c"])
    every = table.loc["all recordings"]
    assert every["seen"] == pytest.approx((6 / 7 + 5 / 6) / 2)
    assert every["unseen"] == pytest.approx((4 / 8 + 2 / 6) / 2)  # 0.5 is positive
    assert table.loc["all without", "unseen"] == pytest.approx((3 / 5 + 2 / 4) / 2)
    assert np.isnan(every["unseen_auc"]), "each network was tested on one group"
    pairs = [(p > n) + (p == n) / 2 for p in (0.7, 0.8, 0.9, 0.3) for n in (0.1, 0.6, 0.1, 0.2)]
    assert table.loc["all without", "seen_auc"] == pytest.approx(np.mean(pairs))


def test_seeds_do_not_count_as_more_recordings() -> None:
    once, twice = seen_and_unseen(SEEN, UNSEEN), seen_and_unseen(SEEN * 2, UNSEEN * 2)
    pd.testing.assert_frame_equal(once, twice)
