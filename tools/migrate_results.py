"""Brings results of version 1 of the course into the form of version 2, once; nothing is trained again.

    python -m tools.migrate_results

Needs the real data sets in `COURSE_DATA`: a result is migrated only if the recordings at hand are those it is of.
Names change (protocol `origin` -> `original_paper`, rule `segment` -> `clip`), and the recipe's hash, and what a result
states of its data; predictions, scores and weights stay. Scores are computed again from the predictions and must be the
same.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from course_lib import datasets, environment, training
from course_lib.clips import Clips
from course_lib.datasets.decoded import decode
from course_lib.experiments import result as files
from course_lib.experiments.recipe import Ensemble, Fold, GroupPrior, Prediction, Recipe
from course_lib.experiments.recipes import load
from course_lib.experiments.runs import scored

PROTOCOLS = {"origin": "original_paper"}


def main() -> int:
    root = environment.results_folder()
    old = [path for path in sorted(root.glob("*/*/*/*.json")) if "digest" not in json.loads(path.read_text())]
    # An ensemble names the predictions of its members, so it comes after them.
    old.sort(key=lambda path: "ensemble" in path.parts[-3])
    for path in old:
        migrate(path)
    print(f"{len(old)} results migrated")
    return 0


def migrate(path: Path) -> None:
    """Write one result in its new form, and remove the old files. Raises ValueError where anything does not agree."""
    was = json.loads(path.read_text())
    recipe = load(was["recipe"])
    _require_same_recipe(was["form"], recipe)
    protocol = PROTOCOLS.get(was["protocol"], was["protocol"])
    fold_name = "original_paper" if was["fold"] == "origin" else was["fold"]
    recordings = _recordings(recipe.dataset)
    fold = recipe.fold(recordings, protocol, fold_name, was["seed"])
    data = _data_identity(recipe, fold, was)
    has_predictions = path.with_suffix(".npz").is_file()
    if has_predictions:
        with np.load(path.with_suffix(".npz")) as packed:
            arrays = dict(packed)
    else:  # the oldest results have none; their errors name the predicted class of each recording
        arrays = _certain(was["errors"], fold)
    clips = {part: _probabilities(arrays, prefix, len(recordings.class_names)) for part, prefix in files.PARTS.items()}
    facts = {name: was[name] for name in ("train", "validation", "parameters", "kept_epoch", "seconds", "device")}
    facts |= {name: was[name] for name in ("precision", "threads")} | {"probe": was.get("probe", {})}
    result = scored(recipe, fold, Prediction(**clips, facts=facts), data)
    if was["errors"] != result.errors and _only_ties(was["errors"], result.errors, clips["test"]):
        certain = _probabilities(_certain(was["errors"], fold), "", len(recordings.class_names))
        result = scored(recipe, fold, Prediction(certain, clips["validation"], facts), data)
    _require_same_scores(was, result)
    result = files.Result(**(asdict(result) | {"versions": was["versions"]}))
    path.unlink()  # else the new result would give way to it
    if has_predictions:
        result = files.write(result, clips, fold.table)
    else:
        files.write_json(result.path, files.signed(asdict(result)))
    weights = path.with_suffix(".safetensors")
    if weights.is_file():
        _, about = training.state.load(weights)
        model = recipe.build(about["classes"], about.get("groups"))
        training.load_model(weights, model)
        about = {
            "recipe_hash": result.recipe_hash,
            "classes": about["classes"],
            "groups": len(recordings.table["group"].unique()),
        }
        training.save_model(result.weights_path, model, fingerprint=result.fingerprint, **about)
    for ending in (".json", ".npz", ".safetensors"):
        if path.with_suffix(ending) != result.path.with_suffix(ending):
            path.with_suffix(ending).unlink(missing_ok=True)
    if path.parent != result.path.parent and not any(path.parent.iterdir()):
        path.parent.rmdir()
    files.read(result.path)


def _probabilities(arrays: dict[str, np.ndarray], prefix: str, classes: int) -> pd.DataFrame:
    if not len(arrays.get(f"{prefix}recording", ())):  # the oldest files have no validation part
        return pd.DataFrame(np.empty((0, classes)))
    return pd.DataFrame(arrays[f"{prefix}probabilities"].astype(float), index=arrays[f"{prefix}recording"])


def _certain(errors: dict[str, str], fold: Fold) -> dict[str, np.ndarray]:
    """Probabilities of 0 and 1 that give the errors of a result; for counting only."""
    tested = fold.table.iloc[fold.split.test]
    names = fold.recordings.class_names
    predicted = [names.index(errors[name]) if name in errors else label for name, label in tested["label"].items()]
    return {"recording": tested.index.to_numpy(str), "probabilities": np.eye(len(names))[predicted]}


def _only_ties(then: dict[str, str], now: dict[str, str], clips: pd.DataFrame) -> bool:
    """Whether two lists of errors differ only where two classes are equally likely in the rounded predictions."""
    differ = [name for name in then.keys() | now.keys() if then.get(name) != now.get(name)]
    top = np.sort(clips.loc[differ].to_numpy())
    print(f"ties: {differ}, differences {top[:, -1] - top[:, -2]}")
    return bool((top[:, -1] - top[:, -2] < 1e-6).all())


def _require_same_recipe(form: dict[str, Any], recipe: Recipe | Ensemble | GroupPrior) -> None:
    """The recipe of the course now and the form that the result was made by are one, but for names."""
    form = {key: value for key, value in form.items() if key not in ("name", "title", "protocols")}
    if isinstance(recipe, Recipe):
        form["synthetic"] = form.pop("extra_voices", None)
        form |= {"name": recipe.name, "title": recipe.title, "protocols": recipe.protocols}
        form["clip"] = {key: value for key, value in form["clip"].items() if value is not None}
        then = Recipe.model_validate(json.loads(json.dumps(form)))
        if then.hash != recipe.hash:
            raise ValueError(f"{recipe.name}: made by another recipe: {then.model_dump()} / {recipe.model_dump()}")
    elif isinstance(recipe, Ensemble) and list(form["members"]) != list(recipe.members):
        raise ValueError(f"{recipe.name}: other members")


def _data_identity(recipe: Recipe | Ensemble | GroupPrior, fold: Fold, was: dict[str, Any]) -> dict[str, Any]:
    if isinstance(recipe, GroupPrior):
        return recipe.data_identity(fold)
    if isinstance(recipe, Ensemble):
        paths = [
            files.path_of(member.name, fold.protocol.name, fold.split.name, fold.seed, "real", member.hash)
            for member in recipe.recipes
        ]
        return recipe.data_identity(fold, [files.read(path) for path in paths])
    samples, clips = _clips(recipe.name)
    if was["fingerprint"] != samples:
        raise ValueError(f"{recipe.name}: made of other recordings than those in {environment.data_folder()}")
    return recipe.data_identity(fold, clips)


@cache
def _recordings(dataset: str) -> datasets.Recordings:
    return datasets.load(dataset, "real")


@cache
def _clips(name: str) -> tuple[str, Clips]:
    """The fingerprint of names and samples alone, as version 1 had it, and the clips of a recipe."""
    recipe = load(name)
    recordings = _recordings(recipe.dataset)
    clips = recipe.clips(recordings)
    prepared = recordings if recipe.preparation is None else recordings.prepared(recipe.preparation)
    return decode(prepared).fingerprint, clips


def _require_same_scores(was: dict[str, Any], now: files.Result) -> None:
    then = was["scores"] | {"balanced_accuracy": was["scores"].get("macc", now.scores["balanced_accuracy"])}
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "sensitivity", "specificity", "precision", "f1"):
        if then.get(name) is not None and not np.isclose(then[name], now.scores[name]):
            raise ValueError(f"{now.recipe} {now.protocol} {now.fold}: {name} {then[name]} / {now.scores[name]}")
    same_threshold = np.isclose(was.get("threshold", 0.5), now.threshold)
    if was["confusion"] != now.confusion or was["errors"] != now.errors or not same_threshold:
        raise ValueError(f"{now.recipe} {now.protocol} {now.fold}: other errors")


if __name__ == "__main__":
    sys.exit(main())
