"""What an experiment is: a form that is checked before anything runs, and what it predicts.

Notebook: 02_spoken_digits_cnn
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field, SerializeAsAny, ValidationError, field_validator, model_validator
from torch import nn

from course_lib import datasets, evaluation, models, training
from course_lib.clips import Clips
from course_lib.datasets import DatasetError, Preparation, Protocol, Recordings, Split, splits
from course_lib.datasets.decoded import copies
from course_lib.experiments import result as files
from course_lib.experiments.form import BUILD_ERRORS, Adversarial, Clip, Form, Model, RecipeError, Validation
from course_lib.experiments.result import Result, digest_of
from course_lib.layers.pipeline import Pipeline
from course_lib.models.base import Classifier
from course_lib.training import Settings
from course_lib.training.images import ImageClips

_PROBE_FOLDS = 5
_OWN_PART = "validation"
_NAME = re.compile(r"[^\W_.][^/\\\0]{0,99}(/[^\W_.][^/\\\0]{0,99}){0,4}")


@dataclass(frozen=True)
class Fold:
    """One fold of one seed of a protocol: the recordings, which are on which side, and how many folds there are."""

    recordings: Recordings
    protocol: Protocol
    split: Split
    folds: int = 1
    seed: int = 0

    @property
    def table(self) -> pd.DataFrame:
        """The table of recordings by name."""
        return self.recordings.table.set_index("recording", drop=False)

    def identity(self, validation: np.ndarray) -> str:
        """Sixteen hex digits that identify the recordings on each side."""
        names = self.recordings.table["recording"].to_numpy(str)
        sides = {"train": np.setdiff1d(self.split.train, validation), "validation": validation, "test": self.split.test}
        return digest_of(*(f"{side} {' '.join(sorted(names[rows]))}" for side, rows in sides.items()))


@dataclass
class Prediction:
    """Class probabilities of the clips of the test side and of the validation part, and how they were made.

    The tables have a row for each clip, named after its recording, and a column for each class. `facts` are fields of
    a `Result`.
    """

    test: pd.DataFrame
    validation: pd.DataFrame
    facts: dict[str, Any]
    model: nn.Module | None = field(default=None, repr=False)


class Experiment(Form):
    """What every experiment has: a name, a title, a data set, and how many seeds of which protocols are reported."""

    name: str
    title: str
    dataset: str
    protocols: dict[str, int] = Field(min_length=1)

    @field_validator("name")
    @classmethod
    def _usable_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name) or not name.isprintable():
            raise ValueError("a name is made of letters and digits, such as digits/my_cnn; it cannot begin with a dot")
        return name

    @model_validator(mode="after")
    def _protocols_of_the_data(self) -> Experiment:
        if any(seeds < 1 or seeds > 1000 for seeds in self.protocols.values()):
            raise ValueError("the number of seeds of a protocol is from 1 to 1000")
        try:
            for name in self.protocols:
                datasets.get(self.dataset).protocol(name)
        except DatasetError as error:
            raise ValueError(str(error)) from None
        return self

    def require(self, protocol: str, seed: int) -> None:
        """Raise RecipeError for a protocol that the recipe does not have, and for a seed that cannot be."""
        if protocol not in self.protocols:  # no table would show the result
            raise RecipeError(f"{self.name} has no protocol {protocol}; it has {', '.join(self.protocols)}")
        if not 0 <= seed < 2**31:
            raise RecipeError(f"a seed is a whole number from 0 to 2147483647, not {seed}")

    def fold(self, recordings: Recordings, protocol: str, name: str | None = None, seed: int = 0) -> Fold:
        """One fold of a protocol, by its name (None: the first). Raises RecipeError and DatasetError."""
        folds = self.folds(recordings, protocol, seed)
        for fold in folds:
            if name in (None, fold.split.name):
                return fold
        raise RecipeError(f"{protocol} has no fold {name!r}; it has {', '.join(fold.split.name for fold in folds)}")

    @property
    def note(self) -> str:
        """What must be said beside every result, such as that test recordings were used; empty for most experiments."""
        return ""

    def folds(self, recordings: Recordings, protocol: str, seed: int = 0) -> list[Fold]:
        """Every fold of one seed of a protocol. Raises RecipeError and DatasetError."""
        self.require(protocol, seed)
        if self.note:
            recordings = replace(recordings, note="; ".join(filter(None, (recordings.note, self.note))))
        stated = datasets.get(self.dataset).protocol(protocol)
        made = stated.splits(recordings, seed)
        return [Fold(recordings, stated, split, len(made), seed) for split in made]

    def inputs(self, fold: Fold, **fit_options: Any) -> Any:
        """What predictions are made from, besides the fold: clips, or the results of the members."""
        return None

    def data_identity(self, fold: Fold, inputs: Any) -> dict[str, Any]:
        """Fields of a `Result` that tie it to its data: fingerprint of the recordings, sides of the split, members."""
        raise NotImplementedError

    def predict(self, fold: Fold, inputs: Any = None, **fit_options: Any) -> Prediction:
        """Class probabilities of the test side of a fold, and of its validation part."""
        raise NotImplementedError


class OfClips(Experiment):
    """An experiment on clips: how recordings are prepared and cut.

    `preparation` is what is done to each waveform before it is cut, in the settings of the data set's own preparation
    (None: nothing).
    """

    clip: Clip
    preparation: SerializeAsAny[Preparation] | None = None

    @model_validator(mode="before")
    @classmethod
    def _preparation_of_the_data(cls, form: Any) -> Any:
        if not isinstance(form, Mapping) or not isinstance(form.get("preparation"), Mapping):
            return form
        try:
            kind = datasets.get(str(form.get("dataset"))).preparation
        except DatasetError as error:
            raise ValueError(str(error)) from None
        if kind is None:
            raise ValueError(f"{form.get('dataset')} has no preparation; leave the key out")
        try:
            return {**form, "preparation": kind.model_validate(form["preparation"])}
        except ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(["preparation", *map(str, problem["loc"])])
            raise ValueError(f"{key}: {problem['msg'].removeprefix('Value error, ')}") from None

    @model_validator(mode="after")
    def _starts_of_the_data(self) -> OfClips:
        known = datasets.get(self.dataset)
        if self.clip.starts is not None and self.clip.starts not in known.clip_starts:
            choices = ", ".join(known.clip_starts) or "none"
            raise ValueError(f"clip.starts is {self.clip.starts!r}; {self.dataset} has: {choices}")
        return self

    def clips(self, recordings: Recordings, progress: bool = True) -> Clips:
        """All recordings, prepared and cut as the recipe says. Raises AudioError, DatasetError and ClipError.

        Notebook: 05_heart_sounds_physionet
        """
        starts = datasets.get(self.dataset).clip_starts[self.clip.starts] if self.clip.starts else None
        return Clips.cut(self._prepared(recordings), self.clip.seconds, self.clip.hop_seconds, progress, starts)

    def inputs(self, fold: Fold, **fit_options: Any) -> Clips:
        """The clips of all recordings."""
        return self.clips(fold.recordings, fit_options.get("progress", True))

    def validation_rows(self, fold: Fold) -> np.ndarray:
        """The rows of the validation part of a fold: none."""
        return fold.split.train[:0]

    def data_identity(self, fold: Fold, inputs: Clips) -> dict[str, Any]:
        """The fingerprint of the clips' recordings, and that of the sides."""
        return {"fingerprint": inputs.fingerprint, "split": fold.identity(self.validation_rows(fold))}

    def require_no_copies(self, fold: Fold) -> None:
        """Raise DatasetError for a sound on both sides under two names, unless the protocol states its leak."""
        if not fold.protocol.leaky:
            splits.refuse_copies(fold.recordings, fold.split, copies(self._prepared(fold.recordings)))

    def _prepared(self, recordings: Recordings) -> Recordings:
        return recordings if self.preparation is None else recordings.prepared(self.preparation)


