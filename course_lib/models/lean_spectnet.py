"""A lean residual network on the image of a gammatone filterbank."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from course_lib.layers import GammatoneFilterbank, Standardise
from course_lib.layers.waveforms import require_waveforms
from course_lib.models.base import Classifier, mean_and_maximum


class LeanSpectNet(Classifier):
    """Waveforms (batch, samples) -> logits (batch, n_classes), through gammatone images of clips of any length.

    A convolution, then a residual block for each further number in `channels`, which halves bands and frames; one
    layer that sees every band of a frame, its mean and maximum over time, and a linear layer. The default front end
    has the ear's bandwidths in the `band` (Hz), takes away the level of a clip, and learns if `learnable`; any module
    that makes (batch, n_filters, frames) images will do. 327,730 parameters at the defaults and 48 in the front end.
    Source: He et al. 2016 (residual blocks); He et al. 2019, "Bag of tricks" (shortcuts by average pooling).

    Notebook: 05_heart_sounds_physionet
    """

    def __init__(
        self, n_classes: int = 2, n_filters: int = 16, channels: Sequence[int] = (16, 32, 64, 128), width: int = 96,
        dropout: float = 0.3, sample_rate: int = 1000, band: Sequence[float] = (20.0, 400.0), learnable: bool = True,
        front_end: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if front_end is None:
            f_min, f_max = band
            # 1e-8 of full scale's power is below the noise of a recording, so that digital silence stays near it.
            settings = {"f_min": f_min, "f_max": f_max, "learnable": learnable, "eps": 1e-8}
            front_end = nn.Sequential(GammatoneFilterbank(n_filters, sample_rate, **settings), Standardise())
        self.front_end = front_end
        blocks = [ResidualBlock(*sizes) for sizes in pairwise(channels)]
        self.features = nn.Sequential(normalised(1, channels[0], (3, 5), stride=(1, 2)), nn.ReLU(), *blocks)
        bands = n_filters
        for _ in blocks:
            bands = (bands + 1) // 2
        self.across_bands = nn.Conv1d(channels[-1] * bands, width, kernel_size=1)
        self.classify = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * width, n_classes))

    def embed(self, waveforms: Tensor) -> Tensor:
        require_waveforms(waveforms)
        frames = self.features(self.front_end(waveforms)[:, None]).flatten(1, 2)
        return mean_and_maximum(functional.relu(self.across_bands(frames)), dim=2)


class ResidualBlock(nn.Module):
    """Images (batch, channels, height, width) of half the size: two convolutions, and a shortcut past them."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        first, second = normalised(channels_in, channels_out, (3, 3), 2), normalised(channels_out, channels_out, (3, 3))
        self.branch = nn.Sequential(first, nn.ReLU(), second)
        pool = nn.AvgPool2d(2, ceil_mode=True)
        self.shortcut = nn.Sequential(pool, normalised(channels_in, channels_out, (1, 1)))

    def forward(self, images: Tensor) -> Tensor:
        return functional.relu(self.branch(images) + self.shortcut(images))


def normalised(
    channels_in: int, channels_out: int, kernel: tuple[int, int], stride: int | tuple[int, int] = 1
) -> nn.Sequential:
    """A convolution that keeps the size of the image (before the stride), and batch normalisation."""
    padding = (kernel[0] // 2, kernel[1] // 2)
    convolution = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out))
