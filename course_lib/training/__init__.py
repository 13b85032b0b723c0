"""Training: settings, the loop, and checkpoints.

Notebook: 02_spoken_digits_cnn
"""

from course_lib.models.base import ModelError, require_fitting
from course_lib.training.fit import History, TrainingError, fit, fixed_threads
from course_lib.training.settings import Settings
from course_lib.training.state import CheckpointError, load_model, save_model

__all__ = [
    "CheckpointError",
    "History",
    "ModelError",
    "Settings",
    "TrainingError",
    "fit",
    "fixed_threads",
    "load_model",
    "require_fitting",
    "save_model",
]
