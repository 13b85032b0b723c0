"""The library behind the audio course: recordings -> clips -> model -> fit -> predictions -> scores -> figures.

What a lesson needs most is here: `from course_lib import Clips, datasets, fit, predict, scores`.
"""

import importlib
from typing import Any

__version__ = "0.2.0"

# Imported on first use, so that the layers need nothing but torch and NumPy.
_PUBLIC = {
    "Clips": "course_lib.clips",
    "fit": "course_lib.training",
    "interval": "course_lib.evaluation",
    "kept": "course_lib.kept_models",
    "load": "course_lib.datasets",
    "predict": "course_lib.evaluation",
    "predict_recordings": "course_lib.evaluation",
    "recipes": "course_lib.experiments",
    "scores": "course_lib.evaluation",
    "splits": "course_lib.datasets",
    "tables": "course_lib.experiments",
}


class CourseError(Exception):
    """Base of the course's errors: something a person can put right, and the message says how."""


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
