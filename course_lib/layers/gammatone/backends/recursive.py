"""The recursive filters on the CPU: shares the work among threads and calls the numba kernel."""

import contextlib
import functools
import os
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_lib.layers.gammatone import response
from course_lib.layers.gammatone.backends import plan
from course_lib.layers.gammatone.pooling import Pooling

_PIECE = 2**17  # samples of a clip that are filtered in one go
_SHARES = 6  # that each thread would take if they were equally fast
_ALONE = 2**22  # samples through one filter: so much work is done before a second thread would have helped


def energies(
    waveforms: Tensor,
    decay: Tensor,
    frequency: Tensor,
    power: Tensor,
    order: int,
    pooling: Pooling,
    derivatives: bool = True,
) -> tuple[Tensor, ...]:
    """`power` times the energies of float32 waveforms (batch, samples), and the derivatives by `decay` and `frequency`.

    Each has the shape (batch, filters, frames); without `derivatives` the last two have no clips. Uses
    `torch.get_num_threads()` threads; the result is the same, bit by bit, for any number of them and for any batch
    around a clip.
    """
    clips, samples = waveforms.shape
    edges, frames = plan.segments(samples, pooling)
    blocks = -(-len(decay) // plan.LANES)
    maps = tuple(waveforms.new_empty(rows, len(decay), len(frames)) for rows in (clips, *2 * [clips * derivatives]))
    # Beside such a piece the time to ring in is short.
    piece = 1 + int(max(_PIECE, 32 * plan.RING_IN / response.smallest(decay))) // pooling.hop
    units = clips * blocks * -(-len(frames) // piece)
    work = functools.partial(
        _kernel(order), *_arrays(waveforms, decay, frequency, power), *plan.coefficients(order), edges, frames,
        pooling.window, piece, derivatives, tuple(_arrays(*maps)),
    )  # fmt: skip
    _in_shares(work, units, clips * samples * len(decay))
    return maps


def outputs(
    waveforms: Tensor, decay: Tensor, frequency: Tensor, order: int, analytic: bool,
    state: Tensor | None = None, time: int = 0,
) -> Tensor:  # fmt: skip
    """Outputs (batch, filters, samples) of the filters on float32 waveforms (batch, samples), complex if `analytic`.

    `state` (see `silent_state`) is that before the first sample, which has the number `time`; it becomes that after
    the last.
    """
    clips, samples = waveforms.shape
    signals = waveforms.new_empty(clips, len(decay), samples, 1 + analytic)
    state = silent_state(clips, len(decay), order) if state is None else state
    filters = _arrays(waveforms, decay, frequency, torch.ones_like(decay))
    work = functools.partial(
        _signal_kernel("outputs", order), *filters, *plan.coefficients(order), *_arrays(state), time, *_arrays(signals)
    )
    _in_shares(work, clips * state.shape[1], signals.numel())
    return torch.view_as_complex(signals) if analytic else signals[..., 0]


def silent_state(clips: int, filters: int, order: int) -> Tensor:
    """The state of filters that have heard nothing, shape (clips, blocks of 16 filters, order + 1, 2, 16)."""
    return torch.zeros(clips, -(-filters // plan.LANES), order + 1, 2, plan.LANES)


def waveform_gradient(signals: Tensor, decay: Tensor, frequency: Tensor, order: int) -> Tensor:
    """The gradient (batch, samples) of waveforms, from that of the `outputs`: the recursion backward in time."""
    clips, filters, samples = signals.shape
    totals = decay.new_empty(clips, -(-filters // plan.LANES), samples)
    work = functools.partial(
        _signal_kernel("adjoint", order), *_arrays(_parts(signals), decay, frequency, torch.ones_like(decay)),
        *plan.coefficients(order), *_arrays(totals),
    )  # fmt: skip
    _in_shares(work, clips * totals.shape[1], signals.numel())
    return totals.sum(1)


def filter_gradients(
    waveforms: Tensor, signals: Tensor, decay: Tensor, frequency: Tensor, order: int
) -> tuple[Tensor, Tensor]:
    """The gradients (filters,) of decay and frequency, from that of the `outputs`."""
    clips, filters, _ = signals.shape
    sums = torch.empty(clips, filters, 3, dtype=torch.float64)
    work = functools.partial(
        _signal_kernel("products", order),
        *_arrays(waveforms, _parts(signals), decay, frequency, torch.ones_like(decay)),
        *plan.coefficients(order), *_arrays(sums),
    )  # fmt: skip
    _in_shares(work, clips * -(-filters // plan.LANES), signals.numel())
    output, by_decay, by_angle = sums.sum(0).unbind(-1)
    by_decay = order / decay.detach().double() * output - by_decay  # the level depends on the decay, too
    return by_decay.to(decay.dtype), -by_angle.to(decay.dtype)


def _parts(signals: Tensor) -> Tensor:
    """Signals with an axis for their one or two parts, real and imaginary."""
    return torch.view_as_real(signals.resolve_conj()) if signals.is_complex() else signals[..., None]


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def _in_shares(work: Callable[[int, int], None], units: int, size: int) -> None:
    """Call work(begin, end) for all units, on as many of torch's threads as work of that size is worth."""
    threads = max(1, min(torch.get_num_threads(), units, 1 + size // _ALONE))
    # Small shares, taken as threads become free: a core that is busy elsewhere holds nobody up.
    shares = min(units, _SHARES * threads) if threads > 1 else 1
    bounds = deque((units * share // shares, units * (share + 1) // shares) for share in range(shares))

    def take() -> None:
        with contextlib.suppress(IndexError):  # of the empty deque; the kernels raise none
            while True:
                work(*bounds.popleft())

    others = [_helpers(os.getpid(), threads - 1).submit(take) for _ in range(threads - 1)]
    take()
    for other in others:
        other.result()


@functools.cache
def _helpers(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads beside the calling one. They are kept: to start some takes milliseconds beside a busy torch.

    A process that was forked has none of its parent's, so each has its own.
    """
    return ThreadPoolExecutor(threads)


@functools.cache
def _kernel(order: int) -> Callable[..., None]:
    """The kernel of energies, compiled for this order."""
    # numba is slow to import and to compile, so it waits for the first call.
    from course_lib.layers.gammatone.backends import numba_kernel

    clip, filters, frames = np.zeros((0, 1), np.float32), np.ones(0, np.float32), np.zeros((0, 2), np.int64)
    maps = 3 * (np.zeros((0, 0, 0), np.float32),)
    nothing = (
        clip,
        filters,
        filters,
        filters,
        *plan.coefficients(order),
        np.zeros(1, np.int64),
        frames,
        1,
        1,
        True,
        maps,
    )
    return _compiled(lambda: numba_kernel.stored(), lambda: numba_kernel.unstored(), nothing)


@functools.cache
def _signal_kernel(name: str, order: int) -> Callable[..., None]:
    """A kernel of signals: outputs, adjoint or products, compiled for this order."""
    from course_lib.layers.gammatone.backends import numba_signals

    clip, filters, signals = np.zeros((0, 1), np.float32), np.ones(0, np.float32), np.zeros((0, 0, 0, 1), np.float32)
    chain = (filters, filters, filters, *plan.coefficients(order))
    nothing = {
        "outputs": (clip, *chain, np.zeros((0, 0, 0, 2, plan.LANES), np.float32), 0, signals),
        "adjoint": (signals, *chain, np.zeros((0, 0, 0), np.float32)),
        "products": (clip, signals, *chain, np.zeros((0, 0, 3))),
    }[name]
    return _compiled(lambda: numba_signals.stored(name), lambda: numba_signals.unstored(name), nothing)


def _compiled(
    stored: Callable[[], Callable[..., None]], unstored: Callable[[], Callable[..., None]], nothing: tuple[Any, ...]
) -> Callable[..., None]:
    """A kernel that has been called with `nothing` to do; from the disk if it can be there."""
    from course_lib.layers.gammatone.backends import numba_kernel

    try:
        kernel = stored()
        try:
            kernel(*nothing, 0, 0)
        except Exception:  # whatever pickle says of damaged files
            numba_kernel.delete_stored(kernel)
            kernel = stored()
            kernel(*nothing, 0, 0)
    except Exception as error:  # whatever numba says of a folder that cannot be used
        kernel = unstored()
        kernel(*nothing, 0, 0)
        _warn_once(f"{type(error).__name__}: {error}".splitlines()[0])
    return kernel


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(
        f"the compiled gammatone filters cannot be stored ({reason}), so every process compiles them again;"
        " set NUMBA_CACHE_DIR to a folder that can be written",
        RuntimeWarning,
        stacklevel=2,
    )
