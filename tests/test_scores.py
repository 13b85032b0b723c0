"""Scores of predicted classes against scikit-learn and counts by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn import calibration, metrics

from course_lib.evaluation import confusion_matrix, ranking, roc_auc, scores, scores_of_confusion

CLASSES = 4
labelled = st.lists(st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), min_size=1, max_size=30)
binary = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30)


@given(labelled)
def test_scores_of_several_classes_agree_with_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = zip(*pairs, strict=True)
    recalls = [np.mean([p == name for t, p in pairs if t == name]) for name in set(labels)]
    present = sorted({*labels, *predicted})
    assert scores(labels, predicted, CLASSES) == {
        "balanced_accuracy": pytest.approx(np.mean(recalls)),
        "accuracy": pytest.approx(metrics.accuracy_score(labels, predicted)),
        "macro_f1": pytest.approx(metrics.f1_score(labels, predicted, labels=present, average="macro")),
    }


@given(labelled)
def test_the_confusion_matrix_has_a_row_for_each_true_class(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = zip(*pairs, strict=True)
    found = confusion_matrix(labels, predicted, CLASSES)
    assert found.tolist() == [[pairs.count((true, said)) for said in range(CLASSES)] for true in range(CLASSES)]
    assert scores_of_confusion(found) == scores(labels, predicted, CLASSES)


def test_scores_of_two_classes_counted_by_hand() -> None:
    labels = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    predicted = [1, 1, 0, 0, 1, 0, 0, 0, 0, 0]
    assert scores(labels, predicted, 2) == pytest.approx(
        {
            "balanced_accuracy": (2 / 4 + 5 / 6) / 2,
            "accuracy": 7 / 10,
            "macro_f1": (4 / 7 + 10 / 13) / 2,
            "sensitivity": 2 / 4,
            "specificity": 5 / 6,
            "precision": 2 / 3,
            "f1": 4 / 7,
        }
    )


def test_the_area_under_the_roc_curve_is_the_share_of_pairs_in_the_right_order() -> None:
    labels, probabilities = [0, 1, 0, 1, 1], [0.2, 0.9, 0.5, 0.5, 0.1]
    pairs = [(q > p) + (q == p) / 2 for n, p in zip(labels, probabilities, strict=True) if n == 0
             for m, q in zip(labels, probabilities, strict=True) if m == 1]  # fmt: skip
    assert roc_auc(labels, probabilities) == pytest.approx(np.mean(pairs))
    assert math.isnan(roc_auc([1, 1], [0.1, 0.2]))


@given(binary)
def test_scores_of_two_classes_agree_with_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = zip(*pairs, strict=True)
    found = scores(labels, predicted, 2)
    expected = {
        "sensitivity": metrics.recall_score(labels, predicted, zero_division=np.nan),
        "specificity": metrics.recall_score(labels, predicted, pos_label=0, zero_division=np.nan),
        "precision": metrics.precision_score(labels, predicted, zero_division=np.nan),
        "f1": metrics.f1_score(labels, predicted, zero_division=np.nan),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, nan_ok=True)
    assert found["balanced_accuracy"] == pytest.approx(np.nanmean([found["sensitivity"], found["specificity"]]))


def test_a_score_without_a_denominator_is_nan() -> None:
    for labels, predicted, undefined in (
        ([0, 0], [0, 0], {"sensitivity", "precision", "f1"}),
        ([1, 1], [1, 0], {"specificity"}),
    ):
        found = scores(labels, predicted, 2)
        assert {name for name, value in found.items() if math.isnan(value)} == undefined


@pytest.mark.parametrize(("labels", "predicted"), [([], []), ([1], [1, 0]), ([1, 0], [])])
def test_labels_and_predictions_must_match(labels: list[int], predicted: list[int]) -> None:
    with pytest.raises(ValueError, match="as many predictions as labels"):
        scores(labels, predicted, 2)


@pytest.mark.parametrize(("labels", "predicted"), [([0, 2], [0, 1]), ([0, 1], [0, -1]), ([0, 1], [0, np.nan])])
def test_a_class_that_is_not_there_is_refused(labels: list[float], predicted: list[float]) -> None:
    for function in (scores, confusion_matrix):
        with pytest.raises(ValueError, match=r"outside 0 \.\. 1"):
            function(labels, predicted, 2)


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
    observed, stated = calibration.calibration_curve(labels, probabilities, n_bins=10)
    share = np.histogram(probabilities, 10, (0, 1))[0] / 2000
    assert found["calibration_error"] == pytest.approx(np.sum(share * np.abs(observed - stated)))
    assert ranking([0, 1], [0.0, 1.0])["calibration_error"] == 0
    with pytest.raises(ValueError, match="probabilities from 0 to 1"):
        ranking([0, 1], [0.0, np.nan])
