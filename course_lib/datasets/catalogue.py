"""What the course knows of each data set: where it comes from, its licence, and what must be in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from course_lib.datasets import fsdd
from course_lib.datasets.recordings import DatasetError, Recordings
from course_lib.datasets.stand_in import digits


@dataclass(frozen=True)
class Entry:
    """One data set of the catalogue.

    `archives` are addresses of zip or tar files, `doi:10.5281/zenodo.N/FILE` included, unpacked into one folder; an
    address may end in `#sha256=HEX`. `inside` is the path in there that becomes the data set's folder; `manifest`
    names a file beside this module with a hash of each recording's samples. `read(folder, source)` lists the
    recordings, `write_stand_in(folder, progress=...)` makes replacements in the same layout.
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
    class_counts: dict[str, int]
    manifest: str
    read: Callable[[Path, str], Recordings]
    write_stand_in: Callable[..., None]


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
        class_counts={str(digit): 300 for digit in range(10)},
        manifest="fsdd.sha256",
        read=fsdd.read,
        write_stand_in=digits.write,
    ),
}


def entry(name: str) -> Entry:
    """Look up a data set by name. Raises DatasetError naming the ones there are."""
    if name not in ENTRIES:
        raise DatasetError(f"there is no data set {name!r}; known: {', '.join(ENTRIES)}, or a folder of class folders")
    return ENTRIES[name]
