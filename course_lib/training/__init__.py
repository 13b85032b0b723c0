"""Training: settings, the loop, and checkpoints.

Notebook: 02_spoken_digits_cnn
"""
# ruff: noqa: F401 - imported for others

from course_lib.training.adaptation import adapt_batch_norm
from course_lib.training.fit import fit, fixed_threads
from course_lib.training.history import History
from course_lib.training.settings import Settings
from course_lib.training.state import CheckpointError, load_model, save_model
from course_lib.training.trainer import TrainingError
