"""A convolutional recurrent network: a convolution for every sound, a recurrent layer for their order."""

from collections.abc import Sequence

from torch import Tensor, nn

from course_lib.models.base import Classifier, DropoutLinear, mean_and_maximum
from course_lib.models.log_mel_cnn import convolution_blocks, log_mel_images


class CRNN(Classifier):
    """Waveforms (batch, samples) -> logits (batch, n_classes), through log-mel frames read in both directions.

    Blocks of 3 x 3 convolution, batch normalisation, ReLU and 2 x 2 max-pooling (the last one over bands only), a
    bidirectional gated recurrent layer of `hidden` units each way over the frames, its mean and maximum over time,
    and a linear layer. `front_end` may be any module that makes (batch, n_mels, frames) images of waveforms.
    Source: Cho et al. 2014 (gated recurrent unit); Choi et al. 2017, "Convolutional recurrent neural networks".

    Notebook: 03b_rivals_and_noise
    """

    def __init__(
        self, n_classes: int = 10, n_mels: int = 40, channels: Sequence[int] = (16, 32, 64), hidden: int = 64,
        dropout: float = 0.3, sample_rate: int = 8000, front_end: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.front_end = log_mel_images(sample_rate, n_mels) if front_end is None else front_end
        self.features = convolution_blocks(channels)
        self.features[-1] = nn.MaxPool2d((2, 1))  # keeps every frame that is left
        bands = n_mels // 2 ** len(channels)
        self.recurrent = nn.GRU(channels[-1] * bands, hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)
        self.classify = DropoutLinear(4 * hidden, n_classes, dropout)

    def embed(self, waveforms: Tensor) -> Tensor:
        frames = self.features(self.front_end(waveforms)[:, None]).flatten(1, 2).transpose(1, 2)
        states, _ = self.recurrent(self.dropout(frames))
        return mean_and_maximum(states, dim=1)
