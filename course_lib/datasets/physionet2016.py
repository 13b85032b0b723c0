"""PhysioNet/CinC Challenge 2016: heart sounds, normal or abnormal, from six places with a stethoscope each."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Set
from dataclasses import replace
from functools import cache
from pathlib import Path

import pandas as pd

from course_lib import audio
from course_lib.datasets import listing, splits
from course_lib.datasets.dataset import Dataset, Protocol, Words
from course_lib.datasets.hearts.cycles import cycle_starts
from course_lib.datasets.hearts.preparation import SAMPLE_RATE, SHORTEST_S, HeartPreparation
from course_lib.datasets.recordings import DatasetError, LayoutError, Recordings, first_few
from course_lib.datasets.splits import Split
from course_lib.datasets.stand_ins import heart_sounds

CLASS_NAMES = ("normal", "abnormal")
# What recorded each subset. In e it depends on the class: Liu et al. 2016, doi:10.1088/0967-3334/37/12/2181.
DEVICES = {
    "a": ("Welch Allyn Meditron",) * 2,
    "b": ("3M Littmann E4000",) * 2,
    "c": ("AUDIOSCOPE",) * 2,
    "d": ("Infral Corp. prototype",) * 2,
    "e": ("MLT201/Piezo", "3M Littmann"),
    "f": ("JABES",) * 2,
}
LISTS = range(4)
LISTS_FOLDER = "folds_spectnet"
FLAGGED_FILE = "Recordings need to be removed in training-e.txt"

_LABELS = {"-1": 0, "1": 1}
_QUALITIES = {"1": "clean", "0": "noisy", "": "unknown"}
_log = logging.getLogger(__name__)


def read(folder: Path, source: str) -> Recordings:
    """List the recordings of a folder in the published layout, `training-{a..f}/{recording}.wav|flac`, 2 kHz.

    `label` is 0 for normal and 1 for abnormal, from the folders' REFERENCE.csv; `group` is the subset's letter: its
    place and device. `quality` is clean, noisy or, without a published judgement, unknown. `flagged` marks recordings
    that the organisers judged unusable and `list_0` .. `list_3` give the side (train, test or neither) in the published
    fold lists; both come from the folder or, for the complete data set, from the course. There are no subject ids:
    nobody can say whether two recordings are of one heart. Raises LayoutError, which names every fault of the folder.
    Source: https://physionet.org/content/challenge-2016/1.0.0

    Notebook: 05_heart_sounds_physionet
    """
    rows, problems = [], []
    for letter in DEVICES:
        of_subset, faults = _read_subset(folder, letter)
        rows += of_subset
        problems += faults
    table = pd.DataFrame(rows, columns=["recording", "path", "label", "group", "quality"])
    for name, letters in table[table["recording"].duplicated(keep=False)].groupby("recording")["group"]:
        problems.append(f"{name} is in several folders: {', '.join(f'training-{letter}' for letter in letters)}")
    table = table.drop_duplicates("recording")
    names = set(table["recording"])
    published = _published()["flagged"]
    try:
        flagged = _flagged(folder, published if published <= names else None)
    except OSError as error:
        flagged = published & names
        problems.append(f"{FLAGGED_FILE} cannot be read ({error.strerror})")
    table["flagged"] = table["recording"].isin(flagged)
    if unknown := sorted(flagged - names):
        problems.append(f"{FLAGGED_FILE} names unknown recordings: {first_few(unknown)}")
    if flagged < published <= names:
        problems.append(f"{FLAGGED_FILE} is cut off: it lacks {first_few(sorted(published - flagged))}")
    for number in LISTS:
        sides, faults = _read_list(folder, number, names)
        whole = _published_sides(number, names, published)
        if sides and sides.items() < whole.items():
            lacking = first_few(sorted(whole.keys() - sides.keys()))
            faults.append(f"{LISTS_FOLDER}: list {number} is cut off: it lacks {lacking}")
        elif sides and whole and sides != whole and not faults:
            _log.warning("physionet2016: list %d in %s is not the published one", number, folder / LISTS_FOLDER)
        problems += faults
        if not sides and not faults:
            sides = _published_sides(number, names, flagged)
        if sides:
            table[f"list_{number}"] = table["recording"].map(sides).fillna("")
    sound = Recordings("physionet2016", table, CLASS_NAMES, SAMPLE_RATE, source) if rows else None
    if problems:
        raise LayoutError("physionet2016", problems, sound)
    return sound


def published_lists(recordings: Recordings) -> list[Split]:
    """The four fold lists published with SpectNet, without flagged recordings; their test sides are disjoint.

    Every device is on both sides, so scores on them do not hold for other devices.
    Raises DatasetError when the lists are not there.

    Notebook: 05_heart_sounds_physionet
    """
    if any(f"list_{number}" not in recordings.table for number in LISTS):
        raise DatasetError(
            f"{recordings.name}: the published lists are of the complete data set, and this is not it; get all of it, "
            f"put lists of your own (train0.txt, validation0.txt and so on) into its folder {LISTS_FOLDER}, or use "
            "stratified_folds"
        )
    return [splits.official(recordings, f"list_{number}", leaky=True) for number in LISTS]


def differences(recordings: Recordings) -> list[str]:
    """Differences from the published lists, flags and labels.

    A header file `{recording}.hea` may end in the comment Normal or Abnormal, and nothing else reads it. Lists and
    flags are only compared where all their recordings are there.

    Notebook: 05_heart_sounds_physionet
    """
    table = recordings.table.set_index("recording")
    headers = {name: _header_label(Path(path).with_suffix(".hea")) for name, path in table["path"].items()}
    others = {
        "labelled otherwise in their .hea file": {
            name for name, label in headers.items() if label not in (None, table["label"][name])
        }
    }
    names, unusable = set(table.index), _published()["flagged"]
    if unusable <= names:
        others["flagged otherwise than published"] = unusable ^ set(table.index[table["flagged"]])
    for number in LISTS:
        sides, listed = _published_sides(number, names, unusable), table.get(f"list_{number}")
        if sides and listed is not None:
            wrong = {name for name in names if listed[name] != sides.get(name, "")}
            others[f"on another side of list {number} than published"] = wrong
    return [f"{len(wrong)} {what}: {first_few(sorted(wrong))}" for what, wrong in others.items() if wrong]


def data_table(recordings: Recordings) -> pd.DataFrame:
    """One row for each subset and device: recordings of each class, flagged ones, and hours, read from the files.

    Raises AudioError for a file that cannot be opened.

    Notebook: 05_heart_sounds_physionet
    """
    table = recordings.table
    device = [DEVICES[group][label] for group, label in zip(table["group"], table["label"], strict=True)]
    counted = pd.DataFrame({"subset": table["group"], "label": table["label"], "device": device})
    for label, name in enumerate(CLASS_NAMES):
        counted[name] = table["label"] == label
    counted["flagged"] = table["flagged"]
    counted["hours"] = [audio.seconds(path) / 3600 for path in table["path"]]
    counted = counted.sort_values(["subset", "label"], kind="stable").drop(columns="label")
    return counted.groupby(["subset", "device"], as_index=False, sort=False).sum()


def _read_subset(folder: Path, letter: str) -> tuple[list[tuple], list[str]]:
    name = f"training-{letter}"
    if not (folder / name).is_dir():
        return [], [f"the folder {name} is missing from {folder}"]
    labels, problems = _read_column(folder / name / "REFERENCE.csv", 1, _LABELS, "label")
    qualities, faults = _read_qualities(folder, name, labels.keys())
    problems += faults
    files: dict[str, list[Path]] = {}
    for path in listing.sounds(folder / name, deep=False):
        files.setdefault(path.stem, []).append(path)
    for what, names in (
        (f"{name}/REFERENCE.csv lists recordings that are not there", labels.keys() - files.keys()),
        (f"{name} holds recordings without a label in REFERENCE.csv", files.keys() - labels.keys()),
        (f"{name} holds several files of", {key for key, paths in files.items() if len(paths) > 1}),
    ):
        problems += [f"{what}: {first_few(sorted(names))}"] if names else []
    rows = [
        (key, str(paths[0]), labels[key], letter, qualities.get(key, "unknown"))
        for key, paths in files.items()
        if key in labels
    ]
    return rows, problems


def _read_column(path: Path, column: int, meaning: dict[str, object], what: str) -> tuple[dict, list[str]]:
    """The values in a column of a CSV file by the recording in its first one, and what is wrong with the file."""
    file_name = f"{path.parent.name}/{path.name}"
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = [[cell.strip() for cell in line] for line in csv.reader(file) if line]
    except FileNotFoundError:
        return {}, [f"{file_name} is missing"]
    except (OSError, ValueError, csv.Error) as error:
        return {}, [f"{file_name} cannot be read ({error})"]
    usable = [len(line) > column and line[column] in meaning for line in lines]
    wrong = [line for line, is_usable in zip(lines, usable, strict=True) if not is_usable]
    expected = ", ".join(repr(value) for value in meaning)
    problems = [
        f"{file_name} holds a line {','.join(line)!r}, whose {what} is none of {expected}" for line in wrong[:3]
    ]
    if len(wrong) > 3:
        problems[-1] += f", and {len(wrong) - 3} more such lines"
    twice = [name for name, count in Counter(line[0] for line in lines).items() if count > 1]
    problems += [f"{file_name} lists more than once: {first_few(twice)}"] if twice else []
    return {
        line[0]: meaning[line[column]] for line, is_usable in zip(lines, usable, strict=True) if is_usable
    }, problems


def _read_qualities(folder: Path, name: str, labelled: Set[str]) -> tuple[dict[str, str], list[str]]:
    for path in (
        folder / "annotations" / "updated" / name / "REFERENCE_withSQI.csv",
        folder / name / "REFERENCE_withSQI.csv",
        folder / name / "REFERENCE_withSQI_derived.csv",
    ):
        if path.is_file():
            qualities, faults = _read_column(path, 2, _QUALITIES, "quality")
            if not faults and (lacking := sorted(labelled - qualities.keys())):
                _log.warning(
                    "physionet2016: %s/%s lacks %s, whose quality is unknown", name, path.name, first_few(lacking)
                )
            return qualities, faults
    return {}, []


@cache
def _published() -> dict[str, set[str]]:
    """The flagged recordings and the test sides of the fold lists, by name; a list trains on all others not flagged."""
    lines = Path(__file__).with_name("physionet2016.lists").read_text().splitlines()
    return {name: set(listed) for name, *listed in (line.split() for line in lines)}


def _published_sides(number: int, names: set[str], flagged: set[str]) -> dict[str, str]:
    """The side of each recording in a list that comes with the course; nothing where one of its recordings is missing.

    Flagged recordings can be on the test side: whoever uses a list leaves them out.
    """
    test = _published()[f"list_{number}"]
    return dict.fromkeys(names - test - flagged, "train") | dict.fromkeys(test, "test") if test <= names else {}


def _header_label(path: Path) -> int | None:
    """The label in the comments of a WFDB header file; None where it has none, or is not there."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    comments = [line.lstrip("# ").strip().lower() for line in lines if line.startswith("#")]
    return next((CLASS_NAMES.index(comment) for comment in reversed(comments) if comment in CLASS_NAMES), None)


