"""An exercise checks an answer by what it does, and says what is wrong with this answer."""

from __future__ import annotations

import contextlib
import html
import inspect
import math
import random
import reprlib
import signal
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from course_lib import CourseError, environment

LARGEST_ANSWER = 10_000_000  # numbers in an answer that is still compared


class ExerciseError(CourseError):
    """With `COURSE_EXERCISES=solved` an answer is not right; the message says what is wrong with it."""


class NotDone(Exception):
    """Raised in a check: the answer is still a stub."""


class Wrong(Exception):
    """Raised in a check: what was given, what was expected, and, for a mistake the check knows, its sentence.

    `values` are all results of the answer, where there are some: an answer whose results are those of a listed
    mistake makes this mistake.
    """

    def __init__(self, given: Any, expected: Any, sentence: str = "", values: Sequence[Any] | None = None) -> None:
        self.given, self.expected, self.sentence, self.values = given, expected, sentence, values


@dataclass(frozen=True)
class Mistake:
    """An answer that people really give, and the sentence that they need."""

    answer: Any
    sentence: str


class Exercise:
    """A question whose answer, a function or a value, can be checked.

    `check(answer)` returns for a right answer and raises `Wrong` or `NotDone` for others; it may let every other
    exception of the answer through. `why` is the sentence that a right answer gets. `worked` is what `solution()`
    shows where the solution itself is a value: the function that finds it. A check is given `seconds`.
    """

    def __init__(
        self,
        title: str,
        check: Callable[[Any], None],
        solution: Any,
        hints: Sequence[str],
        mistakes: Sequence[Mistake],
        why: str,
        worked: Callable[..., Any] | str | None = None,
        seconds: float = 30,
    ) -> None:
        self.title, self.hints, self.mistakes, self.why = title, tuple(hints), tuple(mistakes), why
        self.seconds = seconds
        self._check, self._solution, self._worked = check, solution, worked
        self._hints_given = 0
        self._answer = solution

    @property
    def answer(self) -> Any:
        """The learner's answer once it was right, before that the solution: what later cells go on with."""
        return self._answer

    def check(self, answer: Any) -> None:
        """Print whether an answer is right, wrong or not done yet. Never raises, whatever the answer does.

        With `COURSE_EXERCISES=solved` the solution takes the place of a stub, and ExerciseError is raised for
        anything but a right answer.
        """
        verdict, text = self._judge(answer)
        solved = environment.exercises_solved()
        if solved and verdict == "not done yet":
            answer = self._solution
            verdict, text = self._judge(answer)
        if solved and verdict != "right":
            raise ExerciseError(text)
        if verdict == "right":
            self._answer = answer
        print(text)

    def hint(self) -> None:
        """Print one hint after the other."""
        number = min(self._hints_given, len(self.hints) - 1)
        self._hints_given += 1
        rest = len(self.hints) - number - 1
        print(f"Hint {number + 1} of {len(self.hints)}: {self.hints[number]}")
        if rest == 0 and self._hints_given > len(self.hints):
            print("This was the last hint; solution() shows one way to do it.")

    def solution(self) -> None:
        """Show one right answer, folded in a notebook."""
        shown = self._solution if self._worked is None else self._worked
        text = textwrap.dedent(inspect.getsource(shown)) if callable(shown) else str(shown)
        ipython = sys.modules.get("IPython")
        shell = ipython.get_ipython() if ipython else None
        if shell is None or not hasattr(shell, "kernel"):
            print(text)
            return
        from IPython.display import HTML, display

        title = html.escape(f"A solution of “{self.title}”")
        display(HTML(f"<details><summary>{title}</summary><pre>{html.escape(text)}</pre></details>"))

    def _judge(self, answer: Any) -> tuple[str, str]:
        """The verdict (right, wrong, not done yet) and the text for the learner."""
        if is_stub(answer):
            return self._not_done()
        with _global_state_kept(), contextlib.suppress(_TooSlow), _time_limit(self.seconds):
            try:
                self._check(answer)
            except (NotDone, NotImplementedError):
                return self._not_done()
            except Wrong as error:
                return "wrong", self._wrong(error)
            except (KeyboardInterrupt, _TooSlow):
                raise
            except BaseException as error:  # an answer may do anything, even call exit()
                return "wrong", self._wrong(Wrong(f"{type(error).__name__}: {_shortened(str, error)}", "no exception"))
            return "right", f"{self.title}: right. {self.why}"
        slow = Wrong(f"no result within {self.seconds:g} s", "a result", "Is there a loop that never ends?")
        return "wrong", self._wrong(slow)

    def _not_done(self) -> tuple[str, str]:
        return "not done yet", f"{self.title}: not done yet. Write your answer, run its cell, and check it again."

    def _wrong(self, error: Wrong) -> str:
        sentence = error.sentence or self._recognised(error) or "This is none of the usual mistakes; hint() may help."
        given, expected = (_shortened(str, each) for each in (error.given, error.expected))
        return f"{self.title}: wrong.\n  given:    {given}\n  expected: {expected}\n  {sentence}"

    def _recognised(self, error: Wrong) -> str:
        """The sentence of the listed mistake that has the same results."""
        if error.values is None:
            return ""
        for mistake in self.mistakes:
            try:
                self._check(mistake.answer)
            except Wrong as known:
                if known.values is not None and _same(known.values, error.values):
                    return mistake.sentence
            except Exception:  # another kind of mistake than this one
                continue
        return ""


