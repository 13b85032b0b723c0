"""Benchmarks in toy sizes: that they measure what they say, and keep it."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from course_lib import environment, figures, layers
from course_lib.experiments import recipes
from course_lib.layers.waveform_augmentation import Augmentation
from course_lib.timing import Timings, interleaved, saved_bytes
from tools.benchmarks import gammatone
from tools.benchmarks.__main__ import main
from tools.benchmarks.comparisons import LeafFrontEnd, SincFrontEnd


def test_candidates_take_turns() -> None:
    order: list[str] = []
    timings = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3)
    assert order == ["a", "b"] * 4
    assert len(timings.seconds["a"]) == len(timings.seconds["b"]) == 3


def test_ratios_are_of_the_same_round() -> None:
    timings = Timings({"fast": [1.0, 10.0, 2.0], "slow": [3.0, 30.0, 6.0]})
    assert timings.ratio("slow", to="fast") == 3 and timings.median("slow") == 6


def test_a_pause_takes_its_time() -> None:
    timings = interleaved({"pause": lambda: time.sleep(0.02), "nothing": lambda: None}, rounds=2)
    assert 0.02 <= timings.median("pause") < 1 and timings.ratio("pause", "nothing") > 10


def test_memory() -> None:
    values = torch.zeros(1000, requires_grad=True)
    assert saved_bytes(lambda: values.exp()) == 4000
    assert saved_bytes(lambda: values + 1) == 0


_PEAKS = """
import torch

from tools.benchmarks.machine import peak_bytes

big = torch.zeros(5_000_000)
for _ in range(2):  # the second time finds no freed memory to use unseen
    assert 55e6 <= peak_bytes(lambda: (big + 1) + (big + 2)) <= 70e6
assert peak_bytes(lambda: torch.empty(2_500_000_000)) < 10e6  # reserved, never written to
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells the peak of the resident memory")
def test_peak_memory_is_what_was_really_used() -> None:
    # A process of its own: what other tests have freed would be used again, unseen.
    subprocess.run([sys.executable, "-c", _PEAKS], check=True, cwd=environment.CHECKOUT)


def test_the_published_layer_is_the_formula() -> None:
    case = gammatone.Case(2, 300, 1000, 3)
    plain, pooled = gammatone.PublishedLayer(*case.published), gammatone.PooledConvolution(*case.published)
    waveforms = torch.randn(2, 300)
    assert plain(waveforms).shape == (2, 3, 20)
    sums, means = (layer(waveforms).double().exp() - 1e-16 for layer in (plain, pooled))
    torch.testing.assert_close(sums, 25 * means, rtol=1e-3, atol=1e-19)
    assert len(list(plain.parameters())) == 3


def test_the_command_measures_and_writes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gammatone, "QUICK", gammatone.QUICK[:1])
    monkeypatch.setitem(gammatone.CANDIDATES, "absent", (lambda case: nn.Identity(), "no_such_package"))
    main(["gammatone", "--quick"])
    output = capsys.readouterr().out
    assert "no_such_package is not installed" in output and "time grows with length to the power" in output
    report = json.loads((environment.cache_folder() / "benchmarks" / "gammatone-cpu.json").read_text())
    rows = {row["candidate"]: row for row in report["cases"][0]["rows"]}
    assert rows[gammatone.OURS]["step_to_ours"] == 1
    assert rows[gammatone.OURS]["saved_mb"] < rows[gammatone.PUBLISHED]["saved_mb"]
    assert not list(environment.results_folder().iterdir())
    figure = figures.benchmark(report, gammatone.OURS)
    assert len(figure.axes) == 2


def test_what_is_too_large_says_so() -> None:
    assert "TFLOP" in str(gammatone._why_not(gammatone.PUBLISHED, gammatone.CASES[4]))
    assert gammatone._why_not(gammatone.OURS, gammatone.CASES[4]) is None


def test_augmentation_is_measured_against_its_model(capsys: pytest.CaptureFixture[str]) -> None:
    main(["augmentation", "--quick"])
    assert "fsdd/sample_cnn, 4 clips: augmentation" in capsys.readouterr().out
    (path,) = (environment.cache_folder() / "benchmarks").glob("augmentation-*.json")
    for row in json.loads(path.read_text())["recipes"]:
        random = [name for layer in recipes.load(row["recipe"]).model.front_end for name in layer]
        assert set(row["layers_ms"]) == {name for name in random if issubclass(getattr(layers, name), Augmentation)}
        assert all(row[key] > 0 for key in ("augmentation_ms", "forward_ms", "ratio"))


@pytest.mark.parametrize("kind", [SincFrontEnd, LeafFrontEnd])
def test_comparison_layers_hear_a_tone_in_its_band_and_learn(kind: type[nn.Module]) -> None:
    layer = kind(16, 8000, 401, 200, 80)
    edges = 2595 * torch.log10(1 + torch.tensor([60.0, 4000.0]) / 700)
    centres = 700 * (10 ** (torch.linspace(*edges.tolist(), 33)[1::2] / 2595) - 1)
    for band in (2, 8, 13):
        tone = torch.sin(2 * torch.pi * centres[band] * torch.arange(8000) / 8000)
        louder = layer(torch.cat([torch.zeros(1, 800), tone[None]], 1))
        assert louder.shape == (1, 16, 108)
        onset = louder[0, :, 20] - louder[0, :, 0]
        assert abs(int(onset.argmax()) - band) <= 1
    layer(torch.randn(2, 4000)).square().mean().backward()
    assert all(parameter.grad.isfinite().all() and (parameter.grad != 0).any() for parameter in layer.parameters())
