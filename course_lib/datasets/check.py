"""Whether the recordings on disk are the published ones, sample by sample; and what is wrong with one's own.

A manifest is a text file with a line `HASH  LABEL  RECORDING` for every recording, sorted by recording.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from torch import Tensor
from tqdm.auto import tqdm

from course_lib import audio
from course_lib.datasets.clipping import is_clipped
from course_lib.datasets.dataset import Dataset
from course_lib.datasets.recordings import DatasetError, LayoutError, Recordings, listed

MOST_GROUPS = 20


def check(
    wanted: str | Dataset,
    folder: Path | None = None,
    progress: bool = True,
    samples: bool = True,
    show: Callable[[Recordings], None] = lambda _: None,
) -> list[str]:
    """List what is wrong with a data set, given by name, by the path of a folder or as a Dataset; empty: all is well.

    `folder` is where it is, its own place unless given. Compares with the catalogue the size of the classes,
    every sample rate (Hz) and, with a manifest, the label and the samples of every recording; lists
    flat lines and what is too short to be of use. Of one's own sounds it lists clipped recordings and copies of one
    recording too. `samples=False` leaves the manifest out, for an archive that a checksum verifies. `show`
    is called with the recordings once they are listed. Bad data never raise; an unknown name raises DatasetError.

    Notebook: 02_spoken_digits_cnn
    """
    from course_lib.datasets import catalogue  # which imports the data sets, and they what they need

    dataset = catalogue.get(wanted)
    folder = folder or dataset.folder
    if not folder.is_dir():
        return [f"{folder} does not exist; run: python -m course_lib data fetch {dataset.name}"]
    try:
        recordings, problems = dataset.read(folder, "real"), []
    except LayoutError as error:
        recordings, problems = error.sound, list(error.problems)
    except (DatasetError, OSError, ValueError, LookupError) as error:
        recordings, problems = None, [_shorten(error, folder)]
    if recordings is None:
        return problems
    show(recordings)
    problems += _count(dataset, recordings) + dataset.differences(recordings)
    is_own = dataset.manifest is None and not dataset.archives
    expected_rate = dataset.sample_rate or recordings.sample_rate
    hashes: dict[str, str] = {}
    rates, unreadable, flat, short, clipped = [], [], [], [], []
    table = recordings.table
    rows = zip(table["recording"], table["path"], strict=True)
    for name, path in tqdm(rows, f"checking {recordings.name}", len(table), disable=not progress, delay=2):
        try:
            rate, waveform = audio.rate(path), audio.read(path)
        except (audio.AudioError, OSError) as error:
            unreadable.append(f"{name} ({_shorten(error, folder)})")
            continue
        hashes[name] = fingerprint(waveform)
        if rate != expected_rate:
            rates.append(f"{name} ({rate} Hz)")
        if waveform.min() == waveform.max():
            flat.append(name)
        elif is_own and is_clipped(waveform):
            clipped.append(name)
        if len(waveform) < dataset.shortest_s * rate:
            short.append(f"{name} ({len(waveform) / rate:.2f} s)")
    problems += _counted(f"not at {expected_rate} Hz", rates) + _counted("unreadable", unreadable)
    problems += _counted("flat lines", flat) + _counted(f"shorter than {dataset.shortest_s:g} s", short)
    problems += _counted("clipped", clipped)
    if is_own:
        names_of: dict[str, list[str]] = {}
        for name in sorted(hashes.keys() - set(flat)):
            names_of.setdefault(hashes[name], []).append(name)
        same = sorted(" = ".join(names) for names in names_of.values() if len(names) > 1)
        return problems + _counted("there under several names", same)
    return problems + (_compare(dataset.manifest, recordings, hashes) if samples and dataset.manifest else [])


def counts(recordings: Recordings) -> pd.DataFrame:
    """How many recordings of each class there are, in each group (up to twenty of them) and in all.

    Notebook: 02_spoken_digits_cnn
    """
    table = recordings.table
    names = table["label"].map(dict(enumerate(recordings.class_names)))
    counted = pd.crosstab(table["group"], names).reindex(columns=recordings.class_names, fill_value=0)
    total = counted.sum().rename("all").to_frame().T
    return pd.concat([counted, total]) if len(counted) <= MOST_GROUPS else total


def fingerprint(waveform: Tensor) -> str:
    """The first 16 hex digits of the SHA-256 of a mono waveform, shape (samples,), as little-endian int16."""
    return hashlib.sha256(audio.to_int16(waveform).tobytes()).hexdigest()[:16]


def write_manifest(dataset: Dataset, folder: Path, manifest: Path) -> None:
    """Write the manifest of the recordings in `folder`, for those who publish a data set. Raises as its reader does."""
    table = dataset.read(folder, "real").table.sort_values("recording")
    lines = [
        f"{fingerprint(audio.read(path))}  {label}  {name}\n"
        for name, label, path in zip(table["recording"], table["label"], table["path"], strict=True)
    ]
    manifest.write_text("".join(lines), encoding="utf-8", newline="\n")


def _count(dataset: Dataset, recordings: Recordings) -> list[str]:
    expected, sizes = (
        dataset.class_counts,
        Counter(recordings.class_names[label] for label in recordings.table["label"]),
    )
    if not expected:
        return []
    total = sum(expected.values())
    problems = [f"{len(recordings)} recordings instead of {total}"] if len(recordings) != total else []
    return problems + [
        f"class {name} has {sizes[name]} recordings instead of {expected.get(name, 0)}"
        for name in sorted(sizes.keys() | expected.keys())
        if sizes[name] != expected.get(name, 0)
    ]


def _compare(manifest: Path, recordings: Recordings, hashes: dict[str, str]) -> list[str]:
    try:
        lines = manifest.read_text(encoding="utf-8").splitlines()
        published = {name: (digest, int(label)) for digest, label, name in (line.split("  ", 2) for line in lines)}
    except (OSError, ValueError) as error:
        return [f"the manifest {manifest} cannot be read ({error}); install the course again"]
    labels = dict(zip(recordings.table["recording"], recordings.table["label"], strict=True))
    both = [name for name in labels if name in published]
    other_samples = [name for name in both if name in hashes and hashes[name] != published[name][0]]
    return (
        _counted("missing", sorted(published.keys() - labels.keys()))
        + _counted("unknown", sorted(labels.keys() - published.keys()))
        + _counted("different from the published ones", other_samples)
        + _counted("not labelled as published", [name for name in both if labels[name] != published[name][1]])
    )


def _counted(what: str, names: list[str]) -> list[str]:
    return listed(f"{len(names)} {what}", names)


def _shorten(error: Exception, folder: Path) -> str:
    return (str(error) or type(error).__name__).replace(f"{folder}{os.sep}", "")
