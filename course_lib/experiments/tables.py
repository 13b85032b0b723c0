"""Tables of the results: for people, for programs and for the results page.

Notebook: 02_spoken_digits_cnn
"""

from collections import defaultdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from course_lib import datasets, evaluation
from course_lib.datasets import Protocol
from course_lib.experiments import recipes
from course_lib.experiments.recipe import Experiment
from course_lib.experiments.result import Result, ResultError, results
from course_lib.files import write_whole

COLUMNS = (
    "recipe", "title", "dataset", "protocol", "protocol_title", "leaky", "leak", "unit", "seeds", "mean", "low", "high",
    "scores", "per_seed", "per_group", "probe", "recordings", "parameters", "seconds", "source", "note",
)  # fmt: skip


def table(folder: str, source: str = "real") -> pd.DataFrame:
    """One row for each recipe of a folder and protocol that has a complete seed: how good it is, and how sure that is.

    `mean` is the balanced accuracy, over the seeds; `low` and `high` bound its 95 % interval. Under a protocol whose
    unit is the group (speakers, devices) scores are means over the groups; under the others all test recordings of a
    seed count together. The interval is over the groups where no training side has them: Student's below 20 of them,
    else a bootstrap. Where groups are on both sides it is Wilson's, over the recordings; of three seeds or more it is
    Student's over the seeds where that is wider. `scores` has all scores, clip_accuracy among them, `per_seed` and
    `per_group` the balanced accuracies, `recordings` how many are tested in a
    seed. `leak` says why a score is too good for data that nobody has seen, `probe` how well the groups can be read
    from the features of the validation part. All are fractions; a table without rows has these columns, too.

    Notebook: 02_spoken_digits_cnn
    """
    rows = []
    for name in recipes.names(folder):
        recipe = recipes.load(name)
        for protocol in recipe.protocols:
            by_seed: dict[int, list[Result]] = defaultdict(list)
            for result in results(recipe, protocol, source, whole_seeds=True):
                by_seed[result.seed].append(result)
            if by_seed:
                stated = datasets.get(recipe.dataset).protocol(protocol)
                rows.append(_row(recipe, stated, dict(sorted(by_seed.items())), source))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(recipe: Experiment, protocol: Protocol, by_seed: dict[int, list[Result]], source: str) -> dict[str, Any]:
    every = [result for folds in by_seed.values() for result in folds]
    by_group = protocol.unit == "group"
    per_seed = pd.DataFrame([_scores(folds, by_group) for folds in by_seed.values()])
    counts = pd.concat([result.table() for result in every])
    recalls = counts.groupby(["group", "label"], sort=False)[["right", "total"]].sum().eval("right / total")
    per_group = recalls.groupby("group", sort=False).mean()
    probes = [result.probe for result in every if result.probe]
    low, high = _interval(counts, per_group, per_seed["balanced_accuracy"], by_group or not protocol.leaky)
    return {
        "recipe": recipe.name,
        "title": recipe.title,
        "dataset": recipe.dataset,
        "protocol": protocol.name,
        "protocol_title": protocol.title,
        "leaky": protocol.leaky,
        "leak": protocol.leak,
        "unit": protocol.unit,
        "seeds": list(by_seed),
        "mean": float(per_seed["balanced_accuracy"].mean()),
        "low": low,
        "high": high,
        "scores": per_seed.mean().to_dict(),
        "per_seed": per_seed["balanced_accuracy"].tolist(),
        "per_group": per_group.to_dict(),
        "probe": pd.DataFrame(probes).mean().to_dict() if probes else None,
        "recordings": sum(result.test for result in by_seed[min(by_seed)]),
        "parameters": every[0].parameters,
        "seconds": float(np.median([result.seconds for result in every])),
        "source": source,
        "note": every[0].note,
    }


def _scores(folds: list[Result], by_group: bool) -> dict[str, float]:
    """The scores of one seed: of all its test recordings together, or the means of its groups'.

    Areas under ROC are means of the folds in both: probabilities of two networks cannot be ranked together.
    """
    sizes = [fold.test for fold in folds]
    clips = [fold.rules.get("clip", fold.scores)["accuracy"] for fold in folds]
    if by_group:
        return pd.DataFrame([fold.scores for fold in folds]).mean().to_dict() | {"clip_accuracy": float(np.mean(clips))}
    confusion = np.sum([fold.confusion for fold in folds], axis=0)
    areas = [fold.scores["roc_auc"] for fold in folds if "roc_auc" in fold.scores]
    area = {"roc_auc": float(pd.Series(areas).mean())} if areas else {}
    return evaluation.scores_of_confusion(confusion) | area | {"clip_accuracy": float(np.average(clips, weights=sizes))}


