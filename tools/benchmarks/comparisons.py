"""The front ends of SincNet and LEAF, small and from the papers, to compare the gammatone layer with."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class SincFrontEnd(nn.Module):
    """Waveforms (batch, samples) -> (batch, n_filters, frames): band-pass filters between two learned frequencies.

    Each is the difference of two sinc low-passes under a Hamming window, with mel-spaced bands at the start. The mean
    of the squares over `window` samples, every `hop`, takes the place of SincNet's pooling, and the logarithm follows.

    Source: Ravanelli and Bengio 2018, "Speaker recognition from raw waveform with SincNet".
    """

    def __init__(self, n_filters: int, sample_rate: int, taps: int, window: int, hop: int) -> None:
        super().__init__()
        edges = _mel_spaced(n_filters + 1, sample_rate) / sample_rate
        self.low, self.width = nn.Parameter(edges[:-1].clone()), nn.Parameter(edges.diff())
        self.register_buffer("time", torch.arange(taps) - (taps - 1) / 2)
        self.register_buffer("taper", torch.hamming_window(taps, periodic=False))
        self.window, self.hop = window, hop

    def forward(self, waveforms: Tensor) -> Tensor:
        low = self.low.abs()
        high = (low + self.width.abs()).clamp(max=0.5)
        high_pass, low_pass = (2 * f[:, None] * torch.sinc(2 * f[:, None] * self.time) for f in (low, high))
        kernels = (low_pass - high_pass) * self.taper
        outputs = _filtered(waveforms, kernels)
        return torch.log(functional.avg_pool1d(outputs.square(), self.window, self.hop) + 1e-10)


class LeafFrontEnd(nn.Module):
    """Waveforms (batch, samples) -> (batch, n_filters, frames): Gabor filters, Gaussian windows, PCEN, all learned.

    A complex Gabor filter has a learned centre frequency and width, mel-spaced at the start. The squared modulus is
    averaged under a Gaussian window of learned width for each filter, every `hop` samples. Then each filter has its own
    exponential smoothing, exponent, offset and root.

    Source: Zeghidour et al. 2021, "LEAF: a learnable frontend for audio classification".
    """

    def __init__(self, n_filters: int, sample_rate: int, taps: int, window: int, hop: int) -> None:
        super().__init__()
        edges = _mel_spaced(n_filters + 2, sample_rate) / sample_rate
        self.centre = nn.Parameter(2 * math.pi * edges[1:-1])
        # Half of the greatest response is at the neighbours' centres.
        self.width = nn.Parameter(math.sqrt(2 * math.log(2)) / (math.pi * (edges[2:] - edges[:-2])))
        self.pool_width = nn.Parameter(torch.full((n_filters,), 0.4))
        self.smoothing = nn.Parameter(torch.full((n_filters,), 0.04))
        self.power = nn.Parameter(torch.full((n_filters, 1), 0.96))
        self.offset = nn.Parameter(torch.full((n_filters, 1), 2.0))
        self.root = nn.Parameter(torch.full((n_filters, 1), 2.0))
        self.register_buffer("time", torch.arange(taps) - (taps - 1) / 2)
        self.register_buffer("pool_time", torch.linspace(-1, 1, window))
        self.hop = hop

    def forward(self, waveforms: Tensor) -> Tensor:
        width = self.width[:, None]
        envelope = torch.exp(-0.5 * (self.time / width) ** 2) / (math.sqrt(2 * math.pi) * width)
        phase = self.centre[:, None] * self.time
        kernels = torch.cat([envelope * torch.cos(phase), envelope * torch.sin(phase)])
        outputs = _filtered(waveforms, kernels)
        modulus = outputs.square().unflatten(1, (2, -1)).sum(1)
        window = torch.exp(-0.5 * (self.pool_time / self.pool_width[:, None].clamp(0.02, 0.5)) ** 2)
        energies = functional.conv1d(modulus, window[:, None], stride=self.hop, groups=len(window)).clamp(min=1e-5)
        smoothing, mean, means = self.smoothing.clamp(0, 1), energies[..., 0], []
        for frame in energies.unbind(-1):
            mean = smoothing * frame + (1 - smoothing) * mean
            means.append(mean)
        level = (1e-12 + torch.stack(means, -1)) ** self.power.clamp(max=1)
        root = 1 / self.root.clamp(min=1)
        return (energies / level + self.offset) ** root - self.offset**root


def _filtered(waveforms: Tensor, kernels: Tensor) -> Tensor:
    """Waveforms (batch, samples) through symmetric kernels (n, taps): outputs (batch, n, samples)."""
    # Padded beforehand: with its own padding this convolution took up to 200 times as long in torch 2.11.
    padded = functional.pad(waveforms, (kernels.shape[1] // 2, (kernels.shape[1] - 1) // 2))
    return functional.conv1d(padded[:, None], kernels[:, None])


def _mel_spaced(points: int, sample_rate: int) -> Tensor:
    """Frequencies in Hz from 60 Hz, or a hundredth of the sample rate, to half the sample rate."""
    ends = 2595 * torch.log10(1 + torch.tensor([min(60.0, sample_rate / 100), sample_rate / 2]) / 700)
    return 700 * (10 ** (torch.linspace(*ends.tolist(), points) / 2595) - 1)
