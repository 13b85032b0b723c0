"""Fetching a data set: download, unpack, check, and only then move it into place."""

from __future__ import annotations

import errno
import os
import stat
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path, PureWindowsPath

import pooch
import requests

from course_lib import environment
from course_lib.datasets.catalogue import Entry, entry
from course_lib.datasets.check import check
from course_lib.datasets.recordings import DatasetError

ATTEMPTS = 3
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
_BROKEN = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


def fetch(wanted: str | Entry, progress: bool = True, timeout: float = 15.0) -> Path:
    """Download a data set, given by name or as an entry, into `COURSE_DATA`, and return its folder.

    A folder that is already there is returned as it is. Otherwise the folder appears whole and checked, or not at all.
    An address may end in `#sha256=HEX`, or in `#sha256sums` where a file SHA256SUMS.txt beside the archive lists it;
    for `doi:` addresses the repository tells it. Without a checksum the samples of every recording are compared.
    `timeout` is the longest silence in seconds. Raises DatasetError when `COURSE_OFFLINE` is set, for failed downloads,
    for archives that are damaged, unsafe or not the data set of the catalogue, and when nothing can be written.

    Notebook: 02_spoken_digits_cnn
    """
    known = wanted if isinstance(wanted, Entry) else entry(wanted)
    home = environment.data_folder()
    target = home / known.name
    if target.is_dir():
        return target
    if environment.offline():
        raise DatasetError(f"COURSE_OFFLINE forbids fetching {known.name}; unset it, or put the data set into {target}")
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{known.name}-", dir=home, ignore_cleanup_errors=True) as work:
            os.rename(_prepare(known, Path(work), progress, timeout), target)
    except OSError as error:
        if not target.is_dir():  # another process may have finished first
            raise DatasetError(
                f"cannot write {known.name} to {home} ({error}); "
                "free some space there, or set COURSE_DATA to a folder you can write to"
            ) from error
    return target


def _prepare(known: Entry, work: Path, progress: bool, timeout: float) -> Path:
    archive, unpacked = work / "archive", work / "unpacked"
    unpacked.mkdir()
    vouched = True
    for address in known.archives:
        plain, _, checksum = address.partition("#")
        vouched &= _download(plain, checksum.replace("=", ":"), archive, progress, timeout)
        _unpack(plain, archive, unpacked)
        archive.unlink()
    folder = unpacked / known.inside
    if known.inside == "*":
        content = list(unpacked.iterdir())
        folder = content[0] if len(content) == 1 else unpacked
    problems = (
        check(known, folder, progress, samples=not vouched)
        if folder.is_dir()
        else [f"there is no folder {known.inside}"]
    )
    if problems:
        raise DatasetError(
            f"{' and '.join(known.archives)} does not hold the {known.title} that the course knows "
            f"({'; '.join(problems)}); try again later, or look for a newer version of the course"
        )
    return folder


def _download(address: str, checksum: str, archive: Path, progress: bool, timeout: float) -> bool:
    """Whether a checksum vouches for the archive, which is then there."""
    doi = address.startswith("doi:")
    downloader = (pooch.DOIDownloader if doi else pooch.HTTPDownloader)(progress, chunk_size=1 << 16, timeout=timeout)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            if doi and not checksum:
                checksum = _registered_checksum(address)
            elif checksum == "sha256sums":
                checksum = _listed_checksum(address, timeout)
            downloader(address, str(archive), None)
            break
        # Where a repository answers nonsense pooch raises ValueError, KeyError or IndexError.
        except (requests.RequestException, ValueError, LookupError) as error:
            answer = getattr(error, "response", None)
            lasting = answer.status_code < 500 if answer is not None else not isinstance(error, _BROKEN)
            if lasting or attempt == ATTEMPTS:
                raise DatasetError(
                    f"{address} could not be downloaded: {_reason(error, timeout)}; "
                    "check your connection and try again later"
                ) from error
            time.sleep(attempt * timeout / 30)
    with open(archive, "rb") as file:
        if file.read(512).lstrip().startswith(b"<"):
            raise DatasetError(f"{address} answered with a web page, not an archive; open it in a browser to see why")
    algorithm, _, expected = checksum.partition(":")
    if checksum and pooch.file_hash(str(archive), alg=algorithm) != expected.lower():
        raise DatasetError(
            f"{address} was downloaded with the wrong checksum, so it is damaged or new; try again later"
        )
    return bool(checksum)


def _registered_checksum(address: str) -> str:
    prefix, record, file = address.split("/", 2)
    repository = pooch.create(path="", base_url=f"{prefix}/{record}/")
    repository.load_registry_from_doi()
    return repository.registry[file]


def _listed_checksum(address: str, timeout: float) -> str:
    home, _, name = address.rpartition("/")
    answer = requests.get(f"{home}/SHA256SUMS.txt", timeout=timeout)
    answer.raise_for_status()
    lines = (line.split(maxsplit=1) for line in answer.text.splitlines())
    digests = {line[1].removeprefix("*").removeprefix("./"): line[0] for line in lines if len(line) == 2}
    return f"sha256:{digests[name]}" if name in digests else ""


def _reason(error: Exception, timeout: float) -> str:
    if isinstance(error, requests.HTTPError):
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"no answer for {timeout:g} s"
    return "there is no connection, or it broke off" if isinstance(error, _BROKEN) else f"{error!r}"


def _unpack(address: str, archive: Path, folder: Path) -> None:
    try:
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as opened:
                for member in opened:
                    _refuse_unsafe(address, member.name, member.isfile() or member.isdir())
                opened.extractall(folder, filter="data")
        else:
            with zipfile.ZipFile(archive) as opened:
                for member in opened.infolist():
                    kind = stat.S_IFMT(member.external_attr >> 16)
                    _refuse_unsafe(address, member.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
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
