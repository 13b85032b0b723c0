"""The results of finished runs: one JSON file each, with the predictions behind it in a file beside.

Notebook: 02_spoken_digits_cnn
"""

import hashlib
import io
import json
import logging
import math
import re
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol
from urllib.parse import quote

import numpy as np
import pandas as pd
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from course_lib import CourseError, datasets, environment, evaluation
from course_lib.files import write_whole

logger = logging.getLogger(__name__)
PARTS = {"test": "", "validation": "validation_"}
_LONGEST_NAME = 120
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE)  # no names for files on Windows


class ResultError(CourseError):
    """A file under results/ cannot be used; the message names it."""


class ResultBusy(ResultError):
    """Another process is at work on this result."""


class Identified(Protocol):
    """What results are filed under: a recipe, an ensemble or a group prior."""

    name: str
    dataset: str
    protocols: dict[str, int]

    @property
    def hash(self) -> str: ...


# JSON knows no NaN, so that null is written in its place.
Fraction = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Result:
    """One finished training and its test scores: what was run, on what data, by what, and which errors remain.

    `source` is "real" or "stand-in"; `fingerprint` identifies the recordings with their labels and groups, `split` who
    is on which side, and `predictions` the predictions in the file beside. `counts` has, for each group of the test
    side and each class, how many recordings there are and how many are classified correctly; `errors` maps each of the
    others to its predicted class; `confusion` has a row for each true class. Between two classes `threshold` is the
    probability from which a recording is class 1. `rules` holds the scores of single clips and of recordings by other
    rules, where recordings have several clips. `probe` states how well the groups of the validation part can be read
    from its features (accuracy), and what guessing gives (chance). `history` has a row for each epoch, `members` the
    predictions that an ensemble was made of; `note` is that of the recordings.

    Notebook: 02_spoken_digits_cnn
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
    split: str
    predictions: str
    train: Count
    validation: Count
    test: Annotated[int, Field(ge=1)]
    scores: dict[str, Fraction]
    counts: dict[str, dict[str, list[Count]]]
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
    members: dict[str, str] = field(default_factory=dict)
    history: list[dict[str, float | None]] = field(default_factory=list)
    note: str = ""

    @property
    def headline(self) -> str:
        """The score to show where there is room for one."""
        return f"balanced accuracy {self.scores['balanced_accuracy']:.1%}"

    @property
    def per_class(self) -> dict[str, float]:
        """Recall of each class of the test side."""
        sums = self.table().groupby("label", sort=False)[["right", "total"]].sum()
        return (sums["right"] / sums["total"]).to_dict()

    @property
    def per_group(self) -> dict[str, float]:
        """Balanced accuracy on each group of the test side: the mean recall of the classes that occur there."""
        table = self.table()
        return (table["right"] / table["total"]).groupby(table["group"], sort=False).mean().to_dict()

    def table(self) -> pd.DataFrame:
        """`counts` as a table: a row for each group and class that occurs, with total and right."""
        rows = [(group, label, *pair) for group, classes in self.counts.items() for label, pair in classes.items()]
        return pd.DataFrame(rows, columns=["group", "label", "total", "right"])

    @property
    def path(self) -> Path:
        """Where this result is, or will be; stand-in results have a folder of their own."""
        return path_of(self.recipe, self.protocol, self.fold, self.seed, self.source, self.recipe_hash)

    @property
    def weights_path(self) -> Path:
        """Where the trained weights are, if they were asked for."""
        return self.path.with_suffix(".safetensors")


_FILE = TypeAdapter(Result)


def root_of(source: str) -> Path:
    """The folder of the results on real or on stand-in data."""
    if source == "real":
        return environment.results_folder()
    return environment.cache_folder() / "results_on_stand_ins"


def path_of(recipe: str, protocol: str, fold: str, seed: int, source: str, recipe_hash: str = "") -> Path:
    """The path of a result: `RECIPE/PROTOCOL/FOLD-seedN.json`, with what no file name can hold written as %XX.

    Where another recipe of that name has a result already, the hash of the recipe is part of the file name.
    """
    folder = root_of(source).joinpath(*map(file_name, recipe.split("/")), file_name(protocol))
    path = folder / f"{file_name(fold)}-seed{seed}.json"
    own = path.with_stem(f"{path.stem}-{recipe_hash}")
    if recipe_hash and (own.is_file() or (path.is_file() and _hash_in(path) not in (recipe_hash, None))):
        return own
    return path


def file_name(name: str) -> str:
    """A name that any file system takes and that tells names apart; ordinary names stay as they are."""
    safe = quote(name, safe=" +,=@()[]")
    if safe.startswith(".") or _DEVICE.match(safe):
        safe = f"%{ord(safe[0]):02X}{safe[1:]}"
    if safe.endswith((".", " ")):
        safe = f"{safe[:-1]}%{ord(safe[-1]):02X}"
    return safe if len(safe) <= _LONGEST_NAME else f"{safe[:80]}-{digest_of(name)}"


def digest_of(*texts: str) -> str:
    """Sixteen hex digits that identify a list of texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file: complete, or not at all; NaN is written as null. Raises ResultError."""
    _write(path, (json.dumps(_without_nan(content), indent=1, allow_nan=False) + "\n").encode())


def write(result: Result, clips: Mapping[str, pd.DataFrame], recordings: pd.DataFrame) -> Result:
    """Write the predictions and then the result, so that where there is a result there are predictions.

    `clips` has the class probabilities of the clips of each part (test, validation), named after their recordings;
    `recordings` the label and the group of every recording. Returns the result with the digest of its predictions.
    """
    arrays = {}
    for part, prefix in PARTS.items():
        names = clips[part].index
        arrays |= {
            f"{prefix}recording": names.to_numpy(str),
            f"{prefix}probabilities": clips[part].to_numpy(np.float32),
            f"{prefix}label": recordings["label"][names].to_numpy(np.int16),
            f"{prefix}group": recordings["group"][names].to_numpy(str),
        }
    result = replace(result, predictions=digest_of_arrays(arrays))
    path = result.path
    np.savez_compressed(packed := io.BytesIO(), **arrays)
    _write(path.with_suffix(".npz"), packed.getvalue())
    write_json(path, signed(asdict(result)))
    return result


def digest_of_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """Sixteen hex digits that identify named arrays, whatever the file around them."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        content = (
            "\0".join(array.tolist()).encode() if array.dtype.kind == "U" else np.ascontiguousarray(array).tobytes()
        )
        digest.update(f"{name}\0{array.shape}\0".encode() + content)
    return digest.hexdigest()[:16]


