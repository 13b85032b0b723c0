"""Where the cycles of a heart begin: an estimate from the rhythm of the loudness, without an ECG."""

import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.fft
import scipy.signal
import torch
from torch import Tensor
from tqdm.auto import tqdm

from course_lib import audio, environment, files
from course_lib.datasets.decoded import Decoded, cache_name, decode, discard, identity
from course_lib.datasets.recordings import Recordings, cached_in

RATE = 100  # of the envelope, in Hz
VALVES_HZ = (25.0, 120.0)  # murmurs are mostly higher
SHORTEST_S, LONGEST_S = 0.4, 1.5  # of a cycle: 150 to 40 beats a minute
SHORTEST_SYSTOLE_S = 0.2
# What is likely: the cycle, the systole that goes with it, how far others are from that, and how much this counts.
_CYCLE_S, _CYCLE_SPREAD = 0.85, 0.3
_SYSTOLE_S, _SYSTOLE_SHARE, _SYSTOLE_SPREAD_S = 0.155, 0.19, 0.05
_PRIOR = 0.1
_LEAD_S = 0.04  # from the beginning of the first heart sound to its peak
_VERSION = 1


@dataclass(frozen=True)
class Cycles:
    """`starts` are the seconds at which cycles begin; `cycle_s` and `systole_s` are the typical durations in seconds.

    Of silence there are no starts, and the durations are NaN.
    """

    starts: np.ndarray
    cycle_s: float
    systole_s: float


