"""The gammatone layer against other ways to turn waveforms into learnable images, and against a fixed one."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional

from course_lib.layers import GammatoneFilterbank
from course_lib.timing import Timings, interleaved, saved_bytes
from tools.benchmarks.comparisons import LeafFrontEnd, SincFrontEnd
from tools.benchmarks.machine import machine, peak_bytes, store

OURS, FFT, PUBLISHED, MEL = "gammatone", "gammatone, fft", "published layer", "mel spectrogram (fixed)"
CONVOLUTION, SINC, LEAF = "convolution, average pooling", "SincNet's filters, pooled", "LEAF"
# Of a candidate's forward pass; beyond that it is left out.
_MOST_MULTIPLICATIONS, _MOST_BYTES, _MOST_OUTPUTS = 4e11, 3e9, 1e8


@dataclass(frozen=True)
class Case:
    """A batch of `clips` clips of `samples` samples through `filters` filters."""

    clips: int
    samples: int
    sample_rate: int
    filters: int

    @property
    def window(self) -> int:
        return round(0.025 * self.sample_rate)

    @property
    def hop(self) -> int:
        return round(0.010 * self.sample_rate)

    @property
    def taps(self) -> int:
        """81 as published for 1 kHz; from 2 kHz on 125 ms, in which the narrowest filter rings out."""
        return 81 if self.sample_rate <= 2000 else round(0.125 * self.sample_rate) + 1

    @property
    def published(self) -> tuple[int, int, int, int, int]:
        """The arguments of `PublishedLayer`."""
        return self.filters, self.sample_rate, self.taps, self.window, self.hop

    def __str__(self) -> str:
        seconds = self.samples / self.sample_rate
        return f"{self.clips} x {seconds:g} s at {self.sample_rate / 1000:g} kHz, {self.filters} filters"


CASES = [
    Case(64, 2500, 1000, 16),
    Case(64, 2500, 1000, 64),
    Case(4, 16_000, 16_000, 64),
    Case(1, 160_000, 16_000, 64),
    Case(16, 480_000, 16_000, 64),
    Case(4, 1_323_000, 44_100, 64),
]
QUICK = [Case(4, 500, 1000, 8), Case(1, 4000, 16_000, 16)]


class PublishedLayer(nn.Module):
    """The learnable gammatone as SpectNet published it, with as many taps as asked for.

    Parameters in Hz, correlation with `taps` samples of each filter, squares, and a dense convolution over all filters
    for the sums over `window` samples, one every `hop`. Shown in lesson 4.
    """

    def __init__(self, n_filters: int, sample_rate: int, taps: int, window: int, hop: int) -> None:
        super().__init__()
        highest = 2595 * math.log10(1 + sample_rate / 1400)
        mel = torch.linspace(0, highest, n_filters + 2)[1:-1]
        self.frequency = nn.Parameter(700 * (10 ** (mel / 2595) - 1))
        self.bandwidth = nn.Parameter(torch.full((n_filters,), 100.0))
        self.amplitude = nn.Parameter(torch.ones(n_filters))
        self.register_buffer("time", torch.arange(taps) / sample_rate)
        self.register_buffer("window", torch.eye(n_filters)[:, :, None].repeat(1, 1, window))
        self.hop = hop

    def forward(self, waveforms: Tensor) -> Tensor:
        return torch.log(functional.conv1d(self.outputs(waveforms).square(), self.window, stride=self.hop) + 1e-16)

    def outputs(self, waveforms: Tensor) -> Tensor:
        envelope = self.time**3 * torch.exp(-2 * math.pi * self.bandwidth[:, None] * self.time)
        kernels = self.amplitude[:, None] * envelope * torch.cos(2 * math.pi * self.frequency[:, None] * self.time)
        return functional.conv1d(waveforms[:, None], kernels[:, None])


class PooledConvolution(PublishedLayer):
    """The same with average pooling in place of the dense convolution."""

    def forward(self, waveforms: Tensor) -> Tensor:
        energies = self.outputs(waveforms).square()
        return torch.log(functional.avg_pool1d(energies, self.window.shape[2], self.hop) + 1e-16)


def _mel_spectrogram(case: Case) -> nn.Module:
    n_fft = max(case.window, 2 ** math.ceil(math.log2(4 * case.filters)) if case.sample_rate <= 2000 else case.window)
    return torchaudio.transforms.MelSpectrogram(
        case.sample_rate, n_fft, win_length=case.window, hop_length=case.hop, n_mels=case.filters
    )


def _nnaudio(case: Case) -> nn.Module:
    from nnAudio.features import Gammatonegram

    n_fft = 2 ** math.ceil(math.log2(max(case.window, 64)))
    return Gammatonegram(
        case.sample_rate, n_fft, n_bins=case.filters, hop_length=case.hop, trainable_bins=True, verbose=False
    )


# Name -> how to make it, and the package it needs beside the course's own.
CANDIDATES: dict[str, tuple[Callable[[Case], nn.Module], str | None]] = {
    OURS: (lambda case: GammatoneFilterbank(case.filters, case.sample_rate), None),
    FFT: (lambda case: GammatoneFilterbank(case.filters, case.sample_rate, backend="fft"), None),
    PUBLISHED: (lambda case: PublishedLayer(*case.published), None),
    CONVOLUTION: (lambda case: PooledConvolution(*case.published), None),
    MEL: (_mel_spectrogram, None),
    "nnAudio Gammatonegram": (_nnaudio, "nnAudio"),
    SINC: (lambda case: SincFrontEnd(*case.published), None),
    LEAF: (lambda case: LeafFrontEnd(*case.published), None),
}


def _why_not(name: str, case: Case) -> str | None:
    """Why a candidate is left out of a case, if it is."""
    package = CANDIDATES[name][1]
    if package is not None and importlib.util.find_spec(package) is None:
        return f"{package} is not installed (pip install course-lib[benchmark])"
    outputs = case.clips * case.filters * case.samples
    if name in (PUBLISHED, CONVOLUTION, SINC, LEAF) and (
        outputs * case.taps > _MOST_MULTIPLICATIONS or 12 * outputs > _MOST_BYTES
    ):
        return f"too large: {2 * outputs * case.taps / 1e12:.1f} TFLOP and {8 * outputs / 1e9:.1f} GB forward"
    return "too slow" if name == FFT and outputs > _MOST_OUTPUTS else None


def _step(model: nn.Module, waveforms: Tensor) -> None:
    """A training step's forward and backward pass, with a gradient as a network would send it."""
    image = model(waveforms)
    if image.requires_grad:
        image.backward(torch.ones_like(image))
        for parameter in model.parameters():
            parameter.grad = None


