"""Run a recipe and write one result for each finished run.

Notebook: 02_spoken_digits_cnn
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

import course_lib
from course_lib import datasets, evaluation, training
from course_lib.clips import Clips
from course_lib.experiments import result as files
from course_lib.experiments.recipe import Ensemble, Fold, GroupPrior, Prediction, Recipe
from course_lib.experiments.result import Result, ResultBusy, ResultError

logger = logging.getLogger(__name__)


def run(
    recipe: Recipe | Ensemble | GroupPrior,
    seed: int = 0,
    protocol: str | None = None,
    fold: str | None = None,
    keep_model: bool = False,
    wait: bool = True,
    **fit_options: Any,
) -> list[Result]:
    """Train and test a recipe with one seed: every fold of one protocol (default: its first), or one fold.

    A run that has a result of this recipe, these recordings, labels, groups and sides is read, not run again; what was
    interrupted goes on from its checkpoint; what another process is running is waited for, or raises ResultBusy unless
    `wait`. A result of other data is replaced, and a warning says so. An Ensemble runs the members that have no result
    first. With `keep_model` the weights are written beside each result, for `load_model`; a result that exists is not
    replaced for that. `fit_options`, such as `progress=False`, go to `training.fit`.
    Raises RecipeError, DatasetError, TrainingError and ResultError.

    Notebook: 02_spoken_digits_cnn
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # each would wait for the other's claim
        raise ResultError("a result is made by one process; for a training on several devices call recipe.train")
    progress = fit_options.get("progress", True)
    recordings = datasets.load(recipe.dataset, progress=progress)
    protocol = protocol or next(iter(recipe.protocols))
    folds = recipe.folds(recordings, protocol, seed)
    if fold is not None:
        folds = [recipe.fold(recordings, protocol, fold, seed)]
    clips = recipe.clips(recordings, progress) if isinstance(recipe, Recipe) else None
    return [_run_fold(recipe, each, clips, keep_model, wait, fit_options) for each in folds]


def load_model(recipe: Recipe, protocol: str, fold: str, seed: int = 0, source: str = "real") -> torch.nn.Module | None:
    """The trained model of a run, if its weights were kept for this version of the recipe, else None.

    Raises CheckpointError for damaged weights.

    Notebook: 02_spoken_digits_cnn
    """
    path = files.path_of(recipe.name, protocol, fold, seed, source, recipe.hash).with_suffix(".safetensors")
    if not path.is_file():
        return None
    _, about = training.state.load(path)
    if about.get("recipe_hash") != recipe.hash:
        return None
    try:
        model = recipe.build(int(about["classes"]), about.get("groups"))
    except (KeyError, TypeError, ValueError) as error:
        raise training.CheckpointError(f"{path} does not tell its classes and groups ({error}); delete it") from None
    training.load_model(path, model)
    return model.eval()


def existing_result(
    recipe: Recipe | Ensemble | GroupPrior, fold: Fold, data: dict[str, Any], say: bool = True
) -> Result | None:
    """The result of a fold, if there is one of this recipe and of this data, with its predictions.

    With `say` a warning tells why a result that is there cannot be used.
    """
    path = _path(recipe, fold)
    if not path.exists():
        return None
    try:
        result = files.read(path)
    except ResultError as error:
        if say:
            logger.warning("%s; it is made anew", error)
        return None
    if result.recipe_hash != recipe.hash:
        return None
    different = [name for name, value in data.items() if getattr(result, name) != value]
    reason = f"is of other data ({', '.join(different)} differ)" if different else ""
    if not different and not files.has_predictions(result):
        reason = "has lost the predictions beside it"
    if reason and say:
        logger.warning("the result %s %s; it is made anew", path, reason)
    return None if reason else result


