"""The form every data set takes in the course: a table of recordings, one row each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from torch import Tensor

from course_lib import CourseError, audio

if TYPE_CHECKING:
    from course_lib.datasets.dataset import Preparation

COLUMNS = ("recording", "path", "label", "group")
LISTED = 10


def first_few(names: Sequence[object], separator: str = ", ") -> str:
    """The first ten of a list, and how many more there are, for a message that stays readable."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return separator.join(map(str, names[:LISTED])) + more


def listed(what: str, names: Sequence[object]) -> list[str]:
    """One problem, what it is and the first names that have it, or none where there are no names."""
    return [f"{what}: {first_few(names)}"] if names else []


def is_utf8(name: str) -> bool:
    """Whether a name can be written in UTF-8; one that the disk gives in another encoding cannot."""
    return name.encode(errors="ignore").decode() == name


class DatasetError(CourseError):
    """A data set is missing, damaged or inconsistent; the message names what and says what to do."""


@contextlib.contextmanager
def cached_in(folder: Path, what: str) -> Iterator[None]:
    """Raise DatasetError where the block fails to write to a folder of the cache, because it is full or closed, say."""
    try:
        yield
    except OSError as error:
        raise DatasetError(
            f"cannot write {what} to {folder} ({error}); free some space there, or set COURSE_CACHE to a folder you own"
        ) from error


class LayoutError(DatasetError):
    """A folder breaks its data set's layout: `problems` names every fault, `sound` holds the recordings without one."""

    def __init__(self, name: str, problems: Sequence[str], sound: Recordings | None) -> None:
        super().__init__(f"{name}: {'; '.join(problems)}")
        self.problems, self.sound = list(problems), sound


@dataclass(frozen=True)
class Recordings:
    """A data set: `table` has one row a recording, with at least `recording` (its unique name), `path`, `label`
    (an index into `class_names`) and `group` (what must never straddle a split: the speaker, the device, the location).

    `sample_rate` is in Hz; `source` is "real" or "stand-in". With a `preparation` every waveform has been through it,
    and has the sample rate it gives. `note` is shown beside every result, such as which part of the published data set
    this is. Raises DatasetError when the table breaks these rules.

    Notebook: 02_spoken_digits_cnn
    """

    name: str
    table: pd.DataFrame
    class_names: tuple[str, ...]
    sample_rate: int
    source: str
    preparation: Preparation | None = None
    note: str = ""

    def __post_init__(self) -> None:
        table = self.table.reset_index(drop=True)
        missing = [column for column in COLUMNS if column not in table]
        if missing:
            raise DatasetError(f"{self.name}: the table of recordings has no column {', '.join(missing)}")
        if table.empty:
            raise DatasetError(f"{self.name}: no recordings found; run: python -m course_lib data check {self.name}")
        if table[["recording", "path", "group"]].isna().any(axis=None):
            raise DatasetError(f"{self.name}: the table of recordings has empty cells; fill recording, path and group")
        names = [self.name, *(str(name) for column in COLUMNS for name in table[column].unique()), *self.class_names]
        if strange := [ascii(name) for name in names if not is_utf8(name)]:
            raise DatasetError(f"names that are not UTF-8: {first_few(strange)}; rename these files or folders")
        if twice := table["recording"][table["recording"].duplicated()].tolist():
            raise DatasetError(f"{self.name}: listed more than once: {first_few(twice)}")
        if len(set(self.class_names)) < len(self.class_names):
            raise DatasetError(f"{self.name}: two classes have one name: {', '.join(self.class_names)}")
        if not (table["label"].isin(range(len(self.class_names)))).all():
            raise DatasetError(f"{self.name}: a label is outside 0 .. {len(self.class_names) - 1}")
        object.__setattr__(self, "table", table)

    def __len__(self) -> int:
        return len(self.table)

    def waveform(self, index: int) -> Tensor:
        """Recording number `index` of the table as a mono waveform, shape (samples,), at `sample_rate`.

        Raises AudioError when the file cannot be used.
        """
        return self.read(self.table["path"].iloc[index])

    def read(self, path: str) -> Tensor:
        """The waveform of one of the files. Raises AudioError when it cannot be used."""
        if self.preparation is None:
            return audio.read(path, self.sample_rate)
        channel = getattr(self.preparation, "channel", "mean")  # a setting of preparations for several channels
        waveform = audio.read(path, self.preparation.from_rate, channel)
        try:
            return self.preparation(waveform)
        except audio.AudioError as error:
            raise audio.AudioError(f"{path} {error}") from None

    def prepared(self, preparation: Preparation) -> Recordings:
        """The same recordings, every waveform prepared: whatever reads them gets prepared samples, at a new rate."""
        return replace(self, sample_rate=preparation.sample_rate, preparation=preparation)

    def find(self, **conditions: object) -> np.ndarray:
        """Row numbers where every named column equals the given value: `find(group="theo", label=3)`."""
        chosen = np.ones(len(self), dtype=bool)
        for column, value in conditions.items():
            chosen &= (self.table[column] == value).to_numpy()
        return np.flatnonzero(chosen)

    def subset(self, rows: np.ndarray) -> Recordings:
        """The same data set with only the given rows of the table."""
        return replace(self, table=self.table.iloc[rows].copy())
