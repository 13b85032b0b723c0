"""Ways to divide recordings into a training and a test side.

No recording is ever on both sides, and no group either unless a split is asked to be `leaky`. Recordings that the table
marks as `flagged` are on neither side.

Notebook: 02_spoken_digits_cnn
"""

import logging
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold, StratifiedKFold, StratifiedShuffleSplit

from course_lib.datasets.recordings import DatasetError, Recordings, first_few

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Row numbers of the training and of the test side; `name` tells the folds of one protocol apart.

    `validation` are rows on which a protocol chooses the epoch, where that is not left to a part of the training side.
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    validation: np.ndarray | None = None


def official(recordings: Recordings, column: str = "official", leaky: bool = False) -> Split:
    """The published split, from a column of the table with the values train, test and perhaps validation.

    Raises DatasetError where there is none, and for groups on two sides unless it is `leaky`.

    Notebook: 02_spoken_digits_cnn
    """
    if column not in recordings.table:
        raise DatasetError(f"{recordings.name} has no {column} split; use random or leave_one_group_out")
    train, test, validation = (
        np.intersect1d(recordings.find(**{column: side}), _usable(recordings))
        for side in ("train", "test", "validation")
    )
    split = _checked(recordings, column, train, test, leaky)
    if not len(validation):
        return split
    for side in (train, test):
        _checked(recordings, column, side, validation, leaky)
    return replace(split, validation=validation)


def random(
    recordings: Recordings,
    test_fraction: float = 0.1,
    seed: int = 0,
    rows: np.ndarray | None = None,
    leaky: bool = False,
) -> Split:
    """A random split of `rows` (default: all usable ones) with about the same share of every class on both sides.

    Whole groups are drawn, so that the test side may be larger or smaller than asked for; a `leaky` split draws
    recordings, whose groups are on both sides. Raises DatasetError where that cannot be done.

    Notebook: 03_raw_waveforms_sample_cnn
    """
    rows = _usable(recordings) if rows is None else rows
    train, test = _draw(recordings, rows, test_fraction, seed, whole_groups=not leaky)
    return _checked(recordings, "random", train, test, leaky)


def stratified_folds(
    recordings: Recordings,
    n_folds: int = 10,
    seed: int = 0,
    rows: np.ndarray | None = None,
    within_groups: bool = True,
) -> list[Split]:
    """Cross-validation of `rows` (default: all usable ones): each fold tests its share of every class of every group.

    A class with fewer recordings than folds in a group is missing from some folds. Without `within_groups` only the
    shares of the classes are kept. The groups are on both sides, so that it is leaky. Raises DatasetError for a number
    of folds that cannot be made.

    Notebook: 05_heart_sounds_physionet
    """
    rows = _usable(recordings) if rows is None else rows
    strata = _strata(recordings, rows) if within_groups else recordings.table["label"].iloc[rows]
    folds = _folds(recordings, StratifiedKFold, n_folds, seed, rows, strata, None)
    return [_checked(recordings, f"fold_{number}", *sides, leaky=True) for number, sides in enumerate(folds)]


def grouped_folds(
    recordings: Recordings, n_folds: int = 5, seed: int = 0, rows: np.ndarray | None = None
) -> list[Split]:
    """Cross-validation of `rows` (default: all usable ones) by whole groups, with about equal shares of every class.

    Raises DatasetError for a number of folds that cannot be made.

    Notebook: 02_spoken_digits_cnn
    """
    rows = _usable(recordings) if rows is None else rows
    table = recordings.table.iloc[rows]
    if table["group"].nunique() < n_folds:
        raise DatasetError(f"{recordings.name} has {table['group'].nunique()} groups, too few for {n_folds} folds")
    folds = _folds(recordings, StratifiedGroupKFold, n_folds, seed, rows, table["label"], table["group"])
    return [_checked(recordings, f"fold_{number}", *sides) for number, sides in enumerate(folds)]


