"""Recipes as YAML files: read with care, checked, and filled in from the recipe that they extend.

Notebook: 02_spoken_digits_cnn
"""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import ValidationError

from course_lib.experiments.baselines import Discriminant, Logistic
from course_lib.experiments.form import RecipeError
from course_lib.experiments.recipe import Ensemble, Experiment, GroupPrior, Recipe

FOLDER = Path(__file__).parent.parent / "recipes"
_LARGEST, _DEEPEST = 1_000_000, 20
_BASELINES = {"discriminant": Discriminant, "logistic_regression": Logistic}


def names(folder: str | Path) -> list[str]:
    """Names of the recipes in a folder of the course, or paths of those in a folder of one's own.

    Raises RecipeError.
    """
    if (FOLDER / str(folder)).is_dir() and re.fullmatch(r"\w+", str(folder)):
        return [f"{folder}/{path.stem}" for path in sorted((FOLDER / str(folder)).glob("*.yaml"))]
    own = sorted(Path(folder).expanduser().glob("*.yaml")) if Path(folder).expanduser().is_dir() else []
    if not own:
        known = sorted({path.parent.name for path in FOLDER.glob("*/*.yaml")})
        raise RecipeError(
            f"there are no recipes for {str(folder)!r}; known: {', '.join(known)}, or a folder of .yaml files"
        )
    return [str(path) for path in own]


def load(name: str | Path) -> Experiment:
    """Read a recipe of the course by its name, FOLDER/NAME, or any YAML file by its path. Raises RecipeError.

    A file with the key `members` is an Ensemble, one with `baseline` a GroupPrior, a Discriminant or a Logistic.
    `extends: NAME` takes every key that is not given from another recipe, and what is missing where a key is given in
    part; `protocols` are replaced, and a key or a layer with the value null is left out.

    Notebook: 02_spoken_digits_cnn
    """
    path = _path(name)
    form = _extended(path, ())
    baseline = _BASELINES.get(str(form.get("baseline")), GroupPrior)
    kind = Ensemble if "members" in form else baseline if "baseline" in form else Recipe
    try:
        recipe = kind.model_validate({"name": f"{path.resolve().parent.name}/{path.stem}".lstrip("/")} | form)
    except ValidationError as error:
        raise RecipeError("; ".join(_explain(path.name, kind, problem) for problem in error.errors())) from None
    except RecursionError:
        raise RecipeError(f"{path.name}: it is nested too deeply") from None
    shipped = FOLDER / f"{recipe.name}.yaml"
    if shipped.is_file() and not shipped.samefile(path):
        raise RecipeError(f"{path}: the course has a recipe {recipe.name}; give yours another name, or its results mix")
    return recipe


def _path(name: str | Path, beside: Path = FOLDER) -> Path:
    """The file of a recipe: of the course by name, or by its path, which may be relative to the folder `beside`."""
    own = str(name).endswith((".yaml", ".yml"))
    try:
        path = Path(name).expanduser() if own else FOLDER / f"{name}.yaml"
        if own and not path.is_file():
            path = beside / path
        if path.is_file():
            return path
    except (OSError, RuntimeError, ValueError) as error:  # a name that no path can have
        raise RecipeError(f"{str(name)[:60]!r} cannot be the path of a recipe ({error})") from None
    known = [f"{path.parent.name}/{path.stem}" for path in sorted(FOLDER.glob("*/*.yaml"))]
    if str(name) in {recipe.split("/")[0] for recipe in known}:
        raise RecipeError(f"{name} is a folder of recipes; to run whatever is missing in it, add --all")
    raise RecipeError(f"there is no recipe {name}; known: {', '.join(known)}, or the path of a .yaml file")


