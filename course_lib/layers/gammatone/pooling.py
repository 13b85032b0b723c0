"""Which samples make a frame."""

from typing import NamedTuple

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
        return functional.avg_pool1d(signals[..., self.first :], self.window, self.hop)
