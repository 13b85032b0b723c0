"""The tables of left-out devices on the results page are those that the kept predictions give."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from course_lib import environment, evaluation, experiments
from course_lib.datasets import physionet2016
from course_lib.evaluation.left_out import RULES

PAGE = environment.CHECKOUT / "results" / "README.md"
BY_RULE = ("lean_learnable_16", "lean_adversarial_16", "lean_static_16", "log_mel_cnn")

WORDS = {
    "e, class 0": "*e*, normal alone (MLT201/Piezo)",
    "e, class 1": "*e*, abnormal alone (Littmann)",
    "mean of groups": "**mean of devices**",
    "mean without": "mean without *e*",
    "all recordings": "all recordings together",
    "all without": "all without *e*",
}


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURSE_RESULTS", str(environment.CHECKOUT / "results"))


def decisions(name: str, protocol: str, part: str = "test") -> list[pd.DataFrame]:
    found = experiments.results(experiments.load(f"physionet2016/{name}"), protocol, whole_seeds=True)
    return [experiments.decisions(result, part) for result in found]


def percent(value: float, signed: bool = False) -> str:
    return "" if np.isnan(value) else f"{100 * value:{'+' if signed else ''}.1f}"


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def rules() -> list[str]:
    """A line for each rule, a cell for each network: the mean of the devices and its interval."""
    means = {}
    for name in BY_RULE:
        pairs = zip(*(decisions(name, "leave_one_device_out", part) for part in ("validation", "test")), strict=True)
        means[name] = evaluation.mean_of_groups(evaluation.scores_by_rule(pairs))
    rows = [[means[name].loc[rule] for name in BY_RULE] for rule in RULES]
    return [
        line(rule, *(f"{percent(row['mean'])} ({percent(row['low'])} to {percent(row['high'])})" for row in cells))
        for rule, cells in zip(RULES, rows, strict=True)
    ]


def by_device(name: str, protocol: str) -> list[pd.DataFrame]:
    """Decisions by the device-balanced threshold, whatever the rule of the protocol."""
    decided = []
    for held_out, tested in zip(decisions(name, protocol, "validation"), decisions(name, protocol), strict=True):
        threshold = evaluation.best_threshold(held_out["label"], held_out["probability"], held_out["group"])
        decided.append(tested.assign(predicted=(tested["probability"] >= threshold).astype(int)))
    return decided


def gap(name: str) -> list[str]:
    """A line for each device and for the means: recordings, balanced accuracy and area, seen and unseen."""
    sides = [by_device(name, protocol) for protocol in ("published_lists", "leave_one_device_out")]
    table = evaluation.seen_and_unseen(*sides, physionet2016.CONFOUNDED)
    lines = []
    for group, row in table.iterrows():
        cells = [f"{row[f'{side}_recordings']:,.0f}" for side in ("seen", "unseen")]
        for column in ("seen", "unseen", "difference", "seen_auc", "unseen_auc", "difference_auc"):
            signed = column.startswith("difference")
            cells.append(percent(row[column], signed))
            if str(group).startswith("mean"):
                cells[-1] += " ({} to {})".format(*(percent(row[f"{column}_{end}"], signed) for end in ("low", "high")))
        lines.append(line(WORDS.get(group, f"*{group}*"), *cells))
    return lines


def test_the_page_has_the_scores_by_rule() -> None:
    expected = rules()
    assert [row for row in expected if row not in PAGE.read_text()] == [], "\n".join(["put there:", *expected])


def test_the_page_has_the_scores_of_known_and_left_out_devices_side_by_side() -> None:
    assert physionet2016.DEVICES["e"] == ("MLT201/Piezo", "3M Littmann")
    expected = gap("log_mel_cnn")
    assert [row for row in expected if row not in PAGE.read_text()] == [], "\n".join(["put there:", *expected])


def test_the_page_has_the_gains_on_new_devices() -> None:
    control, protocol = "physionet2016/adversary_0", "leave_one_device_out"
    rows = re.findall(r"^\| [^|]* \(`(\w+)`\) \| (.*?) \|$", PAGE.read_text().partition("**What helps")[2], re.M)
    names = [f"physionet2016/{name}" for name, _ in rows]
    six, five = (
        experiments.compared(names, control, protocol, without=each) for each in ((), physionet2016.CONFOUNDED)
    )
    assert len(rows) == len(six) > 10
    for (_, shown), name in zip(rows[1:], names[1:], strict=True):
        gains = [
            "{:+.1f} ({:+.1f} to {:+.1f})".format(
                *(100 * table[f"{measure}_{end}"][name] for end in ("gain", "low", "high"))
            )
            for table, measure in ((six, "roc_auc"), (five, "roc_auc"), (six, "balanced_accuracy"))
        ]
        area, balanced = percent(six["roc_auc"][name]), percent(six["balanced_accuracy"][name])
        expected = [f"{six['seeds'][name]}", area, gains[0], gains[1], balanced, gains[2]]
        assert shown.split(" | ")[:6] == expected, name