def _flagged(folder: Path, published: set[str] | None) -> set[str]:
    for path in (each / FLAGGED_FILE for each in (folder / "annotations" / "updated", folder / LISTS_FOLDER, folder)):
        if path.is_file():
            return set(_words(path))
    if published is not None:
        return published
    _log.warning(
        "physionet2016: there is no %r in %s, so the 87 recordings of subset e that the organisers judged unusable "
        "are not marked",
        FLAGGED_FILE,
        folder,
    )
    return set()


def _read_list(folder: Path, number: int, listed: set[str]) -> tuple[dict[str, str], list[str]]:
    files = {side: folder / LISTS_FOLDER / f"{name}{number}.txt" for side, name in _SIDES.items()}
    if not any(path.is_file() for path in files.values()):
        return {}, []
    try:
        lines = {side: _words(path) for side, path in files.items()}
    except OSError as error:
        return {}, [f"{LISTS_FOLDER}: list {number} cannot be read ({error})"]
    sides = {side: set(lines[side]) for side in lines}
    problems = [f"{LISTS_FOLDER}: {files[side].name} is empty" for side in sides if not sides[side]]
    twice = {name for words in lines.values() for name, count in Counter(words).items() if count > 1}
    for what, names in (
        ("names unknown recordings", (sides["train"] | sides["test"]) - listed),
        ("has on both sides", sides["train"] & sides["test"]),
        ("has more than once", twice),
    ):
        problems += [f"{LISTS_FOLDER}: list {number} {what}: {first_few(sorted(names))}"] if names else []
    return {name: side for side, names in sides.items() for name in names}, problems


