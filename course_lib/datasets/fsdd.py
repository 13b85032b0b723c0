"""The Free Spoken Digit Dataset: six speakers say each digit fifty times."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from course_lib.datasets.recordings import DatasetError, Recordings

SAMPLE_RATE = 8000
TEST_TAKES = range(5)
FIRST_SPEAKERS = ("jackson", "nicolas", "theo")
_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[a-z0-9]+)_(?P<take>\d+)\.(wav|flac)")


def read(folder: Path, source: str) -> Recordings:
    """List the recordings of a folder in the published layout, `recordings/{digit}_{speaker}_{take}.wav`, 8 kHz.

    `group` is the speaker; `official` is the published side of the split (takes 0-4 test, the rest train).
    Raises DatasetError for a file whose name does not follow the layout.
    Source: https://github.com/Jakobovski/free-spoken-digit-dataset

    Notebook: 02_spoken_digits_cnn
    """
    rows = []
    for path in sorted((folder / "recordings").glob("[!.]*")):  # not the hidden files that some systems leave behind
        name = _NAME.fullmatch(path.name)
        if name is None:
            raise DatasetError(f"fsdd: {path} is not named digit_speaker_take.wav; move it out of the folder")
        take = int(name["take"])
        official = "test" if take in TEST_TAKES else "train"
        rows.append((path.stem, str(path), int(name["digit"]), name["speaker"], take, official))
    columns = ["recording", "path", "label", "group", "take", "official"]
    return Recordings("fsdd", pd.DataFrame(rows, columns=columns), tuple("0123456789"), SAMPLE_RATE, source)


def of_first_release(recordings: Recordings) -> np.ndarray:
    """Rows of the three speakers whom the data set began with; of other voices, of the first three.

    Notebook: 03_raw_waveforms_sample_cnn
    """
    groups = recordings.table["group"]
    known = [group for group in FIRST_SPEAKERS if (groups == group).any()]
    return np.flatnonzero(groups.isin(known or sorted(groups.unique())[:3]))
