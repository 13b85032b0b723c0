"""A recipe that trains in a quarter of a second, and what tests do with it again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from course_lib import experiments
from course_lib.experiments import Ensemble, GroupPrior, Recipe, Result

FORM: dict[str, Any] = {
    "title": "Toy",
    "dataset": "fsdd",
    "protocols": {"official": 1, "leave_one_speaker_out": 1},
    "clip": {"seconds": 0.1},
    "model": {"name": "StridedSampleCNN", "settings": {"clip_samples": 800, "stride": 64}},
    "training": {"epochs": 1, "batch_size": 64, "precision": "32-true"},
}
PRIOR = {key: FORM[key] for key in ("dataset", "protocols")} | {"title": "Prior", "baseline": "group_prior"}


def toy(**changes: Any) -> Recipe:
    """The toy recipe `mine/toy` with some keys changed."""
    return Recipe.model_validate({"name": "mine/toy"} | FORM | changes)


def run(recipe: Recipe | Ensemble | GroupPrior, **options: Any) -> list[Result]:
    return experiments.run(recipe, progress=False, **options)


def write_recipe(path: Path, form: dict[str, Any] = FORM, **changes: Any) -> str:
    """Write a recipe, without the keys that are None; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    form = {key: value for key, value in (form | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(form, sort_keys=False))
    return str(path)


def files_in(folder: Path) -> list[str]:
    """The files below a folder, without the claims and what is hidden."""
    found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))
