"""Your own sounds: a folder with one folder of recordings for each class."""

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pandas as pd

from course_lib import audio
from course_lib.datasets import listing, splits
from course_lib.datasets.dataset import Dataset, Protocol
from course_lib.datasets.recordings import DatasetError, LayoutError, Recordings, first_few

# Folders of these names are the sides of a split, not classes, where two sides at least are there.
SIDES = (
    dict.fromkeys(("train", "training"), "train")
    | dict.fromkeys(("validation", "valid", "val", "dev", "development"), "validation")
    | dict.fromkeys(("test", "testing", "eval", "evaluation"), "test")
)
_log = logging.getLogger(__name__)


def read(folder: Path, source: str = "real", sample_rate: int | None = None) -> Recordings:
    """List the sounds of `folder/{class}/**/*`; the classes are the folder names in alphabetical order.

    `group` is the folder below the class when there is one (`dog/rex/1.wav` -> rex), else the recording itself. In a
    folder that holds `train/{class}` and `test/{class}` the column `official` has the side. The sample rate (Hz) is the
    commonest one among the files unless it is given. Raises DatasetError when there are no two class folders or a
    class is empty, LayoutError naming all files without a readable header.
    """
    folder = folder.expanduser().resolve()
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder; expected one that holds a folder of sounds for each class")
    top = listing.folders(folder)
    sides = {path.name: SIDES[path.name.lower()] for path in top if path.name.lower() in SIDES}
    if len(set(sides.values())) < 2:  # "train" alone may be a class, beside tram and bus
        sides = {}
    elif others := [path.name for path in top if path.name not in sides]:
        raise DatasetError(
            f"{folder} holds {first_few(others)} beside {', '.join(sides)}; "
            "move what belongs to no side of the split elsewhere"
        )
    class_folders = [path for side in top for path in listing.folders(side)] if sides else top
    classes = sorted({path.name for path in class_folders})
    if len(classes) < 2:
        raise DatasetError(f"{folder} holds {len(classes)} class folders; put the sounds of each class in its own")
    _refuse_alike(folder, "class folders", classes)
    rows, loose, rates, unreadable = [], [], Counter(), []
    empty = set(class_folders)
    for path in listing.sounds(folder):
        name = path.relative_to(folder).as_posix()
        side, *below = name.split("/") if sides else ("", *name.split("/"))
        if len(below) < 2:
            loose.append(name)
            continue
        empty.discard(folder / side / below[0])
        try:
            rates[audio.rate(path)] += 1
        except audio.AudioError as error:
            unreadable.append(str(error))
            continue
        group = below[1] if len(below) > 2 else name
        rows.append((name, str(path), classes.index(below[0]), group, sides.get(side, "")))
    if empty:
        endings = ", ".join(listing.ENDINGS)
        raise DatasetError(f"{min(empty)} holds no {endings} file; add some or remove the folder")
    if loose:
        _log.warning("%s: left out, because they lie in no class folder: %s", folder, first_few(loose))
    table = pd.DataFrame(rows, columns=["recording", "path", "label", "group", "official"])
    _refuse_alike(folder, "group folders", set(table["group"]) - set(table["recording"]))
    if not sides:
        table = table.drop(columns="official")
    if sample_rate is None and rates:
        sample_rate = rates.most_common(1)[0][0]
    recordings = Recordings(folder.name, table, tuple(classes), sample_rate, source) if rows else None
    if unreadable:
        raise LayoutError(str(folder), [f"{len(unreadable)} unreadable: {first_few(unreadable, '; ')}"], recordings)
    return recordings


def _refuse_alike(folder: Path, what: str, names: Iterable[str]) -> None:
    """Names that some disks, or people, do not tell apart are more likely one class or one group than two."""
    first: dict[str, str] = {}
    for name in sorted(names):
        other = first.setdefault(unicodedata.normalize("NFKC", name).casefold().strip(), name)
        if other != name:
            raise DatasetError(f"{folder} has {what} {other!r} and {name!r}, which are too alike; rename or join them")


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
            Protocol(
                "random", "random 90/10, whole groups", lambda recordings, seed: [splits.random(recordings, 0.1, seed)]
            ),
            Protocol(
                "grouped_folds",
                "five folds of whole groups",
                lambda recordings, seed: splits.grouped_folds(recordings, 5, seed),
            ),
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
        group=noun,
    )
