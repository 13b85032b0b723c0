"""Whether a sound file is whole: what its container says, and libsndfile does not check or does not know."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import BinaryIO

FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3", "AIFF")  # as libsndfile calls them
TRUNCATED = "is truncated: its header promises more audio; fetch or record it again"


class ContainerError(ValueError):
    """A sound file is truncated, damaged or of a kind that cannot be judged; the message goes after its name."""


def require_whole(path: Path) -> io.BytesIO | None:
    """Raise ContainerError for a truncated WAV, RF64, AIFF or OGG file, of which libsndfile reads what is there.

    Of a WAV that was streamed, so that its header tells no length, return a copy that tells it. Raises OSError.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(12)
        if start[:4] == b"OggS":
            _require_whole_ogg(file, size)
        elif start[:4] == b"FORM" and start[8:11] == b"AIF":
            position, promised, _ = _sound_chunk(file, b"SSND", ">")
            if position and position + promised > size:
                raise ContainerError(TRUNCATED)
        elif start[:4] in (b"RIFF", b"RF64") and start[8:] == b"WAVE":
            position, promised, riff_size = _sound_chunk(file, b"data", "<")
            rest = size - position
            unfinished = promised == 0 < rest and (_is_unknown(riff_size) or riff_size + 8 < size)
            if position and (unfinished or (promised > rest and _is_unknown(promised))):
                return _with_length(file, position, rest)
            if position and promised > rest:
                raise ContainerError(TRUNCATED)
    return None


def tells_length(path: Path) -> bool:
    """Whether an MP3 begins with the frame in which encoders write how many follow (Xing or Info)."""
    with open(path, "rb") as file:
        start = file.read(10)
        tag = 10 + sum((byte & 127) << 7 * (3 - index) for index, byte in enumerate(start[6:]))
        file.seek(tag if start[:3] == b"ID3" else 0)
        frame = file.read(2048)
    position = max(frame.find(b"Xing"), frame.find(b"Info"))
    return position >= 0 and len(frame) > position + 7 and bool(frame[position + 7] & 1)


def _sound_chunk(file: BinaryIO, wanted: bytes, order: str) -> tuple[int, int, int]:
    """Of a RIFF-like file: where the samples begin (0: nowhere), their bytes and the whole's, as the header says."""
    file.seek(4)
    (whole,) = struct.unpack(f"{order}I", file.read(4))
    file.seek(12)
    long_size = None
    while len(header := file.read(8)) == 8:
        name, size = struct.unpack(f"{order}4sI", header)
        if name == wanted:
            return file.tell(), size if long_size is None else long_size, whole
        if name == b"ds64" and size >= 16:  # RF64: sizes of 64 bits
            whole, long_size = struct.unpack("<QQ", file.read(16).ljust(16, b"\0"))
            size -= 16
        file.seek(size + size % 2, os.SEEK_CUR)
    return 0, 0, whole


def _is_unknown(size: int) -> bool:
    """Whether a size is one that programs write which cannot go back to the header, such as 0xFFFFFFFF."""
    return any(0 <= limit - size <= 4096 for limit in (2**31, 2**32 - 1, 2**63, 2**64 - 1))


def _with_length(file: BinaryIO, position: int, samples: int) -> io.BytesIO:
    if position + samples > 2**32 - 1:
        raise ContainerError("was streamed and is over 4 GB, so its header tells no length; convert it to FLAC")
    file.seek(0)
    content = bytearray(file.read())
    content[:4] = b"RIFF"
    content[4:8] = struct.pack("<I", position + samples - 8)
    content[position - 4 : position] = struct.pack("<I", samples)
    return io.BytesIO(content)


def _require_whole_ogg(file: BinaryIO, size: int) -> None:
    """Raise ContainerError unless the pages are all there, in order, from the first to the last of one stream."""
    position, ended = 0, False
    pages: dict[int, int] = {}
    while position < size:
        file.seek(position)
        header = file.read(27)
        if header[:4] != b"OggS"[: len(header)]:
            if ended:
                return  # a tag that some programs append
            raise ContainerError("is a damaged OGG file; fetch or record it again")
        if ended:
            raise ContainerError("holds several OGG streams one after the other; export it as one")
        table = file.read(header[26]) if len(header) == 27 else b""
        if len(header) < 27 or len(table) < header[26]:
            break
        serial, page = struct.unpack_from("<II", header, 14)
        if page != pages.get(serial, -1) + 1:
            raise ContainerError("is an OGG file in which pages are missing; fetch or record it again")
        pages[serial] = page
        position = file.tell() + sum(table)
        ended = bool(header[5] & 4)
    if position != size or not ended:
        raise ContainerError("is truncated: its last OGG page is missing; fetch or record it again")
