"""Unpacking archives that come from outside: nothing lands outside the folder, and no more than is expected."""

import errno
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from course_lib.datasets.recordings import DatasetError

MEGABYTE = 1_000_000
MOST_FILES = 500_000

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def unpack(address: str, archive: Path, folder: Path, most: int) -> int:
    """Unpack a zip or tar file into a folder; return how many bytes came out of it.

    Raises DatasetError, which names the address, where the archive is damaged, holds links, devices or paths out of
    the folder, more than `most` bytes or more than 500,000 files; OSError where the disk is full or closed.
    """
    size = 0
    try:
        is_tar = tarfile.is_tarfile(archive)
        with tarfile.open(archive) if is_tar else zipfile.ZipFile(archive) as opened:
            for count, (name, is_plain, length) in enumerate(_members(opened), start=1):
                path = PureWindowsPath(name)  # which has backslashes and drives too
                if not is_plain or path.anchor or ".." in path.parts:
                    raise DatasetError(
                        f"{address} holds {name!r}, a link, a device or a path out of its folder; do not use it"
                    )
                size += length
                if length < 0 or size > most or count > MOST_FILES:
                    raise DatasetError(
                        f"{address} holds more than {most / MEGABYTE:.0f} MB or {MOST_FILES} files, far more than the "
                        "course expects; do not use it"
                    )
            opened.extractall(folder, **({"filter": "data"} if is_tar else {}))
    # Damaged archives raise a dozen kinds of error, OSError among them.
    except Exception as error:
        if isinstance(error, DatasetError) or getattr(error, "errno", None) in _DISK:
            raise
        raise DatasetError(f"{address} is not a zip or tar file, or is damaged ({error}); try again later") from error
    return size


def _members(opened: tarfile.TarFile | zipfile.ZipFile) -> Iterator[tuple[str, bool, int]]:
    """The name of each member, whether it is a file or a folder, and the most bytes that come out of it."""
    if isinstance(opened, tarfile.TarFile):
        for member in opened:
            yield member.name, member.isfile() or member.isdir(), member.size
    else:
        for member in opened.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            yield member.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR), member.file_size
