"""Augmentation of images: nothing in evaluation mode, the promised change in training mode."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from course_lib.layers import (
    Decibels,
    FreqMixStyle,
    LogMel,
    RandomChannel,
    RandomEqualiser,
    SpecAugment,
    SpectrumMatching,
    Standardise,
    TimeFrequencyWarp,
)
from course_lib.layers.waveform_augmentation import Augmentation

ALONE = [RandomEqualiser, TimeFrequencyWarp, SpecAugment]
WITH_ANOTHER = [lambda: SpectrumMatching(share=1.0), lambda: FreqMixStyle(share=1.0)]
every = pytest.mark.parametrize("make", ALONE + WITH_ANOTHER)


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(4, 40, 63)


@every
def test_evaluation_mode_changes_nothing_and_training_mode_keeps_the_shape(
    make: Callable[[], Augmentation], images: Tensor
) -> None:
    layer = make()
    assert layer.eval()(images) is images
    torch.manual_seed(1)
    changed = layer.train()(images)
    assert changed.shape == images.shape and changed.isfinite().all()
    assert not torch.equal(changed, images) and not changed.requires_grad
    assert layer(images[:0]).shape == images[:0].shape
    assert layer(images[:1]).shape == images[:1].shape
    torch.manual_seed(1)
    assert torch.equal(layer(images), changed)


@every
def test_images_of_silence_stay_finite(make: Callable[[], Augmentation]) -> None:
    assert make().train()(torch.full((2, 8, 5), -100.0)).isfinite().all()


@pytest.mark.parametrize("make", ALONE)
def test_each_clip_of_a_batch_gets_its_own_draw(make: Callable[[], Augmentation]) -> None:
    torch.manual_seed(0)
    changed = make().train()(torch.randn(1, 40, 63).expand(8, -1, -1))
    assert len(torch.unique(changed, dim=0)) == 8


def test_the_base_says_which_settings_a_layer_has() -> None:
    assert "std_db=3.0" in repr(RandomEqualiser(std_db=3.0))
    with pytest.raises(NotImplementedError):
        Augmentation().train()(torch.ones(1, 2))


@every
@pytest.mark.parametrize("batch", [torch.zeros(2, 800), torch.zeros(2, 1, 8, 5), torch.zeros(2, 8, 5).short()])
def test_what_is_no_batch_of_images_is_refused(make: Callable[[], Augmentation], batch: Tensor) -> None:
    for layer in (make().train(), Standardise(), Decibels()):
        with pytest.raises(ValueError, match="batch, bands, frames"):
            layer(batch)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomEqualiser(std_db=-1), "std_db is -1"),
        (lambda: RandomEqualiser(points=0), "points is 0"),
        (lambda: TimeFrequencyWarp(tempo=-0.1), r"tempo is -0\.1"),
        (lambda: TimeFrequencyWarp(delay=1.5), r"delay is 1\.5"),
        (lambda: TimeFrequencyWarp(stretch=float("nan")), "stretch is nan"),
        (lambda: TimeFrequencyWarp(shift=True), "shift is True"),
        (lambda: SpecAugment(frequency_width=-1), "frequency_width is -1"),
        (lambda: SpecAugment(time_width=2.5), r"time_width is 2\.5"),
        (lambda: SpecAugment(masks=-1), "masks is -1"),
        (lambda: SpectrumMatching(most=1.5), r"most is 1\.5"),
        (lambda: SpectrumMatching(share=-1), "share is -1"),
        (lambda: FreqMixStyle(alpha=0), "alpha is 0"),
        (lambda: FreqMixStyle(share=2), "share is 2"),
    ],
)
def test_impossible_settings_are_refused(make: Callable[[], Augmentation], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_equaliser_adds_one_smooth_gain_to_all_frames(images):
    torch.manual_seed(0)
    gain = RandomEqualiser(std_db=4).train()(images) - images
    torch.testing.assert_close(gain, gain[:, :, :1].expand_as(gain), atol=1e-5, rtol=0)
    many = RandomEqualiser(std_db=4).train()(torch.zeros(2000, 40, 1))
    assert many[:, 0].std() == pytest.approx(4, rel=0.1)
    assert many.diff(n=2, dim=1).abs().median() < 1e-4


def test_warp_without_any_range_is_the_identity(images):
    still = TimeFrequencyWarp(tempo=0.0, delay=0.0, stretch=0.0, shift=0.0).train()
    torch.testing.assert_close(still(images), images, atol=1e-4, rtol=0)


def test_warp_changes_tempo_and_delay_within_their_ranges():
    ramp = torch.arange(100.0).expand(256, 8, 100)
    torch.manual_seed(0)
    warped = TimeFrequencyWarp(tempo=0.25, delay=0.1, stretch=0.0, shift=0.0).train()(ramp)
    slope = warped[:, 0, 51] - warped[:, 0, 49]
    assert slope.min() >= 2 / 1.26 and slope.max() <= 2 * 1.26
    assert slope.max() - slope.min() > 0.6
    middle = (warped[:, 0, 49] + warped[:, 0, 50]) / 2 - 49.5
    assert middle.abs().max() <= 10.5 and middle.std() > 4


def test_spec_augment_masks_within_its_widths_and_leaves_the_rest():
    torch.manual_seed(0)
    batch = torch.randn(32, 40, 63)
    masked = SpecAugment(frequency_width=8, time_width=12, masks=1).train()(batch)
    mean = batch.mean(dim=(1, 2), keepdim=True).expand_as(batch)
    changed = masked != batch
    torch.testing.assert_close(masked[changed], mean[changed])
    whole_bands, whole_frames = changed.all(dim=2).sum(dim=1), changed.all(dim=1).sum(dim=1)
    assert whole_bands.max() <= 9 and whole_frames.max() <= 13
    assert changed.any(dim=(1, 2)).float().mean() > 0.9


# Layers that use another clip of the batch


@pytest.mark.parametrize("make", WITH_ANOTHER)
def test_a_clip_without_another_and_clips_that_are_not_chosen_stay_as_they_are(
    make: Callable[[], Augmentation], images: Tensor
) -> None:
    layer = make().train()
    assert torch.equal(layer(images[:1]), images[:1])
    layer.share = 0.0
    torch.testing.assert_close(layer(images), images, atol=1e-5, rtol=0)
    layer.share = 0.5
    many = torch.randn(400, 8, 5)
    changed = ((layer(many) - many).abs().amax(dim=(1, 2)) > 1e-4).float().mean()
    assert changed == pytest.approx(0.5, abs=0.08)


def test_a_matched_spectrum_lies_between_those_of_the_two_clips_and_nothing_else_changes() -> None:
    random = np.random.default_rng(0)
    images = random.normal(0, 3, (2, 24, 50)) + random.normal(0, 10, (2, 24, 1))
    torch.manual_seed(0)
    parts = []
    for _ in range(200):
        matched = SpectrumMatching(share=1.0).train()(torch.from_numpy(images)).numpy()
        moved = (matched - images).mean(axis=2)
        np.testing.assert_allclose(matched - images, np.repeat(moved[:, :, None], 50, axis=2), atol=1e-5)
        wanted = images[::-1].mean(axis=2) - images.mean(axis=2)
        part = moved[:, 0] / wanted[:, 0]
        np.testing.assert_allclose(moved, part[:, None] * wanted, atol=1e-5)
        parts += part.tolist()
    assert 0 <= min(parts) < 0.05 and 0.95 < max(parts) <= 1 and np.mean(parts) == pytest.approx(0.5, abs=0.05)


def test_freq_mixstyle_mixes_mean_and_spread_of_each_band_in_the_same_share() -> None:
    random = np.random.default_rng(0)
    scale = random.uniform(1, 6, (2, 24, 1))
    images = scale * random.normal(0, 1, (2, 24, 50)) + random.normal(0, 10, (2, 24, 1))
    torch.manual_seed(0)
    shares = []
    for _ in range(200):
        mixed = FreqMixStyle(alpha=0.5, share=1.0).train()(torch.from_numpy(images)).numpy()
        for own, other, out in zip(images, images[::-1], mixed, strict=True):
            share = (out[0].mean() - other[0].mean()) / (own[0].mean() - other[0].mean())
            expected = [
                share * statistic(own, 1) + (1 - share) * statistic(other, 1) for statistic in (np.mean, np.std)
            ]
            shape = (own - own.mean(axis=1, keepdims=True)) / own.std(axis=1, keepdims=True)
            np.testing.assert_allclose(out, expected[0][:, None] + expected[1][:, None] * shape, atol=1e-4)
            shares.append(share)
    # Beta(1/2, 1/2), the arcsine distribution: mean 1/2, variance 1/8.
    assert min(shares) > -1e-6 and max(shares) < 1 + 1e-6
    assert np.mean(shares) == pytest.approx(0.5, abs=0.07) and np.var(shares) == pytest.approx(0.125, abs=0.03)


def test_freq_mixstyle_of_a_silent_band_takes_the_mixed_level_only() -> None:
    images = torch.stack([torch.full((4, 9), -100.0), torch.randn(4, 9)])
    torch.manual_seed(0)
    mixed = FreqMixStyle(share=1.0).train()(images)
    assert mixed.isfinite().all() and mixed[0].std(dim=1).max() < 1e-4
    assert mixed[0].min() >= -100 and mixed[0].max() <= images[1].mean(dim=1).max()


# What a microphone does to log-mel images


def test_a_channel_does_to_log_mel_images_what_an_equaliser_does() -> None:
    torch.manual_seed(0)
    log_mel = LogMel(1000, n_mels=24, n_fft=128, hop_length=20, f_min=20, f_max=420)
    noise = torch.randn(8, 2500)
    channel = RandomChannel(std_db=6, share=1.0).train()
    gain = log_mel(channel(noise)) - log_mel(noise)
    of_band = gain.median(dim=2, keepdim=True).values
    assert of_band.std() > 3
    # A band is a few frequencies wide, so that its gain in a frame depends a little on where the frame has its energy.
    within = (gain - of_band)[:, :, 4:-4].abs()
    assert within.median() < 0.1 * of_band.std() and within.quantile(0.95) < 0.25 * of_band.std()


def test_band_means_taken_away_undo_every_equaliser(images: Tensor) -> None:
    by_band = Standardise(each_band=True)
    torch.manual_seed(0)
    torch.testing.assert_close(by_band(RandomEqualiser(std_db=6).train()(images)), by_band(images), atol=1e-4, rtol=0)
    assert (Standardise()(RandomEqualiser(std_db=6).train()(images)) - Standardise()(images)).abs().mean() > 0.5
    out = by_band(images + 7)
    torch.testing.assert_close(out.mean(dim=2), torch.zeros(4, 40), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.square().mean(dim=(1, 2)), torch.ones(4), atol=1e-4, rtol=0)
    assert by_band(torch.full((2, 4, 5), -100.0)).eq(0).all()


def test_standardise_takes_level_and_contrast_away(images):
    out = Standardise()(5 * images + 30)
    torch.testing.assert_close(out.mean(dim=(1, 2)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(out, Standardise()(images), atol=1e-3, rtol=0)
    assert Standardise()(torch.zeros(2, 4, 5)).isfinite().all()
    assert Standardise()(images[:0]).shape == (0, 40, 63)


def test_the_gradient_of_a_standardised_silence_is_finite() -> None:
    silence = torch.zeros(2, 4, 5, requires_grad=True)
    Standardise()(silence).square().sum().backward()
    assert silence.grad is not None and silence.grad.isfinite().all()
