"""A small CNN on long images, for places that are not in its training."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from course_lib.layers import LogMel, StandardiseBands
from course_lib.models.base import Classifier, DropoutLinear


class SceneCNN(Classifier):
    """Waveforms (batch, samples) -> logits (batch, n_classes), through images in dB of `n_bands` bands.

    Means of `averaged` frames; blocks of 3 x 3 convolution, batch normalisation, ReLU and max-pooling, by 4 x 2 after
    the first block, 2 x 2 after the next and none after the last; one layer across all bands of a frame; its mean and
    spread over time, for ten seconds of a place are told by averages; a linear layer. 118,847 parameters at the
    defaults. `front_end` may be any module that makes (batch, n_bands, frames) images of waveforms. Raises ValueError
    for fewer than 16 bands, and for images of fewer than 8 frames after the averaging.

    Notebook: 07_acoustic_scenes
    """

    def __init__(
        self, n_classes: int = 15, n_bands: int = 64, averaged: int = 4, channels: Sequence[int] = (16, 32, 64, 96),
        dropout: float = 0.4, sample_rate: int = 44_100, front_end: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.front_end = scene_images(sample_rate, n_bands) if front_end is None else front_end
        layers: list[nn.Module] = [nn.AvgPool2d((1, averaged))]
        bands = n_bands
        for number, (channels_in, channels_out) in enumerate(zip((1, *channels[:-1]), channels, strict=True)):
            convolution = nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(channels_out), nn.ReLU()]
            if number < len(channels) - 1:
                fewer = 2 if number else 4
                layers.append(nn.MaxPool2d((fewer, 2)))
                bands //= fewer
        if not bands:
            raise ValueError(f"{n_bands} bands are too few for {len(channels)} blocks")
        self.features = nn.Sequential(*layers)
        self.fewest_frames = averaged * 2 ** (len(channels) - 1)
        across = nn.Conv1d(channels[-1] * bands, channels[-1], kernel_size=1, bias=False)
        self.across_bands = nn.Sequential(across, nn.BatchNorm1d(channels[-1]), nn.ReLU())
        self.classify = DropoutLinear(2 * channels[-1], n_classes, dropout)

    def embed(self, waveforms: Tensor) -> Tensor:
        images = self.front_end(waveforms)
        if images.shape[2] < self.fewest_frames:
            raise ValueError(f"images of {images.shape[2]} frames are too short; it needs {self.fewest_frames}")
        maps = self.features(images[:, None])
        frames = self.across_bands(maps.flatten(1, 2)).float()
        mean = frames.mean(dim=2)
        variance = frames.var(dim=2, correction=0) if len(frames) else mean  # torch warns of a batch without clips
        spread = variance.clamp(min=1e-6).sqrt()  # clamped: the slope of the root at 0 is infinite
        return self.in_own_precision(torch.cat([mean, spread], dim=1))


def scene_images(sample_rate: int, n_bands: int) -> nn.Sequential:
    """The default front end: waveforms (batch, samples) -> images (batch, n_bands, frames), 100 frames a second."""
    return nn.Sequential(LogMel(sample_rate, n_bands, 2048, sample_rate // 100, f_min=40), StandardiseBands(n_bands))
