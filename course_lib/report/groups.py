"""What belongs together: the speaker, the device, the day, read from folders or guessed from file names."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from course_lib.datasets.recordings import first_few

ENOUGH = 5  # groups, so that a coarse one is preferred
_SHARED = 0.2  # of the recordings have the value of another one
_SEPARATORS = re.compile(r"[\s_.+-]+")
_NUMBERED = re.compile(r"(?i)(take|rec|recording|clip|sample|audio|sound|file|track|part|seg|segment|nr|no|n)?\d+")


@dataclass(frozen=True)
class Groups:
    """The group of each recording. Where none is `known`, each recording is one; `how` is said in the report."""

    of: pd.Series
    known: bool
    how: str

    @property
    def count(self) -> int:
        """How many groups there are."""
        return self.of.nunique()

    def nested(self, classes: pd.Series) -> bool:
        """Whether every group has recordings of one class only."""
        return bool(classes.groupby(self.of).nunique().max() == 1)


def known_or_guessed(table: pd.DataFrame) -> Groups:
    """The groups of the recordings of a table with the columns recording, class and folder."""
    alone = table["recording"]
    folders = table["folder"].where(table["folder"] != "", alone)
    if (table["folder"] != "").any() and folders.nunique() < len(table):
        rest = int((table["folder"] == "").sum())
        also = f" {rest} recordings lie in no such folder; each of them counts as a group." if rest else ""
        return Groups(folders, True, f"The folder below the class is taken as the group.{also}")
    best: tuple[str, pd.Series] | None = None
    for where, values in _parts(table["recording"], table["class"]):
        if _may_be_a_group(values, table["class"]) and (best is None or _is_better(values, best[1])):
            best = where, values
    if best is None:
        how = (
            "There is no folder below the classes, and no part of the file names repeats as the name of a speaker, a "
            "device or a day would. So it is not known which recordings belong together, and each counts as a group."
        )
        return Groups(alone, False, how)
    where, values = best
    example = PurePosixPath(table["recording"].iloc[0]).stem
    how = (
        f"The groups are guessed from the file names: {where}, such as “{values.iloc[0]}” in “{example}”. The values "
        f"are {first_few(sorted(values.unique()))}. If that is not what belongs together, put the recordings of each "
        "speaker, device or day into a folder of its own below the class."
    )
    return Groups(values, True, how)


def _parts(names: pd.Series, classes: pd.Series) -> Iterator[tuple[str, pd.Series]]:
    """The parts that all file names have, as they are and without the number at their end."""
    tokens = [_SEPARATORS.split(PurePosixPath(name).stem) for name in names]
    for position in range(min(map(len, tokens))):
        values = pd.Series([each[position] for each in tokens], index=names.index)
        shorter = values.str.replace(r"\d+$", "", regex=True)
        counts_takes = shorter.nunique() > 1 and not (classes + "/" + values).duplicated().any()
        if not (counts_takes and (shorter != values).any()):
            yield f"part {position + 1} of each name", values
        if (shorter != values).any() and (shorter != "").all():
            yield f"part {position + 1} of each name without its number", shorter


def _may_be_a_group(values: pd.Series, classes: pd.Series) -> bool:
    """Whether values repeat, say more than the class, and do not just count the recordings."""
    if values.nunique() < 2 or (values == "").any() or values.duplicated(keep=False).mean() < _SHARED:
        return False
    if values.groupby(classes).nunique().max() == 1:  # it is the name of the class
        return False
    if values.str.fullmatch(_NUMBERED).all():
        numbers = values.str.extract(r"(\d+)$")[0].astype(float)
        return numbers.max() - numbers.min() > 3 * values.nunique()  # the number of a speaker, or a date
    return True


def _is_better(values: pd.Series, than: pd.Series) -> bool:
    """Whether values are the better guess: of parts within each other the coarser, else that with more values."""
    coarser = values.groupby(than).nunique().max() == 1
    finer = than.groupby(values).nunique().max() == 1
    if coarser != finer:
        return bool(values.nunique() >= ENOUGH if coarser else than.nunique() < ENOUGH)
    named = [not each.str.fullmatch(_NUMBERED).all() for each in (values, than)]
    return named[0] if named[0] != named[1] else values.nunique() > than.nunique()


def joined(of: pd.Series, copies: list[list[str]], recordings: pd.Series) -> np.ndarray:
    """Group numbers in which copies of one recording, given by their names, are in one group as well."""
    number = pd.Series(pd.factorize(of)[0], index=recordings.to_numpy())
    for names in copies:
        alike = number[names].unique()
        number[number.isin(alike)] = alike[0]
    return number.to_numpy()
