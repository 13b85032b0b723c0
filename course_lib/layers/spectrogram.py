"""Fixed front ends: waveforms in, time-frequency images out."""

from __future__ import annotations

import scipy.signal
import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional

_SMALLEST_POWER = 1e-10


def require_waveforms(waveforms: Tensor, at_least: int = 1) -> None:
    """Raise ValueError unless `waveforms` is floating-point, of shape (batch, samples), with `at_least` samples."""
    if waveforms.ndim != 2 or not waveforms.is_floating_point():
        got = f"{waveforms.dtype} {tuple(waveforms.shape)}"
        raise ValueError(f"expected floating-point waveforms of shape (batch, samples), got {got}")
    if waveforms.shape[1] < at_least:
        raise ValueError(f"a clip of {waveforms.shape[1]} samples is too short; this layer needs {at_least}")


def require_clips(waveforms: Tensor, samples: int) -> None:
    """Raise ValueError unless `waveforms` is floating-point, of shape (batch, samples) with this many samples."""
    require_waveforms(waveforms)
    if waveforms.shape[1] != samples:
        raise ValueError(f"this network was built for clips of {samples} samples and got {waveforms.shape[1]}")


def sounding_length(waveforms: Tensor) -> Tensor:
    """Samples up to and including the last one that is not zero, shape (batch, 1); 0 for a silent clip."""
    position = torch.arange(1, waveforms.shape[1] + 1, device=waveforms.device)
    return (position * (waveforms != 0)).amax(dim=1, keepdim=True)


def decibels(power: Tensor, top_db: float) -> Tensor:
    """Power (batch, bands, frames) in dB, nothing further than `top_db` below the loudest value of its clip."""
    level = 10 * torch.log10(power.clamp(min=_SMALLEST_POWER))
    return torch.maximum(level, level.amax(dim=(1, 2), keepdim=True) - top_db)


def stretch(images: Tensor, share: Tensor, width: int) -> Tensor:
    """The first `share` (batch,) of the frames of images (batch, bands, frames), stretched to `width` frames."""
    affine = torch.zeros(len(images), 2, 3, device=images.device)
    # In the coordinates of affine_grid an axis runs from -1 to 1.
    affine[:, 0, 0], affine[:, 0, 2], affine[:, 1, 1] = share, share - 1, 1
    grid = functional.affine_grid(affine, [len(images), 1, images.shape[1], width], align_corners=False)
    return functional.grid_sample(images[:, None], grid, padding_mode="border", align_corners=False)[:, 0]


class FrontEnd(nn.Module):
    """Base of the front ends: checks the waveforms and calls `image` on them in float32, autocast or not.

    `shortest` is the least number of samples that makes an image.
    """

    shortest = 1

    def forward(self, waveforms: Tensor) -> Tensor:
        require_waveforms(waveforms, self.shortest)
        if len(waveforms) == 0:  # FFTs refuse an empty batch
            return self(waveforms.new_zeros(1, waveforms.shape[1]))[:0]
        with torch.autocast(waveforms.device.type, enabled=False):
            return self.image(waveforms.float())

    def image(self, waveforms: Tensor) -> Tensor:
        raise NotImplementedError


class LogSpectrogram(FrontEnd):
    """Waveforms (batch, samples) -> grey images (batch, height, width) of their log-power spectrograms.

    Hann window of `n_fft` samples, no padding, dB down to `top_db` below the clip's maximum. With `stretch` the part
    before the padding zeros fills the whole width, as in a picture of that recording alone, so that a long and a
    short word look alike. Grey runs from 0 at the clip's lowest level to 1 at its highest and is then normalised
    with `mean` and `std`. Raises ValueError for clips shorter than `n_fft`.

    Notebook: 01_waveforms_and_spectrograms
    """

    def __init__(
        self,
        n_fft: int = 256,
        hop_length: int = 128,
        image_size: tuple[int, int] = (64, 64),
        top_db: float = 80.0,
        stretch: bool = True,
        mean: float = 0.4711,
        std: float = 0.1464,
    ) -> None:
        super().__init__()
        self.n_fft, self.hop_length, self.top_db, self.stretch = n_fft, hop_length, top_db, stretch
        self.image_size, self.mean, self.std = tuple(image_size), mean, std
        self.shortest = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def image(self, waveforms: Tensor) -> Tensor:
        frames = waveforms.unfold(1, self.n_fft, self.hop_length) * self.window
        level = decibels(torch.fft.rfft(frames).abs().square().transpose(1, 2), self.top_db)
        height, width = self.image_size
        level = functional.interpolate(level[:, None], (height, level.shape[2]), mode="bilinear", antialias=True)[:, 0]
        share = torch.ones(len(waveforms), device=waveforms.device)
        if self.stretch:
            sounding = 1 + (sounding_length(waveforms)[:, 0] - self.n_fft).clamp(min=0) // self.hop_length
            share = sounding / level.shape[2]
        grey = stretch(level, share, width)
        lowest, highest = grey.amin(dim=(1, 2), keepdim=True), grey.amax(dim=(1, 2), keepdim=True)
        grey = (grey - lowest) / (highest - lowest).clamp(min=1e-3)
        return (grey - self.mean) / self.std

    def extra_repr(self) -> str:
        shown = ("n_fft", "hop_length", "image_size", "top_db", "stretch")
        return ", ".join(f"{name}={getattr(self, name)}" for name in shown)


