"""Fair timing on a computer that is never idle: candidates take turns, and are compared round by round."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def machine() -> dict[str, Any]:
    """What a report says of the computer it was made on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


@dataclass(frozen=True)
class Timings:
    """Seconds of each candidate in each round."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Median seconds of one candidate."""
        return float(np.median(self.seconds[name]))

    def least(self, name: str) -> float:
        """Least seconds of one candidate: the round in which the computer was least busy with other things."""
        return min(self.seconds[name])

    def ratio(self, name: str, to: str) -> float:
        """How many times as long as `to` a candidate takes: the median over the rounds, each at one machine load."""
        return float(np.median(np.array(self.seconds[name]) / np.array(self.seconds[to])))


def interleaved(candidates: Mapping[str, Callable[[], object]], rounds: int) -> Timings:
    """Time functions without arguments: once each to warm up, then `rounds` times in turn.

    Work on a CUDA device is waited for.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for round_ in range(rounds + 1):
        for name, function in candidates.items():
            _wait()
            began = time.perf_counter()
            function()
            _wait()
            if round_ > 0:
                seconds[name].append(time.perf_counter() - began)
    return Timings(seconds)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def saved_bytes(function: Callable[[], object]) -> int:
    """Memory (bytes) of the tensors that a computation keeps for its backward pass, each counted once."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        function()
    return sum(kept.values())


def peak_bytes(function: Callable[[], object]) -> int | None:
    """Greatest memory (bytes) that the process holds during a computation, above that before it; None if not on Linux.

    What counts is the resident set: what a library reserves and never writes to costs nothing.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # else what was freed before would be used again, unseen
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    except (OSError, AttributeError):
        return None
    before = _resident("VmRSS")
    function()
    return max(0, _resident("VmHWM") - before)


def _resident(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])
