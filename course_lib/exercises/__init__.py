"""Exercises that check themselves, a module for each lesson: `exercises.lesson_1.ALIAS.check(alias)`.

A lesson's module is imported on first use, so that a lesson pays for its own exercises only.
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
