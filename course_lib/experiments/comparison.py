"""Recipes compared with a control on groups that were left out, in pairs: the same group, the same seed.

Notebook: 06_adversarial_devices
"""

import math
from collections.abc import Collection, Sequence

import pandas as pd

from course_lib import evaluation
from course_lib.experiments import recipes
from course_lib.experiments.recipe import Ensemble, Experiment, Recipe
from course_lib.experiments.result import ResultError, decisions, results

MEASURES = ("roc_auc", "balanced_accuracy", "known")


def scores_by_group(recipe: Experiment, protocol: str, source: str = "real") -> pd.DataFrame:
    """The scores of a recipe on each group that was left out: a row for each fold, group and seed, which are its index.

    Columns: roc_auc, balanced_accuracy (with the threshold of the result, which the protocol's rule has chosen on
    held-out recordings of the other groups) and known, the mean of the other groups' balanced accuracies on these same
    held-out recordings: the price of a method on groups that it knows. The threshold was chosen there, so that `known`
    is a little too good for every recipe. Fractions; NaN where a class is missing. Of seeds with every fold.

    Notebook: 06_adversarial_devices
    """
    rows = []
    for result in results(recipe, protocol, source, whole_seeds=True):
        known = math.nan
        if result.validation:
            known = _by_group(decisions(result, "validation"))["balanced_accuracy"].mean()
        tested = _by_group(decisions(result)).assign(known=known, fold=result.fold, seed=result.seed)
        rows.append(tested.reset_index())
    if not rows:
        return pd.DataFrame(columns=[*MEASURES], index=pd.MultiIndex.from_arrays([[]] * 3, names=_INDEX), dtype=float)
    return pd.concat(rows).set_index(_INDEX)[[*MEASURES]].astype(float).sort_index()


def compared(
    names: Sequence[str], control: str, protocol: str, without: Collection[str] = (), source: str = "real"
) -> pd.DataFrame:
    """What each recipe gains over a control on groups that were left out: a row each, the control first.

    The columns are title, note, seeds and groups (how many), and for each measure of `scores_by_group` its mean over
    the groups, named after it, and the mean difference to the control with its 95 % interval, as `MEASURE_gain`,
    `MEASURE_low` and `MEASURE_high`. Only seeds that both have count, each group is the mean of its seeds, and the
    interval is Student's over the groups. What draws nothing at random, a baseline, stands beside every seed. Groups in
    `without` are left out. Recipes without a complete seed in common with the control are not in the table. Raises
    ResultError where the control has none.

    Notebook: 06_adversarial_devices
    """
    base = scores_by_group(recipes.load(control), protocol, source)
    if base.empty:
        raise ResultError(f"{control} has no complete seed under {protocol} to compare with; run it")
    rows = {}
    for name in [control, *(name for name in names if name != control)]:
        recipe = recipes.load(name)
        own = scores_by_group(recipe, protocol, source)
        own, other = (scores[~scores.index.isin(without, level="group")] for scores in (own, base))
        seeds = None
        if not isinstance(recipe, (Recipe, Ensemble)) and len(own):
            seeds = own.index.get_level_values("seed").nunique()
            alike = own.groupby(level=["fold", "group"]).mean()
            own = alike.reindex(other.index.droplevel("seed")).set_axis(other.index).dropna(how="all")
        shared = own.index.intersection(other.index)
        if len(shared):
            rows[name] = _row(own.loc[shared], other.loc[shared], is_control=name == control)
            rows[name] |= {"title": recipe.title, "note": recipe.note, "seeds": seeds or rows[name]["seeds"]}
    columns = ["title", "note", "seeds", "groups"]
    columns += [measure + suffix for measure in MEASURES for suffix in ("", "_gain", "_low", "_high")]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("recipe")


def _row(own: pd.DataFrame, other: pd.DataFrame, is_control: bool) -> dict[str, float]:
    of_group, gains = (scores.groupby(level="group").mean() for scores in (own, own - other))
    row = {"seeds": own.index.get_level_values("seed").nunique(), "groups": len(of_group)}
    for measure in MEASURES:
        row[measure] = of_group[measure].mean()
        gain = gains[measure].dropna()
        if not is_control and len(gain) > 1:
            low, high = evaluation.t_interval(gain)
            row |= {f"{measure}_gain": gain.mean(), f"{measure}_low": low, f"{measure}_high": high}
    return row


def _by_group(decided: pd.DataFrame) -> pd.DataFrame:
    """Area under the ROC curve and balanced accuracy of each group, NaN where one of the two classes is missing."""
    rows = {}
    for group, part in decided.groupby("group"):
        right, both = part["predicted"] == part["label"], part["label"].nunique() == 2
        balanced = evaluation.mean_of_cells(right, part["label"]) if both else math.nan
        area = evaluation.roc_auc(part["label"], part["probability"])
        rows[group] = {"roc_auc": area, "balanced_accuracy": balanced}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("group")


_INDEX = ["fold", "group", "seed"]
