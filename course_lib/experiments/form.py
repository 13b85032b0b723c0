"""The parts of a recipe: forms that are checked before anything runs.

Notebook: 02_spoken_digits_cnn
"""

from __future__ import annotations

import inspect
import json
from typing import Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from torch import nn

from course_lib import CourseError, layers, models
from course_lib.layers.pipeline import Pipeline

# What models and layers raise when they are built or used in a way that they were not made for.
BUILD_ERRORS = (TypeError, ValueError, RuntimeError, ArithmeticError, IndexError, MemoryError)


class RecipeError(CourseError, ValueError):
    """A recipe cannot be used; the message names the file, the key and what is allowed."""


class Form(BaseModel):
    """Base of the parts of a recipe: strict types, no unknown keys, no infinite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Clip(Form):
    """How recordings are cut: clips of `seconds`, one a recording, one every `hop_seconds`, or where `starts` names.

    `starts` is one of the data set's ways to find where clips begin; with `hop_seconds` a clip starts at least so much
    after the one before.
    """

    seconds: float = Field(gt=0, le=60)
    hop_seconds: float | None = Field(None, gt=0, le=3600)
    starts: str | None = None


class Validation(Form):
    """The part of the training side that chooses the best epoch and, between two classes, the threshold."""

    fraction: float = Field(gt=0, lt=1)
    by: Literal["group", "recording", "recording_in_group"] = "group"


class FrontEndForm(Form):
    """The layers of a front end, one after the other."""

    front_end: list[dict[str, dict[str, Any]]] = []

    @model_validator(mode="after")
    def _known_layers(self) -> FrontEndForm:
        for layer in self.front_end:
            if len(layer) != 1:
                raise ValueError(f"a layer of the front end is written 'Name: {{settings}}', not {layer}")
            for name, arguments in layer.items():
                _check_call(layers, name, arguments)
        return self

    @property
    def _calls(self) -> list[tuple[str, dict[str, Any]]]:
        return [call for layer in self.front_end for call in layer.items()]

    def build_front_end(self) -> Pipeline:
        """The layers. Raises RecipeError."""
        try:
            return Pipeline(*(getattr(layers, name)(**given) for name, given in self._calls))
        except BUILD_ERRORS as error:
            raise RecipeError(f"the front end cannot be built with these settings: {error}") from error

    def identity(self) -> list[Any]:
        """The layers of the front end with every argument, default ones included."""
        return [[name, _resolved(layers, name, given)] for name, given in self._calls]


class Model(FrontEndForm):
    """A class of `course_lib.models`, its settings, and the layers of its front end (empty: the model's own)."""

    name: str
    settings: dict[str, Any] = {}

    @model_validator(mode="after")
    def _known(self) -> Model:
        if self.name == "DomainAdversarial":
            raise ValueError("DomainAdversarial wraps another model; name that one, and add 'adversarial: {weight: 1}'")
        _check_call(models, self.name, self.settings)
        return self

    def build(self, n_classes: int) -> nn.Module:
        """The model with fresh weights. Raises RecipeError."""
        given = {"front_end": self.build_front_end()} if self.front_end else {}
        try:
            return getattr(models, self.name)(n_classes=n_classes, **self.settings, **given)
        except BUILD_ERRORS as error:
            raise RecipeError(f"the model {self.name} cannot be built with these settings: {error}") from error

    def identity(self) -> list[Any]:
        """The model and the layers of its front end with every argument, default ones included."""
        return [[self.name, _resolved(models, self.name, self.settings)], *super().identity()]


class Adversarial(Form):
    """A second head that predicts the group, against which the features are trained with up to `weight`.

    With `target` the unlabelled clips of the test side go through this head, too. With `head_learning_rate` the head
    has this constant learning rate; otherwise it follows the schedule of the network.
    """

    weight: float = Field(ge=0, le=1000)
    target: bool = False
    head_learning_rate: float | None = Field(None, gt=0, le=10)


def _check_call(module: Any, name: str, arguments: dict[str, Any]) -> None:
    if name not in module.__all__ or not _is_layer(getattr(module, name)):
        known = ", ".join(each for each in module.__all__ if _is_layer(getattr(module, each)))
        raise ValueError(f"unknown {module.__name__.split('.')[-1].removesuffix('s')} {name!r}; known: {known}")
    defaults = _defaults(module, name)
    if unknown := sorted(set(arguments) - set(defaults)):
        raise ValueError(f"{name} takes no {', '.join(unknown)}; it takes {', '.join(defaults) or 'no settings'}")
    if missing := [key for key in defaults if defaults[key] is inspect.Parameter.empty and key not in arguments]:
        raise ValueError(f"{name} needs {', '.join(missing)}")
    kinds = get_type_hints(getattr(module, name).__init__)
    for key, value in arguments.items():
        try:
            # By way of JSON, which has no tuples, as YAML has none.
            text = json.dumps(value, default=str, allow_nan=False)
            TypeAdapter(kinds[key], config=_ANY_CLASS).validate_json(text, strict=True)
        except ValidationError as error:
            message = error.errors()[0]["msg"].replace("Input should", "should")
            raise ValueError(f"{name}: {key} {message}, not {value!r}") from None
        except ValueError:
            raise ValueError(f"{name}: {key} must be a finite number, not {value!r}") from None


def _is_layer(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, nn.Module)


def _defaults(module: Any, name: str) -> dict[str, Any]:
    """The arguments that a recipe can give, with their defaults; a layer without settings has none."""
    parameters = inspect.signature(getattr(module, name)).parameters.values()
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {each.name: each.default for each in parameters if each.name not in _FILLED_IN and each.kind not in several}


def _resolved(module: Any, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Every argument of a call. A default that switches something off (None, False, 0) is left out: so a new feature
    of a layer leaves older hashes as they are."""
    defaults = _defaults(module, name)
    resolved = {key: value for key, value in defaults.items() if value is not inspect.Parameter.empty} | arguments
    used = {key: value for key, value in resolved.items() if value or value != defaults[key]}
    return json.loads(json.dumps(used, default=str))


_FILLED_IN = ("n_classes", "front_end")
_ANY_CLASS = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
