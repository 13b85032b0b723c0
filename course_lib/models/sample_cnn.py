"""Networks on the samples themselves: sample by sample, and in strides of 256 as in the first experiment."""

from torch import Tensor, nn

from course_lib.layers.waveforms import require_clips
from course_lib.models.base import Classifier


def sample_level_blocks(clip_samples: int, width: int) -> nn.Sequential:
    """The layers of a SampleCNN: maps (batch, 1, 1, clip_samples) -> (batch, channels, 1, frames), frames below 3.

    The clip length decides on their number (3^8 = 6,561 samples: 8); `width` channels double after every third block.
    """
    if clip_samples < 9:
        raise ValueError(f"a clip of {clip_samples} samples is too short for a SampleCNN; it needs 9")
    # Images one pixel high, because two-dimensional convolutions are twice as fast on the CPU.
    first = nn.Conv2d(1, width, (1, 3), stride=(1, 3), bias=False)
    blocks = [nn.Sequential(first, nn.BatchNorm2d(width), nn.ReLU())]
    frames, channels = clip_samples // 3, width
    while frames >= 3:
        wider = width * 2 ** ((len(blocks) - 1) // 3)
        convolution = nn.Conv2d(channels, wider, (1, 3), padding=(0, 1), bias=False)
        blocks.append(nn.Sequential(convolution, nn.BatchNorm2d(wider), nn.MaxPool2d((1, 3)), nn.ReLU()))
        frames, channels = frames // 3, wider
    return nn.Sequential(*blocks)


class SampleCNN(Classifier):
    """Waveforms (batch, clip_samples) -> logits (batch, n_classes), three samples at a time until one frame is left.

    Raises ValueError for clips of another length. Source: Lee et al. 2017, arXiv 1703.01789.

    Notebook: 03_raw_waveforms_sample_cnn
    """

    def __init__(
        self, n_classes: int = 10, clip_samples: int = 6561, width: int = 32, front_end: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.clip_samples = clip_samples
        self.front_end = nn.Identity() if front_end is None else front_end
        self.features = sample_level_blocks(clip_samples, width)
        self.classify = nn.Sequential(nn.Dropout(0.5), nn.Linear(self.features[-1][0].out_channels, n_classes))

    def embed(self, waveforms: Tensor) -> Tensor:
        """Features in front of the last layer, shape (batch, channels)."""
        require_clips(waveforms, self.clip_samples)
        waveforms = self.in_own_precision(self.front_end(waveforms))
        return self.features(waveforms[:, None, None]).mean(dim=(2, 3))


def strided_layers(stride: int, bias: bool = True) -> nn.Sequential:
    """The convolutions of a StridedSampleCNN: (batch, 1, samples) -> (batch, 64, frames)."""

    def layer(channels_in: int, channels_out: int, taps: int, stride: int = 1) -> nn.Sequential:
        convolution = nn.Conv1d(channels_in, channels_out, taps, stride=stride, bias=bias)
        return nn.Sequential(convolution, nn.BatchNorm1d(channels_out), nn.ReLU())

    first, second = layer(1, 16, 256, stride), layer(16, 16, 2)
    return nn.Sequential(first, second, nn.MaxPool1d(2), layer(16, 32, 2), nn.MaxPool1d(2), layer(32, 64, 1))


class StridedSampleCNN(Classifier):
    """Waveforms (batch, clip_samples) -> logits (batch, n_classes), in frames `stride` apart, as first published.

    Unusual: `unscaled` feeds integers up to 32,768, `sigmoid` squeezes the outputs into (0, 1), each convolution has a
    `bias` before its batch normalisation. Raises ValueError for clips of another length.

    Notebook: 03_raw_waveforms_sample_cnn
    """

    def __init__(
        self, n_classes: int = 10, clip_samples: int = 18_400, stride: int = 256, dropout: float = 0.6,
        unscaled: bool = False, sigmoid: bool = False, bias: bool = True, front_end: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.clip_samples, self.unscaled, self.sigmoid = clip_samples, unscaled, sigmoid
        self.front_end = nn.Identity() if front_end is None else front_end
        self.features, frames = strided_layers(stride, bias), frames_left(clip_samples, stride)
        squash = nn.Sigmoid() if sigmoid else nn.Identity()
        # The first identity keeps the names that saved weights have.
        self.classify = nn.Sequential(nn.Identity(), nn.Dropout(dropout), nn.Linear(64 * frames, n_classes), squash)

    def embed(self, waveforms: Tensor) -> Tensor:
        """Features in front of the last layer, shape (batch, 64 * frames)."""
        require_clips(waveforms, self.clip_samples)
        waveforms = self.front_end(waveforms) * (32_768 if self.unscaled else 1)
        return self.features(self.in_own_precision(waveforms)[:, None]).flatten(1)


def frames_left(clip_samples: int, stride: int) -> int:
    """Frames behind `strided_layers`: a convolution of 256 samples, then twice one of 2 frames and pooling by 2."""
    if stride < 1:
        raise ValueError(f"a stride is at least 1, not {stride}")
    if clip_samples < 256 + 6 * stride:
        raise ValueError(
            f"a clip of {clip_samples} samples is too short; a stride of {stride} needs {256 + 6 * stride}"
        )
    return ((clip_samples - 256) // stride // 2 - 1) // 2
