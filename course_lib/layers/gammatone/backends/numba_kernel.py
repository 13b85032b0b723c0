"""The recursion in numba: sixteen filters side by side in the vector registers, time walked through once.

The waveform is demodulated, u[t] = level x[t] p^-t with the complex pole p, so that all poles become 1: a chain of
running sums c_1 = sum of u, c_2 = sum of c_1 ... c_n is the repeated one-pole filter, and fixed whole numbers of
delayed c_n (`plan.taps`) give the filters of order n and n + 1, the output z and v_0 that the derivatives need:

    z[t] = sum_i a_i c_n[t - i],   v_0[t] = v_0[t - 1] + sum_i b_i c_n[t - i],   y[t] = Re(z[t] p^t).

At order 4 this takes 15 multiplications and 16 additions of a vector a sample, for which processors have units of their
own. So that p^-t does not grow without limits, time starts anew every 16 samples, when all is multiplied by p^16.

Filters so wide that p^-16 is large all the same take a chain of one-pole filters, about 31 multiplications a sample:

    v_j[t] = c_j x[t] + v_(j+1)[t] + p v_j[t-1],   j = n .. 0,

with the `pole_fractions` c of k^n: v_0 is the filter k^n p^k, and a fixed mix of the real parts of v_1 .. v_n is the
filter k^(n-1) p^k, the output.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils, errors
from numba.extending import intrinsic

from course_lib.layers.gammatone.backends.plan import LANES, RING_IN, ROUND, whole_numbers

# A filter keeps ringing on digital silence, and below the smallest normal float32 (1e-38) a processor becomes slow.
_SILENT = np.float32(1e-35)
_TILE = 64  # samples between two looks at that
_WIDE = 1.25  # decay from which on p^-16 is too large

_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_INDEX = ir.IntType(32)


def _in_all_lanes(builder, value):
    lane = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.Constant(_INDEX, 0))
    mask = ir.Constant(ir.VectorType(_INDEX, LANES), [0] * LANES)
    return builder.shuffle_vector(lane, ir.Constant(_VECTOR, ir.Undefined), mask)


def _row(builder, array, row):
    """The address of 16 lanes of an array."""
    row = ir.Constant(_INDEX, row) if isinstance(row, int) else row
    return builder.gep(builder.bitcast(array, _VECTOR.as_pointer()), [row])


def _load(builder, array, row):
    return builder.load(_row(builder, array, row), align=4)


def _store(builder, value, array, row):
    builder.store(value, _row(builder, array, row), align=4)


@intrinsic
def _advance(typing_context, poles, gains, state, waveform, edges, first, last, sums, mix):
    """Filter segments first .. last - 1 (samples edges[s] .. edges[s + 1] - 1), the state held in vector registers.

    All arrays end in 16 lanes: poles[t % 16] are Re p and Im p, gains[j] is c_j level, state[j] are Re v_j and Im v_j,
    left as they are after the last sample. sums[s] becomes the sums of y^2, y Re v_0 and y Im v_0 over segment s. The
    length of `mix` is n. Written for LLVM, since numba's own loops would not keep the state in registers.
    """
    order = len(mix)

    def generate(context, builder, signature, arguments):
        def multiply_add(a, b, c):
            return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))

        data = [
            context.make_array(kind)(context, builder, argument).data if isinstance(kind, types.Array) else argument
            for kind, argument in zip(signature.args, arguments, strict=True)
        ]
        poles, gains, stored, samples, edge, first, last, results, mixed = data
        gains = [_load(builder, gains, j) for j in range(order + 1)]
        shares = [_in_all_lanes(builder, builder.extract_value(mixed, j)) for j in range(order)]
        state = [cgutils.alloca_once_value(builder, _load(builder, stored, row)) for row in range(2 * order + 2)]
        totals = [cgutils.alloca_once(builder, _VECTOR) for _ in range(3)]

        def one_sample(time):
            sample = _in_all_lanes(builder, builder.load(builder.gep(samples, [time])))
            turn = builder.mul(builder.urem(time, ir.Constant(time.type, ROUND)), ir.Constant(time.type, 2))
            re_pole, im_pole = (_load(builder, poles, builder.add(turn, ir.Constant(time.type, k))) for k in range(2))
            minus_im_pole = builder.fneg(im_pole)
            output = re = im = None
            for j in reversed(range(order + 1)):
                old_re, old_im = builder.load(state[2 * j]), builder.load(state[2 * j + 1])
                driven = builder.fmul(gains[j], sample) if re is None else multiply_add(gains[j], sample, re)
                re = multiply_add(minus_im_pole, old_im, multiply_add(re_pole, old_re, driven))
                turned = builder.fmul(re_pole, old_im) if im is None else multiply_add(re_pole, old_im, im)
                im = multiply_add(im_pole, old_re, turned)
                builder.store(re, state[2 * j])
                builder.store(im, state[2 * j + 1])
                if j > 0:
                    share = shares[j - 1]
                    output = builder.fmul(share, re) if output is None else multiply_add(share, re, output)
            for total, factor in zip(totals, (output, re, im), strict=True):
                builder.store(multiply_add(output, factor, builder.load(total)), total)

        one, three = ir.Constant(first.type, 1), ir.Constant(first.type, 3)
        with cgutils.for_range_slice(builder, first, last, one, inc=True) as (segment, _):
            for total in totals:
                builder.store(ir.Constant(_VECTOR, [0.0] * LANES), total)
            start = builder.load(builder.gep(edge, [segment]))
            stop = builder.load(builder.gep(edge, [builder.add(segment, one)]))
            with cgutils.for_range_slice(builder, start, stop, one, inc=True) as (time, _):
                one_sample(time)
            for k, total in enumerate(totals):
                row = builder.add(builder.mul(segment, three), ir.Constant(segment.type, k))
                _store(builder, builder.load(total), results, row)
        for row, register in enumerate(state):
            _store(builder, builder.load(register), stored, row)
        return context.get_dummy_value()

    return types.void(poles, gains, state, waveform, edges, first, last, sums, mix), generate


@intrinsic
def _advance_demodulated(typing_context, turns, step, state, waveform, edges, first, last, sums, mix, derivatives):
    """As `_advance`, by running sums. The length of `mix` is the order n.

    turns[t % 16] are Re and Im of level p^-t and of p^t, step is p^16, and state[:] are c_1 .. c_n, the last n values
    of c_n, and v_0, complex. Without `derivatives` v_0 is left alone, and its sums are 0.
    """
    if not isinstance(derivatives, types.Literal):  # numba asks again with the value
        raise errors.RequireLiteralValue("derivatives")
    order, with_derivatives = len(mix), derivatives.literal_value
    output_taps, chain_taps = (whole_numbers(power) for power in (order - 1, order))
    rows = 4 * order + 2

    def generate(context, builder, signature, arguments):
        def multiply_add(a, b, c):
            return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))

        data = [
            context.make_array(kind)(context, builder, argument).data if isinstance(kind, types.Array) else argument
            for kind, argument in zip(signature.args, arguments, strict=True)
        ]
        turns, step, stored, samples, edge, first, last, results = data[:8]
        state = [cgutils.alloca_once_value(builder, _load(builder, stored, row)) for row in range(rows)]
        step = [_load(builder, step, part) for part in range(2)]
        totals = [cgutils.alloca_once(builder, _VECTOR) for _ in range(3)]

        def weighted(whole_numbers, values):
            """Sum of whole numbers times values; those with the same number are added up first."""
            by_number = {}
            for number, value in zip(whole_numbers, values, strict=True):
                if number:
                    before = by_number.get(number)
                    by_number[number] = value if before is None else builder.fadd(before, value)
            total = None
            for number, value in sorted(by_number.items()):
                if number == 1:
                    total = value
                else:
                    factor = ir.Constant(_VECTOR, [float(number)] * LANES)
                    total = builder.fmul(factor, value) if total is None else multiply_add(factor, value, total)
            return total

        def one_sample(time):
            sample = _in_all_lanes(builder, builder.load(builder.gep(samples, [time])))
            turn = builder.and_(time, ir.Constant(time.type, ROUND - 1))
            row = builder.mul(turn, ir.Constant(time.type, 4))
            down, up = (
                [_load(builder, turns, builder.add(row, ir.Constant(time.type, k))) for k in pair]
                for pair in ((0, 1), (2, 3))
            )
            z, v = [], []
            for part in range(2):
                value = builder.fmul(down[part], sample)
                for j in range(order):
                    value = builder.fadd(builder.load(state[2 * j + part]), value)
                    builder.store(value, state[2 * j + part])
                past = [builder.load(state[2 * (order + i) + part]) for i in range(order)]
                z.append(weighted(output_taps, [value, *past][: len(output_taps)]))
                if with_derivatives:
                    more = weighted(chain_taps, [value, *past])
                    v.append(builder.fadd(builder.load(state[4 * order + part]), more))
                    builder.store(v[part], state[4 * order + part])
                for i, newer in enumerate([value, *past[:-1]]):
                    builder.store(newer, state[2 * (order + i) + part])
            output = multiply_add(builder.fneg(up[1]), z[1], builder.fmul(up[0], z[0]))
            builder.store(multiply_add(output, output, builder.load(totals[0])), totals[0])
            if with_derivatives:
                turned = [builder.fmul(output, each) for each in up]
                by_re = multiply_add(builder.fneg(turned[1]), v[1], builder.load(totals[1]))
                by_im = multiply_add(turned[0], v[1], builder.load(totals[2]))
                builder.store(multiply_add(turned[0], v[0], by_re), totals[1])
                builder.store(multiply_add(turned[1], v[0], by_im), totals[2])
            last_turn = builder.icmp_unsigned("==", turn, ir.Constant(time.type, ROUND - 1))
            with builder.if_then(last_turn, likely=False):
                for j in range(rows // 2):
                    re, im = (builder.load(state[2 * j + part]) for part in range(2))
                    new_re = multiply_add(builder.fneg(step[1]), im, builder.fmul(step[0], re))
                    new_im = multiply_add(step[1], re, builder.fmul(step[0], im))
                    builder.store(new_re, state[2 * j])
                    builder.store(new_im, state[2 * j + 1])

        one, three = ir.Constant(first.type, 1), ir.Constant(first.type, 3)
        with cgutils.for_range_slice(builder, first, last, one, inc=True) as (segment, _):
            for total in totals:
                builder.store(ir.Constant(_VECTOR, [0.0] * LANES), total)
            start = builder.load(builder.gep(edge, [segment]))
            stop = builder.load(builder.gep(edge, [builder.add(segment, one)]))
            with cgutils.for_range_slice(builder, start, stop, one, inc=True) as (time, _):
                one_sample(time)
            for k, total in enumerate(totals):
                row = builder.add(builder.mul(segment, three), ir.Constant(segment.type, k))
                _store(builder, builder.load(total), results, row)
        for row, register in enumerate(state):
            _store(builder, builder.load(register), stored, row)
        return context.get_dummy_value()

    return types.void(turns, step, state, waveform, edges, first, last, sums, mix, derivatives), generate


@intrinsic
def _pool(typing_context, sums, first, last, factors, pooled, frame):
    """pooled[frame] = energy and derivatives of a frame, from the totals of sums[first : last] and the `factors`."""

    def generate(context, builder, signature, arguments):
        sums, factors, pooled = (
            context.make_array(signature.args[k])(context, builder, arguments[k]).data for k in (0, 3, 4)
        )
        first, last, frame = arguments[1], arguments[2], arguments[5]
        one, three = ir.Constant(first.type, 1), ir.Constant(first.type, 3)
        totals = [cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, [0.0] * LANES)) for _ in range(3)]
        with cgutils.for_range_slice(builder, first, last, one, inc=True) as (segment, _):
            for k, total in enumerate(totals):
                row = builder.add(builder.mul(segment, three), ir.Constant(segment.type, k))
                builder.store(builder.fadd(builder.load(total), _load(builder, sums, row)), total)
        to_energy, to_derivative, level_slope = (_load(builder, factors, row) for row in range(3))
        energy = builder.fmul(to_energy, builder.load(totals[0]))
        by_decay, by_frequency = (builder.fmul(to_derivative, builder.load(total)) for total in totals[1:])
        by_decay = builder.fadd(by_decay, builder.fmul(level_slope, energy))  # the level depends on the decay, too
        for k, value in enumerate((energy, by_decay, by_frequency)):
            _store(builder, value, pooled, builder.add(builder.mul(frame, three), ir.Constant(frame.type, k)))
        return context.get_dummy_value()

    return types.void(sums, first, last, factors, pooled, frame), generate


@intrinsic
def _turn(typing_context, pooled, frame, k, flat, start, stride):
    """flat[start + lane * stride + i] = pooled[frame + i, k, lane] for 16 frames and lanes, by shuffled registers."""

    def generate(context, builder, signature, arguments):
        pooled, flat = (context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 3))
        frame, k, start, stride = (arguments[i] for i in (1, 2, 4, 5))
        first = builder.add(builder.mul(frame, ir.Constant(frame.type, 3)), k)
        rows = [_load(builder, pooled, builder.add(first, ir.Constant(first.type, 3 * i))) for i in range(LANES)]
        halves = [
            ir.Constant(ir.VectorType(_INDEX, LANES), [lane for i in half for lane in (i, i + LANES)])
            for half in (range(LANES // 2), range(LANES // 2, LANES))
        ]
        for _ in range(LANES.bit_length() - 1):  # a perfect shuffle of the rows each time
            pairs = zip(rows[: LANES // 2], rows[LANES // 2 :], strict=True)
            rows = [builder.shuffle_vector(*pair, half) for pair in pairs for half in halves]
        for lane, row in enumerate(rows):
            at = builder.add(start, builder.mul(stride, ir.Constant(stride.type, lane)))
            _store(builder, row, builder.gep(flat, [at]), 0)
        return context.get_dummy_value()

    return types.void(pooled, frame, k, flat, start, stride), generate


@njit(nogil=True)
def _prepare(decay, frequency, power, fractions, window, first, poles, gains, factors):
    """Set `poles`, `gains` and `factors` for the filters from `first` on; returns the smallest decay among them.

    The rows of `factors` turn sums into energies, sums into derivatives, and energies into what the level adds to
    their derivatives by the decay. Lanes without a filter stay silent.
    """
    order = len(fractions) - 1
    poles[:], gains[:], factors[:] = 0, 0, 0
    slowest = math.inf
    for lane in range(min(LANES, len(decay) - first)):
        slow, angle = np.float64(decay[first + lane]), np.float64(frequency[first + lane])
        slowest = min(slowest, slow)
        pole = math.exp(-slow) * complex(math.cos(angle), math.sin(angle))
        wanted = pole
        for turn in range(ROUND):
            poles[turn, 0, lane], poles[turn, 1, lane] = wanted.real, wanted.imag
            rounded = complex(np.float64(poles[turn, 0, lane]), np.float64(poles[turn, 1, lane]))
            if abs(rounded) > 1e-30:
                wanted = pole * (wanted / rounded)
        level = 2.0 * slow**order / math.gamma(order)
        for j in range(order + 1):
            gains[j, lane] = level * fractions[j]
        factors[0, lane] = power[first + lane] / window
        factors[1, lane] = -2 * factors[0, lane]
        factors[2, lane] = 2 * order / slow
    return slowest


@njit(nogil=True)
def _demodulation(decay, frequency, order, first, turns, step):
    """Set `turns` and `step` for the filters from `first` on; lanes without a filter stay silent."""
    turns[:], step[:] = 0, 0
    for lane in range(min(LANES, len(decay) - first)):
        slow, angle = np.float64(decay[first + lane]), np.float64(frequency[first + lane])
        level = 2.0 * slow**order / math.gamma(order)
        for turn in range(ROUND):
            grown, phase = math.exp(slow * turn), angle * turn
            turns[turn, 0, lane], turns[turn, 1, lane] = (
                level * grown * math.cos(phase),
                -level * grown * math.sin(phase),
            )
            turns[turn, 2, lane], turns[turn, 3, lane] = math.cos(phase) / grown, math.sin(phase) / grown
        grown, phase = math.exp(slow * ROUND), angle * ROUND
        step[0, lane], step[1, lane] = math.cos(phase) / grown, math.sin(phase) / grown


@njit(nogil=True)
def _filter(tables, wide, derivatives, state, waveform, edges, first, last, sums, mix):
    """Filter segments first .. last - 1, and end ringing that has become inaudible. NaN stays NaN."""
    poles, gains, turns, step = tables
    while first < last:
        stop = first + 1
        while stop < last and edges[stop + 1] - edges[first] <= _TILE:
            stop += 1
        if wide:
            _advance(poles, gains, state, waveform, edges, first, stop, sums, mix)
        elif derivatives:
            _advance_demodulated(turns, step, state, waveform, edges, first, stop, sums, mix, True)
        else:
            _advance_demodulated(turns, step, state, waveform, edges, first, stop, sums, mix, False)
        for part in range(state.size):
            if abs(state.flat[part]) < _SILENT:
                state.flat[part] = 0
        first = stop


def stored() -> Callable[..., None]:
    """`_run`, compiled at its first call unless its machine code is on disk, beside this file or in the user's cache.

    Raises RuntimeError where numba can write to neither; its first call raises anything where the files are damaged.
    """
    return njit(nogil=True, cache=True)(_run)


def delete_stored(kernel: Callable[..., None]) -> None:
    """Delete what `stored` has on disk. Raises OSError."""
    module = kernel.py_func.__module__.rpartition(".")[2]
    for path in Path(kernel.stats.cache_path).glob(f"{module}.*.nb[ic]"):
        path.unlink(missing_ok=True)


def unstored() -> Callable[..., None]:
    """`_run`, compiled at its first call, for this process alone."""
    return njit(nogil=True)(_run)


def _run(
    waveforms, decay, frequency, power, fractions, mix, edges, frames, window, piece, derivatives, maps, begin, end
):
    """Units begin .. end - 1 of the work: a unit is `piece` frames of a clip through 16 filters, whoever computes it.

    Frame m is made of the segments frames[m, 0] .. frames[m, 1] - 1. A piece starts early enough for the filters to
    ring in, so that it does not need the one before. The energies and with `derivatives` their derivatives by decay
    and by frequency go to the three `maps` (clips, filters, frames).
    """
    order, filters = len(mix), len(decay)
    pieces = -(-len(frames) // piece)
    poles, gains = np.empty((ROUND, 2, LANES), np.float32), np.empty((order + 1, LANES), np.float32)
    turns, step = np.empty((ROUND, 4, LANES), np.float32), np.empty((2, LANES), np.float32)
    tables = poles, gains, turns, step
    state, factors = np.empty((2 * order + 1, 2, LANES), np.float32), np.empty((3, LANES), np.float32)
    sums = np.empty((len(edges) - 1, 3, LANES), np.float32)
    pooled = np.empty((min(piece, len(frames)), 3, LANES), np.float32)
    ring_in, unused = np.empty(2, np.int64), np.empty((1, 3, LANES), np.float32)
    prepared, slowest, wide = -1, math.inf, False
    for unit in range(begin, end):
        block, rest = divmod(unit, len(waveforms) * pieces)
        clip, first_frame = divmod(rest, pieces)
        first_frame *= piece
        last_frame = min(first_frame + piece, len(frames))
        if block != prepared:
            slowest = _prepare(decay, frequency, power, fractions, window, block * LANES, poles, gains, factors)
            _demodulation(decay, frequency, order, block * LANES, turns, step)
            wide = not decay[block * LANES : (block + 1) * LANES].max() < _WIDE
            prepared = block
        state[:] = 0
        waveform = waveforms[clip]
        start = edges[frames[first_frame, 0]]
        ring_in[1] = max(0, start - int(min(RING_IN / slowest, 2.0**40)))
        while ring_in[1] < start:
            ring_in[0] = ring_in[1]
            ring_in[1] = min(start, ring_in[0] + _TILE)
            _filter(tables, wide, derivatives, state, waveform, ring_in, 0, 1, unused, mix)
        first, last = frames[first_frame, 0], frames[last_frame - 1, 1]
        _filter(tables, wide, derivatives, state, waveform, edges, first, last, sums, mix)
        for frame in range(first_frame, last_frame):
            _pool(sums, frames[frame, 0], frames[frame, 1], factors, pooled, frame - first_frame)
        lanes, count = min(LANES, filters - block * LANES), last_frame - first_frame
        for k in range(3 if derivatives else 1):
            into = maps[k]
            row = (clip * filters + block * LANES) * len(frames) + first_frame
            for some in range(0, count, LANES):
                if lanes == LANES and count >= LANES:
                    some = min(some, count - LANES)  # the last sixteen overlap with those before
                    _turn(pooled, some, k, into.ravel(), row + some, len(frames))
                    continue
                for lane in range(lanes):
                    for frame in range(some, min(some + LANES, count)):
                        into[clip, block * LANES + lane, first_frame + frame] = pooled[frame, k, lane]
