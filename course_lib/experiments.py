"""Run a recipe and keep one JSON file a finished run."""

from __future__ import annotations

import json
import logging
import os
import platform
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, get_args

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout

import course_lib
from course_lib import CourseError, datasets, evaluation, settings, training
from course_lib.clips import Clips
from course_lib.datasets import fsdd, splits
from course_lib.datasets.recordings import Recordings
from course_lib.recipes import Ensemble, Protocol, Recipe, RecipeError

logger = logging.getLogger(__name__)


class ResultError(CourseError):
    """A file under results/ cannot be used; the message names it."""


class ResultBusy(ResultError):
    """Another process is at work on this result."""


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
    recipe: Recipe | Ensemble,
    seed: int = 0,
    protocol: str | None = None,
    fold: str | None = None,
    keep_model: bool = False,
    wait: bool = True,
    **fit_options: Any,
) -> list[Result]:
    """Train and test a recipe with one seed: every fold of one protocol (default: its first), or one fold.

    An Ensemble is made of its members' predictions, and those that are missing are run first.
    What has a result under results/ is read, not run again; what was interrupted goes on from its checkpoint; what
    another process is running is waited for, or raises ResultBusy unless `wait`. With `keep_model` the weights are
    kept beside each result, for `load_model`. `fit_options`, such as `progress=False`, go to `training.fit`.
    Raises RecipeError, DatasetError, TrainingError.

    Notebook: 02_spoken_digits_cnn
    """
    protocol = protocol or next(iter(recipe.protocols))
    recordings = datasets.load(recipe.dataset, progress=fit_options.get("progress", True))
    folds = folds_of(recordings, protocol, seed)
    if fold is not None and fold not in [split.name for split in folds]:
        raise RecipeError(f"{protocol} has no fold {fold!r}; it has {', '.join(split.name for split in folds)}")
    results = []
    for split in folds:
        if fold in (None, split.name):
            path = _result_path(recipe.name, protocol, split.name, seed, recordings.source)
            with _claim(path, recordings.source, wait):
                result = _kept(path, recipe)
                fold_run = _FoldRun(recipe, recordings, protocol, split, len(folds), seed)
                if isinstance(recipe, Ensemble):
                    result = result or fold_run.combine(fit_options)
                elif result is None or (keep_model and not path.with_suffix(".safetensors").exists()):
                    result = fold_run.train_and_test(keep_model, fit_options)
            results.append(result)
    return results


def folds_of(recordings: Recordings, protocol: str, seed: int = 0) -> list[splits.Split]:
    """The splits of a protocol by name: one a speaker for leave_one_speaker_out, one for each of the others.

    `origin` is a random tenth of three speakers' recordings and `random` a random tenth of all; `seed` draws them.
    """
    if protocol == "official":
        return [splits.official(recordings)]
    if protocol == "random":
        return [splits.random(recordings, 0.1, seed)]
    if protocol == "origin":
        return [replace(splits.random(recordings, 0.1, seed, fsdd.of_first_release(recordings)), name="origin")]
    if protocol == "leave_one_speaker_out":
        return splits.leave_one_group_out(recordings)
    raise RecipeError(f"unknown protocol {protocol!r}; known: {', '.join(get_args(Protocol))}")


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


@contextmanager
def _claim(path: Path, source: str, wait: bool) -> Iterator[None]:
    """Hold a result for this process; the claim ends with the process, however it ends."""
    root = _results_root(source)
    lock = FileLock(root / ".locks" / "-".join(path.relative_to(root).with_suffix(".lock").parts))
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


def _kept(path: Path, recipe: Recipe | Ensemble) -> Result | None:
    result = read(path) if path.exists() else None
    return result if result is not None and result.recipe_hash == recipe.hash else None


