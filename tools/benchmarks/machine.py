"""The computer that a benchmark runs on: what it is, its memory, and the report about it."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from course_lib import environment
from course_lib.files import write_whole


def machine() -> dict[str, Any]:
    """What a report says of the computer it was made on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,  # before the benchmark
    }


def store(report: dict[str, Any], device: str) -> Path:
    """Write a report as JSON to results/benchmarks/, a quick one to the cache; returns the path."""
    folder = environment.cache_folder() if report["quick"] else environment.results_folder()
    path = folder / "benchmarks" / f"{report['benchmark']}-{device}.json"
    write_whole(path, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
    return path


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
