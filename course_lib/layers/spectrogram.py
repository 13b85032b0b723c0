"""Fixed front ends: waveforms in, time-frequency images out."""

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional

from course_lib.layers.arguments import band, number, whole
from course_lib.layers.front_end import FrontEnd
from course_lib.layers.waveforms import position_type, require_images, single_at_least, sounding_length

_SMALLEST_POWER = 1e-10


def decibels(power: Tensor, top_db: float) -> Tensor:
    """Power (batch, bands, frames) in dB, nothing further than `top_db` below the loudest value of its clip."""
    level = 10 * torch.log10(power.clamp(min=_SMALLEST_POWER))
    return torch.maximum(level, level.amax(dim=(1, 2), keepdim=True) - top_db)


def stretch(images: Tensor, share: Tensor, width: int) -> Tensor:
    """The first `share` (batch,) of the frames of images (batch, bands, frames), stretched to `width` frames."""
    bands, frames = images.shape[1:]
    middle = torch.arange(width, device=images.device, dtype=position_type(images.device)) + 0.5
    position = (middle * (share[:, None] * (frames / width)) - 0.5).clamp(0, frames - 1)
    before = position.long()
    fraction = (position - before).to(images.dtype)[:, None]

    def frame(number: Tensor) -> Tensor:
        return images.gather(2, number[:, None].expand(-1, bands, -1))

    return torch.lerp(frame(before), frame((before + 1).clamp(max=frames - 1)), fraction)


class LogSpectrogram(FrontEnd):
    """Waveforms (batch, samples) -> grey images (batch, height, width) of their log-power spectrograms.

    Hann window of `n_fft` samples, no padding, dB down to `top_db` below the clip's maximum. With `stretch` the part
    before the padding zeros fills the whole width, as in a picture of that recording alone, so that a long and a
    short word look alike. Grey runs from 0 at the clip's lowest level to 1 at its highest and is then normalised
    with `mean` and `std`. Raises ValueError for clips shorter than `n_fft`.

    Notebook: 01_waveforms_and_spectrograms
    """

    def __init__(
        self, n_fft: int = 256, hop_length: int = 128, image_size: tuple[int, int] = (64, 64), top_db: float = 80.0,
        stretch: bool = True, mean: float = 0.4711, std: float = 0.1464,
    ) -> None:  # fmt: skip
        super().__init__()
        self.n_fft, self.hop_length = _frame(n_fft, hop_length)
        self.image_size = _size(image_size)
        self.top_db, self.stretch = number("top_db", top_db, above=0), bool(stretch)
        self.mean, self.std = number("mean", mean), number("std", std, above=0)
        self.shortest = self.n_fft
        names = ("n_fft", "hop_length", "image_size", "top_db", "stretch", "mean", "std")
        self.settings = {name: getattr(self, name) for name in names}
        self.register_buffer("window", torch.hann_window(self.n_fft, dtype=self.precision), persistent=False)

    def image(self, waveforms: Tensor) -> Tensor:
        frames = waveforms.unfold(1, self.n_fft, self.hop_length) * self.window
        level = decibels(torch.fft.rfft(frames).abs().square().transpose(1, 2), self.top_db)
        height, width = self.image_size
        level = functional.interpolate(level[:, None], (height, level.shape[2]), mode="bilinear", antialias=True)[:, 0]
        share = torch.ones(len(waveforms), device=waveforms.device)
        if self.stretch:
            sounding = 1 + (sounding_length(waveforms)[:, 0] - self.n_fft).clamp(min=0) // self.hop_length
            share = sounding.to(position_type(waveforms.device)) / level.shape[2]
        grey = stretch(level, share, width)
        lowest, highest = grey.amin(dim=(1, 2), keepdim=True), grey.amax(dim=(1, 2), keepdim=True)
        grey = (grey - lowest) / (highest - lowest).clamp(min=1e-3)
        return (grey - self.mean) / self.std


