"""Exercises of lesson 4: delays, derivatives and steps of gammatone filters, and a filter without taps.

The stubs of the lesson are

    def delay(b, order): ...                       # DELAY: seconds from a click to the peak of the envelope
    def by_bandwidth(y, z_next, b, order): ...     # LEVEL: the derivative of the mean energy by the bandwidth
    def to_hertz(u): ...                           # STEP: any number -> 60 to 3,950 Hz, a unit is 1 ERB everywhere
    def next_order(x, pole): ...                   # NEXT: x filtered by i^4 pole^i

and MOVED is a guess in Hz.

Notebook: 04_learnable_gammatone
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.signal
import torch

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
)  # fmt: skip
from course_lib.layers.gammatone import scales

RATE = 8000

# (a) The delay of a filter


def delay(b, order):
    """Seconds from a click to the peak of the envelope t^(order-1) exp(-2 pi b t)."""
    return (order - 1) / (2 * math.pi * b)


def _peak(b: float, order: int) -> float:
    t = np.arange(1, 60_000) * 2e-6
    return float(t[((order - 1) * np.log(t) - 2 * np.pi * b * t).argmax()])


def _filters(random: np.random.Generator) -> Iterator[tuple[float, int]]:
    for order in (2, 3, 4, 5, 6, 4, 3):
        yield float(random.uniform(30, 450)), order


DELAY = Exercise(
    "The delay of a filter",
    agrees(_peak, _filters, within=1e-5),
    delay,
    [
        "At its peak the envelope has a slope of zero.",
        "The logarithm of the envelope, (n - 1) log t - 2 pi b t, peaks at the same time and is easier to derive.",
        "(n - 1) / t - 2 pi b = 0.",
    ],
    [
        Mistake(lambda b, order: order / (2 * math.pi * b), "The power of t in the envelope is n - 1, not n."),
        Mistake(lambda b, order: (order - 1) / b, "The envelope decays with 2 pi b, not with b."),
        Mistake(lambda b, order: 1000 * delay(b, order), "These are milliseconds; give seconds."),
        Mistake(lambda b, order: RATE * delay(b, order), "These are samples; give seconds."),
        Mistake(lambda b, order: 1 / (2 * math.pi * b), "The delay grows with the order: the envelope begins softly."),
    ],
    why="Narrow filters answer late, so low bands lag behind high ones in every image that is not corrected for it.",
)


# Predict first: how far Adam goes

MOVED = Prediction(
    "300 steps of Adam, each of about 0.001 Hz",
    "Hz",
    close=0.15,
    good="A step of Adam is about as long as the learning rate, whatever the gradient.",
    too_high="A step of Adam is about as long as the learning rate: 300 times 0.001 Hz, however steep the loss.",
    too_low="The filter does move: 300 steps of about the learning rate, 0.001 Hz, all in one direction.",
)


# (b) The derivative by the bandwidth


def by_bandwidth(y, z_next, b, order):
    """dE/db of the mean energy E of y, from y, the complex output of the next order, and the level's share 2nE/b."""
    return (2 * y * -2 * math.pi * z_next.real).mean() + 2 * order * y.square().mean() / b


def _outputs(x: torch.Tensor, f: float, b: torch.Tensor, order: int, power: int) -> torch.Tensor:
    """x filtered by a(b) t^power exp(2 pi (-b + i f) t), where a(b) is the level of the filter of this order."""
    t = torch.arange(len(x), dtype=torch.float64) / RATE
    level = 2 * (2 * math.pi * b) ** order / math.factorial(order - 1) / RATE
    response = level * t**power * torch.exp(2 * math.pi * (1j * f - b) * t)
    size = 2 * len(x)
    return torch.fft.ifft(torch.fft.fft(x, size) * torch.fft.fft(response, size))[: len(x)]


