"""The recursion of `numba_kernel` for signals at the sample rate: outputs, their adjoint, and derivatives.

Sixteen filters again stand side by side, a tile of some samples at a time. Each lane has a complex input of its own, so
that one chain serves both ways in time. As numba uses its stored machine code until this very file changes, touch it
after changing `numba_kernel` or `plan`.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from course_lib.layers.gammatone.backends.numba_kernel import (
    _SILENT,
    _TILE,
    _in_all_lanes,
    _load,
    _prepare,
    _store,
)
from course_lib.layers.gammatone.backends.plan import LANES, ROUND


@intrinsic
def _filter_tile(typing_context, poles, gains, state, inputs, filtered, time, count, mix):
    """Pass `count` samples inputs[t] = (Re u, Im u) through the chain; filtered[t] = (Re z, Im z, Re v_0, Im v_0).

    `time` is that of the first sample, which decides whose turn it is among the poles.
    """
    order = len(mix)

    def generate(context, builder, signature, arguments):
        def multiply_add(a, b, c):
            product = builder.fmul(a, b, flags=("contract",))
            return product if c is None else builder.fadd(product, c, flags=("contract",))

        data = [
            context.make_array(kind)(context, builder, argument).data if isinstance(kind, types.Array) else argument
            for kind, argument in zip(signature.args, arguments, strict=True)
        ]
        poles, gains, stored, inputs, filtered, time, count, mixed = data
        gains = [_load(builder, gains, j) for j in range(order + 1)]
        shares = [_in_all_lanes(builder, builder.extract_value(mixed, j)) for j in range(order)]
        state = [cgutils.alloca_once_value(builder, _load(builder, stored, row)) for row in range(2 * order + 2)]

        def row(index, size, part):
            return builder.add(builder.mul(index, ir.Constant(index.type, size)), ir.Constant(index.type, part))

        zero, one = ir.Constant(count.type, 0), ir.Constant(count.type, 1)
        with cgutils.for_range_slice(builder, zero, count, one, inc=True) as (step, _):
            now = [_load(builder, inputs, row(step, 2, part)) for part in range(2)]
            turn = builder.urem(builder.add(time, step), ir.Constant(time.type, ROUND))
            re_pole, im_pole = (_load(builder, poles, row(turn, 2, part)) for part in range(2))
            minus_im_pole = builder.fneg(im_pole)
            outputs, re, im = [None, None], None, None
            for j in reversed(range(order + 1)):
                old_re, old_im = builder.load(state[2 * j]), builder.load(state[2 * j + 1])
                re, im = (multiply_add(gains[j], part, before) for part, before in zip(now, (re, im), strict=True))
                re = multiply_add(minus_im_pole, old_im, multiply_add(re_pole, old_re, re))
                im = multiply_add(im_pole, old_re, multiply_add(re_pole, old_im, im))
                builder.store(re, state[2 * j])
                builder.store(im, state[2 * j + 1])
                if j > 0:
                    outputs = [
                        multiply_add(shares[j - 1], part, total) for part, total in zip((re, im), outputs, strict=True)
                    ]
            for part, value in enumerate((*outputs, re, im)):
                _store(builder, value, filtered, row(step, 4, part))
        for index, register in enumerate(state):
            _store(builder, builder.load(register), stored, index)
        return context.get_dummy_value()

    return types.void(poles, gains, state, inputs, filtered, time, count, mix), generate


@njit(nogil=True)
def _tables(order):
    """Empty arrays: poles, gains, factors, inputs and results of a tile."""
    return (
        np.empty((ROUND, 2, LANES), np.float32),
        np.empty((order + 1, LANES), np.float32),
        np.empty((3, LANES), np.float32),
        np.zeros((_TILE, 2, LANES), np.float32),
        np.empty((_TILE, 4, LANES), np.float32),
    )


@njit(nogil=True)
def _end_ringing(state):
    for part in range(state.size):
        if abs(state.flat[part]) < _SILENT:
            state.flat[part] = 0


@njit(nogil=True)
def _fill(inputs, signals, clip, block, start, step, count):
    """Sample start + t step of signals (clips, filters, samples, parts), conjugate, into the lanes of inputs[t]."""
    parts = signals.shape[3]
    for lane in range(min(LANES, signals.shape[1] - block * LANES)):
        row = signals[clip, block * LANES + lane]
        for t in range(count):
            inputs[t, 0, lane] = row[start + t * step, 0]
            if parts == 2:
                inputs[t, 1, lane] = -row[start + t * step, 1]


def outputs(waveforms, decay, frequency, power, fractions, mix, state, time, signals, begin, end):
    """Units begin .. end - 1, a unit being a clip through 16 filters: signals (clips, filters, samples, 1 or 2 parts).

    The `state` (clips, blocks of 16, order + 1, 2, 16) is that before the first sample, which has the number `time`,
    and becomes that after the last.
    """
    samples, parts = waveforms.shape[1], signals.shape[3]
    poles, gains, factors, inputs, filtered = _tables(len(mix))
    prepared = -1
    for unit in range(begin, end):
        block, clip = divmod(unit, len(waveforms))
        if block != prepared:
            _prepare(decay, frequency, power, fractions, 1, block * LANES, poles, gains, factors)
            prepared = block
        own = state[clip, block]
        for start in range(0, samples, _TILE):
            count = min(_TILE, samples - start)
            for t in range(count):
                inputs[t, 0, :] = waveforms[clip, start + t]
            _filter_tile(poles, gains, own, inputs, filtered, time + start, count, mix)
            _end_ringing(own)
            for lane in range(min(LANES, len(decay) - block * LANES)):
                into = signals[clip, block * LANES + lane]
                for part in range(parts):
                    for t in range(count):
                        into[start + t, part] = filtered[t, part, lane]


def adjoint(signals, decay, frequency, power, fractions, mix, totals, begin, end):
    """The filters backward in time: totals (clips, blocks of 16, samples), sums over the filters of a block.

    Where `signals` (clips, filters, samples, 1 or 2 parts) are the gradients of `outputs`, these are parts of the
    gradient of the waveforms.
    """
    samples = signals.shape[2]
    poles, gains, factors, inputs, filtered = _tables(len(mix))
    state = np.empty((len(mix) + 1, 2, LANES), np.float32)
    prepared = -1
    for unit in range(begin, end):
        block, clip = divmod(unit, len(signals))
        if block != prepared:
            _prepare(decay, frequency, power, fractions, 1, block * LANES, poles, gains, factors)
            inputs[:] = 0
            prepared = block
        state[:] = 0
        for start in range(0, samples, _TILE):
            count = min(_TILE, samples - start)
            _fill(inputs, signals, clip, block, samples - 1 - start, -1, count)
            _filter_tile(poles, gains, state, inputs, filtered, start, count, mix)
            _end_ringing(state)
            for t in range(count):
                total = np.float32(0)
                for lane in range(LANES):
                    total += filtered[t, 0, lane]
                totals[clip, block, samples - 1 - start - t] = total


def products(waveforms, signals, decay, frequency, power, fractions, mix, sums, begin, end):
    """sums (clips, filters, 3): over time, Re conj(g) z, Re conj(g) v_0 and Im conj(g) v_0 with the `signals` g."""
    samples, parts = signals.shape[2], signals.shape[3]
    poles, gains, factors, inputs, filtered = _tables(len(mix))
    state = np.empty((len(mix) + 1, 2, LANES), np.float32)
    prepared = -1
    for unit in range(begin, end):
        block, clip = divmod(unit, len(signals))
        if block != prepared:
            _prepare(decay, frequency, power, fractions, 1, block * LANES, poles, gains, factors)
            prepared = block
        state[:] = 0
        sums[clip, block * LANES : (block + 1) * LANES] = 0
        for start in range(0, samples, _TILE):
            count = min(_TILE, samples - start)
            for t in range(count):
                inputs[t, 0, :] = waveforms[clip, start + t]
            _filter_tile(poles, gains, state, inputs, filtered, start, count, mix)
            _end_ringing(state)
            for lane in range(min(LANES, len(decay) - block * LANES)):
                own, total = signals[clip, block * LANES + lane], sums[clip, block * LANES + lane]
                for t in range(count):
                    re, im = own[start + t, 0], np.float32(0)
                    if parts == 2:
                        im = own[start + t, 1]
                    total[0] += re * filtered[t, 0, lane] + im * filtered[t, 1, lane]
                    total[1] += re * filtered[t, 2, lane] + im * filtered[t, 3, lane]
                    total[2] += re * filtered[t, 3, lane] - im * filtered[t, 2, lane]


FUNCTIONS = (outputs, adjoint, products)


def stored(name):
    """One of FUNCTIONS, compiled at its first call unless its machine code is on disk; see `numba_kernel.stored`."""
    return njit(nogil=True, cache=True)(_named(name))


def unstored(name):
    """One of FUNCTIONS, compiled at its first call, for this process alone."""
    return njit(nogil=True)(_named(name))


def _named(name):
    return next(function for function in FUNCTIONS if function.__name__ == name)
