"""The recursion on CUDA devices: the chain of `numba_kernel`, a program a clip, stretch of time and 32 filters.

Tuples are put together with + since Triton knows no unpacking.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from course_lib.layers.gammatone import response
from course_lib.layers.gammatone.backends import plan
from course_lib.layers.gammatone.pooling import Pooling

_PIECE = 8192  # samples; less would be lost on letting the filters ring in, more would leave the device idle
_FILTERS = 32


@triton.jit
def _advance(sample, re_pole, im_pole, gains, mix, re, im, ORDER: tl.constexpr):
    """One sample through the chain: the new state, and the output of order n."""
    output = re[0] * 0
    re_in = output
    im_in = output
    for j in tl.static_range(ORDER, -1, -1):
        new_re = re_in + gains[j] * sample + re_pole * re[j] - im_pole * im[j]
        new_im = im_in + re_pole * im[j] + im_pole * re[j]
        re = re[:j] + (new_re,) + re[j + 1 :]  # noqa: RUF005
        im = im[:j] + (new_im,) + im[j + 1 :]  # noqa: RUF005
        if j > 0:
            output += mix[j - 1] * new_re
        re_in = new_re
        im_in = new_im
    return re, im, output


@triton.jit
def _filter(
    waveforms, samples, poles, gains, mix, decays, filters, edges, segments, piece, sums,
    ORDER: tl.constexpr, ROUND: tl.constexpr, RING_IN: tl.constexpr, FILTERS: tl.constexpr,
):  # fmt: skip
    """sums[clip, segment, :, filter] = sums of y^2, y Re v_0 and y Im v_0 for `piece` segments."""
    clip = tl.program_id(0).to(tl.int64)
    lanes = tl.program_id(1) * FILTERS + tl.arange(0, FILTERS)
    real = lanes < filters
    first = tl.program_id(2) * piece
    last = tl.minimum(first + piece, segments)
    waveform = waveforms + clip * samples
    silence = tl.zeros([FILTERS], tl.float32)
    re = (silence,) * (ORDER + 1)
    im = (silence,) * (ORDER + 1)
    gain = ()
    for j in tl.static_range(ORDER + 1):
        gain = gain + (tl.load(gains + j * filters + lanes, mask=real, other=0.0),)  # noqa: RUF005
    slowest = tl.min(tl.load(decays + lanes, mask=real, other=1e9))
    start = tl.load(edges + first)
    time = tl.maximum(start - tl.ceil(RING_IN / slowest).to(tl.int64), 0)
    while time < start:
        turn = poles + 2 * (time % ROUND) * filters + lanes
        re_pole = tl.load(turn, mask=real, other=0.0)
        im_pole = tl.load(turn + filters, mask=real, other=0.0)
        re, im, output = _advance(tl.load(waveform + time), re_pole, im_pole, gain, mix, re, im, ORDER)
        time += 1
    segment = first
    while segment < last:
        energy = silence
        by_re = silence
        by_im = silence
        stop = tl.load(edges + segment + 1)
        while time < stop:
            turn = poles + 2 * (time % ROUND) * filters + lanes
            re_pole = tl.load(turn, mask=real, other=0.0)
            im_pole = tl.load(turn + filters, mask=real, other=0.0)
            re, im, output = _advance(tl.load(waveform + time), re_pole, im_pole, gain, mix, re, im, ORDER)
            energy += output * output
            by_re += output * re[0]
            by_im += output * im[0]
            time += 1
        into = sums + (clip * segments + segment) * 3 * filters + lanes
        tl.store(into, energy, mask=real)
        tl.store(into + filters, by_re, mask=real)
        tl.store(into + 2 * filters, by_im, mask=real)
        segment += 1


def energies(
    waveforms: Tensor, decay: Tensor, frequency: Tensor, power: Tensor, order: int, pooling: Pooling
) -> tuple[Tensor, ...]:
    """`power` times the energies of float32 waveforms (batch, samples), and the derivatives by `decay` and `frequency`.

    Each has the shape (batch, filters, frames).
    """
    clips, samples = waveforms.shape
    device, filters = waveforms.device, len(decay)
    edges, frames = plan.segments(samples, pooling)
    longest = int((frames[:, 1] - frames[:, 0]).max())
    edges, frames = (torch.from_numpy(array).to(device) for array in (edges, frames))
    fractions, mix = plan.coefficients(order)
    gains = response.level(decay.double(), order) * torch.from_numpy(fractions).to(device)[:, None]
    segments = len(edges) - 1
    piece = max(1, segments * _PIECE // samples)
    sums = waveforms.new_empty(clips, segments, 3, filters)
    if clips:
        _filter[(clips, triton.cdiv(filters, _FILTERS), triton.cdiv(segments, piece))](
            waveforms.contiguous(), samples, _poles(decay, frequency), gains.float().contiguous(),
            tuple(float(share) for share in mix), decay.contiguous(), filters, edges, segments, piece, sums,
            ORDER=order, ROUND=plan.ROUND, RING_IN=plan.RING_IN, FILTERS=_FILTERS, num_warps=1,
        )  # fmt: skip
    pooled = sums.new_zeros(clips, len(frames), 3, filters)
    first, last = frames.unbind(1)
    for step in range(longest):
        inside = (first + step < last)[:, None, None]
        pooled += torch.where(inside, sums[:, (first + step).clamp(max=segments - 1)], 0.0)
    energy, by_re, by_im = (pooled * (power / pooling.window)).permute(2, 0, 3, 1).contiguous()
    return energy, (2 * order / decay)[:, None] * energy - 2 * by_re, -2 * by_im


def _poles(decay: Tensor, frequency: Tensor) -> Tensor:
    """Poles in float32 that are right over a round (see `plan.ROUND`), shape (round, 2, filters)."""
    exact = torch.exp(torch.complex(-decay.double(), frequency.double()))
    wanted, turns = exact, []
    for _ in range(plan.ROUND):
        rounded = torch.view_as_real(wanted).float()
        turns.append(rounded.T)
        taken = torch.view_as_complex(rounded.double())
        wanted = torch.where(taken.abs() > 1e-30, exact * (wanted / taken), exact)
    return torch.stack(turns).contiguous()
