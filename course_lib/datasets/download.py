"""Fetching a data set: download, unpack, check, and only then move it into place."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path, PureWindowsPath

import pooch
import requests
from tqdm.auto import tqdm

from course_lib import environment, files
from course_lib.datasets.check import check
from course_lib.datasets.dataset import Dataset
from course_lib.datasets.recordings import DatasetError, first_few

ATTEMPTS = 3
SLOWEST = 10_000  # bytes a second, over four times the longest silence
# What is downloaded and what comes out of it, at most, in sizes of the catalogue; and how many files.
MOST_DOWNLOADED, MOST_UNPACKED, MOST_FILES = 2, 4, 500_000
USUALLY_UNPACKED = 1.5
MEGABYTE = 1_000_000

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
_BROKEN = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


def fetch(wanted: str | Dataset, progress: bool = True, timeout: float = 15.0) -> Path:
    """Download a data set, given by name or as a Dataset, and return its folder.

    A folder that is already there is returned as it is. Otherwise the folder appears whole and checked, or not at all.
    Of several archives those that are complete wait beside it, so that the next attempt goes on where this one
    stopped. An archive is verified by a checksum in its address, in SHA256SUMS.txt beside it or of the repository;
    where there is none the samples of every recording are compared. `timeout` is the longest silence in seconds.
    Raises DatasetError when `COURSE_OFFLINE` is set, where space is too short, for failed, slow and endless downloads,
    for archives that are damaged, unsafe, too large or not the data set of the catalogue, and when nothing can be
    written.

    Notebook: 02_spoken_digits_cnn
    """
    dataset = wanted if isinstance(wanted, Dataset) else _by_name(wanted)
    target = dataset.folder
    archives = target.with_name(f".{target.name}-archives")
    if target.is_dir():
        shutil.rmtree(archives, ignore_errors=True)  # of an attempt that something else has overtaken
        return target
    if not dataset.archives or dataset.megabytes <= 0:
        raise DatasetError(f"{dataset.name} has no archives of a known size to download; put it into {target}")
    if environment.offline():
        raise DatasetError(
            f"COURSE_OFFLINE forbids fetching {dataset.name}; unset it, or put the data set into {target}"
        )
    worth_keeping = len(dataset.archives) > 1
    try:
        with files.whole_folder(target) as folder:
            _require_space(dataset, folder, archives, progress)
            verified = [_archive(dataset, address, archives, folder, progress, timeout) for address in dataset.archives]
            try:
                _fill(dataset, archives, folder, progress, all(verified))
            except DatasetError:  # archives that are not right would not be right the next time either
                worth_keeping = False
                raise
        worth_keeping = False
    except OSError as error:
        if not target.is_dir():  # another process may have finished first
            raise DatasetError(
                f"cannot write {dataset.name} to {target.parent} ({error}); "
                "free some space there, or set COURSE_DATA to a folder you can write to"
            ) from error
    finally:
        if not worth_keeping:
            shutil.rmtree(archives, ignore_errors=True)
    return target


def _by_name(name: str) -> Dataset:
    from course_lib.datasets import catalogue  # which imports the data sets, as they do what they need

    return catalogue.get(name)


def _require_space(dataset: Dataset, folder: Path, archives: Path, progress: bool) -> None:
    needed = round(dataset.megabytes * (1 + USUALLY_UNPACKED) - _size(archives) / MEGABYTE)
    if progress:
        tqdm.write(f"{dataset.title}: {dataset.megabytes} MB to download, {needed} MB of disk needed", sys.stderr)
    free = shutil.disk_usage(folder).free // MEGABYTE
    if free < needed:
        raise DatasetError(
            f"{dataset.name} needs about {needed} MB in {folder.parent}, and {free} MB are free; "
            "free some space there, or set COURSE_DATA to a folder on a larger disk"
        )


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir()) if folder.is_dir() else 0


def _file(address: str, archives: Path) -> Path:
    return archives / hashlib.sha256(address.encode()).hexdigest()[:16]


def _archive(dataset: Dataset, address: str, archives: Path, folder: Path, progress: bool, timeout: float) -> bool:
    """Put one archive among the complete ones, if it is not there; whether a checksum has verified it."""
    plain, _, checksum = address.partition("#")
    checksum = checksum.replace("=", ":")
    complete, unfinished = _file(address, archives), folder / "archive"
    if plain.startswith("doi:") and not checksum:
        checksum = _patiently(plain, timeout, lambda: _watched(lambda: _registered_checksum(plain), timeout))
    elif checksum == "sha256sums":
        checksum = _listed_checksum(plain, unfinished, timeout)
    if complete.is_file() and (not checksum or _matches(complete, checksum)):
        return bool(checksum)
    most = int(MOST_DOWNLOADED * dataset.megabytes * MEGABYTE) - _size(archives)
    try:
        _download(plain, unfinished, most, progress, timeout)
    except DatasetError as error:
        if archives.is_dir():
            raise DatasetError(f"{error}; the archives that are complete are kept, and need not come again") from error
        raise
    with open(unfinished, "rb") as file:
        if file.read(512).lstrip().startswith(b"<"):
            raise DatasetError(f"{plain} answered with a web page, not an archive; open it in a browser to see why")
    if checksum and not _matches(unfinished, checksum):
        raise DatasetError(f"{plain} was downloaded with the wrong checksum, so it is damaged or new; try again later")
    archives.mkdir(exist_ok=True)
    os.replace(unfinished, complete)
    return bool(checksum)


def _matches(file: Path, checksum: str) -> bool:
    algorithm, _, expected = checksum.partition(":")
    return pooch.file_hash(str(file), alg=algorithm) == expected.lower()


def _registered_checksum(address: str) -> str:
    prefix, record, file = address.split("/", 2)
    repository = pooch.create(path="", base_url=f"{prefix}/{record}/")
    repository.load_registry_from_doi()
    return repository.registry[file]


def _listed_checksum(address: str, file: Path, timeout: float) -> str:
    home, _, name = address.rpartition("/")
    _download(f"{home}/SHA256SUMS.txt", file, MEGABYTE, False, timeout)
    lines = (line.split(maxsplit=1) for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
    digests = {line[1].removeprefix("*").removeprefix("./"): line[0] for line in lines if len(line) == 2}
    return f"sha256:{digests[name]}" if name in digests else ""


def _download(address: str, file: Path, most: int, progress: bool, timeout: float) -> None:
    """Download at most `most` bytes, with as many attempts as may help."""
    kind = pooch.DOIDownloader if address.startswith("doi:") else pooch.HTTPDownloader

    def attempt() -> None:
        file.unlink(missing_ok=True)
        meter = _Meter(address, file, most)
        # Not compressed on the way: the size on the disk is then what arrives.
        downloader = kind(meter, chunk_size=1 << 16, timeout=timeout, headers={"Accept-Encoding": "identity"})
        with tqdm(total=0, unit="B", unit_scale=True, desc=address.rpartition("/")[2], disable=not progress) as bar:
            _watched(lambda: downloader(address, str(file), None), timeout, meter, bar)

    _patiently(address, timeout, attempt)


class _Meter:
    """What pooch takes for a progress bar: it counts what is on the disk, and ends a download that grows too large."""

    def __init__(self, address: str, file: Path, most: int) -> None:
        self.address, self.file, self.most = address, file, most
        self._total = 0

    @property
    def total(self) -> int:
        return self._total

    @total.setter
    def total(self, promised: int) -> None:
        self._require(promised)
        self._total = promised

    @property
    def arrived(self) -> int:
        try:
            return self.file.stat().st_size
        except OSError:
            return 0

    def update(self, _: int) -> None:
        self._require(self.arrived)

    def reset(self) -> None:
        self._require(self.arrived)

    def close(self) -> None:
        pass

    def _require(self, size: int) -> None:
        if size > self.most:
            raise DatasetError(
                f"{self.address} sends more than {self.most / MEGABYTE:.0f} MB, far more than the course knows of; "
                "look for a newer version of the course"
            )


class _TooSlow(Exception):
    """Hardly anything arrives."""


def _watched(work: Callable[[], object], timeout: float, meter: _Meter | None = None, bar: tqdm | None = None):
    """The value of `work()`, done in a thread that is abandoned when hardly anything arrives for four timeouts.

    A timeout of the connection ends a silence only, and not a server that sends a byte now and then.
    """
    outcome: Future = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    began, before = time.monotonic(), 0
    try:
        while True:
            with contextlib.suppress(TimeoutError):
                outcome.exception(min(timeout, 0.2))
            arrived = meter.arrived if meter else 0
            if meter and bar is not None:
                bar.total = meter.total or None
                bar.update(arrived - bar.n)
            if outcome.done():
                return outcome.result()
            if time.monotonic() - began > 4 * timeout:
                if arrived - before < SLOWEST * 4 * timeout:
                    raise _TooSlow
                began, before = time.monotonic(), arrived
    finally:
        if meter and not outcome.done():
            meter.most = -1  # ends the thread with the next bytes


def _patiently(address: str, timeout: float, attempt: Callable[[], object]):
    """The value of `attempt()`, tried again where that may help."""
    for number in range(1, ATTEMPTS + 1):
        try:
            return attempt()
        # Where a repository answers nonsense pooch raises ValueError, KeyError or IndexError.
        except (requests.RequestException, ValueError, LookupError, _TooSlow) as error:
            answer = getattr(error, "response", None)
            lasting = answer.status_code < 500 if answer is not None else not isinstance(error, (*_BROKEN, _TooSlow))
            if lasting or number == ATTEMPTS:
                raise DatasetError(
                    f"{address} could not be downloaded: {_reason(error, timeout)}; "
                    "check your connection and try again later"
                ) from error
            time.sleep(number * timeout / 30)
    raise AssertionError("the last attempt returns or raises")


def _reason(error: Exception, timeout: float) -> str:
    if isinstance(error, _TooSlow):
        return f"less than {SLOWEST // 1000} kB a second arrived"
    if isinstance(error, requests.HTTPError):
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"no answer for {timeout:g} s"
    return "there is no connection, or it broke off" if isinstance(error, _BROKEN) else f"{error!r}"


def _fill(dataset: Dataset, archives: Path, folder: Path, progress: bool, verified: bool) -> None:
    """Unpack the archives and move what is the data set, once it is checked, into the folder."""
    unpacked = Path(tempfile.mkdtemp(dir=folder))
    room = _Room(int(MOST_UNPACKED * dataset.megabytes * MEGABYTE))
    addresses = [address.partition("#")[0] for address in dataset.archives]
    for address, plain in zip(dataset.archives, addresses, strict=True):
        _unpack(plain, _file(address, archives), unpacked, room)
    inner = unpacked / dataset.inside
    if dataset.inside == "*":
        content = list(unpacked.iterdir())
        inner = content[0] if len(content) == 1 and content[0].is_dir() else unpacked
    if inner.is_dir():
        problems = check(dataset, inner, progress, samples=not verified)
    else:
        problems = [f"there is no folder {dataset.inside}"]
    if problems:
        raise DatasetError(
            f"what came from {first_few(addresses)} is not the {dataset.title} that the course knows "
            f"({'; '.join(problems)}); try again later, or look for a newer version of the course"
        )
    for path in inner.iterdir():
        path.rename(folder / path.name)
    shutil.rmtree(unpacked)


class _Room:
    """The bytes and the files that may still be unpacked."""

    def __init__(self, size: int) -> None:
        self.most, self.size, self.count = size, size, MOST_FILES

    def take(self, address: str, size: int) -> None:
        self.size -= size
        self.count -= 1
        if size < 0 or self.size < 0 or self.count < 0:
            raise DatasetError(
                f"{address} holds more than {self.most / MEGABYTE:.0f} MB or {MOST_FILES} files, far more than the "
                "course knows of; do not use it"
            )


def _unpack(address: str, archive: Path, folder: Path, room: _Room) -> None:
    try:
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as opened:
                for member in opened:
                    _refuse_unsafe(address, member.name, member.isfile() or member.isdir())
                    room.take(address, member.size)
                opened.extractall(folder, filter="data")
        else:
            with zipfile.ZipFile(archive) as opened:
                for member in opened.infolist():
                    kind = stat.S_IFMT(member.external_attr >> 16)
                    _refuse_unsafe(address, member.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
                    room.take(address, member.file_size)  # no more than this is ever unpacked
                opened.extractall(folder)
    # Damaged archives raise a dozen kinds of error, OSError among them.
    except Exception as error:
        if isinstance(error, DatasetError) or getattr(error, "errno", None) in _DISK:
            raise
        raise DatasetError(f"{address} is not a zip or tar file, or is damaged ({error}); try again later") from error


def _refuse_unsafe(address: str, member: str, plain: bool) -> None:
    path = PureWindowsPath(member)  # also knows backslashes and drives
    if not plain or path.anchor or ".." in path.parts:
        raise DatasetError(f"{address} holds {member!r}, a link, a device or a path out of its folder; do not use it")