def signed(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a result file with a digest of it, so that damage and edits are noticed."""
    plain = {key: value for key, value in _without_nan(content).items() if key != "digest"}
    return plain | {"digest": digest_of(json.dumps(plain, sort_keys=True, allow_nan=False))}


def predictions(result: Result, part: str = "test") -> pd.DataFrame:
    """The class probabilities behind a result: a row for each clip of a part, named after its recording.

    A column for each class. `part` is test or validation. Raises ResultError when the file beside the result is
    missing, damaged or another result's.

    Notebook: 03b_rivals_and_noise
    """
    arrays = _arrays(result, part)
    return pd.DataFrame(arrays["probabilities"].astype(float), index=arrays["recording"])


def decisions(result: Result, part: str = "test", rule: str | None = None) -> pd.DataFrame:
    """What each recording of a part, test or validation, was classified as: a row each.

    Columns: label, group, clip_accuracy (the share of its clips that are right) and those of `evaluation.decide`, by
    the rule of the protocol unless another one is given. Raises ResultError as `predictions` does.

    Notebook: 05_heart_sounds_physionet
    """
    arrays = _arrays(result, part)
    clips = pd.DataFrame(arrays["probabilities"].astype(float), index=arrays["recording"])
    about = pd.DataFrame({"label": arrays["label"].astype(int), "group": arrays["group"]}, index=arrays["recording"])
    about = about.groupby(level=0, sort=False).first()
    rule = rule or datasets.get(result.form["dataset"]).protocol(result.protocol).decision
    decided = evaluation.decide(clips, rule, result.threshold)
    return pd.concat([about, decided], axis=1).assign(clip_accuracy=evaluation.clip_accuracy(clips, about["label"]))


def require_predictions(result: Result) -> None:
    """Raise ResultError unless the predictions beside a result are its own; the oldest results never had any."""
    if result.predictions:
        _arrays(result, "test")


def read(path: Path) -> Result:
    """Read one result file. Raises ResultError naming it when it is damaged, edited or in another one's place."""
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict) or signed(content) != content:
            raise ValueError("its content does not match its digest")
        del content["digest"]
        result = _FILE.validate_json(json.dumps(content))
        expected = path_of(result.recipe, result.protocol, result.fold, result.seed, result.source)
        stems = (expected.stem, f"{expected.stem}-{result.recipe_hash}")
        if path.resolve().parent != expected.resolve().parent or path.stem not in stems:
            raise ValueError(f"it belongs to {expected}")
    except ValidationError as error:
        problem = error.errors()[0]
        reason = f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error)
    else:
        return result
    raise ResultError(f"{path} is damaged ({reason}); delete it and run its recipe again")


