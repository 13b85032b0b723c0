"""Augmentation of waveforms (batch, samples)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from course_lib.layers.augmentation import Augmentation, uniform
from course_lib.layers.spectrogram import require_waveforms, sounding_length


class WaveformAugmentation(Augmentation):
    """Base: checks the waveforms and calls `change` on them in float32, autocast or not."""

    def augment(self, waveforms: Tensor) -> Tensor:
        require_waveforms(waveforms)
        with torch.autocast(waveforms.device.type, enabled=False):
            return self.change(waveforms.float())

    def change(self, waveforms: Tensor) -> Tensor:
        raise NotImplementedError


class RandomGain(WaveformAugmentation):
    """Waveforms made louder or softer by `lowest_db` to `highest_db`: another distance from the microphone.

    A share of `inverted` clips is turned upside down, as by a microphone of the other polarity.

    Notebook: 03_raw_waveforms_sample_cnn
    """

    def __init__(self, lowest_db: float = -12.0, highest_db: float = 6.0, inverted: float = 0.0) -> None:
        super().__init__()
        _require_order("lowest_db", lowest_db, "highest_db", highest_db)
        self.lowest_db, self.highest_db, self.inverted = lowest_db, highest_db, inverted

    def change(self, waveforms: Tensor) -> Tensor:
        gain = 10 ** (uniform(waveforms, self.lowest_db, self.highest_db) / 20)
        if self.inverted:  # drawn only where asked for, so that what was trained without it can be trained again
            gain = torch.where(uniform(waveforms, 0, 1) < self.inverted, -gain, gain)
        return waveforms * gain


class RandomShift(WaveformAugmentation):
    """Waveforms moved earlier or later by up to `most` of the clip's length; what leaves is lost, zeros come in.

    Notebook: 03_raw_waveforms_sample_cnn
    """

    def __init__(self, most: float = 0.1) -> None:
        super().__init__()
        if not 0 <= most < 1:
            raise ValueError(f"most is {most}; a clip can move by a fraction from 0 to under 1 of its length")
        self.most = most

    def change(self, waveforms: Tensor) -> Tensor:
        samples = waveforms.shape[1]
        offset = (uniform(waveforms, -self.most, self.most) * samples).round().long()
        position = torch.arange(samples, device=waveforms.device) + offset
        inside = (position >= 0) & (position < samples)
        return torch.where(inside, waveforms.gather(1, position.clamp(0, samples - 1)), 0.0)


class RandomSpeed(WaveformAugmentation):
    """Waveforms played `slowest` to `fastest` times as fast (log-uniform), pitch and formants included.

    A slower clip loses what runs over its end, a faster one is padded with zeros. Values between samples are
    interpolated by a cubic through four of them. Source: Ko et al. 2015, "Audio augmentation for speech recognition";
    Catmull and Rom 1974.

    Notebook: 03_raw_waveforms_sample_cnn
    """

    def __init__(self, slowest: float = 0.85, fastest: float = 1.15) -> None:
        super().__init__()
        _require_order("slowest", slowest, "fastest", fastest)
        if slowest <= 0:
            raise ValueError(f"slowest is {slowest}; a speed is above 0")
        self.slowest, self.fastest = slowest, fastest

    def change(self, waveforms: Tensor) -> Tensor:
        samples = waveforms.shape[1]
        speed = uniform(waveforms, math.log(self.slowest), math.log(self.fastest)).exp()
        place = torch.arange(samples, device=waveforms.device) * speed
        before = place.long()
        t = place - before

        def neighbour(offset: int) -> Tensor:
            return waveforms.gather(1, (before + offset).clamp(0, samples - 1))

        a, b, c, d = (neighbour(offset) for offset in (-1, 0, 1, 2))
        between = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
        return torch.where(place <= samples - 1, between, 0.0)


class RandomTrim(WaveformAugmentation):
    """Waveforms cut at random at both ends: recordings are trimmed by different people in different ways.

    Of the part before the padding zeros, up to the fraction `cut` is lost at each end, in `share` of the clips.

    Notebook: 02_spoken_digits_cnn
    """

    def __init__(self, cut: float = 0.12, share: float = 0.7) -> None:
        super().__init__()
        if not 0 <= cut < 0.5:
            raise ValueError(f"cut is {cut}; each end can lose a fraction from 0 to under 0.5")
        self.cut, self.share = cut, share

    def change(self, waveforms: Tensor) -> Tensor:
        length = sounding_length(waveforms)
        first, lost = (
            (uniform(waveforms, 0, self.cut) * length * (uniform(waveforms, 0, 1) < self.share)).long()
            for _ in range(2)
        )
        position = torch.arange(waveforms.shape[1], device=waveforms.device) + first
        return torch.where(
            position < length - lost, waveforms.gather(1, position.clamp(max=waveforms.shape[1] - 1)), 0.0
        )


class AddNoise(WaveformAugmentation):
    """Waveforms with noise added, `lowest_snr` to `highest_snr` dB below their level, but none to the padding zeros.

    Each clip draws its own colour, between white and brown (power falling as 1/f to the power 0 .. 2).

    Notebook: 02_spoken_digits_cnn
    """

    def __init__(self, lowest_snr: float = 8.0, highest_snr: float = 45.0) -> None:
        super().__init__()
        _require_order("lowest_snr", lowest_snr, "highest_snr", highest_snr)
        self.lowest_snr, self.highest_snr = lowest_snr, highest_snr

    def change(self, waveforms: Tensor) -> Tensor:
        samples = waveforms.shape[1]
        frequency = torch.arange(samples // 2 + 1, device=waveforms.device).clamp(min=1)
        spectrum = torch.randn(len(waveforms), len(frequency), dtype=torch.complex64, device=waveforms.device)
        noise = torch.fft.irfft(spectrum * frequency ** -uniform(waveforms, 0.0, 1.0), n=samples)
        return mixed(waveforms, noise, uniform(waveforms, self.lowest_snr, self.highest_snr))


class MixBackground(WaveformAugmentation):
    """Waveforms with another clip of the batch in the background, `lowest_snr` to `highest_snr` dB below their level.

    The label stays that of the foreground. A batch of one clip stays as it is.

    Notebook: 03_raw_waveforms_sample_cnn
    """

    def __init__(self, lowest_snr: float = 5.0, highest_snr: float = 30.0, share: float = 0.5) -> None:
        super().__init__()
        _require_order("lowest_snr", lowest_snr, "highest_snr", highest_snr)
        self.lowest_snr, self.highest_snr, self.share = lowest_snr, highest_snr, share

    def change(self, waveforms: Tensor) -> Tensor:
        if len(waveforms) == 1:
            return waveforms
        clips = torch.arange(len(waveforms), device=waveforms.device)
        other = (clips + torch.randint(1, len(clips), clips.shape, device=clips.device)) % len(clips)
        both = mixed(waveforms, waveforms[other], uniform(waveforms, self.lowest_snr, self.highest_snr))
        return torch.where(uniform(waveforms, 0, 1) < self.share, both, waveforms)


class RandomBandFilter(WaveformAugmentation):
    """Waveforms through a band-pass filter with random edges: another telephone, microphone or wall.

    The lower edge lies between `lowest` and `low` Hz, the upper one between `high` and `highest` Hz (log-uniform);
    both slopes are those of a Butterworth filter of `order`, without its phase. Source: Butterworth 1930.

    Notebook: 03_raw_waveforms_sample_cnn
    """

    def __init__(
        self,
        sample_rate: int,
        lowest: float = 30.0,
        low: float = 300.0,
        high: float = 2500.0,
        highest: float = 4000.0,
        order: int = 2,
        share: float = 0.5,
    ) -> None:
        super().__init__()
        if not 0 < lowest <= low < high <= highest:
            raise ValueError(f"edges must rise from above 0: {lowest}, {low}, {high}, {highest} Hz do not")
        self.sample_rate, self.order, self.share = sample_rate, order, share
        self.lowest, self.low, self.high, self.highest = lowest, low, high, highest

    def change(self, waveforms: Tensor) -> Tensor:
        samples = waveforms.shape[1]
        frequency = torch.fft.rfftfreq(samples, 1 / self.sample_rate, device=waveforms.device)
        lower = uniform(waveforms, math.log(self.lowest), math.log(self.low)).exp()
        upper = uniform(waveforms, math.log(self.high), math.log(self.highest)).exp()
        gain = butterworth(frequency, lower, upper, self.order)
        filtered = torch.fft.irfft(torch.fft.rfft(waveforms) * gain, n=samples)
        chosen = (uniform(waveforms, 0, 1) < self.share) & before_padding(waveforms)
        return torch.where(chosen, filtered, waveforms)


class RandomRoom(WaveformAugmentation):
    """Waveforms as another room and microphone would return them: convolved with a random impulse response.

    The direct sound is followed by Gaussian noise that decays by 60 dB within `shortest` to `longest` seconds
    (log-uniform), `weakest_db` to `strongest_db` of its energy. It changes the phases as much as the spectrum, and
    ends where the padding zeros begin. Source: Moorer 1979, "About this reverberation business".

    Notebook: 03_raw_waveforms_sample_cnn
    """

    def __init__(
        self,
        sample_rate: int,
        shortest: float = 0.01,
        longest: float = 0.3,
        weakest_db: float = -20.0,
        strongest_db: float = 0.0,
        share: float = 0.8,
    ) -> None:
        super().__init__()
        _require_order("shortest", shortest, "longest", longest)
        _require_order("weakest_db", weakest_db, "strongest_db", strongest_db)
        if shortest <= 0:
            raise ValueError(f"shortest is {shortest}; a decay takes longer than 0 s")
        self.sample_rate, self.share = sample_rate, share
        self.shortest, self.longest = shortest, longest
        self.weakest_db, self.strongest_db = weakest_db, strongest_db

    def change(self, waveforms: Tensor) -> Tensor:
        samples, taps = waveforms.shape[1], max(2, round(self.longest * self.sample_rate))
        seconds = torch.arange(1, taps, device=waveforms.device) / self.sample_rate
        decay = uniform(waveforms, math.log(self.shortest), math.log(self.longest)).exp()
        tail = torch.randn(len(waveforms), taps - 1, device=waveforms.device) * 10 ** (-3 * seconds / decay)
        strength = 10 ** (uniform(waveforms, self.weakest_db, self.strongest_db) / 20)
        tail = strength * functional.normalize(tail)  # all zeros where the decay is far shorter than a sample
        size = 1024 * math.ceil((samples + taps) / 1024)  # a length with large prime factors takes ten times as long
        transfer = 1 + torch.fft.rfft(functional.pad(tail, (1, 0)), n=size)
        heard = torch.fft.irfft(torch.fft.rfft(waveforms, n=size) * transfer, n=size)[:, :samples]
        chosen = (uniform(waveforms, 0, 1) < self.share) & before_padding(waveforms)
        return torch.where(chosen, heard, waveforms)


class TimeMask(WaveformAugmentation):
    """Waveforms with `masks` random stretches silenced, each up to `longest` of the part before the padding zeros.

    Notebook: 03_raw_waveforms_sample_cnn
    """

    def __init__(self, longest: float = 0.1, masks: int = 1) -> None:
        super().__init__()
        if not 0 <= longest <= 1:
            raise ValueError(f"longest is {longest}; a mask covers a fraction from 0 to 1")
        self.longest, self.masks = longest, masks

    def change(self, waveforms: Tensor) -> Tensor:
        place = torch.arange(waveforms.shape[1], device=waveforms.device)
        length = sounding_length(waveforms)
        for _ in range(self.masks):
            wide = uniform(waveforms, 0, self.longest) * length
            first = uniform(waveforms, 0, 1) * (length - wide)
            waveforms = torch.where((place >= first) & (place < first + wide), 0.0, waveforms)
        return waveforms


def mixed(waveforms: Tensor, noise: Tensor, snr: Tensor | float) -> Tensor:
    """Waveforms plus noise of the same shape, cut off where the padding zeros begin, at a signal-to-noise ratio in dB.

    Levels are root mean squares over the part before the padding zeros. Silent clips, and noise that is silent
    there, are left without.
    """
    noise = torch.where(before_padding(waveforms), noise, 0.0)
    level = waveforms.square().mean(dim=1, keepdim=True).sqrt()
    noise_level = noise.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-9)
    return waveforms + noise * (level / noise_level) * 10 ** (-snr / 20)


def before_padding(waveforms: Tensor) -> Tensor:
    """Which samples come before the padding zeros, shape (batch, samples)."""
    return torch.arange(waveforms.shape[1], device=waveforms.device) < sounding_length(waveforms)


def butterworth(frequency: Tensor, lower: Tensor, upper: Tensor, order: int) -> Tensor:
    """Gain of a high-pass at `lower` times a low-pass at `upper`, at each frequency (all Hz); -3 dB at the edges."""
    high_pass = 1 / (1 + (lower / frequency.clamp(min=1e-3)) ** (2 * order)).sqrt()
    return high_pass / (1 + (frequency / upper) ** (2 * order)).sqrt()


def _require_order(lower_name: str, lower: float, upper_name: str, upper: float) -> None:
    if lower > upper:
        raise ValueError(f"{lower_name} {lower} is above {upper_name} {upper}")
