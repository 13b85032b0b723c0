"""Predictions, scores and intervals against other ways of computing them."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics
from test_training import fresh, tones
from torch import nn

from course_lib import evaluation
from course_lib.evaluation import confusion_matrix, interval, predict, scores
from course_lib.models import SpectrogramCNN

CLASSES = 4
labelled = st.lists(st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), min_size=1, max_size=30)
binary = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30)


@given(labelled)
def test_scores_agree_with_a_count_by_hand(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = zip(*pairs, strict=True)
    found = scores(labels, predicted, CLASSES)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predicted))
    f1 = []
    for name in range(CLASSES):
        true_positive = pairs.count((name, name))
        mentions = labels.count(name) + predicted.count(name)
        f1 += [2 * true_positive / mentions] if mentions else []
    assert found == {"accuracy": found["accuracy"], "macro_f1": pytest.approx(np.mean(f1))}


@given(labelled)
def test_the_confusion_matrix_has_a_row_for_each_true_class(pairs: list[tuple[int, int]]) -> None:
    found = confusion_matrix(*zip(*pairs, strict=True), CLASSES)
    assert found.tolist() == [[pairs.count((true, said)) for said in range(CLASSES)] for true in range(CLASSES)]


def test_binary_scores_of_a_case_counted_by_hand() -> None:
    labels = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    predicted = [1, 1, 0, 0, 1, 0, 0, 0, 0, 0]
    assert scores(labels, predicted, 2) == pytest.approx(
        {
            "accuracy": 7 / 10,
            "sensitivity": 2 / 4,
            "specificity": 5 / 6,
            "precision": 2 / 3,
            "f1": 4 / 7,
            "macc": (2 / 4 + 5 / 6) / 2,
        }
    )


@given(binary)
def test_binary_scores_agree_with_sklearn(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = zip(*pairs, strict=True)
    found = scores(labels, predicted, 2)
    expected = {
        "accuracy": metrics.accuracy_score(labels, predicted),
        "sensitivity": metrics.recall_score(labels, predicted, zero_division=np.nan),
        "specificity": metrics.recall_score(labels, predicted, pos_label=0, zero_division=np.nan),
        "precision": metrics.precision_score(labels, predicted, zero_division=np.nan),
        "f1": metrics.f1_score(labels, predicted, zero_division=np.nan),
    }
    expected["macc"] = (expected["sensitivity"] + expected["specificity"]) / 2
    assert found == pytest.approx(expected, nan_ok=True)


def test_a_score_without_a_denominator_is_nan() -> None:
    only_negative = scores([0, 0], [0, 0], 2)
    nan = {name for name, value in only_negative.items() if math.isnan(value)}
    assert nan == {"sensitivity", "precision", "f1", "macc"}
    assert only_negative["specificity"] == only_negative["accuracy"] == 1
    only_positive = scores([1, 1], [1, 0], 2)
    assert {name for name, value in only_positive.items() if math.isnan(value)} == {"specificity", "macc"}


@pytest.mark.parametrize(("labels", "predicted"), [([], []), ([1], [1, 0]), ([1, 0], [])])
def test_labels_and_predictions_must_match(labels: list[int], predicted: list[int]) -> None:
    with pytest.raises(ValueError, match="as many predictions as labels"):
        scores(labels, predicted, 2)


@pytest.mark.parametrize("training", [True, False])
def test_predictions_are_the_probabilities_of_a_model_in_evaluation_mode(training: bool) -> None:
    model, clips = fresh().train(training), tones(11)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = predict(model, clips, batch_size=4)
    assert model.training is training
    assert found.shape == (11, 2) and found.dtype == torch.float32 and not found.requires_grad
    torch.testing.assert_close(found.sum(dim=1), torch.ones(11))
    with torch.no_grad():
        expected = model.eval()(clips.batch(torch.arange(11))[0]).softmax(dim=1)
    torch.testing.assert_close(found, expected)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_predictions_do_not_depend_on_the_batch() -> None:
    model, clips = fresh(), tones(9)
    torch.testing.assert_close(predict(model, clips, batch_size=1), predict(model, clips))
    torch.testing.assert_close(predict(model, clips[3:5]), predict(model, clips)[3:5])


def test_no_clips_have_no_predictions() -> None:
    assert predict(nn.Sequential(nn.Linear(64, 3)), tones(4)[:0]).shape == (0, 3)


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=20), st.integers(1, 6))
def test_an_interval_lies_around_the_mean(values: list[float], groups: int) -> None:
    for which in (None, np.arange(len(values)) % groups):
        low, high = interval(values, which, draws=500)
        assert min(values) <= low <= np.mean(values) + 1e-12
        assert np.mean(values) - 1e-12 <= high <= max(values)


def test_an_interval_of_three_values_by_hand() -> None:
    means = sorted(np.mean(draw) for draw in product([0, 0, 1], repeat=3))  # 8 of 27 have 0, 1 of 27 has 1
    low, high = interval([0, 0, 1], level=0.9)
    assert (low, high) == (means[1], pytest.approx(means[24]))


def test_values_that_are_all_the_same_leave_no_doubt() -> None:
    assert interval([0.25] * 9) == (0.25, 0.25)
    assert interval([0.25] * 9, np.arange(9) % 3) == (0.25, 0.25)
    assert interval([1.0]) == (1.0, 1.0)
    assert interval([0, 1, 1, 1], ["one"] * 4) == (0.75, 0.75)


def test_errors_that_cluster_by_group_make_the_interval_wider() -> None:
    groups = np.repeat(np.arange(10), 20)
    values = (groups >= 3).astype(float)  # three of ten speakers are never understood
    plain, grouped = interval(values), interval(values, groups)
    assert grouped[0] < plain[0] < 0.7 < plain[1] < grouped[1]
    assert grouped[1] - grouped[0] > 3 * (plain[1] - plain[0])


def test_errors_that_do_not_cluster_leave_it_as_it_is() -> None:
    values = np.tile([0.0, 1.0, 1.0, 1.0], 50)
    low, high = interval(values)
    random = np.random.default_rng(0).permutation(200) // 2
    assert interval(values, random) == pytest.approx((low, high), abs=0.03)


def test_a_higher_level_is_wider_and_a_seed_repeats() -> None:
    values = np.random.default_rng(0).random(40)
    narrow, wide = interval(values, level=0.5), interval(values, level=0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert interval(values, seed=3) == interval(values, seed=3) != interval(values, seed=4)


def test_about_95_of_100_intervals_hold_the_truth() -> None:
    random, truth, hits = np.random.default_rng(0), 0.8, 0
    for _ in range(200):
        low, high = interval(random.random(100) < truth, draws=400)
        hits += low <= truth <= high
    assert 180 <= hits <= 199


def test_intervals_over_groups_hold_the_truth_where_plain_ones_do_not() -> None:
    random, truth, plain, grouped = np.random.default_rng(0), 0.7, 0, 0
    groups = np.repeat(np.arange(30), 12)
    for _ in range(60):
        speakers = random.beta(1.4, 0.6, 30)  # most speakers are nearly always understood, some nearly never
        values = random.random(360) < speakers[groups]
        low, high = interval(values, draws=300)
        plain += low <= truth <= high
        low, high = interval(values, groups, draws=300)
        grouped += low <= truth <= high
    assert plain < 48 < 51 <= grouped


@pytest.mark.parametrize(("values", "level"), [([], 0.95), ([1.0], 0.0), ([1.0], 1.0)])
def test_an_impossible_interval_is_refused(values: list[float], level: float) -> None:
    with pytest.raises(ValueError, match="at least one value and a level between 0 and 1"):
        interval(values, level=level)


def test_groups_must_be_as_many_as_values() -> None:
    with pytest.raises(ValueError, match="length"):
        interval([1.0, 0.0, 1.0], ["a", "b"])


def test_grad_cam_heats_the_images_and_leaves_the_model_alone() -> None:
    torch.manual_seed(0)
    model, waveforms = SpectrogramCNN(3).train(), torch.randn(4, 800)
    images, heat = evaluation.grad_cam(model, model.features[3], waveforms, torch.tensor([0, 1, 2, 0]))
    assert images.shape == heat.shape == (4, 64, 64)
    assert heat.min() >= 0 and heat.max() <= 1
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    torch.testing.assert_close(images, model.front_end(waveforms))
