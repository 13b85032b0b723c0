"""The residual network of SpectNet on the image of a gammatone filterbank."""

from torch import Tensor, nn
from torch.nn import functional

from course_lib.layers import GammatoneFilterbank, Standardise
from course_lib.layers.waveforms import require_clips
from course_lib.models.base import Classifier, features_of


class ImageNetwork(Classifier):
    """Waveforms (batch, clip_samples) -> logits (batch, n_classes): an image, convolutions, one hidden dense layer."""

    def __init__(
        self, n_classes: int, clip_samples: int, front_end: nn.Module, features: nn.Module, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.clip_samples, self.front_end, self.features = clip_samples, front_end, features
        size = features_of(front_end, features, clip_samples)
        self.dense = nn.Sequential(nn.Linear(size, hidden), nn.ReLU())
        self.classify = nn.Sequential(nn.Dropout(dropout), nn.Linear(hidden, n_classes))

    def embed(self, waveforms: Tensor) -> Tensor:
        require_clips(waveforms, self.clip_samples)
        return self.dense(self.features(self.front_end(waveforms)[:, None]))


class SpectNet(ImageNetwork):
    """Waveforms (batch, clip_samples) -> logits (batch, n_classes), through gammatone images, as first published.

    A convolution, three residual blocks and two dense layers: 1,060,094 parameters on 16 filters and 2,500 samples,
    and 48 in the front end, `GammatoneFilterbank.spectnet`, which learns unless `learnable` is False. With
    `standardise` the logarithm has its floor at 1e-22, not 1e-16, where images of quiet clips hardly vary, and the
    mean of each image becomes 0, its standard deviation 1. With `softmax` the outputs are probabilities, which that
    work fed into the cross-entropy as if they were logits; its dropout at test time is not repeated here. Raises
    ValueError for clips of another length.
    Source: the code of "SpectNet: End-to-end audio signal classification using learnable spectrogram features"; the
    text gives neither kernel sizes nor strides.

    Notebook: 05_heart_sounds_physionet
    """

    def __init__(
        self, n_classes: int = 2, n_filters: int = 16, clip_samples: int = 2500, sample_rate: int = 1000,
        learnable: bool = True, dropout: float = 0.5, softmax: bool = False, standardise: bool = False,
        front_end: nn.Module | None = None,
    ) -> None:  # fmt: skip
        if front_end is None:
            eps = 1e-22 if standardise else 1e-16
            front_end = GammatoneFilterbank.spectnet(n_filters, sample_rate, learnable=learnable, eps=eps)
            if standardise:
                front_end = nn.Sequential(front_end, Standardise())
        super().__init__(n_classes, clip_samples, front_end, residual_layers(dropout), 100, dropout)
        self.softmax = softmax
        if softmax:
            self.classify.append(nn.Softmax(dim=1))


def residual_layers(dropout: float) -> nn.Sequential:
    """The convolutions of a SpectNet: images (batch, 1, bands, frames) -> flat features."""
    # The uneven padding and the dilation look like accidents, but only with them are there 7,680 features of 16 bands
    # and 240 frames, and so the published number of parameters.
    first = nn.Conv2d(1, 16, kernel_size=(2, 3), padding=(1, 3))
    return nn.Sequential(
        nn.Sequential(first, nn.BatchNorm2d(16), nn.ReLU()),
        ZeroPaddedBlock(nn.Conv2d(16, 32, 3), nn.Conv2d(32, 32, 3, padding=2), dropout, nn.MaxPool2d(2)),
        ZeroPaddedBlock(nn.Conv2d(32, 64, 3, padding=1), nn.Conv2d(64, 64, 3, stride=2, padding=1), dropout),
        ZeroPaddedBlock(
            nn.Conv2d(64, 128, 3, padding=1), nn.Conv2d(128, 128, 3, stride=2, padding=1, dilation=(1, 2)), dropout
        ),
        nn.Flatten(),
    )


class ZeroPaddedBlock(nn.Module):
    """Images (batch, channels, height, width) -> twice the channels at half the size: two convolutions and a shortcut.

    The shortcut is 2 x 2 max-pooling; the channels that it lacks are zeros, so that it has nothing to learn.
    """

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d, dropout: float, pool: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            first, nn.BatchNorm2d(first.out_channels), nn.ReLU(), nn.Dropout2d(dropout),
            second, nn.BatchNorm2d(second.out_channels), nn.Dropout2d(dropout), pool or nn.Identity(), nn.ReLU(),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        branch = self.branch(images)
        _, channels, height, width = branch.shape
        # With ceil_mode, then cropped: one band, or an odd number of bands, does not come out a row short.
        shortcut = functional.max_pool2d(images, 2, ceil_mode=True)[:, :, :height, :width]
        return branch + functional.pad(shortcut, (0, 0, 0, 0, 0, channels - shortcut.shape[1]))
