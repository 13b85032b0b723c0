"""Exercises of lesson 6: gradient reversal, its schedule, a loss with two heads, a threshold for devices, band means.

The stubs of the lesson are

    def balanced_threshold(labels, probabilities, devices): ...            # THRESHOLD: one for the mean of devices
    class Reverse(torch.autograd.Function): ...                           # REVERSE: its backward pass
    half = ...                                                            # HALF: when the weight is one half
    def loss(values, illness, device, ill, machine, weight, reverse): ...  # LOSS: what features and heads learn from
    def without_band_means(image): ...                                    # BANDS: an image without its mean spectrum

and PROBE and UNSEEN are guesses, in %.

Notebook: 06_adversarial_devices
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

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
from course_lib.training import fixed_threads

# Predict first: the device from the mean spectrum, and a network on new devices

PROBE = Prediction(
    "Devices found from 24 numbers",
    "%",
    close=5,
    good="So the mean spectrum alone shows most of the device.",
    too_high="The spectra of different devices overlap.",
    too_low="The mean spectrum shows more of the device than most people expect.",
)

UNSEEN = Prediction(
    "Mean of devices, new devices",
    "%",
    close=4,
    good="A network that knows its devices is no proof that it knows hearts.",
    too_high="More is lost than that; a network without sound would have 50 %.",
    too_low="Something is left: it is not a coin.",
)


# (a) A threshold for the mean of devices


def _macc(labels: np.ndarray, positive: np.ndarray) -> float:
    return (positive[labels == 1].mean() + (~positive[labels == 0]).mean()) / 2


def balanced_threshold(labels, probabilities, devices):
    """The threshold with the highest mean over the devices of MAcc, halfway between two probabilities."""
    values = np.unique(probabilities)
    parts = [devices == device for device in np.unique(devices)]

    def mean_of_devices(threshold):
        positive = probabilities >= threshold
        of_class = [[positive[part & (labels == 1)].mean(), (~positive[part & (labels == 0)]).mean()] for part in parts]
        return np.mean(of_class)

    return max((values[1:] + values[:-1]) / 2, key=mean_of_devices)


def _held_out() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Held-out recordings of three devices; one of them has most recordings, few of them abnormal."""
    random, sides = np.random.default_rng(11), []
    for shift in (1.5, -1.2, 2.0, 0.9, -1.8, 1.2):
        devices = np.repeat(["a", "b", "e"], [16, 20, 150])
        abnormal = random.uniform(size=186) < np.repeat([0.6, 0.5, 0.1], [16, 20, 150])
        labels = abnormal.astype(int)
        for first in (0, 16, 36):
            labels[first : first + 4] = 0, 1, 0, 1
        odds = 1.6 * labels - 0.8 + random.normal(size=186) + np.where(devices == "e", -shift, shift / 2)
        sides.append((labels, 1 / (1 + np.exp(-odds)), devices))
    return sides


def _reached(labels: np.ndarray, probabilities: np.ndarray, devices: np.ndarray, threshold: float) -> float:
    positive = probabilities >= threshold
    return float(np.mean([_macc(labels[devices == each], positive[devices == each]) for each in np.unique(devices)]))


def _check_threshold(answer: Any) -> None:
    require_function(answer)
    sides, given = _held_out(), []
    for number, side in enumerate(sides):
        value = answer(*(column.copy() for column in side))
        if is_stub(value):
            if number == 0:
                raise NotDone
            raise Wrong("None", "a threshold for all recordings")
        threshold = numbers(value, ())
        if np.iscomplexobj(threshold) or not 0 <= threshold <= 1:
            raise Wrong(f"the threshold {threshold}", "one number, a probability from 0 to 1")
        given.append(float(threshold))
    for threshold, side in zip(given, sides, strict=True):
        right = balanced_threshold(*side)
        reached, best = (_reached(*side, each) for each in (threshold, right))
        if reached < best - 1e-9:
            raise Wrong(
                f"threshold {threshold:.4f}, mean of devices {reached:.3f}", f"{best:.3f}, as at {right:.4f}",
                values=given,
            )  # fmt: skip


def _best_by(score: Callable[[np.ndarray, np.ndarray, np.ndarray], float]) -> Callable[..., float]:
    """The threshold of the highest `score(labels, positive, devices)`."""
    return lambda labels, probabilities, devices: max(
        np.unique(probabilities), key=lambda threshold: score(labels, probabilities >= threshold, devices)
    )


def _weighted(labels: np.ndarray, positive: np.ndarray, devices: np.ndarray) -> float:
    names, counts = np.unique(devices, return_counts=True)
    return float(
        np.average([_macc(labels[devices == each], positive[devices == each]) for each in names], weights=counts)
    )


