"""Training: settings, the loop, and checkpoints.

Notebook: 02_spoken_digits_cnn
"""

from course_lib.models.base import ModelError, require_fitting
from course_lib.training.fit import fit, fixed_threads
from course_lib.training.history import History
from course_lib.training.settings import Settings
from course_lib.training.state import CheckpointError, load_model, save_model
from course_lib.training.trainer import TrainingError

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