def leave_one_group_out(recordings: Recordings) -> list[Split]:
    """One split a group, named after it: that group is the test side, all the others are the training side.

    Notebook: 02_spoken_digits_cnn
    """
    rows = _usable(recordings)
    groups = recordings.table["group"].to_numpy()[rows]
    if len(np.unique(groups)) < 2:
        raise DatasetError(f"{recordings.name} has one group only; leave_one_group_out needs at least two")
    folds = LeaveOneGroupOut().split(groups, groups=groups)
    return [_checked(recordings, str(groups[test[0]]), rows[train], rows[test]) for train, test in folds]


def from_lists(
    recordings: Recordings, name: str, train: Iterable[str], test: Iterable[str], leaky: bool = False
) -> Split:
    """A split from two lists of recording names.

    Raises DatasetError for a name that is not in the table, and for groups on both sides unless it is `leaky`.
    """
    row_of = {recording: row for row, recording in enumerate(recordings.table["recording"])}
    sides = []
    for side in (list(train), list(test)):
        unknown = [recording for recording in side if recording not in row_of]
        if unknown:
            raise DatasetError(f"{recordings.name}: the list {name} names unknown recordings: {', '.join(unknown[:5])}")
        sides.append(np.array([row_of[recording] for recording in side], dtype=int))
    return _checked(recordings, name, *sides, leaky)


