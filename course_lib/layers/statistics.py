"""What remains of an image when its order in time is forgotten."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.layers.waveforms import require_images, single_at_least

_CORRELATED, _CHANGING = 16, 10  # broader bands
_LAGS = tuple(2**power for power in range(8))  # frames


class BandStatistics(nn.Module):
    """Images in dB (batch, bands, frames) -> statistics over time (batch, 3 * bands + 200).

    Of each band the mean, the logarithm of its spread, and its skewness. Of 16 broader bands, means of bands next to
    each other, the correlations with each other. Of 10 broader bands the logarithms of the mean change within 1, 2, 4
    ... 128 frames, which tell hiss from hum and steps from speech. Raises ValueError for images of fewer than 16 bands
    or 129 frames.
    Source: after McDermott and Simoncelli 2011, "Sound texture perception via statistics of the auditory periphery".

    Notebook: 07_acoustic_scenes
    """

    def forward(self, images: Tensor) -> Tensor:
        require_images(images)
        bands, frames = images.shape[1:]
        if bands < _CORRELATED or frames <= _LAGS[-1]:
            needed = f"{_CORRELATED} bands and {_LAGS[-1] + 1} frames"
            raise ValueError(f"an image of {bands} bands and {frames} frames is too small; it needs {needed}")
        given, images = images.dtype, images.to(single_at_least(images.dtype))
        mean = images.mean(dim=2)
        centred = images - mean[:, :, None]
        spread = centred.square().mean(dim=2, keepdim=True).clamp(min=1e-4).sqrt()  # dB: a band may be silent
        normal = centred / spread
        broad = functional.adaptive_avg_pool2d(normal, (_CORRELATED, frames))
        correlations = broad @ broad.transpose(1, 2) / frames
        pairs = torch.triu_indices(_CORRELATED, _CORRELATED, offset=1, device=images.device)
        broader = functional.adaptive_avg_pool2d(images, (_CHANGING, frames))
        changes = [(broader[..., lag:] - broader[..., :-lag]).abs().mean(dim=2) for lag in _LAGS]
        statistics = [mean, (spread[..., 0] + 0.1).log(), normal.pow(3).mean(dim=2), correlations[:, *pairs]]
        return torch.cat([*statistics, (torch.cat(changes, dim=1) + 0.1).log()], dim=1).to(given)
