"""The results of finished runs: one JSON file each, with the predictions behind it in a file beside."""

from __future__ import annotations

import io
import json
import logging
import math
import zipfile
import zlib
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from course_lib import CourseError, environment, evaluation
from course_lib.files import write_whole
from course_lib.experiments.recipe import Ensemble, GroupPrior, Recipe

logger = logging.getLogger(__name__)
PARTS = {"test": "", "validation": "validation_"}


class ResultError(CourseError):
    """A file under results/ cannot be used; the message names it."""


class ResultBusy(ResultError):
    """Another process is at work on this result."""


def _fraction(value: float) -> float:
    if value < 0 or value > 1:
        raise ValueError("is not between 0 and 1")
    return value


# JSON knows no NaN, so that null is written in its place.
Fraction = Annotated[
    float, BeforeValidator(lambda value: math.nan if value is None else value), AfterValidator(_fraction)
]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Result:
    """One finished training and its test scores: what was run, on what data, by what, and which errors remain.

    `source` is "real" or "stand-in". `per_class` is the recall of each class and `per_group` the accuracy on each
    group (speaker, device) of the test side, as fractions; `group_sizes` counts its recordings; `errors` maps each
    misheard recording to the class it was taken for; `confusion` has a row for each true class. Between two classes
    `threshold` is the probability from which a recording is class 1, and `rules` holds the scores by other rules.
    `probe` says how well features of the validation part tell groups apart (accuracy) and what guessing does (chance).
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", strict=True)

    recipe: str
    recipe_hash: str
    form: dict[str, Any]
    protocol: str
    fold: str
    folds: Annotated[int, Field(ge=1)]
    seed: Count
    source: Literal["real", "stand-in"]
    fingerprint: str
    train: Count
    validation: Count
    test: Annotated[int, Field(ge=1)]
    scores: dict[str, Fraction]
    per_class: dict[str, Fraction]
    per_group: dict[str, Fraction]
    group_sizes: dict[str, Count]
    errors: dict[str, str]
    confusion: list[list[Count]]
    parameters: Count
    kept_epoch: Count
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    device: str
    precision: str
    threads: Count
    versions: dict[str, str]
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    rules: dict[str, dict[str, Fraction]] = field(default_factory=dict)
    probe: dict[str, float] = field(default_factory=dict)

    @property
    def headline(self) -> str:
        """The score to show where there is room for one: MAcc between two classes, else accuracy."""
        name = "MAcc" if "macc" in self.scores else "accuracy"
        return f"{name} {self.scores[name.lower()]:.1%}"

    @property
    def path(self) -> Path:
        """Where this result is kept; stand-in results have a folder of their own."""
        return path_of(self.recipe, self.protocol, self.fold, self.seed, self.source)


_FILE = TypeAdapter(Result)


def root_of(source: str) -> Path:
    return environment.results_folder() if source == "real" else environment.cache_folder() / "results_on_stand_ins"


def path_of(recipe: str, protocol: str, fold: str, seed: int, source: str) -> Path:
    return root_of(source) / recipe / protocol / f"{fold}-seed{seed}.json"


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file: complete, or not at all."""
    _write(path, (json.dumps(_without_nan(content), indent=1, allow_nan=False) + "\n").encode())


def _without_nan(content: Any) -> Any:
    """The same with null for NaN, which JSON does not know."""
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content


def _write(path: Path, content: bytes) -> None:
    try:
        write_whole(path, content)
    except OSError as error:
        raise ResultError(f"cannot write the result {path}: {error}") from error


def keep(result: Result, tested: pd.DataFrame, held_out: pd.DataFrame, about: pd.DataFrame) -> None:
    """Write the predictions and then the result, so that where there is a result there are predictions.

    The probabilities are those of the clips of the test side and of the validation part, named after their recordings;
    `about` has the label and the group of every recording.
    """
    arrays = {}
    for prefix, clips in zip(PARTS.values(), (tested, held_out), strict=True):
        arrays |= {f"{prefix}recording": clips.index.to_numpy(str)}
        arrays |= {f"{prefix}probabilities": clips.to_numpy(np.float32)}
        arrays |= {f"{prefix}label": about["label"][clips.index].to_numpy(np.int16)}
        arrays |= {f"{prefix}group": about["group"][clips.index].to_numpy(str)}
    np.savez_compressed(packed := io.BytesIO(), **arrays)
    _write(result.path.with_suffix(".npz"), packed.getvalue())
    write_json(result.path, asdict(result))


