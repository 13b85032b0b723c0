"""Layers, cached images and the classical baseline that the scenes brought; any data set can use them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from course_lib import evaluation, experiments, layers, training
from course_lib.clips import Clips
from course_lib.datasets.recordings import Recordings
from course_lib.experiments import Discriminant, Recipe, RecipeError, recipes
from course_lib.layers.pipeline import Pipeline
from course_lib.training.images import ImageClips

LAYERS = [
    {"LogMel": {"sample_rate": 8000, "n_mels": 24, "n_fft": 256, "hop_length": 80}},
    {"RandomCrop": {"share": 0.5}},
    {"Standardise": {"level_only": True}},
    {"StandardiseBands": {"n_bands": 24}},
    {"SpecAugment": {"frequency_width": 2, "time_width": 2}},
]
FORM = {
    "name": "mine/images",
    "title": "Images made once",
    "dataset": "fsdd",
    "protocols": {"official": 1, "leave_one_speaker_out": 1},
    "clip": {"seconds": 0.4},
    "model": {"name": "LogMelCNN", "settings": {"n_mels": 24, "channels": [4, 8]}, "front_end": LAYERS},
    "training": {"epochs": 2, "batch_size": 32, "precision": "32-true", "mixup": 0.5, "averaging": 0.9},
}
BASELINE = {
    "baseline": "discriminant",
    "front_end": [{"LogMel": {"sample_rate": 8000, "n_mels": 24, "n_fft": 256, "hop_length": 20}}],
}


def recipe(**changes: object) -> Recipe:
    return Recipe.model_validate(FORM | changes)


def discriminant(**changes: object) -> Discriminant:
    form = {key: FORM[key] for key in ("name", "title", "dataset", "protocols", "clip")}
    return Discriminant.model_validate(form | BASELINE | changes)


def images(clips: int = 6, bands: int = 24, frames: int = 50) -> torch.Tensor:
    return torch.randn(clips, bands, frames, generator=torch.Generator().manual_seed(0))


# --- layers


def test_random_crops_are_stretches_of_each_image_in_training_mode_only() -> None:
    crop, whole = layers.RandomCrop(0.4), torch.arange(50.0).expand(200, 3, 50).contiguous()
    cut = crop(whole)
    assert cut.shape == (200, 3, 20) and (cut.diff(dim=2) == 1).all()
    assert set(cut[:, 0, 0].tolist()) == set(range(31)), "every position occurs, the first and the last too"
    assert (cut[:, :1] == cut).all(), "all bands are cut at one place"
    assert crop.eval()(whole) is whole
    assert layers.RandomCrop(1e-6)(images()).shape == (6, 24, 1)
    assert layers.RandomCrop(1.0)(images()).equal(images())


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan"), "half"])
def test_a_share_that_leaves_nothing_is_refused(share: object) -> None:
    with pytest.raises(ValueError, match="share"):
        layers.RandomCrop(share)


def test_without_its_level_an_image_keeps_its_contrast() -> None:
    level_only = layers.Standardise(level_only=True)
    louder = images() + torch.arange(6.0)[:, None, None]
    torch.testing.assert_close(level_only(louder), level_only(images()), atol=1e-5, rtol=0)
    torch.testing.assert_close(level_only(images()).std(dim=(1, 2)), images().std(dim=(1, 2)))


def test_bands_are_standardised_over_all_clips() -> None:
    layer, batch = layers.StandardiseBands(24), 5 * images(400) + 10 * torch.arange(24.0)[:, None]
    out = layer(batch)
    torch.testing.assert_close(out.mean(dim=(0, 2)), torch.zeros(24), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.std(dim=(0, 2)), torch.ones(24), atol=1e-3, rtol=0)
    for _ in range(100):
        layer(batch)
    torch.testing.assert_close(layer.eval()(batch[:1]), out[:1], atol=0.02, rtol=0.02)
    assert not list(layer.parameters())
    with pytest.raises(ValueError, match="n_bands=24"):
        layer(images(bands=8))


def test_band_statistics_are_those_of_numpy_and_scipy() -> None:
    batch = images(bands=32, frames=300).double()
    batch = 5 * batch + 3 * batch.roll(1, dims=2)  # neighbouring frames are alike
    features = layers.BandStatistics()(batch).numpy()
    assert features.shape == (6, 3 * 32 + 200)
    array = batch.numpy()
    np.testing.assert_allclose(features[:, :32], array.mean(axis=2))
    np.testing.assert_allclose(np.exp(features[:, 32:64]) - 0.1, array.std(axis=2))
    np.testing.assert_allclose(features[:, 64:96], scipy.stats.skew(array, axis=2))
    both = np.repeat(array[:, ::2], 2, axis=1)  # neighbours alike, so that a broad band is one of them
    correlations = layers.BandStatistics()(torch.from_numpy(both)).numpy()[:, 96:216]
    np.testing.assert_allclose(correlations[0], np.corrcoef(both[0, ::2])[np.triu_indices(16, 1)])
    changes = np.exp(layers.BandStatistics()(torch.from_numpy(array[:, :20]))[:, 180:].numpy()) - 0.1
    two = array[:, :20].reshape(6, 10, 2, 300).mean(axis=2)
    for number, lag in enumerate((1, 2, 4, 8, 16, 32, 64, 128)):
        expected = np.abs(two[:, :, lag:] - two[:, :, :-lag]).mean(axis=2)
        np.testing.assert_allclose(changes[:, 10 * number : 10 * (number + 1)], expected)


def test_statistics_of_silence_are_finite_and_have_gradients() -> None:
    silence = torch.full((2, 16, 150), -100.0, requires_grad=True)
    features = layers.BandStatistics()(silence)
    features.sum().backward()
    assert features.isfinite().all() and silence.grad.isfinite().all()
    for shape in ((2, 15, 150), (2, 16, 128)):
        with pytest.raises(ValueError, match="it needs 16 bands and 129 frames"):
            layers.BandStatistics()(torch.zeros(shape))


# --- images made once


def test_a_pipeline_takes_the_images_of_its_first_layer_in_place_of_waveforms() -> None:
    fixed = layers.LogMel(8000)
    pipeline = Pipeline(fixed, layers.Standardise()).eval()
    waveforms = torch.randn(3, 4000)
    assert pipeline.fixed is fixed
    assert pipeline(fixed(waveforms)).equal(pipeline(waveforms))
    assert set(pipeline.state_dict()) == set(nn.Sequential(fixed, layers.Standardise()).state_dict())


def test_layers_that_learn_or_draw_are_not_fixed() -> None:
    learned = layers.GammatoneFilterbank(16, 8000, learnable=("gain",))
    assert Pipeline(learned).fixed is None and Pipeline(layers.RandomGain(), layers.LogMel(8000)).fixed is None
    assert Pipeline(layers.GammatoneFilterbank(16, 8000, learnable=False)).fixed is not None
    assert Pipeline().fixed is None


def test_training_on_images_made_once_gives_the_same_weights(
    recordings: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold = recipe().fold(recordings, "official")
    calls: list[int] = []
    image = layers.LogMel.image
    monkeypatch.setattr(layers.LogMel, "image", lambda self, waveforms: calls.append(1) or image(self, waveforms))
    once, history, clips = recipe().train(fold, progress=False, accelerator="cpu")
    made_once = len(calls)
    monkeypatch.setattr(Pipeline, "fixed", None)
    each_time, again, _ = recipe().train(fold, progress=False, accelerator="cpu")
    assert made_once < len(calls) / 2
    for name, weights in once.state_dict().items():
        torch.testing.assert_close(weights, each_time.state_dict()[name], msg=name)
    assert [epoch.train_loss for epoch in history.epochs] == pytest.approx([e.train_loss for e in again.epochs])
    assert type(clips) is Clips, "what comes back gives waveforms"
    assert evaluation.predict(once, clips[:5]).shape == (5, 10)


def test_images_follow_their_clips(recordings: Recordings) -> None:
    clips, fixed = recipe().clips(recordings, progress=False), layers.LogMel(8000)
    cached = ImageClips.of(clips, fixed, progress=False)
    rows = torch.tensor([7, 3, 3])
    expected = fixed(clips.batch(rows)[0])
    picked = cached[torch.tensor([7, 3, 5])].to("cpu")
    assert picked.batch(torch.tensor([0, 1, 1]))[0].equal(expected)
    assert picked.batch(torch.tensor([0, 1, 1]))[1].equal(clips.labels[rows])
    assert ImageClips.of(clips, layers.LogMel(8000), progress=False).images is cached.images
    assert ImageClips.of(clips, layers.LogMel(8000, n_mels=30), progress=False).images is not cached.images
    assert picked.digest() == clips[torch.tensor([7, 3, 5])].digest()


# --- the classical baseline


def test_the_discriminant_is_that_of_scikit_learn_and_its_result_is_read_again(fsdd_data: Path) -> None:
    first = experiments.run(discriminant(), protocol="official", progress=False)[0]
    assert first.scores["balanced_accuracy"] > 0.3, "ten digits: chance is 0.1"
    assert experiments.run(discriminant(), protocol="official", progress=False)[0].predictions == first.predictions
    assert first.parameters == 0 and first.kept_epoch == 0


def test_the_baseline_is_named_by_its_key_and_its_layers_count(tmp_path: Path) -> None:
    assert isinstance(recipes.load("dcase2016/discriminant_log_mel"), Discriminant)
    assert discriminant().hash == discriminant(title="Other").hash
    other = [{"LogMel": {"sample_rate": 8000, "n_mels": 25}}]
    assert discriminant().hash != discriminant(front_end=other).hash
    with pytest.raises(ValueError, match="unknown layer 'Mel'"):
        discriminant(front_end=[{"Mel": {}}])
    with pytest.raises(RecipeError, match="front end"):
        discriminant(front_end=[{"LogMel": {"sample_rate": 8000, "n_mels": 500}}]).build_front_end()


def test_mixup_is_of_the_images_and_off_in_evaluation(recordings: Recordings) -> None:
    model = recipe().build(10)
    clips = recipe().clips(recordings, progress=False)[:32]
    history = training.fit(model, clips, settings=training.Settings(epochs=1, mixup=1.0), progress=False)
    assert not model.front_end._forward_hooks and history.epochs[0].train_accuracy <= 1