def _extended(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """What a recipe file says, with what it takes from the recipe that it extends."""
    if path.resolve() in above:
        raise RecipeError(f"{path.name} extends itself, by way of {' and '.join(other.name for other in above)}")
    form = _read(path)
    base = form.pop("extends", None)
    if base is None:
        return form
    if not isinstance(base, str):
        raise RecipeError(f"{path.name}: extends names one recipe, not {base!r}")
    name = base if "/" in base or base.endswith((".yaml", ".yml")) else f"{path.resolve().parent.name}/{base}"
    try:
        inherited = _extended(_path(name, path.resolve().parent), (*above, path.resolve()))
    except RecipeError as error:
        raise RecipeError(f"{path.name} extends {base}: {error}") from None
    for key in {"name"} | ({"protocols"} & form.keys()):
        inherited.pop(key, None)
    return _merged(inherited, form, path.name)


def _merged(base: Any, given: Any, file: str) -> Any:
    """`base` with what is given in its place; a mapping given for a list of layers changes the layers that it names.

    What is given as null is left out.
    """
    if isinstance(base, dict) and isinstance(given, dict):
        merged = base | {key: _merged(base.get(key), value, file) for key, value in given.items()}
        return {key: value for key, value in merged.items() if key not in given or given[key] is not None}
    if isinstance(base, list) and isinstance(given, dict):
        layers = [next(iter(layer)) for layer in base if isinstance(layer, dict) and len(layer) == 1]
        strange = [name for name in given if layers.count(name) != 1]
        if strange or len(layers) < len(base):
            raise RecipeError(f"{file}: {', '.join(strange)} is not one layer of the front end {', '.join(layers)}")
        return [
            {name: _merged(layer[name], given[name], file)} if name in given else layer
            for name, layer in zip(layers, base, strict=True)
            if name not in given or given[name] is not None
        ]
    return given


class _Loader(yaml.SafeLoader):
    """YAML as it is written: only true and false are truth values, only decimal numbers are numbers, a key stands once.

    Anchors, aliases and tags are refused, so that a file is no larger than it looks.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.constructor.ConstructorError(
                None, None, "anchors and aliases are not used here", event.start_mark
            )
        if getattr(event, "tag", None) is not None:
            raise yaml.constructor.ConstructorError(None, None, "tags (!!) are not used here", event.start_mark)
        self.depth += 1
        if self.depth > _DEEPEST:
            raise yaml.constructor.ConstructorError(None, None, "it is nested too deeply", event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key, (key_node, _) in zip(keys, node.value, strict=True):
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is not a key", key_node.start_mark)
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key} stands twice", key_node.start_mark)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("null", r"null|~|", ["n", "~", ""]),
    ("bool", r"true|false", ["t", "f"]),
    ("int", r"[-+]?(0|[1-9][0-9]{0,17})", list("-+0123456789")),
    (
        "float",
        r"[-+]?((0|[1-9][0-9]{0,17})(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][-+]?[0-9]{1,3})?",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z", re.ASCII), _first)


_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(node.value))


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST:
            raise RecipeError(f"{path.name} has more than {_LARGEST // 1_000_000} MB; a recipe is a few lines")
        form = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError, OSError) as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(f"{path.name} is not a YAML file: {error}") from None
    if not isinstance(form, dict):
        raise RecipeError(f"{path.name}: expected keys and values, got {type(form).__name__}")
    return form


def _explain(file: str, kind: type[Experiment], problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        form: Any = kind
        for part in problem["loc"][:-1]:
            annotation = form.model_fields[part].annotation if part in form.model_fields else None
            choices = (annotation, *getattr(annotation, "__args__", ()))
            form = next((choice for choice in choices if hasattr(choice, "model_fields")), form)
        keys = [key for key in form.model_fields if key != "name" or form.__name__ == "Model"]
        message = f"unknown key; allowed: {', '.join(keys)}"
    elif isinstance(problem.get("input"), str | int | float | bool) and problem["type"] != "value_error":
        message += f", not {str(problem['input'])[:60]!r}"
    return f"{file}: {where + ': ' if where else ''}{message}"
