"""Fair timing on a computer that is never idle: candidates take turns, and are compared round by round."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


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

    Notebook: 04_learnable_gammatone
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
    """Memory (bytes) of the tensors that a computation saves for its backward pass, each counted once.

    Notebook: 04_learnable_gammatone
    """
    sizes: dict[int, int] = {}

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        function()
    return sum(sizes.values())
