"""Convolution through the FFT in plain torch, with the derivatives computed in the forward pass."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from course_lib.layers.gammatone import response
from course_lib.layers.gammatone.pooling import Pooling

_VALUES_AT_ONCE = 2**22


def energies(
    waveforms: Tensor, decay: Tensor, frequency: Tensor, power: Tensor, order: int, pooling: Pooling
) -> tuple[Tensor, Tensor, Tensor]:
    """`power` times the energies of waveforms (batch, samples), and their derivatives by `decay` and `frequency`.

    Each has the shape (batch, filters, frames). A few clips and filters are filtered at a time, so that the memory
    in use does not grow with their number.
    """
    clips, samples = waveforms.shape
    maps = [waveforms.new_empty(clips, len(decay), pooling.frames(samples)) for _ in range(3)]
    taps = min(response.length(decay, order), samples)
    time, envelope, phase = response.parts(decay, frequency, order, taps)
    cosine, sine = envelope * torch.cos(phase), envelope * torch.sin(phase)
    kernels = torch.stack([cosine, time * cosine, time * sine]).to(waveforms.dtype)
    # Overlap-save: blocks of `size` samples that overlap by the length of the filters.
    size = _fast_length(min(4 * taps, samples + taps))
    step = size - taps + 1
    blocks = -(-samples // step)
    spectra = torch.fft.rfft(kernels, size)
    at_once = max(1, _VALUES_AT_ONCE // (3 * blocks * size))
    for clip in range(clips):
        padded = functional.pad(waveforms[clip], (taps - 1, blocks * step - samples))
        spectrum = torch.fft.rfft(padded.unfold(0, size, step))
        for filters in torch.arange(len(decay)).split(at_once):
            rows = slice(int(filters[0]), int(filters[-1]) + 1)
            filtered = torch.fft.irfft(spectra[:, rows, None] * spectrum, size)[..., taps - 1 :]
            output, by_decay, by_angle = filtered.flatten(2)[..., :samples]
            products = torch.stack([output * output, -2 * output * by_decay, -2 * output * by_angle])
            for values, means in zip(maps, pooling.mean(products), strict=True):
                values[clip, rows] = means
    energy, by_decay, by_frequency = (power[:, None] * values for values in maps)
    return energy, by_decay + (2 * order / decay)[:, None] * energy, by_frequency  # the level depends on the decay, too


def outputs(waveforms: Tensor, decay: Tensor, frequency: Tensor, order: int, analytic: bool) -> Tensor:
    """Outputs (batch, filters, samples) of the filters on waveforms (batch, samples), complex if `analytic`.

    Plain torch with every derivative, and the responses as long as the waveforms where a program is exported, which
    can look at no value.
    """
    samples = waveforms.shape[-1]
    exporting = torch.compiler.is_exporting()
    taps = samples if exporting else min(response.length(decay, order), samples)
    _, envelope, phase = response.parts(decay, frequency, order, taps)
    size = 2 * samples if exporting else _fast_length(max(1, samples + taps - 1))
    spectrum = torch.fft.rfft(waveforms[:, None], size)
    real = (envelope * torch.cos(phase)).to(waveforms.dtype)
    output = torch.fft.irfft(torch.fft.rfft(real, size) * spectrum, size)[..., :samples]
    if not analytic:
        return output
    imaginary = (envelope * torch.sin(phase)).to(waveforms.dtype)
    turned = torch.fft.irfft(torch.fft.rfft(imaginary, size) * spectrum, size)[..., :samples]
    return torch.complex(output, turned)


def energies_gradient(
    grad: Tensor, waveforms: Tensor, decay: Tensor, frequency: Tensor, power: Tensor, order: int, pooling: Pooling
) -> Tensor:
    """The gradient (batch, samples) of waveforms, from that of the energies, a clip at a time."""
    samples = waveforms.shape[1]
    taps = min(response.length(decay, order), samples)
    kernels = response.impulse_response(decay, frequency, order, taps).to(waveforms.dtype)
    size = _fast_length(samples + taps - 1)
    spectra = torch.fft.rfft(kernels, size)
    gradient = torch.empty_like(waveforms)
    for clip in range(len(waveforms)):
        output = torch.fft.irfft(torch.fft.rfft(waveforms[clip], size) * spectra, size)[:, :samples]
        by_output = 2 * output * pooling.spread(power[:, None] * grad[clip], samples)
        total = (torch.fft.rfft(by_output, size) * spectra.conj()).sum(0)
        gradient[clip] = torch.fft.irfft(total, size)[:samples]
    return gradient


def _fast_length(samples: int) -> int:
    """The least length from `samples` on that has no prime factor above 5, which FFTs like."""
    lengths = (
        3**threes * 5**fives * 2 ** math.ceil(math.log2(max(1, samples / (3**threes * 5**fives))))
        for threes in range(math.ceil(math.log(samples, 3)) + 1)
        for fives in range(math.ceil(math.log(samples, 5)) + 1)
    )
    return min(lengths)
