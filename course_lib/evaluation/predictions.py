"""What a trained model says about clips, and what it makes of them on the way there."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from course_lib.clips import Clips


def predict(model: nn.Module, clips: Clips, batch_size: int = 512) -> Tensor:
    """Class probabilities, shape (clips, classes), on the CPU, by a model in evaluation mode.

    The model stays on its device and gets its training mode back.

    Notebook: 02_spoken_digits_cnn
    """
    return _in_batches(model, lambda waveforms: model(waveforms).float().softmax(dim=1), clips, batch_size)


def embed(model: nn.Module, clips: Clips, batch_size: int = 512) -> Tensor:
    """The features of a model in front of its last layer, shape (clips, features), on the CPU; otherwise as `predict`.

    Notebook: 06_adversarial_devices
    """
    return _in_batches(model, lambda waveforms: model.embed(waveforms).float(), clips, batch_size)


@torch.no_grad()
def _in_batches(model: nn.Module, function: Callable[[Tensor], Tensor], clips: Clips, batch_size: int) -> Tensor:
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    clips = clips.to(device)
    batches = torch.arange(len(clips), device=device).split(batch_size)
    found = [function(clips.batch(batch)[0]).cpu() for batch in batches]
    model.train(was_training)
    return torch.cat(found)
