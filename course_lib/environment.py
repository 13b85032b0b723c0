"""The environment variables that the course reads; nothing else in the library looks at the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

PROFILES = ("smoke", "laptop", "full")
CHECKOUT = Path(__file__).resolve().parent.parent

T = TypeVar("T")


def data_folder() -> Path:
    """Folder that holds the data sets, one folder each: `COURSE_DATA`, or `data/` in the checkout."""
    return Path(os.environ.get("COURSE_DATA") or CHECKOUT / "data").expanduser().resolve()


def cache_folder() -> Path:
    """Folder for what can be made again (decoded audio, stand-ins): `COURSE_CACHE`, or `data/cache/`."""
    return Path(os.environ.get("COURSE_CACHE") or CHECKOUT / "data" / "cache").expanduser().resolve()


def results_folder() -> Path:
    """Folder of finished runs, a JSON each, and unfinished ones: `COURSE_RESULTS`, or `results/` in the checkout."""
    return Path(os.environ.get("COURSE_RESULTS") or CHECKOUT / "results").expanduser().resolve()


def offline() -> bool:
    """Whether `COURSE_OFFLINE` forbids downloads."""
    return os.environ.get("COURSE_OFFLINE", "") not in ("", "0")


def publishing() -> bool:
    """Whether `COURSE_PUBLISH` is set: lessons are being executed for the web and must hold no recording."""
    return os.environ.get("COURSE_PUBLISH", "") not in ("", "0")


def profile() -> str:
    """How much a lesson computes: `COURSE_PROFILE`, one of smoke, laptop (the default) and full."""
    name = os.environ.get("COURSE_PROFILE") or "laptop"
    if name not in PROFILES:
        raise ValueError(f"COURSE_PROFILE is {name!r}; choose one of {', '.join(PROFILES)}")
    return name


def by_profile(*, smoke: T, laptop: T, full: T | None = None) -> T:
    """Pick the value for the profile in force; `full` is `laptop` where it is not given."""
    return {"smoke": smoke, "laptop": laptop, "full": laptop if full is None else full}[profile()]
