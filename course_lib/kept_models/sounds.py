"""A sound as strangers record it: any numbers, any channels, and somewhere in it a word."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional
from torchaudio.functional import highpass_biquad

_FRAME_S, _HOP_S = 0.02, 0.01
_LOUD_S = 0.25  # a word is where the most energy is in so much time, so that a click is none
_BRIDGED_S = 0.2  # the closure of a consonant inside a word, as in "six" and "eight", is shorter
_BELOW_DB = 35.0  # a word's softest sound, under its loudest
_ABOVE_FLOOR = 0.3  # of the way from the level of the background to that of the word, in dB
_SURELY_DB = 12.0  # less than so much below the loudest is sound, though the background should seem as loud
_RUMBLE_HZ = 100.0
_CANCELLED = 0.1  # as in `course_lib.audio`
_MOST_CHANNELS = 64


def mono(samples: ArrayLike | Tensor) -> Tensor:
    """One channel, float32, without its mean, from (samples,) or (channels, samples) of any numbers; peak 1.

    Channels are averaged; where they cancel each other, the loudest is taken. Raises ValueError for another shape, for
    no samples, for what is not finite and for a constant.
    """
    values = samples.detach().cpu().numpy() if isinstance(samples, Tensor) else np.asarray(samples)
    if values.dtype.kind not in "fiu" or values.ndim not in (1, 2):
        raise ValueError(
            f"expected numbers of shape (samples,) or (channels, samples), got {values.dtype} {values.shape}"
        )
    if values.size == 0:
        raise ValueError("there are no samples to classify; record again")
    if values.ndim == 2 and len(values) > _MOST_CHANNELS:
        raise ValueError(f"the shape {values.shape} says {len(values):,} channels; give (channels, samples)")
    channels = np.atleast_2d(values).astype(np.float64)
    if not np.isfinite(channels).all():
        raise ValueError("the samples are not all finite (NaN or infinite); record again")
    channels = channels - channels.mean(axis=1, keepdims=True)
    largest = np.abs(channels).max()
    # Rounding alone leaves this much of a constant.
    if largest <= 1e-9 * max(1e-9, np.abs(values.astype(np.float64)).max()):
        raise ValueError("there is nothing to hear in the samples; is the microphone muted?")
    channels /= largest
    power = np.square(channels).mean(axis=1)
    mixed = channels.mean(axis=0)
    if np.square(mixed).mean() < _CANCELLED * power.mean() / len(channels):
        mixed = channels[power.argmax()]
    return torch.from_numpy(mixed / np.abs(mixed).max()).float()


def find_word(waveform: Tensor, rate: int, longest: float = 1.0) -> tuple[int, int]:
    """First sample and end of the word in a waveform (samples,) at `rate` Hz: its stretch of most energy.

    It reaches from there to both sides for as long as there is sound, over gaps of 0.2 s, and at most `longest`
    seconds. Sound is what is less than 35 dB below the word's loudest frame and clearly above the background, which is
    the level that a tenth of the frames do not reach. Below 100 Hz nothing counts.
    Source: energy end-pointing, Rabiner and Sambur 1975.

    Notebook: 02_spoken_digits_cnn
    """
    frame, hop = round(_FRAME_S * rate), round(_HOP_S * rate)
    if len(waveform) <= frame:
        return 0, len(waveform)
    power = highpass_biquad(waveform, rate, _RUMBLE_HZ).square()
    power = functional.avg_pool1d(power[None], frame, hop, ceil_mode=True)[0].double().clamp(min=1e-12)
    wide = min(round(_LOUD_S / _HOP_S), len(power))
    around = power.unfold(0, wide, 1).mean(dim=1).argmax()
    peak = int(around + power[around : around + wide].argmax())
    level = 10 * power.log10()
    floor = level.quantile(0.1)
    above_floor = torch.minimum(floor + _ABOVE_FLOOR * (level[peak] - floor), level[peak] - _SURELY_DB)
    threshold = torch.maximum(level[peak] - _BELOW_DB, above_floor)
    loud = torch.nonzero(level >= threshold)[:, 0]
    apart = torch.diff(loud) > round(_BRIDGED_S / _HOP_S)
    word = torch.cat([torch.zeros(1, dtype=torch.long), apart.long().cumsum(0)])
    own = loud[word == word[loud == peak]]
    start, end = int(own[0]) * hop, min(int(own[-1]) * hop + frame, len(waveform))
    most = round(longest * rate)
    if end - start > most:  # its stretch of most energy, of that length
        energy = torch.cat([torch.zeros(1, dtype=torch.double), waveform[start:end].double().square().cumsum(0)])
        start += int((energy[most:] - energy[:-most]).argmax())
        end = start + most
    return start, end