class Prediction:
    """A guess before a measurement: `guess(85)` in one cell, `compare(measured)` in the cell that measures.

    Guesses within `close` of what is measured are good; `too_high` and `too_low` say what the others overlooked.
    """

    def __init__(self, title: str, unit: str, close: float, good: str, too_high: str, too_low: str) -> None:
        self.title, self.unit, self.close = title, unit, close
        self.good, self.too_high, self.too_low = good, too_high, too_low
        self.guessed: float | None = None

    def guess(self, value: Any) -> None:
        """Keep a guess, a number. Prints what is wrong with it otherwise, and never raises."""
        self.guessed = None
        if is_stub(value):
            print(f"{self.title}: not done yet. Put your guess in place of the dots, a number in {self.unit}.")
            return
        try:
            number = float(numbers(value).item()) if not isinstance(value, str) else float(value)
        except Exception:  # whatever was given is no number
            number = math.nan
        if not math.isfinite(number):
            print(f"{self.title}: {_shortened(repr, value)} is no guess; give a number in {self.unit}.")
            return
        self.guessed = number
        print(f"{self.title}: your guess is {number:g} {self.unit}.")

    def compare(self, measured: float) -> None:
        """Print the guess beside what was measured."""
        if self.guessed is None:
            print(f"{self.title}: measured {measured:.1f} {self.unit}; you made no guess.")
            return
        off = self.guessed - measured
        verdict = self.good if abs(off) <= self.close else self.too_high if off > 0 else self.too_low
        print(
            f"{self.title}: you guessed {self.guessed:.1f} {self.unit}, measured were {measured:.1f} "
            f"({off:+.1f}). {verdict}"
        )


def agrees(
    solution: Callable[..., Any],
    inputs: Callable[[np.random.Generator], Iterable[tuple[Any, ...]]],
    within: float = 1e-4,
) -> Callable[[Any], None]:
    """A check: the answer, a function, must give what the solution gives, to `within`, for all the inputs.

    `inputs(random)` yields the arguments of each call. They are made anew for answer and solution, so that an answer
    that writes into its arguments is compared with the right values.
    """

    def check(answer: Any) -> None:
        require_function(answer)
        given = []
        for number, arguments in enumerate(inputs(np.random.default_rng(2024))):
            value = answer(*arguments)
            if is_stub(value):
                if number == 0:
                    raise NotDone
                raise Wrong(f"{_call(answer, arguments)} returned {value!r}", "a number for every input")
            given.append(numbers(value))
        for value, arguments in zip(given, inputs(np.random.default_rng(2024)), strict=True):
            call = _call(answer, arguments)
            right = numbers(solution(*arguments))
            if value.shape != right.shape:
                raise Wrong(f"{call} has the shape {value.shape}", f"the shape {right.shape}", values=given)
            off = np.abs(value - right)
            if not (off <= within).all():
                largest = f"; largest difference {off.max():.3g}" if value.ndim else ""
                raise Wrong(f"{call} = {_array(value)}{largest}", _array(right), values=given)

    return check


