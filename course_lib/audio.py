"""Sound files in, waveforms out: the only place of the course that opens a sound file."""

import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
import torchaudio.functional
from torch import Tensor

from course_lib import CourseError, containers

CHANNELS = ("mean", "left", "right", "side")
LOWEST_RATE, HIGHEST_RATE = 100, 768_000
_LARGEST = 2.0**31  # full scale of 32-bit integers; more is damage, and its square soon infinite
_CANCELLED = 0.1  # of the power that channels have in their mean when they are unlike each other
_QUIET_STEPS = 8  # a median sample of so many steps is rounded to 16 bits with an error of a few per cent
_INAUDIBLE = 2.0**-24  # of the peak
_LARGEST_KERNEL = 2**21  # numbers in the filter of torchaudio's resampling
_NO_SAMPLES = "holds no samples; fetch or record it again"
_MOST_SAMPLES = 2**30  # after resampling: six hours at 44.1 kHz


class AudioError(CourseError, ValueError):
    """A sound file cannot be used; the message names the file and the reason."""


def read(path: str | Path, sample_rate: int | None = None, channel: str = "mean") -> Tensor:
    """Read a sound file as a mono waveform, shape (samples,), float32; full scale is 1.

    Channels are averaged; of two, `channel` may also be left, right or side (half their difference), of one left or
    right. With `sample_rate` (Hz) the waveform is resampled to it, otherwise it keeps its own.
    Raises AudioError as `read_channels` does, for channels that cancel each other, and for a channel that is not there.

    Notebook: 01_waveforms_and_spectrograms
    """
    channels, file_rate = read_channels(path)
    waveform = _mixed(channels, channel, path)
    if sample_rate is None:
        return waveform
    try:
        return resample(waveform, file_rate, sample_rate)
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from None


def read_channels(path: str | Path) -> tuple[Tensor, int]:
    """Read a WAV, FLAC, OGG or MP3 file: its channels, shape (channels, samples), float32, and its rate in Hz.

    Full scale is 1; a file of floats may go beyond. A WAV that was streamed, so that its header tells no length, is
    read to its end. Raises AudioError for a missing file, a folder, what is not audio, truncated, damaged or empty
    files, samples that are NaN, infinite or over 2^31, and sample rates outside 100 Hz .. 768 kHz. Bytes that
    were changed in the middle of an MP3 file are not noticed.

    Notebook: 01_waveforms_and_spectrograms
    """
    with _open(Path(path)) as file:
        samples = _samples(file, file.frames, path)
        if 0 < len(samples) < file.frames:
            raise AudioError(f"{path} {containers.TRUNCATED}")
        if len(samples) == 0:
            raise AudioError(f"{path} {_NO_SAMPLES}")
        return torch.from_numpy(np.ascontiguousarray(samples.T)), file.samplerate


@dataclass(frozen=True)
class Header:
    """What a sound file says of itself: rate in Hz, channels, samples of each, and the names of its coding."""

    sample_rate: int
    channels: int
    samples: int
    container: str
    encoding: str


def header(path: str | Path) -> Header:
    """The header of a sound file. Raises AudioError as `read_channels` does."""
    with _open(Path(path)) as file:
        return Header(file.samplerate, file.channels, file.frames, file.format, file.subtype)


def parts(path: str | Path, samples: int) -> Iterator[Tensor]:
    """The channels of a sound file, one part after the other, each (channels, up to `samples`), float32.

    A recording of hours takes the memory of one part. Raises AudioError as `read_channels` does, where the part comes
    that cannot be used.
    """
    with _open(Path(path)) as file:
        if file.frames == 0:
            raise AudioError(f"{path} {_NO_SAMPLES}")
        file.seekable = lambda: False  # soundfile would seek after each part, which upsets the decoders of OGG and MP3
        for begin in range(0, file.frames, samples):
            part = _samples(file, min(samples, file.frames - begin), path)
            if len(part) < min(samples, file.frames - begin):
                raise AudioError(f"{path} {containers.TRUNCATED}")
            yield torch.from_numpy(np.ascontiguousarray(part.T))


def rate(path: str | Path) -> int:
    """Sample rate of a sound file in Hz, read from its header. Raises AudioError as `read_channels` does."""
    with _open(Path(path)) as file:
        return file.samplerate


def seconds(path: str | Path) -> float:
    """Duration of a sound file in seconds, read from its header. Raises AudioError as `read_channels` does."""
    with _open(Path(path)) as file:
        return file.frames / file.samplerate


