"""Recipes: what an experiment is, as a YAML file that is checked before anything runs.

Notebook: 02_spoken_digits_cnn
"""

from __future__ import annotations

import hashlib
import inspect
import json
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator
from torch import nn

from course_lib import CourseError, layers, models
from course_lib.datasets.catalogue import ENTRIES
from course_lib.datasets.hearts.preparation import HeartPreparation
from course_lib.training import Settings

FOLDER = Path(__file__).parent
Protocol = Literal[
    "origin",
    "official",
    "random",
    "leave_one_speaker_out",
    "published_list_0",
    "published_lists",
    "leave_one_device_out",
]


# What models and layers raise when they are built or used in a way that they were not made for.
UNFIT = (TypeError, ValueError, RuntimeError, ArithmeticError, IndexError)


class RecipeError(CourseError, ValueError):
    """A recipe cannot be used; the message names the file, the key and what is allowed."""


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Clip(_Form):
    """How recordings are cut: clips of `seconds`, one a recording, one every `hop_seconds`, or one a heart cycle.

    With both, a clip starts with a heart cycle, and at least `hop_seconds` after the one before.
    """

    seconds: float = Field(gt=0, le=60)
    hop_seconds: float | None = Field(None, gt=0)
    starts: Literal["cycles"] | None = None


class Validation(_Form):
    """The part of the training side that chooses the best epoch and, between two classes, the threshold."""

    fraction: float = Field(gt=0, lt=1)
    by: Literal["recording", "recording_in_group", "group"] = "recording"


class Model(_Form):
    """A class of `course_lib.models`, its settings, and the layers of its front end (empty: the model's own)."""

    name: str
    settings: dict[str, Any] = {}
    front_end: tuple[dict[str, dict[str, Any]], ...] = ()

    @model_validator(mode="after")
    def _known(self) -> Model:
        if self.name == "DomainAdversarial":
            raise ValueError("DomainAdversarial wraps another model; name that one, and add 'adversarial: {weight: 1}'")
        _check_call(models, self.name, self.settings)
        for layer in self.front_end:
            if len(layer) != 1:
                raise ValueError(f"a layer of the front end is written 'Name: {{settings}}', not {layer}")
            for name, arguments in layer.items():
                _check_call(layers, name, arguments)
        return self

    def build(self, n_classes: int) -> nn.Module:
        """The model with fresh weights."""
        arguments = dict(self.settings)
        calls = [call for layer in self.front_end for call in layer.items()]
        try:
            if calls:
                arguments["front_end"] = nn.Sequential(*(getattr(layers, name)(**given) for name, given in calls))
            return getattr(models, self.name)(n_classes=n_classes, **arguments)
        except UNFIT as error:
            raise RecipeError(f"the model {self.name} cannot be built with these settings: {error}") from error


class Adversarial(_Form):
    """A second head that guesses the group, against which the features are trained with up to `weight`."""

    weight: float = Field(gt=0)


class _Experiment(_Form):
    name: str
    title: str
    dataset: str
    protocols: dict[Protocol, int] = Field(min_length=1)

    @field_validator("protocols")
    @classmethod
    def _some_seeds(cls, protocols: dict[str, int]) -> dict[str, int]:
        if any(seeds < 1 for seeds in protocols.values()):
            raise ValueError("the number of seeds of a protocol is at least 1")
        return protocols

    @model_validator(mode="after")
    def _protocols_of_the_data(self) -> _Experiment:
        if self.dataset not in ENTRIES:  # a folder of one's own
            return self
        known = ENTRIES[self.dataset].protocols
        if strange := [name for name in self.protocols if name not in known]:
            raise ValueError(f"{self.dataset} has no protocol {', '.join(strange)}; it has {', '.join(known)}")
        return self


class Recipe(_Experiment):
    """One experiment: data set, clips, model, training, and how many seeds of which protocols are reported.

    `preparation` is what is done to heart sounds before they are cut (None: nothing). With `adversarial` the model is
    wrapped in a DomainAdversarial whose domains are the groups.
    `extra_voices` are synthetic speakers mixed into the training side, as arguments of `datasets.stand_in`.

    Notebook: 02_spoken_digits_cnn
    """

    clip: Clip
    model: Model
    training: Settings = Settings()
    validation: Validation | None = None
    extra_voices: dict[Literal["speakers", "takes", "seed"], int] | None = None
    preparation: HeartPreparation | None = None
    adversarial: Adversarial | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.training.keep == "best" and self.validation is None:
            raise ValueError("training.keep is 'best', so the recipe needs a validation part")
        if bool(self.training.extra_per_epoch) != (self.extra_voices is not None):
            raise ValueError("extra_voices and training.extra_per_epoch go together; give both or neither")
        if self.adversarial is not None and not hasattr(getattr(models, self.model.name), "embed"):
            raise ValueError(f"adversarial needs a model with features of its own, and {self.model.name} names none")
        if self.adversarial is not None and self.extra_voices is not None:
            raise ValueError("adversarial and extra_voices do not go together: each synthetic voice would be a domain")
        return self

    def build(self, n_classes: int, n_groups: int | None = None) -> nn.Module:
        """The model with fresh weights and, if `adversarial`, a second head for `n_groups` groups."""
        try:
            model = self.model.build(n_classes)
        except RecipeError as error:
            raise RecipeError(f"{self.name}: {error}") from error
        if self.adversarial is None:
            return model
        return models.DomainAdversarial(model, n_groups, weight=self.adversarial.weight)

    @property
    def hash(self) -> str:
        """Eight hex digits that change when anything that can change a score does."""
        form = self.model_dump(mode="json", exclude={"name", "title", "protocols", "training"})
        form["training"] = self.training.identity()
        # Keys of later date: where they are not used, results from before them stay valid.
        for part, key in ((form, "preparation"), (form, "adversarial"), (form["clip"], "starts")):
            if part[key] is None:
                del part[key]
        return hashlib.sha256(json.dumps(form, sort_keys=True).encode()).hexdigest()[:8]


