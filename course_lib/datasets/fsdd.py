"""The Free Spoken Digit Dataset: six speakers say each digit fifty times."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from course_lib.datasets import listing, splits
from course_lib.datasets.dataset import Dataset, Protocol, Words
from course_lib.datasets.recordings import DatasetError, Recordings
from course_lib.datasets.splits import Split
from course_lib.datasets.stand_ins import digits

SAMPLE_RATE = 8000
TEST_TAKES = range(5)
FIRST_SPEAKERS = ("jackson", "nicolas", "theo")
_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[^_/]+)_(?P<take>\d+)")


def read(folder: Path, source: str) -> Recordings:
    """List the recordings of a folder in the published layout, `recordings/{digit}_{speaker}_{take}.wav`, 8 kHz.

    `group` is the speaker, in lower case; `official` is the published side of the split (takes 0-4 test, the rest
    train). Raises DatasetError for a sound whose name does not follow the layout.
    Source: https://github.com/Jakobovski/free-spoken-digit-dataset

    Notebook: 02_spoken_digits_cnn
    """
    rows = []
    for path in listing.sounds(folder / "recordings", deep=False):
        name = _NAME.fullmatch(path.stem)
        if name is None:
            raise DatasetError(
                f"fsdd: {path} is not named digit_speaker_take.wav; rename it, or move it out of the folder"
            )
        take = int(name["take"])
        official = "test" if take in TEST_TAKES else "train"
        rows.append((path.stem, str(path), int(name["digit"]), name["speaker"].lower(), take, official))
    columns = ["recording", "path", "label", "group", "take", "official"]
    return Recordings("fsdd", pd.DataFrame(rows, columns=columns), tuple("0123456789"), SAMPLE_RATE, source)


def of_first_release(recordings: Recordings) -> np.ndarray:
    """Rows of the three speakers of the first release; of other voices, of the first three.

    Notebook: 03_raw_waveforms_sample_cnn
    """
    groups = recordings.table["group"]
    first = [group for group in FIRST_SPEAKERS if (groups == group).any()]
    return np.flatnonzero(groups.isin(first or sorted(groups.unique())[:3]))


def _original_paper(recordings: Recordings, seed: int) -> list[Split]:
    split = splits.random(recordings, 0.1, seed, of_first_release(recordings), leaky=True)
    return [replace(split, name="original_paper")]


_SAME_SPEAKERS = "the same speakers are on both sides"

DATASET = Dataset(
    name="fsdd",
    title="Free Spoken Digit Dataset, v1.0.10",
    read=read,
    protocols=(
        Protocol(
            "official",
            "official split",
            lambda recordings, seed: [splits.official(recordings, leaky=True)],
            leak=_SAME_SPEAKERS,
        ),
        Protocol(
            "random",
            "random 90/10",
            lambda recordings, seed: [splits.random(recordings, 0.1, seed, leaky=True)],
            leak=_SAME_SPEAKERS,
        ),
        Protocol(
            "original_paper",
            "first experiment's split",
            _original_paper,
            leak=f"{_SAME_SPEAKERS}, and its test side was the validation part of the first experiment",
        ),
        Protocol(
            "leave_one_speaker_out",
            "leave one speaker out",
            lambda recordings, seed: splits.leave_one_group_out(recordings),
            unit="group",
            group="speaker",
        ),
    ),
    sample_rate=SAMPLE_RATE,
    words=Words("spoken", "heard as", "speaker"),
    licence="CC BY-SA 4.0",
    citation="Z. Jackson, C. Souza, J. Flaks, Y. Pan, H. Nicolas and A. Thite, doi:10.5281/zenodo.1342401",
    archives=("https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.zip",),
    inside="free-spoken-digit-dataset-1.0.10",
    megabytes=16,
    write_stand_in=digits.write,
    class_counts={str(digit): 300 for digit in range(10)},
    manifest=Path(__file__).with_name("fsdd.sha256"),
)
