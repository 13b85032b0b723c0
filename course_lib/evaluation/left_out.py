"""Groups that a network was not trained on: how they score beside known ones, and what the rule of the threshold does.

Tables of decisions are those of `experiments.decisions`: a row for each recording of a run, with its label (0 or 1),
its group, its probability (of class 1) and the predicted class.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from course_lib.evaluation.decisions import best_threshold
from course_lib.evaluation.intervals import interval_of_cells, mean_of_cells, t_interval
from course_lib.evaluation.metrics import roc_auc

RULES = ("highest pooled score", "one half", "highest mean of groups", "own median", "area under ROC")


def scores_by_rule(runs: Iterable[tuple[pd.DataFrame, pd.DataFrame]]) -> pd.DataFrame:
    """Balanced accuracy on each left-out group by four rules for one threshold, and the area under the ROC curve.

    A run is a pair of tables of decisions: of held-out recordings of the training side, and of a left-out group. The
    threshold has the highest balanced accuracy of all held-out recordings together, is one half, has the highest mean
    over the groups of the held-out recordings, or is the median of the left-out group's own probabilities, above which
    its recordings are of class 1: that rule uses its sound, but no label. A row for each group, the mean of its runs
    (seeds); a column for each of `RULES`. NaN where a group lacks a class.

    Notebook: 06_adversarial_devices
    """
    rows = []
    for held_out, tested in runs:
        labels, probabilities = held_out["label"], held_out["probability"]
        pooled = best_threshold(labels, probabilities)
        by_group = best_threshold(labels, probabilities, held_out["group"])
        for group, part in tested.groupby("group"):
            own = part["probability"]
            called = [own >= pooled, own >= 0.5, own >= by_group, own > own.median()]
            scores = [_balanced_accuracy(part["label"], positive) for positive in called]
            rows.append((group, *scores, roc_auc(part["label"], own)))
    return pd.DataFrame(rows, columns=["group", *RULES]).groupby("group").mean()


def mean_of_groups(scores: pd.DataFrame) -> pd.DataFrame:
    """The mean of each column over the groups (rows), and the ends of Student's 95 % interval: columns mean, low, high.

    Groups without a score are left out. The interval is NaN for one group.

    Notebook: 06_adversarial_devices
    """
    rows = {}
    for name, column in scores.items():
        values = column.dropna()
        low, high = t_interval(values) if len(values) > 1 else (np.nan, np.nan)
        rows[name] = (values.mean(), low, high)
    return pd.DataFrame.from_dict(rows, orient="index", columns=["mean", "low", "high"])


def seen_and_unseen(
    seen: Sequence[pd.DataFrame], unseen: Sequence[pd.DataFrame], confounded: Collection[str] = ()
) -> pd.DataFrame:
    """One metric on both sides of the gap: each group's scores with it in the training, and with it left out.

    `seen` and `unseen` have the decisions of each run. A row for each group, then "mean of groups", "mean without" the
    `confounded` ones, "all recordings" and "all without" those. In a confounded group the class can be read from
    something else, such as a second device, so that its score measures that: its two further rows, "GROUP, class 0" and
    "GROUP, class 1", have the recall of each class, and show whether one of them is guessed.

    Columns: seen_recordings and unseen_recordings (how many, each counted once, whatever the number of seeds); seen,
    unseen and difference (unseen - seen) for balanced accuracy; seen_auc, unseen_auc and difference_auc for the area
    under the ROC curve; and the ends of 95 % intervals, such as seen_low and seen_auc_high: over the recordings for
    single groups and for all recordings, Student's over the groups for means. NaN where there is none.

    Pairs of recordings are ranked within a run only: the probabilities of two networks are no common scale. So there is
    no area for all recordings together where each run tested another group.

    Notebook: 06_adversarial_devices
    """
    sides = {"seen": pd.concat(seen, keys=range(len(seen))), "unseen": pd.concat(unseen, keys=range(len(unseen)))}
    groups = sorted(set(sides["seen"]["group"]) & set(sides["unseen"]["group"]))
    sides = {side: every[every["group"].isin(groups)] for side, every in sides.items()}
    rows, of_group = {}, {}
    for group in groups:
        own = {side: every[every["group"] == group] for side, every in sides.items()}
        of_group[group] = rows[group] = _both_sides(own)
        if group in confounded:
            rows |= {
                f"{group}, class {label}": _both_sides(
                    {side: part[part["label"] == label] for side, part in own.items()}
                )
                for label in (0, 1)
            }
    every_group = pd.DataFrame(of_group).T
    counts = [f"{side}_recordings" for side in sides]
    scores = every_group[[f"{side}{what}" for what in ("", "_auc") for side in (*sides, "difference")]]
    for name, part in (
        ("mean of groups", scores),
        ("mean without", scores.drop(index=list(confounded), errors="ignore")),
    ):
        rows[name] = every_group.loc[part.index, counts].sum().to_dict()
        for column, (mean, low, high) in mean_of_groups(part).iterrows():
            rows[name] |= {column: mean, f"{column}_low": low, f"{column}_high": high}
    rows["all recordings"] = _both_sides(sides)
    others = {side: every[~every["group"].isin(list(confounded))] for side, every in sides.items()}
    rows["all without"] = _both_sides(others)
    order = [f"{column}{end}" for column in scores for end in ("", "_low", "_high")]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=[*counts, *order])
    return table.astype(dict.fromkeys(counts, int)).rename_axis("group")


def _both_sides(sides: Mapping[str, pd.DataFrame]) -> dict[str, float]:
    """The scores of some recordings, seen and unseen, from tables of decisions by run and recording."""
    row: dict[str, float] = {}
    for side, every in sides.items():
        right = (every["predicted"] == every["label"]).groupby(level=1).mean()  # of a recording, over its seeds
        labels = every["label"].groupby(level=1).first()
        row[f"{side}_recordings"] = len(labels)
        row[side] = mean_of_cells(right, labels)
        of_class = right.groupby(labels).agg(["mean", "size"])
        row[f"{side}_low"], row[f"{side}_high"] = interval_of_cells(of_class["mean"], of_class["size"])
        row[f"{side}_auc"] = _area([run for _, run in every.groupby(level=0)])
    mixed = {side: every.groupby(level=0)["group"].nunique().max() > 1 for side, every in sides.items()}
    if mixed["seen"] != mixed["unseen"]:
        row |= {f"{side}_auc": np.nan for side, several in mixed.items() if not several}
    for what in ("", "_auc"):
        row[f"difference{what}"] = row[f"unseen{what}"] - row[f"seen{what}"]
    return row


def _balanced_accuracy(labels: pd.Series, positive: pd.Series) -> float:
    if labels.nunique() < 2:
        return np.nan
    return mean_of_cells(positive.astype(int) == labels, labels)


def _area(runs: Sequence[pd.DataFrame]) -> float:
    """The share of pairs of both classes in the right order, of pairs within a run; NaN without such a pair."""
    pairs = [int((run["label"] == 1).sum()) * int((run["label"] == 0).sum()) for run in runs]
    areas = [roc_auc(run["label"], run["probability"]) for run in runs]
    return float(np.average(np.nan_to_num(areas), weights=pairs)) if sum(pairs) else np.nan