def _mean_of_own(labels: np.ndarray, probabilities: np.ndarray, devices: np.ndarray) -> float:
    own = _best_by(lambda labels, positive, devices: _macc(labels, positive))
    parts = [devices == each for each in np.unique(devices)]
    return float(np.mean([own(labels[part], probabilities[part], devices[part]) for part in parts]))


THRESHOLD = Exercise(
    "A threshold for the mean of devices",
    _check_threshold,
    balanced_threshold,
    [
        "Try every probability as a threshold, or, better, the middles between neighbouring ones.",
        "For one threshold compute the MAcc of each device, and take the plain mean.",
        "max(candidates, key=...) gives the candidate with the highest score.",
    ],
    [
        Mistake(
            _best_by(lambda labels, positive, devices: _macc(labels, positive)),
            "This threshold is best for all recordings together, in which the largest device counts most.",
        ),
        Mistake(lambda labels, probabilities, devices: 0.5, "One half is right only if the probabilities are."),
        Mistake(
            _best_by(
                lambda labels, positive, devices: float(
                    np.mean([(positive == labels)[devices == each].mean() for each in np.unique(devices)])
                )
            ),
            "This is the best mean accuracy of the devices; take their MAcc, in which both classes count alike.",
        ),
        Mistake(
            _best_by(_weighted), "Every device counts alike, however many recordings it made: take the plain mean."
        ),
        Mistake(
            _mean_of_own,
            "You averaged the devices' own best thresholds; look for the one threshold that is best on average.",
        ),
        Mistake(
            lambda labels, probabilities, devices: float(np.median(probabilities)),
            "The median calls half of the recordings abnormal, whatever their labels are.",
        ),
    ],
    why="Now the rule and the score agree: each device counts once in both.",
)


# (b) Gradient reversal


class Reverse(torch.autograd.Function):
    """Features, unchanged; on the way back their gradient is multiplied by -weight."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * gradient, None


def _check_reverse(answer: Any) -> None:
    if not (isinstance(answer, type) and issubclass(answer, torch.autograd.Function)):
        raise Wrong(answer, "a class made from torch.autograd.Function", "Pass the class itself.")
    given = []
    for weight in (0.0, 0.5, 2.0):
        x = torch.tensor([[1.0, -2.0], [0.5, 3.0]], requires_grad=True)
        y = answer.apply(x, weight)
        if not isinstance(y, Tensor) or not torch.equal(y, x):
            raise Wrong("a forward pass that changes the features", "the same features")
        try:
            y.pow(3).sum().backward()
        except RuntimeError as error:
            if "number of gradients" not in str(error):
                raise
            raise Wrong(
                "one gradient", "two",
                "forward has two inputs, so backward returns two values; the weight gets None.",
            ) from None  # fmt: skip
        given.append(numbers(torch.zeros(2, 2) if x.grad is None else x.grad, (2, 2)))
    for weight, gradient in zip((0.0, 0.5, 2.0), given, strict=True):
        right = -weight * 3 * np.array([[1, 4], [0.25, 9.0]])
        if np.iscomplexobj(gradient) or not np.abs(gradient - right).max() < 1e-5:
            raise Wrong(
                f"weight {weight:g}: {gradient.tolist()}", f"{right.tolist()}, -weight times the plain one",
                values=given,
            )  # fmt: skip


def _reversal(backward: Callable[[Any, Tensor], Any]) -> type:
    forward = staticmethod(Reverse.forward)
    return type("Reverse", (torch.autograd.Function,), {"forward": forward, "backward": staticmethod(backward)})


REVERSE = Exercise(
    "Gradient reversal",
    _check_reverse,
    Reverse,
    [
        "`gradient` is that of the loss by the output of the layer; without the layer the features would get it.",
        "ctx.weight is what forward has kept.",
        "backward returns a value for each input of forward: for the features, and None for the weight.",
    ],
    [
        Mistake(
            _reversal(lambda ctx, gradient: (ctx.weight * gradient, None)), "The sign is missing: this helps the head."
        ),
        Mistake(_reversal(lambda ctx, gradient: (-gradient, None)), "The sign is right, but the weight does nothing."),
        Mistake(
            _reversal(lambda ctx, gradient: (0 * gradient, None)),
            "No gradient comes through: the features learn nothing from the head, neither for nor against it.",
        ),
        Mistake(
            _reversal(lambda ctx, gradient: -ctx.weight * gradient),
            "forward has two inputs, so backward returns two values; the weight gets None.",
        ),
        Mistake(
            _reversal(lambda ctx, gradient: (gradient - ctx.weight, None)),
            "Multiply the gradient by -weight; do not subtract the weight from it.",
        ),
    ],
    why="What comes after the layer learns the device; what comes before it unlearns the device.",
)


# (c) When is the weight one half?


def half_way():
    """The progress at which 2 / (1 + exp(-10 p)) - 1 is one half."""
    return math.log(3) / 10  # 1 + exp(-10 p) = 4/3, so exp(-10 p) = 1/3


def _check_half(answer: Any) -> None:
    given = numbers(answer, ())
    if np.iscomplexobj(given) or not abs(given - half_way()) < 5e-4:
        raise Wrong(f"p = {given}", "a progress from 0 to 1 at which 2 / (1 + exp(-10 p)) - 1 is 0.5", values=[given])


HALF = Exercise(
    "Half of the weight",
    _check_half,
    half_way(),
    [
        "Write 2 / (1 + exp(-10 p)) - 1 = 0.5 and bring the exponential to one side.",
        "1 + exp(-10 p) = 4/3.",
        "exp(-10 p) = 1/3; take the logarithm (math.log).",
    ],
    [
        Mistake(0.5, "The weight does not grow evenly: halfway through the training it is at 0.987."),
        Mistake(math.log(3), "Divide by the 10 of the exponent."),
        Mistake(-math.log(3) / 10, "Mind the sign: progress runs from 0 to 1."),
        Mistake(math.log10(3) / 10, "exp belongs to the natural logarithm, math.log."),
        Mistake(0.0, "At the beginning the weight is 0."),
    ],
    why="After 11 % of the training the reversal has half of its weight; the head has hardly learned anything by then.",
    worked=half_way,
)


# (d) A loss with two heads


def patients(count: int, agreement: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points (count, 2), ill or not, and device; in a share `agreement` of them the two are the same number.

    Notebook: 06_adversarial_devices
    """
    random = torch.Generator().manual_seed(seed)
    machine = torch.arange(count) % 2
    ill = torch.where(torch.rand(count, generator=random) < agreement, machine, 1 - machine)
    noise = torch.randn(count, 2, generator=random)
    return torch.stack([2 * ill - 1 + noise[:, 0], 2 * machine - 1 + 0.3 * noise[:, 1]], dim=1), ill, machine


