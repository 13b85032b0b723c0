"""Gammatone energies as one differentiable operator that stores no signal, whatever computes it.

A filter's derivatives by its decay and frequency are gammatones of the next order. They are pooled to frames on the
way forward, so that backward is two sums over maps of the size of the output. The gradient of the waveforms takes the
filters once more, and then backward in time. There is no second derivative: for that there is `reference`.
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
    order: int, first: int, window: int, hop: int, method: str, derivatives: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    arguments = waveforms, decay, frequency, power, order, Pooling(first, window, hop)
    if method == "fft":
        return fourier.energies(*arguments)
    if waveforms.is_cuda:
        from course_lib.layers.gammatone.backends import triton_kernel

        return triton_kernel.energies(*arguments)
    return recursive.energies(*arguments, derivatives)


@_energies.register_fake
def _(waveforms, decay, frequency, power, order, first, window, hop, method, derivatives=True):
    frames = Pooling(first, window, hop).frames(waveforms.shape[1])
    clips, all_three = len(waveforms), derivatives or method == "fft" or waveforms.is_cuda
    rows = (clips, clips, clips) if all_three else (clips, 0, 0)
    return tuple(waveforms.new_empty(each, len(decay), frames) for each in rows)


@torch.library.custom_op("course_lib::gammatone_energies_gradient", mutates_args=())
def _energies_gradient(
    grad: Tensor, waveforms: Tensor, decay: Tensor, frequency: Tensor, power: Tensor,
    order: int, first: int, window: int, hop: int, method: str,
) -> Tensor:  # fmt: skip
    pooling = Pooling(first, window, hop)
    if method == "fft" or waveforms.is_cuda:
        return fourier.energies_gradient(grad, waveforms, decay, frequency, power, order, pooling)
    gradient = torch.empty_like(waveforms)
    for clip in range(len(waveforms)):
        signals = recursive.outputs(waveforms[clip : clip + 1], decay, frequency, order, False)
        signals *= 2 * pooling.spread(power[:, None] * grad[clip], waveforms.shape[1])
        gradient[clip] = recursive.waveform_gradient(signals, decay, frequency, order)[0]
    return gradient


@_energies_gradient.register_fake
def _(grad, waveforms, decay, frequency, power, order, first, window, hop, method):
    return torch.empty_like(waveforms)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    energies, by_decay, by_frequency = output
    needs_waveforms, needs_decay, needs_frequency, needs_power, *_ = ctx.needs_input_grad
    waveforms, decay, frequency, power, *ctx.settings, _ = inputs
    ctx.save_for_backward(
        by_decay if needs_decay else None,
        by_frequency if needs_frequency else None,
        energies if needs_power else None,
        power if needs_power or needs_waveforms else None,
        *((waveforms, decay, frequency) if needs_waveforms else (None, None, None)),
    )
    ctx.set_materialize_grads(False)


@once_differentiable
def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    def total(values: Tensor | None) -> Tensor | None:
        return None if values is None or grad is None else torch.linalg.vecdot(grad, values).sum(0)

    by_decay, by_frequency, energies, power, waveforms, decay, frequency = ctx.saved_tensors
    by_power = None if energies is None or grad is None else total(energies) / power
    by_waveforms = None
    if waveforms is not None and grad is not None:
        by_waveforms = _energies_gradient(grad, waveforms, decay, frequency, power, *ctx.settings)
    return by_waveforms, total(by_decay), total(by_frequency), by_power, *[None] * 6


_energies.register_autograd(_backward, setup_context=_save)


def energies(
    waveforms: Tensor, decay: Tensor, frequency: Tensor, power: Tensor, order: int, pooling: Pooling, method: str
) -> Tensor:
    """`power` times the mean squared output (batch, filters, frames) of the filters.

    `method` is fft, or recursive (float32 only, and only where `has_kernel`).
    """
    derivatives = torch.is_grad_enabled() and (decay.requires_grad or frequency.requires_grad)
    return _energies(waveforms, decay, frequency, power, order, *pooling, method, derivatives)[0]


@torch.library.custom_op("course_lib::gammatone_outputs", mutates_args=())
def _outputs(waveforms: Tensor, decay: Tensor, frequency: Tensor, order: int, analytic: bool) -> Tensor:
    return recursive.outputs(waveforms, decay, frequency, order, analytic)


@_outputs.register_fake
def _(waveforms, decay, frequency, order, analytic):
    shape = len(waveforms), len(decay), waveforms.shape[1]
    return waveforms.new_empty(shape, dtype=torch.complex64 if analytic else torch.float32)


@torch.library.custom_op("course_lib::gammatone_outputs_gradient", mutates_args=())
def _outputs_gradient(
    grad: Tensor, waveforms: Tensor, decay: Tensor, frequency: Tensor, order: int, of_waveforms: bool, of_filters: bool
) -> tuple[Tensor, Tensor, Tensor]:
    by_waveforms, by_decay, by_frequency = (decay.new_empty(0) for _ in range(3))
    if of_waveforms:
        by_waveforms = recursive.waveform_gradient(grad, decay, frequency, order)
    if of_filters:
        by_decay, by_frequency = recursive.filter_gradients(waveforms, grad, decay, frequency, order)
    return by_waveforms, by_decay, by_frequency


@_outputs_gradient.register_fake
def _(grad, waveforms, decay, frequency, order, of_waveforms, of_filters):
    by_waveforms = torch.empty_like(waveforms) if of_waveforms else decay.new_empty(0)
    return by_waveforms, *(decay.new_empty(len(decay) if of_filters else 0) for _ in range(2))


def _save_outputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    waveforms, decay, frequency, ctx.order, _ = inputs
    ctx.save_for_backward(waveforms, decay, frequency)


@once_differentiable
def _outputs_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad
    of_filters = needs[1] or needs[2]
    gradients = _outputs_gradient(grad, *ctx.saved_tensors, ctx.order, needs[0], of_filters)
    return *(gradient if needed else None for gradient, needed in zip(gradients, needs, strict=False)), None, None


_outputs.register_autograd(_outputs_backward, setup_context=_save_outputs)


def outputs(waveforms: Tensor, decay: Tensor, frequency: Tensor, order: int, analytic: bool, method: str) -> Tensor:
    """Outputs (batch, filters, samples) of the filters on waveforms (batch, samples), complex if `analytic`."""
    compute = _outputs if method == "recursive" and waveforms.device.type == "cpu" else fourier.outputs
    return compute(waveforms, decay, frequency, order, analytic)


def has_kernel(device: torch.device) -> bool:
    """Whether there are recursive filters for a device."""
    return device.type == "cpu" or (device.type == "cuda" and _TRITON)
