"""What every network of the course has in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib import CourseError

if TYPE_CHECKING:
    from course_lib.clips import Clips


class ModelError(CourseError, ValueError):
    """A model cannot take the clips that it is given; the message says why and what to change."""


class Losses(NamedTuple):
    """The loss of a batch, and what each head contributes.

    `total` (a scalar) is what training minimises. `heads` names each head and holds its loss, a mean over the batch,
    and its number of correct predictions, both scalars. The head of the classes is called "train".
    """

    total: Tensor
    heads: dict[str, tuple[Tensor, Tensor]]


class Classifier(nn.Module):
    """Waveforms (batch, samples) -> logits (batch, n_classes): the base of every network.

    A subclass sets `front_end`, a module that turns waveforms into images or other waveforms, and `classify`, a module
    that turns features into logits and contains the dropout in front of its last layer. It writes `embed`. Where
    `clip_samples` is a number, the network takes clips of that length only.

    Notebook: 02_spoken_digits_cnn
    """

    front_end: nn.Module
    classify: nn.Module
    clip_samples: int | None = None

    def embed(self, waveforms: Tensor) -> Tensor:
        """Features in front of `classify`, shape (batch, features), of waveforms (batch, samples)."""
        raise NotImplementedError

    def forward(self, waveforms: Tensor) -> Tensor:
        return self.classify(self.embed(waveforms))

    def loss(self, waveforms: Tensor, labels: Tensor, groups: Tensor, label_smoothing: float = 0.0) -> Losses:
        """The cross-entropy of the logits of waveforms (batch, samples).

        `labels` (-1: unlabelled) and `groups` are indices (batch,), or shares (batch, any number) where clips are
        mixed. A subclass with another objective overrides this method; `training.fit` calls it for each batch.
        """
        head = cross_entropy(self(waveforms), labels, label_smoothing)
        return Losses(head[0], {"train": head})

    def in_own_precision(self, values: Tensor) -> Tensor:
        """Waveforms or images in the precision of the weights."""
        return values.to(self.last_layer.weight.dtype)

    def set_progress(self, progress: float) -> None:
        """Adapt to the progress of the training, from 0 to 1; called before each step. Most networks do nothing."""

    def require_outputs(self, clips: Clips) -> None:
        """Raise ModelError if clips to learn from have a label for which there is no output."""
        n_classes, labels = self.last_layer.out_features, int(clips.labels.max()) + 1
        if labels > n_classes:
            raise ModelError(f"the model distinguishes {n_classes} classes but the clips have {labels}; set n_classes")

    @property
    def last_layer(self) -> nn.Linear:
        """The linear layer that makes the logits."""
        return [layer for layer in self.classify.modules() if isinstance(layer, nn.Linear)][-1]


class DropoutLinear(nn.Linear):
    """Features (batch, features) -> dropout -> logits (batch, n_classes)."""

    def __init__(self, features: int, n_classes: int, dropout: float) -> None:
        super().__init__(features, n_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(self.dropout(features))


@contextmanager
def in_evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and back in the mode that it had."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """The mean loss of logits (batch, n_classes) and the number of correct predictions, both scalars.

    `targets` are class indices (batch,), or the share of each class in each clip (batch, classes). Clips whose index is
    -1, unlabelled, count in neither. A prediction of a mixed clip is correct to the share of the predicted class.
    """
    logits = logits.float()
    predicted = logits.argmax(dim=1)
    if targets.ndim == 1:
        correct = (predicted == targets).sum()
    else:
        targets = functional.pad(targets, (0, logits.shape[1] - targets.shape[1]))
        correct = targets.gather(1, predicted[:, None]).sum()
    return functional.cross_entropy(logits, targets, ignore_index=-1, label_smoothing=label_smoothing), correct


def mean_and_maximum(frames: Tensor, dim: int) -> Tensor:
    """Maps with a time axis `dim` -> their mean and their maximum over time, side by side on axis 1."""
    return torch.cat([frames.mean(dim), frames.amax(dim)], dim=1)


@torch.no_grad()
def features_of(front_end: nn.Module, layers: nn.Module, clip_samples: int) -> int:
    """How many features (batch, features) `layers` makes of the images of clips, by a trial on silence."""
    image = front_end.eval()(torch.zeros(1, clip_samples))  # in eval(), lest batch normalisation learn from silence
    size = layers.eval()(image[:, None]).shape[1]
    front_end.train()
    layers.train()
    return size


def require_fitting(model: nn.Module, clips: Clips) -> None:
    """Raise ModelError unless clips have the sample rate and the length that every layer of a model was made for."""
    for module in model.modules():
        name = type(module).__name__
        sample_rate, clip_samples = (getattr(module, key, None) for key in ("sample_rate", "clip_samples"))
        if sample_rate not in (None, clips.sample_rate):
            raise ModelError(
                f"{name} was made for {sample_rate:g} Hz but the clips have {clips.sample_rate} Hz; "
                f"build it with sample_rate={clips.sample_rate}, or resample the recordings"
            )
        if clip_samples not in (None, clips.clip_samples):
            raise ModelError(
                f"{name} was made for clips of {clip_samples} samples but these have {clips.clip_samples}; "
                f"build it with clip_samples={clips.clip_samples}, or cut clips of that length"
            )