@functools.cache
def _slopes() -> list[tuple[torch.Tensor, torch.Tensor, float, int, float]]:
    """The arguments of `by_bandwidth`, and the derivative by automatic differentiation."""
    random = torch.Generator().manual_seed(4)
    cases = []
    for f, width, order in (
        (800.0, 100.0, 4),
        (500.0, 60.0, 4),
        (1500.0, 180.0, 3),
        (3000.0, 300.0, 5),
        (200.0, 45.0, 2),
    ):
        x = torch.randn(1200, generator=random, dtype=torch.float64) / 4
        b = torch.tensor(width, dtype=torch.float64, requires_grad=True)
        y = _outputs(x, f, b, order, order - 1).real
        slope = torch.autograd.grad(y.square().mean(), b)[0]
        z_next = _outputs(x, f, b, order, order)
        cases.append((y.detach(), z_next.detach(), width, order, float(slope)))
    return cases


def _check_level(answer: Any) -> None:
    require_function(answer)
    given, right = [], []
    for number, (y, z_next, b, order, slope) in enumerate(_slopes()):
        value = answer(y.clone(), z_next.clone(), b, order)
        if is_stub(value):
            if number == 0:
                raise NotDone
            raise Wrong("None", "a number for every input")
        value = numbers(value, ())
        if np.iscomplexobj(value):
            raise Wrong("a complex number", "a real one", "E is real, and so are its derivatives: take the real part.")
        given.append(float(value))
        right.append(slope)
    shares = np.array(given) / np.array(right)  # of the right value, so that mistakes are compared at one scale
    for value, slope, share in zip(given, right, shares, strict=True):
        if not abs(share - 1) <= 1e-6:
            raise Wrong(f"dE/db = {value:.6g}", f"{slope:.6g} (automatic differentiation)", values=[shares])


LEVEL = Exercise(
    "The derivative by the bandwidth",
    _check_level,
    by_bandwidth,
    [
        "The level a(b) is proportional to b^n, so E holds a factor b^(2n).",
        "Derive the two factors of E one after the other: first all but the level, then the level.",
        "The derivative of b^(2n) is 2n/b times b^(2n).",
    ],
    [
        Mistake(
            lambda y, z_next, b, order: (2 * y * -2 * math.pi * z_next.real).mean(),
            "The level is missing: a(b) changes with b, too.",
        ),
        Mistake(
            lambda y, z_next, b, order: (2 * y * -2 * math.pi * z_next.real).mean() + order * y.square().mean() / b,
            "E holds the square of the level: b^(2n), not b^n.",
        ),
        Mistake(
            lambda y, z_next, b, order: (
                (2 * y * -2 * math.pi * z_next.real).mean() + 2 * (order - 1) * y.square().mean() / b
            ),
            "The level grows with b^n; n - 1 is the power of t.",
        ),
        Mistake(
            lambda y, z_next, b, order: by_bandwidth(y, 1j * z_next, b, order),
            "The imaginary part belongs to the derivative by f; that by b has the real part.",
        ),
        Mistake(
            lambda y, z_next, b, order: len(y) * by_bandwidth(y, z_next, b, order),
            "E is the mean over the samples, not their sum.",
        ),
        Mistake(lambda y, z_next, b, order: -by_bandwidth(y, z_next, b, order), "The sign is the wrong way round."),
    ],
    why="Without the level the sign can be wrong, and training would widen a filter that it should narrow.",
)


# (c) A step of one ERB

LOW, HIGH = 60.0, 3950.0


def to_hertz(u):
    """Any number -> a frequency between 60 and 3,950 Hz: the ERB rate is u itself, reflected at both ends."""
    low, high = scales.erb_rate(torch.tensor([60.0, 3950.0], dtype=u.dtype))
    way = torch.remainder(u - low, 2 * (high - low))  # there and back again
    return scales.from_erb_rate(low + torch.minimum(way, 2 * (high - low) - way))


def _limits(u: torch.Tensor, to: Callable[[torch.Tensor], torch.Tensor] = scales.erb_rate) -> list[float]:
    return to(torch.tensor([LOW, HIGH], dtype=u.dtype)).tolist()


def _reflected(u: torch.Tensor, low: float, high: float) -> torch.Tensor:
    way = torch.remainder(u - low, 2 * (high - low))
    return low + torch.minimum(way, 2 * (high - low) - way)


def _sigmoid(u: torch.Tensor) -> torch.Tensor:
    low, high = _limits(u, scales.mel)
    return scales.from_mel(low + (high - low) * torch.sigmoid(u))


