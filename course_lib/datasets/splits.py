"""Ways to divide recordings into a training and a test side, none of which lets one leak into the other.

Recordings that the table marks as `flagged` are on neither side, unless they are asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import GroupShuffleSplit, LeaveOneGroupOut, StratifiedKFold, StratifiedShuffleSplit

from course_lib.datasets.recordings import DatasetError, Recordings


@dataclass(frozen=True)
class Split:
    """Row numbers of the training and of the test side; `name` tells the folds of one protocol apart.

    `validation` are rows on which a protocol chooses the epoch, where that is not left to a part of the training side.
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    validation: np.ndarray | None = None


def official(recordings: Recordings, column: str = "official") -> Split:
    """The published split, from a column of the table with values train and test. It says nothing about unseen groups.

    Notebook: 02_spoken_digits_cnn
    """
    if column not in recordings.table:
        raise DatasetError(f"{recordings.name} has no {column} split; use random or leave_one_group_out")
    train, test = (np.intersect1d(recordings.find(**{column: side}), _usable(recordings)) for side in ("train", "test"))
    return _checked(recordings, column, train, test)


def random(recordings: Recordings, test_fraction: float = 0.1, seed: int = 0, rows: np.ndarray | None = None) -> Split:
    """A random split of `rows` (default: all usable ones) with the same share of every class on both sides.

    It says nothing about unseen groups.

    Notebook: 03_raw_waveforms_sample_cnn
    """
    rows = _usable(recordings) if rows is None else rows
    train, test = _stratified(rows, recordings.table["label"].to_numpy()[rows], test_fraction, seed)
    return _checked(recordings, "random", train, test)


def stratified_folds(
    recordings: Recordings, n_folds: int = 10, seed: int = 0, rows: np.ndarray | None = None
) -> list[Split]:
    """Cross-validation of `rows` (default: all usable ones): each fold tests its share of every class of every group.

    A class with fewer recordings than folds in a group is missing from some folds. It says nothing about unseen
    groups, which are on both sides. Raises DatasetError for a number of folds that cannot be made.

    Notebook: 05_heart_sounds_physionet
    """
    rows = _usable(recordings) if rows is None else rows
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The least populated class", UserWarning)
            folds = list(
                StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(rows, _strata(recordings, rows))
            )
    except ValueError as error:
        raise DatasetError(f"{recordings.name}: cannot make {n_folds} folds of {len(rows)} rows: {error}") from None
    return [
        _checked(recordings, f"fold_{number}", rows[train], rows[test]) for number, (train, test) in enumerate(folds)
    ]


def leave_one_group_out(recordings: Recordings) -> list[Split]:
    """One split a group, named after it: that group is the test side, all the others are the training side.

    Notebook: 02_spoken_digits_cnn
    """
    rows = _usable(recordings)
    groups = recordings.table["group"].to_numpy()[rows]
    if len(np.unique(groups)) < 2:
        raise DatasetError(f"{recordings.name} has one group only; leave_one_group_out needs at least two")
    folds = LeaveOneGroupOut().split(groups, groups=groups)
    return [_checked(recordings, str(groups[test[0]]), rows[train], rows[test], "group") for train, test in folds]


def from_lists(recordings: Recordings, name: str, train: Iterable[str], test: Iterable[str]) -> Split:
    """A split from two lists of recording names. Raises DatasetError for a name that is not in the table."""
    row_of = {recording: row for row, recording in enumerate(recordings.table["recording"])}
    sides = []
    for side in (list(train), list(test)):
        unknown = [recording for recording in side if recording not in row_of]
        if unknown:
            raise DatasetError(f"{recordings.name}: the list {name} names unknown recordings: {', '.join(unknown[:5])}")
        sides.append(np.array([row_of[recording] for recording in side], dtype=int))
    return _checked(recordings, name, *sides)


def hold_out_validation(
    recordings: Recordings, train: np.ndarray, fraction: float, by: str = "recording", seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Divide the rows of a training side once more, into (training, validation).

    `by="recording"` keeps the share of every class, `by="recording_in_group"` that of every class within each group,
    and `by="group"` keeps whole groups together.
    """
    if by == "group":
        splitter = GroupShuffleSplit(1, test_size=fraction, random_state=seed)
        try:
            kept, held = next(splitter.split(train, groups=recordings.table["group"].to_numpy()[train]))
        except ValueError as error:
            raise DatasetError(f"{recordings.name}: cannot hold out {fraction:.0%} of the groups: {error}") from None
        kept, held = train[kept], train[held]
    elif by == "recording":
        kept, held = _stratified(train, recordings.table["label"].to_numpy()[train], fraction, seed)
    elif by == "recording_in_group":
        draw, strata = np.random.default_rng(seed), _strata(recordings, train)
        parts = [draw.permutation(train[strata == stratum]) for stratum in np.unique(strata)]
        held = np.sort(np.concatenate([part[: round(fraction * len(part))] for part in parts]))
        kept = np.setdiff1d(train, held)
    else:
        raise DatasetError(f"a validation part is held out by recording, recording_in_group or group, not by {by!r}")
    split = _checked(recordings, "validation", kept, held, "group" if by == "group" else "recording")
    return split.train, split.test


def _usable(recordings: Recordings) -> np.ndarray:
    return recordings.find(flagged=False) if "flagged" in recordings.table else np.arange(len(recordings))


def _strata(recordings: Recordings, rows: np.ndarray) -> np.ndarray:
    """For each row its class within its group."""
    table = recordings.table.iloc[rows]
    return (table["group"].astype(str) + "/" + table["label"].astype(str)).to_numpy(str)


def _stratified(rows: np.ndarray, labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        train, test = next(StratifiedShuffleSplit(1, test_size=fraction, random_state=seed).split(rows, labels))
    except ValueError as error:
        raise DatasetError(f"cannot hold out {fraction:.0%} of {len(rows)} recordings: {error}") from None
    return np.sort(rows[train]), np.sort(rows[test])


def _checked(
    recordings: Recordings, name: str, train: np.ndarray, test: np.ndarray, disjoint: str = "recording"
) -> Split:
    for side, rows in (("training", train), ("test", test)):
        if len(rows) == 0:
            raise DatasetError(f"{recordings.name}: the {side} side of split {name} is empty")
    for column in {"recording", disjoint}:
        values = recordings.table[column].to_numpy()
        shared = sorted({str(value) for value in np.intersect1d(values[train], values[test])})
        if shared:
            raise DatasetError(
                f"{recordings.name}: both sides of split {name} contain {column} {', '.join(shared[:5])}; "
                "a score on it would be too good"
            )
    return Split(name, np.asarray(train), np.asarray(test))