def _run_fold(
    recipe: Recipe | Ensemble | GroupPrior,
    fold: Fold,
    clips: Clips | None,
    keep_model: bool,
    wait: bool,
    fit_options: dict[str, Any],
) -> Result:
    path = _path(recipe, fold)
    with _claim(path, fold.recordings.source, wait):
        if isinstance(recipe, Ensemble):
            options = fit_options | {"wait": wait}
            data = recipe.identity_of(recipe.member_results(fold, run, **options))
        else:
            data = recipe.data_identity(fold, clips)
            options = dict(fit_options)
        existing = existing_result(recipe, fold, data)
        wants_model = keep_model and isinstance(recipe, Recipe)
        if existing is not None and not (wants_model and load_model_of(recipe, existing) is None):
            return existing
        checkpoint = _checkpoint(recipe, fold, data)
        if isinstance(recipe, Recipe):
            _refuse_copies(fold, clips)
            options = {"checkpoint": checkpoint, "clips": clips} | options
        prediction = recipe.predict(fold, run=run, **options)
        result = scored(recipe, fold, prediction, data)
        if existing is None:
            result = files.write(result, {part: getattr(prediction, part) for part in files.PARTS}, fold.table)
        else:
            _require_same(existing, prediction)
            result = existing
        if wants_model:
            about = {
                "recipe_hash": result.recipe_hash,
                "classes": len(result.confusion),
                "groups": len(clips.group_names),
            }
            training.save_model(
                path.with_suffix(".safetensors"), prediction.model, fingerprint=result.fingerprint, **about
            )
        checkpoint.unlink(missing_ok=True)
        return result


def load_model_of(recipe: Recipe, result: Result) -> torch.nn.Module | None:
    """The trained model behind a result, if its weights were kept, else None. Raises CheckpointError."""
    return load_model(recipe, result.protocol, result.fold, result.seed, result.source)


