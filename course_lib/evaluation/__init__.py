"""Predictions, scores and intervals, and a look inside.

Notebook: 02_spoken_digits_cnn
"""

from course_lib.evaluation.decisions import (
    abstention,
    best_threshold,
    group_prior,
    log_odds,
    pooled,
    ranking,
    rightness,
    vote,
)
from course_lib.evaluation.heat_maps import grad_cam
from course_lib.evaluation.predictions import embed, predict
from course_lib.evaluation.probes import probe
from course_lib.evaluation.noise import accuracy_in_noise
from course_lib.evaluation.metrics import balanced_interval, confusion_matrix, interval, scores

__all__ = [
    "abstention",
    "accuracy_in_noise",
    "balanced_interval",
    "best_threshold",
    "confusion_matrix",
    "embed",
    "grad_cam",
    "group_prior",
    "interval",
    "log_odds",
    "pooled",
    "predict",
    "probe",
    "ranking",
    "rightness",
    "scores",
    "vote",
]
