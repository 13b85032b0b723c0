"""Tables of the kept results: for people, for programs and for the README."""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from course_lib import evaluation, experiments, recipes
from course_lib.files import write_whole
from course_lib.experiments.recipe import Protocol, Recipe


def table(folder: str, source: str = "real") -> list[dict[str, Any]]:
    """One row a recipe of a folder (fsdd) and protocol that has a complete seed: mean accuracy, and how sure it is.

    `low` and `high` bound a 95 % bootstrap interval of that mean: over the speakers for leave_one_speaker_out, over
    the test recordings for the other protocols. All accuracies are fractions.

    Between two classes a row has `scores`, means over the seeds, and the interval is that of MAcc, over the recordings
    of each class. `per_group` is the MAcc on each device and `per_group_interval` its interval, None where a device has
    one class only. `probe` has how well the features of held-out recordings of the training side (under
    published_list_0, which holds none out, of the test side) tell devices apart (accuracy, balanced; chance), or is
    None. Under leave_one_device_out the scores are means over the devices, precision over those where anything was
    called class 1; under the other protocols all test recordings of a seed count together. `leaky` marks the protocols
    of the origins, whose test side was watched.

    Notebook: 02_spoken_digits_cnn
    """
    rows = []
    for name in recipes.names(folder):
        recipe = recipes.load(name)
        for protocol in recipe.protocols:
            by_seed: dict[int, list[experiments.Result]] = defaultdict(list)
            for result in experiments.results(recipe, protocol, source, whole_seeds=True):
                by_seed[result.seed].append(result)
            if by_seed:
                two_classes = "macc" in by_seed[min(by_seed)][0].scores
                rows.append((_two_class_row if two_classes else _row)(recipe, protocol, source, by_seed))
    return rows


def _row(recipe: Recipe, protocol: str, source: str, by_seed: dict[int, list[experiments.Result]]) -> dict[str, Any]:
    every = [result for folds in by_seed.values() for result in folds]
    sizes = {group: size for result in every for group, size in result.group_sizes.items()}
    per_group = {
        group: float(np.mean([result.per_group[group] for result in every if group in result.per_group]))
        for group in sorted(sizes)
    }
    per_seed = [_accuracy(folds) for _, folds in sorted(by_seed.items())]
    if protocol == "leave_one_speaker_out":
        counts = [sizes[group] for group in per_group]
        low, high = evaluation.interval(np.repeat(list(per_group.values()), counts), np.repeat(list(per_group), counts))
    elif protocol in ("random", "origin"):
        low, high = evaluation.interval(*_each_test(every))
    else:
        low, high = evaluation.interval(_mean_correct(every))
    return {
        "recipe": recipe.name,
        "title": recipe.title,
        "protocol": protocol,
        "leaky": protocol == "origin",
        "seeds": sorted(by_seed),
        "mean": float(np.mean(per_seed)),
        "low": low,
        "high": high,
        "per_seed": per_seed,
        "per_group": per_group,
        "parameters": every[0].parameters,
        "seconds": float(np.median([result.seconds for result in every])),
        "source": source,
    }


def _two_class_row(
    recipe: Recipe, protocol: str, source: str, by_seed: dict[int, list[experiments.Result]]
) -> dict[str, Any]:
    seeds = sorted(by_seed)
    left_out = protocol == "leave_one_device_out"
    tested = [pd.concat(map(experiments.decisions, by_seed[seed])) for seed in seeds]
    per_seed = pd.DataFrame([_mean_over_groups(decided) if left_out else _scores(decided) for decided in tested])
    recordings = evaluation.rightness(tested)
    cells = recordings["group"] + recordings["label"].astype(str) if left_out else recordings["label"]
    low, high = evaluation.balanced_interval(recordings["right"], cells)
    groups = {group: part if part["label"].nunique() == 2 else None for group, part in recordings.groupby("group")}
    every = [result for folds in by_seed.values() for result in folds]
    return {
        "recipe": recipe.name,
        "title": recipe.title,
        "protocol": protocol,
        "leaky": protocol == "published_list_0",
        "seeds": seeds,
        "scores": {name: _number(value) for name, value in per_seed.mean().items()},
        "low": low,
        "high": high,
        "per_seed": [_number(value) for value in per_seed["macc"]],
        "per_group": {
            group: None if part is None else float(part.groupby("label")["right"].mean().mean())
            for group, part in groups.items()
        },
        "per_group_interval": {
            group: None if part is None else list(evaluation.balanced_interval(part["right"], part["label"]))
            for group, part in groups.items()
        },
        "probe": _mean_probe(every),
        "parameters": every[0].parameters,
        "seconds": float(np.median([result.seconds for result in every])),
        "source": source,
    }


def _mean_probe(results: list[experiments.Result]) -> dict[str, float] | None:
    probes = [result.probe for result in results if result.probe]
    return pd.DataFrame(probes).mean().to_dict() if probes else None


def _scores(decided: pd.DataFrame) -> dict[str, float]:
    """Scores of recordings, and the accuracy on their clips, called abnormal from a probability of 0.5."""
    right_clips = decided["clips"] * decided["vote"].where(decided["label"] == 1, 1 - decided["vote"])
    found = evaluation.scores(decided["label"], decided["predicted"], 2)
    return found | {"segment_accuracy": right_clips.sum() / decided["clips"].sum()}


