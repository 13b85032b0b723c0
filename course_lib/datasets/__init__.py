"""Recordings with labels and groups: `load("fsdd")`, and splits that do not leak.

Notebook: 02_spoken_digits_cnn
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path

from course_lib import environment
from course_lib.datasets import folder
from course_lib.datasets.catalogue import ENTRIES, Entry, entry
from course_lib.datasets.download import fetch
from course_lib.datasets.recordings import DatasetError, Recordings

__all__ = ["ENTRIES", "DatasetError", "Recordings", "fetch", "load", "stand_in"]

_SOURCES = ("auto", "real", "stand-in")
_log = logging.getLogger(__name__)


def load(name: str, source: str = "auto", progress: bool = True) -> Recordings:
    """Load a data set by name, or a folder of class folders by path.

    `source="auto"` takes the recordings found in `COURSE_DATA`, else a stand-in made before, else downloads them
    (not when `COURSE_OFFLINE` is set), else makes a stand-in: synthetic recordings in the same layout, with
    `.source == "stand-in"`. `source="real"` never makes up anything. Raises DatasetError.

    Notebook: 02_spoken_digits_cnn
    """
    if source not in _SOURCES:
        raise DatasetError(f"source is {source!r}; choose one of {', '.join(_SOURCES)}")
    if name not in ENTRIES and Path(name).is_dir():
        return folder.read(Path(name))
    wanted = entry(name)
    if source == "stand-in":
        return stand_in(name, progress=progress)
    on_disk = environment.data_folder() / name
    if on_disk.is_dir():
        return wanted.read(on_disk, "real")
    if source == "auto" and _stand_in_folder(wanted).is_dir():
        return stand_in(name)
    try:
        return wanted.read(fetch(name, progress=progress), "real")
    except DatasetError as error:
        if source == "real":
            raise DatasetError(
                f"{name} is not in {environment.data_folder()} and could not be fetched ({error}); "
                f"set COURSE_DATA to the folder that holds {name}/, or run: python -m course_lib data fetch {name}"
            ) from error
        _log.warning("%s; using a synthetic stand-in", error)
    return stand_in(name, progress=progress)


def stand_in(name: str, progress: bool = False, **size: int) -> Recordings:
    """The synthetic stand-in for a data set, made on first use (seconds) and kept in the cache folder.

    `size` goes to the generator: `stand_in("fsdd", speakers=500, takes=2)` speaks digits in 500 voices.

    Notebook: 02_spoken_digits_cnn
    """
    wanted = entry(name)
    target = _stand_in_folder(wanted, **size)
    if not target.is_dir():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        except OSError as error:
            raise DatasetError(
                f"cannot write to {target.parent} ({error}); set COURSE_CACHE to a folder you own"
            ) from error
        try:
            wanted.write_stand_in(unfinished, progress=progress, **size)
            os.rename(unfinished, target)
        except (OSError, RuntimeError) as error:  # RuntimeError: a synthesiser or libsndfile that fails
            if not target.is_dir():  # another process may have finished first
                raise DatasetError(f"cannot write the stand-in for {name} to {target}: {error}") from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return wanted.read(target, "stand-in")


def _stand_in_folder(wanted: Entry, **size: int) -> Path:
    suffix = "".join(f"-{value}{key}" for key, value in sorted(size.items()))
    return environment.cache_folder() / "stand_in" / f"{wanted.name}{suffix}"
