"""Sound files in, waveforms out: the only place of the course that opens a sound file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
import torchaudio.functional
from torch import Tensor

from course_lib import CourseError

LOWEST_RATE, HIGHEST_RATE = 100, 768_000


class AudioError(CourseError, ValueError):
    """A sound file cannot be used; the message names the file and the reason."""


def read(path: str | Path, sample_rate: int | None = None) -> Tensor:
    """Read a WAV, FLAC or OGG file as a mono waveform, shape (samples,), float32; full scale is 1.

    Channels are averaged. With `sample_rate` (Hz) the waveform is resampled to it, otherwise it keeps its own.
    Raises AudioError for a missing file, a folder, what is not audio, truncated or empty files, NaN or infinite
    samples and sample rates outside 100 Hz .. 768 kHz.

    Notebook: 01_waveforms_and_spectrograms
    """
    file_rate, samples = _decode(Path(path))
    waveform = torch.from_numpy(samples.mean(axis=1))
    return waveform if sample_rate is None else resample(waveform, file_rate, sample_rate)


def rate(path: str | Path) -> int:
    """Sample rate of a sound file in Hz, read from its header. Raises AudioError as `read` does."""
    with _open(Path(path)) as file:
        return file.samplerate


def seconds(path: str | Path) -> float:
    """Duration of a sound file in seconds, read from its header. Raises AudioError as `read` does."""
    with _open(Path(path)) as file:
        return file.frames / file.samplerate


def resample(waveform: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Band-limited resampling of (..., samples) from one rate to another, both in Hz (windowed sinc).

    Notebook: 01_waveforms_and_spectrograms
    """
    if from_rate == to_rate:
        return waveform
    return torchaudio.functional.resample(waveform, from_rate, to_rate)


def fix_length(waveform: Tensor, samples: int) -> Tensor:
    """Crop (..., n) at the end, or pad it there with zeros, to (..., samples)."""
    if samples < 1:
        raise ValueError(f"samples is {samples}; a clip needs at least one")
    missing = samples - waveform.shape[-1]
    return torch.nn.functional.pad(waveform, (0, missing)) if missing > 0 else waveform[..., :samples]


def to_int16(waveform: Tensor) -> np.ndarray:
    """A waveform in [-1, 1] as little-endian 16-bit samples; exact for what came from a 16-bit file."""
    # NumPy: several times faster than torch on arrays as short as a word.
    return np.clip(np.rint(waveform.numpy() * 32768), -32768, 32767).astype("<i2")


def _open(path: Path) -> sf.SoundFile:
    if path.is_dir():
        raise AudioError(f"{path} is a folder, not a sound file")
    if not path.exists():
        raise AudioError(f"{path} does not exist")
    if path.stat().st_size == 0:
        raise AudioError(f"{path} is empty (0 bytes); fetch or record it again")
    try:
        file = sf.SoundFile(path)
    except (sf.LibsndfileError, OSError, TypeError) as error:  # TypeError: a name that ends in .raw
        raise AudioError(f"{path} cannot be read as WAV, FLAC or OGG audio ({error})") from None
    if not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE:
        file.close()
        raise AudioError(
            f"{path} claims a sample rate of {file.samplerate} Hz; "
            f"expected {LOWEST_RATE} to {HIGHEST_RATE} Hz, so its header is probably damaged"
        )
    return file


def _decode(path: Path) -> tuple[int, np.ndarray]:
    with _open(path) as file:
        # libsndfile shortens a WAV whose data chunk is cut off, and says so only in its log.
        cut_off = re.search(r"^\s*data\s*:\s*\d+ \(should be", file.extra_info, re.MULTILINE)
        try:
            samples = file.read(file.frames, dtype="float32", always_2d=True)
        except (sf.LibsndfileError, OSError) as error:
            raise AudioError(f"{path} is damaged or truncated ({error}); fetch or record it again") from None
        except (MemoryError, ValueError):  # a damaged header may promise terabytes, a streamed FLAC tells no length
            raise AudioError(f"{path} has a header that tells no length, or an absurd one; export it again") from None
        if cut_off or 0 < len(samples) < file.frames:
            raise AudioError(f"{path} is truncated: its header promises more audio; fetch or record it again")
        if len(samples) == 0:
            raise AudioError(f"{path} holds no samples; fetch or record it again")
        if not np.isfinite(samples).all():
            raise AudioError(f"{path} contains NaN or infinite samples; export it again as PCM")
        return file.samplerate, samples
