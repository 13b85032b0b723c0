"""Gammatone energies as one differentiable operator that stores no signal, whatever computes it.

A filter's derivatives by its decay and frequency are gammatones of the next order. They are pooled to frames on the
way forward, so that backward is two sums over maps of the size of the output. It has no derivative by the waveform and
no second derivative: for those there is `reference`.
"""

import importlib.util
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from course_lib.layers.gammatone.backends import fourier, recursive
from course_lib.layers.gammatone.pooling import Pooling

_TRITON = importlib.util.find_spec("triton") is not None  # comes with torch where there may be a CUDA device


@torch.library.custom_op("course_lib::gammatone_energies", mutates_args=())
def _energies(
    waveforms: Tensor, decay: Tensor, frequency: Tensor, power: Tensor,
    order: int, first: int, window: int, hop: int, method: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    arguments = waveforms, decay, frequency, power, order, Pooling(first, window, hop)
    if method == "fft":
        return fourier.energies(*arguments)
    if waveforms.is_cuda:
        from course_lib.layers.gammatone.backends import triton_kernel

        return triton_kernel.energies(*arguments)
    return recursive.energies(*arguments)


@_energies.register_fake
def _(waveforms, decay, frequency, power, order, first, window, hop, method):
    shape = len(waveforms), len(decay), Pooling(first, window, hop).frames(waveforms.shape[1])
    return tuple(waveforms.new_empty(shape) for _ in range(3))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    energies, by_decay, by_frequency = output
    _, needs_decay, needs_frequency, needs_power, *_ = ctx.needs_input_grad
    ctx.save_for_backward(
        by_decay if needs_decay else None,
        by_frequency if needs_frequency else None,
        energies if needs_power else None,
        inputs[3] if needs_power else None,
    )
    ctx.set_materialize_grads(False)


@once_differentiable
def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    def total(values: Tensor | None) -> Tensor | None:
        return None if values is None or grad is None else torch.linalg.vecdot(grad, values).sum(0)

    by_decay, by_frequency, energies, power = ctx.saved_tensors
    by_power = None if power is None or grad is None else total(energies) / power
    return None, total(by_decay), total(by_frequency), by_power, None, None, None, None, None


_energies.register_autograd(_backward, setup_context=_save)


def energies(
    waveforms: Tensor, decay: Tensor, frequency: Tensor, power: Tensor, order: int, pooling: Pooling, method: str
) -> Tensor:
    """`power` times the mean squared output (batch, filters, frames) of the filters.

    `method` is fft, or recursive (float32 only, and only where `has_kernel`).
    """
    return _energies(waveforms, decay, frequency, power, order, *pooling, method)[0]


def has_kernel(device: torch.device) -> bool:
    """Whether there are recursive filters for a device."""
    return device.type == "cpu" or (device.type == "cuda" and _TRITON)
