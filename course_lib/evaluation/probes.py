"""How well groups, such as recording devices, can be read from the features of a network."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from course_lib.evaluation.intervals import interval_of_cells


class Probe(NamedTuple):
    """How well a linear classifier tells groups apart: balanced accuracy, and that of guessing, as fractions.

    `low` and `high` bound the 95 % interval of the accuracy over the recordings: how many `recordings` meet how many
    `features` says whether a linear classifier could be fitted at all.
    """

    accuracy: float
    chance: float
    low: float
    high: float
    recordings: int
    features: int


def probe(embeddings: ArrayLike, groups: ArrayLike, recordings: ArrayLike, folds: int = 5, seed: int = 0) -> Probe:
    """Classify the groups (n,), such as recording devices, from embeddings (n, features) by logistic regression.

    Cross-validated in `folds`; what is of one of the `recordings` (n,) stays in one fold. Balanced accuracy is the
    mean of the groups' recalls, so that a frequent group counts no more than a rare one and chance is one over their
    number. Its interval is Wilson's over the recordings, which leaves out the draw of the training and of the folds.
    Groups with fewer recordings than `folds` are left out. Raises ValueError unless two groups remain.
    Source: Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes".

    Notebook: 06_adversarial_devices
    """
    embeddings, groups, recordings = np.asarray(embeddings), np.asarray(groups), np.asarray(recordings)
    if embeddings.ndim != 2 or not len(embeddings) == len(groups) == len(recordings):
        shapes = f"{embeddings.shape}, {groups.shape} and {recordings.shape}"
        raise ValueError(f"expected embeddings (n, features), groups (n,) and recordings (n,), got {shapes}")
    sizes = {group: len(np.unique(recordings[groups == group])) for group in np.unique(groups)}
    names = [group for group, size in sizes.items() if size >= folds]
    if len(names) < 2:
        counts = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(f"a probe in {folds} folds needs {folds} recordings of each of two groups; there are {counts}")
    rows = np.isin(groups, names)
    embeddings, groups, recordings = embeddings[rows], groups[rows], recordings[rows]
    classifier = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    predicted = cross_val_predict(classifier, embeddings, groups, groups=recordings, cv=split)
    right = predicted == groups
    low, high = interval_of_cells([right[groups == name].mean() for name in names], [sizes[name] for name in names])
    accuracy = float(balanced_accuracy_score(groups, predicted))
    return Probe(accuracy, 1 / len(names), low, high, sum(sizes[name] for name in names), embeddings.shape[1])
