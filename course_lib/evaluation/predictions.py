"""What a trained model says about clips."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from course_lib.clips import Clips


@torch.no_grad()
def predict(model: nn.Module, clips: Clips, batch_size: int = 512) -> Tensor:
    """Class probabilities, shape (clips, classes), on the CPU, by a model in evaluation mode.

    The model stays on its device and gets its training mode back.

    Notebook: 02_spoken_digits_cnn
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    clips = clips.to(device)
    batches = torch.arange(len(clips), device=device).split(batch_size)
    probabilities = [model(clips.batch(batch)[0]).float().softmax(dim=1).cpu() for batch in batches]
    model.train(was_training)
    return torch.cat(probabilities)
