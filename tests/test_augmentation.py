"""Augmentation: nothing in evaluation mode, the promised change in training mode."""

from __future__ import annotations

import pytest
import torch

from course_lib.layers import AddNoise, RandomEqualiser, RandomTrim, SpecAugment, Standardise, TimeFrequencyWarp

WAVEFORM_LAYERS = [RandomTrim(), AddNoise()]
IMAGE_LAYERS = [RandomEqualiser(), TimeFrequencyWarp(), SpecAugment()]


@pytest.fixture
def words() -> torch.Tensor:
    """Four noise bursts of different length, padded with zeros to one second at 8 kHz."""
    torch.manual_seed(0)
    waveforms = torch.zeros(4, 8000)
    for row, length in enumerate((2000, 3000, 4000, 8000)):
        waveforms[row, :length] = 0.1 * torch.randn(length)
    return waveforms


@pytest.fixture
def images() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(4, 40, 63)


@pytest.mark.parametrize("layer", WAVEFORM_LAYERS + IMAGE_LAYERS, ids=lambda layer: type(layer).__name__)
def test_evaluation_mode_changes_nothing_and_training_mode_keeps_the_shape(layer, words, images):
    batch = words if layer in WAVEFORM_LAYERS else images
    assert layer.eval()(batch) is batch
    torch.manual_seed(1)
    changed = layer.train()(batch)
    assert changed.shape == batch.shape and changed.isfinite().all()
    assert not torch.equal(changed, batch)
    assert layer(batch[:0]).shape == batch[:0].shape
    torch.manual_seed(1)
    assert torch.equal(layer(batch), changed)


@pytest.mark.parametrize("layer", WAVEFORM_LAYERS, ids=lambda layer: type(layer).__name__)
def test_waveform_layers_survive_silence_and_refuse_other_shapes(layer):
    assert layer.train()(torch.zeros(2, 800)).isfinite().all()
    with pytest.raises(ValueError, match="batch, samples"):
        layer(torch.zeros(2, 1, 800))


def test_each_clip_of_a_batch_gets_its_own_draw():
    torch.manual_seed(0)
    same = torch.randn(1, 40, 63).expand(8, -1, -1)
    for layer in IMAGE_LAYERS:
        changed = layer.train()(same)
        assert not torch.equal(changed[0], changed[1])


def test_trim_keeps_a_contiguous_part_of_the_word(words):
    torch.manual_seed(2)
    trimmed = RandomTrim(cut=0.2, share=1.0).train()(words)
    for before, after in zip(words, trimmed, strict=True):
        length = int(before.nonzero().max()) + 1
        kept = int(after.nonzero().max()) + 1
        start = int((before == after[0]).nonzero()[0, 0])
        assert start <= 0.2 * length
        assert 0.6 * length - 2 <= kept < length
        assert torch.equal(after[:kept], before[start : start + kept])


def test_trim_refuses_to_cut_everything():
    with pytest.raises(ValueError, match=r"cut is 0\.5"):
        RandomTrim(cut=0.5)


@pytest.mark.parametrize("snr", [0.0, 20.0])
def test_noise_has_the_promised_level_relative_to_the_sounding_part(words, snr):
    torch.manual_seed(0)
    noise = AddNoise(snr, snr).train()(words) - words
    for row, length in enumerate((2000, 3000, 4000, 8000)):
        assert not noise[row, length:].any()
        ratio = words[row, :length].square().mean() / noise[row, :length].square().mean()
        assert 10 * torch.log10(ratio) == pytest.approx(snr, abs=0.1)


def test_noise_refuses_an_empty_range():
    with pytest.raises(ValueError, match="above"):
        AddNoise(10, 5)


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


def test_standardise_takes_level_and_contrast_away(images):
    out = Standardise()(5 * images + 30)
    torch.testing.assert_close(out.mean(dim=(1, 2)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(out, Standardise()(images), atol=1e-3, rtol=0)
    assert Standardise()(torch.zeros(2, 4, 5)).isfinite().all()
    assert Standardise()(images[:0]).shape == (0, 40, 63)