def _mean_over_groups(decided: pd.DataFrame) -> dict[str, float]:
    return pd.DataFrame([_scores(part) for _, part in decided.groupby("group")]).mean().to_dict()


def _number(value: float) -> float | None:
    """None for NaN, which JSON does not know."""
    return None if np.isnan(value) else float(value)


def _accuracy(folds: list[experiments.Result]) -> float:
    return sum(result.scores["accuracy"] * result.test for result in folds) / sum(result.test for result in folds)


def _mean_correct(results: list[experiments.Result]) -> np.ndarray:
    """Share of seeds that got each test recording right (recordings nobody missed at the end)."""
    missed: dict[str, int] = defaultdict(int)
    for result in results:
        for recording in result.errors:
            missed[recording] += 1
    correct = np.ones(results[0].test)
    correct[: len(missed)] -= np.array(list(missed.values())) / len(results)
    return correct


def _each_test(results: list[experiments.Result]) -> tuple[np.ndarray, np.ndarray]:
    """Whether each test of a recording was right, for seeds that test different ones, and what belongs together.

    Misses of one recording in several seeds are one group. A test that was right is a group of its own, for a result
    names its misses only.
    """
    missed = [recording for result in results for recording in result.errors]
    right = sum(result.test for result in results) - len(missed)
    groups = [*missed, *(f"right {number}" for number in range(right))]
    return np.repeat([0.0, 1.0], [len(missed), right]), np.array(groups)


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows of `table` as a Markdown table, percent: a line for each recipe and a column for each protocol.

    Between two classes a line for each recipe and protocol, and a column for each score.
    """
    if rows and "scores" in rows[0]:
        return _two_class_markdown(rows)
    protocols = [protocol for protocol in get_args(Protocol) if any(row["protocol"] == protocol for row in rows)]
    heads = ["model (recipe)", "parameters", "training", *(_PROTOCOL_HEADS[protocol] for protocol in protocols), "data"]
    lines = []
    for recipe, found in groupby(rows, key=lambda row: row["recipe"]):
        by_protocol = {row["protocol"]: row for row in found}
        *_, last = by_protocol.values()
        some = by_protocol.get("official", last)  # the training times of one column are to be of one protocol
        cells = [_cell(by_protocol[protocol]) if protocol in by_protocol else "" for protocol in protocols]
        about = [f"{some['title']} (`{recipe}`)", f"{some['parameters']:,}", f"{some['seconds']:.0f} s"]
        lines.append([*about, *cells, some["source"]])
    return _markdown(heads, lines)


_PROTOCOL_HEADS = {
    "origin": "origin's split (leaky)",
    "official": "official split",
    "random": "random 90/10",
    "leave_one_speaker_out": "leave one speaker out",
    "published_list_0": "list 0, the origin's (leaky)",
    "published_lists": "lists 0-3",
    "leave_one_device_out": "leave one device out, mean of devices",
}


def _two_class_markdown(rows: list[dict[str, Any]]) -> str:
    heads = [
        "model (recipe)",
        "protocol",
        "parameters",
        "MAcc (95 % interval)",
        *_SCORE_HEADS.values(),
        "device probe",
        "seeds",
        "data",
    ]
    lines = []
    for row in sorted(rows, key=lambda row: list(_PROTOCOL_HEADS).index(row["protocol"])):
        scores = [_percent(row["scores"][name]) for name in _SCORE_HEADS]
        macc = f"{_percent(row['scores']['macc'])} ({_percent(row['low'])} to {_percent(row['high'])})"
        about = [f"{row['title']} (`{row['recipe']}`)", _PROTOCOL_HEADS[row["protocol"]], f"{row['parameters']:,}"]
        probe = _percent(row["probe"]["accuracy"] if row["probe"] else None)
        lines.append([*about, macc, *scores, probe, str(len(row["seeds"])), row["source"]])
    return _markdown(heads, lines)


def _markdown(heads: list[str], lines: list[list[str]]) -> str:
    written = [f"| {' | '.join(cells)} |" for cells in (heads, *lines)]
    return "\n".join([written[0], "|---" * len(heads) + "|", *written[1:]])


_SCORE_HEADS = {
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "f1": "F1",
    "accuracy": "accuracy",
    "segment_accuracy": "accuracy of segments",
}


def _cell(row: dict[str, Any]) -> str:
    seeds = len(row["seeds"])
    text = (
        f"{_percent(row['mean'])} ({_percent(row['low'])} to {_percent(row['high'])}), {seeds} seed{'s'[: seeds > 1]}"
    )
    if row["protocol"] == "leave_one_speaker_out":
        worst = min(row["per_group"], key=row["per_group"].get)
        text += f"; worst {worst} {_percent(row['per_group'][worst])}"
    return text


def update(file: Path, dataset: str, rows: list[dict[str, Any]]) -> None:
    """Replace what stands between `<!-- table DATASET -->` and `<!-- end -->` in a file by the Markdown table."""
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise experiments.ResultError(f"cannot read {file} to put a table in: {error}") from None
    before, start, rest = text.partition(f"<!-- table {dataset} -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if not start or not end:
        raise experiments.ResultError(f"{file} has no '<!-- table {dataset} -->' ... '<!-- end -->'; add both lines")
    try:
        write_whole(file, f"{before}{start}{markdown(rows)}\n{end}{after}".encode())
    except OSError as error:
        raise experiments.ResultError(f"cannot write the table to {file}: {error}") from error


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.1f} %"
