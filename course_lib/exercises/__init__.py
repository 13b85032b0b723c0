"""Exercises that check themselves, a module for each lesson: `exercises.lesson_1.ALIAS.check(alias)`.

A lesson's module is imported on first use, so that a lesson pays for its own exercises only. A new exercise is a
solution, inputs to try it on, hints, and the mistakes that people make, each with its sentence:

    DOUBLE = Exercise("Twice as much", agrees(double, lambda random: ((x,) for x in random.normal(size=9))), double,
                      ["Multiply."], [Mistake(lambda x: x * x, "This is the square.")], why="Two are better than one.")

Where results cannot be compared one by one, write the check: it raises `Wrong(given, expected, sentence)` or `NotDone`.
"""

import importlib
import re
from types import ModuleType

from course_lib.exercises.exercise import Exercise, ExerciseError, Mistake, NotDone, Prediction, Wrong, agrees, numbers

__all__ = ["Exercise", "ExerciseError", "Mistake", "NotDone", "Prediction", "Wrong", "agrees", "numbers"]


def __getattr__(name: str) -> ModuleType:
    if not re.fullmatch(r"lesson_\d+", name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