def find_cycles(waveform: Tensor, sample_rate: int) -> Cycles:
    """Estimate where the cycles of a heart sound (samples,) begin, just before each first sound.

    The autocorrelation of the envelope has a peak at the cycle and, before half of it, one at systole (Schmidt et al.
    2010). A first sound is loud, and so is what follows it after a systole, but not what follows it after
    a diastole: the peaks of that sum, about a cycle apart, are the beats. Raises ValueError for less than 2 s.

    Notebook: 05_heart_sounds_physionet
    """
    if len(waveform) < 2 * sample_rate:
        raise ValueError(
            f"{len(waveform) / sample_rate:.2f} s are too short to find a rhythm in; at least 2 s are needed"
        )
    loudness = envelope(waveform, sample_rate)
    if np.ptp(loudness) < 1e-6 * loudness.max():
        return Cycles(np.empty(0), np.nan, np.nan)
    rhythm = _autocorrelation(loudness)
    shortest, longest = round(SHORTEST_S * RATE), min(round(LONGEST_S * RATE), len(rhythm) // 2 + 1)
    cycle = shortest + int(np.argmax(rhythm[shortest:longest]))
    least = round(SHORTEST_SYSTOLE_S * RATE)
    systole = least + int(np.argmax(rhythm[least : max(least, cycle // 2) + 1]))
    return _beats(loudness, cycle, systole)


def likely_cycles(loudness: np.ndarray) -> Cycles:
    """Estimate where cycles begin from any envelope, at 100 values a second, also of two or three cycles only.

    As `find_cycles`, with what is known beforehand: a cycle lasts about 0.85 s, systole 0.15 s and a fifth of
    the cycle. Both are weighed against the autocorrelation. Raises ValueError for less than 2 s.

    Notebook: 06_adversarial_devices
    """
    if len(loudness) < 2 * RATE:
        raise ValueError(f"{len(loudness) / RATE:.2f} s are too short to find a rhythm in; at least 2 s are needed")
    if np.ptp(loudness) < 1e-6 * loudness.max():
        return Cycles(np.empty(0), np.nan, np.nan)
    rhythm = _autocorrelation(loudness) * np.linspace(1, 0.5, len(loudness) // 2 + 1)  # a long lag has less to go by
    rhythm /= rhythm[0]
    lags = np.arange(round(SHORTEST_S * RATE), min(round(LONGEST_S * RATE), len(rhythm) - 1) + 1)
    cycle = int(lags[np.argmax(rhythm[lags] - _PRIOR * np.square(np.log(lags / RATE / _CYCLE_S) / _CYCLE_SPREAD))])
    lags = np.arange(round(SHORTEST_SYSTOLE_S * RATE), cycle // 2 + 1)
    usual_s = _SYSTOLE_S + _SYSTOLE_SHARE * cycle / RATE
    systole = int(lags[np.argmax(rhythm[lags] - _PRIOR * np.square((lags / RATE - usual_s) / _SYSTOLE_SPREAD_S))])
    return _beats(loudness, cycle, systole)


def _beats(loudness: np.ndarray, cycle: int, systole: int) -> Cycles:
    """The beats of an envelope, whose cycle and systole last so many values."""
    diastole = cycle - systole
    likeness = loudness + _later(loudness, systole)
    if diastole > systole + 0.05 * RATE:  # else the two sounds are too evenly spaced for this
        likeness -= _later(loudness, diastole)
    peaks, _ = scipy.signal.find_peaks(likeness, distance=0.7 * cycle)
    if len(peaks):
        peaks = peaks[likeness[peaks] > 0.3 * np.median(likeness[peaks])]
    return Cycles(np.maximum(peaks / RATE - _LEAD_S, 0.0), cycle / RATE, systole / RATE)


def envelope(waveform: Tensor, sample_rate: int, smooth_hz: float = 15.0) -> np.ndarray:
    """Homomorphic envelope of a waveform (samples,) between 25 and 120 Hz, at 100 values a second.

    The logarithm of the Hilbert amplitude, smoothed by a low-pass at `smooth_hz`, and its exponential again.
    Raises ValueError unless `sample_rate` is a multiple of 100 Hz.
    Source: Gupta et al. 2007, Neural network classification of homomorphic segmented heart sounds.

    Notebook: 05_heart_sounds_physionet
    """
    if sample_rate % RATE:
        raise ValueError(f"an envelope at {RATE} values a second needs a multiple of {RATE} Hz, not {sample_rate} Hz")
    band = scipy.signal.butter(2, VALVES_HZ, "bandpass", fs=sample_rate, output="sos")
    samples = scipy.signal.sosfiltfilt(band, waveform.double().numpy())
    analytic = scipy.signal.hilbert(samples, scipy.fft.next_fast_len(len(samples)))[: len(samples)]
    floor = 1e-3 * samples.std() + 1e-9
    smooth = scipy.signal.butter(2, smooth_hz, fs=sample_rate, output="sos")
    log_amplitude = scipy.signal.sosfiltfilt(smooth, np.log(np.abs(analytic) + floor))
    return np.exp(log_amplitude[:: sample_rate // RATE])


def cycle_starts(recordings: Recordings, progress: bool = True, decoded: Decoded | None = None) -> list[np.ndarray]:
    """For each recording the samples at which its cycles begin, computed once and cached: for `Clips.cut`.

    `decoded` are the samples, if they are decoded already. Raises AudioError for a bad file and DatasetError when the
    cache cannot be written.

    Notebook: 05_heart_sounds_physionet
    """
    decoded = decoded or decode(recordings, progress)
    name = f"{cache_name(recordings)}-{decoded.fingerprint}-{recordings.sample_rate}-{_VERSION}.npz"
    path = environment.cache_folder() / "cycles" / name
    judged = identity(path)
    starts = _read_starts(path, decoded)
    if starts is not None:
        return starts
    discard(path, judged)
    starts = _find_all(recordings, decoded, progress)
    values, counts = np.concatenate(starts), np.array([len(each) for each in starts])
    content = io.BytesIO()
    np.savez(content, starts=values, count=counts, digest=_digest(values, counts))
    with cached_in(path.parent, f"the cycles of {recordings.name}"):
        files.write_whole(path, content.getvalue())
    return starts


def _find_all(recordings: Recordings, decoded: Decoded, progress: bool) -> list[np.ndarray]:
    rate = recordings.sample_rate

    def find(row: int) -> np.ndarray:
        samples = torch.from_numpy(decoded.samples[decoded.offsets[row] : decoded.offsets[row + 1]]).double()
        samples = samples if decoded.samples.dtype.kind == "f" else samples / 32768
        try:
            return np.round(find_cycles(samples, rate).starts * rate).astype(np.int64)
        except ValueError as error:
            raise audio.AudioError(f"{recordings.table['recording'][row]}: {error}") from None

    rows = range(len(recordings))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(tqdm(pool.map(find, rows), f"beats of {recordings.name}", len(rows), disable=not progress, delay=2))


def _read_starts(path: Path, decoded: Decoded) -> list[np.ndarray] | None:
    """The cached starts, or None if they are damaged."""
    try:
        with np.load(path, allow_pickle=False) as content:
            values, counts, digest = content["starts"], content["count"], str(content["digest"])
    except Exception:  # whatever is wrong with it, it can be made again
        return None
    if digest != _digest(values, counts) or len(counts) != len(decoded.offsets) - 1:
        return None
    return np.split(values, np.cumsum(counts)[:-1])


def _digest(values: np.ndarray, counts: np.ndarray) -> str:
    return hashlib.sha256(values.tobytes() + b" " + counts.tobytes()).hexdigest()[:16]


def _autocorrelation(envelope: np.ndarray) -> np.ndarray:
    """Unbiased autocorrelation, so that a long lag is not at a disadvantage, up to half of the recording."""
    centred = envelope - envelope.mean()
    n = len(centred)
    both_sides = np.fft.irfft(np.abs(np.fft.rfft(centred, 2 * n)) ** 2)
    return both_sides[: n // 2 + 1] / np.arange(n, n - n // 2 - 1, -1)


def _later(values: np.ndarray, steps: int) -> np.ndarray:
    return np.concatenate([values[steps:], np.zeros(min(steps, len(values)))])
