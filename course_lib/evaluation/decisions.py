"""From the clips of a recording to one decision about it, and how confident that is."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from course_lib import CourseError
from course_lib.evaluation.metrics import scores

T = TypeVar("T", float, np.ndarray, pd.Series)
_SMALLEST = 1e-7
_MOST_MEMBERS = 12


class EvaluationError(CourseError, ValueError):
    """Predictions cannot be used; the message says why."""


def pool_clips(clips: pd.DataFrame) -> pd.DataFrame:
    """Class probabilities of each recording, from those of its clips (a row each, named after the recording).

    The normalised geometric mean; with two classes its log-odds are the mean log-odds of the clips. A row for each
    recording, in order of first appearance, and a column for each class. Raises EvaluationError for NaN.

    Notebook: 05_heart_sounds_physionet
    """
    _require_finite(clips)
    return _geometric_mean(np.log(clips.clip(lower=_SMALLEST)), level=0)


def pool_members(members: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The normalised geometric mean of several models' class probabilities, whose clips may be cut differently.

    Of the recordings that every member has predicted. Source: Hinton 1999, "Products of experts".

    Notebook: 03b_rivals_and_noise
    """
    logs = pd.concat([np.log(pool_clips(member)) for member in members], keys=range(len(members)))
    counts = logs.groupby(level=1, sort=False).transform("size")
    return _geometric_mean(logs[counts == len(members)], level=1)


def choose_members(
    members: Mapping[str, pd.DataFrame], labels: pd.Series, groups: pd.Series | None = None
) -> tuple[str, ...]:
    """The names of the models that have the highest balanced accuracy together, by `pool_members`.

    `members` maps a name to class probabilities of clips, `labels` the name of a recording to its class. Between two
    classes each set has its own best threshold, and with `groups` (of each recording, by its name) the score is the
    mean of those of the groups that have several. Every set is compared; of equals the smallest and then the first is
    taken. Choose on recordings that you will not test on. Raises EvaluationError for recordings of one class, for no
    member, and for more than 12: 4,095 sets.

    Notebook: 07_acoustic_scenes
    """
    if not 1 <= len(members) <= _MOST_MEMBERS:
        raise EvaluationError(f"choose from 1 to {_MOST_MEMBERS} members, not {len(members)}")
    logs = pd.concat({name: np.log(pool_clips(clips)) for name, clips in members.items()})
    counts = logs.groupby(level=1).transform("size")
    logs = logs[counts == len(members)]
    of_member = [logs.loc[name].sort_index() for name in members]
    actual = labels[of_member[0].index].to_numpy()
    values = np.stack([each.to_numpy() for each in of_member])
    sets = [chosen for size in range(1, len(members) + 1) for chosen in combinations(range(len(members)), size)]
    of_group = np.zeros(len(actual)) if groups is None else groups[of_member[0].index].to_numpy()
    reached = [_reached(values[list(chosen)].mean(axis=0), actual, of_group) for chosen in sets]
    return tuple(list(members)[number] for number in sets[int(np.argmax(reached))])


