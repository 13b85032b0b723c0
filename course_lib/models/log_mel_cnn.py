"""A small CNN on log-mel energies, for speakers that are not in its training."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from course_lib.layers import LogMel, Standardise
from course_lib.models.base import Classifier, DropoutLinear, mean_and_maximum


class LogMelCNN(Classifier):
    """Waveforms (batch, samples) -> logits (batch, n_classes), through log-mel images: 127,002 parameters by default.

    Convolution blocks, one layer that sees every band of a frame, and its mean and maximum over time. `front_end` may
    be any module that makes (batch, n_mels, frames) images of waveforms.

    Notebook: 02_spoken_digits_cnn
    """

    def __init__(
        self, n_classes: int = 10, n_mels: int = 40, channels: Sequence[int] = (16, 32, 64, 96), dropout: float = 0.3,
        sample_rate: int = 8000, front_end: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.front_end = log_mel_images(sample_rate, n_mels) if front_end is None else front_end
        self.features = convolution_blocks(channels)[:-1]
        bands = n_mels // 2 ** (len(channels) - 1)
        self.across_bands = nn.Conv1d(channels[-1] * bands, channels[-1], kernel_size=1)
        self.classify = DropoutLinear(2 * channels[-1], n_classes, dropout)

    def embed(self, waveforms: Tensor) -> Tensor:
        frames = self.features(self.front_end(waveforms)[:, None]).flatten(1, 2)
        return mean_and_maximum(functional.relu(self.across_bands(frames)), dim=2)


def log_mel_images(sample_rate: int, n_mels: int) -> nn.Sequential:
    """The default front end: waveforms (batch, samples) -> standardised log-mel images (batch, n_mels, frames)."""
    return nn.Sequential(LogMel(sample_rate, n_mels), Standardise())


def convolution_blocks(channels: Sequence[int]) -> nn.Sequential:
    """Images (batch, 1, bands, frames) -> maps, in blocks that each halve both sides; four modules a block."""
    blocks: list[nn.Module] = []
    for channels_in, channels_out in zip((1, *channels[:-1]), channels, strict=True):
        convolution = nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False)
        blocks += [convolution, nn.BatchNorm2d(channels_out), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*blocks)
