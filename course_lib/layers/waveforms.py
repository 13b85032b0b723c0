"""What all layers on waveforms (batch, samples) share: checks, precision, and where the padding zeros begin."""

import torch
from torch import Tensor


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


def require_images(images: Tensor) -> None:
    """Raise ValueError unless `images` is floating-point, of shape (batch, bands, frames)."""
    if images.ndim != 3 or not images.is_floating_point():
        got = f"{images.dtype} {tuple(images.shape)}"
        raise ValueError(f"expected floating-point images of shape (batch, bands, frames), got {got}")


def single_at_least(dtype: torch.dtype) -> torch.dtype:
    """The type that a layer computes in: float64 for float64, otherwise float32, since sound needs 24 bits."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def position_type(device: torch.device) -> torch.dtype:
    """The type for positions between samples: float32 rounds them after some seconds. MPS has no other."""
    return torch.float32 if device.type == "mps" else torch.float64


def sounding_length(waveforms: Tensor) -> Tensor:
    """Samples up to and including the last one that is not zero, shape (batch, 1); 0 for a silent clip."""
    position = torch.arange(1, waveforms.shape[1] + 1, device=waveforms.device)
    return (position * (waveforms != 0)).amax(dim=1, keepdim=True)


def moved(waveforms: Tensor, first: Tensor, end: Tensor | int) -> Tensor:
    """The samples of waveforms from `first` (batch, 1) to before `end`, moved to the beginning; zeros elsewhere."""
    samples = waveforms.shape[1]
    position = torch.arange(samples, device=waveforms.device) + first
    inside = (position >= 0) & (position < end)
    return torch.where(inside, waveforms.gather(1, position.clamp(0, samples - 1)), 0.0)


def before_padding(waveforms: Tensor) -> Tensor:
    """Which samples come before the padding zeros, shape (batch, samples)."""
    return torch.arange(waveforms.shape[1], device=waveforms.device) < sounding_length(waveforms)
