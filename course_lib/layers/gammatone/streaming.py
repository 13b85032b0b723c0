"""Filtering block by block."""

from __future__ import annotations

import torch
from torch import Tensor

from course_lib.layers.gammatone import response
from course_lib.layers.gammatone.backends import fourier, recursive
from course_lib.layers.gammatone.signals import as_rows


class Stream:
    """Filters a signal block by block: stream(block) -> the outputs (..., n_filters, samples) of that block.

    Blocks (..., samples) may have any length, and all have the same leading dimensions. Put together their outputs are
    those of the whole signal. The filters are those that the layer had when the stream began; there are no gradients.
    In float32 on the CPU the state is that of the recursion. Otherwise it is as many past samples as the narrowest
    filter rings, and every block takes an FFT over these.

    Raises ValueError for a block of other leading dimensions, type or device than the first.

    Notebook: 04_learnable_gammatone
    """

    def __init__(self, decay: Tensor, frequency: Tensor, gains: Tensor, order: int, analytic: bool) -> None:
        self._filters = decay.detach().clone(), frequency.detach().clone()
        self._gains, self.order, self.analytic = gains.detach().clone(), order, analytic
        self._recursive = decay.dtype == torch.float32 and decay.device.type == "cpu"
        self.reset()

    def reset(self) -> None:
        """Forget the past: the next block begins another signal."""
        self._state: Tensor | None = None
        self._leading: torch.Size | None = None
        self.samples = 0

    @torch.no_grad()
    def __call__(self, block: Tensor) -> Tensor:
        rows, leading = as_rows(block)
        if self._leading not in (None, leading):
            raise ValueError(
                f"this stream has blocks of shape {(*self._leading, 'samples')}, got one of {tuple(block.shape)}; "
                "call reset() to begin another signal"
            )
        decay, _ = self._filters
        if block.device != decay.device:
            raise ValueError(f"this stream filters on {decay.device}, and the block is on {block.device}")
        self._leading = leading
        outputs = (self._recurse if self._recursive else self._convolve)(rows.to(decay.dtype))
        self.samples += rows.shape[1]
        return (self._gains[:, None] * outputs).reshape(*leading, *outputs.shape[1:])

    def _recurse(self, rows: Tensor) -> Tensor:
        if self._state is None:
            self._state = recursive.silent_state(len(rows), len(self._gains), self.order)
        return recursive.outputs(rows, *self._filters, self.order, self.analytic, self._state, self.samples)

    def _convolve(self, rows: Tensor) -> Tensor:
        past = response.length(self._filters[0], self.order) - 1
        if self._state is None:
            self._state = rows.new_zeros(len(rows), past)
        heard = torch.cat([self._state, rows], dim=1)
        self._state = heard[:, -past:].clone()
        return fourier.outputs(heard, *self._filters, self.order, self.analytic)[..., past:]
