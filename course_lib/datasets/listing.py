"""Which sound files are in a folder; nothing that could be a recording is passed over in silence."""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path

from course_lib.datasets.recordings import DatasetError, first_few

ENDINGS = (".wav", ".flac", ".ogg")
_OTHER_SOUNDS = tuple(
    ".mp3 .aif .aiff .aifc .m4a .mp4 .aac .wma .opus .oga .caf .au .snd .w64 .rf64 .amr .webm .mka .3gp .ra .ape".split()
)
_SYSTEM = {"thumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "system volume information", "@eadir", "lost+found"}
_log = logging.getLogger(__name__)


def hidden(name: str) -> bool:
    """Whether a file or folder belongs to a system or a program, not to the person who collects the sounds."""
    return name.startswith(".") or name.lower() in _SYSTEM


def folders(parent: Path) -> list[Path]:
    """The folders in a folder, in order, without those of a system. Raises DatasetError where it cannot be listed."""
    return [path for path in _entries(parent) if path.is_dir() and not hidden(path.name)]


def sounds(parent: Path, deep: bool = True) -> list[Path]:
    """The WAV, FLAC and OGG files of a folder and, if `deep`, of those in it, links followed, sorted by path.

    Other kinds of sounds, and sounds in hidden folders, are counted in a warning and left out. Raises DatasetError for
    a folder that cannot be listed and for links that lead in a circle.
    """
    found: list[Path] = []
    left_out: Counter[str] = Counter()
    _collect(parent, deep, (), found, left_out)
    if left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))
        _log.warning("%s: left out, for only %s are read: %s", parent, ", ".join(ENDINGS), kinds)
    return sorted(found)


def _collect(
    parent: Path, deep: bool, above: tuple[Path, ...], found: list[Path], left_out: Counter[str], out: str = ""
) -> None:
    real = parent.resolve()
    if real in above:
        raise DatasetError(f"{parent} is a link to a folder that it lies in; remove the link")
    for path in _entries(parent):
        ending = path.suffix.lower()
        if path.is_dir():
            if deep:
                within = out or (f"in the hidden folder {path.name}" if hidden(path.name) else "")
                _collect(path, deep, (*above, real), found, left_out, within)
        elif hidden(path.name):
            continue
        elif ending in ENDINGS and not out:
            found.append(path)
        elif ending in ENDINGS or ending in _OTHER_SOUNDS:
            left_out[out or f"{ending[1:].upper()} files"] += 1


def _entries(folder: Path) -> list[Path]:
    try:
        entries = sorted(Path(entry.path) for entry in os.scandir(folder))
    except OSError as error:
        raise DatasetError(f"{folder} cannot be listed ({error.strerror}); make it readable, or move it away") from None
    broken = [path.name for path in entries if path.is_symlink() and not path.exists()]
    if broken:
        raise DatasetError(f"{folder} holds links that lead nowhere: {first_few(broken)}; mend or remove them")
    return entries
