"""Scores of predicted against true classes."""

import numpy as np
from numpy.typing import ArrayLike
from sklearn import metrics


def scores(labels: ArrayLike, predicted: ArrayLike, n_classes: int) -> dict[str, float]:
    """Balanced accuracy (mean recall of the classes that occur), accuracy and macro F1 of any number of classes.

    Between two classes (1 = positive) balanced accuracy is MAcc = (sensitivity + specificity) / 2, and there are also
    sensitivity, specificity, precision and F1. Fractions; NaN where a denominator is zero. Raises ValueError for labels
    and predictions that do not fit.

    Notebook: 02_spoken_digits_cnn
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    if labels.shape != predicted.shape or labels.size == 0:
        raise ValueError(f"expected as many predictions as labels, got {predicted.size} and {labels.size}")
    return scores_of_confusion(confusion_matrix(labels, predicted, n_classes))


def scores_of_confusion(confusion: ArrayLike) -> dict[str, float]:
    """`scores` from a confusion matrix (n_classes, n_classes).

    Notebook: 05_heart_sounds_physionet
    """
    confusion = np.asarray(confusion, dtype=float)
    right, true, called = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(invalid="ignore"):
        recall, precision, f1 = right / true, right / called, 2 * right / (true + called)
    of_all = {
        "balanced_accuracy": float(recall[true > 0].mean()),
        "accuracy": float(right.sum() / confusion.sum()),
        "macro_f1": float(np.nanmean(f1)),
    }
    if len(confusion) == 2:
        names = ("sensitivity", "specificity", "precision", "f1")
        of_all |= dict(zip(names, map(float, (recall[1], recall[0], precision[1], f1[1])), strict=True))
    return of_all


def confusion_matrix(labels: ArrayLike, predicted: ArrayLike, n_classes: int) -> np.ndarray:
    """Counts, shape (n_classes, n_classes): a row for each true class, a column for each predicted one.

    Raises ValueError for a class outside 0 .. n_classes - 1.

    Notebook: 02_spoken_digits_cnn
    """
    for values in (np.asarray(labels), np.asarray(predicted)):
        if values.size and not np.isin(values, np.arange(n_classes)).all():
            raise ValueError(f"a class is outside 0 .. {n_classes - 1}")
    return metrics.confusion_matrix(labels, predicted, labels=list(range(n_classes)))


def roc_auc(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """The area under the ROC curve: how often a recording of class 1 has the higher probability of two of both classes.

    It needs no threshold. NaN where a class is missing. Source: scikit-learn.

    Notebook: 06_adversarial_devices
    """
    return float(metrics.roc_auc_score(labels, probabilities)) if len(np.unique(labels)) == 2 else float("nan")


def ranking(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> dict[str, float]:
    """How good probabilities of class 1 are without a threshold: areas under the ROC and the precision-recall curve,
    Brier score (mean squared error), and expected calibration error over `bins` equally wide bins.

    Raises ValueError for what is no probability. Sources: scikit-learn for the first three; Naeini et al. 2015,
    "Obtaining well calibrated probabilities".

    Notebook: 05_heart_sounds_physionet
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=float)
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("expected probabilities from 0 to 1 and no NaN")
    bin_of = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_of, weights=labels - probabilities, minlength=bins)
    return {
        "roc_auc": roc_auc(labels, probabilities),
        "average_precision": float(metrics.average_precision_score(labels, probabilities)),
        "brier": float(metrics.brier_score_loss(labels, probabilities)),
        "calibration_error": float(np.abs(gaps).sum() / len(labels)),
    }