def resample(waveform: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Band-limited resampling of (..., samples) from one rate to another, both in Hz.

    Windowed sinc; between rates with hardly a common factor (16,001 to 16,000 Hz), whose filter would fill the memory,
    by the variable-rate method of soxr. Raises AudioError for rates that are no whole number in 100 Hz .. 768 kHz.

    Notebook: 01_waveforms_and_spectrograms
    """
    for hertz in (from_rate, to_rate):
        if not float(hertz).is_integer() or not LOWEST_RATE <= hertz <= HIGHEST_RATE:
            raise AudioError(f"a sample rate of {hertz} Hz; use a whole number from {LOWEST_RATE} to {HIGHEST_RATE} Hz")
    from_rate, to_rate = int(from_rate), int(to_rate)
    if from_rate == to_rate:
        return waveform
    samples = -(-waveform.shape[-1] * to_rate // from_rate)
    if samples > _MOST_SAMPLES:
        raise AudioError(f"{samples:,} samples at {to_rate} Hz are too many; is the sample rate of the sound right?")
    divisor = math.gcd(from_rate, to_rate)
    old, new = from_rate // divisor, to_rate // divisor
    if new * (old + 13 * max(1, old // new)) <= _LARGEST_KERNEL:  # a filter for each of the new samples
        return torchaudio.functional.resample(waveform, from_rate, to_rate)
    import soxr  # only rates that hardly anything is recorded at need it

    rows = waveform.reshape(-1, waveform.shape[-1])
    if rows.numel() == 0:
        return waveform
    resampled = soxr.resample(rows.T.cpu().numpy(), from_rate, to_rate, "VHQ")
    resampled = torch.from_numpy(resampled.T.copy()).to(waveform.device).reshape(*waveform.shape[:-1], -1)
    return fix_length(resampled, samples)  # as many as torchaudio gives


def cancel(power: np.ndarray, power_of_mean: float) -> bool:
    """Whether channels cancel each other in their mean, given the power (variance) of each and that of their mean."""
    return bool(power_of_mean < _CANCELLED * power.mean() / len(power))


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


def fits_int16(waveform: Tensor) -> bool:
    """Whether 16 bits hold a waveform: exactly, or within full scale and with its median sample well above a step.

    They do not hold what goes beyond full scale, nor a 24-bit recording so quiet that rounding would change it.
    """
    steps = waveform.numpy() * 32768
    if steps.max() > 32768 or steps.min() < -32768:
        return False
    if np.array_equal(np.rint(steps), steps):
        return True
    steps = np.abs(steps)
    audible = steps[steps > _INAUDIBLE * steps.max()]
    return len(audible) == 0 or bool(np.median(audible) >= _QUIET_STEPS)


def _mixed(channels: Tensor, channel: str, path: str | Path) -> Tensor:
    if channel not in CHANNELS:
        raise AudioError(f"a channel is {', '.join(CHANNELS)}, not {channel!r}")
    if channel != "mean":
        if len(channels) > 2 or (channel == "side" and len(channels) == 1):
            raise AudioError(
                f"{path} has {len(channels)} channels, so none of them is the {channel}; read another channel"
            )
        return (channels[0] - channels[1]) / 2 if channel == "side" else channels[0 if channel == "left" else -1]
    if len(channels) == 1:
        return channels[0]
    mean = channels.mean(dim=0, dtype=torch.float64)
    if cancel(channels.var(dim=1, correction=0).numpy(), float(mean.var(correction=0))):
        raise AudioError(
            f"{path} has channels that cancel each other, as when one of them is upside down; "
            "save one of them as a mono file"
        )
    return mean.float()


def _samples(file: sf.SoundFile, count: int, path: str | Path) -> np.ndarray:
    """The next samples of an open file, shape (count, channels), or as many as there are."""
    try:
        samples = file.read(count, dtype="float32", always_2d=True)
    except (sf.LibsndfileError, OSError) as error:
        raise AudioError(f"{path} is damaged or truncated ({error}); fetch or record it again") from None
    except (MemoryError, ValueError):
        raise AudioError(
            f"{path} has a header that tells no length, because it was streamed, or an absurd one; export it again"
        ) from None
    if not np.isfinite(samples).all():
        raise AudioError(f"{path} contains NaN or infinite samples; export it again as PCM")
    if samples.size and max(samples.max(), -samples.min()) > _LARGEST:
        raise AudioError(f"{path} contains samples over 2^31, where full scale is 1; export it again as PCM")
    return samples


def _open(path: Path) -> sf.SoundFile:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise AudioError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise AudioError(f"{path} cannot be opened ({error})") from None
    if not stat.S_ISREG(status.st_mode):
        raise AudioError(f"{path} is {'a folder' if stat.S_ISDIR(status.st_mode) else 'a device'}, not a sound file")
    if status.st_size == 0:
        raise AudioError(f"{path} is empty (0 bytes); fetch or record it again")
    file = None
    try:
        containers.require_whole_wav(path)
        file = sf.SoundFile(os.fsencode(path) if os.name == "posix" else path)  # bytes: a name need not be UTF-8
        if file.format not in containers.FORMATS:
            raise containers.ContainerError(f"is a {file.format} file; convert it to WAV or FLAC")
        if not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE:
            raise containers.ContainerError(
                f"claims a sample rate of {file.samplerate} Hz; "
                f"expected {LOWEST_RATE} to {HIGHEST_RATE} Hz, so its header is probably damaged"
            )
        if file.format == "OGG":
            containers.require_whole_ogg(path, file)
        return file
    except containers.ContainerError as error:
        problem = error
    except (sf.LibsndfileError, OSError, TypeError) as error:  # TypeError: a name that ends in .raw
        why = getattr(error, "error_string", str(error))
        why = "it holds something else" if "does not exist" in why else why  # so libsndfile says of what is no MP3
        problem = f"cannot be read as WAV, FLAC, OGG or MP3 audio ({why})"
    if file is not None:
        file.close()
    raise AudioError(f"{path} {problem}")
