"""A trained network brought to recordings of another device, without their labels."""

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from course_lib.clips import Clips
from course_lib.models.base import ModelError, require_fitting

_BATCH = (
    512  # clips: the variance of a batch leaves out how the means of batches differ, which is little for large ones
)


@torch.no_grad()
def adapt_batch_norm(model: nn.Module, clips: Clips) -> nn.Module:
    """A copy of a model, in evaluation mode, whose batch normalisation has the statistics of these clips.

    Means and variances are counted anew, layer by layer, over the clips of one device; weights stay as they are, and
    no label is used. Clips are shuffled, always in the same way, and gathered in batches of one size. Raises ModelError
    for a model without batch normalisation, no clips, and clips that do not fit the model.
    Source: Li et al. 2016, "Revisiting batch normalization for practical domain adaptation" (AdaBN).

    Notebook: 06_adversarial_devices
    """
    require_fitting(model, clips)
    adapted = copy.deepcopy(model).eval()
    layers = _batch_norms(adapted)
    if not layers or not len(clips):
        what = "there are no clips" if layers else "the model has no batch normalisation"
        raise ModelError(f"{what}, so there is nothing to adapt")
    clips = clips.to(next(adapted.parameters()).device)
    order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(0)).to(clips.start.device)
    for layer in layers:
        layer.train()
    for number, index in enumerate(order.tensor_split(-(-len(order) // _BATCH))):
        for layer in layers:
            layer.momentum = 1 / (number + 1)  # the plain mean over the batches so far
        adapted(clips.batch(index)[0])
    for layer, before in zip(layers, _batch_norms(model), strict=True):
        layer.momentum = before.momentum
    return adapted.eval()


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]
