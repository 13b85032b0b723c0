"""A layer that reverses gradients."""

from typing import Any

import torch
from torch import Tensor, nn


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * gradient, None


class GradientReversal(nn.Module):
    """Features of any shape, unchanged; on the way back their gradient is multiplied by `-weight`.

    Layers after it learn their task; layers before it unlearn what that task needs.
    Source: Ganin and Lempitsky 2015, "Unsupervised domain adaptation by backpropagation".

    Notebook: 06_adversarial_devices
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, features: Tensor) -> Tensor:
        return _Reverse.apply(features, self.weight)

    def extra_repr(self) -> str:
        return f"weight={self.weight:g}"
