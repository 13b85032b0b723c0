"""Predictions, scores and intervals.

Notebook: 02_spoken_digits_cnn
"""

from course_lib.evaluation.predictions import predict
from course_lib.evaluation.scores import confusion_matrix, interval, scores

__all__ = ["confusion_matrix", "interval", "predict", "scores"]