def require_function(answer: Any) -> None:
    """Raise `Wrong` for an answer that cannot be called."""
    if not callable(answer):
        raise Wrong(answer, "a function", "Pass the function itself, without parentheses.")


def numbers(value: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """A number, list, array or tensor as a NumPy array of float64 or complex128; `Wrong` for anything else.

    `Wrong` as well for another shape than `shape`, where it is given.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu().resolve_conj().numpy()
    if isinstance(value, list | tuple):
        if len(value) > LARGEST_ANSWER:
            raise Wrong(f"a {type(value).__name__} of {len(value):,} values", "fewer numbers")
        value = [numbers(each) if isinstance(each, list | tuple) or hasattr(each, "detach") else each for each in value]
    elif not isinstance(value, np.ndarray | np.generic | int | float | complex):
        raise Wrong(f"{_shortened(repr, value)}, of type {type(value).__name__}", "a number, an array or a tensor")
    try:
        array = np.asarray(value)
        if array.size > LARGEST_ANSWER:
            raise Wrong(f"{array.size:,} numbers", "fewer numbers")
        array = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
    except (TypeError, ValueError, OverflowError):
        raise Wrong(_shortened(repr, value), "numbers") from None
    if shape is not None and array.shape != shape:
        raise Wrong(f"the shape {array.shape}", f"the shape {shape}")
    return array


def is_stub(value: Any) -> bool:
    """Whether a value only keeps the place of an answer: None, ..., NotImplemented, or a dict or list of these."""
    if isinstance(value, dict):
        return all(is_stub(each) for each in value.values())
    if isinstance(value, list | tuple):
        return all(each is None or each is ... for each in value)
    return value is None or value is ... or value is NotImplemented


class _TooSlow(BaseException):
    """Not an Exception, so that an answer's own `except Exception` does not catch it."""


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise `_TooSlow` after so many seconds, where the system can: not on Windows, nor outside the main thread."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise _TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _global_state_kept() -> Iterator[None]:
    """Leave the random numbers of Python, NumPy and torch as they were, whatever an answer seeds; show no warnings."""
    torch = sys.modules.get("torch")
    gradients = torch.is_grad_enabled() if torch else True
    before = random.getstate(), np.random.get_state(), torch.get_rng_state() if torch else None  # noqa: NPY002
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        if torch:
            torch.set_rng_state(before[2])
            torch.set_grad_enabled(gradients)


def _same(first: Sequence[Any], second: Sequence[Any]) -> bool:
    def close(one: Any, other: Any) -> bool:
        one, other = np.asarray(one), np.asarray(other)
        return one.shape == other.shape and np.allclose(one, other, rtol=1e-4, atol=1e-6, equal_nan=True)

    return len(first) == len(second) and all(map(close, first, second))


def _call(function: Any, arguments: tuple[Any, ...]) -> str:
    name = getattr(function, "__name__", "your function")
    return f"{name}({', '.join(map(_argument, arguments))})"


def _argument(value: Any) -> str:
    if getattr(value, "shape", ()):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    return f"{value:.6g}" if isinstance(value, float) else _shortened(repr, value)


def _array(values: np.ndarray) -> str:
    return np.array2string(values, precision=4, threshold=8, edgeitems=3)


def _shortened(text_of: Callable[[Any], str], value: Any) -> str:
    """A text of at most 200 characters; values exist that cannot even be printed."""
    try:
        text = " ".join((text_of(value) if isinstance(value, str | BaseException) else reprlib.repr(value)).split())
    except Exception:
        text = f"a {type(value).__name__} that cannot be printed"
    return text if len(text) <= 200 else f"{text[:197]}..."