class PowerSpectrogram(FrontEnd):
    """Waveforms (batch, samples) -> images (batch, n_fft // 2 + 1, frames) of their power spectrograms, from 0 to 1.

    Tukey window (a quarter tapered) of `n_fft` samples every `n_fft - n_fft // 8`, each frame less its mean, power of
    the one-sided spectrum, all as scipy.signal.spectrogram does by default. Power is divided by the clip's maximum;
    with `log` it is in dB instead, from 0 at `top_db` below the maximum to 1. Raises ValueError for clips shorter
    than `n_fft`.

    Notebook: 03b_rivals_and_noise
    """

    def __init__(self, n_fft: int = 256, log: bool = False, top_db: float = 80.0) -> None:
        super().__init__()
        self.n_fft = self.shortest = whole("n_fft", n_fft, at_least=2)
        self.hop_length = self.n_fft - self.n_fft // 8
        self.log, self.top_db = bool(log), number("top_db", top_db, above=0)
        self.settings = {"n_fft": self.n_fft, "hop_length": self.hop_length, "log": self.log, "top_db": self.top_db}
        self.register_buffer("window", _tukey_window(self.n_fft).to(self.precision), persistent=False)

    def image(self, waveforms: Tensor) -> Tensor:
        frames = waveforms.unfold(1, self.n_fft, self.hop_length)
        frames = (frames - frames.mean(dim=2, keepdim=True)) * self.window
        power = torch.fft.rfft(frames).abs().square().transpose(1, 2)
        power[:, 1 : (self.n_fft + 1) // 2] *= 2  # one side stands for both; DC and Nyquist have no other side
        if self.log:
            level = decibels(power, self.top_db)
            return 1 + (level - level.amax(dim=(1, 2), keepdim=True)) / self.top_db
        return power / power.amax(dim=(1, 2), keepdim=True).clamp(min=_SMALLEST_POWER)


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
        self, sample_rate: int, n_mels: int = 40, n_fft: int = 256, hop_length: int = 128, f_min: float = 0.0,
        f_max: float | None = None, top_db: float = 80.0, width: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        mel = _mel_settings(sample_rate, n_mels, n_fft, hop_length, f_min, f_max)
        self.sample_rate, self.shortest = mel["sample_rate"], mel["n_fft"] // 2 + 1
        self.top_db, self.width = number("top_db", top_db, above=0), None if width is None else whole("width", width)
        self.settings = mel | {"top_db": self.top_db, "width": self.width}
        with _made_in(self.precision):
            self.mel = torchaudio.transforms.MelSpectrogram(**mel)
        _require_no_empty_band(self.mel)

    def image(self, waveforms: Tensor) -> Tensor:
        level = decibels(self.mel(waveforms), self.top_db)
        if self.width is None:
            return level
        sounding = sounding_length(waveforms)[:, 0].clamp(min=1).to(position_type(waveforms.device))
        return stretch(level, sounding / waveforms.shape[1], self.width)


class Decibels(nn.Module):
    """Energies (batch, bands, frames) in dB, nothing further than `top_db` below the loudest value of its clip.

    Notebook: 04_learnable_gammatone
    """

    def __init__(self, top_db: float = 80.0) -> None:
        super().__init__()
        self.top_db = number("top_db", top_db, above=0)

    def forward(self, energies: Tensor) -> Tensor:
        require_images(energies)
        return decibels(energies.to(single_at_least(energies.dtype)), self.top_db).to(energies.dtype)

    def extra_repr(self) -> str:
        return f"top_db={self.top_db:g}"


class Standardise(nn.Module):
    """Images (batch, bands, frames) brought to mean 0 and standard deviation 1 each, which takes their level away.

    With `level_only` the mean becomes 0 and the standard deviation stays. With `each_band` the mean of every band
    becomes 0, which takes the average spectrum of a clip away, and with it whatever a linear microphone does to dB.

    Notebook: 02_spoken_digits_cnn
    """

    def __init__(self, level_only: bool = False, each_band: bool = False) -> None:
        super().__init__()
        self.level_only, self.each_band = level_only, each_band

    def forward(self, images: Tensor) -> Tensor:
        require_images(images)
        precise = images.to(single_at_least(images.dtype))
        centred = precise - precise.mean(dim=2 if self.each_band else (1, 2), keepdim=True)
        if self.level_only:
            return centred.to(images.dtype)
        # Clamped before the root, whose slope at 0 is infinite: silence would make every gradient NaN.
        return (centred / centred.square().mean(dim=(1, 2), keepdim=True).clamp(min=1e-10).sqrt()).to(images.dtype)


class StandardiseBands(nn.BatchNorm1d):
    """Images (batch, n_bands, frames) with every band brought to mean 0 and standard deviation 1 over all clips.

    Unlike `Standardise` it leaves a clip its level and its spectrum. The statistics are those of the batch in training
    mode, and running means of them in evaluation mode. Raises ValueError for images of another number of bands.
    Source: Ioffe and Szegedy 2015, "Batch normalization", here without parameters.

    Notebook: 07_acoustic_scenes
    """

    def __init__(self, n_bands: int) -> None:
        super().__init__(whole("n_bands", n_bands), affine=False)

    def forward(self, images: Tensor) -> Tensor:
        require_images(images)
        if images.shape[1] != self.num_features:
            raise ValueError(f"images of {images.shape[1]} bands; this layer was made for n_bands={self.num_features}")
        precise = images.to(single_at_least(images.dtype))
        mean, variance = self.running_mean.to(precise.dtype), self.running_var.to(precise.dtype)
        out = functional.batch_norm(
            precise, mean, variance, training=self.training, momentum=self.momentum, eps=self.eps
        )
        if self.training:  # where the module is of another type, the means above were copies
            self.running_mean.copy_(mean)
            self.running_var.copy_(variance)
            self.num_batches_tracked.add_(1)
        return out.to(images.dtype)


class MFCC(FrontEnd):
    """Waveforms (batch, samples) -> mel-frequency cepstral coefficients (batch, n_mfcc, frames).

    The discrete cosine transform of log-mel energies (dB). Raises ValueError for clips of at most `n_fft // 2`
    samples. Source: Davis and Mermelstein 1980; torchaudio.transforms.MFCC.

    Notebook: 01b_quantisation_and_mfcc
    """

    def __init__(
        self, sample_rate: int, n_mfcc: int = 13, n_mels: int = 40, n_fft: int = 256, hop_length: int = 128
    ) -> None:
        super().__init__()
        mel, n_mfcc = _mel_settings(sample_rate, n_mels, n_fft, hop_length), whole("n_mfcc", n_mfcc)
        if n_mfcc > mel["n_mels"]:
            raise ValueError(f"n_mfcc is {n_mfcc}; {n_mels} mel bands have at most {n_mels} coefficients")
        self.shortest = mel["n_fft"] // 2 + 1
        self.settings = mel | {"n_mfcc": n_mfcc}
        self.sample_rate = mel.pop("sample_rate")
        with _made_in(self.precision):
            self.mfcc = torchaudio.transforms.MFCC(self.sample_rate, n_mfcc, melkwargs=mel)
        self.mfcc.dct_mat = self.mfcc.dct_mat.contiguous()  # safetensors stores nothing else
        _require_no_empty_band(self.mfcc.MelSpectrogram)

    def image(self, waveforms: Tensor) -> Tensor:
        # With a channel in between: torchaudio takes `top_db` from the loudest clip of a batch that has none.
        return self.mfcc(waveforms[:, None])[:, 0]


def _frame(n_fft: int, hop_length: int) -> tuple[int, int]:
    n_fft, hop_length = whole("n_fft", n_fft, at_least=2), whole("hop_length", hop_length)
    if hop_length > n_fft:
        raise ValueError(f"hop_length {hop_length} is above n_fft {n_fft}; samples between the frames would be lost")
    return n_fft, hop_length


def _size(image_size: Sequence[int]) -> tuple[int, int]:
    if not isinstance(image_size, Sequence) or len(image_size) != 2:
        raise ValueError(f"image_size is {image_size!r}; it must be a height and a width")
    return whole("the height in image_size", image_size[0]), whole("the width in image_size", image_size[1])


def _mel_settings(
    sample_rate: int, n_mels: int, n_fft: int, hop_length: int, f_min: float | None = None, f_max: float | None = None
) -> dict[str, Any]:
    (f_min, f_max), (n_fft, hop_length) = band(f_min, f_max, sample_rate), _frame(n_fft, hop_length)
    bands = {"sample_rate": number("sample_rate", sample_rate), "n_mels": whole("n_mels", n_mels)}
    return bands | {"f_min": f_min, "f_max": f_max, "n_fft": n_fft, "hop_length": hop_length}


def _require_no_empty_band(mel: torchaudio.transforms.MelSpectrogram) -> None:
    empty = (mel.mel_scale.fb.amax(dim=0) == 0).nonzero()[:, 0].tolist()
    if empty:
        raise ValueError(
            f"n_mels {mel.n_mels} bands are too narrow for n_fft {mel.n_fft} at {mel.sample_rate} Hz: {len(empty)} of "
            "them hold no frequency of the spectrum; take fewer bands or a larger n_fft"
        )


@contextlib.contextmanager
def _made_in(dtype: torch.dtype) -> Iterator[None]:
    """Let torchaudio make its windows and bands in this type, and say nothing of empty bands."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_default_dtype(default)


def _tukey_window(samples: int) -> Tensor:
    """A window with a rising and a falling eighth, as scipy.signal.get_window(("tukey", 0.25), samples)."""
    time = torch.arange(samples, dtype=torch.float64)
    ramp = (torch.minimum(time, samples - time) / (samples / 8)).clamp(max=1)
    return 0.5 * (1 - torch.cos(math.pi * ramp))
