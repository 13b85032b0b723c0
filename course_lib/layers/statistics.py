"""What remains of an image when its order in time is forgotten."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.layers.waveforms import require_images, single_at_least

_BANDS = 16  # of the correlations


class BandStatistics(nn.Module):
    """Images in dB (batch, bands, frames) -> statistics over time (batch, 4 * bands + 120).

    Of each band the mean, the logarithms of its spread and of its mean change from frame to frame, and its skewness;
    and the correlations of 16 broader bands with each other, which are means of bands next to each other. Raises
    ValueError for images of fewer than 16 bands or two frames.
    Source: McDermott and Simoncelli 2011, "Sound texture perception via statistics of the auditory periphery".

    Notebook: 07_acoustic_scenes
    """

    def forward(self, images: Tensor) -> Tensor:
        require_images(images)
        if images.shape[1] < _BANDS or images.shape[2] < 2:
            raise ValueError(f"images of {images.shape[1]} bands and {images.shape[2]} frames; it needs {_BANDS} and 2")
        images = images.to(single_at_least(images.dtype))
        mean = images.mean(dim=2)
        centred = images - mean[:, :, None]
        spread = centred.square().mean(dim=2).sqrt() + 0.01  # dB: a band may be silent
        change = images.diff(dim=2).abs().mean(dim=2)
        normal = centred / spread[:, :, None]
        skewness = normal.pow(3).mean(dim=2)
        broad = functional.adaptive_avg_pool2d(normal, (_BANDS, images.shape[2]))
        correlations = broad @ broad.transpose(1, 2) / images.shape[2]
        pairs = torch.triu_indices(_BANDS, _BANDS, offset=1, device=images.device)
        of_bands = [mean, (spread + 0.1).log(), (change + 0.1).log(), skewness]
        return torch.cat([*of_bands, correlations[:, pairs[0], pairs[1]]], dim=1)
