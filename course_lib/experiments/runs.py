"""Run a recipe and write one result for each finished run.

Notebook: 02_spoken_digits_cnn
"""

import logging
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout

import course_lib
from course_lib import datasets, evaluation, training
from course_lib.datasets import Protocol
from course_lib.experiments import result as files
from course_lib.experiments.recipe import Experiment, Fold, Prediction, Recipe
from course_lib.experiments.result import Result, ResultBusy, ResultError

logger = logging.getLogger(__name__)


def run(
    recipe: Experiment,
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
    if os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1"):  # each would wait for the other's claim
        raise ResultError("a result is made by one process; for a training on several devices call recipe.train")
    protocol = protocol or next(iter(recipe.protocols))
    recipe.require(protocol, seed)
    recordings = datasets.load(recipe.dataset, progress=fit_options.get("progress", True))
    folds = recipe.folds(recordings, protocol, seed)
    if fold is not None:
        folds = [recipe.fold(recordings, protocol, fold, seed)]
    return [_run_fold(recipe, each, keep_model, wait, fit_options) for each in folds]


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
        raise training.CheckpointError(f"{path} lacks its numbers of classes and groups ({error}); delete it") from None
    training.load_model(path, model)
    return model.eval()


def _run_fold(recipe: Experiment, fold: Fold, keep_model: bool, wait: bool, fit_options: dict[str, Any]) -> Result:
    path, source = path_of(recipe, fold), fold.recordings.source
    names = (recipe.name, fold.protocol.name, fold.split.name, fold.seed, source, recipe.hash)
    with _claim(path, source, wait):
        inputs = recipe.inputs(fold, wait=wait, **fit_options)
        try:
            result = existing(recipe, fold, inputs)
        except ResultError as error:
            logger.warning("%s; it is made anew", error)
            result = None
        missing_model = keep_model and isinstance(recipe, Recipe)
        if result is not None:
            missing_model = missing_model and load_model(recipe, *names[1:-1]) is None
            if not missing_model:
                return result
        # Other data, folds or settings have another checkpoint.
        data = recipe.data_identity(fold, inputs)
        key = f"{files.file_name(recipe.name.split('/')[-1])}-{files.digest_of(*map(str, (*names, data)))}"
        checkpoint = files.root_of(source) / ".unfinished" / f"{key}.safetensors"
        prediction = recipe.predict(fold, inputs, **({"checkpoint": checkpoint} | fit_options))
        if result is None:
            result = scored(recipe, fold, prediction, data)
            result.weights_path.unlink(missing_ok=True)  # those of the result that is replaced
            tables = {part: getattr(prediction, part) for part in files.PARTS}
            result = files.write(result, tables, fold.table)
        else:
            _require_same(result, prediction)
        if missing_model:
            about = {"recipe_hash": recipe.hash, "fingerprint": result.fingerprint, "groups": len(inputs.group_names)}
            training.save_model(result.weights_path, prediction.model, classes=len(result.confusion), **about)
        checkpoint.unlink(missing_ok=True)
        return result


def existing(recipe: Experiment, fold: Fold, inputs: Any) -> Result | None:
    """The result of a fold, if there is one of this recipe.

    Raises ResultError where it is damaged, of other data, or without its predictions.
    """
    path = path_of(recipe, fold)
    if not path.exists():
        return None
    result = files.read(path)
    if result.recipe_hash != recipe.hash:
        return None
    data = recipe.data_identity(fold, inputs)
    if different := [name for name, value in data.items() if getattr(result, name) != value]:
        raise ResultError(f"the result {path} is of other data: {', '.join(different)} differ")
    files.require_predictions(result)
    return result


def path_of(recipe: Experiment, fold: Fold) -> Path:
    """Where the result of a fold is, or will be."""
    source = fold.recordings.source
    return files.path_of(recipe.name, fold.protocol.name, fold.split.name, fold.seed, source, recipe.hash)


def scored(recipe: Experiment, fold: Fold, prediction: Prediction, data: dict[str, Any]) -> Result:
    """The result of a fold: what was decided for each test recording, by the rule that its protocol states."""
    return Result(
        recipe=recipe.name,
        recipe_hash=recipe.hash,
        form=recipe.model_dump(mode="json"),
        protocol=fold.protocol.name,
        fold=fold.split.name,
        folds=fold.folds,
        seed=fold.seed,
        source=fold.recordings.source,
        note=fold.recordings.note,
        predictions="",
        versions={
            "course_lib": course_lib.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        **counted(fold.protocol, fold.recordings.class_names, fold.table, prediction.test, prediction.validation),
        **(data | prediction.facts),
    )


def counted(
    protocol: Protocol, classes: Sequence[str], recordings: pd.DataFrame, test: pd.DataFrame, validation: pd.DataFrame
) -> dict[str, Any]:
    """The fields of a `Result` that follow from its predictions: threshold, scores, counts, errors and confusion.

    `recordings` has the label and the group of each recording; `test` and `validation` have the class probabilities of
    clips. Between two classes the validation part chooses the threshold, if the protocol says so, and the scores have
    the area under the ROC curve, of the recordings' pooled probabilities.
    """
    test, validation = (clips.astype(np.float32).astype(float) for clips in (test, validation))  # as they are kept
    threshold = _threshold(protocol.threshold, recordings, validation) if len(classes) == 2 else 0.5
    decided = evaluation.decide(test, protocol.decision, threshold)
    rows = recordings.loc[decided.index]
    predicted, labels, groups = decided["predicted"].to_numpy(), rows["label"].to_numpy(), rows["group"].to_numpy(str)
    right = predicted == labels
    confusion = evaluation.confusion_matrix(labels, predicted, len(classes))
    scores = evaluation.scores_of_confusion(confusion)
    if len(classes) == 2:
        scores["roc_auc"] = evaluation.roc_auc(labels, decided["probability"])
    return {
        "test": len(decided),
        "threshold": threshold,
        "scores": scores,
        "counts": {
            group: {
                classes[label]: [int(here.sum()), int(right[here].sum())]
                for label in np.unique(labels[groups == group])
                for here in [(groups == group) & (labels == label)]
            }
            for group in np.unique(groups).tolist()
        },
        "errors": {name: classes[label] for name, label in zip(decided.index[~right], predicted[~right], strict=True)},
        "confusion": confusion.tolist(),
        "rules": _by_rule(recordings["label"], len(classes), test) if len(test) > len(decided) else {},
    }


def _threshold(rule: str, recordings: pd.DataFrame, validation: pd.DataFrame) -> float:
    """The threshold between two classes, by the rule of a protocol, from the clips of the validation part."""
    if rule == "half" or not len(validation):
        return 0.5
    probability = evaluation.pool_clips(validation)[1]
    rows = recordings.loc[probability.index]
    groups = rows["group"] if rule == "validation_by_group" else None
    return evaluation.best_threshold(rows["label"], probability, groups)


def _by_rule(labels: pd.Series, classes: int, clips: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Scores of single clips, and of recordings by their clips' votes and by their pooled probability, from 0.5."""
    alone = evaluation.decide(clips.set_axis([f"{name}\0{i}" for i, name in enumerate(clips.index)]))["predicted"]
    by_rule = {"clip": evaluation.scores(labels[clips.index], alone, classes)}
    for rule in ("vote", "log_odds"):
        decided = evaluation.decide(clips, rule)["predicted"]
        by_rule[rule] = evaluation.scores(labels[decided.index], decided, classes)
    return by_rule


def _require_same(existing: Result, prediction: Prediction) -> None:
    """Raise ResultError where a training that was repeated for its weights gives other predictions than its result."""
    before = files.predictions(existing)
    if not np.allclose(before.to_numpy(), prediction.test.to_numpy().astype(np.float32), atol=1e-6):
        raise ResultError(
            f"{existing.path}: the training gives other predictions now (it was made with torch "
            f"{existing.versions['torch']}, {existing.threads} threads, {existing.device}), so its weights are not "
            "kept; delete the result to replace it"
        )


@contextmanager
def _claim(path: Path, source: str, wait: bool) -> Iterator[None]:
    """Hold a result for this process; the claim ends with the process, however it ends."""
    root = files.root_of(source)
    lock = FileLock(root / ".locks" / f"{files.digest_of(path.relative_to(root).as_posix())}.lock")
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
