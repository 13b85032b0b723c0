"""Files and folders that appear whole, flushed to the disk, or not at all."""

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where the leftovers of a killed process stay
    fcntl = None

# Pauses between the attempts to give a file its name, in seconds: on Windows that is refused while a scanner or another
# reader has it open.
_PAUSES = (0.01, 0.03, 0.1, 0.3, 1.0) if os.name == "nt" else ()
_TEMPORARY = re.compile(r"\..*-[0-9a-f]{16}\.part", re.DOTALL)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file: after a full disk, a kill or a power cut it holds the old content or the new. Raises OSError.

    Its permissions follow the umask. Folders on the way are made.
    """
    with _temporary(path, Path.touch) as unfinished:
        unfinished.write_bytes(content)
        _flush(unfinished)
        _patiently(os.replace, unfinished, path)
        _flush(path.parent)


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its name, flushed, when the block ends without an error.

    When the block fails, nothing is left. When another process has finished the same folder first, that one stays.
    Raises OSError.
    """
    with _temporary(target, Path.mkdir) as unfinished:
        yield unfinished
        tree = list(os.walk(unfinished, topdown=False))  # the outermost last
        with ThreadPoolExecutor(16) as pool:  # a disk flushes many files together in the time of a few
            list(pool.map(_flush, (Path(folder, name) for folder, _, names in tree for name in names)))
        for folder, _, _ in tree:
            _flush(Path(folder))
        while not target.is_dir():
            try:
                _patiently(os.rename, unfinished, target)
                break
            except OSError as error:  # what is in the way may be removed, or be the same folder
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        _flush(target.parent)


def remove(path: Path) -> None:
    """Remove a file or a folder so that no process ever sees a part of it under its name. Raises OSError."""
    unnamed = _temporary_name(path)
    _patiently(os.rename, path, unnamed)
    _delete(unnamed)


def _patiently(move: Callable[[Path, Path], None], path: Path, name: Path) -> None:
    for pause in _PAUSES:
        with contextlib.suppress(PermissionError):
            return move(path, name)
        time.sleep(pause)
    move(path, name)


def _temporary_name(target: Path) -> Path:
    return target.with_name(f".{target.name[:40]}-{secrets.token_hex(8)}.part")


@contextlib.contextmanager
def _temporary(target: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A new file or folder beside the target, locked while this process lives, and gone at the end."""
    _make_folders(target.parent)
    _sweep(target.parent)
    while True:
        path = _temporary_name(target)
        make(path)
        lock = _lock(path, wait=True)
        if path.exists():  # else another process swept it before it was locked
            break
        _close(lock)
    try:
        yield path
    finally:
        _delete(path)
        _close(lock)


def _sweep(folder: Path) -> None:
    """Delete the temporaries that no living process has locked."""
    for path in [Path(entry) for entry in os.scandir(folder) if _TEMPORARY.fullmatch(entry.name)]:
        lock = _lock(path, wait=False)
        if lock is not None:
            _delete(path)
            _close(lock)


def _lock(path: Path, wait: bool) -> int | None:
    """A handle that locks a file or folder until it is closed; None where that is impossible."""
    if fcntl is None:
        return None
    try:
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _close(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _make_folders(folder: Path) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        _flush(path.parent)


def _flush(path: Path) -> None:
    """Flush a file to the disk, or a folder where the system can."""
    is_folder = path.is_dir()
    if is_folder and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError:
        if not is_folder:  # some network file systems refuse to flush folders
            raise
    finally:
        os.close(handle)
