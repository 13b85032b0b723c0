"""The spectrogram CNN of the first FSDD experiment."""

from __future__ import annotations

from torch import Tensor, nn

from course_lib.layers import LogSpectrogram


class SpectrogramCNN(nn.Module):
    """Waveforms (batch, samples) -> logits (batch, n_classes), through a 64 x 64 grey spectrogram image.

    Four blocks of convolution, ReLU and 2 x 2 max-pooling, then one linear layer: 84,682 parameters for ten classes.
    `dropout` acts on the features in front of the linear layer. `front_end` may be any module that makes
    (batch, 64, 64) images of waveforms.

    Notebook: 02_spoken_digits_cnn
    """

    def __init__(self, n_classes: int = 10, dropout: float = 0.0, front_end: nn.Module | None = None) -> None:
        super().__init__()
        self.front_end = LogSpectrogram() if front_end is None else front_end
        self.features = nn.Sequential(
            self._block(1, 16, kernel_size=5),
            self._block(16, 32, kernel_size=5),
            self._block(32, 64, kernel_size=3),
            self._block(64, 64, kernel_size=3),
            nn.Flatten(),
        )
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(64 * 5 * 5, n_classes)

    @staticmethod
    def _block(channels_in: int, channels_out: int, kernel_size: int) -> nn.Sequential:
        convolution = nn.Conv2d(channels_in, channels_out, kernel_size, padding=2)
        return nn.Sequential(convolution, nn.ReLU(), nn.MaxPool2d(2))

    def embed(self, waveforms: Tensor) -> Tensor:
        """Features in front of the last layer, shape (batch, 1600)."""
        return self.features(self.front_end(waveforms)[:, None])

    def forward(self, waveforms: Tensor) -> Tensor:
        return self.classify(self.dropout(self.embed(waveforms)))
