"""Run a recipe and keep one result a finished run."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout

import course_lib
from course_lib import datasets, evaluation, training
from course_lib.clips import Clips
from course_lib.datasets import fsdd, physionet2016, splits
from course_lib.datasets.hearts.cycles import cycle_starts
from course_lib.datasets.hearts.preparation import prepared
from course_lib.datasets.recordings import Recordings
from course_lib.experiments.recipe import UNFIT, Ensemble, GroupPrior, Protocol, Recipe, RecipeError
from course_lib.experiments.result import (
    Result,
    ResultBusy,
    ResultError,
    damaged,
    decide,
    decisions,
    keep,
    path_of,
    predictions,
    read,
    results,
    root_of,
    write_json,
)

__all__ = [
    "Result",
    "ResultBusy",
    "ResultError",
    "clips_of",
    "damaged",
    "decisions",
    "folds_of",
    "load_model",
    "predictions",
    "read",
    "results",
    "run",
    "train",
    "write_json",
]

logger = logging.getLogger(__name__)
_PROBE_FOLDS = 5


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

    An Ensemble is made of its members' predictions, and those that are missing are run first; a GroupPrior of the
    training side's table alone.
    What has a result under results/ is read, not run again; what was interrupted goes on from its checkpoint; what
    another process is running is waited for, or raises ResultBusy unless `wait`. With `keep_model` the weights are
    kept beside each result, for `load_model`. `fit_options`, such as `progress=False`, go to `training.fit`.
    Raises RecipeError, DatasetError, TrainingError.

    Notebook: 02_spoken_digits_cnn
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # each would wait for the other's claim
        raise ResultError("a result is made by one process; for a training on several devices call experiments.train")
    protocol = protocol or next(iter(recipe.protocols))
    if protocol not in recipe.protocols:  # no table would show the result
        raise RecipeError(f"{recipe.name} has no protocol {protocol}; it has {', '.join(recipe.protocols)}")
    recordings = datasets.load(recipe.dataset, progress=fit_options.get("progress", True))
    folds, source = folds_of(recordings, protocol, seed), recordings.source
    if fold is not None and fold not in [split.name for split in folds]:
        raise RecipeError(f"{protocol} has no fold {fold!r}; it has {', '.join(split.name for split in folds)}")
    found = []
    for split in folds:
        if fold in (None, split.name):
            path = path_of(recipe.name, protocol, split.name, seed, source)
            with _claim(path, source, wait):
                result = _kept(path, recipe)
                fold_run = _FoldRun(recipe, recordings, protocol, split, len(folds), seed)
                if isinstance(recipe, Ensemble):
                    result = result or fold_run.combine(fit_options)
                elif isinstance(recipe, GroupPrior):
                    result = result or fold_run.guess()
                elif result is None or (keep_model and load_model(recipe, protocol, split.name, seed, source) is None):
                    result = fold_run.train_and_test(keep_model, fit_options)
            found.append(result)
    return found


def folds_of(recordings: Recordings, protocol: str, seed: int = 0) -> list[splits.Split]:
    """The splits of a protocol: one a speaker or device for leave_one_..._out, four for published_lists, else one.

    `origin` is a random tenth of three speakers' recordings and `random` a random tenth of all; `seed` draws them.
    `published_lists` are those of the heart sounds, and `published_list_0` is the first of them as its origin used it:
    its test side is at the same time the validation part, so the best epoch is chosen on it. That is a leak.
    """
    if protocol == "official":
        return [splits.official(recordings)]
    if protocol == "random":
        return [splits.random(recordings, 0.1, seed)]
    if protocol == "origin":
        return [replace(splits.random(recordings, 0.1, seed, fsdd.of_first_release(recordings)), name="origin")]
    if protocol == "published_lists":
        return physionet2016.published_lists(recordings)
    if protocol == "published_list_0":
        first = physionet2016.published_lists(recordings)[0]
        return [replace(first, validation=first.test)]
    if protocol in ("leave_one_speaker_out", "leave_one_device_out"):
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
    clips = clips_of(recipe, recordings, progress)
    rows, held_out = _sides(recipe, recordings, split, seed)
    validation = clips.of_recordings(held_out) if len(held_out) else None
    extra = None
    if recipe.extra_voices is not None:
        voices = datasets.stand_in(recipe.dataset, progress=progress, **recipe.extra_voices)
        extra = clips_of(recipe, voices, progress)
    torch.manual_seed(seed)
    model = recipe.build(len(recordings.class_names), len(clips.group_names))
    _try_out(recipe, model, clips)
    own = clips.of_recordings(rows)
    history = training.fit(model, own, validation, recipe.training, extra=extra, seed=seed, **fit_options)
    return model, history, clips


def clips_of(recipe: Recipe, recordings: Recordings, progress: bool = True) -> Clips:
    """All recordings, prepared and cut as a recipe says.

    Notebook: 05_heart_sounds_physionet
    """
    if recipe.preparation is not None:
        recordings = prepared(recordings, recipe.preparation)
    starts = cycle_starts(recordings, progress) if recipe.clip.starts == "cycles" else None
    return Clips.cut(recordings, recipe.clip.seconds, recipe.clip.hop_seconds, progress, starts)


def load_model(recipe: Recipe, protocol: str, fold: str, seed: int = 0, source: str = "real") -> torch.nn.Module | None:
    """The trained model of a run, if its weights were kept for this version of the recipe, else None.

    Notebook: 02_spoken_digits_cnn
    """
    path = path_of(recipe.name, protocol, fold, seed, source).with_suffix(".safetensors")
    if not path.is_file():
        return None
    _, about = training.checkpoints.load(path)
    if about.get("recipe_hash") != recipe.hash:
        return None
    model = recipe.build(about["classes"], about.get("groups"))
    training.load_model(path, model)
    return model.eval()


def _sides(recipe: Recipe, recordings: Recordings, split: splits.Split, seed: int) -> tuple[np.ndarray, np.ndarray]:
    part = recipe.validation
    if part is None:
        return split.train, split.train[:0]
    if split.validation is not None:
        return split.train, split.validation
    return splits.hold_out_validation(recordings, split.train, part.fraction, part.by, seed)


def _try_out(recipe: Recipe, model: torch.nn.Module, clips: Clips) -> None:
    for layer in model.modules():
        if getattr(layer, "sample_rate", clips.sample_rate) != clips.sample_rate:
            rates = f"made for {layer.sample_rate} Hz, and the clips have {clips.sample_rate} Hz"
            raise RecipeError(f"{recipe.name}: its {type(layer).__name__} is {rates}; set sample_rate")
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, clips.clip_samples))
    except UNFIT as error:
        message = f"{recipe.model.name} cannot take clips of {recipe.clip.seconds} s ({clips.clip_samples} samples)"
        raise RecipeError(f"{recipe.name}: {message}: {error}") from error


@contextmanager
def _claim(path: Path, source: str, wait: bool) -> Iterator[None]:
    """Hold a result for this process; the claim ends with the process, however it ends."""
    root = root_of(source)
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


def _kept(path: Path, recipe: Recipe | Ensemble | GroupPrior) -> Result | None:
    result = read(path) if path.exists() else None
    return result if result is not None and result.recipe_hash == recipe.hash else None


@dataclass(frozen=True)
class _FoldRun:
    """One fold of one seed, from training to the kept result."""

    recipe: Recipe | Ensemble | GroupPrior
    recordings: Recordings
    protocol: str
    split: splits.Split
    folds: int
    seed: int

    def train_and_test(self, keep_model: bool, fit_options: dict[str, Any]) -> Result:
        name, source = self.recipe.name.replace("/", "-"), self.recordings.source
        key = f"{name}-{self.recipe.hash}-{source}-{self.protocol}-{self.split.name}-{self.seed}"
        checkpoint = root_of(source) / ".unfinished" / f"{key}.safetensors"
        options = {"checkpoint": checkpoint} | fit_options
        model, history, clips = train(self.recipe, self.recordings, self.split, self.seed, **options)
        rows, held_out = _sides(self.recipe, self.recordings, self.split, self.seed)
        tested, watched = (self.heard(model, clips, side) for side in (self.split.test, held_out))
        result = self.result(
            tested,
            watched,
            fingerprint=clips.fingerprint,
            train=len(rows),
            validation=len(held_out),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            kept_epoch=history.kept_epoch,
            seconds=round(history.seconds, 2),
            device=history.device,
            precision=history.precision,
            threads=torch.get_num_threads(),
            probe=self.probed(model, clips, held_out),
        )
        if keep_model:
            about = {"recipe_hash": result.recipe_hash, "classes": len(result.confusion)}
            about |= {"groups": len(clips.group_names)}
            about |= {"fingerprint": result.fingerprint}
            training.save_model(result.path.with_suffix(".safetensors"), model, **about)
        keep(result, tested, watched, self.table)
        checkpoint.unlink(missing_ok=True)
        return result

    def heard(self, model: torch.nn.Module, clips: Clips, rows: np.ndarray) -> pd.DataFrame:
        """Class probabilities of the clips of some recordings (rows of the table), named after them."""
        chosen = clips.of_recordings(rows)
        if len(chosen) == 0:
            return self.nothing()
        names = self.table.index.to_numpy(str)[chosen.recording.numpy()]
        return pd.DataFrame(evaluation.predict(model, chosen).numpy().astype(float), index=names)

    def probed(self, model: torch.nn.Module, clips: Clips, rows: np.ndarray) -> dict[str, float]:
        """How well a network's features, averaged over the clips of each recording, tell the groups of `rows` apart.

        Nothing where there are no features or fewer than two groups with enough recordings.
        """
        groups = self.table["group"].to_numpy(str)
        if not hasattr(model, "embed") or (np.unique(groups[rows], return_counts=True)[1] >= _PROBE_FOLDS).sum() < 2:
            return {}
        chosen = clips.of_recordings(rows)
        features = pd.DataFrame(evaluation.embed(model, chosen).numpy()).groupby(chosen.recording.numpy()).mean()
        found = evaluation.probe(features, groups[features.index], features.index, _PROBE_FOLDS)
        return found._asdict()

    def combine(self, fit_options: dict[str, Any]) -> Result:
        members = []
        for member in self.recipe.recipes:
            members += run(member, self.seed, self.protocol, self.split.name, **fit_options)
        tested = _together([predictions(member) for member in members])
        watched = self.nothing()
        network = max(members, key=lambda member: member.parameters)  # a group prior has none
        if network.validation:  # the same recordings for every network, for the seed draws them
            watched = _together([predictions(member, "validation") for member in members])
        same = ("fingerprint", "train", "validation", "device", "precision", "threads")
        result = self.result(
            tested,
            watched,
            parameters=sum(member.parameters for member in members),
            kept_epoch=0,
            seconds=round(sum(member.seconds for member in members), 2),
            **{name: getattr(network, name) for name in same},
        )
        keep(result, tested, watched, self.table)
        return result

    def guess(self) -> Result:
        train, test = (self.table.iloc[rows] for rows in (self.split.train, self.split.test))
        prior = evaluation.group_prior(train["label"], train["group"], len(self.recordings.class_names))
        # Twelve counts: the threshold may be chosen on the recordings that were counted.
        tested, watched = (prior(side["group"]).set_axis(side.index) for side in (test, train))
        facts = {"fingerprint": "", "device": "none", "precision": "", "threads": 0}
        counts = {"train": len(train), "validation": 0, "parameters": 0, "kept_epoch": 0, "seconds": 0.0}
        result = self.result(tested, watched, **facts, **counts)
        keep(result, tested, watched, self.table)
        return result

    @property
    def table(self) -> pd.DataFrame:
        return self.recordings.table.set_index("recording", drop=False)

    def nothing(self) -> pd.DataFrame:
        return pd.DataFrame(np.empty((0, len(self.recordings.class_names))))

    def result(self, tested: pd.DataFrame, watched: pd.DataFrame, **about: Any) -> Result:
        """The scores of the class probabilities of clips; those of the validation part choose the threshold, if any."""
        names = self.recordings.class_names
        threshold, rules = 0.5, {}
        if len(names) == 2:
            if len(watched) and self.split.validation is None:
                opinion = evaluation.pooled(watched)[1]
                threshold = evaluation.best_threshold(self.table["label"][opinion.index], opinion)
            rules = self.by_rule(tested)
        decided = decide(tested, self.protocol, threshold)
        rows = self.table.loc[decided.index]
        predicted, labels, groups = decided.to_numpy(), rows["label"].to_numpy(), rows["group"].to_numpy(str)
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
            threshold=threshold,
            rules=rules,
            versions={
                "course_lib": course_lib.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
            },
            **about,
        )

    def by_rule(self, tested: pd.DataFrame) -> dict[str, dict[str, float]]:
        """Scores of single clips, and of recordings by their clips' votes and by their pooled probability, from 0.5."""
        said = {"segment": tested[1], "vote": evaluation.vote(tested), "log_odds": evaluation.pooled(tested)[1]}
        return {
            rule: evaluation.scores(self.table["label"][heard.index], heard >= 0.5, 2) for rule, heard in said.items()
        }


def _together(opinions: list[pd.DataFrame]) -> pd.DataFrame:
    """The normalised product of what several models say of each recording, whose clips they may cut differently.

    Of the recordings that all of them speak of: networks know those of the validation part, a prior the training side.
    """
    told = pd.concat([np.log(evaluation.pooled(each)) for each in opinions], keys=range(len(opinions)))
    counts = told.groupby(level=1, sort=False).transform("size")
    total = np.exp(told[counts == len(opinions)].groupby(level=1, sort=False).mean())
    return total.div(total.sum(axis=1), axis=0)
