"""The environment variables that the course reads, each checked; a value that is empty counts as not set."""

import os
import re
from pathlib import Path
from typing import TypeVar

from course_lib import CourseError

PROFILES = ("smoke", "laptop", "full")
MOST_THREADS = 256
CHECKOUT = Path(__file__).resolve().parent.parent

_SWITCHES = {"": False, "0": False, "false": False, "no": False, "off": False}
_SWITCHES |= {"1": True, "true": True, "yes": True, "on": True}

T = TypeVar("T")


class EnvironmentVariableError(CourseError, ValueError):
    """An environment variable has a value that the course cannot use; the message names it and what is allowed."""


def data_folder() -> Path:
    """Folder that holds the data sets, one folder each: `COURSE_DATA`, or `data/` in the checkout."""
    return _folder("COURSE_DATA", CHECKOUT / "data")


def cache_folder() -> Path:
    """Folder for what can be made again (decoded audio, stand-ins): `COURSE_CACHE`, or `data/cache/`."""
    return _folder("COURSE_CACHE", CHECKOUT / "data" / "cache")


def dataset_files() -> list[Path]:
    """Python files that end in `DATASET = Dataset(...)`, a learner's own data sets: `COURSE_DATASETS`, as in PATH."""
    names = _value("COURSE_DATASETS").split(os.pathsep)
    return [_path("COURSE_DATASETS", name) for name in names if name.strip()]


def results_folder() -> Path:
    """Folder of finished runs, a JSON each, and unfinished ones: `COURSE_RESULTS`, or `results/` in the checkout."""
    return _folder("COURSE_RESULTS", CHECKOUT / "results")


def offline() -> bool:
    """Whether `COURSE_OFFLINE` forbids downloads."""
    return _switch("COURSE_OFFLINE")


def publishing() -> bool:
    """Whether `COURSE_PUBLISH` is set: lessons are being executed for the web and must hold no recording."""
    return _switch("COURSE_PUBLISH")


def exercises_solved() -> bool:
    """Whether `COURSE_EXERCISES` is `solved`: the solution takes the place of every stub, and a wrong answer raises."""
    value = _value("COURSE_EXERCISES").lower()
    if value not in ("", "open", "solved"):
        raise EnvironmentVariableError(f"COURSE_EXERCISES is {value!r}; it must be open or solved")
    return value == "solved"


def threads() -> int:
    """Processor threads that a training uses, because their number changes its last digits: `COURSE_THREADS`, or 2."""
    text = _value("COURSE_THREADS") or "2"
    if not re.fullmatch("[0-9]{1,4}", text, re.ASCII) or not 1 <= int(text) <= MOST_THREADS:
        raise EnvironmentVariableError(f"COURSE_THREADS is {text!r}; it must be a number from 1 to {MOST_THREADS}")
    return int(text)


def profile() -> str:
    """How much a lesson computes: `COURSE_PROFILE`, one of smoke, laptop (the default) and full."""
    name = _value("COURSE_PROFILE") or "laptop"
    if name.lower() not in PROFILES:
        raise EnvironmentVariableError(f"COURSE_PROFILE is {name!r}; it must be one of {', '.join(PROFILES)}")
    return name.lower()


def by_profile(*, smoke: T, laptop: T, full: T | None = None) -> T:
    """Pick the value for the profile in force; `full` is `laptop` where it is not given."""
    return {"smoke": smoke, "laptop": laptop, "full": laptop if full is None else full}[profile()]


def _value(variable: str) -> str:
    return os.environ.get(variable, "").strip()


def _switch(variable: str) -> bool:
    value = _value(variable)
    if value.lower() not in _SWITCHES:
        raise EnvironmentVariableError(f"{variable} is {value!r}; it must be 1 (true, yes, on) or 0 (false, no, off)")
    return _SWITCHES[value.lower()]


def _folder(variable: str, default: Path) -> Path:
    value = _value(variable)
    folder = _path(variable, value) if value else default
    if folder.exists() and not folder.is_dir():
        raise EnvironmentVariableError(f"{variable} is {value!r}, which is not a folder; name a folder")
    return folder


def _path(variable: str, value: str) -> Path:
    try:
        path = Path(value).expanduser().resolve()
        path.exists()  # fails where no such path can be
    except (OSError, RuntimeError, ValueError) as error:
        raise EnvironmentVariableError(f"{variable} is {value!r}, which cannot be a path: {error}") from None
    return path
