"""Your own sounds: a folder with one folder of recordings for each class."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pandas as pd

from course_lib import audio
from course_lib.datasets import listing, splits
from course_lib.datasets.dataset import Dataset, Protocol
from course_lib.datasets.recordings import DatasetError, Recordings

# Folders of these names are the sides of a split, not classes.
SIDES = {"train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test", "evaluation": "test"}


def read(folder: Path, source: str = "real", sample_rate: int | None = None) -> Recordings:
    """List the sounds of `folder/{class}/**/*.wav|flac|ogg`; the classes are the folder names in alphabetical order.

    `group` is the folder below the class when there is one (`dog/rex/1.wav` -> rex), else the recording itself. In a
    folder that holds `train/{class}` and `test/{class}` the column `official` has the side. The sample rate (Hz) is the
    commonest one among the files unless it is given. Raises DatasetError when there are no two class folders or a
    class is empty, AudioError for an unreadable header.
    """
    folder = folder.expanduser().resolve()
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder; expected one that holds a folder of sounds for each class")
    top = listing.folders(folder)
    names = {path.name.lower() for path in top}
    if names and names <= SIDES.keys() and {SIDES[name] for name in names} == {"train", "test"}:
        parts = [(SIDES[side.name.lower()], path) for side in top for path in listing.folders(side)]
    else:
        parts = [("", path) for path in top]
    classes = sorted({path.name for _, path in parts})
    if len(classes) < 2:
        raise DatasetError(f"{folder} holds {len(classes)} class folders; put the sounds of each class in its own")
    rows = []
    for side, class_folder in parts:
        paths = listing.sounds(class_folder)
        if not paths:
            endings = ", ".join(listing.ENDINGS)
            raise DatasetError(f"{class_folder} holds no {endings} file; add some or remove the folder")
        for path in paths:
            recording = path.relative_to(folder).as_posix()
            below_class = path.relative_to(class_folder).parts[:-1]
            group = below_class[0] if below_class else recording
            rows.append((recording, str(path), classes.index(class_folder.name), group, side))
    table = pd.DataFrame(rows, columns=["recording", "path", "label", "group", "official"])
    if not table["official"].any():
        table = table.drop(columns="official")
    if sample_rate is None:
        sample_rate = Counter(audio.rate(path) for path in table["path"]).most_common(1)[0][0]
    return Recordings(folder.name, table, tuple(classes), sample_rate, source)


class _OwnSounds(Dataset):
    """The data set of a folder: what it leaves out may be called `leave_one_dog_out`, after what its groups are."""

    def protocol(self, name: str) -> Protocol:
        if match := re.fullmatch(r"leave_one_([a-z]+(?:_[a-z]+)*)_out", name):
            return _leave_one_out(match[1].replace("_", " "))
        return super().protocol(name)


def dataset(folder: Path) -> Dataset:
    """The data set of a folder of class folders: protocols random, grouped_folds, official and leave_one_..._out."""
    folder = folder.expanduser().resolve()
    return _OwnSounds(
        name=str(folder),
        title=folder.name,
        read=read,
        protocols=(
            Protocol("random", "random 90/10, whole groups", lambda recordings, seed: [splits.random(recordings, 0.1, seed)]),
            Protocol("grouped_folds", "five folds of whole groups", lambda recordings, seed: splits.grouped_folds(recordings, 5, seed)),
            Protocol("official", "its own split", lambda recordings, seed: [splits.official(recordings)]),
            _leave_one_out("group"),
        ),
        sample_rate=0,
        location=folder,
    )


@cache
def _leave_one_out(noun: str) -> Protocol:
    return Protocol(
        f"leave_one_{noun.replace(' ', '_')}_out",
        f"leave one {noun} out",
        lambda recordings, seed: splits.leave_one_group_out(recordings),
        unit="group",
    )
