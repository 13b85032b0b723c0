"""Tables of the kept results: for people, for programs and for the README."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from course_lib import evaluation, experiments, recipes
from course_lib.recipes import Recipe


def table(dataset: str, source: str = "real") -> list[dict[str, Any]]:
    """One row a recipe and protocol that has a complete seed: accuracy as the mean over seeds, and how sure it is.

    `low` and `high` bound a 95 % bootstrap interval of that mean: over the test recordings for official, over the
    speakers for leave_one_speaker_out. All accuracies are fractions.

    Notebook: 02_spoken_digits_cnn
    """
    names = recipes.names(dataset)
    if not names:
        known = sorted({path.parent.name for path in recipes.FOLDER.glob("*/*.yaml")})
        raise recipes.RecipeError(f"there are no recipes for {dataset!r}; known: {', '.join(known)}")
    rows = []
    for name in names:
        recipe = recipes.load(name)
        for protocol in recipe.protocols:
            by_seed: dict[int, list[experiments.Result]] = defaultdict(list)
            for result in experiments.results(recipe, protocol, source):
                by_seed[result.seed].append(result)
            complete = {seed: folds for seed, folds in by_seed.items() if len(folds) == folds[0].folds}
            if complete:
                rows.append(_row(recipe, protocol, source, complete))
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
    else:
        low, high = evaluation.interval(_mean_correct(every))
    return {
        "recipe": recipe.name,
        "title": recipe.title,
        "protocol": protocol,
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


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows of `table` as a Markdown table, accuracies in percent."""
    lines = [
        "| recipe | protocol | accuracy (95 % interval) | seeds | worst speaker | parameters | training | data |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        worst = min(row["per_group"], key=row["per_group"].get)
        lines.append(
            f"| {row['title']} (`{row['recipe']}`) | {row['protocol'].replace('_', ' ')} "
            f"| {_percent(row['mean'])} ({_percent(row['low'])} to {_percent(row['high'])}) | {len(row['seeds'])} "
            f"| {worst} {_percent(row['per_group'][worst])} | {row['parameters']:,} "
            f"| {row['seconds']:.0f} s | {row['source']} |"
        )
    return "\n".join(lines)


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
    file.write_text(f"{before}{start}{markdown(rows)}\n{end}{after}")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"
