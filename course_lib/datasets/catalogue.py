"""What the course knows of each data set: where it comes from, its licence, and what must be in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from course_lib.datasets import fsdd, physionet2016
from course_lib.datasets.recordings import DatasetError, Recordings
from course_lib.datasets.stand_ins import digits, heart_sounds


@dataclass(frozen=True)
class Entry:
    """One data set of the catalogue.

    `archives` are addresses of zip or tar files, `doi:10.5281/zenodo.N/FILE` included, unpacked into one folder; an
    address may end in `#sha256=HEX`, or in `#sha256sums` where a file SHA256SUMS.txt beside the archive lists it.
    `inside` is the path in there that becomes the data set's folder (`*`: all of it, or the one folder around it);
    `manifest` names a file beside this module with the label of each recording and a hash of its samples.
    `group_counts` are the sizes of the classes within each group; a recording shorter than `shortest_s` seconds is of
    no use. `read(folder, source)` lists the recordings, `differences(recordings)` tells what else in that list is not
    as published, `write_stand_in(folder, progress=...)` makes replacements in the same layout. `protocols` are the
    ways to split it that `experiments.folds_of` knows.
    """

    name: str
    title: str
    licence: str
    citation: str
    archives: tuple[str, ...]
    inside: str
    megabytes: int
    recordings: int
    sample_rate: int
    protocols: tuple[str, ...]
    class_counts: dict[str, int]
    manifest: str
    read: Callable[[Path, str], Recordings]
    write_stand_in: Callable[..., None]
    group_counts: dict[str, dict[str, int]] = field(default_factory=dict)
    shortest_s: float = 0.0
    differences: Callable[[Recordings], list[str]] = lambda _: []


ENTRIES = {
    "fsdd": Entry(
        name="fsdd",
        title="Free Spoken Digit Dataset, v1.0.10",
        licence="CC BY-SA 4.0",
        citation="Z. Jackson, C. Souza, J. Flaks, Y. Pan, H. Nicolas and A. Thite, doi:10.5281/zenodo.1342401",
        archives=("https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.zip",),
        inside="free-spoken-digit-dataset-1.0.10",
        megabytes=16,
        recordings=3000,
        sample_rate=8000,
        protocols=("origin", "official", "random", "leave_one_speaker_out"),
        class_counts={str(digit): 300 for digit in range(10)},
        manifest="fsdd.sha256",
        read=fsdd.read,
        write_stand_in=digits.write,
    ),
    "physionet2016": Entry(
        name="physionet2016",
        title="Heart sounds of the PhysioNet/CinC Challenge 2016, training set",
        licence="ODC-BY 1.0",
        citation="C. Liu et al., An open access database for the evaluation of heart sound algorithms, "
        "Physiological Measurement 37, 2016, doi:10.1088/0967-3334/37/12/2181",
        archives=("https://physionet.org/files/challenge-2016/1.0.0/training.zip#sha256sums",),
        inside="*",
        megabytes=181,
        recordings=3240,
        sample_rate=physionet2016.SAMPLE_RATE,
        protocols=("random", "published_list_0", "published_lists", "leave_one_device_out"),
        class_counts={"normal": 2575, "abnormal": 665},
        manifest="physionet2016.sha256",
        read=physionet2016.read,
        write_stand_in=heart_sounds.write,
        group_counts={
            "a": {"normal": 117, "abnormal": 292},
            "b": {"normal": 386, "abnormal": 104},
            "c": {"normal": 7, "abnormal": 24},
            "d": {"normal": 27, "abnormal": 28},
            "e": {"normal": 1958, "abnormal": 183},
            "f": {"normal": 80, "abnormal": 34},
        },
        shortest_s=physionet2016.SHORTEST_S,
        differences=physionet2016.differences,
    ),
}


def entry(name: str) -> Entry:
    """Look up a data set by name. Raises DatasetError naming the ones there are."""
    if name not in ENTRIES:
        raise DatasetError(f"there is no data set {name!r}; known: {', '.join(ENTRIES)}, or a folder of class folders")
    return ENTRIES[name]
