"""Where in its input image a network finds the evidence for a class."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.models.base import in_evaluation_mode


def grad_cam(model: nn.Module, layer: nn.Module, waveforms: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Images (batch, height, width) of a model's front end and, in the same shape, heat maps from 0 to 1.

    The feature maps that `layer` puts out are added up, each weighted with the mean of its gradient of the logit of
    `classes` (batch,), and what is negative is cut off. Heat is relative to the hottest point of each image.
    Source: Selvaraju et al. 2017, "Grad-CAM".

    Notebook: 02_spoken_digits_cnn
    """
    outputs: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _module, _inputs, output: outputs.update(maps=output)),
        model.front_end.register_forward_hook(lambda _module, _inputs, output: outputs.update(images=output)),
    ]
    try:
        with in_evaluation_mode(model):
            logits = model(waveforms)
        (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), outputs["maps"])
    finally:
        for hook in hooks:
            hook.remove()
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    heat = (weights * outputs["maps"]).sum(dim=1, keepdim=True).relu().detach()
    heat = functional.interpolate(heat, outputs["images"].shape[1:], mode="bilinear", align_corners=False)[:, 0]
    return outputs["images"].detach(), heat / heat.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
