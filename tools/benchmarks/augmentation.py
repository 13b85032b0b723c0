"""What augmentation costs, against the forward pass of the model that it feeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from course_lib.experiments import recipes
from course_lib.layers.waveform_augmentation import Augmentation
from course_lib.timing import interleaved
from tools.benchmarks.machine import machine, store

RECIPES = (
    "fsdd/crnn",
    "fsdd/crnn_voices",
    "fsdd/log_mel_cnn",
    "fsdd/log_mel_cnn_voices",
    "fsdd/sample_cnn",
    "fsdd/sample_cnn_voices",
    "fsdd/strided_sample_cnn_augmented",
    "fsdd_mistakes/noise",
    "fsdd_mistakes/shift",
)
SAMPLE_RATE = 8000


def run(quick: bool = False, report_on: Callable[[str], None] = print) -> dict[str, Any]:
    """Time the random layers of the recipes and their models, one batch each, and write the report as JSON.

    It goes to results/benchmarks/augmentation-cpu.json; `quick` takes small batches and puts it into the cache.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report: dict[str, Any] = {
        "benchmark": "augmentation",
        "quick": quick,
        "machine": machine() | {"device": device.type},
        "recipes": [measure(name, device, 4 if quick else 64, 2 if quick else 20) for name in RECIPES],
    }
    for row in report["recipes"]:
        report_on(
            f"{row['recipe']}, {row['clips']} clips: augmentation {row['augmentation_ms']:.1f} ms, "
            f"forward pass {row['forward_ms']:.1f} ms, ratio {row['ratio']:.2f}"
        )
        report_on("  " + ", ".join(f"{name} {ms:.1f}" for name, ms in row["layers_ms"].items()))
    report_on(f"written to {store(report, device.type)}")
    return report


def measure(recipe_name: str, device: torch.device, clips: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of each random layer and of the model without them, on a batch of noise, in the same rounds.

    `ratio` is all random layers together over the model's forward pass, the median of the rounds.
    """
    recipe = recipes.load(recipe_name)
    precision = recipe.training.precision_on(device)
    torch.manual_seed(0)
    model = recipe.model.build(n_classes=10).to(device, memory_format=torch.channels_last).train()
    waveforms = 0.1 * torch.randn(clips, round(recipe.clip.seconds * SAMPLE_RATE), device=device)
    waveforms[:, waveforms.shape[1] // 2 :] = 0  # half of a clip is padding, as in spoken digits
    layers, inputs, batch = list(model.front_end), [], waveforms
    for layer in layers:
        inputs.append(batch)
        batch = layer(batch)
    random = {
        f"{type(layer).__name__}": (layer, given)
        for layer, given in zip(layers, inputs, strict=True)
        if isinstance(layer, Augmentation)
    }
    model.front_end = nn.Sequential(*(layer for layer in layers if not isinstance(layer, Augmentation)))

    def augment() -> None:
        for layer, given in random.values():
            layer(given)

    def forward() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
            model(waveforms)

    single = {name: lambda layer=layer, given=given: layer(given) for name, (layer, given) in random.items()}
    timings = interleaved({"augmentation": augment, "forward": forward, **single}, rounds)
    return {
        "recipe": recipe_name,
        "clips": clips,
        "precision": precision,
        "augmentation_ms": 1000 * timings.median("augmentation"),
        "forward_ms": 1000 * timings.median("forward"),
        "ratio": timings.ratio("augmentation", to="forward"),
        "layers_ms": {name: 1000 * timings.median(name) for name in single},
    }