def _reached(logs: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> float:
    """Balanced accuracy, as a mean over the groups, of recordings with these log-probabilities (n, classes)."""
    predicted = logs.argmax(axis=1)
    if logs.shape[1] == 2:
        probabilities = 1 / (1 + np.exp(logs[:, 0] - logs[:, 1]))
        predicted = (probabilities >= best_threshold(labels, probabilities, groups)).astype(int)
    parts = [groups == group for group in np.unique(groups)]
    several = [part for part in parts if len(np.unique(labels[part])) > 1]
    if not several:
        raise EvaluationError("members cannot be chosen on recordings of one class; choose on others")
    reached = [scores(labels[part], predicted[part], logs.shape[1])["balanced_accuracy"] for part in several]
    return float(np.mean(reached))


def _geometric_mean(logs: pd.DataFrame, level: int) -> pd.DataFrame:
    means = np.exp(logs.groupby(level=level, sort=False).mean())
    return means.div(means.sum(axis=1), axis=0)


def decide(clips: pd.DataFrame, rule: str = "log_odds", threshold: float = 0.5) -> pd.DataFrame:
    """One row for each recording, from the class probabilities of its clips: what it is classified as.

    Columns: clips (how many), predicted (the class) and confidence (its pooled probability). Between two classes there
    are also probability (of class 1, pooled), vote (the share of clips from 0.5 for class 1) and margin: from 0 up the
    decision is class 1; its magnitude is how far from the threshold. The rule is "log_odds", the pooled probability
    against the `threshold`, or "vote", half of the clips. More than two classes are decided by the largest pooled
    probability, or by the most votes. Raises EvaluationError.

    Notebook: 05_heart_sounds_physionet
    """
    if rule not in ("log_odds", "vote"):
        raise EvaluationError(f"a rule of decision is log_odds or vote, not {rule!r}")
    if not 0 <= threshold <= 1:
        raise EvaluationError(f"a threshold is a probability from 0 to 1, not {threshold}")
    pooled = pool_clips(clips)
    by_recording = clips.groupby(level=0, sort=False)
    decided = pd.DataFrame({"clips": by_recording.size()}, index=pooled.index)
    if clips.shape[1] != 2:
        votes = pd.get_dummies(clips.idxmax(axis=1)).groupby(level=0, sort=False).mean()
        chosen = (pooled if rule == "log_odds" else votes.reindex(columns=clips.columns, fill_value=0.0)).idxmax(axis=1)
        confidence = pooled.to_numpy()[np.arange(len(pooled)), pooled.columns.get_indexer(chosen)]
        return decided.assign(predicted=chosen.astype(int), confidence=confidence)
    probability, vote = pooled.iloc[:, 1], (clips.iloc[:, 1] >= 0.5).groupby(level=0, sort=False).mean()
    margin = vote - 0.5 if rule == "vote" else log_odds(probability) - log_odds(threshold)
    predicted = (margin >= 0).astype(int)
    confidence = probability.where(predicted == 1, 1 - probability)
    return decided.assign(predicted=predicted, confidence=confidence, probability=probability, vote=vote, margin=margin)


def clip_accuracy(clips: pd.DataFrame, labels: pd.Series) -> pd.Series:
    """The share of the clips of each recording whose likeliest class is the right one; two classes split at 0.5.

    Raises EvaluationError for NaN.
    """
    _require_finite(clips)
    likeliest = (clips.iloc[:, 1] >= 0.5).astype(int) if clips.shape[1] == 2 else clips.idxmax(axis=1).astype(int)
    right = likeliest == labels.reindex(likeliest.index[~likeliest.index.duplicated()]).loc[likeliest.index]
    return right.groupby(level=0, sort=False).mean()


def _require_finite(probabilities: pd.DataFrame) -> None:
    finite = np.isfinite(probabilities.to_numpy(dtype=float)).all(axis=1)
    if not finite.all():
        name = probabilities.index[~finite][0]
        raise EvaluationError(f"the class probabilities of {name} are not finite; the network's weights are damaged")


def fraction_correct(decided: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """How often each recording was decided correctly in several runs, from a table of decisions each.

    The tables have a row a recording with its label, group and predicted class; the result has label, group and
    correct (a fraction).

    Notebook: 05_heart_sounds_physionet
    """
    every = pd.concat(list(decided) or [pd.DataFrame(columns=["label", "group", "predicted"])])
    by_recording = every.assign(correct=every["label"] == every["predicted"]).groupby(level=0, sort=False)
    return by_recording[["label", "group"]].first().assign(correct=by_recording["correct"].mean())


def group_prior(labels: ArrayLike, groups: ArrayLike, n_classes: int) -> Callable[[ArrayLike], pd.DataFrame]:
    """The confound baseline: class probabilities from the group alone, counted on the labels and groups of a training.

    Returns a function from groups to the share of each class among the training recordings of that group, a row each;
    for a group that is not there, among all of them.

    Notebook: 05_heart_sounds_physionet
    """
    counts = pd.crosstab(np.asarray(groups), np.asarray(labels)).reindex(columns=range(n_classes), fill_value=0)
    overall = counts.sum() / counts.to_numpy().sum()
    shares = counts.div(counts.sum(axis=1), axis=0)
    return lambda wanted: shares.reindex(np.asarray(wanted)).fillna(overall)


def best_threshold(labels: ArrayLike, probabilities: ArrayLike, groups: ArrayLike | None = None) -> float:
    """The probability from which to decide for class 1, for the highest balanced accuracy on these recordings.

    They are the training side's. With `groups` it is the highest mean of the groups' balanced accuracies, so that a
    large group counts no more than a small one; groups with one class are left out. Halfway, in log-odds, between two
    recordings; of several best thresholds the one nearest to 0.5. 0.5 where a class is missing, or no
    group has both. Raises EvaluationError for NaN.

    Notebook: 05_heart_sounds_physionet
    """
    _require_finite(pd.DataFrame(np.asarray(probabilities, dtype=float)))
    labels, odds = np.asarray(labels), log_odds(np.asarray(probabilities, dtype=float))
    groups, values = np.zeros(len(labels)) if groups is None else np.asarray(groups), np.unique(odds)
    cuts = np.append((values[1:] + values[:-1]) / 2, 0.0)
    of_group = []
    for group in np.unique(groups):
        negative, positive = (np.sort(odds[(groups == group) & (labels == label)]) for label in (0, 1))
        if len(negative) and len(positive):
            specificity = np.searchsorted(negative, cuts) / len(negative)
            sensitivity = 1 - np.searchsorted(positive, cuts) / len(positive)
            of_group.append((sensitivity + specificity) / 2)
    if not of_group:
        return 0.5
    balanced = np.mean(of_group, axis=0)
    best = cuts[np.isclose(balanced, balanced.max())]
    return float(1 / (1 + np.exp(-best[np.abs(best).argmin()])))


def log_odds(probabilities: T) -> T:
    """log(p / (1 - p)), with p bounded away from 0 and 1; of a number, an array or a pandas object.

    Notebook: 05_heart_sounds_physionet
    """
    bounded = np.clip(probabilities, _SMALLEST, 1 - _SMALLEST)
    return np.log(bounded) - np.log1p(-bounded)


def abstention(labels: ArrayLike, margins: ArrayLike, steps: int = 20) -> pd.DataFrame:
    """Accuracy and balanced accuracy on the recordings that are furthest from the threshold, the others left undecided.

    `margins` (recordings,): from 0 up means class 1; the magnitude is the confidence. A row for each of `steps` shares
    of recordings that are decided; columns coverage, accuracy and balanced_accuracy (fractions; NaN where a class is
    missing). Raises EvaluationError for NaN.

    Notebook: 05_heart_sounds_physionet
    """
    labels, margins = np.asarray(labels), np.asarray(margins, dtype=float)
    if np.isnan(margins).any():
        raise EvaluationError("a margin is not a number; the network's weights are damaged")
    surest_first = np.argsort(-np.abs(margins), kind="stable")
    rows = []
    for coverage in np.arange(1, steps + 1) / steps:
        decided = surest_first[: max(1, round(coverage * len(labels)))]
        score = scores(labels[decided], (margins[decided] >= 0).astype(int), 2)
        rows.append((coverage, score["accuracy"], (score["sensitivity"] + score["specificity"]) / 2))
    return pd.DataFrame(rows, columns=["coverage", "accuracy", "balanced_accuracy"])
