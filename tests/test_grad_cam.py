"""Grad-CAM finds the place that decides."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from course_lib.evaluation import grad_cam


class _LeftOrRight(nn.Module):
    """Class 0 is the energy in the left half of an 8 x 8 image, class 1 that in the right half."""

    def __init__(self) -> None:
        super().__init__()
        self.front_end = nn.Unflatten(1, (8, 8))
        self.layer = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.layer.weight)

    def forward(self, waveforms: Tensor) -> Tensor:
        maps = self.layer(self.front_end(waveforms)[:, None])
        return torch.stack([maps[..., :4].sum(dim=(1, 2, 3)), maps[..., 4:].sum(dim=(1, 2, 3))], dim=1)


def test_heat_is_where_the_evidence_is():
    image = torch.zeros(2, 8, 8)
    image[:, 2, 1] = 1.0
    model = _LeftOrRight().train()
    images, heat = grad_cam(model, model.layer, image.flatten(1), torch.tensor([0, 0]))
    assert torch.equal(images, image)
    assert heat.shape == image.shape and heat.max() == 1.0 and heat.min() == 0.0
    assert (heat.flatten(1).argmax(dim=1) == 2 * 8 + 1).all()
    assert model.training and not model.layer._forward_hooks
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_evidence_is_a_cold_map():
    model = _LeftOrRight()
    _, heat = grad_cam(model, model.layer, torch.zeros(1, 64), torch.tensor([1]))
    assert torch.equal(heat, torch.zeros(1, 8, 8))
