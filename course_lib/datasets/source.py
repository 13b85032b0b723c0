"""Where recordings come from: this disk, a download, or a stand-in made on the spot.

Notebook: 02_spoken_digits_cnn
"""

import logging
from pathlib import Path

from course_lib import environment, files
from course_lib.datasets.catalogue import get
from course_lib.datasets.dataset import Dataset
from course_lib.datasets.download import fetch
from course_lib.datasets.recordings import DatasetError, Recordings, cached_in

_SOURCES = ("auto", "real", "stand-in")
_log = logging.getLogger(__name__)


def load(name: str | Path, source: str = "auto", progress: bool = True) -> Recordings:
    """Load a data set by name, or a folder of class folders by path.

    `source="auto"` takes the recordings in `COURSE_DATA`, else a stand-in made before, else downloads them
    (not when `COURSE_OFFLINE` is set), else makes a stand-in: synthetic recordings in the same layout, with
    `.source == "stand-in"`. `source="real"` never makes up anything. Raises DatasetError.

    Notebook: 02_spoken_digits_cnn
    """
    if source not in _SOURCES:
        raise DatasetError(f"source is {source!r}; choose one of {', '.join(_SOURCES)}")
    wanted = get(str(name))
    if source == "stand-in":
        return stand_in(wanted.name, progress=progress)
    if wanted.folder.is_dir():
        return wanted.read(wanted.folder, "real")
    if source == "auto" and wanted.write_stand_in is not None and _stand_in_folder(wanted).is_dir():
        return stand_in(wanted.name)
    try:
        return wanted.read(fetch(wanted, progress=progress), "real")
    except DatasetError as error:
        if source == "real" or wanted.write_stand_in is None:
            raise DatasetError(
                f"{wanted.name} is not in {wanted.folder} and could not be fetched ({error}); "
                f"set COURSE_DATA to the folder that holds {wanted.name}/, "
                f"or run: python -m course_lib data fetch {wanted.name}"
            ) from error
        _log.warning("%s; using a synthetic stand-in", error)
    return stand_in(wanted.name, progress=progress)


def stand_in(name: str, progress: bool = False, **size: int) -> Recordings:
    """The synthetic stand-in for a data set, made on first use (seconds) and cached.

    `size` are arguments of the data set's generator, such as `speakers=500, takes=2` for spoken words.

    Notebook: 02_spoken_digits_cnn
    """
    wanted = get(name)
    if wanted.write_stand_in is None:
        raise DatasetError(f"{name} has no stand-in; set COURSE_DATA to the folder that holds {name}/")
    if wrong := [key for key, value in size.items() if not isinstance(value, int) or not 0 <= value < 10**9]:
        raise DatasetError(f"{', '.join(wrong)} of the stand-in for {name} must be a whole number, 0 or more")
    target = _stand_in_folder(wanted, **size)
    if not target.is_dir():
        try:
            with cached_in(target.parent, f"the stand-in for {name}"), files.whole_folder(target) as folder:
                wanted.write_stand_in(folder, progress=progress, **size)
        except (RuntimeError, TypeError, ValueError) as error:  # a synthesiser that fails, or a size it does not take
            raise DatasetError(f"cannot make the stand-in for {name}: {error}") from error
    return wanted.read(target, "stand-in")


def _stand_in_folder(wanted: Dataset, **size: int) -> Path:
    suffix = "".join(f"-{value}{key}" for key, value in sorted(size.items()))
    return environment.cache_folder() / "stand_in" / f"{wanted.name}-v{wanted.stand_in_version}{suffix}"
