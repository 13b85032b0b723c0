"""Your own sounds: a folder with one folder of recordings a class."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd

from course_lib import audio
from course_lib.datasets.recordings import DatasetError, Recordings

ENDINGS = (".wav", ".flac", ".ogg")


def read(folder: Path, sample_rate: int | None = None) -> Recordings:
    """List the sounds of `folder/{class}/**/*.wav|flac|ogg`; the classes are the folder names in alphabetical order.

    `group` is the folder below the class when there is one (`dog/rex/1.wav` -> rex), else the recording itself.
    The sample rate (Hz) is the commonest one among the files unless it is given.
    Raises DatasetError when there are no class folders or a class is empty, AudioError for an unreadable header.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder; expected one that holds a folder of sounds for each class")
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(classes) < 2:
        raise DatasetError(f"{folder} holds {len(classes)} class folders; put the sounds of each class in its own")
    rows = []
    for label, class_folder in enumerate(classes):
        sounds = (path for path in class_folder.rglob("*") if path.suffix.lower() in ENDINGS)
        paths = sorted(path for path in sounds if not path.name.startswith("."))
        if not paths:
            raise DatasetError(f"{class_folder} holds no {', '.join(ENDINGS)} file; add some or remove the folder")
        for path in paths:
            recording = path.relative_to(folder).as_posix()
            below_class = path.relative_to(class_folder).parts[:-1]
            rows.append((recording, str(path), label, below_class[0] if below_class else recording))
    table = pd.DataFrame(rows, columns=["recording", "path", "label", "group"])
    if sample_rate is None:
        sample_rate = Counter(audio.rate(path) for path in table["path"]).most_common(1)[0][0]
    return Recordings(folder.name, table, tuple(path.name for path in classes), sample_rate, "real")
