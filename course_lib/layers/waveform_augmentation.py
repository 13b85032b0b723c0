"""Augmentation of waveforms (batch, samples): random changes that keep the label.

They are layers that act in training mode only, on whole batches, on any device; each clip gets its own draw.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.layers.arguments import number, ordered, whole
from course_lib.layers.waveforms import (
    before_padding,
    moved,
    position_type,
    require_waveforms,
    single_at_least,
    sounding_length,
)


class Augmentation(nn.Module):
    """Base: `augment` in training mode, the identity in evaluation mode and for empty batches.

    `augment` gets float32 (or float64), autocast or not; the result has the type of what was given.
    """

    def forward(self, batch: Tensor) -> Tensor:
        if not self.training:
            return batch
        self.check(batch)
        if batch.numel() == 0:
            return batch
        with torch.autocast(batch.device.type, enabled=False):
            return self.augment(batch.to(single_at_least(batch.dtype))).to(batch.dtype)

    def check(self, batch: Tensor) -> None:
        """Raise ValueError for a batch that this layer is not for."""
        require_waveforms(batch, at_least=0)

    def augment(self, batch: Tensor) -> Tensor:
        raise NotImplementedError

    def extra_repr(self) -> str:
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, int | float)}
        return ", ".join(f"{name}={value}" for name, value in numbers.items() if name != "training")


def uniform(batch: Tensor, low: float, high: float) -> Tensor:
    """A random number for each clip of a batch, shape (batch, 1)."""
    return torch.empty(len(batch), 1, device=batch.device, dtype=torch.float32).uniform_(low, high)


def other_clips(batch: Tensor) -> Tensor:
    """For each clip of a batch of two or more the number of another one, shape (batch,)."""
    clips = torch.arange(len(batch), device=batch.device)
    return (clips + torch.randint(1, len(clips), clips.shape, device=clips.device)) % len(clips)


def share_of(share: float) -> float:
    """A share of the clips, from 0 to 1."""
    return number("share", share, at_least=0, at_most=1)


class RandomGain(Augmentation):
    """Waveforms made louder or softer by `lowest_db` to `highest_db`: another distance from the microphone.

    A share of `inverted` clips is turned upside down, as by a microphone of the other polarity.

    Notebook: 03_raw_waveforms_sample_cnn
    """

    def __init__(self, lowest_db: float = -12.0, highest_db: float = 6.0, inverted: float = 0.0) -> None:
        super().__init__()
        self.lowest_db, self.highest_db = ordered("lowest_db", lowest_db, "highest_db", highest_db)
        self.inverted = number("inverted", inverted, at_least=0, at_most=1)

    def augment(self, waveforms: Tensor) -> Tensor:
        gain = 10 ** (uniform(waveforms, self.lowest_db, self.highest_db) / 20)
        if self.inverted:  # drawn only where asked for, so that what was trained without it can be trained again
            gain = torch.where(uniform(waveforms, 0, 1) < self.inverted, -gain, gain)
        return waveforms * gain


class RandomShift(Augmentation):
    """Waveforms shifted by up to the fraction `most` of the clip; shifted-out samples are dropped, gaps zero-filled.

    Notebook: 03_raw_waveforms_sample_cnn
    """

    def __init__(self, most: float = 0.1) -> None:
        super().__init__()
        self.most = number("most", most, at_least=0, below=1)

    def augment(self, waveforms: Tensor) -> Tensor:
        samples = waveforms.shape[1]
        first = (uniform(waveforms, -self.most, self.most) * samples).round().long()
        return moved(waveforms, first, samples)


class RandomStart(Augmentation):
    """Waveforms that begin up to the fraction `latest` of the clip later, in the noise of a room that fills the clip.

    A recorder that runs for a second hears the room before and after a word. The noise lies `lowest_snr` to
    `highest_snr` dB below the level of the word. No word is pushed out of its clip. The other clips,
    all but `share` of them, stay as they are.

    Notebook: 02_spoken_digits_cnn
    """

    def __init__(
        self, latest: float = 0.4, lowest_snr: float = 10.0, highest_snr: float = 60.0, share: float = 0.7
    ) -> None:
        super().__init__()
        self.latest, self.share = number("latest", latest, at_least=0, at_most=1), share_of(share)
        self.lowest_snr, self.highest_snr = ordered("lowest_snr", lowest_snr, "highest_snr", highest_snr)

    def augment(self, waveforms: Tensor) -> Tensor:
        samples, length = waveforms.shape[1], sounding_length(waveforms)
        room = (samples - length).clamp(max=self.latest * samples)
        first = (uniform(waveforms, 0, 1) * room).round().long()
        noise = coloured_noise(waveforms)
        word = waveforms.square().sum(dim=1, keepdim=True) / length.clamp(min=1)
        gain = (word / noise.square().mean(dim=1, keepdim=True).clamp(min=1e-18)).sqrt()
        noise = noise * gain * 10 ** (-uniform(waveforms, self.lowest_snr, self.highest_snr) / 20)
        chosen = uniform(waveforms, 0, 1) < self.share
        return torch.where(chosen, moved(waveforms, -first, samples) + noise, waveforms)


class RandomSpeed(Augmentation):
    """Waveforms played `slowest` to `fastest` times as fast (log-uniform), pitch and formants included.

    A slower clip loses what runs over its end, a faster one is padded with zeros. Values between samples are
    interpolated by a cubic through four of them. Source: Ko et al. 2015, "Audio augmentation for speech recognition";
    Catmull and Rom 1974.

    Notebook: 03b_rivals_and_noise
    """

    def __init__(self, slowest: float = 0.85, fastest: float = 1.15) -> None:
        super().__init__()
        self.slowest, self.fastest = ordered("slowest", number("slowest", slowest, above=0), "fastest", fastest)

    def augment(self, waveforms: Tensor) -> Tensor:
        samples = waveforms.shape[1]
        exact = position_type(waveforms.device)
        speed = self.slowest * (self.fastest / self.slowest) ** uniform(waveforms, 0, 1).to(exact)
        position = torch.arange(samples, device=waveforms.device, dtype=exact) * speed
        before = position.long()
        t = (position - before).to(waveforms.dtype)

        def neighbour(offset: int) -> Tensor:
            return waveforms.gather(1, (before + offset).clamp(0, samples - 1))

        a, b, c, d = (neighbour(offset) for offset in (-1, 0, 1, 2))
        between = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
        return torch.where(position <= samples - 1, between, 0.0)


class RandomTrim(Augmentation):
    """Waveforms cut at random at both ends: recordings are trimmed by different people in different ways.

    Of the part before the padding zeros, up to the fraction `cut` is lost at each end, in `share` of the clips.

    Notebook: 02_spoken_digits_cnn
    """

    def __init__(self, cut: float = 0.12, share: float = 0.7) -> None:
        super().__init__()
        self.cut, self.share = number("cut", cut, at_least=0, below=0.5), share_of(share)

    def augment(self, waveforms: Tensor) -> Tensor:
        length = sounding_length(waveforms)
        first, lost = (
            (uniform(waveforms, 0, self.cut) * length * (uniform(waveforms, 0, 1) < self.share)).long()
            for _ in range(2)
        )
        return moved(waveforms, first, length - lost)


class AddNoise(Augmentation):
    """Waveforms with noise added, `lowest_snr` to `highest_snr` dB below their level, but none to the padding zeros.

    Each clip draws its own colour, between white and brown (power falling as 1/f to the power 0 .. 2).

    Notebook: 02_spoken_digits_cnn
    """

    def __init__(self, lowest_snr: float = 8.0, highest_snr: float = 45.0) -> None:
        super().__init__()
        self.lowest_snr, self.highest_snr = ordered("lowest_snr", lowest_snr, "highest_snr", highest_snr)

    def augment(self, waveforms: Tensor) -> Tensor:
        return mixed(waveforms, coloured_noise(waveforms), uniform(waveforms, self.lowest_snr, self.highest_snr))


class MixBackground(Augmentation):
    """Waveforms with another clip of the batch in the background, `lowest_snr` to `highest_snr` dB below their level.

    The label stays that of the foreground. A batch of one clip stays as it is.

    Notebook: 03b_rivals_and_noise
    """

    def __init__(self, lowest_snr: float = 5.0, highest_snr: float = 30.0, share: float = 0.5) -> None:
        super().__init__()
        self.lowest_snr, self.highest_snr = ordered("lowest_snr", lowest_snr, "highest_snr", highest_snr)
        self.share = share_of(share)

    def augment(self, waveforms: Tensor) -> Tensor:
        if len(waveforms) == 1:
            return waveforms
        both = mixed(
            waveforms, waveforms[other_clips(waveforms)], uniform(waveforms, self.lowest_snr, self.highest_snr)
        )
        return torch.where(uniform(waveforms, 0, 1) < self.share, both, waveforms)


class RandomBandFilter(Augmentation):
    """Waveforms through a band-pass filter with random edges: another telephone, microphone or wall.

    The lower edge lies between `lowest` and `low` Hz, the upper one between `high` and `highest` Hz (log-uniform);
    both slopes are those of a Butterworth filter of `order`, without its phase. Source: Butterworth 1930.

    Notebook: 03b_rivals_and_noise
    """

    def __init__(
        self, sample_rate: int, lowest: float = 30.0, low: float = 300.0, high: float = 2500.0,
        highest: float = 4000.0, order: int = 2, share: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        self.sample_rate = number("sample_rate", sample_rate, above=0)
        self.order, self.share = whole("order", order), share_of(share)
        if not 0 < lowest <= low < high <= highest <= sample_rate / 2:
            raise ValueError(
                f"the edges lowest {lowest}, low {low}, high {high} and highest {highest} Hz must rise from above 0 to "
                f"at most half the sample rate, {sample_rate / 2:g} Hz"
            )
        self.lowest, self.low, self.high, self.highest = lowest, low, high, highest

    def augment(self, waveforms: Tensor) -> Tensor:
        samples = waveforms.shape[1]
        frequency = torch.fft.rfftfreq(samples, 1 / self.sample_rate, device=waveforms.device, dtype=waveforms.dtype)
        lower = uniform(waveforms, math.log(self.lowest), math.log(self.low)).exp()
        upper = uniform(waveforms, math.log(self.high), math.log(self.highest)).exp()
        gain = butterworth(frequency, lower, upper, self.order)
        filtered = torch.fft.irfft(torch.fft.rfft(waveforms) * gain, n=samples)
        chosen = (uniform(waveforms, 0, 1) < self.share) & before_padding(waveforms)
        return torch.where(chosen, filtered, waveforms)


class RandomChannel(Augmentation):
    """Waveforms through a filter with a smooth random frequency response: another microphone or stethoscope.

    The gain in dB is normal with standard deviation `std_db` at `points` frequencies, equally spaced from 0 to half the
    sample rate, and linear in between; phases stay. Nothing of the filtered sound is left beyond the beginning of the
    padding zeros. For log-mel images in dB this is what `RandomEqualiser` does to the images, since a filter
    shorter than the window of a spectrogram adds its gain to every frame, except where `top_db` cuts off.

    Notebook: 06_adversarial_devices
    """

    def __init__(self, std_db: float = 6.0, points: int = 6, share: float = 0.8) -> None:
        super().__init__()
        self.std_db, self.share = number("std_db", std_db, at_least=0), share_of(share)
        self.points = whole("points", points, at_least=2)

    def augment(self, waveforms: Tensor) -> Tensor:
        samples = waveforms.shape[1]
        size = 1024 * math.ceil(2 * samples / 1024)  # room for the filter to ring without coming round to the beginning
        level = self.std_db * torch.randn(len(waveforms), 1, self.points, device=waveforms.device, dtype=torch.float32)
        level = functional.interpolate(level, size // 2 + 1, mode="linear", align_corners=True)[:, 0]
        filtered = torch.fft.irfft(torch.fft.rfft(waveforms, n=size) * 10 ** (level / 20), n=size)[:, :samples]
        chosen = (uniform(waveforms, 0, 1) < self.share) & before_padding(waveforms)
        return torch.where(chosen, filtered, waveforms)


class RandomRoom(Augmentation):
    """Waveforms as another room and microphone would return them: convolved with a random impulse response.

    The direct sound is followed by Gaussian noise that decays by 60 dB within `shortest` to `longest` seconds
    (log-uniform), `weakest_db` to `strongest_db` of its energy. It changes the phases as much as the spectrum, and
    ends where the padding zeros begin. Source: Moorer 1979, "About this reverberation business".

    Notebook: 03b_rivals_and_noise
    """

    def __init__(
        self, sample_rate: int, shortest: float = 0.01, longest: float = 0.3, weakest_db: float = -20.0,
        strongest_db: float = 0.0, share: float = 0.8,
    ) -> None:  # fmt: skip
        super().__init__()
        self.sample_rate, self.share = number("sample_rate", sample_rate, above=0), share_of(share)
        self.shortest, self.longest = ordered("shortest", number("shortest", shortest, above=0), "longest", longest)
        self.weakest_db, self.strongest_db = ordered("weakest_db", weakest_db, "strongest_db", strongest_db)

    def augment(self, waveforms: Tensor) -> Tensor:
        samples, taps = waveforms.shape[1], max(2, round(self.longest * self.sample_rate))
        seconds = torch.arange(1, taps, device=waveforms.device, dtype=torch.float32) / self.sample_rate
        decay = uniform(waveforms, math.log(self.shortest), math.log(self.longest)).exp()
        tail = torch.randn(len(waveforms), taps - 1, device=waveforms.device, dtype=torch.float32)
        tail = tail * 10 ** (-3 * seconds / decay)
        strength = 10 ** (uniform(waveforms, self.weakest_db, self.strongest_db) / 20)
        tail = strength * functional.normalize(tail)  # all zeros where the decay is far shorter than a sample
        size = 1024 * math.ceil((samples + taps) / 1024)  # a length with large prime factors takes ten times as long
        transfer = 1 + torch.fft.rfft(functional.pad(tail, (1, 0)), n=size)
        reverberant = torch.fft.irfft(torch.fft.rfft(waveforms, n=size) * transfer, n=size)[:, :samples]
        chosen = (uniform(waveforms, 0, 1) < self.share) & before_padding(waveforms)
        return torch.where(chosen, reverberant, waveforms)


class TimeMask(Augmentation):
    """Waveforms with `masks` random stretches silenced, each up to `longest` of the part before the padding zeros.

    Notebook: 03b_rivals_and_noise
    """

    def __init__(self, longest: float = 0.1, masks: int = 1) -> None:
        super().__init__()
        self.longest = number("longest", longest, at_least=0, at_most=1)
        self.masks = whole("masks", masks, at_least=0)

    def augment(self, waveforms: Tensor) -> Tensor:
        position = torch.arange(waveforms.shape[1], device=waveforms.device)
        length = sounding_length(waveforms)
        for _ in range(self.masks):
            masked = uniform(waveforms, 0, self.longest) * length
            first = uniform(waveforms, 0, 1) * (length - masked)
            hidden = (position >= first.ceil().long()) & (position < (first + masked).ceil().long())
            waveforms = torch.where(hidden, 0.0, waveforms)
        return waveforms


def coloured_noise(waveforms: Tensor) -> Tensor:
    """Noise in the shape of waveforms, each clip of its own colour between white and brown; its level is arbitrary."""
    samples = waveforms.shape[1]
    frequency = torch.arange(samples // 2 + 1, device=waveforms.device).clamp(min=1)
    spectrum = torch.randn(len(waveforms), len(frequency), dtype=torch.complex64, device=waveforms.device)
    return torch.fft.irfft(spectrum * frequency ** -uniform(waveforms, 0.0, 1.0), n=samples)


def mixed(waveforms: Tensor, noise: Tensor, snr: Tensor | float) -> Tensor:
    """Waveforms plus noise of the same shape, cut off where the padding zeros begin, at a signal-to-noise ratio in dB.

    Levels are root mean squares over the part before the padding zeros. Silent clips, and noise that is silent
    there, are left without.
    """
    noise = torch.where(before_padding(waveforms), noise, 0.0)
    level = waveforms.square().mean(dim=1, keepdim=True).sqrt()
    noise_level = noise.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-9)
    return waveforms + noise * (level / noise_level) * 10 ** (-snr / 20)


def butterworth(frequency: Tensor, lower: Tensor, upper: Tensor, order: int) -> Tensor:
    """Gain of a high-pass at `lower` times a low-pass at `upper`, at each frequency (all Hz); -3 dB at the edges."""
    high_pass = 1 / (1 + (lower / frequency.clamp(min=1e-3)) ** (2 * order)).sqrt()
    return high_pass / (1 + (frequency / upper) ** (2 * order)).sqrt()