class GroupPrior(_Experiment):
    """A baseline that hears nothing: the share of each class among the training recordings of the same group.

    What it scores above chance comes from knowing the group (the device, the place) alone. A group that is not on the
    training side gets the share of each class among all.

    Notebook: 05_heart_sounds_physionet
    """

    baseline: Literal["group_prior"]

    @property
    def hash(self) -> str:
        """Eight hex digits that change when anything that can change a score does."""
        return hashlib.sha256(f"{self.baseline} {self.dataset}".encode()).hexdigest()[:8]


class Ensemble(_Experiment):
    """Several recipes that decide together: the mean of their log-probabilities, seed by seed, fold by fold.

    A GroupPrior may be one of them: what is known of the group, beside what is heard.

    Source: Hinton 1999, "Products of experts".

    Notebook: 03_raw_waveforms_sample_cnn
    """

    members: tuple[str, ...] = Field(min_length=2)

    @property
    def recipes(self) -> list[Recipe | GroupPrior]:
        """The recipes of the members. Raises RecipeError."""
        members = [load(member) for member in self.members]
        for member in members:
            if isinstance(member, Ensemble) or member.dataset != self.dataset:
                raise RecipeError(f"{self.name}: the member {member.name} is no recipe of one model for {self.dataset}")
        if all(isinstance(member, GroupPrior) for member in members):
            raise RecipeError(f"{self.name}: none of the members hears anything")
        return members

    @property
    def hash(self) -> str:
        """Eight hex digits that change when a member's do."""
        return hashlib.sha256(" ".join(member.hash for member in self.recipes).encode()).hexdigest()[:8]


def names(folder: str) -> list[str]:
    """Names of the recipes in a folder, such as fsdd or fsdd_mistakes, as `load` takes them. Raises RecipeError."""
    found = [f"{folder}/{path.stem}" for path in sorted((FOLDER / folder).glob("*.yaml"))]
    if not found:
        known = sorted({path.parent.name for path in FOLDER.glob("*/*.yaml")})
        raise RecipeError(f"there are no recipes for {folder!r}; known: {', '.join(known)}")
    return found


def load(name: str | Path) -> Recipe | Ensemble | GroupPrior:
    """Read a recipe of the course by name ("fsdd/spectrogram_cnn"), or any YAML file by path. Raises RecipeError.

    A file with the key `members` is an Ensemble, one with the key `baseline` a GroupPrior.

    Notebook: 02_spoken_digits_cnn
    """
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = [f"{path.parent.name}/{path.stem}" for path in sorted(FOLDER.glob("*/*.yaml"))]
        if name in {recipe.split("/")[0] for recipe in known}:
            raise RecipeError(f"{name} is a folder of recipes; to run whatever is missing in it, add --all")
        raise RecipeError(f"there is no recipe {name}; known: {', '.join(known)}, or the path of a .yaml file")
    try:
        form = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path.name} is not a YAML file: {error}") from None
    if not isinstance(form, dict):
        raise RecipeError(f"{path.name}: expected keys and values, got {type(form).__name__}")
    try:
        kind = Ensemble if "members" in form else GroupPrior if "baseline" in form else Recipe
        recipe = kind.model_validate({"name": f"{path.resolve().parent.name}/{path.stem}".lstrip("/")} | form)
    except ValidationError as error:
        raise RecipeError("; ".join(_explain(path.name, kind, problem) for problem in error.errors())) from None
    shipped = FOLDER / f"{recipe.name}.yaml"
    if shipped.is_file() and not shipped.samefile(path):
        raise RecipeError(f"{path}: the course has a recipe {recipe.name}; give yours another name, or its results mix")
    return recipe


def _check_call(module: Any, name: str, arguments: dict[str, Any]) -> None:
    if name not in module.__all__:
        raise ValueError(f"unknown {module.__name__.split('.')[-1]} {name!r}; known: {', '.join(module.__all__)}")
    parameters = inspect.signature(getattr(module, name)).parameters
    accepted = [key for key in parameters if key not in _FILLED_IN]
    unknown = sorted(set(arguments) - set(accepted))
    if unknown:
        raise ValueError(f"{name} takes no {', '.join(unknown)}; it takes {', '.join(accepted)}")
    missing = [key for key in accepted if parameters[key].default is inspect.Parameter.empty and key not in arguments]
    if missing:
        raise ValueError(f"{name} needs {', '.join(missing)}")
    kinds = get_type_hints(getattr(module, name).__init__)
    for key, value in arguments.items():
        try:
            # By way of JSON, which knows as little of tuples as YAML does.
            TypeAdapter(kinds[key], config=_ANY_CLASS).validate_json(json.dumps(value, default=str), strict=True)
        except ValidationError as error:
            message = error.errors()[0]["msg"].replace("Input should", "should")
            raise ValueError(f"{name}: {key} {message}, not {value!r}") from None


_FILLED_IN = ("n_classes", "front_end")
_ANY_CLASS = ConfigDict(arbitrary_types_allowed=True)


def _explain(file: str, kind: type[_Form], problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        form: Any = kind
        for part in problem["loc"][:-1]:
            annotation = form.model_fields[part].annotation
            form = next(
                (kind for kind in (annotation, *getattr(annotation, "__args__", ())) if hasattr(kind, "model_fields")),
                form,
            )
        message = (
            f"unknown key; allowed: {', '.join(key for key in form.model_fields if key != 'name' or form is Model)}"
        )
    return f"{file}: {place + ': ' if place else ''}{message}"
