"""Every recording of a data set decoded once, into one memory-mapped array of samples."""

import contextlib
import hashlib
import itertools
import json
import logging
import os
import re
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from course_lib import audio, environment, files
from course_lib.datasets.recordings import DatasetError, Recordings, cached_in, first_few

LONGEST_CLIP_S = 60
_LAYOUT = 3
_ATTEMPTS = 5
_OTHER_UNITS = 2.0  # full scale is 1; a peak over this is not just a little too loud
_verified: set[tuple[object, ...]] = set()  # the states of the caches that this process has compared with their digest
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decoded:
    """`samples` holds all recordings one after the other; recording i is `samples[offsets[i] : offsets[i + 1]]`.

    The samples are int16 where 16 bits hold all recordings, and otherwise float32. `LONGEST_CLIP_S` of silence follow
    the last recording, so that a clip that begins in any of them is one slice. `fingerprint` is a hash of names and
    samples: the same recordings have the same one on every machine.
    """

    samples: np.ndarray
    offsets: np.ndarray
    fingerprint: str


def decode(recordings: Recordings, progress: bool = True) -> Decoded:
    """Decode the recordings of a table, prepared and at its sample rate, or map what was decoded before.

    The cache is made anew when a file changes, and when the cache is damaged: the first time that a process opens it,
    the samples are compared with their fingerprint (about a second a gigabyte). Several processes may decode at once;
    the first to finish wins. Raises AudioError naming the bad files and DatasetError when the cache cannot be written;
    neither leaves anything behind.

    Notebook: 02_spoken_digits_cnn
    """
    folder = environment.cache_folder() / "decoded" / f"{cache_name(recordings)}-{_key(recordings)}"
    for _ in range(_ATTEMPTS):  # other processes may do the same at the same time
        judged = identity(folder)
        decoded = _open(folder, recordings)
        if decoded is not None:
            return decoded
        discard(folder, judged)
        with cached_in(folder.parent, f"the decoded {recordings.name}"), files.whole_folder(folder) as unfinished:
            _decode_into(recordings, unfinished, progress)
    raise DatasetError(f"{folder} cannot be read again after it was written; delete it and check the disk")


