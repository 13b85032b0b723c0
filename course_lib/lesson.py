"""What every notebook needs at its start and end."""

from __future__ import annotations

import logging
import warnings

from course_lib import figures, settings
from course_lib.datasets import Recordings


def start() -> None:
    """Set the course's plotting style, and say so when the profile is not the default one.

    Notebook: 01_waveforms_and_spectrograms
    """
    figures.use_course_style()
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    if settings.profile() != "laptop":
        print(f"Profile {settings.profile()}: this run is not the one the text of the lesson was written for.")


def announce(recordings: Recordings) -> None:
    """One line on the data in use; a banner when it is a stand-in.

    Notebook: 01_waveforms_and_spectrograms
    """
    groups = recordings.table["group"].nunique()
    print(
        f"{recordings.name}: {len(recordings):,} recordings, {len(recordings.class_names)} classes, "
        f"{groups} groups, {recordings.sample_rate:,} Hz, {recordings.source} data"
    )
    if recordings.source != "real":
        lines = (
            f"STAND-IN DATA: synthetic recordings in place of {recordings.name}.",
            "No number below says anything about real sound. For the real data, run:",
            f"    python -m course_lib data fetch {recordings.name}",
        )
        print("*" * 72, *lines, "*" * 72, sep="\n")
