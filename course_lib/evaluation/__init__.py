"""Predictions, scores and intervals, and a look inside.

Notebook: 02_spoken_digits_cnn
"""

from course_lib.evaluation.grad_cam import grad_cam
from course_lib.evaluation.predictions import predict
from course_lib.evaluation.robustness import accuracy_in_noise
from course_lib.evaluation.scores import confusion_matrix, interval, scores

__all__ = ["accuracy_in_noise", "confusion_matrix", "grad_cam", "interval", "predict", "scores"]