def scored(recipe: Recipe | Ensemble | GroupPrior, fold: Fold, prediction: Prediction, data: dict[str, Any]) -> Result:
    """The result of a fold: what was decided for each test recording, by the rule that its protocol states.

    Between two classes the validation part chooses the threshold, if the protocol says so.
    """
    names, table, protocol = fold.recordings.class_names, fold.table, fold.protocol
    threshold = 0.5
    if len(names) == 2 and len(prediction.validation) and protocol.threshold == "validation":
        probability = evaluation.pool_clips(prediction.validation)[1]
        threshold = evaluation.best_threshold(table["label"][probability.index], probability)
    decided = evaluation.decide(prediction.test, protocol.decision, threshold)
    rows = table.loc[decided.index]
    predicted, labels, groups = decided["predicted"].to_numpy(), rows["label"].to_numpy(), rows["group"].to_numpy(str)
    right = predicted == labels
    confusion = evaluation.confusion_matrix(labels, predicted, len(names))
    errors = zip(rows["recording"][~right], predicted[~right], strict=True)
    return Result(
        recipe=recipe.name,
        recipe_hash=recipe.hash,
        form=recipe.model_dump(mode="json"),
        protocol=protocol.name,
        fold=fold.split.name,
        folds=fold.folds,
        seed=fold.seed,
        source=fold.recordings.source,
        note=fold.recordings.note,
        predictions="",
        test=len(decided),
        scores=evaluation.scores_of_confusion(confusion),
        counts={
            group: {
                names[label]: [int(here.sum()), int(right[here].sum())]
                for label in np.unique(labels[groups == group])
                for here in [(groups == group) & (labels == label)]
            }
            for group in np.unique(groups).tolist()
        },
        errors={name: names[label] for name, label in errors},
        confusion=confusion.tolist(),
        threshold=threshold,
        rules=_by_rule(fold, prediction) if len(prediction.test) > len(decided) else {},
        versions={
            "course_lib": course_lib.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        **(data | prediction.facts),
    )


def _by_rule(fold: Fold, prediction: Prediction) -> dict[str, dict[str, float]]:
    """Scores of single clips, and of recordings by their clips' votes and by their pooled probability, from 0.5."""
    labels, classes = fold.table["label"], len(fold.recordings.class_names)
    clips = prediction.test
    alone = evaluation.decide(clips.set_axis([f"{name}\0{i}" for i, name in enumerate(clips.index)]))["predicted"]
    by_rule = {"clip": evaluation.scores(labels[clips.index], alone, classes)}
    for rule in ("vote", "log_odds"):
        decided = evaluation.decide(clips, rule)["predicted"]
        by_rule[rule] = evaluation.scores(labels[decided.index], decided, classes)
    return by_rule


def _path(recipe: Recipe | Ensemble | GroupPrior, fold: Fold) -> Path:
    source = fold.recordings.source
    return files.path_of(recipe.name, fold.protocol.name, fold.split.name, fold.seed, source, recipe.hash)


def _checkpoint(recipe: Recipe | Ensemble | GroupPrior, fold: Fold, data: dict[str, Any]) -> Path:
    """Where an unfinished training waits; other data, folds or settings have another checkpoint."""
    source = fold.recordings.source
    parts = (
        recipe.name,
        recipe.hash,
        source,
        fold.protocol.name,
        fold.split.name,
        str(fold.seed),
        *map(str, data.values()),
    )
    key = f"{files.file_name(recipe.name.split('/')[-1])}-{files.digest_of(*parts)}"
    return files.root_of(source) / ".unfinished" / f"{key}.safetensors"


def _require_same(existing: Result, prediction: Prediction) -> None:
    """Raise ResultError where a training that was repeated for its weights gives other predictions than its result."""
    kept = files.predictions(existing)
    if not np.allclose(kept.to_numpy(), prediction.test.to_numpy().astype(np.float32), atol=1e-6):
        raise ResultError(
            f"{existing.path}: the training gives other predictions now (it was made with torch "
            f"{existing.versions['torch']}, {existing.threads} threads, {existing.device}), so its weights are not "
            "kept; delete the result to replace it"
        )


def _refuse_copies(fold: Fold, clips: Clips) -> None:
    """Raise DatasetError where the same samples are on both sides of a split under two names.

    A protocol that is leaky anyway is run, and a warning names the copies.
    """
    names = fold.recordings.table["recording"].to_numpy(str)
    train, test = (_contents(clips, getattr(fold.split, side)) for side in ("train", "test"))
    copies = sorted(str(names[train[content]]) for content in train.keys() & test.keys())
    if copies:
        message = (
            f"{fold.recordings.name}: {len(copies)} recordings on the training side of {fold.split.name} are copies of "
            f"test recordings: {', '.join(copies[:5])}; remove them, or put copies into one group"
        )
        if not fold.protocol.leaky:
            raise datasets.DatasetError(message)
        logger.warning("%s", message)


def _contents(clips: Clips, rows: np.ndarray) -> dict[bytes, int]:
    """A digest of the samples of each recording (rows of the table), without those that are flat, and its row."""
    part = clips.of_recordings(rows)
    samples, recording = part.samples.numpy(), part.recording.numpy()
    contents = {}
    for row in np.unique(recording):
        own = recording == row
        begin, end = part.start[own].min(), (part.start + part.length)[own].max()
        content = samples[int(begin) : int(end)]
        if content.min() < content.max():
            contents[hashlib.sha256(content).digest()] = int(row)
    return contents


@contextmanager
def _claim(path: Path, source: str, wait: bool) -> Iterator[None]:
    """Hold a result for this process; the claim ends with the process, however it ends."""
    root = files.root_of(source)
    name = hashlib.sha256(path.relative_to(root).as_posix().encode()).hexdigest()[:32]
    lock = FileLock(root / ".locks" / f"{name}.lock")
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if not wait:
                raise ResultBusy(f"another process is at work on {path}") from None
            logger.warning("another process is at work on %s; waiting for it", path)
            lock.acquire()
    except OSError as error:
        raise ResultError(f"cannot write the result {path}: {error}") from error
    try:
        yield
    finally:
        lock.release()
