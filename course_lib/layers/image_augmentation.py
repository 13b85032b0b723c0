"""Augmentation of time-frequency images (batch, bands, frames)."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from course_lib.layers.arguments import number, whole
from course_lib.layers.waveform_augmentation import Augmentation, other_clips, share_of, uniform
from course_lib.layers.waveforms import require_images


class ImageAugmentation(Augmentation):
    """Base of those on images."""

    def check(self, batch: Tensor) -> None:
        require_images(batch)


class RandomCrop(ImageAugmentation):
    """Images (batch, bands, frames) cut to `share` of their frames, which begin anywhere; whole in evaluation mode.

    Notebook: 07_acoustic_scenes
    """

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        self.share = number("share", share, above=0, at_most=1)

    def augment(self, images: Tensor) -> Tensor:
        frames = max(1, round(self.share * images.shape[2]))
        first = torch.randint(images.shape[2] - frames + 1, (len(images), 1, 1), device=images.device)
        position = first + torch.arange(frames, device=images.device)
        return images.gather(2, position.expand(-1, images.shape[1], -1))


class RandomEqualiser(ImageAugmentation):
    """Images in dB (batch, bands, frames) through a smooth random frequency response: another microphone or room.

    The gain at `points` equally spaced bands is normal with standard deviation `std_db`, linear in between.

    Notebook: 02_spoken_digits_cnn
    """

    def __init__(self, std_db: float = 4.0, points: int = 6) -> None:
        super().__init__()
        self.std_db, self.points = number("std_db", std_db, at_least=0), whole("points", points)

    def augment(self, images: Tensor) -> Tensor:
        gain = self.std_db * torch.randn(len(images), 1, self.points, device=images.device, dtype=torch.float32)
        gain = functional.interpolate(gain, images.shape[1], mode="linear", align_corners=True)
        return images + gain.transpose(1, 2)


class SpectrumMatching(ImageAugmentation):
    """Images in dB (batch, bands, frames) whose mean spectrum is moved towards that of another clip of the batch.

    The difference of the two clips' means over time is added to every frame, times a random part from 0 to `most`, in
    `share` of the clips: what one stethoscope or microphone heard, as another one colours it. The label stays. A batch
    of one clip stays as it is.

    Notebook: 06_adversarial_devices
    """

    def __init__(self, most: float = 1.0, share: float = 0.8) -> None:
        super().__init__()
        self.most, self.share = number("most", most, at_least=0, at_most=1), share_of(share)

    def augment(self, images: Tensor) -> Tensor:
        if len(images) == 1:
            return images
        mean = images.mean(dim=2, keepdim=True)
        part = uniform(images, 0, self.most) * (uniform(images, 0, 1) < self.share)
        return images + part[:, :, None] * (mean[other_clips(images)] - mean)


class FreqMixStyle(ImageAugmentation):
    """Images in dB (batch, bands, frames) with the mean and spread of each band mixed with another clip's.

    Every band is brought to mean 0 and standard deviation 1 over time, and then to the mixture of its own mean and
    standard deviation and those of another clip of the batch; the shares are drawn from Beta(alpha, alpha), one a clip,
    in `share` of the clips. The label stays. A batch of one clip stays as it is.
    Sources: Zhou et al. 2021, "Domain generalization with MixStyle"; Morocutti et al. 2023, arXiv 2305.07499, for the
    statistics of bands.

    Notebook: 06_adversarial_devices
    """

    def __init__(self, alpha: float = 0.4, share: float = 0.8) -> None:
        super().__init__()
        self.alpha, self.share = number("alpha", alpha, above=0), share_of(share)

    def augment(self, images: Tensor) -> Tensor:
        if len(images) == 1:
            return images
        mean = images.mean(dim=2, keepdim=True)
        centred = images - mean
        spread = centred.square().mean(dim=2, keepdim=True).sqrt()
        alpha = torch.tensor(self.alpha, dtype=torch.float32)
        own = torch.distributions.Beta(alpha, alpha).sample((len(images), 1)).to(images)
        own = torch.where(uniform(images, 0, 1) < self.share, own, 1.0)[:, :, None]
        other = other_clips(images)
        mixed_mean, mixed_spread = (torch.lerp(each[other], each, own) for each in (mean, spread))
        return mixed_mean + centred * (mixed_spread / spread.clamp(min=1e-3))  # dB: a silent band has no spread


class TimeFrequencyWarp(ImageAugmentation):
    """Images (batch, bands, frames) stretched and moved along time and along frequency: another way to say it.

    Along time by a factor from `1 / (1 + tempo)` to `1 + tempo` and up to the fraction `delay` of the frames either
    way; along frequency by a log-normal factor with standard deviation `stretch` and a normal `shift` (fraction of
    the bands), as a longer or shorter vocal tract does. Beyond the edges of the image its edge values are repeated.
    Source: Jaitly and Hinton 2013, "Vocal tract length perturbation", in this layer on the mel axis.

    Notebook: 02_spoken_digits_cnn
    """

    def __init__(self, tempo: float = 0.28, delay: float = 0.08, stretch: float = 0.07, shift: float = 0.04) -> None:
        super().__init__()
        self.tempo, self.delay = number("tempo", tempo, at_least=0), number("delay", delay, at_least=0, at_most=1)
        self.stretch, self.shift = number("stretch", stretch, at_least=0), number("shift", shift, at_least=0)

    def augment(self, images: Tensor) -> Tensor:
        def normal() -> Tensor:
            return torch.randn(len(images), device=images.device, dtype=torch.float32)

        slowest = math.log(1 + self.tempo)
        affine = torch.zeros(len(images), 2, 3, device=images.device, dtype=images.dtype)
        # In the coordinates of affine_grid an axis runs from -1 to 1.
        affine[:, 0, 0] = uniform(images, -slowest, slowest)[:, 0].exp()
        affine[:, 0, 2] = 2 * uniform(images, -self.delay, self.delay)[:, 0]
        affine[:, 1, 1] = (self.stretch * normal()).exp()
        affine[:, 1, 2] = 2 * self.shift * normal()
        grid = functional.affine_grid(affine, [len(images), 1, *images.shape[1:]], align_corners=False)
        return functional.grid_sample(images[:, None], grid, padding_mode="border", align_corners=False)[:, 0]


class SpecAugment(ImageAugmentation):
    """Images (batch, bands, frames) with random bands and random stretches of time replaced by the clip's mean.

    `masks` masks an axis, each up to `frequency_width` bands or `time_width` frames wide.
    Source: Park et al. 2019, "SpecAugment".

    Notebook: 02_spoken_digits_cnn
    """

    def __init__(self, frequency_width: int = 8, time_width: int = 12, masks: int = 2) -> None:
        super().__init__()
        self.frequency_width = whole("frequency_width", frequency_width, at_least=0)
        self.time_width, self.masks = whole("time_width", time_width, at_least=0), whole("masks", masks, at_least=0)

    def augment(self, images: Tensor) -> Tensor:
        mean = images.mean(dim=(1, 2), keepdim=True)
        for axis, width in ((1, self.frequency_width), (2, self.time_width)):
            position = torch.arange(images.shape[axis], device=images.device)
            hidden = torch.zeros(len(images), images.shape[axis], dtype=torch.bool, device=images.device)
            for _ in range(self.masks):
                masked = uniform(images, 0, min(width, images.shape[axis]))
                first = torch.rand_like(masked) * (images.shape[axis] - masked)
                hidden |= (position >= first) & (position < first + masked)
            images = torch.where(hidden.unsqueeze(3 - axis), mean, images)
        return images
