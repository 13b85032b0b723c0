"""Which samples make a frame."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Pooling(NamedTuple):
    """Frame m is the mean over `window` samples from sample `first + m * hop` on."""

    first: int
    window: int
    hop: int

    def frames(self, samples: int) -> int:
        """How many whole frames a signal of that many samples holds."""
        return max(0, (samples - self.first - self.window) // self.hop + 1)

    def mean(self, signals: Tensor) -> Tensor:
        """Signals (rows, channels, samples) -> their frames (rows, channels, frames)."""
        inside = signals[..., self.first :]
        if not torch.compiler.is_exporting():
            return functional.avg_pool1d(inside, self.window, self.hop)
        # Average pooling would tie an exported program to lengths that leave the same rest as that of its example.
        ones = torch.full((1, 1, self.window), 1 / self.window, device=signals.device, dtype=signals.dtype)
        means = functional.conv1d(inside.flatten(0, 1)[:, None], ones, stride=self.hop)
        return means.reshape(*signals.shape[:2], means.shape[-1])

    def spread(self, frames: Tensor, samples: int) -> Tensor:
        """The adjoint of `mean`: frames (channels, frames) -> for each sample the sum of its frames over the window."""
        ones = torch.full((1, 1, self.window), 1 / self.window, device=frames.device, dtype=frames.dtype)
        inside = functional.conv_transpose1d(frames[:, None], ones, stride=self.hop)[:, 0]
        return functional.pad(inside, (self.first, samples - self.first - inside.shape[-1]))
