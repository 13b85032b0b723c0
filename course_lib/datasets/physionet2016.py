"""PhysioNet/CinC Challenge 2016: heart sounds, normal or abnormal, from six places with a stethoscope each."""

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
from course_lib.datasets.labels import read_column
from course_lib.datasets.recordings import DatasetError, LayoutError, Recordings, first_few, listed
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
# Subsets whose classes were recorded with two devices, so that the class can be read from the device.
CONFOUNDED = tuple(letter for letter, (normal, abnormal) in DEVICES.items() if normal != abnormal)
# What the abnormal recordings of each subset have. Normal ones are healthy according to the organisers. a, b and c: the
# diagnoses in the organisers' "Online Appendix" of the training set, where benign murmurs are labelled abnormal, too.
# e: Liu et al. 2016, doi:10.1088/0967-3334/37/12/2181. For d and f nothing more exact is known to us than what the
# organisers say of all patients: typically valve defects or coronary artery disease
# (https://physionet.org/content/challenge-2016/1.0.0).
DIAGNOSES = {
    "a": "mitral valve prolapse, benign murmurs, aortic disease, other conditions",
    "b": "coronary artery disease",
    "c": "aortic stenosis, mitral regurgitation",
    "d": "heart disease, not known to us which",
    "e": "coronary artery disease",
    "f": "heart disease, not known to us which",
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
    problems: list[str] = []
    rows = [row for letter in DEVICES for row in _read_subset(folder, letter, problems)]
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
    problems += listed(f"{FLAGGED_FILE} names unknown recordings", sorted(flagged - names))
    if flagged < published <= names:
        problems += listed(f"{FLAGGED_FILE} is cut off; it lacks", sorted(published - flagged))
    for number in LISTS:
        faults: list[str] = []
        sides = _read_list(folder, number, names, faults)
        whole = _published_sides(number, names, published)
        if sides and sides.items() < whole.items():
            faults += listed(f"{LISTS_FOLDER}: list {number} is cut off; it lacks", sorted(whole.keys() - sides.keys()))
        elif sides and whole and sides != whole and not faults:
            _log.warning("physionet2016: list %d in %s is not the published one", number, folder / LISTS_FOLDER)
        elif not sides and not faults:
            sides = _published_sides(number, names, flagged)
        problems += faults
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
    contradicted = {name for name, label in headers.items() if label not in (None, table["label"][name])}
    others = {"labelled otherwise in their .hea file": contradicted}
    names, unusable = set(table.index), _published()["flagged"]
    if unusable <= names:
        others["flagged otherwise than published"] = unusable ^ set(table.index[table["flagged"]])
    for number in LISTS:
        sides, in_table = _published_sides(number, names, unusable), table.get(f"list_{number}")
        if sides and in_table is not None:
            wrong = {name for name in names if in_table[name] != sides.get(name, "")}
            others[f"on another side of list {number} than published"] = wrong
    return [line for what, wrong in others.items() for line in listed(f"{len(wrong)} {what}", sorted(wrong))]


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


def _read_subset(folder: Path, letter: str, problems: list[str]) -> list[tuple]:
    name = f"training-{letter}"
    if not (folder / name).is_dir():
        problems.append(f"the folder {name} is missing from {folder}")
        return []
    labels = read_column(folder / name / "REFERENCE.csv", _LABELS, "label", problems)
    qualities = _read_qualities(folder, name, labels.keys(), problems)
    files: dict[str, list[Path]] = {}
    for path in listing.sounds(folder / name, deep=False):
        files.setdefault(path.stem, []).append(path)
    twice = [key for key, paths in files.items() if len(paths) > 1]
    problems += listed(f"{name}/REFERENCE.csv lists recordings that are not there", sorted(labels.keys() - files))
    problems += listed(f"{name} holds recordings without a label in REFERENCE.csv", sorted(files.keys() - labels))
    problems += listed(f"{name} holds several files of", sorted(twice))
    return [
        (key, str(paths[0]), labels[key], letter, qualities.get(key, "unknown"))
        for key, paths in files.items()
        if key in labels
    ]


def _read_qualities(folder: Path, name: str, labelled: Set[str], problems: list[str]) -> dict[str, str]:
    for path in (
        folder / "annotations" / "updated" / name / "REFERENCE_withSQI.csv",
        folder / name / "REFERENCE_withSQI.csv",
        folder / name / "REFERENCE_withSQI_derived.csv",
    ):
        if path.is_file():
            faults: list[str] = []
            qualities = read_column(path, _QUALITIES, "quality", faults, column=2)
            if not faults and (lacking := sorted(labelled - qualities.keys())):
                _log.warning(
                    "physionet2016: %s/%s lacks %s, whose quality is unknown", name, path.name, first_few(lacking)
                )
            problems += faults
            return qualities
    return {}


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


def _read_list(folder: Path, number: int, names: set[str], problems: list[str]) -> dict[str, str]:
    files = {side: folder / LISTS_FOLDER / f"{word}{number}.txt" for side, word in _SIDES.items()}
    if not any(path.is_file() for path in files.values()):
        return {}
    try:
        lines = {side: _words(path) for side, path in files.items()}
    except OSError as error:
        problems.append(f"{LISTS_FOLDER}: list {number} cannot be read ({error})")
        return {}
    problems += [f"{LISTS_FOLDER}: {files[side].name} is empty" for side in lines if not lines[side]]
    train, test = map(set, lines.values())
    twice = {name for words in lines.values() for name, count in Counter(words).items() if count > 1}
    name = f"{LISTS_FOLDER}: list {number}"
    problems += listed(f"{name} names unknown recordings", sorted((train | test) - names))
    problems += listed(f"{name} has on both sides", sorted(train & test))
    problems += listed(f"{name} has more than once", sorted(twice))
    return dict.fromkeys(train, "train") | dict.fromkeys(test, "test")


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
            threshold="validation_by_group",
            group="device",
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
    class_counts={"normal": 2575, "abnormal": 665},
    shortest_s=SHORTEST_S,
    manifest=Path(__file__).with_name("physionet2016.sha256"),
    differences=differences,
)
