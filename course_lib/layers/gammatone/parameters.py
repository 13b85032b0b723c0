"""What the layer learns: numbers without limits, and how they become values within a range.

Two ways. A `Squashed` number takes ever smaller steps towards the ends of its range, and far outside its gradient is
zero in floating point: it stays there. An `Even` one is the value itself, reflected at the ends of the range: a step is
the same everywhere, and the slope is 1 or -1, never 0. To clamp the value and pass the gradient straight through would
let the number run away behind an end, and the way back takes as many steps; a reflected one is driven back at once.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from course_lib.layers.gammatone import scales

# The least and the greatest value, as logarithms.
BANDWIDTHS = (math.log(1 / 20), math.log(20))  # of the ear's bandwidth
GAINS = (-7.0, 7.0)  # of where they start: 61 dB down or up

_MARGIN = 1e-5  # of a range, free at both ends


class Squashed(NamedTuple):
    """A number through a sigmoid to a value strictly between `low` and `high`; the range is about 10 units wide."""

    low: float
    high: float

    def value(self, raw: Tensor) -> Tensor:
        """Any number -> the value it stands for."""
        margin = _MARGIN * (self.high - self.low)
        return self.low + margin + (self.high - self.low - 2 * margin) * torch.sigmoid(raw)

    def raw(self, values: Tensor) -> Tensor:
        """The inverse of `value`; what lies on an end comes to lie just inside."""
        share = ((values - self.low) / (self.high - self.low) - _MARGIN) / (1 - 2 * _MARGIN)
        return torch.logit(share, eps=1e-6)


class Even(NamedTuple):
    """A number that is the value itself where it lies between `low` and `high`, and is reflected at them elsewhere."""

    low: float
    high: float

    @property
    def _inside(self) -> tuple[float, float]:
        margin = _MARGIN * (self.high - self.low)
        return self.low + margin, self.high - margin

    def value(self, raw: Tensor) -> Tensor:
        """Any number -> the value it stands for."""
        low, high = self._inside
        width = high - low
        way = torch.remainder(raw - low, 2 * width)
        return low + torch.where(way <= width, way, 2 * width - way).clamp(max=width)

    def raw(self, values: Tensor) -> Tensor:
        """The inverse of `value`; what lies on an end comes to lie just inside."""
        return values.clamp(*self._inside)


class Scale(NamedTuple):
    """How centre frequencies become numbers: on which scale, in which range, and the learning rates that fit."""

    to_scale: Any
    from_scale: Any
    kind: type[Squashed] | type[Even]
    rates: dict[str, float]  # times the learning rate of a network's weights


# The published numbers span their range in about 10 units, and are steepest in the middle of it.
PUBLISHED = Scale(
    scales.mel, scales.from_mel, Squashed, {"centre_frequency": 10.0, "bandwidth": 10.0, "gain": 1.0, "pcen": 1.0}
)
# One unit is 1 ERB, or a factor e. The rates are about those of the published numbers in the middle of their ranges.
EVEN = Scale(
    scales.erb_rate, scales.from_erb_rate, Even, {"centre_frequency": 30.0, "bandwidth": 15.0, "gain": 3.0, "pcen": 1.0}
)


def names_of(learnable: bool | Collection[str], known: Sequence[str], chosen: Sequence[str]) -> tuple[str, ...]:
    """The names in `learnable`, in the order of `known`; True are those `chosen`. Raises ValueError."""
    if isinstance(learnable, bool):
        return tuple(chosen) if learnable else ()
    names = {learnable} if isinstance(learnable, str) else learnable
    if not isinstance(names, Collection) or not set(names) <= set(known):
        raise ValueError(f"learnable is {learnable!r}; it is True, False or some of {', '.join(known)}")
    return tuple(name for name in known if name in names)


def centre_frequencies(given: str | Sequence[float] | Tensor, n_filters: int, f_min: float, f_max: float) -> Tensor:
    """Centre frequencies in Hz, shape (n_filters,), from the name of a spacing or as given. Raises ValueError."""
    if isinstance(given, str):
        return scales.spaced(given, n_filters, f_min, f_max)
    centres = _in_hertz(given, "centre_frequencies", n_filters)
    rising = bool((centres.diff() > 0).all())
    if not (rising and centres[0] >= f_min and centres[-1] <= f_max):
        raise ValueError(f"centre_frequencies must rise and lie between f_min {f_min:g} and f_max {f_max:g} Hz")
    return centres


def bandwidth_ratios(given: str | float | Sequence[float] | Tensor, centres: Tensor, order: int) -> Tensor:
    """Bandwidths b as multiples of the ear's equivalent rectangular bandwidths. Raises ValueError."""
    if isinstance(given, str):
        if given != "erb":
            raise ValueError(f"unknown bandwidths {given!r}; known: erb, or values in Hz")
        # A gammatone's own equivalent rectangular bandwidth is b times pi (2n-2)! / 4^(n-1) / (n-1)!^2 (order 4: 0.98).
        own = math.pi * math.factorial(2 * order - 2) / 4 ** (order - 1) / math.factorial(order - 1) ** 2
        return torch.full_like(centres, 1 / own)
    ratios = _in_hertz(given, "bandwidths", len(centres)) / scales.erb(centres)
    low, high = (math.exp(bound) for bound in BANDWIDTHS)
    if not bool(((ratios >= low) & (ratios <= high)).all()):
        raise ValueError(f"bandwidths must lie between {low:g} and {high:g} times the ear's at their frequencies")
    return ratios


def _in_hertz(values: float | Sequence[float] | Tensor, name: str, n_filters: int) -> Tensor:
    hertz = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
    if hertz.shape not in ((), (n_filters,)) or not bool(hertz.isfinite().all()):
        raise ValueError(f"{name} {tuple(hertz.shape)} must be {n_filters} finite values in Hz")
    return hertz.expand(n_filters)
