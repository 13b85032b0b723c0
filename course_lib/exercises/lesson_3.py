"""Exercises of lesson 3: biases, a floor under the loss, words that begin late, receptive fields, running averages.

The stubs of the lesson and its appendix are

    def without_biases(model): ...      # BIASES: the model without the biases that its normalisation takes off
    def floor(classes): ...             # FLOOR: least cross-entropy of outputs between 0 and 1
    def pooled(maps): ...               # LATE: (batch, channels, frames) -> (batch, channels)
    seen = ...                          # SPAN: samples that a unit behind block 4 depends on
    def batches(share, left): ...       # MEMORY: batches until so much of the start is left

and SCALING, SIGMOID and SHIFT are guesses in points.

Notebook: 03_raw_waveforms_sample_cnn
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from course_lib.exercises.exercise import (
    Exercise,
    Mistake,
    NotDone,
    Prediction,
    Wrong,
    agrees,
    is_stub,
    numbers,
    require_function,
)
from course_lib.models.sample_cnn import StridedSampleCNN, sample_level_blocks, strided_layers

# Predict first: what a change brings, in points of accuracy

SCALING = Prediction(
    "Samples scaled to ±1",
    "points",
    close=6,
    good="You expected it: the advice to scale is good, and here it uncovers something else.",
    too_high="Scaling is good advice, and yet this network does not gain from it: it uncovers something else.",
    too_low="The network loses less than this.",
)
SIGMOID = Prediction(
    "The sigmoid taken away",
    "points",
    close=5,
    good="The loss gains much, the accuracy nothing that three seeds could show: the largest output stays the largest.",
    too_high="The loss gains much; but the largest output stays the largest, and it alone decides.",
    too_low="A sigmoid is no help: nothing is lost without it that three seeds could show.",
)
SHIFT = Prediction(
    "Words shifted at random in training",
    "points",
    close=8,
    good="It is one of the two changes that matter.",
    too_high="It matters, but not as much as this: there is another cause.",
    too_low="It matters more: without shifts the last layer learns where in a clip the training words stand.",
)


# (a) Biases that do nothing

CLIP = 18_400


def without_biases(model: nn.Module) -> nn.Module:
    """The model without the biases of its convolutions, which the normalisation behind them takes off."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv1d):
            layer.bias = None
    return model


