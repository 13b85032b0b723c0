"""Two small networks on fixed gammatone images: the baselines that SpectNet was compared with.

That comparison names them and gives their scores, but neither their layers nor their filterbank. What is here follows
two entries of the PhysioNet/CinC Challenge 2016 that such networks go back to, in sizes of our own.
"""

from torch import nn

from course_lib.layers import GammatoneFilterbank
from course_lib.models.spectnet import ImageNetwork


def gammatone_images(n_filters: int, sample_rate: int) -> nn.Module:
    """The default front end: waveforms (batch, samples) -> images (batch, n_filters, frames) of fixed filters."""
    return GammatoneFilterbank.spectnet(n_filters, sample_rate, learnable=False)


class GammatoneCNN1d(ImageNetwork):
    """Waveforms (batch, clip_samples) -> logits (batch, n_classes); each gammatone band has convolutions of its own.

    In every band eight kernels of five frames, then four, each with batch normalisation, ReLU, dropout and pooling by
    2; the bands meet in a dense layer of 20 units. 76,798 parameters at the defaults. Raises ValueError for clips of
    another length. Source: Potes et al. 2016, "Ensemble of feature-based and deep learning-based classifiers for
    detection of abnormal heart sounds", there on the samples of four bands, here on frames of gammatone filters.

    Notebook: 05_heart_sounds_physionet
    """

    def __init__(
        self, n_classes: int = 2, n_filters: int = 16, clip_samples: int = 2500, sample_rate: int = 1000,
        dropout: float = 0.5, front_end: nn.Module | None = None,
    ) -> None:  # fmt: skip
        layers: list[nn.Module] = [nn.Flatten(1, 2)]  # the bands become channels
        for kernels_in, kernels_out in ((1, 8), (8, 4)):
            channels = kernels_out * n_filters
            convolution = nn.Conv1d(kernels_in * n_filters, channels, kernel_size=5, groups=n_filters)
            layers += [convolution, nn.BatchNorm1d(channels), nn.ReLU(), nn.Dropout(dropout / 2), nn.MaxPool1d(2)]
        images = gammatone_images(n_filters, sample_rate) if front_end is None else front_end
        super().__init__(n_classes, clip_samples, images, nn.Sequential(*layers, nn.Flatten()), 20, dropout)


class GammatoneCNN2d(ImageNetwork):
    """Waveforms (batch, clip_samples) -> logits (batch, n_classes); convolutions over bands and frames together.

    16 kernels of 3 bands x 21 frames, then 32 of 3 x 11, each with batch normalisation, ReLU and pooling by 2 x 4; a
    dense layer of 100 units. 210,350 parameters at the defaults. Raises ValueError for clips of another length.
    Source: Rubin et al. 2016, "Classifying heart sound recordings using deep convolutional neural networks and
    mel-frequency cepstral coefficients", there on MFCC and several times as large.

    Notebook: 05_heart_sounds_physionet
    """

    def __init__(
        self, n_classes: int = 2, n_filters: int = 16, clip_samples: int = 2500, sample_rate: int = 1000,
        dropout: float = 0.5, front_end: nn.Module | None = None,
    ) -> None:  # fmt: skip
        layers: list[nn.Module] = []
        for channels_in, channels_out, frames in ((1, 16, 21), (16, 32, 11)):
            convolution = nn.Conv2d(channels_in, channels_out, (3, frames), padding=(1, frames // 2))
            layers += [convolution, nn.BatchNorm2d(channels_out), nn.ReLU(), nn.MaxPool2d((2, 4))]
        images = gammatone_images(n_filters, sample_rate) if front_end is None else front_end
        super().__init__(n_classes, clip_samples, images, nn.Sequential(*layers, nn.Flatten()), 100, dropout)