_SIDES = {"train": "train", "test": "validation"}


def _words(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8-sig", errors="replace").split()


def _published_list_0(recordings: Recordings, seed: int) -> list[Split]:
    first = published_lists(recordings)[0]
    return [replace(first, validation=first.test)]


_SAME_DEVICES = "the same devices, and perhaps the same hearts, are on both sides"

DATASET = Dataset(
    name="physionet2016",
    title="Heart sounds of the PhysioNet/CinC Challenge 2016, training set",
    read=read,
    protocols=(
        Protocol(
            "published_list_0",
            "list 0, as in the original paper",
            _published_list_0,
            decision="vote",
            threshold="half",
            leak=f"{_SAME_DEVICES}, and the best epoch may be chosen on the test side",
        ),
        Protocol(
            "published_lists", "lists 0-3", lambda recordings, seed: published_lists(recordings), leak=_SAME_DEVICES
        ),
        Protocol(
            "stratified_10_folds",
            "ten stratified folds",
            lambda recordings, seed: splits.stratified_folds(recordings, 10, seed),
            leak=_SAME_DEVICES,
        ),
        Protocol(
            "random",
            "random 90/10",
            lambda recordings, seed: [splits.random(recordings, 0.1, seed, leaky=True)],
            leak=_SAME_DEVICES,
        ),
        Protocol(
            "leave_one_device_out",
            "leave one device out, mean of devices",
            lambda recordings, seed: splits.leave_one_group_out(recordings),
            unit="group",
        ),
    ),
    sample_rate=SAMPLE_RATE,
    words=Words("diagnosis", "classified as", "device"),
    preparation=HeartPreparation,
    probe_groups=True,
    clip_starts={"cycles": cycle_starts},
    licence="ODC-BY 1.0",
    citation="C. Liu et al., An open access database for the evaluation of heart sound algorithms, "
    "Physiological Measurement 37, 2016, doi:10.1088/0967-3334/37/12/2181",
    archives=("https://physionet.org/files/challenge-2016/1.0.0/training.zip#sha256sums",),
    megabytes=181,
    write_stand_in=heart_sounds.write,
    recordings=3240,
    class_counts={"normal": 2575, "abnormal": 665},
    group_counts={
        "a": {"normal": 117, "abnormal": 292},
        "b": {"normal": 386, "abnormal": 104},
        "c": {"normal": 7, "abnormal": 24},
        "d": {"normal": 27, "abnormal": 28},
        "e": {"normal": 1958, "abnormal": 183},
        "f": {"normal": 80, "abnormal": 34},
    },
    shortest_s=SHORTEST_S,
    manifest=Path(__file__).with_name("physionet2016.sha256"),
    differences=differences,
)