def predictions(result: Result, part: str = "test") -> pd.DataFrame:
    """The class probabilities behind a result: a row for each clip of a part, named after its recording.

    A column for each class. `part` is test or validation. Raises ResultError when the file beside the result is missing
    or damaged.

    Notebook: 03_raw_waveforms_sample_cnn
    """
    recording, probabilities = _arrays(result, part, "recording", "probabilities")
    return pd.DataFrame(probabilities.astype(float), index=recording)


def decisions(result: Result, part: str = "test") -> pd.DataFrame:
    """What a model for two classes said of each recording of a part, test or validation.

    Columns: label, group, clips (how many), vote (the share of them called class 1), probability (of class 1, pooled),
    margin (how far it is from the threshold, by the rule of the protocol) and predicted (1 from a margin of 0). Raises
    ResultError as `predictions` does.

    Notebook: 05_heart_sounds_physionet
    """
    recording, probabilities, label, group = _arrays(result, part, "recording", "probabilities", "label", "group")
    clips = pd.DataFrame(probabilities.astype(float), index=recording)
    about = pd.DataFrame({"label": label.astype(int), "group": group}, index=recording)
    by_recording = about.groupby(level=0, sort=False)
    found = by_recording.first().assign(clips=by_recording.size(), vote=evaluation.vote(clips))
    margin = _margin(clips, result.protocol, result.threshold)
    return found.assign(probability=evaluation.pooled(clips)[1], margin=margin, predicted=(margin >= 0).astype(int))


def decide(clips: pd.DataFrame, protocol: str, threshold: float) -> pd.Series:
    """The class of each recording, from the class probabilities of its clips.

    The likeliest one by the pooled probabilities; of two classes 1 when its pooled probability reaches the threshold
    or, as in the origin of list 0, when at least half of the clips vote for it.
    """
    if clips.shape[1] != 2:
        return evaluation.pooled(clips).idxmax(axis=1)
    return (_margin(clips, protocol, threshold) >= 0).astype(int)


def _margin(clips: pd.DataFrame, protocol: str, threshold: float) -> pd.Series:
    if protocol == "published_list_0":
        return evaluation.vote(clips) - 0.5
    return evaluation.log_odds(evaluation.pooled(clips)[1]) - evaluation.log_odds(threshold)


def _arrays(result: Result, part: str, *names: str) -> list[np.ndarray]:
    path = result.path.with_suffix(".npz")
    try:
        with np.load(path) as file:
            return [file[PARTS[part] + name] for name in names]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ResultError(f"{path}, the predictions of a result, cannot be read ({error}); run it again") from None


def read(path: Path) -> Result:
    """Read one result file. Raises ResultError naming it when it is damaged or lies in another one's place."""
    try:
        result = _FILE.validate_json(path.read_bytes())
        _require_consistent(result)
        if path.resolve() != result.path.resolve():
            raise ValueError(f"it belongs to {result.path}")
    except ValidationError as error:
        problem = error.errors()[0]
        place, message = ".".join(map(str, problem["loc"])), problem["msg"].removeprefix("Value error, ")
        reason = f"{place}: {message}" if place else message
    except (OSError, ValueError) as error:
        reason = str(error)
    else:
        return result
    raise ResultError(f"{path} is damaged ({reason}); delete it and run its recipe again")


def _require_consistent(result: Result) -> None:
    """Raise ValueError unless the counts of a result agree with one another and with its accuracy."""
    counted = sum(map(sum, result.confusion))
    right = sum(row[number] for number, row in enumerate(result.confusion) if number < len(row))
    if (
        not result.test == counted == sum(result.group_sizes.values())
        or result.per_group.keys() != result.group_sizes.keys()
    ):
        raise ValueError("its counts of recordings differ")
    if len(result.errors) != result.test - right:
        raise ValueError(f"it names {len(result.errors)} errors and counts {result.test - right}")
    if not math.isclose(result.scores.get("accuracy", math.nan), right / result.test, abs_tol=1e-6):
        raise ValueError(f"its accuracy is not {right} of {result.test}")


def results(
    recipe: Recipe | Ensemble | GroupPrior, protocol: str, source: str = "real", whole_seeds: bool = False
) -> list[Result]:
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


def damaged(recipe: Recipe | Ensemble | GroupPrior, source: str = "real") -> list[Path]:
    """The damaged result files of a recipe."""
    found = []
    for path in [path for protocol in recipe.protocols for path in _files(recipe.name, protocol, source)]:
        try:
            read(path)
        except ResultError:
            found.append(path)
    return found


def _files(recipe: str, protocol: str, source: str) -> list[Path]:
    return sorted(path_of(recipe, protocol, "", 0, source).parent.glob("[!.]*.json"))
