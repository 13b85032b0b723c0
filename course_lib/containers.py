"""Whether a sound file is whole: what its container says, and libsndfile does not check or does not know."""

from __future__ import annotations

import io
import math
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3", "AIFF")  # as libsndfile calls them
_MOST_CHUNKS = 1000
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
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
            if position + promised > size:
                raise ContainerError(TRUNCATED)
        elif start[:4] in (b"RIFF", b"RF64") and start[8:] == b"WAVE":
            position, promised, riff_size = _sound_chunk(file, b"data", "<")
            rest = size - position
            unfinished = promised == 0 < rest and (_is_unknown(riff_size) or riff_size + 8 < size)
            if unfinished or (promised > rest and _is_unknown(promised)):
                return _with_length(file, position, rest)
            if promised > rest:
                raise ContainerError(TRUNCATED)
    return None


def mp3_samples(path: Path) -> float:
    """About how many samples an MP3 has; infinite unless it begins with the frame that says so (Xing or Info)."""
    with open(path, "rb") as file:
        start = file.read(10)
        tag = 10 + sum((byte & 127) << 7 * (3 - index) for index, byte in enumerate(start[6:]))
        file.seek(tag if start[:3] == b"ID3" else 0)
        frame = file.read(2048)
    sync, position = frame.find(b"\xff"), max(frame.find(b"Xing"), frame.find(b"Info"))
    if position < sync + 4 or sync < 0 or len(frame) < position + 12 or not frame[position + 7] & 1:
        return math.inf
    is_mpeg_1 = frame[sync + 1] >> 3 & 3 == 3
    return int.from_bytes(frame[position + 8 : position + 12], "big") * (1152 if is_mpeg_1 else 576)


def _sound_chunk(file: BinaryIO, wanted: bytes, order: str) -> tuple[int, int, int]:
    """Of a RIFF-like file: where the samples begin, and how many bytes its header promises of them and of the whole."""
    file.seek(4)
    (whole,) = struct.unpack(f"{order}I", file.read(4))
    file.seek(12)
    long_size = None
    for _ in range(_MOST_CHUNKS):
        header = file.read(8)
        if len(header) < 8:
            break
        name, size = struct.unpack(f"{order}4sI", header)
        if name == wanted:
            return file.tell(), size if long_size is None else long_size, whole
        if name == b"ds64" and size >= 16:  # RF64: sizes of 64 bits
            whole, long_size = struct.unpack("<QQ", file.read(16).ljust(16, b"\0"))
            size -= 16
        file.seek(size + size % 2, os.SEEK_CUR)
    raise ContainerError("is damaged or truncated: its header leads to no samples; fetch or record it again")


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
    file.seek(0)
    position, ended = 0, False
    pages: dict[int, int] = {}
    while position < size:
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
        serial, page, checksum = struct.unpack_from("<III", header, 14)
        if page != pages.get(serial, -1) + 1:
            raise ContainerError("is an OGG file in which pages are missing; fetch or record it again")
        content = file.read(sum(table))
        if (
            len(content) == sum(table)
            and _ogg_checksum(header[:22] + bytes(4) + header[26:] + table + content) != checksum
        ):
            raise ContainerError("is a damaged OGG file: a checksum is wrong; fetch or record it again")
        pages[serial] = page
        position += len(header) + len(table) + sum(table)
        ended = bool(header[5] & 4)
    if position != size or not ended:
        raise ContainerError("is truncated: its last OGG page is missing; fetch or record it again")


def _ogg_checksum(page: bytes) -> int:
    """CRC-32 as OGG wants it (RFC 3533): zlib's with the bits the other way round, from 0 and not inverted."""
    reverse = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reverse:032b}"[::-1], 2)