def results(recipe: Identified, protocol: str, source: str = "real", whole_seeds: bool = False) -> list[Result]:
    """The results of this version of a recipe under one protocol; with `whole_seeds`, of seeds with every fold.

    Those of other versions are left out. A damaged file, and a whole seed of other data than most, is named in a
    warning and left out.

    Notebook: 02_spoken_digits_cnn
    """
    by_name: dict[tuple[str, int], Result] = {}
    for path in _files(recipe, protocol, source):
        try:
            result = read(path)
        except ResultError as error:
            logger.warning("%s", error)
        else:
            if result.recipe_hash == recipe.hash:
                by_name.setdefault((result.fold, result.seed), result)
    found = list(by_name.values())
    if not whole_seeds:
        return found
    by_seed: dict[int, list[Result]] = defaultdict(list)
    for result in found:
        by_seed[result.seed].append(result)
    whole = {seed: folds for seed, folds in sorted(by_seed.items()) if len(folds) == folds[0].folds}
    data = Counter(result.fingerprint for folds in whole.values() for result in folds)
    for seed, folds in list(whole.items()):
        if {result.fingerprint for result in folds} != {data.most_common(1)[0][0]}:
            logger.warning("%s, %s, seed %s is of other data than the rest; run it again", recipe.name, protocol, seed)
            del whole[seed]
    return [result for folds in whole.values() for result in folds]


def damaged(recipe: Identified, source: str = "real") -> list[Path]:
    """The damaged result files of a recipe."""
    found = []
    for path in [path for protocol in recipe.protocols for path in _files(recipe, protocol, source)]:
        try:
            read(path)
        except ResultError:
            found.append(path)
    return found


def _arrays(result: Result, part: str) -> dict[str, np.ndarray]:
    path = result.path.with_suffix(".npz")
    if not result.predictions:
        raise ResultError(f"{result.path} is from a version that kept no predictions; delete it and run it again")
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        if digest_of_arrays(arrays) != result.predictions:
            raise ValueError("they are not those of the result")
        return {name: arrays[PARTS[part] + name] for name in ("recording", "probabilities", "label", "group")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ResultError(f"{path}, the predictions of a result, cannot be used ({error}); run it again") from None


def _hash_in(path: Path) -> str | None:
    """The recipe's hash in a result file; None where there is none."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content.get("recipe_hash") if isinstance(content, dict) else None


def _files(recipe: Identified, protocol: str, source: str) -> list[Path]:
    return sorted(path_of(recipe.name, protocol, "x", 0, source).parent.glob("*.json"))


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
