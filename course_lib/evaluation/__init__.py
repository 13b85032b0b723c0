"""Predictions, decisions, scores and intervals, and a look inside."""
# ruff: noqa: F401 - imported for others

from course_lib.evaluation.decisions import (
    EvaluationError,
    abstention,
    best_threshold,
    choose_members,
    clip_accuracy,
    decide,
    fraction_correct,
    group_prior,
    log_odds,
    pool_clips,
    pool_members,
)
from course_lib.evaluation.heat_maps import grad_cam
from course_lib.evaluation.intervals import (
    Interval,
    bootstrap,
    clopper_pearson,
    interval,
    interval_of_cells,
    mean_of_cells,
    paired_difference,
    t_interval,
    wilson,
)
from course_lib.evaluation.left_out import mean_of_groups, scores_by_rule, seen_and_unseen
from course_lib.evaluation.metrics import confusion_matrix, ranking, roc_auc, scores, scores_of_confusion
from course_lib.evaluation.noise import accuracy_in_noise
from course_lib.evaluation.predictions import embed, predict, predict_clips, predict_recordings
from course_lib.evaluation.probes import probe
