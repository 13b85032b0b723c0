"""From clips to recordings: pooling, votes, thresholds and priors, computed in other ways."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from course_lib import evaluation
from course_lib.evaluation import (
    EvaluationError,
    abstention,
    best_threshold,
    clip_accuracy,
    decide,
    group_prior,
    pool_clips,
    pool_members,
)


def two_columns(positive: list[float], names: str) -> pd.DataFrame:
    return pd.DataFrame({0: 1 - np.array(positive), 1: positive}, index=list(names))


# Pooling


def test_the_pooled_log_odds_are_the_mean_log_odds() -> None:
    pooled = pool_clips(two_columns([0.9, 0.2, 0.6, 0.7], "bbba"))
    odds = np.mean(scipy.special.logit([0.9, 0.2, 0.6]))
    assert pooled.index.tolist() == ["b", "a"]
    assert pooled[1].tolist() == pytest.approx([scipy.special.expit(odds), 0.7])
    assert pooled.sum(axis=1).tolist() == pytest.approx([1, 1])


def test_one_sure_clip_does_not_outweigh_everything() -> None:
    pooled = pool_clips(two_columns([1.0, 0.0, 0.0, 0.5], "aaab"))
    assert 0 < pooled[1]["a"] < 0.5 == pooled[1]["b"]


@given(st.lists(st.lists(st.floats(1e-3, 1), min_size=3, max_size=3), min_size=1, max_size=5))
def test_a_recording_of_equal_clips_is_that_clip(rows: list[list[float]]) -> None:
    clips = pd.DataFrame(rows).div(np.sum(rows, axis=1), axis=0)
    clips.index = clips.index.astype(str)
    np.testing.assert_allclose(pool_clips(pd.concat([clips, clips])), clips, rtol=1e-6)


def test_members_with_other_clips_are_pooled_over_the_recordings_that_all_have() -> None:
    one, other = two_columns([0.9, 0.5, 0.3], "aab"), two_columns([0.2, 0.6], "ca")
    pooled = pool_members([one, other])
    odds = (np.mean(scipy.special.logit([0.9, 0.5])) + scipy.special.logit(0.6)) / 2
    assert pooled.index.tolist() == ["a"] and pooled.loc["a", 1] == pytest.approx(scipy.special.expit(odds))
    pd.testing.assert_frame_equal(pool_members([other, one]), pooled)
    pd.testing.assert_frame_equal(pool_members([one]), pool_clips(one), check_names=False)


# Decisions


def test_two_classes_are_decided_by_the_threshold_or_by_the_vote() -> None:
    clips = two_columns([0.6, 0.45, 0.7, 0.1, 0.1], "aabbb")
    pooled = decide(clips)
    assert pooled["clips"].to_dict() == {"a": 2, "b": 3}
    assert pooled["vote"].tolist() == pytest.approx([1 / 2, 1 / 3])
    probability = scipy.special.expit(np.mean(scipy.special.logit([0.6, 0.45])))
    assert pooled.loc["a", "probability"] == pytest.approx(probability) == pooled.loc["a", "confidence"]
    assert pooled["predicted"].tolist() == [1, 0]
    assert pooled.loc["b", "confidence"] == pytest.approx(1 - pooled.loc["b", "probability"])
    stricter = decide(clips, threshold=0.6)
    assert stricter["predicted"].tolist() == [0, 0]
    margin = scipy.special.logit(probability) - scipy.special.logit(0.6)
    assert stricter.loc["a", "margin"] == pytest.approx(margin)
    assert decide(clips, "vote", threshold=0.99)["predicted"].tolist() == [1, 0]  # half of the clips are enough


def test_several_classes_are_decided_by_the_largest_probability_or_by_the_most_votes() -> None:
    clips = pd.DataFrame([[0.4, 0.3, 0.3], [0.4, 0.3, 0.3], [0.01, 0.5, 0.49]], index=["a"] * 3)
    pooled, voted = decide(clips), decide(clips, "vote")
    assert (pooled.loc["a", "predicted"], voted.loc["a", "predicted"]) == (1, 0)
    means = np.exp(np.log(clips).mean())
    assert pooled.loc["a", "confidence"] == pytest.approx(means[1] / means.sum())
    assert voted.loc["a", "confidence"] == pytest.approx(means[0] / means.sum())
    assert list(pooled.columns) == ["clips", "predicted", "confidence"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), min_size=1, max_size=12))
def test_a_vote_is_for_the_commonest_class(votes: list[tuple[str, int]]) -> None:
    names, classes = zip(*votes, strict=True)
    decided = decide(pd.DataFrame(np.eye(4)[list(classes)], index=list(names)), "vote")
    for name in decided.index:
        counts = np.bincount([c for n, c in votes if n == name], minlength=4)
        assert counts[decided.loc[name, "predicted"]] == counts.max()


def test_a_half_is_for_class_1_everywhere() -> None:
    half = two_columns([0.5], "a")
    assert decide(half)["predicted"].tolist() == decide(half, "vote")["predicted"].tolist() == [1]
    assert decide(two_columns([0.1, 0.9], "aa"), "vote").loc["a", ["predicted", "margin"]].tolist() == [1, 0]
    assert clip_accuracy(half, pd.Series({"a": 1})).tolist() == [1]


def test_the_clips_of_a_recording_that_are_right() -> None:
    clips = two_columns([0.5, 0.49, 0.9, 0.1], "aabb")
    labels = pd.Series({"b": 0, "a": 1, "c": 1})
    assert clip_accuracy(clips, labels).to_dict() == {"a": 0.5, "b": 0.5}
    several = pd.DataFrame(np.eye(3)[[0, 2, 2]], index=list("aba"))
    assert clip_accuracy(several, pd.Series({"a": 2, "b": 2})).to_dict() == {"a": 0.5, "b": 1.0}


# Thresholds


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 19)), min_size=2, max_size=25))
def test_no_threshold_has_a_higher_balanced_accuracy(pairs: list[tuple[bool, int]]) -> None:
    labels = np.array([label for label, _ in pairs]).astype(int)
    probabilities = np.array([step for _, step in pairs]) / 20
    threshold = best_threshold(labels, probabilities)
    assert 0 < threshold < 1
    if labels.min() == labels.max():
        assert threshold == 0.5
        return

    def balanced(cut: float) -> float:
        right = (probabilities >= cut) == labels
        return (right[labels == 0].mean() + right[labels == 1].mean()) / 2

    inner = [cut for cut in np.arange(1.5, 19) / 20 if probabilities.min() < cut < probabilities.max()]
    assert balanced(threshold) == pytest.approx(max(map(balanced, [0.5, *inner])))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(1, 19)), min_size=2, max_size=25))
def test_no_threshold_has_a_higher_mean_over_the_groups(rows: list[tuple[str, bool, int]]) -> None:
    table = pd.DataFrame(rows, columns=["group", "label", "probability"])
    table["probability"] /= 20
    both = table.groupby("group")["label"].transform("nunique") == 2
    threshold = best_threshold(table["label"].astype(int), table["probability"], table["group"])
    if not both.any():
        assert threshold == 0.5
        return

    def mean(cut: float) -> float:
        right = ((table["probability"] >= cut) == table["label"])[both]
        return right.groupby([table["group"], table["label"]]).mean().groupby("group").mean().mean()

    inner = [cut for cut in np.arange(1.5, 19) / 20 if table["probability"].min() < cut < table["probability"].max()]
    assert mean(threshold) == pytest.approx(max(map(mean, [0.5, *inner])))


def test_a_large_group_moves_the_threshold_no_more_than_a_small_one() -> None:
    labels, probabilities = [0, 1] * 20 + [0, 1] * 2, [0.1, 0.3] * 20 + [0.4, 0.9, 0.4, 0.6]
    groups = ["large"] * 40 + ["small"] * 4
    assert best_threshold(labels, probabilities) < 0.3
    assert best_threshold(labels, probabilities, groups) == 0.5, "as good as the other one on the mean, and a half"
    small = [group == "small" for group in groups]
    alone = best_threshold(np.array(labels)[small], np.array(probabilities)[small])
    assert best_threshold(labels + [0] * 99, probabilities + [0.99] * 99, groups + ["normals"] * 99) == alone


def test_the_threshold_is_in_the_middle_of_a_gap_and_near_a_half() -> None:
    odds = scipy.special.logit([0.1, 0.2, 0.9, 0.95])
    middle = scipy.special.expit((odds[1] + odds[2]) / 2)
    assert best_threshold([0, 0, 1, 1], [0.1, 0.2, 0.9, 0.95]) in (0.5, pytest.approx(middle))
    assert best_threshold([0, 1, 0, 1], [0.8, 0.85, 0.9, 0.95]) == pytest.approx(
        scipy.special.expit(scipy.special.logit([0.8, 0.85]).mean())
    )


def test_abstention_leaves_the_doubtful_ones_out_first() -> None:
    table = abstention([1, 0, 1, 0, 1], [4.6, -4.6, -0.8, -0.2, 2.2], steps=5)
    assert table["coverage"].tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert table["accuracy"].tolist() == pytest.approx([1, 1, 1, 3 / 4, 4 / 5])
    balanced = table["balanced_accuracy"]
    assert np.isnan(balanced[0]) and balanced[4] == pytest.approx((2 / 3 + 1) / 2)
    assert abstention([0, 1], [0.0, 0.1], steps=2)["accuracy"].tolist() == [1, 1 / 2]


# What is not a number


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "use",
    [
        decide,
        lambda clips: decide(clips, "vote"),
        pool_clips,
        lambda clips: pool_members([clips, clips]),
        lambda clips: clip_accuracy(clips, pd.Series({"a": 0, "b": 0})),
        lambda clips: best_threshold([0, 1, 0], clips[1]),
        lambda clips: abstention([0, 1, 0], clips[1] * np.nan),
    ],
    ids=["log-odds", "vote", "pool", "members", "clips", "threshold", "abstention"],
)
def test_nan_is_no_class(use: Callable[[pd.DataFrame], object], bad: float) -> None:
    with pytest.raises(EvaluationError, match="damaged"):
        use(two_columns([0.2, bad, 0.7], "aab"))
    three = pd.DataFrame([[0.2, 0.3, bad]], index=["a"])
    with pytest.raises(EvaluationError, match="of a are not finite"):
        decide(three)


@pytest.mark.parametrize("threshold", [np.nan, -0.1, 1.1])
def test_a_threshold_that_is_no_probability_and_an_unknown_rule_are_refused(threshold: float) -> None:
    clips = two_columns([0.2], "a")
    with pytest.raises(EvaluationError, match="a probability from 0 to 1"):
        decide(clips, threshold=threshold)
    with pytest.raises(EvaluationError, match="log_odds or vote, not 'mean'"):
        decide(clips, "mean")


# Several runs, and the group alone


def test_the_fraction_of_runs_in_which_a_recording_is_correct() -> None:
    about = pd.DataFrame({"label": [0, 1], "group": ["a", "b"]}, index=["one", "two"])
    runs = [about.assign(predicted=predicted) for predicted in ([0, 0], [0, 1], [1, 1], [0, 1])]
    found = evaluation.fraction_correct(iter(runs))
    assert found["correct"].to_dict() == {"one": 0.75, "two": 0.75}
    pd.testing.assert_frame_equal(found[["label", "group"]], about)
    assert list(evaluation.fraction_correct([]).columns) == ["label", "group", "correct"]


def test_the_group_prior_is_the_share_in_the_group_or_among_all() -> None:
    prior = group_prior([1, 1, 0, 0, 0, 0], list("aaabbb"), 2)
    assert prior(["b", "a", "x", "a"])[1].tolist() == pytest.approx([0, 2 / 3, 1 / 3, 2 / 3])
    assert group_prior([0, 0], ["a", "a"], 3)(["a"]).to_numpy().tolist() == [[1, 0, 0]]