def _interval(
    counts: pd.DataFrame, per_group: pd.Series, per_seed: pd.Series, over_groups: bool
) -> tuple[float, float]:
    """Over groups that are new to the model; else over the recordings, or over the seeds if that is wider.

    NaN where there is one group: nothing tells how much groups differ.
    """
    if over_groups and len(per_group) < 2:
        return np.nan, np.nan
    if over_groups and len(per_group) < evaluation.intervals.FEW_GROUPS:
        low, high = evaluation.t_interval(per_group)
        return max(low, 0.0), min(high, 1.0)
    if over_groups:
        cells = counts.groupby(["group", "label"], as_index=False)[["right", "total"]].sum()
        weights = cells["total"] / cells.groupby("label")["total"].transform("sum")
        return evaluation.bootstrap(cells["right"] / cells["total"], cells["group"], weights)
    sums = counts.groupby("label")[["right", "total"]].sum()
    recordings = (sums["total"] / len(per_seed)).round().astype(int)  # of one seed: seeds repeat much of their errors
    low, high = evaluation.interval_of_cells(sums["right"] / sums["total"], recordings)
    if len(per_seed) >= 3:
        over_seeds = evaluation.t_interval(per_seed)
        if over_seeds.high - over_seeds.low > high - low:
            low, high = max(over_seeds.low, 0.0), min(over_seeds.high, 1.0)
    return low, high


def markdown(rows: pd.DataFrame) -> str:
    """The rows of `table` as Markdown, in percent: a section for each protocol, a line for each recipe."""
    sections = []
    for title, part in groupby(sorted(rows.to_dict("records"), key=_rank), key=lambda row: row["protocol_title"]):
        lines = list(part)
        several_clips = any(line["scores"]["clip_accuracy"] != line["scores"]["accuracy"] for line in lines)
        names = [name for name in _SCORES if name in lines[0]["scores"] and (name != "clip_accuracy" or several_clips)]
        group = datasets.get(lines[0]["dataset"]).words.group
        by_group = lines[0]["unit"] == "group"
        heads = ["model (recipe)", "balanced accuracy (95 % interval)", *(_SCORES[name] for name in names)]
        heads += [f"worst {group}"] * by_group + [f"{group} probe"] * any(line["probe"] for line in lines)
        heads += ["seeds", "parameters", "training", "data"]
        cells = [heads, ["---"] * len(heads)]
        for line in lines:
            worst = min(line["per_group"], key=line["per_group"].get)
            row = [f"{line['title']} (`{line['recipe']}`)", _with_interval(line)]
            row += [_percent(line["scores"][name]) for name in names]
            row += [f"{worst} {_percent(line['per_group'][worst])}"] * by_group
            if any(other["probe"] for other in lines):
                row.append(_percent(line["probe"]["accuracy"] if line["probe"] else None))
            row += [
                str(len(line["seeds"])),
                f"{line['parameters']:,}",
                f"{line['seconds']:.0f} s",
                ", ".join(filter(None, (line["source"], line["note"]))),
            ]
            cells.append(row)
        leak = f"Too good for unseen data: {lines[0]['leak']}.\n\n" if lines[0]["leak"] else ""
        over = (
            f"the {lines[0]['recordings']:,} test recordings"
            if lines[0]["leaky"]
            else f"{len(lines[0]['per_group'])} {group}s"
        )
        protocol = datasets.get(lines[0]["dataset"]).protocol(lines[0]["protocol"])
        stated = protocol.statement if "sensitivity" in lines[0]["scores"] else protocol.scored
        head = f"**{title[:1].upper()}{title[1:]}**; intervals over {over}. {stated}\n\n{leak}"
        sections.append(head + "\n".join(f"| {' | '.join(row)} |" for row in cells))
    return "\n\n".join(sections)


def _rank(row: dict[str, Any]) -> tuple[str, int, float]:
    """Protocols in the order of their data set, and the best recipe first."""
    protocols = [protocol.name for protocol in datasets.get(row["dataset"]).protocols]
    order = protocols.index(row["protocol"]) if row["protocol"] in protocols else len(protocols)
    return row["dataset"], order, -row["mean"]


_SCORES = {
    "roc_auc": "area under ROC",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "f1": "F1",
    "clip_accuracy": "accuracy of clips",
}


def update(file: Path, folder: str, rows: pd.DataFrame) -> None:
    """Replace what stands between `<!-- table FOLDER -->` and `<!-- end -->` in a file by the Markdown table."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ResultError(f"cannot read {file} to put a table in: {error}") from None
    before, start, rest = text.partition(f"<!-- table {folder} -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if not start or not end:
        raise ResultError(f"{file} has no '<!-- table {folder} -->' ... '<!-- end -->'; add both lines")
    try:
        write_whole(file, f"{before}{start}{markdown(rows)}\n{end}{after}".encode())
    except OSError as error:
        raise ResultError(f"cannot write the table to {file}: {error}") from error


def _with_interval(row: dict[str, Any]) -> str:
    if np.isnan(row["low"]):
        return _percent(row["mean"])
    return f"{_percent(row['mean'])} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


def _percent(fraction: float | None) -> str:
    return "" if fraction is None or np.isnan(fraction) else f"{100 * fraction:.1f} %"
