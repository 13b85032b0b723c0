"""Whether the recordings on disk are the published ones, sample by sample.

A manifest is a text file with a line `HASH  LABEL  RECORDING` for every recording, sorted by recording.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from pathlib import Path

from torch import Tensor
from tqdm.auto import tqdm

from course_lib import audio, environment
from course_lib.datasets.catalogue import Entry, entry
from course_lib.datasets.recordings import DatasetError, LayoutError, Recordings, first_few


def check(wanted: str | Entry, folder: Path | None = None, progress: bool = True, samples: bool = True) -> list[str]:
    """List what is wrong with a data set, given by name or as an entry; the list is empty when all is well.

    `folder` is the data set's own folder, `COURSE_DATA/name` unless given. Compares the number of recordings, the
    size of the classes, every sample rate (Hz) and, with the manifest, the label and the samples of every recording;
    tells flat lines and what is too short to be of use. `samples=False` leaves the manifest out, for an archive that a
    checksum vouches for. Bad data never raise; an unknown name raises DatasetError.

    Notebook: 02_spoken_digits_cnn
    """
    known = wanted if isinstance(wanted, Entry) else entry(wanted)
    folder = environment.data_folder() / known.name if folder is None else folder
    if not folder.is_dir():
        return [f"{folder} does not exist; run: python -m course_lib data fetch {known.name}"]
    problems: list[str] = []
    try:
        recordings = known.read(folder, "real")
    except LayoutError as error:
        problems += error.problems
        if error.sound is None:
            return problems
        recordings = error.sound
    except (DatasetError, OSError, ValueError, LookupError) as error:
        return [_shorten(error, folder)]
    problems += _count(known, recordings) + known.differences(recordings)
    hashes, rates, unreadable, flat, short = {}, [], [], [], []
    rows = zip(recordings.table["recording"], recordings.table["path"], strict=True)
    for name, path in tqdm(rows, f"checking {known.name}", len(recordings), disable=not progress, delay=2):
        try:
            rate = audio.rate(path)
            if rate != known.sample_rate:
                rates.append(f"{name} ({rate} Hz)")
            waveform = audio.read(path)
            hashes[name] = fingerprint(waveform)
            if waveform.min() == waveform.max():
                flat.append(name)
            if len(waveform) < known.shortest_s * rate:
                short.append(f"{name} ({len(waveform) / rate:.2f} s)")
        except (audio.AudioError, OSError) as error:
            hashes[name] = None
            unreadable.append(f"{name} ({_shorten(error, folder)})")
    problems += _listed(f"not at {known.sample_rate} Hz", rates) + _listed("unreadable", unreadable)
    problems += _listed("flat lines", flat) + _listed(f"shorter than {known.shortest_s:g} s", short)
    labels = dict(zip(recordings.table["recording"], recordings.table["label"], strict=True))
    return problems + (_compare(known, hashes, labels) if samples else [])


def fingerprint(waveform: Tensor) -> str:
    """The first 16 hex digits of the SHA-256 of a mono waveform, shape (samples,), as little-endian int16."""
    return hashlib.sha256(audio.to_int16(waveform).tobytes()).hexdigest()[:16]


def write_manifest(wanted: str | Entry, folder: Path, manifest: Path) -> None:
    """Write the manifest of the recordings in `folder`, for those who publish a data set. Raises as its reader does."""
    known = wanted if isinstance(wanted, Entry) else entry(wanted)
    table = known.read(folder, "real").table.sort_values("recording")
    lines = [
        f"{fingerprint(audio.read(path))}  {label}  {name}\n"
        for name, label, path in zip(table["recording"], table["label"], table["path"], strict=True)
    ]
    manifest.write_text("".join(lines), encoding="utf-8", newline="\n")


def _count(known: Entry, recordings: Recordings) -> list[str]:
    problems = []
    if len(recordings) != known.recordings:
        problems.append(f"{len(recordings)} recordings instead of {known.recordings}")
    found = Counter(recordings.class_names[label] for label in recordings.table["label"])
    for name in sorted(found.keys() | known.class_counts.keys()):
        expected = known.class_counts.get(name, 0)
        if found[name] != expected:
            problems.append(f"class {name} has {found[name]} recordings instead of {expected}")
    in_group = Counter(zip(recordings.table["group"], recordings.table["label"], strict=True))
    for group, counts in known.group_counts.items():
        for label, (name, expected) in enumerate(counts.items()):
            if in_group[group, label] != expected:
                problems.append(f"group {group} has {in_group[group, label]} {name} recordings instead of {expected}")
    return problems


def _compare(known: Entry, hashes: dict[str, str | None], labels: dict[str, int]) -> list[str]:
    manifest = Path(__file__).parent / known.manifest
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