@dataclass(frozen=True)
class _FoldRun:
    """One fold of one seed, from training to the kept result."""

    recipe: Recipe | Ensemble
    recordings: Recordings
    protocol: str
    split: splits.Split
    folds: int
    seed: int

    def train_and_test(self, keep_model: bool, fit_options: dict[str, Any]) -> Result:
        name, source = self.recipe.name.replace("/", "-"), self.recordings.source
        key = f"{name}-{self.recipe.hash}-{source}-{self.protocol}-{self.split.name}-{self.seed}"
        checkpoint = settings.cache_folder() / "checkpoints" / f"{key}.safetensors"
        options = {"checkpoint": checkpoint} | fit_options
        model, history, clips = train(self.recipe, self.recordings, self.split, self.seed, **options)
        tested = clips.of_recordings(self.split.test)
        probabilities = evaluation.predict(model, tested).numpy()
        trained, held_out = _sides(self.recipe, self.recordings, self.split, self.seed)
        rows = self.recordings.table.iloc[tested.recording.numpy()]
        result = self.result(
            rows,
            probabilities,
            fingerprint=clips.fingerprint,
            train=len(trained),
            validation=len(held_out),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            kept_epoch=history.kept_epoch,
            seconds=round(history.seconds, 2),
            device=history.device,
            precision=history.precision,
            threads=torch.get_num_threads(),
        )
        if keep_model:
            about = {"recipe_hash": result.recipe_hash, "classes": len(result.confusion)}
            about |= {"fingerprint": result.fingerprint}
            training.save_model(result.path.with_suffix(".safetensors"), model, **about)
        self.keep(result, rows["recording"], probabilities)
        checkpoint.unlink(missing_ok=True)
        return result

    def combine(self, fit_options: dict[str, Any]) -> Result:
        members = []
        for member in self.recipe.recipes:
            members += run(member, self.seed, self.protocol, self.split.name, **fit_options)
        # By recording, because members may cut their clips in different ways.
        opinions = [np.log(predictions(member).clip(lower=1e-7)).groupby(level=0).mean() for member in members]
        together = np.exp(sum(opinions) / len(opinions))
        probabilities = together.div(together.sum(axis=1), axis=0).to_numpy()
        rows = self.recordings.table.set_index("recording", drop=False).loc[together.index]
        same = ("fingerprint", "train", "validation", "device", "precision", "threads")
        result = self.result(
            rows,
            probabilities,
            parameters=sum(member.parameters for member in members),
            kept_epoch=0,
            seconds=round(sum(member.seconds for member in members), 2),
            **{name: getattr(members[0], name) for name in same},
        )
        self.keep(result, rows["recording"], probabilities)
        return result

    def result(self, rows: pd.DataFrame, probabilities: np.ndarray, **about: Any) -> Result:
        """The scores of the class probabilities of the tested rows (of the table)."""
        labels, groups, names = rows["label"].to_numpy(), rows["group"].to_numpy(str), self.recordings.class_names
        predicted = probabilities.argmax(axis=1)
        right = predicted == labels
        misses = zip(rows["recording"][~right], predicted[~right], strict=True)
        return Result(
            recipe=self.recipe.name,
            recipe_hash=self.recipe.hash,
            form=self.recipe.model_dump(mode="json"),
            protocol=self.protocol,
            fold=self.split.name,
            folds=self.folds,
            seed=self.seed,
            source=self.recordings.source,
            test=len(self.split.test),
            scores=evaluation.scores(labels, predicted, len(names)),
            per_class={names[label]: float(right[labels == label].mean()) for label in np.unique(labels)},
            per_group={group: float(right[groups == group].mean()) for group in np.unique(groups).tolist()},
            group_sizes={group: int((groups == group).sum()) for group in np.unique(groups).tolist()},
            errors={name: names[taken] for name, taken in misses},
            confusion=evaluation.confusion_matrix(labels, predicted, len(names)).tolist(),
            versions={
                "course_lib": course_lib.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
            },
            **about,
        )

    def keep(self, result: Result, tested: pd.Series, probabilities: np.ndarray) -> None:
        """Write the predictions and then the result, so that where there is a result there are predictions."""
        arrays = {"recording": tested.to_numpy(str), "probabilities": probabilities.astype(np.float32)}
        _write(result.path.with_suffix(".npz"), lambda file: np.savez_compressed(file, **arrays))
        write_json(result.path, asdict(result))


def _results_root(source: str) -> Path:
    return settings.results_folder() if source == "real" else settings.cache_folder() / "results_on_stand_ins"


def _result_path(recipe: str, protocol: str, fold: str, seed: int, source: str) -> Path:
    return _results_root(source) / recipe / protocol / f"{fold}-seed{seed}.json"


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file: complete, or not at all."""
    text = json.dumps(content, indent=1) + "\n"
    _write(path, lambda file: file.write(text.encode()))


def _write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
            os.chmod(unfinished, 0o644)  # a temporary file is for its owner's eyes only
            os.replace(unfinished, path)
        finally:
            Path(unfinished).unlink(missing_ok=True)
    except OSError as error:
        raise ResultError(f"cannot write the result {path}: {error}") from error


def predictions(result: Result) -> pd.DataFrame:
    """The class probabilities behind a result: a row for each tested clip, named after its recording.

    A column for each class. Raises ResultError when the file beside the result is missing or
    damaged.

    Notebook: 03_raw_waveforms_sample_cnn
    """
    path = result.path.with_suffix(".npz")
    try:
        with np.load(path) as file:
            return pd.DataFrame(file["probabilities"].astype(float), index=file["recording"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ResultError(f"{path}, the predictions of a result, cannot be read ({error}); run it again") from None


def read(path: Path) -> Result:
    """Read one result file. Raises ResultError naming it when it is damaged."""
    try:
        return Result(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ResultError(f"{path} is damaged ({error}); delete it and run its recipe again") from None


def results(recipe: Recipe | Ensemble, protocol: str, source: str = "real", whole_seeds: bool = False) -> list[Result]:
    """The kept results of this version of a recipe under one protocol; with `whole_seeds`, of seeds with every fold.

    Those of other versions are left out; a damaged file is named in a warning and left out.

    Notebook: 02_spoken_digits_cnn
    """
    kept = []
    for path in _files(recipe.name, protocol, source):
        try:
            kept.append(read(path))
        except ResultError as error:
            logger.warning("%s", error)
    kept = [result for result in kept if result.recipe_hash == recipe.hash]
    folds = Counter(result.seed for result in kept)
    return [result for result in kept if not whole_seeds or folds[result.seed] == result.folds]


def damaged(recipe: Recipe | Ensemble, source: str = "real") -> list[Path]:
    """The damaged result files of a recipe."""
    found = []
    for path in [path for protocol in recipe.protocols for path in _files(recipe.name, protocol, source)]:
        try:
            read(path)
        except ResultError:
            found.append(path)
    return found


def _files(recipe: str, protocol: str, source: str) -> list[Path]:
    return sorted(_result_path(recipe, protocol, "", 0, source).parent.glob("[!.]*.json"))
