"""Random changes that keep the label, as layers: they act in training mode only, on whole batches, on any device.

Each clip of a batch gets its own draw. The first group takes waveforms (batch, samples), the second time-frequency
images (batch, bands, frames), so that a front end can be written as one nn.Sequential of both around its spectrogram.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.layers.spectrogram import require_waveforms, sounding_length


class _TrainingOnly(nn.Module):
    """Base: `forward` is the identity in evaluation mode and for empty batches."""

    def forward(self, batch: Tensor) -> Tensor:
        if not self.training or batch.numel() == 0:
            return batch
        return self.augment(batch)

    def augment(self, batch: Tensor) -> Tensor:
        raise NotImplementedError

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in vars(self).items() if isinstance(value, int | float))


def _uniform(waveforms: Tensor, low: float, high: float) -> Tensor:
    return torch.empty(len(waveforms), 1, device=waveforms.device).uniform_(low, high)


class RandomTrim(_TrainingOnly):
    """Waveforms cut at random at both ends: recordings are trimmed by different people in different ways.

    Of the part before the padding zeros, up to the fraction `cut` is lost at each end, in `share` of the clips.

    Notebook: 02_spoken_digits_cnn
    """

    def __init__(self, cut: float = 0.12, share: float = 0.7) -> None:
        super().__init__()
        if not 0 <= cut < 0.5:
            raise ValueError(f"cut is {cut}; each end can lose a fraction from 0 to under 0.5")
        self.cut, self.share = cut, share

    def augment(self, waveforms: Tensor) -> Tensor:
        require_waveforms(waveforms)
        length = sounding_length(waveforms)
        first, lost = (
            (_uniform(waveforms, 0, self.cut) * length * (_uniform(waveforms, 0, 1) < self.share)).long()
            for _ in range(2)
        )
        position = torch.arange(waveforms.shape[1], device=waveforms.device) + first
        return torch.where(
            position < length - lost, waveforms.gather(1, position.clamp(max=waveforms.shape[1] - 1)), 0.0
        )


class AddNoise(_TrainingOnly):
    """Waveforms with noise added, `lowest_snr` to `highest_snr` dB below their level, but none to the padding zeros.

    Each clip draws its own colour, between white and pink (power falling as 1/f to the power 0 .. 2).

    Notebook: 02_spoken_digits_cnn
    """

    def __init__(self, lowest_snr: float = 8.0, highest_snr: float = 45.0) -> None:
        super().__init__()
        if lowest_snr > highest_snr:
            raise ValueError(f"lowest_snr {lowest_snr} dB is above highest_snr {highest_snr} dB")
        self.lowest_snr, self.highest_snr = lowest_snr, highest_snr

    def augment(self, waveforms: Tensor) -> Tensor:
        require_waveforms(waveforms)
        with torch.autocast(waveforms.device.type, enabled=False):
            waveforms = waveforms.float()
            samples = waveforms.shape[1]
            frequency = torch.arange(samples // 2 + 1, device=waveforms.device).clamp(min=1)
            spectrum = torch.randn(len(waveforms), len(frequency), dtype=torch.complex64, device=waveforms.device)
            noise = torch.fft.irfft(spectrum * frequency ** -_uniform(waveforms, 0.0, 1.0), n=samples)
            noise = torch.where(torch.arange(samples, device=noise.device) < sounding_length(waveforms), noise, 0.0)
            level = waveforms.square().mean(dim=1, keepdim=True).sqrt()
            noise_level = noise.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-9)
            snr = _uniform(waveforms, self.lowest_snr, self.highest_snr)
            return waveforms + noise * (level / noise_level) * 10 ** (-snr / 20)


class RandomEqualiser(_TrainingOnly):
    """Images in dB (batch, bands, frames) through a smooth random frequency response: another microphone or room.

    The gain at `points` equally spaced bands is normal with standard deviation `std_db`, linear in between.

    Notebook: 02_spoken_digits_cnn
    """

    def __init__(self, std_db: float = 4.0, points: int = 6) -> None:
        super().__init__()
        self.std_db, self.points = std_db, points

    def augment(self, images: Tensor) -> Tensor:
        gain = self.std_db * torch.randn(len(images), 1, self.points, device=images.device)
        gain = functional.interpolate(gain, images.shape[1], mode="linear", align_corners=True)
        return images + gain.transpose(1, 2)


class TimeFrequencyWarp(_TrainingOnly):
    """Images (batch, bands, frames) stretched and moved along time and along frequency: another way to say it.

    Along time by a factor from `1 / (1 + tempo)` to `1 + tempo` and up to the fraction `delay` of the frames either
    way; along frequency by a log-normal factor with standard deviation `stretch` and a normal `shift` (fraction of
    the bands), as a longer or shorter vocal tract does. The image goes on beyond its edges as it is there.
    Source: Jaitly and Hinton 2013, "Vocal tract length perturbation", here on the mel axis.

    Notebook: 02_spoken_digits_cnn
    """

    def __init__(self, tempo: float = 0.28, delay: float = 0.08, stretch: float = 0.07, shift: float = 0.04) -> None:
        super().__init__()
        self.tempo, self.delay, self.stretch, self.shift = tempo, delay, stretch, shift

    def augment(self, images: Tensor) -> Tensor:
        def normal() -> Tensor:
            return torch.randn(len(images), device=images.device)

        slowest = math.log(1 + self.tempo)
        affine = torch.zeros(len(images), 2, 3, device=images.device)
        # In the coordinates of affine_grid an axis runs from -1 to 1.
        affine[:, 0, 0] = _uniform(images, -slowest, slowest)[:, 0].exp()
        affine[:, 0, 2] = 2 * _uniform(images, -self.delay, self.delay)[:, 0]
        affine[:, 1, 1] = (self.stretch * normal()).exp()
        affine[:, 1, 2] = 2 * self.shift * normal()
        grid = functional.affine_grid(affine, [len(images), 1, *images.shape[1:]], align_corners=False)
        return functional.grid_sample(images[:, None], grid, padding_mode="border", align_corners=False)[:, 0]


class SpecAugment(_TrainingOnly):
    """Images (batch, bands, frames) with random bands and random stretches of time replaced by the clip's mean.

    `masks` masks an axis, each up to `frequency_width` bands or `time_width` frames wide.
    Source: Park et al. 2019, "SpecAugment".

    Notebook: 02_spoken_digits_cnn
    """

    def __init__(self, frequency_width: int = 8, time_width: int = 12, masks: int = 2) -> None:
        super().__init__()
        self.frequency_width, self.time_width, self.masks = frequency_width, time_width, masks

    def augment(self, images: Tensor) -> Tensor:
        mean = images.mean(dim=(1, 2), keepdim=True)
        for axis, width in ((1, self.frequency_width), (2, self.time_width)):
            place = torch.arange(images.shape[axis], device=images.device)
            hidden = torch.zeros(len(images), images.shape[axis], dtype=torch.bool, device=images.device)
            for _ in range(self.masks):
                wide = _uniform(images, 0, min(width, images.shape[axis]))
                first = torch.rand_like(wide) * (images.shape[axis] - wide)
                hidden |= (place >= first) & (place < first + wide)
            images = torch.where(hidden.unsqueeze(3 - axis), mean, images)
        return images