def train(
    loss: Callable[..., Tensor], weight: float, agreement: float, seed: int = 0, steps: int = 300
) -> tuple[np.ndarray, float]:
    """The direction (2,) that one feature of `patients` learns, and the share that is right where devices tell nothing.

    `loss` is called as the exercise's answer.

    Notebook: 06_adversarial_devices
    """
    with fixed_threads(1):  # for tensors so small several threads would only wait for one another
        torch.manual_seed(seed)
        feature, illness = nn.Linear(2, 1, bias=False), nn.Linear(1, 2)
        device = nn.Sequential(nn.Linear(1, 20), nn.ReLU(), nn.Linear(20, 2))
        parts = nn.ModuleList([feature, illness, device])
        optimizer = torch.optim.Adam(parts.parameters(), lr=0.02)
        points, ill, machine = patients(1000, agreement, seed=0)
        for _ in range(steps):
            optimizer.zero_grad()
            loss(feature(points), illness, device, ill, machine, weight, Reverse.apply).backward()
            optimizer.step()
        points, ill, _ = patients(4000, 0.5, seed=1)
        right = (illness(feature(points)).argmax(dim=1) == ill).float().mean()
        weights = feature.weight.detach()[0]
        return (weights / weights.norm()).numpy(), right.item()


def loss(values, illness, device, ill, machine, weight, reverse):
    """Cross-entropy of the illness plus that of the device, whose gradient is reversed on its way to the feature."""
    return functional.cross_entropy(illness(values), ill) + functional.cross_entropy(
        device(reverse(values, weight)), machine
    )


def _gradients(answer: Callable[..., Any], weight: float) -> np.ndarray:
    """Of the feature's values and of the weights of both heads, in one row."""
    random = torch.Generator().manual_seed(3)
    values = torch.randn(12, 1, generator=random).requires_grad_()
    heads = []
    for first in (0.3, -0.7):
        head = nn.Linear(1, 2)
        with torch.no_grad():
            head.weight.copy_(torch.tensor([[first], [0.4]]))
            head.bias.copy_(torch.tensor([0.1, -0.2]))
        heads.append(head)
    ill, machine = (torch.randint(2, (12,), generator=random) for _ in range(2))
    value = answer(values, *heads, ill, machine, weight, Reverse.apply)
    if is_stub(value):
        raise NotDone
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        raise Wrong(value, "one number with a gradient, a tensor", "Return the sum of two cross-entropies.")
    value.sum().backward()
    parts = [values, *(parameter for head in heads for parameter in head.parameters())]
    return torch.cat(
        [torch.zeros(each.numel()) if each.grad is None else each.grad.flatten() for each in parts]
    ).numpy()


