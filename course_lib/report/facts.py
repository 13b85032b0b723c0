"""What a folder of class folders holds: every sound file read once, a part at a time."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from course_lib import CourseError, audio, environment
from course_lib.clips import Clips
from course_lib.datasets import Recordings, listing
from course_lib.datasets.clipping import Tops
from course_lib.datasets.folder import SIDES
from course_lib.datasets.recordings import is_utf8

SILENT_DB = -60.0  # of full scale: a quiet room in most recordings
HIGHEST_RATE = 22_050  # of what a network gets, unless the recordings are of ultrasound
_ULTRASOUND = 48_000
_SHORTEST_CLIP_S, _LONGEST_CLIP_S = 0.2, 4.0
_MOST_CLIPS_EACH = 60
_SOME = 0.1  # of the recordings of a class
_PART = 2**20  # numbers in a part of a file, about
_SMALLEST = 1e-12


class ReportError(CourseError):
    """No report can be made; the message says why and what to do."""


@dataclass
class Found:
    """The sound files of a folder: `files` (name, class, side of a split or "", group folder or ""), and the rest.

    `problems` maps the name of what cannot be read to the reason.
    """

    files: list[tuple[str, str, str, str]] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    problems: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """What was found and measured. `table` has a row for each recording that can be read.

    Its columns: recording, path, label, class, side, folder (the group folder, or ""), rate (Hz), channels, seconds,
    coding, rms and peak (dB of full scale), dc (of full scale), silence (share of the time), clipped, flat, cancels
    (the channels, each other), beyond (the peak, where full scale is 1) and fingerprint. `clips` are excerpts for a
    network, in mono, at one rate, each as loud as the others; `windows` the number of them of each recording.
    """

    folder: Path
    class_names: tuple[str, ...]
    table: pd.DataFrame
    clips: Clips
    found: Found

    @property
    def clip_seconds(self) -> float:
        """The length of the excerpts."""
        return self.clips.clip_samples / self.clips.sample_rate

    def recordings(self, groups: Iterable[str]) -> Recordings:
        """The recordings with these groups, as the rest of the course takes them."""
        table = self.table[["recording", "path", "label"]].assign(group=list(groups))
        return Recordings(self.folder.name, table, self.class_names, self.clips.sample_rate, "real")


def find(folder: Path) -> Found:
    """The sound files of `folder/{class}/**`, or `folder/{train, test}/{class}/**`, links followed.

    What is damaged is noted; the rest goes on. Raises ReportError for what is no folder, or has no two classes.
    """
    if not folder.is_dir():
        raise ReportError(f"{folder} is not a folder; name one that holds a folder of sounds for each class")
    found, seen, paths = Found(), set(), []

    def note(error: OSError) -> None:
        found.problems[_name(Path(error.filename), folder)] = f"cannot be listed ({error.strerror})"

    for where, below, files in os.walk(folder, onerror=note, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            found.problems[_name(Path(where), folder)] = "is a link to a folder that was read already"
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not listing.hidden(Path(name)))
        paths += [Path(where, name) for name in sorted(files) if not listing.hidden(Path(name))]
        if Path(where) == folder:
            top = list(below)
    if folder.as_posix() in found.problems or "." in found.problems:
        raise ReportError(f"{folder} cannot be listed; make it readable")
    sides = {name: SIDES[name.lower()] for name in top if name.lower() in SIDES}
    if len(set(sides.values())) < 2:  # "train" alone may be a class, beside tram and bus
        sides = {}
    for path in paths:
        _add(found, path, folder, sides)
    empty = () if sides else [name for name in top if name not in {each[1] for each in found.files}]
    found.problems |= {name: "holds no sound file" for name in empty if name not in found.problems}
    found.classes = sorted({each[1] for each in found.files})
    if not found.files:
        others = f" (only {', '.join(found.left_out)})" if found.left_out else ""
        where = "; the sounds of each class go into a folder of its own" if found.loose else ""
        endings = ", ".join(listing.ENDINGS)
        raise ReportError(f"{folder} holds no class folder with {endings} files{others}{where}")
    if len(found.classes) < 2:
        raise ReportError(
            f"{folder} holds one class only, {found.classes[0]}; a report needs two class folders with sounds at least"
        )
    return found


def _add(found: Found, path: Path, folder: Path, sides: dict[str, str]) -> None:
    ending, name = path.suffix.lower(), path.relative_to(folder).as_posix()
    if ending not in listing.ENDINGS + listing.OTHER_ENDINGS:
        return
    side, *below = name.split("/") if sides else ("", *name.split("/"))
    if not is_utf8(name):
        found.problems[ascii(name)] = "has a name that is not UTF-8; rename it"
    elif ending in listing.OTHER_ENDINGS:
        found.left_out[ending[1:].upper()] += 1
    elif len(below) < 2 or (sides and side not in sides):
        found.loose.append(name)
    elif not path.is_file():
        found.problems[name] = "is a link that leads nowhere" if path.is_symlink() else "is no file"
    else:
        found.files.append((name, below[0], sides.get(side, ""), below[1] if len(below) > 2 else ""))


def read(folder: Path, progress: bool = True) -> Facts:
    """Find the recordings of a folder and measure each. Raises ReportError where there is nothing to compare."""
    folder = folder.expanduser().resolve()
    found = find(folder)
    rows = []
    for name, of_class, side, group in tqdm(found.files, "looking into the files", disable=not progress, delay=2):
        try:
            header = audio.header(folder / name)
        except audio.AudioError as error:
            found.problems[name] = reason(error, folder / name)
            continue
        rows.append({"recording": name, "class": of_class, "side": side, "folder": group, "header": header})
    _require_some(folder, found, rows)
    excerpts = _Excerpts(pd.DataFrame(rows))
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # libsndfile and NumPy let go of Python's lock
        jobs = [pool.submit(_measured, folder, number, row, excerpts) for number, row in enumerate(rows)]
        try:
            bar = tqdm(zip(rows, jobs, strict=True), "reading the sounds", len(rows), disable=not progress, delay=2)
            for row, job in bar:
                measured = job.result()
                if isinstance(measured, str):
                    found.problems[row["recording"]] = measured
                row["measured"] = measured
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    kept = np.array([isinstance(row["measured"], dict) for row in rows])
    rows = [row for row, keep in zip(rows, kept, strict=True) if keep]
    _require_some(folder, found, rows)
    class_names = tuple(sorted({row["class"] for row in rows}))
    found.problems |= {name: "none of its files can be read" for name in found.classes if name not in class_names}
    table = pd.DataFrame([_row(folder, row, class_names) for row in rows])
    return Facts(folder, class_names, table, excerpts.clips(kept, table), found)


def _require_some(folder: Path, found: Found, rows: list[dict[str, Any]]) -> None:
    classes = Counter(row["class"] for row in rows)
    if not rows:
        name, why = next(each for each in found.problems.items() if each[0] in {file[0] for file in found.files})
        raise ReportError(f"none of the {len(found.files)} sound files of {folder} can be read; {name}: {why}")
    if len(classes) < 2:
        raise ReportError(
            f"{folder}: only {next(iter(classes))} has files that can be read; a report needs two classes"
        )
    if max(classes.values()) < 2:
        raise ReportError(f"{folder} holds one recording of each class; a report compares recordings, so add more")


def _row(folder: Path, row: dict[str, Any], class_names: tuple[str, ...]) -> dict[str, Any]:
    header: audio.Header = row["header"]
    lossy = header.container in ("MP3", "OGG")
    coding = header.container.replace("WAVEX", "WAV") if lossy else f"{header.container} {header.encoding}"
    return {
        "recording": row["recording"],
        "path": str(folder / row["recording"]),
        "label": class_names.index(row["class"]),
        **{key: row[key] for key in ("class", "side", "folder")},
        "rate": header.sample_rate,
        "channels": header.channels,
        "seconds": header.samples / header.sample_rate,
        "coding": coding,
        **row["measured"],
    }


def _measured(folder: Path, number: int, row: dict[str, Any], excerpts: "_Excerpts") -> dict[str, Any] | str:
    """What is measured of one recording, whose excerpts are kept; or the reason why it cannot be read."""
    try:
        return _measure(folder / row["recording"], row["header"], excerpts.collector(number))
    except audio.AudioError as error:
        return reason(error, folder / row["recording"])


def _measure(path: Path, header: audio.Header, collect: "_Collector") -> dict[str, Any]:
    frame = max(1, header.sample_rate // 20)  # 50 ms
    size = frame * max(1, _PART // (frame * header.channels))
    digest, tops, samples = hashlib.sha256(), Tops(header.encoding), 0
    total, squares, of_mean, mean_squares = np.zeros(header.channels), np.zeros(header.channels), 0.0, 0.0
    lowest, highest, silent = np.inf, -np.inf, 0
    for part in audio.parts(path, size):
        values = part.numpy()
        mono = values.mean(axis=0)
        digest.update(audio.to_int16(part.T).tobytes())
        tops.add(values)
        lowest, highest = min(lowest, float(values.min())), max(highest, float(values.max()))
        total += values.sum(axis=1, dtype=np.float64)
        squares += np.square(values, dtype=np.float64).sum(axis=1)
        of_mean += float(mono.sum(dtype=np.float64))
        mean_squares += float(np.square(mono, dtype=np.float64).sum())
        silent += _silent(values, frame)
        collect(samples, mono)
        samples += values.shape[1]
    collect.finish()
    power = squares / samples - (total / samples) ** 2
    power_of_mean = mean_squares / samples - (of_mean / samples) ** 2
    peak = max(highest, -lowest)
    return {
        "rms": 10 * np.log10(max(power.mean(), _SMALLEST)),
        "peak": 20 * np.log10(max(peak, _SMALLEST)),
        "dc": float((total / samples)[np.abs(total).argmax()]),
        "silence": silent / samples,
        "clipped": tops.clipped,
        "flat": lowest == highest,
        "cancels": audio.cancel(power, power_of_mean),
        "beyond": peak,
        "fingerprint": digest.hexdigest()[:16],
    }


def _silent(values: np.ndarray, frame: int) -> int:
    """How many samples of a part (channels, samples) lie in frames whose power is below that of silence."""
    whole = values.shape[1] // frame * frame
    frames = [values[:, :whole].reshape(len(values), -1, frame), values[:, None, whole:]]
    limit = 10 ** (SILENT_DB / 10)
    return sum(
        int((each.var(axis=2, dtype=np.float64).mean(axis=0) < limit).sum()) * each.shape[2]
        for each in frames
        if each.shape[2]
    )


class _Excerpts:
    """Where the excerpts of all recordings lie, and the memory that they are kept in: a fixed number of samples."""

    def __init__(self, rows: pd.DataFrame) -> None:
        rates = rows["header"].map(lambda header: header.sample_rate)
        self.seconds = rows["header"].map(lambda header: header.samples / header.sample_rate).to_numpy()
        # What only some recordings have, high frequencies, is taken from all.
        shares = pd.crosstab(rows["class"], rates, normalize="index").max()
        self.rate = int(shares.index[shares >= _SOME].min())
        if HIGHEST_RATE < self.rate <= _ULTRASOUND:
            self.rate = HIGHEST_RATE
        longest = np.ceil(10 * np.quantile(self.seconds, 0.9)) / 10
        self.clip = round(self.rate * float(np.clip(longest, _SHORTEST_CLIP_S, _LONGEST_CLIP_S)))
        most = max(2, environment.by_profile(smoke=2**23, laptop=2**27) // self.clip)
        self.counts = self._counts(rows["class"].to_numpy(), most)
        lengths = np.minimum(np.ceil(self.seconds * self.rate).astype(int), self.clip)
        self.first = np.concatenate([[0], np.cumsum(self.counts * lengths)])
        self.lengths, self.headers = lengths, rows["header"].tolist()
        self.samples = np.zeros(self.first[-1] + self.clip, "<i2")

    def _counts(self, classes: np.ndarray, most: int) -> np.ndarray:
        """How many excerpts of each recording; none of some where there is no room for one of each."""
        if len(classes) <= most:
            fitting = np.floor(self.seconds * self.rate / self.clip).astype(int)
            return np.clip(fitting, 1, min(_MOST_CLIPS_EACH, most // len(classes)))
        draw, counts = np.random.default_rng(0), np.zeros(len(classes), dtype=int)
        names = np.unique(classes)
        for name in names:
            rows = np.flatnonzero(classes == name)
            counts[draw.permutation(rows)[: max(1, most // len(names))]] = 1
        return counts

    def starts(self, number: int) -> np.ndarray:
        """Where the excerpts of a recording start, in seconds; the first at its beginning."""
        last = max(0.0, self.seconds[number] - self.clip / self.rate)
        return np.linspace(0, last, self.counts[number])

    def collector(self, number: int) -> "_Collector":
        header, length = self.headers[number], self.lengths[number]
        places = self.first[number] + length * np.arange(self.counts[number])
        targets = [self.samples[place : place + length] for place in places]
        return _Collector(header.sample_rate, self.rate, self.starts(number), targets, self.clip / self.rate)

    def clips(self, kept: np.ndarray, table: pd.DataFrame) -> Clips:
        """The excerpts of those recordings that could be read, which are the rows of the table."""
        numbers = np.repeat(np.arange(len(kept)), self.counts)
        within = np.concatenate([np.arange(count) for count in self.counts])
        start = self.first[numbers] + within * self.lengths[numbers]
        row = np.cumsum(kept) - 1
        chosen = kept[numbers]
        recording = row[numbers[chosen]]
        return Clips(
            samples=torch.from_numpy(self.samples),
            start=torch.from_numpy(start[chosen]),
            length=torch.from_numpy(self.lengths[numbers[chosen]]),
            labels=torch.from_numpy(table["label"].to_numpy(dtype=np.int64)[recording]),
            groups=torch.zeros(len(recording), dtype=torch.int64),
            recording=torch.from_numpy(recording),
            group_names=("",),
            clip_samples=self.clip,
            sample_rate=self.rate,
            fingerprint=hashlib.sha256("".join(table["fingerprint"]).encode()).hexdigest()[:16],
        )


class _Collector:
    """Takes the excerpts of one recording out of its parts, and brings them to the rate and the level of all."""

    def __init__(
        self, from_rate: int, rate: int, starts: np.ndarray, targets: list[np.ndarray], seconds: float
    ) -> None:
        self.from_rate, self.rate, self.targets = from_rate, rate, targets
        self.begins = np.round(starts * from_rate).astype(int)
        self.length = int(np.ceil(seconds * from_rate))
        self.pieces: list[list[np.ndarray]] = [[] for _ in targets]

    def __call__(self, position: int, mono: np.ndarray) -> None:
        for begin, pieces in zip(self.begins, self.pieces, strict=True):
            piece = mono[max(0, begin - position) : max(0, begin + self.length - position)]
            if len(piece):
                pieces.append(piece)

    def finish(self) -> None:
        for pieces, target in zip(self.pieces, self.targets, strict=True):
            excerpt = audio.resample(torch.from_numpy(np.concatenate(pieces)), self.from_rate, self.rate)
            excerpt = audio.fix_length(excerpt, len(target))
            target[:] = audio.to_int16(0.5 * excerpt / excerpt.abs().max().clamp(min=_SMALLEST))


def reason(error: Exception, path: Path) -> str:
    """What is wrong with a file, without its path."""
    return str(error).replace(f"{path} ", "").replace(f"{path}: ", "")


def _name(path: Path, folder: Path) -> str:
    return (
        ascii(path.as_posix()) if not is_utf8(path.as_posix()) else os.path.relpath(path, folder).replace(os.sep, "/")
    )


def alike(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pairs of names that some disks, or people, do not tell apart."""
    first: dict[str, str] = {}
    for name in sorted(names):
        other = first.setdefault(name.casefold().strip(), name)
        if other != name:
            yield other, name
