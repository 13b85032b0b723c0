"""The filters' outputs as signals: their delays, and waveforms from them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from course_lib.layers.gammatone import response

# Of the greatest sum of squared gains: where less than that comes through all filters, nothing is put back.
_LEAST_POWER = 1e-4


def as_rows(waveforms: Tensor, at_least: int = 0) -> tuple[Tensor, torch.Size]:
    """Waveforms (..., samples) as (rows, samples), and the leading shape. Raises ValueError for anything else."""
    if waveforms.ndim == 0 or not waveforms.is_floating_point():
        got = f"{waveforms.dtype} {tuple(waveforms.shape)}"
        raise ValueError(f"expected floating-point waveforms of shape (..., samples), got {got}")
    if waveforms.shape[-1] < at_least:
        raise ValueError(f"a clip of {waveforms.shape[-1]} samples is too short; this layer needs {at_least}")
    leading = waveforms.shape[:-1]
    return waveforms.reshape(math.prod(leading), waveforms.shape[-1]), leading


def delays(decay: Tensor, order: int) -> Tensor:
    """Samples from a click to the peak of the filters' envelopes t^(order-1) exp(-decay t), shape (filters,)."""
    return (order - 1) / decay.detach()


def aligned(outputs: Tensor, decay: Tensor, frequency: Tensor, order: int) -> Tensor:
    """Complex outputs (..., filters, samples), each band earlier by its delay and turned by its phase at the peak.

    The answers of all bands to a click then peak at the click. Delays are rounded to samples, phases are not; behind
    the end there is silence.
    """
    shifts = delays(decay, order).round().long()
    phases = torch.exp(torch.complex(torch.zeros_like(frequency), -frequency * shifts))
    samples = outputs.shape[-1]
    position = torch.arange(samples, device=outputs.device) + shifts[:, None]
    inside = position < samples
    taken = outputs.gather(-1, position.clamp(max=max(0, samples - 1)).expand(outputs.shape))
    return torch.where(inside, taken * phases[:, None], 0)


def synthesise(bands: Tensor, decay: Tensor, frequency: Tensor, gains: Tensor, order: int) -> Tensor:
    """The waveforms (..., samples) whose outputs are nearest to real `bands` (..., filters, samples).

    With the frequency responses H_i of the filters, X = sum of conj(H_i) Y_i / sum of |H_i|^2, and 0 where this sum is
    below 1e-4 of its greatest value.
    """
    samples = bands.shape[-1]
    taps = min(response.length(decay, order), max(1, samples))
    size = 2 ** math.ceil(math.log2(max(2, samples + taps)))
    kernels = gains[:, None] * response.impulse_response(decay, frequency, order, taps)
    spectra = torch.fft.rfft(kernels.to(bands.dtype), size)
    power = spectra.abs().square().sum(0)
    back = spectra.conj() * torch.where(power > _LEAST_POWER * power.max(), 1 / power, 0)
    rows = bands.reshape(math.prod(bands.shape[:-2]), *bands.shape[-2:])
    if not rows.numel():
        return bands.sum(-2)
    return torch.fft.irfft((torch.fft.rfft(rows, size) * back).sum(1), size)[:, :samples].reshape(
        *bands.shape[:-2], samples
    )
