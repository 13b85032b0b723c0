"""Whether the recordings on disk are the published ones, sample by sample; and what is wrong with one's own.

A manifest is a text file with a line `HASH  LABEL  RECORDING` for every recording, sorted by recording.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from torch import Tensor
from tqdm.auto import tqdm

from course_lib import audio
from course_lib.datasets.dataset import Dataset
from course_lib.datasets.recordings import DatasetError, LayoutError, Recordings, first_few

MOST_GROUPS = 20
CLIPPED = 0.001  # of the samples at the highest level: a waveform with its tops cut off


def check(
    wanted: str | Dataset,
    folder: Path | None = None,
    progress: bool = True,
    samples: bool = True,
    show: Callable[[Recordings], None] = lambda _: None,
) -> list[str]:
    """List what is wrong with a data set, given by name, by the path of a folder or as a Dataset; empty: all is well.

    `folder` is where it is, its own place unless given. Compares with the catalogue the number of recordings, the size
    of the classes, every sample rate (Hz) and, with a manifest, the label and the samples of every recording; lists
    flat lines and what is too short to be of use. Of one's own sounds it lists clipped recordings and copies of one
    recording too. `samples=False` leaves the manifest out, for an archive that a checksum verifies. `show`
    is called with the recordings once they are listed. Bad data never raise; an unknown name raises DatasetError.

    Notebook: 02_spoken_digits_cnn
    """
    dataset = _dataset(wanted)
    folder = folder or dataset.folder
    if not folder.is_dir():
        return [f"{folder} does not exist; run: python -m course_lib data fetch {dataset.name}"]
    recordings, problems = _list(dataset, folder)
    if recordings is None:
        return problems
    show(recordings)
    problems += _count(dataset, recordings) + dataset.differences(recordings)
    expected_rate = dataset.sample_rate or recordings.sample_rate
    hashes, rates, unreadable, flat, short, clipped = {}, [], [], [], [], []
    rows = zip(recordings.table["recording"], recordings.table["path"], strict=True)
    for name, path in tqdm(rows, f"checking {recordings.name}", len(recordings), disable=not progress, delay=2):
        try:
            rate = audio.rate(path)
            if rate != expected_rate:
                rates.append(f"{name} ({rate} Hz)")
            waveform = audio.read(path)
            hashes[name] = fingerprint(waveform)
            if waveform.min() == waveform.max():
                flat.append(name)
            elif _clipped(waveform):
                clipped.append(name)
            if len(waveform) < dataset.shortest_s * rate:
                short.append(f"{name} ({len(waveform) / rate:.2f} s)")
        except (audio.AudioError, OSError) as error:
            hashes[name] = None
            unreadable.append(f"{name} ({_shorten(error, folder)})")
    problems += _listed(f"not at {expected_rate} Hz", rates) + _listed("unreadable", unreadable)
    problems += _listed("flat lines", flat) + _listed(f"shorter than {dataset.shortest_s:g} s", short)
    if dataset.manifest is None and not dataset.archives:
        names_of: dict[str | None, list[str]] = {}
        for name in hashes.keys() - set(flat):
            names_of.setdefault(hashes[name], []).append(name)
        same = [" = ".join(sorted(names)) for key, names in names_of.items() if key and len(names) > 1]
        return problems + _listed("clipped", clipped) + _listed("there under several names", sorted(same))
    labels = dict(zip(recordings.table["recording"], recordings.table["label"], strict=True))
    return problems + (_compare(dataset.manifest, hashes, labels) if samples and dataset.manifest else [])


def _list(dataset: Dataset, folder: Path) -> tuple[Recordings | None, list[str]]:
    """The recordings of a folder as far as they can be listed, and what is wrong with the others. Never raises."""
    try:
        return dataset.read(folder, "real"), []
    except LayoutError as error:
        return error.sound, list(error.problems)
    except (DatasetError, OSError, ValueError, LookupError) as error:
        return None, [_shorten(error, folder)]


def counts(recordings: Recordings) -> pd.DataFrame:
    """How many recordings of each class there are, in each group (up to twenty of them) and in all.

    Notebook: 02_spoken_digits_cnn
    """
    table = recordings.table
    names = table["label"].map(dict(enumerate(recordings.class_names)))
    counted = pd.crosstab(table["group"], names).reindex(columns=recordings.class_names, fill_value=0)
    total = counted.sum().rename("all").to_frame().T
    return pd.concat([counted, total]) if len(counted) <= MOST_GROUPS else total


def _dataset(wanted: str | Dataset) -> Dataset:
    from course_lib.datasets import catalogue  # which imports the data sets, and they what they need

    return wanted if isinstance(wanted, Dataset) else catalogue.get(str(wanted))


def _clipped(waveform: Tensor) -> bool:
    """Whether the highest level, near full scale, is reached so often that the tops must have been cut off."""
    level = waveform.abs()
    peak = level.max()
    return bool(peak > 0.9) and bool((level > 0.999 * peak).float().mean() > CLIPPED)


def fingerprint(waveform: Tensor) -> str:
    """The first 16 hex digits of the SHA-256 of a mono waveform, shape (samples,), as little-endian int16."""
    return hashlib.sha256(audio.to_int16(waveform).tobytes()).hexdigest()[:16]


def write_manifest(wanted: str | Dataset, folder: Path, manifest: Path) -> None:
    """Write the manifest of the recordings in `folder`, for those who publish a data set. Raises as its reader does."""
    table = _dataset(wanted).read(folder, "real").table.sort_values("recording")
    lines = [
        f"{fingerprint(audio.read(path))}  {label}  {name}\n"
        for name, label, path in zip(table["recording"], table["label"], table["path"], strict=True)
    ]
    manifest.write_text("".join(lines), encoding="utf-8", newline="\n")


def _count(dataset: Dataset, recordings: Recordings) -> list[str]:
    problems = []
    if dataset.recordings and len(recordings) != dataset.recordings:
        problems.append(f"{len(recordings)} recordings instead of {dataset.recordings}")
    sizes = Counter(recordings.class_names[label] for label in recordings.table["label"])
    for name in sorted(sizes.keys() | dataset.class_counts.keys()) if dataset.class_counts else ():
        expected = dataset.class_counts.get(name, 0)
        if sizes[name] != expected:
            problems.append(f"class {name} has {sizes[name]} recordings instead of {expected}")
    in_group = Counter(zip(recordings.table["group"], recordings.table["label"], strict=True))
    for group, of_classes in dataset.group_counts.items():
        for label, (name, expected) in enumerate(of_classes.items()):
            if in_group[group, label] != expected:
                problems.append(f"group {group} has {in_group[group, label]} {name} recordings instead of {expected}")
    return problems


def _compare(manifest: Path, hashes: dict[str, str | None], labels: dict[str, int]) -> list[str]:
    try:
        lines = manifest.read_text(encoding="utf-8").splitlines()
        published = {name: (digest, int(label)) for digest, label, name in (line.split("  ", 2) for line in lines)}
    except (OSError, ValueError) as error:
        return [f"the manifest {manifest} cannot be read ({error}); install the course again"]
    both = [name for name in hashes if name in published]
    return (
        _listed("missing", sorted(published.keys() - hashes.keys()))
        + _listed("unknown", sorted(hashes.keys() - published.keys()))
        + _listed("different from the published ones", [n for n in both if hashes[n] not in (None, published[n][0])])
        + _listed("not labelled as published", [name for name in both if labels[name] != published[name][1]])
    )


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    return [f"{len(names)} {what}: {first_few(names)}"]


def _shorten(error: Exception, folder: Path) -> str:
    return (str(error) or type(error).__name__).replace(f"{folder}{os.sep}", "")
