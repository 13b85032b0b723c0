"""Whether the tops of a waveform are cut off."""

import numpy as np
from torch import Tensor

CLIPPED = 0.001  # of the samples
_FULL = 2**15  # full scale, in steps of 16 bits
_LOUD = 0.9
_STEPS = {"PCM_U8": 256, "PCM_S8": 256, "ULAW": 1024, "ALAW": 1024}  # near full scale, in steps of 16 bits
_LOSSY = ("VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III")


class Tops:
    """The loudest samples of a recording, which is added part by part: `add(samples)`, then `clipped`.

    `encoding` is that of the file, as libsndfile calls it. Cut-off tops are flat, near full scale, and far more samples
    lie there than just below. What was compressed after it was clipped has no flat tops, but many samples beyond full
    scale.
    """

    def __init__(self, encoding: str = "PCM_16") -> None:
        self.step, self.lossy = _STEPS.get(encoding, 1), encoding in _LOSSY
        self.samples = self.flat = 0
        self.levels = np.zeros(_FULL + 2, dtype=np.int64)

    def add(self, samples: np.ndarray) -> None:
        """Take the next part, shape (..., samples)."""
        self.samples += samples.size
        if max(samples.max(), -samples.min()) < _LOUD / 2:
            return
        steps = np.rint(samples * _FULL)
        beyond = _FULL + 1
        self.levels += np.bincount(np.minimum(np.abs(steps), beyond).astype(int).ravel(), minlength=beyond + 1)
        before, here, after = steps[..., :-2], steps[..., 1:-1], steps[..., 2:]
        near = (np.abs(here - before) <= self.step) & (np.abs(here - after) <= self.step)
        self.flat += int((near & (np.abs(here) > _LOUD * _FULL)).sum())

    @property
    def clipped(self) -> bool:
        """Whether the tops are cut off."""
        if self.lossy:
            return bool(self.levels[_FULL:].sum() > CLIPPED * self.samples)
        if self.levels[-1] or not self.flat:  # a file of floats may go beyond full scale unharmed
            return False
        highest = int(np.flatnonzero(self.levels)[-1])
        top = self.levels[highest - self.step : highest + 1].sum()
        below = self.levels[highest - max(10, 3 * self.step) : highest - self.step].sum()
        return bool(top > CLIPPED * self.samples and top > 3 * below)


def is_clipped(waveform: Tensor) -> bool:
    """Whether the tops of a waveform (samples,) are cut off."""
    tops = Tops()
    tops.add(waveform.numpy())
    return tops.clipped
