"""The spectrogram CNN of the first FSDD experiment."""

from torch import Tensor, nn

from course_lib.layers import LogSpectrogram
from course_lib.models.base import Classifier, DropoutLinear


def convolution_block(channels_in: int, channels_out: int, kernel_size: int) -> nn.Sequential:
    """Convolution with padding 2, 2 x 2 max-pooling, ReLU: maps (batch, channels, height, width) of half the size."""
    convolution = nn.Conv2d(channels_in, channels_out, kernel_size, padding=2)
    # ReLU before or after max-pooling is the same function; after it, it has a quarter of the work.
    return nn.Sequential(convolution, nn.MaxPool2d(2), nn.ReLU())


class SpectrogramCNN(Classifier):
    """Waveforms (batch, samples) -> logits (batch, n_classes), through 64 x 64 images: 84,682 parameters by default.

    Notebook: 02_spoken_digits_cnn
    """

    def __init__(self, n_classes: int = 10, dropout: float = 0.0, front_end: nn.Module | None = None) -> None:
        super().__init__()
        self.front_end = LogSpectrogram() if front_end is None else front_end
        blocks = [convolution_block(*sizes) for sizes in ((1, 16, 5), (16, 32, 5), (32, 64, 3), (64, 64, 3))]
        self.features = nn.Sequential(*blocks)
        self.classify = DropoutLinear(64 * 5 * 5, n_classes, dropout)

    def embed(self, waveforms: Tensor) -> Tensor:
        """Features in front of the last layer, shape (batch, 1600)."""
        return self.features(self.front_end(waveforms)[:, None]).flatten(1)
