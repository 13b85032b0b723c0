"""Frequency scales of hearing, and centre frequencies spaced evenly on them."""

import math

import torch
from torch import Tensor


def mel(frequency: Tensor) -> Tensor:
    """Hz -> mel (O'Shaughnessy 1987)."""
    return 2595 / math.log(10) * torch.log1p(frequency / 700)


def from_mel(mels: Tensor) -> Tensor:
    """Mel -> Hz."""
    return 700 * torch.expm1(mels * (math.log(10) / 2595))


def erb(frequency: Tensor) -> Tensor:
    """Equivalent rectangular bandwidth (Hz) of the ear's filter at a frequency (Hz); Glasberg and Moore 1990."""
    return 24.7 + 24.7 * 4.37e-3 * frequency


def erb_rate(frequency: Tensor) -> Tensor:
    """Hz -> number of equivalent rectangular bandwidths below that frequency; Glasberg and Moore 1990."""
    return torch.log1p(4.37e-3 * frequency) / (24.7 * 4.37e-3)


def from_erb_rate(rate: Tensor) -> Tensor:
    """Number of equivalent rectangular bandwidths -> Hz."""
    return torch.expm1(rate * (24.7 * 4.37e-3)) / 4.37e-3


SCALES = {
    "mel": (mel, from_mel),
    "erb": (erb_rate, from_erb_rate),
    "linear": (torch.clone, torch.clone),
    "log": (torch.log, torch.exp),
}


def spaced(scale: str, n_filters: int, f_min: float, f_max: float) -> Tensor:
    """`n_filters` frequencies (Hz) that cut f_min .. f_max into equal steps of a scale: mel, erb, linear or log.

    The ends are left out, as with the centres of a mel filterbank. Raises ValueError for an unknown scale, and for
    log from 0 Hz.
    """
    if scale not in SCALES:
        raise ValueError(
            f"unknown spacing {scale!r} of centre_frequencies; known: {', '.join(SCALES)}, or values in Hz"
        )
    if scale == "log" and f_min <= 0:
        raise ValueError("logarithmic centre_frequencies cannot start from 0 Hz; give an f_min above 0")
    there, back = SCALES[scale]
    low, high = there(torch.tensor([f_min, f_max], dtype=torch.float64)).tolist()
    return back(torch.linspace(low, high, n_filters + 2, dtype=torch.float64)[1:-1])
