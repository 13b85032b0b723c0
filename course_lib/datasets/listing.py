"""Which sound files are in a folder; nothing that could be a recording is passed over in silence."""

import logging
import os
from collections import Counter
from pathlib import Path

from course_lib.datasets.recordings import DatasetError, first_few, is_utf8

ENDINGS = (".wav", ".flac", ".ogg", ".mp3")
OTHER_ENDINGS = (
    *".mp2 .aif .aiff .aifc .m4a .mp4 .aac .wma .opus .oga .caf .au .snd .voc .sph .raw .pcm".split(),
    *".wave .bwf .w64 .rf64 .amr .webm .mka .3gp .ra .ape .wv .tta .dsf .m4b".split(),
)
_SYSTEM = {"thumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "system volume information", "@eadir", "lost+found"}
_log = logging.getLogger(__name__)


def folders(parent: Path) -> list[Path]:
    """The folders in a folder, in order, without those of a system. Raises DatasetError where it cannot be listed."""
    return [path for path, is_folder in _entries(parent) if is_folder and not hidden(path)]


def sounds(parent: Path, deep: bool = True) -> list[Path]:
    """The WAV, FLAC, OGG and MP3 files of a folder and, if `deep`, of those in it, links followed, sorted by path.

    Sounds of other kinds, those in hidden folders and, unless `deep`, in any other are left out, and a warning counts
    them. Raises DatasetError for a folder that cannot be listed, for links that lead nowhere or in a circle, and for
    names that are not UTF-8.
    """
    listed: list[Path] = []
    left_out: Counter[str] = Counter()
    if os.path.isdir(parent):
        _collect(parent, deep, (), listed, left_out, "")
    if left_out:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))
        _log.warning("%s: only %s are read; left out: %s", parent, ", ".join(ENDINGS), counts)
    return sorted(listed)


def _collect(
    folder: Path, deep: bool, above: tuple[Path, ...], listed: list[Path], left_out: Counter[str], reason: str
) -> None:
    """Add the sounds of a folder to those `listed` or, where there is a `reason` against it, to those `left_out`."""
    real = folder.resolve()
    try:
        if real in above:
            raise DatasetError(f"{folder} is a link to a folder that it lies in; remove the link")
        entries = _entries(folder)
    except DatasetError:
        if reason:  # what is left out need not be in order
            return
        raise
    for path, is_folder in entries:
        ending = path.suffix.lower()
        if is_folder:
            kind = "hidden folder" if hidden(path) else "folder"
            own_reason = f"in the {kind} {path.name}" if hidden(path) or not deep else ""
            _collect(path, deep, (*above, real), listed, left_out, reason or own_reason)
        elif hidden(path) or ending not in ENDINGS + OTHER_ENDINGS:
            continue
        elif reason or ending in OTHER_ENDINGS:
            left_out[reason or ending[1:].upper()] += 1
        elif path.is_file():
            listed.append(path)
        else:  # a pipe would be waited for
            raise DatasetError(f"{path} is no file; remove it")


def hidden(path: Path) -> bool:
    """Whether it belongs to a system or a program, not to the person who collects the sounds."""
    return path.name.startswith(".") or path.name.lower() in _SYSTEM


def _entries(folder: Path) -> list[tuple[Path, bool]]:
    """What is in a folder, and of each thing whether it is a folder, in order."""
    try:
        entries = [(path, path.is_dir()) for path in sorted(Path(entry.path) for entry in os.scandir(folder))]
        broken = [path.name for path, _ in entries if path.is_symlink() and not path.exists() and not hidden(path)]
    except OSError as error:
        raise DatasetError(f"{folder} cannot be listed ({error.strerror}); make it readable, or move it away") from None
    if broken:
        raise DatasetError(f"{folder} holds links that lead nowhere: {first_few(broken)}; mend or remove them")
    relevant = (path for path, is_folder in entries if is_folder or path.suffix.lower() in ENDINGS + OTHER_ENDINGS)
    if strange := [ascii(path.name) for path in relevant if not is_utf8(path.name)]:
        raise DatasetError(f"{str(folder)!a} holds names that are not UTF-8: {first_few(strange)}; rename them")
    return entries
