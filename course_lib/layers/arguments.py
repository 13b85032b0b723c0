"""Checks of the numbers that layers are built with: each returns its number, or raises ValueError in one sentence."""

import math
import operator
from numbers import Integral, Real

_COMPARISONS = {"at_least": operator.ge, "above": operator.gt, "at_most": operator.le, "below": operator.lt}


def number(name: str, value: float, **bounds: float) -> float:
    """A finite number within `bounds`: at_least, above, at_most, below."""
    finite = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not finite or not all(_COMPARISONS[key](value, bound) for key, bound in bounds.items()):
        wanted = " and ".join(f"{key.replace('_', ' ')} {bound:g}" for key, bound in bounds.items()) or "finite"
        raise ValueError(f"{name} is {value!r}; it must be a number {wanted}")
    return value.item() if hasattr(value, "item") else value  # numpy's numbers as Python's


def whole(name: str, value: int, *, at_least: int = 1) -> int:
    """A whole number from `at_least` on."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < at_least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {at_least}")
    return int(value)


def ordered(lower_name: str, lower: float, upper_name: str, upper: float) -> tuple[float, float]:
    """Two finite numbers, the first not above the second."""
    lower, upper = number(lower_name, lower), number(upper_name, upper)
    if lower > upper:
        raise ValueError(f"{lower_name} {lower} is above {upper_name} {upper}")
    return lower, upper


def band(f_min: float | None, f_max: float | None, sample_rate: float) -> tuple[float, float]:
    """The ends of a frequency range in Hz, which are by default 0 and half the sample rate."""
    nyquist = number("sample_rate", sample_rate, above=0) / 2
    f_min = 0.0 if f_min is None else number("f_min", f_min)
    f_max = nyquist if f_max is None else number("f_max", f_max)
    if not 0 <= f_min < f_max <= nyquist:
        raise ValueError(
            f"f_min {f_min:g} Hz must be at least 0 and below f_max {f_max:g} Hz, and that at most half the sample "
            f"rate, {nyquist:g} Hz"
        )
    return float(f_min), float(f_max)
