"""Recordings with labels and groups: `load(name)`, and splits that do not leak.

Notebook: 02_spoken_digits_cnn
"""

from course_lib.datasets.catalogue import ENTRIES, get, register
from course_lib.datasets.dataset import Dataset, Preparation, Protocol, Words
from course_lib.datasets.download import fetch
from course_lib.datasets.recordings import DatasetError, Recordings
from course_lib.datasets.source import load, stand_in
from course_lib.datasets.splits import Split

__all__ = [
    "ENTRIES",
    "Dataset",
    "DatasetError",
    "Preparation",
    "Protocol",
    "Recordings",
    "Split",
    "Words",
    "fetch",
    "get",
    "load",
    "register",
    "stand_in",
]