def _clamped(u: torch.Tensor) -> torch.Tensor:
    return scales.from_erb_rate(u.clamp(*_limits(u)))


def _straight_through(u: torch.Tensor) -> torch.Tensor:
    return scales.from_erb_rate(u + (u.clamp(*_limits(u)) - u).detach())


def _wrapped(u: torch.Tensor) -> torch.Tensor:
    low, high = _limits(u)
    return scales.from_erb_rate(low + torch.remainder(u - low, high - low))


def _check_step(answer: Any) -> None:
    require_function(answer)
    u = torch.linspace(-60, 60, 2401, dtype=torch.float64)  # steps of 0.05
    given = answer(u.clone())
    if is_stub(given):
        raise NotDone
    hertz = numbers(given, tuple(u.shape))
    if np.iscomplexobj(hertz) or not np.isfinite(hertz).all():
        raise Wrong("frequencies that are complex, NaN or infinite", "frequencies in Hz")
    if hertz.min() < LOW - 0.5 or hertz.max() > HIGH + 0.5:
        raise Wrong(
            f"{hertz.min():,.0f} to {hertz.max():,.0f} Hz for u from -60 to 60", "60 to 3,950 Hz",
            "Some numbers leave the range; training will find one.",
        )  # fmt: skip
    number = u.clone().requires_grad_()
    rate = scales.erb_rate(answer(number))
    if not isinstance(rate, torch.Tensor) or not rate.requires_grad:
        raise Wrong("no gradient", "a gradient for every u", "Compute with torch, from u to Hz, and do not detach.")
    slopes = torch.autograd.grad(rate.sum(), number)[0].abs().numpy()
    measured = np.abs(np.diff(rate.detach().numpy())) / 0.05
    if measured.max() > 20:
        where = measured.argmax()
        raise Wrong(
            f"u from {u[where]:.2f} to {u[where + 1]:.2f} gives {hertz[where]:,.0f} to {hertz[where + 1]:,.0f} Hz",
            "neighbours for neighbours", "A small step must not jump from one end to the other.",
        )  # fmt: skip
    still = measured < 1e-3
    if still.mean() > 0.05 and slopes[:-1][still].min() > 0.1:
        raise Wrong(
            f"gradients where f does not move, for example at u = {u[:-1][still][0]:.0f}", "the gradient of f",
            "This gradient is made up: behind the limit u runs away, and the way back takes as many steps.",
        )  # fmt: skip
    if slopes.min() < 1e-4:
        raise Wrong(
            f"a gradient of {slopes.min():.1e} at u = {u[slopes.argmin()]:.0f}", "about 1 ERB per unit everywhere",
            "Here a filter would be stuck: its gradient is zero, or so small that no step follows.",
        )  # fmt: skip
    if hertz.min() > LOW + 20 or hertz.max() < HIGH - 200:
        raise Wrong(
            f"{hertz.min():,.0f} to {hertz.max():,.0f} Hz", "60 to 3,950 Hz", "Part of the range is never reached."
        )
    if slopes.max() > 2 * slopes.min():
        raise Wrong(
            f"{slopes.min():.2f} to {slopes.max():.2f} ERB per unit", "within a factor of 2",
            "The steps are not equally long on the ERB-rate scale.",
        )  # fmt: skip
    if not 0.5 <= np.median(slopes) <= 2:
        raise Wrong(f"{np.median(slopes):.3g} ERB per unit", "about 1", "The steps are equally long, but not 1 ERB.")