class PowerSpectrogram(FrontEnd):
    """Waveforms (batch, samples) -> images (batch, n_fft // 2 + 1, frames) of their power spectrograms, from 0 to 1.

    Tukey window (a quarter tapered) of `n_fft` samples every `n_fft - n_fft // 8`, each frame less its mean, power of
    the one-sided spectrum, all as scipy.signal.spectrogram does by default. Power is divided by the clip's maximum;
    with `log` it is in dB instead, from 0 at `top_db` below the maximum to 1. Raises ValueError for clips shorter
    than `n_fft`.

    Notebook: 03_raw_waveforms_sample_cnn
    """

    def __init__(self, n_fft: int = 256, log: bool = False, top_db: float = 80.0) -> None:
        super().__init__()
        self.n_fft, self.hop_length, self.log, self.top_db = n_fft, n_fft - n_fft // 8, log, top_db
        self.shortest = n_fft
        window = torch.from_numpy(scipy.signal.get_window(("tukey", 0.25), n_fft)).float()
        self.register_buffer("window", window, persistent=False)

    def image_size(self, samples: int) -> tuple[int, int]:
        """Height and width of the image of a clip."""
        return self.n_fft // 2 + 1, 1 + (samples - self.n_fft) // self.hop_length

    def image(self, waveforms: Tensor) -> Tensor:
        frames = waveforms.unfold(1, self.n_fft, self.hop_length)
        frames = (frames - frames.mean(dim=2, keepdim=True)) * self.window
        power = torch.fft.rfft(frames).abs().square().transpose(1, 2)
        power[:, 1 : (self.n_fft + 1) // 2] *= 2  # one side stands for both; DC and Nyquist have no other side
        if self.log:
            level = decibels(power, self.top_db)
            return 1 + (level - level.amax(dim=(1, 2), keepdim=True)) / self.top_db
        return power / power.amax(dim=(1, 2), keepdim=True).clamp(min=_SMALLEST_POWER)

    def extra_repr(self) -> str:
        return f"n_fft={self.n_fft}, hop_length={self.hop_length}, log={self.log}"


class LogMel(FrontEnd):
    """Waveforms (batch, samples) -> log-mel energies (batch, n_mels, frames), frames = 1 + samples // hop_length.

    Power spectrogram with a Hann window of `n_fft` samples centred on each frame, `n_mels` triangular bands from
    `f_min` to `f_max` Hz (default: Nyquist), dB down to `top_db` below the clip's maximum. With `width` the part
    before the padding zeros is stretched to that many frames, so that a long and a short word look alike. Raises
    ValueError for clips of at most `n_fft // 2` samples.
    Source: Davis and Mermelstein 1980; torchaudio.transforms.MelSpectrogram.

    Notebook: 01_waveforms_and_spectrograms
    """

    def __init__(
        self,
        sample_rate: int,
        n_mels: int = 40,
        n_fft: int = 256,
        hop_length: int = 128,
        f_min: float = 0.0,
        f_max: float | None = None,
        top_db: float = 80.0,
        width: int | None = None,
    ) -> None:
        super().__init__()
        self.top_db, self.width, self.shortest = top_db, width, n_fft // 2 + 1
        self.mel = torchaudio.transforms.MelSpectrogram(
            sample_rate, n_fft, hop_length=hop_length, n_mels=n_mels, f_min=f_min, f_max=f_max
        )

    def image(self, waveforms: Tensor) -> Tensor:
        level = decibels(self.mel(waveforms), self.top_db)
        if self.width is None:
            return level
        return stretch(level, sounding_length(waveforms)[:, 0].clamp(min=1) / waveforms.shape[1], self.width)


class Decibels(nn.Module):
    """Energies (batch, bands, frames) in dB, nothing further than `top_db` below the loudest value of its clip.

    Notebook: 04_learnable_gammatone
    """

    def __init__(self, top_db: float = 80.0) -> None:
        super().__init__()
        self.top_db = top_db

    def forward(self, energies: Tensor) -> Tensor:
        return decibels(energies, self.top_db)

    def extra_repr(self) -> str:
        return f"top_db={self.top_db:g}"


class Standardise(nn.Module):
    """Images (batch, bands, frames) brought to mean 0 and standard deviation 1 each, which takes their level away.

    Notebook: 02_spoken_digits_cnn
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, images: Tensor) -> Tensor:
        centred = images - images.mean(dim=(1, 2), keepdim=True)
        # Clamped before the root, whose slope at 0 is infinite: silence would make every gradient NaN.
        return centred / centred.square().mean(dim=(1, 2), keepdim=True).clamp(min=1e-10).sqrt()


class MFCC(FrontEnd):
    """Waveforms (batch, samples) -> mel-frequency cepstral coefficients (batch, n_mfcc, frames).

    The discrete cosine transform of log-mel energies (dB). Raises ValueError for clips of at most `n_fft // 2`
    samples. Source: Davis and Mermelstein 1980; torchaudio.transforms.MFCC.

    Notebook: 01_waveforms_and_spectrograms
    """

    def __init__(
        self, sample_rate: int, n_mfcc: int = 13, n_mels: int = 40, n_fft: int = 256, hop_length: int = 128
    ) -> None:
        super().__init__()
        self.shortest = n_fft // 2 + 1
        self.mfcc = torchaudio.transforms.MFCC(
            sample_rate, n_mfcc, melkwargs={"n_fft": n_fft, "hop_length": hop_length, "n_mels": n_mels}
        )

    def image(self, waveforms: Tensor) -> Tensor:
        # With a channel in between: torchaudio takes `top_db` from the loudest clip of a batch that has none.
        return self.mfcc(waveforms[:, None])[:, 0]
