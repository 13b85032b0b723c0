"""Fetching a data set: download, unpack, check, and only then move it into place."""

import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from pooch.hashes import hash_matches
from tqdm.auto import tqdm

from course_lib import environment, files
from course_lib.datasets.archives import MEGABYTE, unpack
from course_lib.datasets.check import check
from course_lib.datasets.dataset import Dataset
from course_lib.datasets.recordings import DatasetError, first_few
from course_lib.datasets.transfer import download, registered_checksum

# What is downloaded and what comes out of it, at most and, of the latter, usually, in sizes of the catalogue.
MOST_DOWNLOADED, MOST_UNPACKED, USUALLY_UNPACKED = 2, 4, 1.5


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
    from course_lib.datasets import catalogue  # which imports the data sets, and they what they need

    dataset = catalogue.get(wanted)
    target = dataset.folder
    waiting = target.with_name(f".{target.name}-archives")
    if target.is_dir():
        shutil.rmtree(waiting, ignore_errors=True)  # of an attempt that something else has overtaken
        return target
    if not dataset.archives or dataset.megabytes <= 0:
        raise DatasetError(f"{dataset.name} has no archives of a known size to download; put it into {target}")
    if environment.offline():
        raise DatasetError(
            f"COURSE_OFFLINE forbids fetching {dataset.name}; unset it, or put the data set into {target}"
        )
    try:
        with files.whole_folder(target) as folder:
            archives = waiting if len(dataset.archives) > 1 else folder / ".archives"
            _require_space(dataset, folder, archives, progress)
            verified = [_archive(dataset, address, archives, folder, progress, timeout) for address in dataset.archives]
            try:
                _fill(dataset, archives, folder, progress, all(verified))
            except DatasetError:  # archives that are not right would not be right the next time either
                shutil.rmtree(archives, ignore_errors=True)
                raise
            if archives != waiting:  # those that wait stay until the folder has its name: another process may read them
                shutil.rmtree(archives, ignore_errors=True)
    except DatasetError:
        if not target.is_dir():  # else another process has finished first
            raise
    except OSError as error:
        if not target.is_dir():
            raise DatasetError(
                f"cannot write {dataset.name} to {target.parent} ({error}); "
                "free some space there, or set COURSE_DATA to a folder you can write to"
            ) from error
    shutil.rmtree(waiting, ignore_errors=True)
    return target


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
        checksum = registered_checksum(plain, timeout)
    elif checksum == "sha256sums":
        checksum = _listed_checksum(plain, unfinished, timeout)
    if complete.is_file() and hash_matches(complete, checksum or None):
        return bool(checksum)
    most = MOST_DOWNLOADED * dataset.megabytes * MEGABYTE - _size(archives)
    try:
        download(plain, unfinished, most, progress, timeout)
    except DatasetError as error:
        if _size(archives):
            raise DatasetError(f"{error}; the archives that are complete are kept, and need not come again") from error
        raise
    with open(unfinished, "rb") as file:
        if file.read(512).lstrip().startswith(b"<"):
            raise DatasetError(f"{plain} answered with a web page, not an archive; open it in a browser to see why")
    if not hash_matches(unfinished, checksum or None):
        raise DatasetError(f"{plain} was downloaded with the wrong checksum, so it is damaged or new; try again later")
    archives.mkdir(exist_ok=True)
    os.replace(unfinished, complete)
    return bool(checksum)


def _listed_checksum(address: str, file: Path, timeout: float) -> str:
    home, _, name = address.rpartition("/")
    download(f"{home}/SHA256SUMS.txt", file, MEGABYTE, False, timeout)
    lines = (line.split(maxsplit=1) for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
    digests = {line[1].removeprefix("*").removeprefix("./"): line[0] for line in lines if len(line) == 2}
    return f"sha256:{digests[name]}" if name in digests else ""


def _fill(dataset: Dataset, archives: Path, folder: Path, progress: bool, verified: bool) -> None:
    """Unpack the archives and move what is the data set, once it is checked, into the folder."""
    unpacked = Path(tempfile.mkdtemp(dir=folder))
    room = MOST_UNPACKED * dataset.megabytes * MEGABYTE
    addresses = [address.partition("#")[0] for address in dataset.archives]
    for address, plain in zip(dataset.archives, addresses, strict=True):
        room -= unpack(plain, _file(address, archives), unpacked, room)
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
            f"what came from {first_few(addresses)} is not the {dataset.title} that the course expects "
            f"({'; '.join(problems)}); try again later, or look for a newer version of the course"
        )
    for path in inner.iterdir():
        path.rename(folder / path.name)
    shutil.rmtree(unpacked)
