"""From clips to recordings: pooling, votes, thresholds and the worth of probabilities, computed in other ways."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn import calibration, metrics

from course_lib import evaluation
from course_lib.evaluation import abstention, balanced_interval, best_threshold, group_prior, pooled, ranking, vote


def two_columns(abnormal: list[float], names: str) -> pd.DataFrame:
    return pd.DataFrame({0: 1 - np.array(abnormal), 1: abnormal}, index=list(names))


def test_the_pooled_log_odds_are_the_mean_log_odds() -> None:
    found = pooled(two_columns([0.9, 0.2, 0.6, 0.7], "bbba"))
    odds = np.mean(scipy.special.logit([0.9, 0.2, 0.6]))
    assert found.index.tolist() == ["b", "a"]
    assert found[1].tolist() == pytest.approx([scipy.special.expit(odds), 0.7])
    assert found.sum(axis=1).tolist() == pytest.approx([1, 1])


def test_one_sure_clip_does_not_outweigh_everything() -> None:
    found = pooled(two_columns([1.0, 0.0, 0.0, 0.5], "aaab"))
    assert 0 < found[1]["a"] < 0.5 == found[1]["b"]


@given(st.lists(st.lists(st.floats(1e-3, 1), min_size=3, max_size=3), min_size=1, max_size=5))
def test_a_recording_of_equal_clips_is_that_clip(rows: list[list[float]]) -> None:
    clips = pd.DataFrame(rows).div(np.sum(rows, axis=1), axis=0)
    clips.index = clips.index.astype(str)
    np.testing.assert_allclose(pooled(pd.concat([clips, clips])), clips, rtol=1e-6)


def test_a_vote_counts_clips_and_a_half_is_for_abnormal() -> None:
    votes = vote(two_columns([0.5, 0.49, 0.9, 0.1, 0.1, 0.6], "aabbbc"))
    assert votes.to_dict() == pytest.approx({"a": 0.5, "b": 1 / 3, "c": 1.0})


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 19)), min_size=2, max_size=25))
def test_no_threshold_has_a_higher_macc(pairs: list[tuple[bool, int]]) -> None:
    labels = np.array([label for label, _ in pairs]).astype(int)
    probabilities = np.array([step for _, step in pairs]) / 20
    threshold = best_threshold(labels, probabilities)
    assert 0 < threshold < 1
    if labels.min() == labels.max():
        assert threshold == 0.5
        return

    def macc(cut: float) -> float:
        right = (probabilities >= cut) == labels
        return (right[labels == 0].mean() + right[labels == 1].mean()) / 2

    inner = [cut for cut in np.arange(1.5, 19) / 20 if probabilities.min() < cut < probabilities.max()]
    assert macc(threshold) == pytest.approx(max(map(macc, [0.5, *inner])))


def test_the_threshold_is_in_the_middle_of_a_gap_and_near_a_half() -> None:
    odds = scipy.special.logit([0.1, 0.2, 0.9, 0.95])
    middle = scipy.special.expit((odds[1] + odds[2]) / 2)
    assert best_threshold([0, 0, 1, 1], [0.1, 0.2, 0.9, 0.95]) in (0.5, pytest.approx(middle))
    assert best_threshold([0, 1, 0, 1], [0.8, 0.85, 0.9, 0.95]) == pytest.approx(
        scipy.special.expit(scipy.special.logit([0.8, 0.85]).mean())
    )


def test_probabilities_are_ranked_and_calibrated_as_scikit_learn_says() -> None:
    random = np.random.default_rng(0)
    probabilities = random.random(2000)
    labels = (random.random(2000) < probabilities**2).astype(int)
    found = ranking(labels, probabilities)
    order = scipy.stats.rankdata(probabilities)[labels == 1].sum()
    ones = labels.sum()
    assert found["roc_auc"] == pytest.approx((order - ones * (ones + 1) / 2) / (ones * (2000 - ones)))
    assert found["average_precision"] == pytest.approx(metrics.average_precision_score(labels, probabilities))
    assert found["brier"] == pytest.approx(np.mean((labels - probabilities) ** 2))
    observed, said = calibration.calibration_curve(labels, probabilities, n_bins=10)
    share = np.histogram(probabilities, 10, (0, 1))[0] / 2000
    assert found["calibration_error"] == pytest.approx(np.sum(share * np.abs(observed - said)))
    assert ranking([0, 1], [0.0, 1.0])["calibration_error"] == 0


def test_abstention_leaves_the_doubtful_ones_out_first() -> None:
    table = abstention([1, 0, 1, 0, 1], [4.6, -4.6, -0.8, -0.2, 2.2], steps=5)
    assert table["coverage"].tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert table["accuracy"].tolist() == pytest.approx([1, 1, 1, 3 / 4, 4 / 5])
    assert np.isnan(table["macc"][0]) and table["macc"][4] == pytest.approx((2 / 3 + 1) / 2)
    assert abstention([0, 1], [0.0, 0.1], steps=2)["accuracy"].tolist() == [1, 1 / 2]


def test_rightness_is_the_share_of_runs_that_called_a_recording_right() -> None:
    about = pd.DataFrame({"label": [0, 1], "group": ["a", "b"]}, index=["one", "two"])
    runs = [about.assign(predicted=predicted) for predicted in ([0, 0], [0, 1], [1, 1], [0, 1])]
    found = evaluation.rightness(iter(runs))
    assert found["right"].to_dict() == {"one": 0.75, "two": 0.75}
    pd.testing.assert_frame_equal(found[["label", "group"]], about)
    assert list(evaluation.rightness([]).columns) == ["label", "group", "right"]


def test_the_group_prior_is_the_share_in_the_group_or_among_all() -> None:
    prior = group_prior([1, 1, 0, 0, 0, 0], list("aaabbb"), 2)
    assert prior(["b", "a", "x", "a"])[1].tolist() == pytest.approx([0, 2 / 3, 1 / 3, 2 / 3])
    assert group_prior([0, 0], ["a", "a"], 3)(["a"]).to_numpy().tolist() == [[1, 0, 0]]


def test_the_interval_of_macc_is_that_of_two_independent_shares() -> None:
    right, labels = np.repeat([1.0, 0.0, 1.0, 0.0], [160, 40, 45, 5]), np.repeat([0, 1], [200, 50])
    low, high = balanced_interval(right, labels)
    spread = np.sqrt(0.8 * 0.2 / 200 + 0.9 * 0.1 / 50) / 2
    assert (low, high) == pytest.approx((0.85 - 1.96 * spread, 0.85 + 1.96 * spread), abs=0.006)


def test_the_interval_is_that_of_drawing_recordings_class_by_class() -> None:
    random = np.random.default_rng(1)
    values, cells = random.integers(0, 4, 60) / 3, random.integers(0, 3, 60)
    drawn = [random.choice(part, (4000, len(part))).mean(axis=1) for part in (values[cells == i] for i in range(3))]
    means = np.mean(drawn, axis=0)
    assert balanced_interval(values, cells) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.012)


@pytest.mark.parametrize("values", [[], [np.nan, 1.0]])
def test_an_interval_of_nothing_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one value, no NaN"):
        balanced_interval(values, [0] * len(values))


def test_macc_of_scores_is_balanced_accuracy() -> None:
    labels, predicted = np.array([0, 0, 0, 1, 1]), np.array([0, 1, 0, 1, 1])
    found = evaluation.scores(labels, predicted, 2)["macc"]
    assert found == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))
