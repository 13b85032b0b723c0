"""Whether a WAV or OGG file is whole: what its container says, and libsndfile does not check or does not know."""

import os
import re
import struct
from pathlib import Path
from typing import BinaryIO

import soundfile as sf

FORMATS = ("WAV", "WAVEX", "FLAC", "OGG", "MP3")  # as libsndfile calls them
_MOST_CHUNKS = 1000
_OPUS_RATE = 48_000
TRUNCATED = "is truncated or damaged: its header promises more audio; fetch or record it again"


class ContainerError(ValueError):
    """A sound file is truncated, damaged or of a kind that cannot be judged; the message goes after its name."""


def require_whole_wav(path: Path) -> None:
    """Raise ContainerError for a truncated or unfinished WAV file, of which libsndfile reads what is there or nothing.

    One that was streamed, so that its header tells no length, is read to its end. Raises OSError.
    """
    with open(path, "rb") as file:
        start = file.read(12)
        if start[:4] != b"RIFF" or start[8:] != b"WAVE":
            return
        position, promised = _data_chunk(file)
        rest = os.fstat(file.fileno()).st_size - position
        (riff_size,) = struct.unpack("<I", start[4:8])
        if promised == 0 < rest and (_is_unknown(riff_size) or riff_size + 8 < position + rest):
            raise ContainerError("was streamed or not finished, so its header tells no length; export it again")
        if promised > rest and not _is_unknown(promised):
            raise ContainerError(TRUNCATED)


def require_whole_ogg(path: Path, opened: sf.SoundFile) -> None:
    """Raise ContainerError unless an OGG file has one stream, its last page and all the samples that this page counts.

    Of pages that are damaged or missing before the last, libsndfile reads less than it counts. Raises OSError.
    """
    content = path.read_bytes()
    if len(re.findall(rb"OggS\0[\2\3\6\7]", content)) > 1:  # pages that begin a stream
        raise ContainerError("holds several OGG streams; export one of them as a file of its own")
    page = content[content.rfind(b"OggS") :]
    if len(page) < 27 or not page[5] & 4 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        raise ContainerError("is truncated: its last OGG page is missing; fetch or record it again")
    samples = int.from_bytes(page[6:14], "little")
    if opened.subtype == "OPUS":
        skipped = content.find(b"OpusHead") + 10
        samples -= int.from_bytes(content[skipped : skipped + 2], "little")
        samples = samples * opened.samplerate // _OPUS_RATE
    if samples != opened.frames:
        raise ContainerError(TRUNCATED)


def _data_chunk(file: BinaryIO) -> tuple[int, int]:
    """Where the samples of a WAV file begin, and how many bytes of them its header promises."""
    for _ in range(_MOST_CHUNKS):
        header = file.read(8)
        if len(header) < 8:
            break
        name, size = struct.unpack("<4sI", header)
        if name == b"data":
            return file.tell(), size
        file.seek(size + size % 2, os.SEEK_CUR)
    raise ContainerError("is damaged or truncated: its header leads to no samples; fetch or record it again")


def _is_unknown(size: int) -> bool:
    """Whether a size is one that programs write which cannot go back to the header, such as 0xFFFFFFFF."""
    return any(0 <= limit - size <= 4096 for limit in (2**31, 2**32 - 1))
