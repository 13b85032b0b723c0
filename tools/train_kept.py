"""Trains a kept network on every usable recording of its data set: `python -m tools.train_kept fsdd/for_strangers`."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from course_lib import datasets, environment, experiments, training
from course_lib.datasets import Split
from course_lib.experiments import Logistic
from course_lib.experiments.recipe import Ensemble, Fold, Recipe

KEPT = environment.CHECKOUT / "course_lib" / "kept_models"


def train(recipe: Recipe | Logistic, seed: int = 0, checkpoint: Path | None = None, **fit_options: object) -> nn.Module:
    """The network of a recipe, trained on all recordings but flagged ones: no side is left to test it on."""
    recordings = datasets.load(recipe.dataset)
    protocol = datasets.get(recipe.dataset).protocol(next(iter(recipe.protocols)))
    rows = recordings.find(flagged=False) if "flagged" in recordings.table else np.arange(len(recordings))
    everything = Split("everything", rows, np.arange(0))
    fold = Fold(recordings, protocol, everything, seed=seed)
    return recipe.train(fold, checkpoint=checkpoint, **fit_options)[0].eval()


def write(path: Path, recipe: Recipe | Logistic | Ensemble, networks: Sequence[nn.Module], seed: int) -> None:
    """The weights in half precision, which halves the file; a score does not feel the rounding."""
    path.parent.mkdir(parents=True, exist_ok=True)
    recordings = datasets.load(recipe.dataset)
    about = {"recipe": recipe.name, "recipe_hash": recipe.hash, "seed": seed, "sample_rate": recordings.sample_rate}
    about["class_names"] = list(recordings.class_names)
    network = nn.ModuleList(networks) if isinstance(recipe, Ensemble) else networks[0]
    training.save_model(path, copy.deepcopy(network).half(), **about)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="FOLDER/NAME of a recipe")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    recipe = experiments.load(chosen.recipe)
    members = recipe.recipes if isinstance(recipe, Ensemble) else [recipe]
    path = KEPT / f"{recipe.name}.safetensors"
    checkpoints = [environment.cache_folder() / f"kept-{member.hash}-{chosen.seed}.safetensors" for member in members]
    networks = [train(member, chosen.seed, file) for member, file in zip(members, checkpoints, strict=True)]
    write(path, recipe, networks, chosen.seed)
    for checkpoint in checkpoints:
        checkpoint.unlink(missing_ok=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
