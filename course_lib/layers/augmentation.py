"""Random changes that keep the label, as layers: they act in training mode only, on whole batches, on any device.

Each clip of a batch gets its own draw. Those on waveforms and those on time-frequency images have a module each; a
front end is one nn.Sequential of both around its spectrogram.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Augmentation(nn.Module):
    """Base: `forward` is `augment` in training mode, the identity in evaluation mode and for empty batches."""

    def forward(self, batch: Tensor) -> Tensor:
        if not self.training or batch.numel() == 0:
            return batch
        return self.augment(batch)

    def augment(self, batch: Tensor) -> Tensor:
        raise NotImplementedError

    def extra_repr(self) -> str:
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, int | float)}
        return ", ".join(f"{name}={value}" for name, value in numbers.items() if name != "training")


def uniform(batch: Tensor, low: float, high: float) -> Tensor:
    """A random number for each clip of a batch, shape (batch, 1)."""
    return torch.empty(len(batch), 1, device=batch.device).uniform_(low, high)