def hold_out_validation(
    recordings: Recordings, train: np.ndarray, fraction: float, by: str = "group", seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Divide the rows of a training side once more, into (training, validation).

    `by="group"` holds out whole groups, with about the share of every class; `by="recording"` recordings, with the
    share of every class; `by="recording_in_group"` with that of every class within each group. The last two have the
    same groups on both sides. Raises DatasetError.
    """
    if by not in VALIDATION_BY:
        raise DatasetError(f"a validation part is held out by {', '.join(VALIDATION_BY)}, not by {by!r}")
    if by == "recording_in_group":
        draw, strata = np.random.default_rng(seed), _strata(recordings, train)
        parts = [draw.permutation(train[strata == stratum]) for stratum in np.unique(strata)]
        validation = np.sort(np.concatenate([part[: round(fraction * len(part))] for part in parts]))
        rest = np.setdiff1d(train, validation)
    else:
        rest, validation = _draw(recordings, train, fraction, seed, whole_groups=by == "group")
    split = _checked(recordings, "validation", rest, validation, leaky=by != "group")
    return split.train, split.test


VALIDATION_BY = ("group", "recording", "recording_in_group")


def refuse_copies(recordings: Recordings, split: Split, copies: list[list[str]]) -> None:
    """Raise DatasetError where copies of one recording, as `decoded.copies` lists them, are on both sides."""
    row_of = {recording: row for row, recording in enumerate(recordings.table["recording"].astype(str))}
    train, test = set(split.train.tolist()), set(split.test.tolist())
    torn = [names for names in copies if all(side & {row_of[name] for name in names} for side in (train, test))]
    if torn:
        raise DatasetError(
            f"{recordings.name}: both sides of split {split.name} contain copies of one recording, "
            f"{first_few([' = '.join(names) for names in torn])}; delete all but one"
        )


def _usable(recordings: Recordings) -> np.ndarray:
    return recordings.find(flagged=False) if "flagged" in recordings.table else np.arange(len(recordings))


def _strata(recordings: Recordings, rows: np.ndarray) -> np.ndarray:
    """For each row its class within its group."""
    table = recordings.table.iloc[rows]
    return (table["group"].astype(str) + "/" + table["label"].astype(str)).to_numpy(str)


def _draw(
    recordings: Recordings, rows: np.ndarray, fraction: float, seed: int, whole_groups: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a larger and of a smaller part, which has about this fraction of the recordings of every class."""
    table = recordings.table.iloc[rows]
    labels, groups = table["label"].to_numpy(), table["group"].to_numpy(str)
    try:
        if not 0 < fraction < 1:
            raise ValueError("the fraction must be between 0 and 1")
        if whole_groups and len(np.unique(groups)) < len(rows):
            smaller = _draw_groups(labels, groups, fraction, seed)
            larger = np.setdiff1d(np.arange(len(rows)), smaller)
        elif single := [recordings.class_names[label] for label, count in Counter(labels).items() if count == 1]:
            raise ValueError(f"there is only one recording of {first_few(single)}")
        else:
            splitter = StratifiedShuffleSplit(1, test_size=fraction, random_state=seed)
            larger, smaller = next(splitter.split(rows, labels))
    except ValueError as error:
        what = f"{fraction:.0%} of {len(rows)} recordings" + (" in whole groups" if whole_groups else "")
        raise DatasetError(f"{recordings.name}: cannot hold out {what}: {error}") from None
    for label in np.setdiff1d(labels, labels[smaller]):
        _log.warning(
            "%s: no recording of %s can be held out, for they are all of one group, or too few",
            recordings.name,
            recordings.class_names[label],
        )
    return np.sort(rows[larger]), np.sort(rows[smaller])


def _draw_groups(labels: np.ndarray, groups: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Rows of whole groups with about this fraction of every class, and never all of a class.

    Groups in random order are taken while that brings the classes' shares nearer to the fraction; then, for a class
    that is not there yet, the group that takes them least away from it. Raises ValueError where no group can go.
    """
    names, group_of_row = np.unique(groups, return_inverse=True)
    _, class_of_row = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(names), class_of_row.max() + 1))
    np.add.at(counts, (group_of_row, class_of_row), 1)
    shares = counts / counts.sum(axis=0)
    drawn, order = np.zeros(len(names), dtype=bool), np.random.default_rng(seed).permutation(len(names))

    def distance(group: int) -> float:
        """From the shares that are asked for, with one more group; infinite where nothing of a class would be left."""
        taken = shares[drawn].sum(axis=0) + shares[group]
        return np.inf if (taken > 1 - 1e-9).any() else float(((taken - fraction) ** 2).sum())

    nearest = shares.shape[1] * fraction**2
    for group in order:
        if (further := distance(group)) < nearest:
            drawn[group], nearest = True, further
    for label in range(shares.shape[1]):
        if not shares[drawn, label].any():
            best = min((group for group in order if shares[group, label] and not drawn[group]), key=distance)
            drawn[best] = np.isfinite(distance(best))
    if not drawn.any():
        raise ValueError("every group holds all recordings of a class")
    return np.flatnonzero(drawn[group_of_row])


def _folds(
    recordings: Recordings, kind: type, n_folds: int, seed: int, rows: np.ndarray, strata: ArrayLike, groups: ArrayLike
) -> list[tuple[np.ndarray, np.ndarray]]:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The least populated class", UserWarning)
            folds = list(kind(n_folds, shuffle=True, random_state=seed).split(rows, strata, groups))
    except ValueError as error:
        raise DatasetError(f"{recordings.name}: cannot make {n_folds} folds of {len(rows)} rows: {error}") from None
    return [(rows[train], rows[test]) for train, test in folds]


def _checked(recordings: Recordings, name: str, train: np.ndarray, test: np.ndarray, leaky: bool = False) -> Split:
    for side, rows in (("training", train), ("test", test)):
        if len(rows) == 0:
            raise DatasetError(f"{recordings.name}: the {side} side of split {name} is empty")
        if len(np.unique(rows)) < len(rows):
            raise DatasetError(f"{recordings.name}: the {side} side of split {name} has a recording more than once")
    for column in ("recording",) if leaky else ("recording", "group"):
        values = recordings.table[column].astype(str).to_numpy(str)
        shared = sorted(np.intersect1d(values[train], values[test]).tolist())
        if shared:
            way_out = "; say leaky=True if that is meant" if column == "group" else ""
            raise DatasetError(
                f"{recordings.name}: both sides of split {name} contain {column} {first_few(shared)}; "
                f"a score on it would be too good{way_out}"
            )
    return Split(name, np.asarray(train), np.asarray(test))
