"""The plain way: convolve, square, average. Slow, but any device, any precision and any derivative."""

from torch import Tensor
from torch.nn import functional

from course_lib.layers.gammatone import response
from course_lib.layers.gammatone.backends import fourier
from course_lib.layers.gammatone.pooling import Pooling


def energies(
    waveforms: Tensor, decay: Tensor, frequency: Tensor, power: Tensor, order: int, pooling: Pooling
) -> Tensor:
    """`power` times the mean squared output (batch, filters, frames) of the filters on waveforms (batch, samples)."""
    taps = min(response.length(decay, order), waveforms.shape[1])
    kernels = response.impulse_response(decay, frequency, order, taps)
    # conv1d correlates; reversed in time it convolves, and zeros in front make it causal.
    outputs = functional.conv1d(functional.pad(waveforms[:, None], (taps - 1, 0)), kernels.flip(1)[:, None])
    return power[:, None] * pooling.mean(outputs.square())


def energies_by_fft(
    waveforms: Tensor, decay: Tensor, frequency: Tensor, power: Tensor, order: int, pooling: Pooling
) -> Tensor:
    """The same with an FFT over the whole clip: for exported programs, whose length is a symbol."""
    return power[:, None] * pooling.mean(fourier.outputs(waveforms, decay, frequency, order, False).square())
