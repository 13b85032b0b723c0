"""From the clips of a recording to one decision, normal (0) or abnormal (1), and how far to trust it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn import metrics

from course_lib.evaluation.metrics import scores

T = TypeVar("T", float, np.ndarray, pd.Series)
_SMALLEST = 1e-7


def pooled(clips: pd.DataFrame) -> pd.DataFrame:
    """Class probabilities of each recording, from those of its clips (a row each, named after the recording).

    The normalised geometric mean; with two classes its log-odds are the mean log-odds of the clips. A row for each
    recording, in order of first appearance, and a column for each class.

    Notebook: 05_heart_sounds_physionet
    """
    together = np.exp(np.log(clips.clip(lower=_SMALLEST)).groupby(level=0, sort=False).mean())
    return together.div(together.sum(axis=1), axis=0)


def vote(clips: pd.DataFrame) -> pd.Series:
    """Share of the clips of each recording that are called abnormal; a recording is, when it is at least 0.5.

    Notebook: 05_heart_sounds_physionet
    """
    return (clips.iloc[:, 1] >= 0.5).groupby(level=0, sort=False).mean()


def rightness(decided: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """How often each recording was called right in the decisions of several runs, a table each.

    The tables have a row a recording with its label, group and predicted class; the result has label, group and right.

    Notebook: 05_heart_sounds_physionet
    """
    runs = list(decided) or [pd.DataFrame(columns=["label", "group", "predicted"])]
    told = pd.concat(runs)
    by_recording = told.assign(right=told["label"] == told["predicted"]).groupby(level=0, sort=False)
    return by_recording[["label", "group"]].first().assign(right=by_recording["right"].mean())


def group_prior(labels: ArrayLike, groups: ArrayLike, n_classes: int) -> Callable[[ArrayLike], pd.DataFrame]:
    """The confound baseline: from the labels and groups of a training side, what the group alone tells of a recording.

    Returns a function from groups to the share of each class among the training recordings of that group, a row each;
    for a group that is not there, among all of them.

    Notebook: 05_heart_sounds_physionet
    """
    counts = pd.crosstab(np.asarray(groups), np.asarray(labels)).reindex(columns=range(n_classes), fill_value=0)
    overall = counts.sum() / counts.to_numpy().sum()
    shares = counts.div(counts.sum(axis=1), axis=0)
    return lambda asked: shares.reindex(np.asarray(asked)).fillna(overall)


def best_threshold(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """The probability of class 1 from which to say 1, for the highest MAcc on these recordings; the training side's.

    Halfway, in log-odds, between two recordings; of several best thresholds the one nearest to 0.5. 0.5 where one of
    the classes is missing.

    Notebook: 05_heart_sounds_physionet
    """
    labels, odds = np.asarray(labels), log_odds(np.asarray(probabilities, dtype=float))
    normal, abnormal, values = np.sort(odds[labels == 0]), np.sort(odds[labels == 1]), np.unique(odds)
    if len(normal) == 0 or len(abnormal) == 0:
        return 0.5
    cuts = np.append((values[1:] + values[:-1]) / 2, 0.0)
    specificity = np.searchsorted(normal, cuts) / len(normal)
    sensitivity = 1 - np.searchsorted(abnormal, cuts) / len(abnormal)
    macc = (sensitivity + specificity) / 2
    best = cuts[np.isclose(macc, macc.max())]
    return float(1 / (1 + np.exp(-best[np.abs(best).argmin()])))


def log_odds(probabilities: T) -> T:
    """log(p / (1 - p)), with p kept away from 0 and 1; of a number, an array or a pandas object.

    Notebook: 05_heart_sounds_physionet
    """
    kept = np.clip(probabilities, _SMALLEST, 1 - _SMALLEST)
    return np.log(kept) - np.log1p(-kept)


def ranking(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> dict[str, float]:
    """How good probabilities of class 1 are without a threshold: areas under the ROC and the precision-recall curve,
    Brier score (mean squared error), and expected calibration error over `bins` equally wide bins.

    Sources: scikit-learn for the first three; Naeini et al. 2015, "Obtaining well calibrated probabilities".

    Notebook: 05_heart_sounds_physionet
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=float)
    bin_of = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_of, weights=labels - probabilities, minlength=bins)
    return {
        "roc_auc": float(metrics.roc_auc_score(labels, probabilities)),
        "average_precision": float(metrics.average_precision_score(labels, probabilities)),
        "brier": float(metrics.brier_score_loss(labels, probabilities)),
        "calibration_error": float(np.abs(gaps).sum() / len(labels)),
    }


def abstention(labels: ArrayLike, margins: ArrayLike, steps: int = 20) -> pd.DataFrame:
    """Accuracy and MAcc on the recordings that are furthest from the threshold, the others left to a doctor.

    `margins` (recordings,) say 1 from 0 up, and are the surer the further they are from 0. A row for each of `steps`
    shares of recordings that are decided; columns coverage, accuracy and macc (fractions; macc is NaN where a class
    is missing).

    Notebook: 05_heart_sounds_physionet
    """
    labels, margins = np.asarray(labels), np.asarray(margins)
    surest_first = np.argsort(-np.abs(margins), kind="stable")
    rows = []
    for coverage in np.arange(1, steps + 1) / steps:
        decided = surest_first[: max(1, round(coverage * len(labels)))]
        found = scores(labels[decided], (margins[decided] >= 0).astype(int), 2)
        rows.append((coverage, found["accuracy"], found["macc"]))
    return pd.DataFrame(rows, columns=["coverage", "accuracy", "macc"])
