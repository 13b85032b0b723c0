"""TUT Acoustic Scenes 2016 (task 1 of DCASE 2016): in which of fifteen places was this recorded?"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field
from torch import Tensor

from course_lib import audio
from course_lib.datasets import listing, splits
from course_lib.datasets.dataset import Dataset, Preparation, Protocol, Words
from course_lib.datasets.labels import read_column
from course_lib.datasets.recordings import DatasetError, LayoutError, Recordings, listed
from course_lib.datasets.splits import Split
from course_lib.datasets.stand_ins import scenes

SAMPLE_RATE = 44_100
CLASS_NAMES = scenes.CLASS_NAMES
FOLDS = range(1, 5)
SEGMENTS = 3510  # ten-second parts of the 1,170 published recordings of 30 s
_PARTS = {"development": "TUT-acoustic-scenes-2016-development", "evaluation": "TUT-acoustic-scenes-2016-evaluation"}


class ScenePreparation(Preparation):
    """Scenes (samples,) at `from_rate` Hz -> the same at `sample_rate` Hz; which `channel` of two is read.

    Raises AudioError for a segment that is not as long as the others may be: 1 to 60 s.

    Notebook: 07_acoustic_scenes
    """

    from_rate: int = Field(SAMPLE_RATE, gt=0)
    sample_rate: int = Field(SAMPLE_RATE, gt=0)
    channel: Literal["mean", "left", "right", "side"] = "mean"

    def __call__(self, waveform: Tensor) -> Tensor:
        return audio.resample(waveform, self.from_rate, self.sample_rate)


def read(folder: Path, source: str) -> Recordings:
    """List the segments of `development/` and, where it is there, of `evaluation/`, each in the published layout.

    That is `audio/{location}_{start}_{end}.wav|ogg|flac`, `meta.txt` (file, tab, scene) and `evaluation_setup/`; the
    published folder names (TUT-acoustic-scenes-2016-...) will do, too. `group` is the location, the part of the name
    before the first underscore; `part` is development or evaluation; `fold` the fold of `evaluation_setup` in which a
    segment is tested; `faulty` marks segments in which error.txt names a fault of the recording.
    Raises LayoutError, which names every fault of the folder.
    Source: Mesaros, Heittola and Virtanen 2016, "TUT database for acoustic scene classification and sound event
    detection"; https://zenodo.org/records/45739

    Notebook: 07_acoustic_scenes
    """
    problems: list[str] = []
    rows = [row for part in _PARTS for row in _read_part(folder, part, problems)]
    columns = ["recording", "path", "label", "group", "part", "fold", "faulty"]
    table = pd.DataFrame(rows, columns=columns).astype({"faulty": bool})
    parts_of = table.groupby(table["group"].str.removeprefix("evaluation/"))["part"].nunique()
    problems += listed("locations of both parts", sorted(parts_of.index[parts_of > 1]))
    segments = int((table["part"] == "development").sum())
    note = f"{segments:,} of {SEGMENTS:,} segments" if source == "real" else ""
    recordings = Recordings("dcase2016", table, CLASS_NAMES, SAMPLE_RATE, source, note=note) if rows else None
    if problems:
        raise LayoutError("dcase2016", problems, recordings)
    return recordings


def data_table(recordings: Recordings) -> pd.DataFrame:
    """One row for each scene: how many locations and segments there are in each part.

    Notebook: 07_acoustic_scenes
    """
    table = recordings.table.assign(scene=np.array(CLASS_NAMES)[recordings.table["label"]])
    counted = table.groupby(["scene", "part"])["group"].agg(locations="nunique", segments="size")
    return counted.unstack(fill_value=0).swaplevel(axis=1).sort_index(axis=1)


def folds(recordings: Recordings, seed: int = 0) -> list[Split]:
    """The four folds of `evaluation_setup`; no location is on both sides. Segments with faults are not trained on.

    Notebook: 07_acoustic_scenes
    """
    table = recordings.table
    if not (table["fold"] > 0).any():
        raise DatasetError(f"{recordings.name} has no evaluation_setup with four folds; get the complete data set")
    names, development = table["recording"], table["part"] == "development"
    return [
        splits.from_lists(
            recordings,
            f"fold_{number}",
            names[development & ~table["faulty"] & (table["fold"] != number)],
            names[development & (table["fold"] == number)],
        )
        for number in FOLDS
    ]


def evaluation(recordings: Recordings, seed: int = 0) -> list[Split]:
    """All of the development part against the evaluation part, which lies at other locations.

    Raises DatasetError where the evaluation part is not on this disk.
    """
    table = recordings.table
    if not (table["part"] == "evaluation").any():
        raise DatasetError(
            f"{recordings.name}: there is no folder evaluation beside development; it is a part of its own"
        )
    train = table["recording"][(table["part"] == "development") & ~table["faulty"]]
    return [splits.from_lists(recordings, "evaluation", train, table["recording"][table["part"] == "evaluation"])]


def random_segments(recordings: Recordings, seed: int = 0) -> list[Split]:
    """Four folds in which the segments of every location are spread over both sides: what a careless split measures.

    Notebook: 07_acoustic_scenes
    """
    rows = recordings.find(part="development")
    made = splits.stratified_folds(recordings, len(FOLDS), seed, rows, within_groups=False)
    faulty = recordings.find(faulty=True)
    return [replace(split, train=np.setdiff1d(split.train, faulty)) for split in made]


def _read_part(folder: Path, part: str, problems: list[str]) -> list[tuple]:
    home = next((folder / name for name in (part, _PARTS[part]) if (folder / name).is_dir()), None)
    if home is None:
        problems += [f"the folder {part} is missing from {folder}"] if part == "development" else []
        return []
    labels = _read_scenes(home / "meta.txt", problems)
    sounds = home / "audio"
    files = {path.stem: path for path in listing.sounds(sounds, deep=False)} if sounds.is_dir() else {}
    problems += listed(f"{part}/meta.txt lists segments that are not there", sorted(labels.keys() - files))
    problems += listed(f"{part}/audio holds segments without a scene", sorted(files.keys() - labels))
    faults = home / "error.txt"
    faulty = {_stem(line.split("\t")[0]) for line in faults.read_text().splitlines()} if faults.is_file() else set()
    fold_of = _folds_of(home / "evaluation_setup", labels, problems) if part == "development" else {}
    prefix = "" if part == "development" else f"{part}/"
    return [
        (
            f"{prefix}{name}",
            str(files[name]),
            labels[name],
            f"{prefix}{_location(name)}",
            part,
            fold_of.get(name, 0),
            name in faulty,
        )
        for name in sorted(labels.keys() & files)
    ]


def _folds_of(setup: Path, labels: dict[str, int], problems: list[str]) -> dict[str, int]:
    """The fold in which each segment is tested; what is wrong with the setup is added to `problems`."""
    if not any((setup / f"fold{number}_evaluate.txt").is_file() for number in FOLDS):
        return {}
    fold_of: dict[str, int] = {}
    for number in FOLDS:
        locations = []
        for side in ("train", "evaluate"):
            name = f"fold{number}_{side}.txt"
            in_list = _read_scenes(setup / name, problems)
            locations.append(set(map(_location, in_list)))
            others = [each for each in in_list if each in labels and in_list[each] != labels[each]]
            problems += listed(f"{setup.name}/{name} names unknown segments", sorted(in_list.keys() - labels))
            problems += listed(f"{setup.name}/{name} has other scenes than meta.txt", sorted(others))
        twice = sorted(in_list.keys() & fold_of)
        problems += listed(f"fold {number} tests segments of another fold", twice)
        problems += listed(f"fold {number} has locations on both sides", sorted(set.intersection(*locations)))
        fold_of |= dict.fromkeys(in_list.keys() & labels, number)
    problems += listed(f"in no fold of {setup.name}", sorted(labels.keys() - fold_of))
    return fold_of


def _read_scenes(path: Path, problems: list[str]) -> dict[str, int]:
    labels = {scene: label for label, scene in enumerate(CLASS_NAMES)}
    return read_column(path, labels, "scene", problems, separator="\t", key=_stem)


def _stem(file: str) -> str:
    return Path(file.replace("\\", "/")).stem


def _location(segment: str) -> str:
    return segment.split("_")[0]


def _differences(recordings: Recordings) -> list[str]:
    """Segments of another length than most, which a listing does not show."""
    seconds = recordings.table.set_index("recording")["path"].map(audio.seconds)
    usual = seconds.round(2).mode()[0]
    other = seconds[(seconds - usual).abs() > 0.05]
    return listed(f"not {usual:g} s long", [f"{name} ({length:.2f} s)" for name, length in other.items()])


def _archives() -> tuple[str, ...]:
    sets = {"45739": ("development", [*(f"audio.{n}" for n in range(1, 9)), "meta", "error"]),
            "165995": ("evaluation", ["audio.1", "audio.2", "audio.3", "meta"])}  # fmt: skip
    return tuple(
        f"doi:10.5281/zenodo.{record}/{_PARTS[part]}.{name}.zip"
        for record, (part, names) in sets.items()
        for name in names
    )


DATASET = Dataset(
    name="dcase2016",
    title="TUT Acoustic Scenes 2016 (DCASE 2016, task 1)",
    read=read,
    protocols=(
        Protocol("folds", "four folds by location", folds),
        Protocol("evaluation", "evaluation set, other locations", evaluation),
        Protocol(
            "random_segments",
            "four folds of random segments",
            random_segments,
            leak="segments of one recording are on both sides",
        ),
    ),
    sample_rate=SAMPLE_RATE,
    words=Words("recorded at", "classified as", "location"),
    preparation=ScenePreparation,
    licence="free for non-commercial use (Tampere University)",
    citation="A. Mesaros, T. Heittola and T. Virtanen, TUT database for acoustic scene classification and sound event "
    "detection, EUSIPCO 2016, doi:10.5281/zenodo.45739 and doi:10.5281/zenodo.165995",
    archives=_archives(),
    megabytes=10_700,
    write_stand_in=scenes.write,
    class_counts=dict.fromkeys(CLASS_NAMES, 104),
    shortest_s=1.0,
    differences=_differences,
)
