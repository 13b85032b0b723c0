"""Training: settings, the loop, and checkpoints.

Notebook: 02_spoken_digits_cnn
"""

from course_lib.training.state import CheckpointError, load_model, save_model
from course_lib.training.fit import History, TrainingError, fit
from course_lib.training.settings import Settings

__all__ = ["CheckpointError", "History", "Settings", "TrainingError", "fit", "load_model", "save_model"]
