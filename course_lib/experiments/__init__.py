"""Recipes, their runs, the results and tables of them.

Notebook: 02_spoken_digits_cnn
"""

from course_lib import training
from course_lib.experiments.baselines import Discriminant, Logistic
from course_lib.experiments.comparison import compared, scores_by_group
from course_lib.experiments.form import RecipeError
from course_lib.experiments.recipe import Ensemble, Experiment, Fold, GroupPrior, Prediction, Recipe
from course_lib.experiments.recipes import load, names
from course_lib.experiments.result import (
    Result,
    ResultBusy,
    ResultError,
    damaged,
    decisions,
    predictions,
    read,
    results,
    write_json,
)
from course_lib.experiments.runs import load_model, run
from course_lib.experiments.tables import table

__all__ = [
    "Discriminant",
    "Ensemble",
    "Experiment",
    "Fold",
    "GroupPrior",
    "Logistic",
    "Prediction",
    "Recipe",
    "RecipeError",
    "Result",
    "ResultBusy",
    "ResultError",
    "compared",
    "damaged",
    "decisions",
    "load",
    "load_model",
    "names",
    "predictions",
    "read",
    "results",
    "run",
    "scores_by_group",
    "table",
    "training",
    "write_json",
]
