"""Run a recipe and keep one JSON file a finished run."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import course_lib
from course_lib import CourseError, datasets, evaluation, settings, training
from course_lib.clips import Clips
from course_lib.datasets import splits
from course_lib.datasets.recordings import Recordings
from course_lib.recipes import Recipe, RecipeError


class ResultError(CourseError):
    """A file under results/ cannot be used; the message names it."""


@dataclass(frozen=True)
class Result:
    """One finished training and its test scores: what was run, on what data, by what, and which errors remain.

    `source` is "real" or "stand-in". `per_class` is the recall of each class and `per_group` the accuracy on each
    group (speaker) of the test side, as fractions; `group_sizes` counts its recordings; `errors` maps each misheard
    recording to the class it was taken for; `confusion` has a row for each true class.
    """

    recipe: str
    recipe_hash: str
    form: dict[str, Any]
    protocol: str
    fold: str
    folds: int
    seed: int
    source: str
    fingerprint: str
    train: int
    validation: int
    test: int
    scores: dict[str, float]
    per_class: dict[str, float]
    per_group: dict[str, float]
    group_sizes: dict[str, int]
    errors: dict[str, str]
    confusion: list[list[int]]
    parameters: int
    kept_epoch: int
    seconds: float
    device: str
    precision: str
    threads: int
    versions: dict[str, str]

    @property
    def path(self) -> Path:
        """Where this result is kept; stand-in results have a folder of their own."""
        return _result_path(self.recipe, self.protocol, self.fold, self.seed, self.source)


def run(
    recipe: Recipe,
    seed: int = 0,
    protocol: str | None = None,
    fold: str | None = None,
    keep_model: bool = False,
    progress: bool = True,
) -> list[Result]:
    """Train and test a recipe with one seed: every fold of one protocol (default: its first), or one fold.

    What has a result under results/ is read, not run again; what was interrupted goes on from its checkpoint. With
    `keep_model` the weights are kept beside each new result, for `load_model`.
    Raises RecipeError, DatasetError, TrainingError.

    Notebook: 02_spoken_digits_cnn
    """
    protocol = protocol or next(iter(recipe.protocols))
    recordings = datasets.load(recipe.dataset, progress=progress)
    folds = folds_of(recordings, protocol)
    if fold is not None and fold not in [split.name for split in folds]:
        raise RecipeError(f"{protocol} has no fold {fold!r}; it has {', '.join(split.name for split in folds)}")
    chosen = [split for split in folds if fold in (None, split.name)]
    return [_run_fold(recipe, recordings, protocol, split, len(folds), seed, keep_model, progress) for split in chosen]


def folds_of(recordings: Recordings, protocol: str) -> list[splits.Split]:
    """The splits of a protocol by name: one for official, one a speaker for leave_one_speaker_out."""
    if protocol == "official":
        return [splits.official(recordings)]
    if protocol == "leave_one_speaker_out":
        return splits.leave_one_group_out(recordings)
    raise RecipeError(f"unknown protocol {protocol!r}; known: official, leave_one_speaker_out")


def train(
    recipe: Recipe, recordings: Recordings, split: splits.Split, seed: int = 0, **fit_options: Any
) -> tuple[torch.nn.Module, training.History, Clips]:
    """Train a recipe on the training side of a split; returns the model, its history and the clips of all recordings.

    `fit_options` go to `training.fit`.

    Notebook: 02_spoken_digits_cnn
    """
    progress = fit_options.get("progress", True)
    clips = Clips.cut(recordings, recipe.clip.seconds, recipe.clip.hop_seconds, progress)
    rows, held_out = _sides(recipe, recordings, split, seed)
    validation = clips.of_recordings(held_out) if len(held_out) else None
    extra = None
    if recipe.extra_voices is not None:
        voices = datasets.stand_in(recipe.dataset, progress=progress, **recipe.extra_voices)
        extra = Clips.cut(voices, recipe.clip.seconds, recipe.clip.hop_seconds, progress)
    torch.manual_seed(seed)
    model = recipe.model.build(len(recordings.class_names))
    _try_out(recipe, model, clips)
    own = clips.of_recordings(rows)
    history = training.fit(model, own, validation, recipe.training, extra=extra, seed=seed, **fit_options)
    return model, history, clips


def load_model(recipe: Recipe, protocol: str, fold: str, seed: int = 0, source: str = "real") -> torch.nn.Module | None:
    """The trained model of a run, if its weights were kept for this version of the recipe, else None.

    Notebook: 02_spoken_digits_cnn
    """
    path = _result_path(recipe.name, protocol, fold, seed, source).with_suffix(".safetensors")
    if not path.is_file():
        return None
    _, about = training.checkpoints.load(path)
    if about.get("recipe_hash") != recipe.hash:
        return None
    model = recipe.model.build(about["classes"])
    training.load_model(path, model)
    return model.eval()


def _sides(recipe: Recipe, recordings: Recordings, split: splits.Split, seed: int) -> tuple[np.ndarray, np.ndarray]:
    part = recipe.validation
    if part is None:
        return split.train, split.train[:0]
    return splits.hold_out_validation(recordings, split.train, part.fraction, part.by, seed)


def _try_out(recipe: Recipe, model: torch.nn.Module, clips: Clips) -> None:
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, clips.clip_samples))
    except (ValueError, RuntimeError) as error:
        message = f"{recipe.model.name} cannot take clips of {recipe.clip.seconds} s ({clips.clip_samples} samples)"
        raise RecipeError(f"{recipe.name}: {message}: {error}") from error


def _run_fold(
    recipe: Recipe,
    recordings: Recordings,
    protocol: str,
    split: splits.Split,
    folds: int,
    seed: int,
    keep_model: bool,
    progress: bool,
) -> Result:
    path = _result_path(recipe.name, protocol, split.name, seed, recordings.source)
    if path.exists():
        finished = read(path)
        if finished.recipe_hash == recipe.hash:
            return finished
    key = f"{recipe.name.replace('/', '-')}-{recipe.hash}-{recordings.source}-{protocol}-{split.name}-{seed}"
    checkpoint = settings.cache_folder() / "checkpoints" / f"{key}.safetensors"
    model, history, clips = train(recipe, recordings, split, seed, checkpoint=checkpoint, progress=progress)
    result = _test(recipe, recordings, protocol, split, folds, seed, model, history, clips)
    if keep_model:
        about = {"recipe_hash": recipe.hash, "classes": len(result.confusion), "fingerprint": result.fingerprint}
        training.save_model(result.path.with_suffix(".safetensors"), model, **about)
    write_json(result.path, asdict(result))
    checkpoint.unlink(missing_ok=True)
    return result


def _test(
    recipe: Recipe,
    recordings: Recordings,
    protocol: str,
    split: splits.Split,
    folds: int,
    seed: int,
    model: torch.nn.Module,
    history: training.History,
    clips: Clips,
) -> Result:
    tested = clips.of_recordings(split.test)
    predicted = evaluation.predict(model, tested).argmax(dim=1).numpy()
    rows = recordings.table.iloc[tested.recording.numpy()]
    labels, groups, names = rows["label"].to_numpy(), rows["group"].to_numpy(dtype=str), recordings.class_names
    right = predicted == labels
    trained, held_out = _sides(recipe, recordings, split, seed)
    return Result(
        recipe=recipe.name,
        recipe_hash=recipe.hash,
        form=recipe.model_dump(mode="json"),
        protocol=protocol,
        fold=split.name,
        folds=folds,
        seed=seed,
        source=recordings.source,
        fingerprint=clips.fingerprint,
        train=len(trained),
        validation=len(held_out),
        test=len(split.test),
        scores=evaluation.scores(labels, predicted, len(names)),
        per_class={names[label]: float(right[labels == label].mean()) for label in np.unique(labels)},
        per_group={group: float(right[groups == group].mean()) for group in np.unique(groups).tolist()},
        group_sizes={group: int((groups == group).sum()) for group in np.unique(groups).tolist()},
        errors={name: names[taken] for name, taken in zip(rows["recording"][~right], predicted[~right], strict=True)},
        confusion=evaluation.confusion_matrix(labels, predicted, len(names)).tolist(),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        kept_epoch=history.kept_epoch,
        seconds=round(history.seconds, 2),
        device=history.device,
        precision=history.precision,
        threads=torch.get_num_threads(),
        versions={
            "course_lib": course_lib.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    )


def _result_path(recipe: str, protocol: str, fold: str, seed: int, source: str) -> Path:
    folder = settings.results_folder() if source == "real" else settings.cache_folder() / "results_on_stand_ins"
    return folder / recipe / protocol / f"{fold}-seed{seed}.json"


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file: complete, or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(content, file, indent=1)
                file.write("\n")
            os.replace(unfinished, path)
        finally:
            Path(unfinished).unlink(missing_ok=True)
    except OSError as error:
        raise ResultError(f"cannot write the result {path}: {error}") from error


def read(path: Path) -> Result:
    """Read one result file. Raises ResultError naming it when it is damaged."""
    try:
        return Result(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ResultError(f"{path} is damaged ({error}); delete it and run its recipe again") from None


def results(recipe: Recipe, protocol: str, source: str = "real") -> list[Result]:
    """The kept results of this version of a recipe under one protocol; those of other versions are left out."""
    folder = _result_path(recipe.name, protocol, "", 0, source).parent
    kept = [read(path) for path in sorted(folder.glob("*.json"))]
    return [result for result in kept if result.recipe_hash == recipe.hash]