def _published() -> StridedSampleCNN:
    """The network with weights, biases and normalisation that are all different from 0 and 1, as after training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = StridedSampleCNN(clip_samples=CLIP, dropout=0.0)
        for parameter in model.parameters():
            if parameter.ndim == 1:
                nn.init.normal_(parameter, 0.5, 0.2)
    return model.train()


def _check_biases(answer: Any) -> None:
    require_function(answer)
    waveforms = torch.randn(6, CLIP, generator=torch.Generator().manual_seed(8))
    model, right = _published(), _published()(waveforms)
    changed = answer(model)
    if changed is not None and is_stub(changed):
        raise NotDone
    count = _parameters(model)
    if changed is None:
        if count == _parameters(_published()):
            raise NotDone
        raise Wrong("None", "the model", "The model is changed, but not returned: end with `return model`.")
    if not isinstance(changed, nn.Module):
        raise Wrong(f"a {type(changed).__name__}", "a model", "Return the model itself.")
    count = _parameters(changed)
    given = changed.train()(waveforms)
    off = float((given - right).detach().abs().max()) if given.shape == right.shape else math.inf
    if count != 18_826 or not off < 1e-4:
        raise Wrong(
            f"{count:,} parameters; outputs in training mode differ by {off:.1e}",
            "18,826 parameters; differences below 1e-4",
            values=[np.array([count, min(off, 1e6), _biases_left(changed)])],
        )


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _biases_left(model: nn.Module) -> float:
    biases = [layer.bias for layer in model.modules() if isinstance(layer, nn.Conv1d) and layer.bias is not None]
    return max((float(bias.detach().abs().max()) for bias in biases), default=0.0)


def _without(model: nn.Module, *kinds: type[nn.Module]) -> nn.Module:
    for layer in model.modules():
        if isinstance(layer, kinds):
            layer.bias = None
    return model


def _with_zeros(model: nn.Module) -> nn.Module:
    for layer in model.modules():
        if isinstance(layer, nn.Conv1d):
            nn.init.zeros_(layer.bias)
    return model


BIASES = Exercise(
    "Biases that do nothing",
    _check_biases,
    without_biases,
    [
        "model.modules() gives every layer, however deep; isinstance(layer, nn.Conv1d) finds the convolutions.",
        "A convolution whose `bias` is None adds none.",
        "The last layer and the normalisations keep theirs: nothing behind those takes them off.",
    ],
    [
        Mistake(_with_zeros, "Biases of zero are still parameters, and Adam moves them: set them to None."),
        Mistake(
            lambda model: _without(model, nn.Conv1d, nn.Linear),
            "The last layer has no normalisation behind it, so its bias counts.",
        ),
        Mistake(
            lambda model: _without(model, nn.BatchNorm1d),
            "These are the biases of the normalisation itself; nothing takes them off, so the outputs change.",
        ),
        Mistake(lambda model: model, "No bias is gone: the network still has all of its 18,954 parameters."),
    ],
    why="128 parameters are gone and the function is the same; what moved without effect cannot move any more.",
)


# (b) A floor under the loss


def floor(classes: int) -> float:
    """The least cross-entropy of outputs between 0 and 1: a 1 for the right class and 0 for the others."""
    return math.log(math.e + classes - 1) - 1


def _numbers_of_classes(random: np.random.Generator) -> Iterator[tuple[int]]:
    yield from ((classes,) for classes in (10, 2, 100))


FLOOR = Exercise(
    "The floor under the loss",
    agrees(floor, _numbers_of_classes),
    floor,
    [
        "The best that outputs between 0 and 1 can do is a 1 for the right class and 0 for all others.",
        "Cross-entropy is the logarithm of the sum of all exponentials, minus the output of the right class.",
        "The sum is e for the right class, plus 1 for each of the others.",
    ],
    [
        Mistake(
            lambda classes: math.log(classes),
            "This is the loss of a guess, with all outputs alike; here one output is 1 and the others are 0.",
        ),
        Mistake(
            lambda classes: 0.0,
            "Only logits without limit can bring the loss to 0; these are at most 1 apart.",
        ),
        Mistake(
            lambda classes: math.log(math.e + classes - 1),
            "The output of the right class, 1, has still to be subtracted.",
        ),
        Mistake(
            lambda classes: math.log(math.e + classes) - 1,
            "Besides the right class there are K - 1 classes, not K.",
        ),
        Mistake(
            lambda classes: math.e / (math.e + classes - 1),
            "This is the largest probability; the loss is minus its logarithm.",
        ),
    ],
    why="A training loss that comes to rest at this number is the trace of a sigmoid in the wrong place.",
)


# (c) A word that begins later

LATER = 1024  # four frames of 256 samples: one frame behind the two poolings by 2


def pooled(maps: torch.Tensor) -> torch.Tensor:
    """Maps (batch, channels, frames) -> features (batch, channels) in which no time is left."""
    return maps.mean(dim=2)


def _maps() -> tuple[torch.Tensor, torch.Tensor]:
    """What the convolutions make of three noises in silence, early and later: (3, 64, 17) each."""
    random = torch.Generator().manual_seed(9)
    waveforms = torch.zeros(3, CLIP)
    for row, (first, samples) in enumerate(((2000, 6000), (4000, 3000), (5000, 8000))):
        waveforms[row, first : first + samples] = torch.randn(samples, generator=random).cumsum(0) / 50
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(10)
        network = strided_layers(256).eval()
        return network(waveforms[:, None]), network(waveforms.roll(LATER, dims=1)[:, None])


def _check_late(answer: Any) -> None:
    require_function(answer)
    early, late = _maps()
    first = answer(early.clone())
    if is_stub(first):
        raise NotDone
    given = numbers(first)
    if given.shape != (3, 64):
        raise Wrong(f"the shape {given.shape}", f"the shape (3, 64) from {tuple(early.shape)}", values=[given])
    moved = float(np.abs(numbers(answer(late.clone()), (3, 64)) - given).max())
    if not moved < 1e-4:
        raise Wrong(f"features that change by {moved:.2g} when the word begins 128 ms later", "1e-4", values=[given])
    if not np.abs(given[0] - given[1]).max() > 1e-3:
        raise Wrong("the same features for two different sounds", "features that tell them apart", values=[given])


LATE = Exercise(
    "A word that begins later",
    _check_late,
    pooled,
    [
        "The axes are batch, channels, frames. Which of them is the time?",
        "A mean over an axis does not depend on the order along it: maps.mean(dim=...).",
        "The time is the last axis: maps.mean(dim=2). A maximum does it, too.",
    ],
    [
        Mistake(
            lambda maps: maps.flatten(1),
            "This is what the network does: each frame keeps weights of its own, and a late word meets other weights.",
        ),
        Mistake(
            lambda maps: maps.mean(dim=1),
            "This is the mean over the channels: it keeps when something sounds, and loses what.",
        ),
        Mistake(
            lambda maps: maps.mean(dim=(1, 2)),
            "This leaves one number for a clip; the channels are to be kept.",
        ),
        Mistake(
            lambda maps: maps.mean(dim=2, keepdim=True),
            "The axis of the time is still there, with one frame; leave keepdim out.",
        ),
        Mistake(
            lambda maps: maps[:, :, 8],
            "One frame has the right shape, but another sound is in it when the word begins later.",
        ),
    ],
    why="The last layer then has one weight for each channel and class, whenever the channel answers.",
)


# (d) How far a unit sees


def span_of_a_unit(blocks: int = 5) -> int:
    """Samples that the middle unit behind some blocks depends on: where its gradient is not zero."""
    waveforms = torch.randn(1, 1, 1, 3**8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    unit = waveforms
    for block in sample_level_blocks(3**8, 32)[:blocks]:
        # Without normalisation and ReLU, which hide samples, and with a mean for the maximum, which chooses one.
        unit = nn.functional.conv2d(unit, torch.ones(1, 1, 1, 3), stride=block[0].stride, padding=block[0].padding)
        if len(block) == 4:
            unit = nn.functional.avg_pool2d(unit, (1, 3))
    unit[0, 0, 0, unit.shape[3] // 2].backward()
    seen = waveforms.grad.flatten().nonzero()
    return int(seen.max() - seen.min()) + 1


def _check_span(answer: Any) -> None:
    value = float(numbers(answer, ()).real)
    if value != span_of_a_unit():
        raise Wrong(f"{value:,g} samples", "the span of samples with a gradient", values=[value])


SPAN = Exercise(
    "How far a unit sees",
    _check_span,
    483,
    [
        "Count from the input on. Behind block 0 a unit sees 3 samples, and the next unit begins 3 samples later.",
        "A convolution of 3 taps adds 2 steps to the span, and so does a maximum over 3; the maximum triples the step.",
        "Behind block 1: 3 + 2 · 3 + 2 · 3 = 15 samples, and the step is 9.",
    ],
    [
        Mistake(243, "This is the step from one unit to the next; what they see overlaps."),
        Mistake(159, "This is one block too few: the blocks count from 0, and block 4 is the fifth."),
        Mistake(1455, "This is one block too many: the blocks count from 0, and block 4 is the fifth."),
        Mistake(60.375, "This is the span in milliseconds; give it in samples."),
        Mistake(0.060375, "This is the span in seconds; give it in samples."),
        Mistake(15, "This is the span behind block 1: three blocks are missing."),
    ],
    why="That is 60 ms, several periods of a voice: enough for a unit to prefer one band of frequencies.",
    worked=span_of_a_unit,
)


# (e) How long an average remembers


def batches(share: float, left: float) -> int:
    """Batches after which at most `left` of the start is left in an average that moves by `share` a batch."""
    return math.ceil(math.log(left) / math.log(1 - share))


def _shares(random: np.random.Generator) -> Iterator[tuple[float, float]]:
    yield from ((0.01, 0.01), (0.1, 0.01), (0.3, 0.05), (0.001, 0.5), (0.2, 0.9))


MEMORY = Exercise(
    "How long an average remembers",
    agrees(batches, _shares),
    batches,
    [
        "After one batch (1 - share) of the start is left, after two (1 - share) ** 2.",
        "For which n is (1 - share) ** n = left? Take the logarithm of both sides.",
        "n = log(left) / log(1 - share), and then the next whole number: math.ceil.",
    ],
    [
        Mistake(
            lambda share, left: math.floor(math.log(left) / math.log(1 - share)),
            "With this many batches a little more is left than asked for: round up.",
        ),
        Mistake(
            lambda share, left: math.log(left) / math.log(1 - share),
            "Batches are whole: round up.",
        ),
        Mistake(
            lambda share, left: math.ceil((1 - left) / share),
            "The average moves by a share of what is still missing, so it goes ever slower: use powers.",
        ),
        Mistake(
            lambda share, left: math.ceil(math.log(left) / math.log(share)),
            "What stays after each batch is 1 - share, not share.",
        ),
        Mistake(
            lambda share, left: math.ceil(1 / share),
            "After this many batches about 37 % of the start is left, whatever was asked for.",
        ),
    ],
    why="At 1 % a batch that is more than ten epochs of this training; at 10 %, PyTorch's default, about one.",
)
