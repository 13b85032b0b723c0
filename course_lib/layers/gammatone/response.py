"""The gammatone filter itself: its impulse response and its frequency response.

Everything is in units of samples: `decay` = 2 pi b / sample rate, `frequency` = 2 pi f / sample rate (radians), both
of shape (filters,). With p = exp(-decay + i frequency) the filter of order n is

    g[k] = level * Re(k^(n-1) p^k),   level = 2 decay^n / (n-1)!

and `level` makes the gain 1 at the centre frequency, whatever the bandwidth. Its derivatives are filters of the same
kind: d g / d p^k needs k^n p^k only, the filter of the next order.
"""

import itertools
import math

import torch
from torch import Tensor

from course_lib.layers.waveforms import position_type


def level(decay: Tensor, order: int) -> Tensor:
    """Factor (filters,) that gives the filters a gain of 1 at their centre frequencies."""
    return 2 / math.factorial(order - 1) * decay**order


def smallest(decay: Tensor) -> float:
    """The decay of the narrowest filter. Raises ValueError where there is none, as after a training that diverged."""
    value = float(decay.detach().min())
    if not value > 0:
        raise ValueError(f"a filter's decay is {value}; it must be above 0")
    return value


def length(decay: Tensor, order: int) -> int:
    """Samples after which even the narrowest filter has rung out: what follows is below 1e-6 of its area."""
    return max(2, math.ceil((20 + order) / smallest(decay)))


def parts(decay: Tensor, frequency: Tensor, order: int, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Time (samples,), envelope and phase (filters, samples) of the filters.

    In float64 where the device has it: in float32 the phase of a long response is rounded to parts of a radian.
    """
    decay, frequency = (values.to(position_type(values.device)) for values in (decay, frequency))
    time = torch.arange(samples, device=decay.device, dtype=decay.dtype)
    envelope = level(decay, order)[:, None] * time ** (order - 1) * torch.exp(-decay[:, None] * time)
    return time, envelope, frequency[:, None] * time


def impulse_response(decay: Tensor, frequency: Tensor, order: int, samples: int) -> Tensor:
    """The first `samples` samples of the filters, shape (filters, samples)."""
    _, envelope, phase = parts(decay, frequency, order, samples)
    return (envelope * torch.cos(phase)).to(decay.dtype)


def pole_fractions(power: int) -> list[int]:
    """The c of k^power = sum_j c[j] binomial(k + j, j).

    The sum over k of binomial(k + j, j) q^k is 1 / (1 - q)^(j+1): a filter k^power p^k is a sum of repeated one-pole
    filters. Newton's formula on the values at k = -1, -2, ... gives the coefficients.
    """
    values = [(-1 - step) ** power for step in range(power + 1)]
    fractions = []
    for j in range(power + 1):
        fractions.append((-1) ** j * values[0])
        values = [after - before for before, after in itertools.pairwise(values)]
    return fractions


def frequency_response(decay: Tensor, frequency: Tensor, order: int, at: Tensor) -> Tensor:
    """Complex response (filters, len(at)) of the unending filters at frequencies `at` in radians a sample."""
    response = torch.zeros((), device=decay.device, dtype=decay.dtype)
    for sign in (1, -1):  # Re(z) is half the sum of z and its conjugate
        ratio = torch.exp(torch.complex(-decay[:, None].expand(-1, len(at)), sign * frequency[:, None] - at))
        terms = (c / (1 - ratio) ** (j + 1) for j, c in enumerate(pole_fractions(order - 1)))
        response = response + sum(terms) / 2
    return level(decay, order)[:, None] * response
