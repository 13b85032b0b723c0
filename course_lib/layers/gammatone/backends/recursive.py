"""The recursive filters on the CPU: shares the work among threads and calls the numba kernel."""

import functools
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from course_lib.layers.gammatone import response
from course_lib.layers.gammatone.backends import plan
from course_lib.layers.gammatone.pooling import Pooling

_PIECE = 2**17  # samples of a clip that are filtered in one go
_SHARES = 6  # that each thread would take if they were equally fast


def energies(
    waveforms: Tensor, decay: Tensor, frequency: Tensor, power: Tensor, order: int, pooling: Pooling
) -> tuple[Tensor, ...]:
    """`power` times the energies of float32 waveforms (batch, samples), and the derivatives by `decay` and `frequency`.

    Each has the shape (batch, filters, frames). Uses `torch.get_num_threads()` threads; the result is the same, bit by
    bit, for any number of them and for any batch around a clip.
    """
    clips, samples = waveforms.shape
    edges, frames = plan.segments(samples, pooling)
    blocks = -(-len(decay) // plan.LANES)
    maps = tuple(waveforms.new_empty(clips, len(decay), len(frames)) for _ in range(3))
    # Beside such a piece the time to ring in is short.
    piece = 1 + int(max(_PIECE, 32 * plan.RING_IN / response.smallest(decay))) // pooling.hop
    units = clips * blocks * -(-len(frames) // piece)
    threads = max(1, min(torch.get_num_threads(), units))
    arrays = (tensor.detach().contiguous().numpy() for tensor in (waveforms, decay, frequency, power))
    work = functools.partial(
        _kernel(order), *arrays, *plan.coefficients(order), edges, frames, pooling.window, piece,
        tuple(map_.numpy() for map_ in maps),
    )  # fmt: skip
    if threads == 1:
        work(0, units)
        return maps
    # Small shares, taken as threads become free: a core that is busy elsewhere holds nobody up.
    shares = min(units, _SHARES * threads)
    bounds = [units * share // shares for share in range(shares + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, bounds[:-1], bounds[1:]))
    return maps


@functools.cache
def _kernel(order: int) -> Callable[..., None]:
    """The kernel, compiled for this order. numba is slow to import and to compile, so it waits for the first call."""
    from course_lib.layers.gammatone.backends import numba_kernel

    clip, filters, frames = np.zeros((0, 1), np.float32), np.ones(0, np.float32), np.zeros((0, 2), np.int64)
    maps = 3 * (np.zeros((0, 0, 0), np.float32),)
    nothing = (clip, filters, filters, filters, *plan.coefficients(order), np.zeros(1, np.int64), frames, 1, 1, maps)
    try:
        kernel = numba_kernel.stored()
        try:
            kernel(*nothing, 0, 0)
        except Exception:  # whatever pickle says of damaged files
            numba_kernel.delete_stored(kernel)
            kernel = numba_kernel.stored()
            kernel(*nothing, 0, 0)
    except Exception as error:  # whatever numba says of a folder that cannot be used
        kernel = numba_kernel.unstored()
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