STEP = Exercise(
    "A step of one ERB",
    _check_step,
    to_hertz,
    [
        "scales.erb_rate and scales.from_erb_rate go from Hz to numbers of ERB and back.",
        "Between the limits, let u be the ERB rate itself. What should happen behind them?",
        "Reflect: torch.remainder(u - low, 2 * width) runs from 0 to 2 * width; from width on, go back.",
    ],
    [
        Mistake(lambda u: u, "Some numbers leave the range; training will find one."),
        Mistake(_sigmoid, "Here a filter would be stuck: its gradient is zero, or so small that no step follows."),
        Mistake(_wrapped, "A small step must not jump from one end to the other."),
        Mistake(
            _straight_through,
            "This gradient is made up: behind the limit u runs away, and the way back takes as many steps.",
        ),
        Mistake(
            lambda u: scales.from_mel(_reflected(100 * u, *_limits(u, scales.mel))),
            "The steps are not equally long on the ERB-rate scale.",
        ),
        Mistake(
            lambda u: scales.from_erb_rate(_reflected(10 * u, *_limits(u))),
            "The steps are equally long, but not 1 ERB.",
        ),
        Mistake(
            lambda u: scales.from_erb_rate(_reflected(u, *scales.erb_rate(torch.tensor([500.0, 2000.0])).tolist())),
            "Part of the range is never reached.",
        ),
    ],
    why="Whatever an optimiser does to u, the result is a filter, and one with a way back.",
)


# (d) The next order, without taps


def next_order(x, pole):
    """x filtered by i^4 pole^i, i = 0, 1, 2 ... without end."""
    for _ in range(5):
        x = scipy.signal.lfilter([1], [1, -pole], x)
    return scipy.signal.lfilter([0, pole, 11 * pole**2, 11 * pole**3, pole**4], [1], x)


def _chain(x: np.ndarray, pole: complex, poles: int, taps: list[complex]) -> np.ndarray:
    for _ in range(poles):
        x = scipy.signal.lfilter([1], [1, -pole], x)
    return scipy.signal.lfilter(taps, [1], x)


def _check_next(answer: Any) -> None:
    require_function(answer)
    random = np.random.default_rng(8)
    given, all_right = [], []
    for f, b, samples in ((800, 100, 1300), (3000, 300, 1200), (250, 40, 1400), (1200, 150, 1101)):
        pole = complex(np.exp(2 * np.pi * (-b + 1j * f) / RATE))
        x, i = random.normal(size=samples), np.arange(samples)
        right = np.convolve(x, i**4 * pole**i)[:samples]
        value = answer(x.copy(), pole)
        if is_stub(value):
            raise NotDone
        given.append(numbers(value, (samples,)) / np.abs(right).max())
        all_right.append(right / np.abs(right).max())
    for value, right in zip(given, all_right, strict=True):
        off = np.abs(value - right).max()
        if not off <= 1e-9:
            raise Wrong(f"{off:.2g} of the largest value away", "np.convolve(x, i**4 * pole**i)", values=given)


NEXT = Exercise(
    "The next order, without taps",
    _check_next,
    next_order,
    [
        "One order more is one pole more in the chain.",
        "Multiply 1^4, 2^4, 3^4 ... by (1 - s)^5, or look up the Eulerian numbers: the weights are 1, 11, 11, 1.",
        "As before, the weight of a value that is i samples old also has a factor pole**i, and i begins at 1.",
    ],
    [
        Mistake(
            lambda x, pole: _chain(x, pole, 5, [0, pole, 4 * pole**2, pole**3]),
            "The weights 1, 4, 1 belong to order 4; order 5 has 1, 11, 11, 1.",
        ),
        Mistake(
            lambda x, pole: _chain(x, pole, 4, [0, pole, 11 * pole**2, 11 * pole**3, pole**4]),
            "Order 5 takes five one-pole filters.",
        ),
        Mistake(
            lambda x, pole: _chain(x, pole, 5, [0, 1, 11, 11, 1]),
            "The weights lack the powers of the pole: a value that is i samples old has decayed and turned.",
        ),
        Mistake(
            lambda x, pole: _chain(x, pole, 5, [1, 11 * pole, 11 * pole**2, pole**3]),
            "This is a sample too early: at i = 0 the response i^4 pole^i is 0.",
        ),
        Mistake(lambda x, pole: next_order(x, pole).real, "Keep the complex output: its imaginary part gives dE/df."),
        Mistake(
            lambda x, pole: _chain(x, pole, 4, [0, pole, 4 * pole**2, pole**3]),
            "This is still the filter i^3 pole^i, of order 4.",
        ),
    ],
    why="With it the derivatives cost one more filter in the chain, and no signal has to be stored.",
)