class Recipe(OfClips):
    """One experiment: data set, clips, model, training, and how many seeds of which protocols are reported.

    With `adversarial` the model is wrapped in a DomainAdversarial whose domains are the groups. With `adaptation:
    batch_norm` a group is predicted with the batch normalisation statistics of its own unlabelled clips.
    `synthetic` recordings are mixed into the training side; its keys are arguments of `datasets.stand_in`.

    Notebook: 02_spoken_digits_cnn
    """

    model: Model
    training: Settings = Settings()
    validation: Validation | None = None
    synthetic: dict[str, Annotated[int, Field(ge=1)]] | None = None
    adversarial: Adversarial | None = None
    adaptation: Literal["batch_norm"] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        known = datasets.get(self.dataset)
        if self.training.keep == "best" and self.validation is None:
            raise ValueError("training.keep is 'best', so the recipe needs a validation part")
        if bool(self.training.extra_per_epoch) != (self.synthetic is not None):
            raise ValueError("synthetic and training.extra_per_epoch go together; give both or neither")
        if self.synthetic is not None and known.write_stand_in is None:
            raise ValueError(f"{self.dataset} has no generator of synthetic recordings; leave synthetic out")
        if self.synthetic is not None:
            sizes = [*inspect.signature(known.write_stand_in).parameters][1:]
            sizes.remove("progress")
            if unknown := set(self.synthetic) - set(sizes):
                raise ValueError(f"synthetic: unknown {', '.join(sorted(unknown))}; known: {', '.join(sizes)}")
        if self.adversarial is not None and self.synthetic is not None:
            raise ValueError("adversarial and synthetic do not go together: each synthetic voice would be a domain")
        if self.adversarial is not None and self.adversarial.target and self.training.mixup:
            raise ValueError("adversarial.target and training.mixup do not go together: unlabelled clips have no label")
        return self

    @property
    def note(self) -> str:
        """That the sound of the test side was used, where it was: such a score is not that of unknown recordings."""
        target = self.adversarial is not None and self.adversarial.target
        return "uses its unlabelled sound" if target or self.adaptation else ""

    def with_training(self, **changes: Any) -> Recipe:
        """The same recipe with other training settings: `recipe.with_training(epochs=3)`. Raises RecipeError."""
        try:
            settings = Settings.model_validate(self.training.model_dump() | changes)
            return type(self).model_validate(self.model_dump(exclude={"training"}) | {"training": settings})
        except ValidationError as error:
            problem = error.errors()[0]
            raise RecipeError(f"{self.name}: training.{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None

    @property
    def hash(self) -> str:
        """Eight hex digits that change when anything that can change a score does.

        They cover what differs from the defaults of the recipe's own keys, and every argument of the model and layers.
        """
        form = self.model_dump(
            mode="json", exclude={"name", "title", "protocols", "training", "model"}, exclude_defaults=True
        )
        form |= {"training": self.training.identity(), "model": self.model.identity()}
        return hashlib.sha256(json.dumps(form, sort_keys=True).encode()).hexdigest()[:8]

    def build(self, n_classes: int, n_groups: int | None = None) -> nn.Module:
        """The model with fresh weights, with `adversarial` a second head for `n_groups` groups. Raises RecipeError."""
        try:
            model = self.model.build(n_classes)
        except RecipeError as error:
            raise RecipeError(f"{self.name}: {error}") from error
        if self.adversarial is None:
            return model
        head = self.adversarial
        return models.DomainAdversarial(model, n_groups, weight=head.weight, head_learning_rate=head.head_learning_rate)

    def validation_rows(self, fold: Fold) -> np.ndarray:
        """The rows of the validation part of a fold; none where the recipe has no validation part."""
        if self.validation is None:
            return fold.split.train[:0]
        if fold.split.validation is not None:
            return fold.split.validation
        part = self.validation
        return splits.hold_out_validation(fold.recordings, fold.split.train, part.fraction, part.by, fold.seed)[1]

    def train(
        self, fold: Fold, clips: Clips | None = None, **fit_options: Any
    ) -> tuple[nn.Module, training.History, Clips]:
        """Train on the training side of a fold; returns the model, its history and the clips of all recordings.

        `fit_options` go to `training.fit`. Raises RecipeError, DatasetError and TrainingError.

        Notebook: 02_spoken_digits_cnn
        """
        progress = fit_options.get("progress", True)
        clips = self.clips(fold.recordings, progress) if clips is None else clips
        validation = self.validation_rows(fold)
        self.require_no_copies(fold)
        extra = None
        if self.synthetic is not None:
            extra = self.clips(datasets.stand_in(self.dataset, progress=progress, **self.synthetic), progress)
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(fold.seed)
            model = self.build(len(fold.recordings.class_names), len(clips.group_names))
        self._try_out(model, clips)
        inputs = self._inputs_of(model, clips, progress)
        rows = np.setdiff1d(fold.split.train, validation)
        if self.adversarial is not None and self.adversarial.target:
            inputs, rows = inputs.unlabelled(fold.split.test), np.union1d(rows, fold.split.test)
        own = inputs.of_recordings(rows)
        chosen_on = inputs.of_recordings(validation) if len(validation) else None
        fit_options |= {"extra": extra, "seed": fold.seed, "decision": fold.protocol.decision}
        history = training.fit(model, own, chosen_on, self.training, **fit_options)
        return model, history, clips

    def _inputs_of(self, model: Classifier, clips: Clips, progress: bool) -> Clips:
        """What training gathers its batches from: images made once, where a fixed layer comes first, or the clips."""
        front_end = model.front_end
        fixed = front_end.fixed if isinstance(front_end, Pipeline) else None
        if fixed is None or model.clip_samples is not None or self.synthetic is not None:
            return clips
        return ImageClips.of(clips, fixed, progress)

    def predict(self, fold: Fold, inputs: Clips | None = None, **fit_options: Any) -> Prediction:
        """Train on the training side of a fold, and predict the clips of its test side and of its validation part."""
        model, history, clips = self.train(fold, inputs, **fit_options)
        validation = self.validation_rows(fold)
        sides = {"test": fold.split.test, "validation": validation}
        of_side = {side: clips.of_recordings(rows) for side, rows in sides.items()}
        facts = {
            "train": len(np.setdiff1d(fold.split.train, validation)),
            "validation": len(validation),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "kept_epoch": history.kept_epoch,
            "seconds": round(history.seconds, 2),
            "device": history.device,
            "precision": history.precision,
            "threads": history.threads,
            "history": json.loads(history.table().to_json(orient="records")),
            "probe": _probed(model, of_side["validation"], fold) if datasets.get(self.dataset).probe_groups else {},
        }
        tables = {side: self._predicted(model, clips, rows, fold) for side, rows in sides.items()}
        return Prediction(**tables, facts=facts, model=model)

    def _predicted(self, model: nn.Module, clips: Clips, rows: np.ndarray, fold: Fold) -> pd.DataFrame:
        """Class probabilities of the clips of some recordings, each group's after the adaptation, if any, to it."""
        if self.adaptation is None or not len(rows):
            return evaluation.predict_clips(model, clips.of_recordings(rows), fold.recordings)
        groups = fold.recordings.table["group"].to_numpy(str)
        either_side = np.union1d(fold.split.train, fold.split.test)
        tables = []
        for group in np.unique(groups[rows]):
            # To all that was recorded with a device: for the few held-out recordings the training side's, too.
            adapted = training.adapt_batch_norm(model, clips.of_recordings(either_side[groups[either_side] == group]))
            part = clips.of_recordings(rows[groups[rows] == group])
            tables.append(evaluation.predict_clips(adapted, part, fold.recordings))
        return pd.concat(tables)

    def _try_out(self, model: nn.Module, clips: Clips) -> None:
        """Pass two clips through the model in training mode, or it might fail after an hour. Raises RecipeError."""
        try:
            models.require_fitting(model, clips)
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                state = {name: value.clone() for name, value in model.state_dict().items()}
                silence = torch.zeros(2, clips.clip_samples)
                model.train().loss(silence, torch.zeros(2, dtype=torch.long), torch.zeros(2, dtype=torch.long))
                model.eval()(silence)
                model.load_state_dict(state)
        except BUILD_ERRORS as error:
            what = f"{self.model.name} cannot take clips of {self.clip.seconds} s ({clips.clip_samples} samples)"
            raise RecipeError(f"{self.name}: {what}: {error}") from error


class GroupPrior(Experiment):
    """A baseline without sound: the share of each class among the training recordings of the same group.

    What it scores above chance comes from knowing the group (the device, the location) alone. A group that is not on
    the training side gets the share of each class among all.

    Notebook: 05_heart_sounds_physionet
    """

    baseline: Literal["group_prior"]

    @property
    def hash(self) -> str:
        """Eight hex digits that change when anything that can change a score does."""
        return hashlib.sha256(f"{self.baseline} {self.dataset}".encode()).hexdigest()[:8]

    def predict(self, fold: Fold, inputs: None = None, **_: Any) -> Prediction:
        """Predict the recordings of the test side, and those of the training side: their threshold is chosen there."""
        train, test = (fold.table.iloc[rows] for rows in (fold.split.train, fold.split.test))
        prior = evaluation.group_prior(train["label"], train["group"], len(fold.recordings.class_names))
        predicted = [prior(side["group"]).set_axis(side.index.to_numpy(str)) for side in (test, train)]
        facts = {"train": len(train), "validation": 0, "parameters": 0, "kept_epoch": 0, "seconds": 0.0}
        return Prediction(*predicted, facts | {"device": "none", "precision": "", "threads": 0})

    def data_identity(self, fold: Fold, inputs: None = None) -> dict[str, Any]:
        """The fingerprint of the labels and groups of the recordings, and that of the sides."""
        table = fold.recordings.table[["recording", "label", "group"]].astype(str).sort_values("recording")
        fingerprint = digest_of(*fold.recordings.class_names, *table.to_numpy().ravel())
        return {"fingerprint": fingerprint, "split": fold.identity(fold.split.train[:0])}


class Ensemble(Experiment):
    """Several recipes that decide together: the mean of their log-probabilities, seed by seed, fold by fold.

    A GroupPrior may be one of them: what is known of the group, beside what is in the sound. With `chosen_on` only
    those members decide that are best together on recordings of this fold's training side. "validation" is the fold's
    own validation part, so nothing of its test side is used, and another fold may choose others. A protocol stands for
    predictions under it; there the members had been trained on other folds, so a fold's test side may be in what they
    learned from, but never in what they are chosen by.

    Source: Hinton 1999, "Products of experts".

    Notebook: 03b_rivals_and_noise
    """

    members: list[str] = Field(min_length=2)
    chosen_on: str | None = None

    @property
    def recipes(self) -> list[Recipe | GroupPrior]:
        """The recipes of the members. Raises RecipeError."""
        from course_lib.experiments.recipes import load

        members = [load(member) for member in self.members]
        for member in members:
            if isinstance(member, Ensemble) or member.dataset != self.dataset:
                raise RecipeError(f"{self.name}: the member {member.name} is no recipe of one model for {self.dataset}")
        if len({member.name for member in members}) < len(members):
            raise RecipeError(f"{self.name}: a member is named twice, and its predictions would count twice")
        if all(isinstance(member, GroupPrior) for member in members):
            raise RecipeError(f"{self.name}: none of the members is a network")
        if self.chosen_on == _OWN_PART:
            networks = [member for member in members if not isinstance(member, GroupPrior)]
            if lacking := [member.name for member in networks if getattr(member, "validation", None) is None]:
                raise RecipeError(f"{self.name}: {lacking[0]} has no validation part for the members to be chosen on")
        elif lacking := [member.name for member in members if self.chosen_on not in (None, *member.protocols)]:
            raise RecipeError(f"{self.name}: {lacking[0]} has no protocol {self.chosen_on} to be chosen on")
        return members

    @property
    def hash(self) -> str:
        """Eight hex digits that change when a member's do."""
        parts = [member.hash for member in self.recipes] + ([self.chosen_on] if self.chosen_on else [])
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:8]

    def inputs(self, fold: Fold, **fit_options: Any) -> list[Result]:
        """The results on this fold of the members that may decide; those that are missing are run."""
        from course_lib.experiments.runs import run

        members = self.recipes if self.chosen_on in (None, _OWN_PART) else self.chosen(fold, **fit_options)
        names = (fold.seed, fold.protocol.name, fold.split.name)
        return [result for member in members for result in run(member, *names, **fit_options)]

    def chosen(self, fold: Fold, **fit_options: Any) -> list[Recipe | GroupPrior]:
        """The members that are best together on `chosen_on`, on the training side of a fold.

        Notebook: 07_acoustic_scenes
        """
        from course_lib.experiments.runs import run

        if self.chosen_on == _OWN_PART:
            deciding = {result.recipe for result in self._deciding(fold, self.inputs(fold, **fit_options))}
            return [member for member in self.recipes if member.name in deciding]
        train = fold.recordings.table["recording"].to_numpy(str)[fold.split.train]
        predicted = {}
        for member in self.recipes:
            parts = [files.predictions(result) for result in run(member, fold.seed, self.chosen_on, **fit_options)]
            clips = pd.concat(parts)
            predicted[member.name] = clips[clips.index.isin(train)]
        names = evaluation.choose_members(predicted, fold.table["label"])
        return [member for member in self.recipes if member.name in names]

    def _deciding(self, fold: Fold, inputs: list[Result]) -> list[Result]:
        """The results of the members that decide, by the score and the threshold rule of the protocol."""
        if self.chosen_on != _OWN_PART:
            return inputs
        predicted = {result.recipe: files.predictions(result, "validation") for result in inputs}
        groups = fold.table["group"] if fold.protocol.threshold == "validation_by_group" else None
        names = evaluation.choose_members(predicted, fold.table["label"], groups)
        return [result for result in inputs if result.recipe in names]

    def data_identity(self, fold: Fold, inputs: list[Result]) -> dict[str, Any]:
        """The data of the members, and the predictions that they made."""
        fingerprints = [member.fingerprint for member in inputs]
        if self.chosen_on not in (None, _OWN_PART):  # there are more of them in one fold than in another
            fingerprints = list(set(fingerprints))
        return {
            "fingerprint": digest_of(*sorted(fingerprints)),
            "split": digest_of(*sorted({member.split for member in inputs if member.parameters})),
            "members": {member.recipe: member.predictions for member in self._deciding(fold, inputs)},
        }

    def predict(self, fold: Fold, inputs: list[Result] | None = None, **fit_options: Any) -> Prediction:
        """Pool the members' predictions of the test side, and of the validation part where the networks have one."""
        inputs = self.inputs(fold, **fit_options) if inputs is None else inputs
        network = max(inputs, key=lambda member: member.parameters)  # a group prior has none
        members = self._deciding(fold, inputs)
        pooled = {"test": evaluation.pool_members([files.predictions(member) for member in members])}
        pooled["validation"] = pd.DataFrame(np.empty((0, len(fold.recordings.class_names))))
        if network.validation:  # the same recordings for every network, for the seed draws them
            parts = [files.predictions(member, "validation") for member in members]
            pooled["validation"] = evaluation.pool_members(parts)
        same = ("train", "validation", "device", "precision", "threads")
        facts = {name: getattr(network, name) for name in same} | {"kept_epoch": 0}
        facts["parameters"] = sum(member.parameters for member in members)
        facts["seconds"] = round(sum(member.seconds for member in members), 2)
        return Prediction(**pooled, facts=facts)


def _probed(model: nn.Module, clips: Clips, fold: Fold) -> dict[str, float]:
    """How well the groups can be read from a network's features, averaged over the clips of each recording.

    Nothing where there are fewer than two groups with enough recordings.
    """
    rows = clips.recording.numpy()
    groups = fold.table["group"].to_numpy(str)
    if (np.unique(groups[np.unique(rows)], return_counts=True)[1] >= _PROBE_FOLDS).sum() < 2:
        return {}
    features = pd.DataFrame(evaluation.embed(model, clips).numpy()).groupby(rows).mean()
    return evaluation.probe(features, groups[features.index], features.index, _PROBE_FOLDS)._asdict()
