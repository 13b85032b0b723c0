"""From energies to the values of an image."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from course_lib.layers.gammatone.parameters import Even

_RANGE = Even(-7.0, 7.0)  # of learned values: far enough, and nowhere is the gradient 0
COMPRESSIONS = ("log", "log1p", "pcen", None)


class Pcen(NamedTuple):
    """Per-channel energy normalisation: (E / (eps + M)^power + offset)^root - offset^root with the running mean M.

    M[t] = (1 - speed) M[t - 1] + speed E[t]. Each is a tensor (filters, 1). Source: Wang et al. 2017.
    """

    speed: Tensor
    power: Tensor
    offset: Tensor
    root: Tensor

    @classmethod
    def of(cls, raw: Tensor) -> Pcen:
        """From numbers without limits, shape (4, filters); zeros give the usual values 0.025, 0.98, 2 and 0.5.

        The offset stays between 0.002 and 2,000, the others between 0.001 and 0.999.
        """
        speed, power, offset, root = _RANGE.value(raw)[:, :, None]
        return cls(_share(speed, 0.025), _share(power, 0.98), 2 * offset.exp(), _share(root, 0.5))

    def __call__(self, energies: Tensor, eps: float) -> Tensor:
        level = (eps + running_mean(energies, self.speed)) ** self.power
        return (energies / level + self.offset) ** self.root - self.offset**self.root


def compress(energies: Tensor, kind: str | None, eps: float) -> Tensor:
    """Energies (..., filters, frames) to an image of the same shape, by log, log1p or None."""
    if kind == "log":
        return torch.log(energies + eps)
    return energies if kind is None else torch.log1p(energies / eps)


def running_mean(energies: Tensor, speed: Tensor) -> Tensor:
    """mean[t] = (1 - speed) mean[t - 1] + speed energies[t] along the last axis, from mean[0] = energies[0] on."""
    mean = torch.cat([energies[..., :1], speed * energies[..., 1:]], dim=-1)
    frames = energies.shape[-1]
    # Each step doubles the number of past frames that are added up; what is older has a weight below 1e-14. A program
    # that is exported takes all steps, since its number of frames is a symbol.
    for past in (2**step for step in range(15)):
        if not torch.compiler.is_exporting() and past >= frames:
            break
        mean = mean + (1 - speed) ** past * functional.pad(mean, (past, 0))[..., :frames]
    return mean


def _share(raw: Tensor, usual: float) -> Tensor:
    """A value between 0.001 and 0.999, which is the `usual` one where `raw` is 0."""
    start = (usual - 0.001) / 0.998
    return 0.001 + 0.998 * torch.sigmoid(raw + math.log(start / (1 - start)))
