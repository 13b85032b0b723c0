"""The average cycle of a heart: what it shows, what cancels in it, and a logistic regression on it."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import torch
from torch import Tensor

from course_lib import datasets, evaluation, experiments
from course_lib.datasets import Recordings, physionet2016
from course_lib.datasets.stand_ins import heart_sounds
from course_lib.experiments import Logistic, RecipeError, baselines, recipes
from course_lib.layers import CycleBands

RATE = 2000
FORM = {
    "name": "mine/cycles",
    "title": "Cycles",
    "dataset": "physionet2016",
    "protocols": {"leave_one_device_out": 1, "published_lists": 1},
    "clip": {"seconds": 4, "hop_seconds": 4},
    "baseline": "logistic_regression",
    "front_end": [{"CycleBands": {"sample_rate": 2000}}],
}


def logistic(**changes: object) -> Logistic:
    return Logistic.model_validate(FORM | changes)


def heart(murmur: str | None = None, seconds: float = 10, seed: int = 3, loudness: float = 0.3) -> Tensor:
    """A synthetic heart with a little noise, shape (1, samples)."""
    random = np.random.default_rng(seed)
    sound = heart_sounds.heart(seconds, murmur, random, loudness).waveform
    sound = sound / sound.std() + random.normal(0, 0.03, len(sound))
    return torch.from_numpy(0.05 * sound).float()[None]


def image(waveforms: Tensor) -> Tensor:
    return CycleBands(RATE)(waveforms)


# --- the layer


def test_the_two_sounds_are_where_they_belong_and_the_rest_is_softer() -> None:
    cycle = image(heart())[0, :6].mean(dim=0)
    assert cycle.shape == (20,)
    assert cycle[:3].mean() > 5 and cycle[8:10].mean() > 5
    assert cycle[4:7].max() < 0 and cycle[12:19].max() < 0


@pytest.mark.parametrize(
    ("murmur", "phases"), [("mitral regurgitation", slice(4, 7)), ("aortic regurgitation", slice(10, 13))]
)
def test_a_murmur_is_seen_in_its_phase(murmur: str, phases: slice) -> None:
    difference = (image(heart(murmur)) - image(heart()))[0, 3:10].mean(dim=0)
    others = torch.ones(20, dtype=torch.bool)
    others[phases] = False
    assert difference[phases].mean() > 3 > difference[others].mean()


def test_a_gain_changes_nothing() -> None:
    sound = heart("aortic stenosis")
    for gain in (1e-4, 30.0):
        torch.testing.assert_close(image(gain * sound), image(sound), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    "stethoscope",
    [
        scipy.signal.butter(1, 120, fs=RATE),
        scipy.signal.butter(1, 120, "highpass", fs=RATE),
        scipy.signal.butter(1, (60, 200), "bandpass", fs=RATE),
        ([1.0, -0.6], [1.0]),
    ],
    ids=["dull", "bright", "narrow", "less bass"],
)
def test_a_stethoscope_cancels(stethoscope: tuple[list[float], list[float]]) -> None:
    sound, edges = heart("mitral regurgitation"), np.array(CycleBands(RATE).edges_hz)
    heard = torch.from_numpy(scipy.signal.lfilter(*stethoscope, sound.double().numpy())).float()
    response = 20 * np.log10(np.abs(scipy.signal.freqz(*stethoscope, worN=(edges[1:] + edges[:-1]) / 2, fs=RATE)[1]))
    assert np.ptp(response) > 3, "dB, from band to band"
    before, after = image(sound), image(heard)
    assert (after - before).square().mean().sqrt() < 0.15 * before.std()
    assert torch.stack([before.flatten(), after.flatten()]).corrcoef()[0, 1] > 0.98


def test_zeros_at_the_end_and_other_clips_of_the_batch_change_nothing() -> None:
    short, long = heart(seconds=6), heart(seed=4)
    padded = torch.cat([torch.nn.functional.pad(short, (0, long.shape[1] - short.shape[1])), long])
    torch.testing.assert_close(image(padded), torch.cat([image(short), image(long)]))


def test_two_seconds_are_enough_and_silence_is_zero() -> None:
    shortest = image(heart(seconds=2))
    assert shortest.isfinite().all() and shortest.std() > 1
    assert not image(torch.zeros(2, 3 * RATE)).any()
    assert image(torch.full((1, 3 * RATE), 0.3)).isfinite().all()
    assert image(torch.randn(1, 3 * RATE)).isfinite().all()


def test_what_has_no_cycle_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="a clip of 3999 samples is too short; this layer needs 4000"):
        image(heart()[:, :3999])
    with pytest.raises(ValueError, match="multiple of 100 Hz"):
        CycleBands(1050)
    for edges in ((25,), (100, 50), (25, 25), (25, 2000), (25, float("nan"))):
        with pytest.raises(ValueError, match="edges_hz"):
            CycleBands(RATE, edges_hz=edges)


# --- the regression


@pytest.fixture(scope="module")
def hearts(tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    """Some sixty hearts of six devices."""
    folder = tmp_path_factory.mktemp("hearts")
    heart_sounds.write(folder, recordings=120, seconds=6)
    return physionet2016.read(folder, "real")


def test_it_is_scikit_learns_and_every_class_of_every_group_has_one_say(
    hearts: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load", lambda name, progress=True: hearts)
    recipe = logistic()
    results = experiments.run(recipe, protocol="leave_one_device_out", progress=False)
    assert len(results) == 6 and all(result.parameters == 281 for result in results)
    assert np.mean([result.scores["roc_auc"] for result in results]) > 0.7, "murmurs, on devices never heard"
    assert [each.predictions for each in experiments.run(recipe, progress=False)] == [r.predictions for r in results]
    held_out = experiments.predictions(results[0], "validation")
    assert set(held_out.index.str[0]) == set("bcdef"), "the threshold is chosen on the training side"


def test_held_out_are_groups_where_the_test_side_has_others(hearts: Recordings) -> None:
    recipe, groups = logistic(), hearts.table["group"].to_numpy(str)
    by_device = baselines._held_out(recipe.fold(hearts, "leave_one_device_out", "b"))
    assert [set(groups[rows]) for rows in by_device] == [{"a"}, {"c"}, {"d"}, {"e"}, {"f"}]
    fold = recipe.fold(hearts, "published_lists", "list_0")
    in_lists = baselines._held_out(fold)
    assert np.array_equal(np.sort(np.concatenate(in_lists)), np.sort(fold.split.train)) and len(in_lists) == 5


def test_weights_give_each_class_of_each_group_the_same_sum() -> None:
    labels, groups = np.array([0, 0, 0, 1, 0, 1]), np.array(list("xxxxyy"))
    recording = np.array([0, 0, 1, 2, 3, 4, 5, 5, 5])
    weights = baselines._weights(labels, groups, recording)
    assert weights.mean() == pytest.approx(1)
    cells = [weights[np.isin(recording, rows)].sum() for rows in ([0, 1, 2], [3], [4], [5])]
    assert cells == pytest.approx([9 / 4] * 4)
    assert weights[:2].sum() == pytest.approx(weights[2])


def test_held_out_probabilities_are_calibrated(hearts: Recordings) -> None:
    fold = logistic().fold(hearts, "leave_one_device_out", "e")
    model, held_out, _ = logistic().train(fold, progress=False)
    pooled = evaluation.pool_clips(held_out)[1]
    labels, groups = fold.table["label"][pooled.index], fold.table["group"][pooled.index].to_numpy(str)
    weights = baselines._weights(labels.to_numpy(), groups, np.arange(len(pooled)))
    log_odds = evaluation.log_odds(pooled.to_numpy())
    error = weights * (pooled.to_numpy() - labels.to_numpy())
    assert error.sum() == pytest.approx(0, abs=1e-3 * len(pooled)), "the loss is least"
    assert (error * log_odds).sum() == pytest.approx(0, abs=1e-3 * len(pooled)) or model.calibration[0] < 0.011


def test_the_model_hears_waveforms_as_it_was_fitted_to_numbers(hearts: Recordings) -> None:
    recipe = logistic()
    model, _, clips = recipe.train(recipe.fold(hearts, "leave_one_device_out", "a"), progress=False)
    probabilities = model(clips.batch(torch.arange(9))[0]).exp()
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(9))
    log_odds = model.log_odds(recipe.features(clips)[:9])
    np.testing.assert_allclose(probabilities[:, 1].logit().numpy(), log_odds, atol=1e-3)


def test_recipes_that_cannot_be_are_refused(hearts: Recordings) -> None:
    assert isinstance(recipes.load("physionet2016/cycle_bands"), Logistic)
    assert logistic().hash != logistic(penalty=2.0).hash and logistic().hash == logistic(title="Other").hash
    with pytest.raises(RecipeError, match="tells two classes apart, not 3"):
        logistic().build(3)
    with pytest.raises(RecipeError, match="images of one size"):
        logistic(front_end=[{"LogMel": {"sample_rate": 2000}}]).build(2)
    with pytest.raises(ValueError, match="greater than 0"):
        logistic(penalty=0.0)
