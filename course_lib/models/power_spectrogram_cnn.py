"""The spectrogram CNN of the raw-waveform experiment: its rival, two convolutions and two dense layers."""

from torch import Tensor, nn

from course_lib.layers import PowerSpectrogram
from course_lib.layers.waveforms import require_clips
from course_lib.models.base import Classifier, DropoutLinear, features_of


class PowerSpectrogramCNN(Classifier):
    """Waveforms (batch, clip_samples) -> logits (batch, n_classes), through images of their power spectrograms.

    Two blocks of 3 x 3 convolution, batch normalisation, ReLU and 2 x 2 max-pooling, dropout 0.25, a dense layer of
    128 units, dropout 0.5, a dense layer. With `log` the front end takes the logarithm of the power, else, as in the
    first experiment, it does not. `slow_batch_norm` is batch normalisation as its framework, Keras, does it:
    the running averages move by 1 % a batch and not by 10 %, so that a short training ends before they have arrived,
    and 0.001 is added to the variance. Raises ValueError for clips of another length.

    Notebook: 03b_rivals_and_noise
    """

    def __init__(
        self, n_classes: int = 10, clip_samples: int = 5000, log: bool = True, slow_batch_norm: bool = False,
        front_end: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.clip_samples = clip_samples
        self.front_end = PowerSpectrogram(log=log) if front_end is None else front_end
        slow = {"momentum": 0.01, "eps": 1e-3} if slow_batch_norm else {}
        blocks: list[nn.Module] = []
        for channels_in, channels_out in ((1, 32), (32, 64)):
            convolution = nn.Conv2d(channels_in, channels_out, kernel_size=3)
            blocks += [convolution, nn.BatchNorm2d(channels_out, **slow), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*blocks, nn.Dropout(0.25), nn.Flatten())
        size = features_of(self.front_end, self.features, clip_samples)
        self.dense = nn.Sequential(nn.Linear(size, 128), nn.ReLU())
        self.classify = DropoutLinear(128, n_classes, 0.5)

    def embed(self, waveforms: Tensor) -> Tensor:
        require_clips(waveforms, self.clip_samples)
        return self.dense(self.features(self.front_end(waveforms)[:, None]))
