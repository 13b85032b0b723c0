"""TUT Acoustic Scenes 2016 (task 1 of DCASE 2016): in which of fifteen places was this recorded?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
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
from course_lib.datasets.recordings import DatasetError, LayoutError, Recordings, first_few
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
    tables, problems = [], []
    for part in _PARTS:
        home = _home(folder, part)
        if home is None:
            problems += [f"the folder {part} is missing from {folder}"] if part == "development" else []
            continue
        table, faults = _read_part(home, part)
        tables.append(table)
        problems += faults
    table = pd.concat(tables) if tables else pd.DataFrame()
    shared = set() if table.empty else _locations(table, "development") & _locations(table, "evaluation")
    if shared:
        problems.append(f"locations of both parts: {first_few(sorted(shared))}")
    segments = int((table["part"] == "development").sum()) if len(table) else 0
    note = f"{segments:,} of {SEGMENTS:,} segments" if source == "real" else ""
    recordings = Recordings("dcase2016", table, CLASS_NAMES, SAMPLE_RATE, source, note=note) if len(table) else None
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
    rows = _development(recordings)
    made = []
    for number in FOLDS:
        tested = table["fold"].to_numpy()[rows] == number
        split = splits.from_lists(
            recordings, f"fold_{number}", table["recording"].iloc[rows[~tested]], table["recording"].iloc[rows[tested]]
        )
        made.append(replace(split, train=_without_faults(recordings, split.train)))
    return made


def evaluation(recordings: Recordings, seed: int = 0) -> list[Split]:
    """All of the development part against the evaluation part, which lies at other locations.

    Raises DatasetError where the evaluation part is not on this disk.
    """
    names, part = recordings.table["recording"], recordings.table["part"]
    if not (part == "evaluation").any():
        raise DatasetError(
            f"{recordings.name}: there is no folder evaluation beside development; it is a part of its own"
        )
    split = splits.from_lists(recordings, "evaluation", names[part == "development"], names[part == "evaluation"])
    return [replace(split, train=_without_faults(recordings, split.train))]


def random_segments(recordings: Recordings, seed: int = 0) -> list[Split]:
    """Four folds in which the segments of every location are spread over both sides: what a careless split measures.

    Notebook: 07_acoustic_scenes
    """
    made = splits.stratified_folds(recordings, len(FOLDS), seed, _development(recordings), within_groups=False)
    return [replace(split, train=_without_faults(recordings, split.train)) for split in made]


def _home(folder: Path, part: str) -> Path | None:
    return next((folder / name for name in (part, _PARTS[part]) if (folder / name).is_dir()), None)


def _locations(table: pd.DataFrame, part: str) -> set[str]:
    return set(table["group"][table["part"] == part])


def _development(recordings: Recordings) -> np.ndarray:
    return recordings.find(part="development")


def _without_faults(recordings: Recordings, rows: np.ndarray) -> np.ndarray:
    return rows[~recordings.table["faulty"].to_numpy(bool)[rows]]


def _read_part(home: Path, part: str) -> tuple[pd.DataFrame, list[str]]:
    problems: list[str] = []
    listed = _lines(home / "meta.txt", 2, problems)
    counted = Counter(_stem(line[0]) for line in listed)
    problems += _named(f"{part}/meta.txt lists more than once", [name for name, count in counted.items() if count > 1])
    strange = sorted({line[1] for line in listed} - set(CLASS_NAMES))
    problems += _named(f"{part}/meta.txt names scenes that are none of the fifteen", strange)
    scene_of = {_stem(file): scene for file, scene in listed if scene in CLASS_NAMES}
    files = (
        {path.stem: path for path in listing.sounds(home / "audio", deep=False)} if (home / "audio").is_dir() else {}
    )
    problems += _named(f"{part}/meta.txt lists segments that are not there", sorted(scene_of.keys() - files.keys()))
    problems += _named(f"{part}/audio holds segments without a scene", sorted(files.keys() - scene_of.keys()))
    faulty = {_stem(line[0]) for line in _lines(home / "error.txt", 1, [])}
    fold_of = _folds_of(home, scene_of, problems) if part == "development" else {}
    prefix = "" if part == "development" else f"{part}/"
    rows = [
        (
            f"{prefix}{name}",
            str(files[name]),
            CLASS_NAMES.index(scene_of[name]),
            f"{prefix}{name.split('_')[0]}",
            part,
            fold_of.get(name, 0),
            name in faulty,
        )
        for name in sorted(scene_of.keys() & files.keys())
    ]
    columns = ["recording", "path", "label", "group", "part", "fold", "faulty"]
    return pd.DataFrame(rows, columns=columns), problems


def _folds_of(home: Path, scene_of: dict[str, str], problems: list[str]) -> dict[str, int]:
    """The fold in which each segment is tested; what is wrong with the setup is added to `problems`."""
    setup = home / "evaluation_setup"
    if not any((setup / f"fold{number}_evaluate.txt").is_file() for number in FOLDS):
        return {}
    fold_of: dict[str, int] = {}
    for number in FOLDS:
        sides = {
            side: {_stem(line[0]): line[1] for line in _lines(setup / f"fold{number}_{side}.txt", 2, problems)}
            for side in ("train", "evaluate")
        }
        for side, listed in sides.items():
            what = f"evaluation_setup/fold{number}_{side}.txt"
            problems += _named(f"{what} names unknown segments", sorted(listed.keys() - scene_of.keys()))
            known = listed.keys() & scene_of.keys()
            problems += _named(
                f"{what} has other scenes than meta.txt", [n for n in sorted(known) if listed[n] != scene_of[n]]
            )
        shared = {name.split("_")[0] for name in sides["train"]} & {name.split("_")[0] for name in sides["evaluate"]}
        problems += _named(f"fold {number} has locations on both sides", sorted(shared))
        twice = sorted(sides["evaluate"].keys() & fold_of.keys())
        problems += _named(f"fold {number} tests segments of another fold", twice)
        fold_of |= dict.fromkeys(sides["evaluate"].keys() & scene_of.keys(), number)
    problems += _named("in no fold of evaluation_setup", sorted(scene_of.keys() - fold_of.keys()))
    return fold_of


def _lines(path: Path, columns: int, problems: list[str]) -> list[list[str]]:
    """The tab-separated lines of a text file; a missing file and lines with too few columns go to `problems`."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path.parent.name}/{path.name} cannot be read ({error})")
        return []
    split = [[cell.strip() for cell in line.split("\t")] for line in lines if line.strip()]
    short = ["\t".join(line) for line in split if len(line) < columns]
    problems += _named(f"{path.parent.name}/{path.name} has lines without a scene", short)
    return [line[:columns] for line in split if len(line) >= columns]


def _stem(file: str) -> str:
    return Path(file.replace("\\", "/")).stem


def _named(what: str, names: Iterable[str]) -> list[str]:
    names = list(names)
    return [f"{what}: {first_few(names)}"] if names else []


def _differences(recordings: Recordings) -> list[str]:
    """Segments of another length, rate or number of channels than most, which a listing does not show."""
    table = recordings.table
    lengths = {
        name: round(audio.seconds(path), 2) for name, path in zip(table["recording"], table["path"], strict=True)
    }
    usual = Counter(lengths.values()).most_common(1)[0][0]
    other = [f"{name} ({length:g} s)" for name, length in lengths.items() if abs(length - usual) > 0.05]
    return _named(f"not {usual:g} s long", other)


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
    recordings=1560,
    class_counts=dict.fromkeys(CLASS_NAMES, 104),
    shortest_s=1.0,
    differences=_differences,
)