def copies(recordings: Recordings, decoded: Decoded | None = None) -> list[list[str]]:
    """The names of recordings that are one sound under several names: a list for each such sound.

    Copies on both sides of a split make a score too good. All samples must be equal; silence has no copies.

    Notebook: 02_spoken_digits_cnn
    """
    decoded = decoded or decode(recordings)
    names = recordings.table["recording"].astype(str).to_numpy(str)
    sounds = [decoded.samples[begin:end] for begin, end in itertools.pairwise(decoded.offsets)]
    # A hash only of those that have a length and some samples in common with others.
    samples_of_each = [(len(sound), sound[:: max(1, len(sound) // 64)].tobytes()) for sound in sounds]
    times = Counter(samples_of_each)
    same: dict[bytes, list[str]] = {}
    for name, sound, few in zip(names, sounds, samples_of_each, strict=True):
        if times[few] > 1 and sound.min() < sound.max():  # their difference may be beyond 16 bits
            same.setdefault(hashlib.sha256(sound).digest(), []).append(str(name))
    return [alike for alike in same.values() if len(alike) > 1]


def cache_name(recordings: Recordings) -> str:
    """The name of a data set, as a file can have it and not too long."""
    return re.sub(r"[^\w.-]+", "-", recordings.name)[:40].lstrip(".") or "recordings"


def identity(path: Path) -> tuple[int, int] | None:
    """What tells a file or folder from one that takes its name later, or None where there is none."""
    try:
        state = os.lstat(path)
    except OSError:
        return None
    return state.st_dev, state.st_ino


def discard(path: Path, judged: tuple[int, int] | None) -> None:
    """Remove a damaged cache, which is then made anew, unless another process has done so. Raises DatasetError."""
    if judged is None or identity(path) != judged:
        return
    _log.warning("%s is damaged and is made anew", path)
    try:
        files.remove(path)
    except FileNotFoundError:
        pass  # another process has removed it
    except OSError as error:
        message = f"{path} is damaged and cannot be removed ({error}); delete it, or set COURSE_CACHE to another folder"
        raise DatasetError(message) from error


def _key(recordings: Recordings) -> str:
    digest = hashlib.sha256(f"{_LAYOUT} {recordings.sample_rate}".encode())
    if recordings.preparation is not None:
        digest.update(repr(recordings.preparation).encode())
    for name, path in zip(recordings.table["recording"], recordings.table["path"], strict=True):
        try:
            state = os.stat(path)
        except OSError as error:
            raise DatasetError(f"{recordings.name}: {path} has gone ({error.strerror}); load the data again") from None
        times = f"{state.st_mtime_ns}\0{state.st_ctime_ns}"  # a copy can keep the first of them
        digest.update(f"{name}\0{path}\0{state.st_size}\0{times}\n".encode(errors="surrogatepass"))
    return digest.hexdigest()[:16]


def _open(folder: Path, recordings: Recordings) -> Decoded | None:
    """What a folder of the cache holds, or None if it is damaged. Raises DatasetError where the system is at fault."""
    try:
        about = json.loads((folder / "about.json").read_text())
        offsets = np.load(folder / "offsets.npy", allow_pickle=False)
        # Copy-on-write: torch wants arrays it could write to, and nothing ever reaches the file.
        samples = np.memmap(folder / f"samples.{about['dtype']}", np.dtype(about["dtype"]).newbyteorder("<"), mode="c")
        decoded = Decoded(samples, offsets, about["fingerprint"])
        return decoded if _is_intact(folder, decoded, recordings) else None
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except (OSError, MemoryError) as error:  # such as no permission: the cache itself may be good
        raise DatasetError(
            f"{folder} cannot be read ({error}); delete it, or set COURSE_CACHE to another folder"
        ) from error
    except Exception:  # whatever is wrong with it, it can be made again
        return None


def _is_intact(folder: Path, decoded: Decoded, recordings: Recordings) -> bool:
    states = (path.stat() for path in sorted(folder.iterdir()))
    # What changes when a file is touched, other than by reading it.
    state = folder, *((each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in states)
    if state not in _verified:
        silence = decoded.samples[decoded.offsets[-1] :]
        is_padded = len(silence) == LONGEST_CLIP_S * recordings.sample_rate and not silence.any()
        if not is_padded or decoded.offsets[0] or decoded.fingerprint != _fingerprint(recordings, decoded):
            return False
        _verified.add(state)
    return True


def _fingerprint(recordings: Recordings, decoded: Decoded) -> str:
    digest = hashlib.sha256()
    offsets = decoded.offsets.tolist()
    for name, begin, end in zip(recordings.table["recording"], offsets[:-1], offsets[1:], strict=True):
        samples = decoded.samples[begin:end]
        digest.update(f"{name}\0{samples.nbytes}\0".encode(errors="surrogatepass"))
        digest.update(samples)
    return digest.hexdigest()[:16]


def _decode_into(recordings: Recordings, folder: Path, progress: bool) -> None:
    """Write the samples as int16 and, from the first recording on that 16 bits do not hold, all of them as float32."""
    bad: list[audio.AudioError] = []
    loud: list[str] = []
    offsets = [0]
    path, dtype = folder / "samples.int16", np.dtype("<i2")
    names = recordings.table["recording"]
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(path, "wb"))
        rows = tqdm(_encoded(recordings), f"decoding {recordings.name}", len(names), disable=not progress, delay=2)
        silence = np.zeros(LONGEST_CLIP_S * recordings.sample_rate, "<i2")
        for name, samples in itertools.chain(zip(names, rows, strict=True), [("", silence)]):
            if isinstance(samples, audio.AudioError):
                bad.append(samples)
                continue
            if samples.dtype.kind == "f" and dtype.kind == "i":
                file.close()
                dtype, file = np.dtype("<f4"), stack.enter_context(open(folder / "samples.float32", "wb"))
                for begin in range(0, offsets[-1], 1 << 23):
                    file.write(_as_float(np.fromfile(path, "<i2", 1 << 23, offset=2 * begin)))
                path.unlink()
            file.write(samples if samples.dtype == dtype else _as_float(samples))
            offsets.append(offsets[-1] + len(samples))
            if samples.dtype.kind == "f" and np.abs(samples).max() > _OTHER_UNITS:
                loud.append(str(name))
    if bad:
        raise audio.AudioError(first_few(bad, "; "))
    if loud:
        _log.warning("%s: far beyond full scale, which is 1: %s; rescale them", recordings.name, first_few(loud))
    positions = np.array(offsets[:-1], dtype=np.int64)
    np.save(folder / "offsets.npy", positions)
    samples = np.memmap(folder / f"samples.{dtype.name}", dtype, mode="r")
    about = {"fingerprint": _fingerprint(recordings, Decoded(samples, positions, "")), "dtype": dtype.name}
    (folder / "about.json").write_text(json.dumps(about))


def _as_float(samples: np.ndarray) -> np.ndarray:
    return samples.astype("<f4") / np.float32(32768)


def _encoded(recordings: Recordings) -> Iterator[np.ndarray | audio.AudioError]:
    """The samples of each recording, int16 or float32, or what is wrong with it, in order; several at once."""

    def encode(path: str) -> np.ndarray | audio.AudioError:
        try:
            waveform = recordings.read(path)
            if waveform.ndim != 1 or len(waveform) == 0 or not waveform.isfinite().all():
                shape = tuple(waveform.shape)
                raise audio.AudioError(f"{path}: its preparation gives no finite waveform (samples,) but {shape}")
            return audio.to_int16(waveform) if audio.fits_int16(waveform) else waveform.numpy().astype("<f4")
        except audio.AudioError as error:
            return error

    # Threads: libsndfile and SciPy let go of Python's lock. A few at a time, or they would run ahead of the disk.
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[np.ndarray | audio.AudioError]] = deque()
        for path in recordings.table["path"]:
            pending.append(pool.submit(encode, path))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