@torch.no_grad()
def _forward(model: nn.Module, waveforms: Tensor) -> None:
    model(waveforms)


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Times, ratios and memory of all candidates in one case."""
    waveforms = torch.randn(case.clips, case.samples, generator=torch.Generator().manual_seed(0)) / 4
    rows, models = [], {}
    for name, (make, _) in CANDIDATES.items():
        reason = _why_not(name, case)
        if reason is None:
            models[name] = make(case)
        else:
            rows.append({"candidate": name, "left_out": reason})
    forward = {name: functools.partial(_forward, model, waveforms) for name, model in models.items()}
    step = {
        f"{name}: step": functools.partial(_step, model, waveforms) for name, model in models.items() if name != MEL
    }
    timings = interleaved(forward | step, rounds)
    return {"case": str(case), **asdict(case), "rounds": rounds} | {
        "rows": [_row(name, model, waveforms, timings) for name, model in models.items()] + rows
    }


def _row(name: str, model: nn.Module, waveforms: Tensor, timings: Timings) -> dict[str, Any]:
    step = name if name == MEL else f"{name}: step"
    peak = peak_bytes(lambda: _step(model, waveforms))
    return {
        "candidate": name,
        "forward_ms": round(1e3 * timings.median(name), 3),
        "step_ms": None if name == MEL else round(1e3 * timings.median(step), 3),
        "step_to_ours": round(timings.ratio(step, f"{OURS}: step"), 3),
        "forward_to_ours": round(timings.ratio(name, OURS), 3),
        "saved_mb": round(saved_bytes(lambda: model(waveforms)) / 1e6, 3),
        "peak_mb": None if peak is None else round(peak / 1e6, 3),
    }


def growth(rounds: int, seconds: float = 10.0) -> dict[str, Any]:
    """How the time of a training step grows: the exponent of length, number of filters and sample rate."""
    base = Case(1, int(16_000 * seconds), 16_000, 64)
    axes = {
        "length": [Case(1, base.samples * factor, 16_000, 64) for factor in (1, 2, 4, 8)],
        "filters": [Case(1, base.samples, 16_000, filters) for filters in (16, 32, 64, 128)],
        "sample rate": [Case(1, int(rate * seconds), rate, 64) for rate in (4000, 8000, 16_000, 32_000)],
    }
    report = {}
    for axis, cases in axes.items():
        sizes = [{"length": case.samples, "filters": case.filters}.get(axis, case.sample_rate) for case in cases]
        report[axis] = {"sizes": sizes}
        for name in (OURS, CONVOLUTION):
            functions = {
                str(size): functools.partial(_step, CANDIDATES[name][0](case), torch.randn(1, case.samples) / 4)
                for size, case in zip(sizes, cases, strict=True)
            }
            timings = interleaved(functions, rounds)
            times = [timings.least(str(size)) for size in sizes]
            exponent = float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
            report[axis][name] = {"seconds": times, "exponent": round(exponent, 2)}
    return report


def profile(rounds: int, seconds: float = 10.0) -> dict[str, Any]:
    """Milliseconds of the parts of a training step, one thread, for one clip at 16 kHz through 64 filters.

    Without derivatives is what a layer that learns nothing takes; backward is the whole step less its forward pass.
    """
    case = Case(1, int(16_000 * seconds), 16_000, 64)
    layer, waveforms = GammatoneFilterbank(case.filters, case.sample_rate), torch.randn(1, case.samples) / 4
    parts = {
        "energies without derivatives": torch.no_grad()(lambda: layer.energies(waveforms)),
        "energies with derivatives": lambda: layer.energies(waveforms),
        "image with derivatives": lambda: layer(waveforms),
        "step": functools.partial(_step, layer, waveforms),
        MEL: functools.partial(_forward, _mel_spectrogram(case), waveforms),
    }
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        timings = interleaved(parts, rounds)
    finally:
        torch.set_num_threads(threads)
    return {"case": str(case), "threads": 1} | {name: round(1e3 * timings.least(name), 3) for name in parts}


def run(quick: bool = False, report_on: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure all cases, tell each when it is done, and write results/benchmarks/gammatone-cpu.json.

    `quick` takes toy sizes, to see that everything works; its report goes to the cache instead.
    """
    report: dict[str, Any] = {
        "benchmark": "gammatone",
        "quick": quick,
        "machine": machine(),
        "cases": [],
    }
    for case in QUICK if quick else CASES:
        large = case.clips * case.samples * case.filters > 5e6
        measured = measure(case, 2 if quick else 5 if large else 15)
        report["cases"].append(measured)
        report_on(table(measured))
    report["profile"] = profile(2, 0.25) if quick else profile(25)
    report["growth"] = growth(1, 0.25) if quick else growth(3)
    report_on(", ".join(f"{name} {value}" for name, value in report["profile"].items()))
    for axis, growths in report["growth"].items():
        exponents = (f"{name} {value['exponent']:.2f}" for name, value in growths.items() if name != "sizes")
        report_on(f"time grows with {axis} to the power: {', '.join(exponents)}")
    report_on(f"written to {store(report, 'cpu')}")
    return report


def table(measured: dict[str, Any]) -> str:
    """One case as lines of text; ratios say how many times as long as the gammatone layer a candidate takes."""
    lines = [measured["case"], f"{'':30} {'forward':>10} {'step':>10} {'ratio':>8} {'saved':>10} {'peak':>10}"]
    for row in measured["rows"]:
        if "left_out" in row:
            lines.append(f"  {row['candidate']:28} {row['left_out']}")
            continue
        step = "" if row["step_ms"] is None else f"{row['step_ms']:.1f} ms"
        peak = "" if row["peak_mb"] is None else f"{row['peak_mb']:.1f} MB"
        lines.append(
            f"  {row['candidate']:28} {row['forward_ms']:7.1f} ms {step:>10} {row['step_to_ours']:7.2f}x "
            f"{row['saved_mb']:7.1f} MB {peak:>10}"
        )
    return "\n".join(lines)
