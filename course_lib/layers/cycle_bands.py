"""The average cycle of a heart: how loud each band is at each phase, against its own mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from course_lib.layers.arguments import number, whole
from course_lib.layers.front_end import FrontEnd
from course_lib.layers.waveforms import sounding_length

if TYPE_CHECKING:
    from course_lib.datasets.hearts.cycles import Cycles

EDGES_HZ = (25, 40, 55, 70, 85, 100, 120, 140, 165, 190, 220, 255, 295, 340, 400)
SHORTEST_S = 2.0
VALVES_HZ = 165  # below it the sounds of the valves are loud, and most murmurs are not
_FRAME_S, _HOP_S = 0.064, 0.01  # the hop is that of `likely_cycles`
_SMOOTH_HZ = 15
_BINS_S = 0.256  # zeros behind a frame make the bins of its spectrum narrower than the narrowest band
_FLOOR = 1e-4  # of a band's mean power: 40 dB below it
_FASTEST, _SLOWEST = 0.75, 1.33  # of the typical cycle: what is further off has a beat too many or too few


class CycleBands(FrontEnd):
    """Waveforms of hearts (batch, samples) -> the average cycle of each (batch, bands, phases), in dB.

    The power in each band between two of `edges_hz`, every 10 ms, in dB above the band's mean over the whole clip.
    Cycles are found by `likely_cycles` in the mean level of the lower bands: `systole` phases are from the first heart
    sound to the second, `diastole` phases from there to the next first one. What a phase holds is averaged over the
    cycles. Since each band has its own mean taken away, a gain cancels, and so does a linear filter such as a
    stethoscope, as far as it is even within a band. Zeros at the end are no part of a clip. Of silence the image is 0.
    Raises ValueError for clips of less than 2 s.
    Source: states of the cardiac cycle as in Springer et al. 2016, doi:10.1109/TBME.2015.2475278.

    Notebook: 06_adversarial_devices
    """

    def __init__(
        self, sample_rate: int, edges_hz: Sequence[float] = EDGES_HZ, systole: int = 8, diastole: int = 12
    ) -> None:
        super().__init__()
        self.sample_rate = whole("sample_rate", sample_rate)
        if sample_rate % 100:
            raise ValueError(f"sample_rate is {sample_rate}; it must be a multiple of 100 Hz")
        self.edges_hz = tuple(number("edges_hz", edge, at_least=0, at_most=sample_rate / 2) for edge in edges_hz)
        if len(self.edges_hz) < 2 or list(self.edges_hz) != sorted(set(self.edges_hz)):
            raise ValueError(
                f"edges_hz are {edges_hz}; they must be at least two frequencies, each above the one before"
            )
        self.systole, self.diastole = whole("systole", systole), whole("diastole", diastole)
        self.shortest = round(SHORTEST_S * sample_rate)
        self.settings = {name: getattr(self, name) for name in ("sample_rate", "edges_hz", "systole", "diastole")}

    @property
    def features(self) -> int:
        """How many numbers an image has."""
        return (len(self.edges_hz) - 1) * (self.systole + self.diastole)

    def image(self, waveforms: Tensor) -> Tensor:
        return _images(waveforms, self.sample_rate, self.edges_hz, self.systole, self.diastole)

    def _average_cycles(self, waveforms: Tensor) -> Tensor:
        """The image, computed by numpy clip by clip; `torch.compile` sees it as one operator."""
        lengths = sounding_length(waveforms)[:, 0].clamp(min=self.shortest).tolist()
        clips = waveforms.detach().cpu().double().numpy()
        images = [self._average_cycle(clip[:length]) for clip, length in zip(clips, lengths, strict=True)]
        return torch.from_numpy(np.stack(images)).to(waveforms)

    def _average_cycle(self, clip: np.ndarray) -> np.ndarray:
        if not np.isfinite(clip).all():
            return np.full((len(self.edges_hz) - 1, self.systole + self.diastole), np.nan)
        # Needs scipy and the data sets, which other layers do without.
        from course_lib.datasets.hearts.cycles import likely_cycles

        bands = self._bands(clip)
        cycles = likely_cycles(self._loudness(bands))
        if not len(cycles.starts):
            return np.zeros((len(bands), self.systole + self.diastole))
        until = np.pad(bands.cumsum(axis=1), ((0, 0), (1, 0)))  # the mean of a phase is a difference of these
        edges = self._phases(cycles, bands.shape[1])
        before = np.minimum(edges.astype(int), bands.shape[1] - 1)
        up_to = until[:, before] + (edges - before) * (until[:, before + 1] - until[:, before])
        phases = np.diff(up_to, axis=2) / np.maximum(np.diff(edges, axis=1), 1e-3)
        return phases.mean(axis=1)

    def _bands(self, clip: np.ndarray) -> np.ndarray:
        """The level of each band, shape (bands, frames), in dB above its mean."""
        frame, hop, size = (round(seconds * self.sample_rate) for seconds in (_FRAME_S, _HOP_S, _BINS_S))
        frames = np.lib.stride_tricks.sliding_window_view(np.pad(clip, (frame // 2, frame)), frame)[::hop]
        frames = frames[: 1 + (len(clip) - 1) // hop]
        power = np.square(np.abs(np.fft.rfft(frames * np.hanning(frame), size)))
        hertz = np.fft.rfftfreq(size, 1 / self.sample_rate)
        low, high = np.array(self.edges_hz)[:-1, None], np.array(self.edges_hz)[1:, None]
        energies = ((hertz >= low) & (hertz < high)).astype(float) @ power.T
        mean = energies.mean(axis=1, keepdims=True)
        level = 10 * np.log10(np.divide(energies, mean, out=np.zeros_like(energies), where=mean > 0) + _FLOOR)
        return level - level.mean(axis=1, keepdims=True)

    def _loudness(self, bands: np.ndarray) -> np.ndarray:
        """The mean level of the lower bands as power, smoothed: an envelope in which a stethoscope cancels, too."""
        import scipy.signal

        lower = np.array(self.edges_hz)[1:] <= VALVES_HZ
        level = bands[lower if lower.any() else slice(None)].mean(axis=0)
        smooth = scipy.signal.butter(2, _SMOOTH_HZ, fs=1 / _HOP_S, output="sos")
        return 10 ** (scipy.signal.sosfiltfilt(smooth, level) / 10)

    def _phases(self, cycles: Cycles, frames: int) -> np.ndarray:
        """Where the phases of each whole cycle begin and the last one ends, in frames: (cycles, phases + 1)."""
        starts = cycles.starts / _HOP_S
        typical, systole = cycles.cycle_s / _HOP_S, cycles.systole_s / _HOP_S
        lasts = np.append(np.diff(starts), typical)
        lasts = np.where((lasts > _FASTEST * typical) & (lasts < _SLOWEST * typical), lasts, typical)
        whole_ones = starts + lasts <= frames + 2
        if not whole_ones.any():
            whole_ones[0] = True  # what there is of it
        starts, lasts = starts[whole_ones, None], lasts[whole_ones, None]
        first = starts + np.linspace(0, systole, self.systole + 1)[:-1]
        second = starts + systole + (lasts - systole) * np.linspace(0, 1, self.diastole + 1)
        return np.clip(np.concatenate([first, second], axis=1), 0, frames)


@torch.library.custom_op(
    "course_lib::cycle_bands",
    mutates_args=(),
    schema="(Tensor waveforms, int sample_rate, float[] edges_hz, int systole, int diastole) -> Tensor",
)
def _images(waveforms: Tensor, sample_rate: int, edges_hz: Sequence[float], systole: int, diastole: int) -> Tensor:
    layer = CycleBands(sample_rate, edges_hz, systole, diastole)
    return layer._average_cycles(waveforms)


@_images.register_fake
def _(waveforms: Tensor, sample_rate: int, edges_hz: Sequence[float], systole: int, diastole: int) -> Tensor:
    return waveforms.new_empty(len(waveforms), len(edges_hz) - 1, systole + diastole)
