"""Augmentation of waveforms: the promised change, each clip its own, nothing in the padding and nothing when unused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from course_lib.layers import (
    AddNoise,
    MixBackground,
    RandomBandFilter,
    RandomChannel,
    RandomGain,
    RandomRoom,
    RandomShift,
    RandomSpeed,
    RandomStart,
    RandomTrim,
    TimeMask,
)
from course_lib.layers.waveform_augmentation import Augmentation, butterworth, mixed, uniform
from course_lib.layers.waveforms import before_padding

RATE = 8000
LENGTHS = (2000, 3000, 4000, 8000)
LAYERS: dict[str, Callable[[], Augmentation]] = {
    "RandomGain": RandomGain,
    "RandomShift": RandomShift,
    "RandomSpeed": RandomSpeed,
    "RandomStart": lambda: RandomStart(share=1.0),
    "RandomTrim": lambda: RandomTrim(share=1.0),
    "AddNoise": AddNoise,
    "MixBackground": lambda: MixBackground(share=1.0),
    "RandomBandFilter": lambda: RandomBandFilter(RATE, share=1.0),
    "RandomChannel": lambda: RandomChannel(share=1.0),
    "RandomRoom": lambda: RandomRoom(RATE, share=1.0),
    "TimeMask": TimeMask,
}
every = pytest.mark.parametrize("name", LAYERS)


def training(layer: Augmentation, seed: int = 0) -> Augmentation:
    """The layer in training mode, with its next draw decided."""
    torch.manual_seed(seed)
    return layer.train()


def noises(clips: int, samples: int, seed: int = 0) -> Tensor:
    return torch.randn(clips, samples, generator=torch.Generator().manual_seed(seed)) / 10


@pytest.fixture
def words() -> Tensor:
    """Four noise bursts of different length, padded with zeros to one second at 8 kHz."""
    waveforms = noises(4, 8000)
    for row, length in enumerate(LENGTHS):
        waveforms[row, length:] = 0
    return waveforms


def ratio_in_db(signal: Tensor, noise: Tensor) -> float:
    return float(10 * torch.log10(signal.double().square().mean() / noise.double().square().mean()))


# What all of them have in common


@every
def test_evaluation_mode_changes_nothing_and_training_mode_keeps_shape_and_input(name: str, words: Tensor) -> None:
    layer, before = LAYERS[name](), words.clone()
    assert layer.eval()(words) is words
    changed = training(layer)(words)
    assert changed.shape == words.shape and changed.dtype == torch.float32 and changed.isfinite().all()
    assert all(not torch.equal(one, other) for one, other in zip(changed, words, strict=True))
    assert torch.equal(words, before)
    assert not changed.requires_grad and not list(layer.parameters()) and not layer.state_dict()


@every
def test_a_seed_repeats_and_the_next_draw_is_another(name: str, words: Tensor) -> None:
    layer = LAYERS[name]()
    first, second = training(layer, 1)(words), layer(words)
    assert torch.equal(training(layer, 1)(words), first)
    assert not torch.equal(first, second)


@every
def test_each_clip_of_a_batch_gets_its_own_draw(name: str, words: Tensor) -> None:
    same = words[3:].expand(6, -1)
    if name == "MixBackground":  # of the same clip nothing but another clip at another level is audible
        same = torch.cat([same[:5], noises(1, 8000, seed=1)])
    changed = training(LAYERS[name]())(same)
    assert len(torch.unique(changed[:5], dim=0)) >= 4


@every
def test_batches_of_no_clip_and_of_one(name: str, words: Tensor) -> None:
    layer = training(LAYERS[name]())
    assert layer(words[:0]).shape == (0, 8000)
    assert layer(words[:, :0]).shape == (4, 0)
    alone = layer(words[:1])
    assert alone.shape == (1, 8000) and alone.isfinite().all()
    assert torch.equal(alone, words[:1]) == (name == "MixBackground")
    assert layer(noises(2, 1)).isfinite().all()


@every
def test_silence_stays_silent(name: str) -> None:
    assert torch.equal(training(LAYERS[name]())(torch.zeros(3, 800)), torch.zeros(3, 800))


@every
def test_autocast_changes_nothing(name: str, words: Tensor) -> None:
    layer = LAYERS[name]()
    expected = training(layer)(words)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(training(layer)(words), expected)


@every
@pytest.mark.parametrize("waveforms", [torch.zeros(2, 1, 800), torch.zeros(800), torch.ones(2, 800).short()])
def test_what_is_no_batch_of_waveforms_is_refused(name: str, waveforms: Tensor) -> None:
    with pytest.raises(ValueError, match="batch, samples"):
        LAYERS[name]().train()(waveforms)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomGain(3, -3), "lowest_db 3 is above highest_db -3"),
        (lambda: RandomShift(1.0), r"most is 1\.0"),
        (lambda: RandomShift(-0.1), r"most is -0\.1"),
        (lambda: RandomSpeed(1.2, 1.1), r"slowest 1\.2 is above fastest 1\.1"),
        (lambda: RandomSpeed(0.0, 1.1), r"slowest is 0\.0; it must be a number above 0"),
        (lambda: RandomStart(latest=1.1), r"latest is 1\.1"),
        (lambda: RandomStart(lowest_snr=20, highest_snr=10), "lowest_snr 20 is above highest_snr 10"),
        (lambda: RandomStart(share=2), "share is 2"),
        (lambda: RandomTrim(cut=0.5), r"cut is 0\.5"),
        (lambda: RandomTrim(cut=-0.1), r"cut is -0\.1"),
        (lambda: AddNoise(10, 5), "lowest_snr 10 is above highest_snr 5"),
        (lambda: MixBackground(10, 5), "lowest_snr 10 is above highest_snr 5"),
        (lambda: RandomRoom(RATE, shortest=0.2, longest=0.1), "shortest 0.2 is above longest 0.1"),
        (lambda: RandomRoom(RATE, shortest=0), "shortest is 0"),
        (lambda: RandomRoom(RATE, weakest_db=3), "weakest_db 3 is above strongest_db 0"),
        (lambda: RandomBandFilter(RATE, lowest=0), "must rise"),
        (lambda: RandomBandFilter(RATE, low=2500), "must rise"),
        (lambda: RandomBandFilter(RATE, high=5000), "must rise"),
        (lambda: RandomBandFilter(2000), "must rise from above 0 to at most half the sample rate, 1000 Hz"),
        (lambda: RandomBandFilter(RATE, order=0), "order is 0"),
        (lambda: RandomBandFilter(0), "sample_rate is 0"),
        (lambda: RandomChannel(std_db=-1), "std_db is -1"),
        (lambda: RandomChannel(points=1), "points is 1"),
        (lambda: RandomChannel(share=2), "share is 2"),
        (lambda: RandomGain(float("nan"), 3), "lowest_db is nan"),
        (lambda: RandomGain(inverted=1.5), r"inverted is 1\.5"),
        (lambda: RandomSpeed(0.9, float("inf")), "fastest is inf"),
        (lambda: RandomTrim(share=-0.1), r"share is -0\.1"),
        (lambda: AddNoise("8", 20), "lowest_snr is '8'"),
        (lambda: MixBackground(share=2), "share is 2; it must be a number at least 0 and at most 1"),
        (lambda: TimeMask(masks=-1), "masks is -1"),
        (lambda: TimeMask(masks=1.5), r"masks is 1\.5"),
        (lambda: TimeMask(1.1), r"longest is 1\.1"),
        (lambda: TimeMask(-0.1), r"longest is -0\.1"),
    ],
)
def test_impossible_settings_are_refused(make: Callable[[], Augmentation], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_draw_for_each_clip_is_uniform() -> None:
    torch.manual_seed(0)
    drawn = uniform(torch.zeros(4000, 3), -1.0, 3.0)
    assert drawn.shape == (4000, 1) and drawn.min() >= -1 and drawn.max() < 3
    assert drawn.mean() == pytest.approx(1, abs=0.1) and drawn.std() == pytest.approx(4 / 12**0.5, rel=0.05)


# Each alone


def test_gain_is_one_factor_a_clip_uniform_in_decibels() -> None:
    waveforms = noises(500, 20)
    factor = training(RandomGain(-12, 6))(waveforms) / waveforms
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor))
    gain = 20 * factor[:, 0].log10()
    assert -12 <= gain.min() < -11 and 5 < gain.max() <= 6
    assert gain.median() == pytest.approx(-3, abs=1)


def test_a_shift_moves_both_ways_by_at_most_its_share_and_brings_in_zeros() -> None:
    samples = torch.arange(1.0, 101.0).expand(200, -1)  # each sample is its own position
    moved = training(RandomShift(0.1))(samples)
    offsets = set()
    for clip in moved:
        nonzero = clip.nonzero()[:, 0]
        offset = int(clip[nonzero[0]]) - 1 - int(nonzero[0])
        expected = torch.zeros(100)
        expected[max(0, -offset) : 100 - max(0, offset)] = samples[0, max(0, offset) : 100 + min(0, offset)]
        assert torch.equal(clip, expected)
        offsets.add(offset)
    assert offsets == set(range(-10, 11))
    assert torch.equal(training(RandomShift(0.0))(samples), samples)


@pytest.mark.parametrize("speed", [0.8, 1.0, 1.25])
def test_speed_is_that_of_a_sine_of_another_frequency(speed: float) -> None:
    time = np.arange(2000) / RATE
    sine = np.sin(2 * np.pi * 400 * time)
    played = training(RandomSpeed(speed, speed))(torch.from_numpy(sine).float()[None])[0].numpy()
    lasts = min(2000, int(1999 / speed) + 1)
    np.testing.assert_allclose(played[1 : lasts - 2], np.sin(2 * np.pi * 400 * speed * time)[1 : lasts - 2], atol=5e-3)
    assert lasts == 2000 or not played[lasts:].any()


@pytest.mark.parametrize("speed", [0.7, 1.3])
def test_values_between_samples_lie_on_a_catmull_rom_spline(speed: float) -> None:
    waveform = noises(1, 60)
    played = training(RandomSpeed(speed, speed))(waveform)[0].double().numpy()
    points = waveform[0].double().numpy()
    # The cubic with the points' values and half their neighbours' differences as slopes.
    spline = scipy.interpolate.CubicHermiteSpline(np.arange(60), points, np.gradient(points))
    position = np.arange(60) * speed
    inner = (position >= 1) & (position <= 58)
    np.testing.assert_allclose(played[inner], spline(position[inner]), atol=1e-5)


def test_a_minute_is_as_exact_at_its_end_as_at_its_beginning() -> None:
    time, speed = torch.arange(60 * RATE, dtype=torch.float64), 0.9371
    played = training(RandomSpeed(speed, speed))(torch.sin(0.3 * time).float()[None])[0].double()
    error = (played - torch.sin(0.3 * speed * time))[10:].abs()
    assert error[-1000:].max() < 1.1 * error[:1000].max() + 1e-6


def test_speeds_are_log_uniform_between_slowest_and_fastest() -> None:
    ramp = torch.arange(100.0).expand(500, -1)
    speed = training(RandomSpeed(0.5, 2.0))(ramp)[:, 20] / 20
    assert 0.5 <= speed.min() < 0.53 and 1.9 < speed.max() <= 2.0
    assert speed.median() == pytest.approx(1, rel=0.1)


def test_a_word_starts_anywhere_up_to_the_latest_and_stays_whole() -> None:
    words = noises(1, 8000).repeat(300, 1)
    words[:, 5000:] = 0
    moved = training(RandomStart(latest=0.25, lowest_snr=80, highest_snr=80, share=1.0))(words)
    first = (moved.abs() > 1e-2).int().argmax(dim=1) - (words[0].abs() > 1e-2).int().argmax()
    assert first.min() >= 0 and first.max() <= 2000
    assert first.float().mean() == pytest.approx(1000, abs=150)
    for start, clip in zip(first.tolist(), moved, strict=True):
        assert torch.allclose(clip[start : start + 5000], words[0, :5000], atol=1e-3)


def test_a_word_that_fills_its_clip_starts_where_it_did() -> None:
    words = noises(4, 8000)
    moved = training(RandomStart(lowest_snr=90, highest_snr=90, share=1.0))(words)
    assert torch.allclose(moved, words, atol=1e-4) and not torch.equal(moved, words)


@pytest.mark.parametrize("snr", [0.0, 20.0])
def test_the_noise_around_a_word_fills_the_clip_at_the_promised_level(words: Tensor, snr: float) -> None:
    noise = training(RandomStart(latest=0, lowest_snr=snr, highest_snr=snr, share=1.0))(words) - words
    for word, length, added in zip(words, LENGTHS, noise, strict=True):
        assert ratio_in_db(word[:length], added) == pytest.approx(snr, abs=0.1)
        assert added[-500:].std() > 0


def test_a_share_of_the_words_starts_later() -> None:
    words = noises(1, 8000).repeat(1000, 1)
    kept = (training(RandomStart(share=0.3))(words) == words).all(dim=1)
    assert kept.float().mean() == pytest.approx(0.7, abs=0.05)


def test_trim_keeps_a_contiguous_part_of_the_word(words: Tensor) -> None:
    trimmed = training(RandomTrim(cut=0.2, share=1.0), 2)(words)
    for before, after, length in zip(words, trimmed, LENGTHS, strict=True):
        left = int(after.nonzero().max()) + 1
        start = int((before == after[0]).nonzero()[0, 0])
        assert start <= 0.2 * length
        assert 0.6 * length - 2 <= left < length
        assert torch.equal(after[:left], before[start : start + left])


def test_trim_leaves_each_end_of_the_other_clips_alone(words: Tensor) -> None:
    assert torch.equal(training(RandomTrim(cut=0.2, share=0.0))(words), words)
    many = words[3:, :500].expand(400, -1)
    start_kept = (training(RandomTrim(cut=0.2, share=0.7))(many)[:, 0] == words[3, 0]).float().mean()
    assert start_kept == pytest.approx(0.3, abs=0.08)


@pytest.mark.parametrize("snr", [0.0, 20.0])
def test_noise_has_the_promised_level_relative_to_the_sounding_part(words: Tensor, snr: float) -> None:
    noise = training(AddNoise(snr, snr))(words) - words
    for row, length in enumerate(LENGTHS):
        assert not noise[row, length:].any()
        assert ratio_in_db(words[row, :length], noise[row, :length]) == pytest.approx(snr, abs=0.1)


def test_the_colours_of_noise_lie_between_white_and_pink_squared() -> None:
    clips = torch.ones(300, 1024)
    power = torch.fft.rfft(training(AddNoise(0, 0))(clips) - clips).abs().double().square()
    frequency = torch.arange(1, 513).log().double()
    level = power[:, 1:].log() - power[:, 1:].log().mean(dim=1, keepdim=True)
    centred = frequency - frequency.mean()
    slope = (level * centred).sum(dim=1) / centred.square().sum()
    assert -2.4 < slope.min() < -1.7 and -0.3 < slope.max() < 0.4
    assert slope.mean() == pytest.approx(-1, abs=0.15)


@pytest.mark.parametrize("snr", [5.0, 30.0])
def test_the_background_is_another_clip_of_the_batch_at_the_promised_level(words: Tensor, snr: float) -> None:
    added = training(MixBackground(snr, snr, share=1.0))(words) - words
    for row, length in enumerate(LENGTHS):
        assert not added[row, length:].any()
        assert ratio_in_db(words[row, :length], added[row, :length]) == pytest.approx(snr, abs=0.1)
        alike = [torch.cosine_similarity(added[row, :length], other[:length], dim=0).item() for other in words]
        assert max(alike) > 0.99 and int(np.argmax(alike)) != row


def test_the_background_is_any_of_the_others_in_a_share_of_the_clips() -> None:
    alone = torch.eye(5)  # each clip sounds at a sample of its own
    alone[:, -1] = 1  # and ends there, so that all of it comes before the padding
    chosen = torch.zeros(5, 5)
    layer = training(MixBackground(0, 0, share=0.5))
    for _ in range(200):
        chosen += (layer(alone) - alone)[:, :5] > 0
    others = chosen[:4, :4]
    assert not others.diag().any()
    assert (others + torch.eye(4) > 0).all()
    assert chosen[:, 4].sum() / 1000 == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_the_band_filter_has_the_slopes_of_scipys_butterworth_filters(order: int) -> None:
    layer = RandomBandFilter(RATE, lowest=200, low=200, high=2500, highest=2500, order=order, share=1.0)
    click = torch.zeros(1, 4000)
    click[0, 2000], click[0, -1] = 1, 1e-20  # the last sample tells that none of it is padding
    gain = np.abs(np.fft.rfft(training(layer)(click)[0].double().numpy()))[1:]
    hertz = np.fft.rfftfreq(4000, 1 / RATE)[1:]
    expected = np.ones(2000)
    for edge, kind in ((200, "highpass"), (2500, "lowpass")):
        filter_ = scipy.signal.butter(order, 2 * np.pi * edge, kind, analog=True)
        expected *= np.abs(scipy.signal.freqs(*filter_, worN=2 * np.pi * hertz)[1])
    np.testing.assert_allclose(gain, expected, atol=1e-4)


def test_the_edges_of_the_band_are_drawn_within_their_ranges() -> None:
    layer = RandomBandFilter(RATE, lowest=50, low=200, high=1000, highest=3000, order=8, share=1.0)
    clicks = torch.zeros(200, 2000)
    clicks[:, 1000], clicks[:, -1] = 1, 1e-20
    gain = torch.fft.rfft(training(layer)(clicks)).abs()
    passed = gain > 0.5**0.5
    lower = 4 * passed.float().argmax(dim=1)
    upper = 4 * (1000 - passed.flip(1).float().argmax(dim=1))
    assert 50 <= lower.min() < 60 and 180 < lower.max() <= 204
    assert 996 <= upper.min() < 1100 and 2800 < upper.max() <= 3000
    assert lower.float().median() == pytest.approx(100, rel=0.15)  # log-uniform


def test_the_band_filter_spares_the_padding_and_the_other_clips(words: Tensor) -> None:
    assert torch.equal(training(RandomBandFilter(RATE, share=0.0))(words), words)
    filtered = training(RandomBandFilter(RATE, share=1.0))(words)
    for row, length in enumerate(LENGTHS):
        assert not filtered[row, length:].any()
    changed = (training(RandomBandFilter(RATE))(words[3:, :500].expand(300, -1)) != words[3:, :500]).any(dim=1)
    assert changed.float().mean() == pytest.approx(0.5, abs=0.1)


def test_a_room_answers_a_click_with_the_click_and_a_tail_of_the_chosen_energy_and_decay() -> None:
    layer = RandomRoom(RATE, shortest=0.1, longest=0.1, weakest_db=-6, strongest_db=-6, share=1.0)
    clicks = torch.zeros(500, 2000)
    clicks[:, 100], clicks[:, -1] = 1, 1e-20
    reverberant = training(layer)(clicks).double()
    assert reverberant[:, :100].abs().max() < 1e-6
    torch.testing.assert_close(reverberant[:, 100], torch.ones(500, dtype=torch.float64), atol=1e-5, rtol=0)
    energy = reverberant[:, 101:].square()
    torch.testing.assert_close(
        10 * energy.sum(dim=1).log10(), torch.full((500,), -6.0, dtype=torch.float64), atol=1e-3, rtol=0
    )
    decibels = 10 * energy[:, :800].mean(dim=0).log10().numpy()
    slope = np.polyfit(np.arange(800) / RATE, decibels, 1)[0]
    assert slope == pytest.approx(-60 / 0.1, rel=0.05)
    assert not reverberant[:, 1000:].abs().max() > 1e-6  # the tail is as long as the longest decay


def test_a_decay_far_shorter_than_a_sample_is_no_room(words: Tensor) -> None:
    reverberant = training(RandomRoom(RATE, shortest=1e-6, longest=1e-6, share=1.0))(words)
    torch.testing.assert_close(reverberant, words, atol=1e-6, rtol=1e-4)


def test_a_room_spares_the_padding_and_the_other_clips(words: Tensor) -> None:
    assert torch.equal(training(RandomRoom(RATE, share=0.0))(words), words)
    reverberant = training(RandomRoom(RATE, share=1.0))(words)
    for row, length in enumerate(LENGTHS):
        assert not reverberant[row, length:].any()


def test_a_share_of_the_clips_is_inverted() -> None:
    waveforms = noises(1000, 50)
    turned = training(RandomGain(0, 0, inverted=0.3))(waveforms) / waveforms
    assert torch.equal(turned.abs(), torch.ones(1000, 50))
    assert (turned[:, 0] < 0).float().mean() == pytest.approx(0.3, abs=0.05)


@given(st.floats(1, 1000), st.floats(1, 4), st.integers(1, 6))
def test_butterworth_edges_are_at_half_power(lower: float, times: float, order: int) -> None:
    far = torch.tensor(1e12)
    edge = torch.tensor([lower])
    assert butterworth(edge, edge, far, order).item() == pytest.approx(0.5**0.5, rel=1e-4)
    assert butterworth(edge, torch.tensor(1e-9), edge, order).item() == pytest.approx(0.5**0.5, rel=1e-4)
    # Beyond the edge a slope falls by 6 dB an octave and order, from half power on.
    assert butterworth(edge * times, torch.tensor(1e-9), edge, order).item() == pytest.approx(
        1 / (1 + times ** (2 * order)) ** 0.5, rel=1e-3
    )


def test_a_mask_is_one_stretch_of_silence_within_the_word() -> None:
    waveforms = torch.ones(400, 1000)
    waveforms[:, 500:] = 0
    masked = training(TimeMask(0.2))(waveforms)
    hidden = masked != waveforms
    assert not masked[hidden].any()
    assert (hidden.diff(dim=1).sum(dim=1) <= 2).all()  # one stretch
    lost = hidden.sum(dim=1)
    assert lost.max() <= 101 and lost.max() > 90 and lost.float().mean() == pytest.approx(50, abs=5)
    middle = (hidden * torch.arange(1000.0)).sum(dim=1) / lost.clamp(min=1)
    assert middle[lost > 0].min() < 50 and middle.max() > 450
    assert torch.equal(training(TimeMask(0.0))(waveforms), waveforms)


def test_as_many_masks_as_asked_for() -> None:
    waveforms = torch.ones(200, 1000)
    stretches = (training(TimeMask(0.02, masks=3))(waveforms) == 0).int().diff(dim=1).clamp(min=0).sum(dim=1)
    assert stretches.max() == 3


# Mixing at a level


@given(st.floats(-20, 40), st.floats(1e-3, 1e3), st.integers(2, 60), st.integers(0, 1000))
def test_mixed_reaches_the_ratio_whatever_the_levels(snr: float, loudness: float, length: int, seed: int) -> None:
    waveforms, noise = noises(2, 60, seed), loudness * noises(2, 60, seed + 1)
    waveforms[0, length:] = 0
    added = mixed(waveforms, noise, snr).double() - waveforms.double()
    assert not added[0, length:].any()
    for row, sounding in enumerate((length, 60)):
        ratio = ratio_in_db(waveforms[row, :sounding], added[row, :sounding])
        assert ratio == pytest.approx(snr, abs=0.05)
        assert torch.cosine_similarity(added[row, :sounding], noise[row, :sounding].double(), dim=0) > 0.999


def test_mixed_takes_a_ratio_for_each_clip() -> None:
    waveforms, noise = noises(2, 4000), noises(2, 4000, seed=1)
    added = mixed(waveforms, noise, torch.tensor([[0.0], [20.0]])) - waveforms
    assert [ratio_in_db(waveforms[row], added[row]) for row in range(2)] == pytest.approx([0, 20], abs=0.01)


def test_silence_and_silent_noise_are_mixed_without_harm() -> None:
    waveforms = noises(3, 50)
    waveforms[0] = 0
    waveforms[1, 25:] = 0
    noise = noises(3, 50, seed=1)
    noise[1, :25] = 0  # sounds in the padding alone
    noise[2] = 0
    assert torch.equal(mixed(waveforms, noise, 0.0), waveforms)


def test_zeros_within_a_word_are_no_padding() -> None:
    waveforms = torch.tensor([[0.0, 0, 1, 0, -1, 0, 0], [0] * 7, [1] * 7])
    assert before_padding(waveforms).sum(dim=1).tolist() == [5, 0, 7]
    assert before_padding(waveforms)[0].tolist() == [True] * 5 + [False] * 2


def response_of(layer: Augmentation, samples: int, seed: int) -> np.ndarray:
    """The impulse response of the draw that a seed gives, `samples` before and after the impulse."""
    impulse = torch.zeros(1, 2 * samples + 1)
    impulse[0, samples], impulse[0, -1] = 1.0, 1e-30  # not padding
    return training(layer, seed)(impulse)[0].numpy()


def test_a_channel_is_one_linear_filter_a_clip() -> None:
    layer = RandomChannel(std_db=6, share=1.0)
    response = response_of(layer, 4000, seed=3)
    sound = noises(1, 3000)
    expected = scipy.signal.fftconvolve(sound[0].numpy(), response)[4000:7000]
    # The filter is drawn for another length, so that the two agree up to how finely its response is sampled.
    changed = training(layer, 3)(sound)[0].numpy()
    assert np.abs(changed - expected).max() < 0.01 * np.abs(expected).max()
    assert np.abs(changed - sound[0].numpy()).max() > 0.1 * sound.abs().max()
    np.testing.assert_allclose(response[:4000], response[:4000:-1], atol=1e-5)  # no phase


def test_the_gain_of_a_channel_is_drawn_in_decibels_at_equally_spaced_frequencies_and_linear_in_between() -> None:
    levels = []
    for seed in range(300):
        response = response_of(RandomChannel(std_db=6, points=5, share=1.0), 512, seed)
        level = 20 * np.log10(np.abs(np.fft.rfft(response, 1025))[: 512 + 1])
        levels.append(np.interp(np.linspace(0, 1, 17), np.linspace(0, 1, len(level)), level))
    levels = np.array(levels)[:, 1:-1]  # the ends ring a little beyond what is kept of the response
    at_points, between = levels[:, 3::4], levels[:, 1::4]
    assert at_points.mean() == pytest.approx(0, abs=0.8) and at_points.std() == pytest.approx(6, rel=0.1)
    lines = (levels[:, 3:-4:4] + levels[:, 7::4]) / 2
    assert np.abs(between[:, 1:-1] - lines).max() < 0.3


def test_a_channel_without_gain_and_clips_that_are_not_chosen_stay_as_they_are(words: Tensor) -> None:
    torch.testing.assert_close(training(RandomChannel(std_db=0, share=1.0))(words), words, atol=1e-6, rtol=0)
    assert torch.equal(training(RandomChannel(share=0.0))(words), words)
    changed = (training(RandomChannel())(words[3:, :500].expand(300, -1)) != words[3:, :500]).any(dim=1)
    assert changed.float().mean() == pytest.approx(0.8, abs=0.06)


def test_a_channel_leaves_the_padding_silent(words: Tensor) -> None:
    changed = training(RandomChannel(share=1.0))(words)
    for row, length in enumerate(LENGTHS):
        assert not changed[row, length:].any()
