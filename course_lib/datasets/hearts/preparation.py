"""What is done to a heart sound before it reaches a network: 1 kHz, the band of heart sounds, no spikes, one level."""

from __future__ import annotations

from functools import cache

import numpy as np
import scipy.signal
import torch
from pydantic import Field, model_validator
from torch import Tensor

from course_lib import audio
from course_lib.datasets.dataset import Preparation

SAMPLE_RATE = 2000  # as published, in Hz
SHORTEST_S = 2.5  # a segment
LEVEL = 1 / 20
_FLAT = 1e-6  # thirty times less than one step of a 16-bit file


class HeartPreparation(Preparation):
    """Heart sounds (samples,) at `from_rate` Hz -> the same ones at `sample_rate` Hz, cleaned and at one level.

    Crop to the first `first_s` seconds (None: keep all), resample, keep the band `low_hz` .. `high_hz`, remove spikes
    and normalise. Raises AudioError for a recording shorter than `shortest_s`, a segment, and for a flat
    line.
    Source: Schmidt et al. 2010, doi:10.1088/0967-3334/31/4/004; the challenge's sample entry prepares its sounds so.

    Notebook: 05_heart_sounds_physionet
    """

    from_rate: int = Field(SAMPLE_RATE, gt=0)
    sample_rate: int = Field(1000, gt=0)
    low_hz: float = Field(25.0, gt=0)
    high_hz: float = Field(400.0, gt=0)
    spikes_removed: bool = True
    first_s: float | None = Field(None, ge=SHORTEST_S)
    shortest_s: float = Field(SHORTEST_S, gt=0, repr=False)  # changes no sample, so it is no part of a cache's key

    @model_validator(mode="after")
    def _possible(self) -> HeartPreparation:
        if not self.low_hz < self.high_hz < self.sample_rate / 2:
            raise ValueError(f"the band must be below half of the sample rate, {self.sample_rate / 2:g} Hz")
        return self

    def __call__(self, waveform: Tensor) -> Tensor:
        lasts = len(waveform) / self.from_rate
        if lasts < self.shortest_s:
            raise audio.AudioError(
                f"lasts {lasts:.2f} s, less than the {self.shortest_s:g} s of a segment; take it out of the data"
            )
        if self.first_s is not None:
            waveform = waveform[: round(self.first_s * self.from_rate)]
        _require_sound(waveform)
        # In double precision the samples are the same on every machine once they are rounded to 16 bits.
        waveform = audio.resample(waveform.double(), self.from_rate, self.sample_rate)
        waveform = band_pass(waveform, self.sample_rate, self.low_hz, self.high_hz)
        if self.spikes_removed:
            waveform = remove_spikes(waveform, self.sample_rate)
        _require_sound(waveform)
        return normalise(waveform).float()


def _require_sound(waveform: Tensor) -> None:
    if waveform.std() < _FLAT:
        raise audio.AudioError("is a flat line without a heart sound; take it out of the data")


def band_pass(
    waveform: Tensor, sample_rate: int, low_hz: float = 25.0, high_hz: float = 400.0, order: int = 2
) -> Tensor:
    """Butterworth band-pass of (samples,), run forwards and backwards: no delay, and -6 dB at both edges (Hz).

    Notebook: 05_heart_sounds_physionet
    """
    sections = _butterworth(order, low_hz, high_hz, sample_rate)
    return torch.from_numpy(scipy.signal.sosfiltfilt(sections, waveform.numpy()).copy())


@cache
def _butterworth(order: int, low_hz: float, high_hz: float, sample_rate: int) -> np.ndarray:
    return scipy.signal.butter(order, (low_hz, high_hz), "bandpass", fs=sample_rate, output="sos")


def remove_spikes(waveform: Tensor, sample_rate: int, window_s: float = 0.5, times: float = 3.0) -> Tensor:
    """Silence the half-waves of (samples,) that tower over the rest, such as a finger knocking on the stethoscope.

    While the peak of a window of `window_s` seconds is over `times` the median of all windows' peaks, the highest one
    is silenced from the zero crossing before it to the one after it. Where no more than half of the windows sound, as
    in a recording filled up with zeros, the median is that of those.
    Source: Schmidt et al. 2010, doi:10.1088/0967-3334/31/4/004.

    Notebook: 05_heart_sounds_physionet
    """
    samples = waveform.numpy().copy()
    level = np.abs(samples)
    window = round(window_s * sample_rate)
    starts = np.arange(0, len(samples), window)
    peaks = np.maximum.reduceat(level, starts)
    counted = peaks > _FLAT
    if 2 * counted.sum() > len(peaks) or not counted.any():
        counted[:] = True
    # A half-wave goes from one edge to the next.
    edges = np.concatenate([[0], 1 + np.flatnonzero(np.diff(np.signbit(samples))), [len(samples)]])
    while peaks.max() > times * np.median(peaks[counted]):
        highest = starts[np.argmax(peaks)]
        top = highest + np.argmax(level[highest : highest + window])
        after = np.searchsorted(edges, top, side="right")
        begin, end = edges[after - 1], edges[after]
        samples[begin:end] = level[begin:end] = 0
        for touched in range(begin // window, (end - 1) // window + 1):
            peaks[touched] = level[touched * window : (touched + 1) * window].max()
    return torch.from_numpy(samples)


def normalise(waveform: Tensor) -> Tensor:
    """A waveform (samples,) with mean 0 and standard deviation 1/20; what is beyond 20 deviations is clipped to 1.

    Notebook: 05_heart_sounds_physionet
    """
    centred = waveform - waveform.mean()
    return (LEVEL * centred / centred.std()).clamp(-1, 1)
