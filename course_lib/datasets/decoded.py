"""Every recording of a data set decoded once, into one memory-mapped array of int16 samples."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from course_lib import audio, environment
from course_lib.datasets.recordings import DatasetError, Recordings, first_few

LONGEST_CLIP_S = 60
_LAYOUT = 2
_AT_ONCE = 64


@dataclass(frozen=True)
class Decoded:
    """`samples` holds all recordings one after the other; recording i is `samples[offsets[i] : offsets[i + 1]]`.

    `LONGEST_CLIP_S` of silence follow the last one, so that a clip that begins in any recording is one slice.

    `fingerprint` is a hash of names and samples: the same recordings have the same one on every machine.
    """

    samples: np.ndarray
    offsets: np.ndarray
    fingerprint: str


def decode(recordings: Recordings, progress: bool = True) -> Decoded:
    """Decode the recordings of a table, prepared and at its sample rate, or map what was decoded before.

    The cache is made anew when a file changes. Two processes may do this at once: the first to finish wins.
    Raises AudioError naming the bad files and DatasetError when the cache cannot be written; neither leaves anything
    behind.

    Notebook: 02_spoken_digits_cnn
    """
    kept = environment.cache_folder() / "decoded" / f"{recordings.name}-{_key(recordings)}"
    if not (kept / "about.json").is_file():
        _write(recordings, kept, progress)
    about = json.loads((kept / "about.json").read_text())
    # Copy-on-write: torch wants arrays it could write to, and nothing ever reaches the file.
    samples = np.memmap(kept / "samples.int16", dtype="<i2", mode="c")
    return Decoded(samples, np.load(kept / "offsets.npy"), about["fingerprint"])


def _key(recordings: Recordings) -> str:
    digest = hashlib.sha256(f"{_LAYOUT} {recordings.sample_rate}".encode())
    if recordings.preparation is not None:
        digest.update(repr(recordings.preparation).encode())
    for name, path in zip(recordings.table["recording"], recordings.table["path"], strict=True):
        try:
            state = os.stat(path)
        except OSError as error:
            raise DatasetError(f"{recordings.name}: {path} has gone ({error.strerror}); load the data again") from None
        digest.update(f"{name}\0{path}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _write(recordings: Recordings, kept: Path, progress: bool) -> None:
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{kept.name}-", dir=kept.parent))
    except OSError as error:
        raise DatasetError(f"cannot write to {kept.parent} ({error}); set COURSE_CACHE to a folder you own") from error
    try:
        _decode_into(recordings, unfinished, progress)
        os.rename(unfinished, kept)
    except OSError as error:
        if not (kept / "about.json").is_file():  # else another process finished first
            raise DatasetError(f"cannot write the decoded {recordings.name} to {kept.parent}: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _decode_into(recordings: Recordings, folder: Path, progress: bool) -> None:
    digest = hashlib.sha256()
    offsets = [0]
    bad: list[audio.AudioError] = []
    rows = zip(recordings.table["recording"], _encoded(recordings), strict=True)
    with open(folder / "samples.int16", "wb") as file:
        for name, samples in tqdm(rows, f"decoding {recordings.name}", len(recordings), disable=not progress, delay=2):
            if isinstance(samples, audio.AudioError):
                bad.append(samples)
                continue
            file.write(samples)
            digest.update(f"{name}\0{len(samples)}\0".encode() + samples)
            offsets.append(offsets[-1] + len(samples) // 2)
        file.truncate(file.tell() + 2 * LONGEST_CLIP_S * recordings.sample_rate)
    if bad:
        raise audio.AudioError(first_few(bad, "; "))
    np.save(folder / "offsets.npy", np.array(offsets, dtype=np.int64))
    about = {"fingerprint": digest.hexdigest()[:16], "sample_rate": recordings.sample_rate}
    (folder / "about.json").write_text(json.dumps(about))


def _encoded(recordings: Recordings) -> Iterator[bytes | audio.AudioError]:
    """The int16 samples of each recording, or what is wrong with it, in order; several are decoded at once."""

    def encode(path: str) -> bytes | audio.AudioError:
        try:
            return audio.to_int16(recordings.read(path)).tobytes()
        except audio.AudioError as error:
            return error

    paths = recordings.table["path"].tolist()
    # Threads: libsndfile and SciPy let go of Python's lock. A few at a time, or they would run ahead of the disk.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), _AT_ONCE):
            yield from pool.map(encode, paths[start : start + _AT_ONCE])
