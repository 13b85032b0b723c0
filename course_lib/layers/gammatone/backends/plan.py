"""What the compiled kernels share: how a signal is cut up, and the numbers that make the chain of filters."""

import functools
import math

import numpy as np

from course_lib.layers.gammatone import response
from course_lib.layers.gammatone.pooling import Pooling

# numba uses its stored kernel until numba_kernel.py itself changes: touch that file after changing one of these.
LANES = 16  # filters that are computed side by side
LONGEST_SEGMENT = 64  # samples
# A pole in float32 is up to 6e-8 off, too much for a narrow filter. So it takes turns with its neighbours, in such
# an order that their product over a round is right to 6e-8.
ROUND = 16
RING_IN = 36.0  # time constants after which a filter has forgotten its past (below -190 dB, order 6 included)


@functools.lru_cache(maxsize=64)
def segments(samples: int, pooling: Pooling) -> tuple[np.ndarray, np.ndarray]:
    """Cut a signal so that every frame is a run of whole segments.

    Returns the edges of the segments (samples), and for each frame the first of its segments and the one behind its
    last, shape (frames, 2).
    """
    starts = pooling.first + pooling.hop * np.arange(pooling.frames(samples))
    ends = starts + pooling.window
    borders = np.unique(np.concatenate([starts, ends]))
    lengths = np.diff(borders)
    parts = -(-lengths // LONGEST_SEGMENT)
    part = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    cuts = np.repeat(borders[:-1], parts) + part * np.repeat(lengths, parts) // np.repeat(parts, parts)
    edges = np.append(cuts, borders[-1])
    return edges, np.searchsorted(edges, np.stack([starts, ends], axis=1))


@functools.cache
def coefficients(order: int) -> tuple[np.ndarray, tuple[np.float32, ...]]:
    """The fractions c_0 .. c_n that feed the chain of one-pole filters, and the mix of v_1 .. v_n that is the output.

    With q = p z^-1, v_j = sum_(i >= j) c_i / (1 - q)^(i-j+1): solve for the mix with the fractions of the lower order.
    """
    fractions = response.pole_fractions(order)
    chain = np.zeros((order, order))
    for j in range(1, order + 1):
        chain[: order - j + 1, j - 1] = fractions[j:]
    mix = np.linalg.solve(chain, response.pole_fractions(order - 1))
    return np.array(fractions, dtype=np.float64), tuple(np.float32(share) for share in mix)


@functools.cache
def whole_numbers(power: int) -> tuple[int, ...]:
    """The a_i of sum_k k^power s^k = sum_i a_i s^i / (1 - s)^(power + 1): Euler's, one place later for a power above 0.

    By (power + 1)-fold differences of the powers: the sum times (1 - s)^(power + 1) ends after s^power.
    """
    signs = [(-1) ** j * math.comb(power + 1, j) for j in range(power + 1)]
    return tuple(sum(signs[j] * (i - j) ** power for j in range(i + 1)) for i in range(power + 1))