def _check_loss(answer: Any) -> None:
    require_function(answer)
    given = [_gradients(answer, weight) for weight in (0.5, 2.0)]
    for weight, own in zip((0.5, 2.0), given, strict=True):
        off = np.abs(own - _gradients(loss, weight))
        for name, part in (
            ("feature", off[:12]),
            ("head of the illness", off[12:16]),
            ("head of the device", off[16:]),
        ):
            if not part.max() < 1e-5:
                raise Wrong(
                    f"weight {weight:g}: the {name} has another gradient", "that of the two losses", values=given
                )
    outside = {weight: [train(answer, weight, 1.0, seed)[1] for seed in range(3)] for weight in (0.0, 1.0, 5.0)}
    if max(outside[0.0]) > 0.55 or np.mean(outside[1.0]) < 0.8 or np.ptp(outside[5.0]) < 0.3:
        raise Wrong(
            "; ".join(f"weight {weight:g}: {np.round(shares, 2)}" for weight, shares in outside.items()),
            "below 0.55 without the device head, about 0.8 with weight 1, and anything with weight 5",
        )


def _cross_entropies(illness_from: str, device_from: str, sign: float) -> Callable[..., Tensor]:
    def answer(values, illness, device, ill, machine, weight, reverse):
        seen = {"values": values, "reversed": reverse(values, weight)}
        own = functional.cross_entropy(illness(seen[illness_from]), ill)
        return own + sign * (weight if sign < 0 else 1) * functional.cross_entropy(device(seen[device_from]), machine)

    return answer


LOSS = Exercise(
    "A loss with two heads",
    _check_loss,
    loss,
    [
        "functional.cross_entropy(illness(values), ill) is the loss of the first head.",
        "The second head gets reverse(values, weight) instead of the values.",
        "Add the two. The sign and the weight are already in the reversal.",
    ],
    [
        Mistake(
            _cross_entropies("values", "values", 1), "Nothing is reversed: the feature learns to show the device, too."
        ),
        Mistake(
            _cross_entropies("values", "values", -1),
            "With a minus in the loss the device head itself learns to fail, and then nobody looks for the device.",
        ),
        Mistake(
            _cross_entropies("values", "reversed", -1),
            "The sign and the weight are in the reversal already; here they are applied twice.",
        ),
        Mistake(
            _cross_entropies("reversed", "reversed", 1),
            "The illness is unlearned, too: only the device head stands behind the reversal.",
        ),
        Mistake(
            lambda values, illness, device, ill, machine, weight, reverse: functional.cross_entropy(
                illness(values), ill
            ),
            "The device head has no loss, so it learns nothing and reverses nothing.",
        ),
    ],
    why="Each head gets better at its own task; only the feature works against one of them.",
    seconds=120,
)


# (e) A spectrum without its mean


def without_band_means(image):
    """An image (bands, frames) in dB without the mean over time of each band."""
    return image - image.mean(dim=1, keepdim=True)


def _images(random: np.random.Generator) -> Iterator[tuple[Tensor]]:
    for _ in range(6):
        bands, frames = (int(random.integers(5, 30)) for _ in range(2))
        image = random.normal(-40, 12, size=(bands, frames)) + random.normal(0, 8, size=(bands, 1))
        yield (torch.from_numpy(image),)


BANDS = Exercise(
    "Without the mean of each band",
    agrees(without_band_means, _images),
    without_band_means,
    [
        "A filter multiplies the power in a band by the same factor in every frame. What does that do to decibels?",
        "image.mean(dim=1, keepdim=True) has the mean of each band, shape (bands, 1).",
    ],
    [
        Mistake(
            lambda image: image - image.mean(), "This takes away the level of the clip; each band has its own mean."
        ),
        Mistake(
            lambda image: image - image.mean(dim=0, keepdim=True),
            "This is the mean over the bands, frame by frame: the beat is lost, and the device stays.",
        ),
        Mistake(lambda image: image.mean(dim=1, keepdim=True).expand_as(image), "This keeps only what should go."),
        Mistake(
            lambda image: image / image.mean(dim=1, keepdim=True),
            "The image is in dB, where a factor is a sum: subtract.",
        ),
        Mistake(
            lambda image: (image - image.mean(dim=1, keepdim=True)) / image.std(dim=1, keepdim=True),
            "The means are right, but how far each band moves should stay: do not divide.",
        ),
    ],
    why="What a linear device adds to an image in dB is the same in every frame, and so it is gone.",
)
