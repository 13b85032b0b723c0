"""The tables say of the kept results what a calculation by hand says."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from course_lib import evaluation, experiments, recipes, tables
from course_lib.__main__ import main
from course_lib.experiments import Result, ResultError
from course_lib.experiments.recipe import RecipeError

FORM = {
    "title": "Toy network",
    "dataset": "fsdd",
    "protocols": {"official": 5, "random": 5, "leave_one_speaker_out": 2, "origin": 2},
    "clip": {"seconds": 0.1},
    "model": {"name": "SpectrogramCNN"},
}


@pytest.fixture(autouse=True)
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only recipes there are: `fsdd/toy`, `fsdd/small`, and `fsdd/idle`, which is never run."""
    folder = tmp_path / "recipes"
    (folder / "fsdd").mkdir(parents=True)
    for name in ("toy", "small", "idle"):
        (folder / "fsdd" / f"{name}.yaml").write_text(yaml.safe_dump(FORM, sort_keys=False))
    monkeypatch.setattr(recipes, "FOLDER", folder)
    return folder


def keep(
    protocol: str,
    seed: int,
    right: dict[str, list[bool]],
    fold: str = "official",
    folds: int = 1,
    source: str = "real",
    name: str = "fsdd/toy",
    **changes: Any,
) -> Result:
    """Keep a result in which each recording of each speaker was right or not."""
    recipe = recipes.load(name)
    errors = {f"{speaker}{i}": "0" for speaker, marks in right.items() for i, mark in enumerate(marks) if not mark}
    tested = sum(map(len, right.values()))
    form = {
        "recipe": recipe.name,
        "recipe_hash": recipe.hash,
        "form": recipe.model_dump(mode="json"),
        "protocol": protocol,
        "fold": fold,
        "folds": folds,
        "seed": seed,
        "source": source,
        "fingerprint": "0",
        "train": 10,
        "validation": 0,
        "test": tested,
        "scores": {"accuracy": 1 - len(errors) / tested},
        "per_class": {},
        "per_group": {speaker: sum(marks) / len(marks) for speaker, marks in right.items()},
        "group_sizes": {speaker: len(marks) for speaker, marks in right.items()},
        "errors": errors,
        "confusion": [[tested - len(errors), len(errors)], [0, 0]],
        "parameters": 84_682,
        "kept_epoch": 30,
        "seconds": 12.0 + seed,
        "device": "cpu",
        "precision": "32-true",
        "threads": 1,
        "versions": {},
    }
    result = Result(**(form | changes))
    experiments.write_json(result.path, asdict(result))
    return result


def keep_two_official() -> None:
    keep("official", 0, {"ann": [False, True], "bob": [True, True]})
    keep("official", 1, {"ann": [False, True], "bob": [False, True]})


def keep_left_out(seed: int) -> None:
    keep("leave_one_speaker_out", seed, {"ann": [True, True, False, False]}, "ann", 2)
    keep("leave_one_speaker_out", seed, {"bob": [True] * 6}, "bob", 2)


def test_there_is_no_row_without_results() -> None:
    assert tables.table("fsdd") == []
    assert len(tables.markdown([]).splitlines()) == 2


def test_the_official_row_by_hand() -> None:
    keep_two_official()
    (row,) = tables.table("fsdd")
    assert row == {
        "recipe": "fsdd/toy",
        "title": "Toy network",
        "protocol": "official",
        "leaky": False,
        "seeds": [0, 1],
        "mean": pytest.approx((3 / 4 + 2 / 4) / 2),
        "per_seed": [0.75, 0.5],
        # Recordings right in 0, 1, 2 and 2 of 2 seeds. Of four draws, 5 in 256 have fewer than 2 seeds right
        # altogether, and one in 16 has all 8.
        "low": 2 / 8,
        "high": 1.0,
        "per_group": pytest.approx({"ann": 0.5, "bob": 0.75}),
        "parameters": 84_682,
        "seconds": 12.5,
        "source": "real",
    }
    assert (row["low"], row["high"]) == evaluation.interval([0, 0.5, 1, 1])


def test_the_row_of_leaving_one_speaker_out_by_hand() -> None:
    keep_left_out(0)
    (row,) = tables.table("fsdd")
    assert (row["protocol"], row["seeds"]) == ("leave_one_speaker_out", [0])
    assert row["mean"] == pytest.approx(8 / 10)
    assert row["per_seed"] == pytest.approx([0.8])
    assert row["per_group"] == {"ann": 0.5, "bob": 1.0}
    # Two speakers are drawn: twice ann in a quarter of the cases, twice bob in another.
    assert (row["low"], row["high"]) == pytest.approx((0.5, 1.0))


def test_the_seeds_of_a_speaker_are_averaged() -> None:
    keep("leave_one_speaker_out", 0, {"ann": [True, False]}, "ann", 2)
    keep("leave_one_speaker_out", 0, {"bob": [True, True]}, "bob", 2)
    keep("leave_one_speaker_out", 1, {"ann": [True, True]}, "ann", 2)
    keep("leave_one_speaker_out", 1, {"bob": [False, False]}, "bob", 2)
    (row,) = tables.table("fsdd")
    assert row["seeds"] == [0, 1] and row["per_seed"] == pytest.approx([0.75, 0.5])
    assert row["mean"] == pytest.approx(0.625)
    assert row["per_group"] == {"ann": 0.75, "bob": 0.5}
    assert (row["low"], row["high"]) == pytest.approx((0.5, 0.75))


def test_a_seed_with_missing_folds_is_left_out() -> None:
    keep_left_out(0)
    keep("leave_one_speaker_out", 1, {"ann": [False] * 4}, "ann", 2)
    (row,) = tables.table("fsdd")
    assert row["seeds"] == [0] and row["mean"] == pytest.approx(0.8)
    keep("leave_one_speaker_out", 1, {"bob": [False] * 6}, "bob", 2)
    assert tables.table("fsdd")[0]["seeds"] == [0, 1]


def test_only_incomplete_seeds_make_no_row() -> None:
    keep("leave_one_speaker_out", 0, {"ann": [True]}, "ann", 2)
    assert tables.table("fsdd") == []


def test_results_of_another_version_of_the_recipe_are_left_out() -> None:
    keep("official", 0, {"ann": [True]})
    keep("official", 1, {"ann": [False]}, recipe_hash="00000000")
    (row,) = tables.table("fsdd")
    assert row["seeds"] == [0] and row["mean"] == 1


def test_stand_in_results_have_a_table_of_their_own() -> None:
    keep("official", 0, {"ann": [True]}, source="stand-in")
    assert tables.table("fsdd") == []
    (row,) = tables.table("fsdd", source="stand-in")
    assert row["source"] == "stand-in"


def test_the_rows_follow_recipes_and_protocols() -> None:
    keep_left_out(0)
    keep_two_official()
    assert [(row["recipe"], row["protocol"]) for row in tables.table("fsdd")] == [
        ("fsdd/toy", "official"),
        ("fsdd/toy", "leave_one_speaker_out"),
    ]


def keep_random(protocol: str = "random") -> None:
    """Two seeds that test three recordings each, of which ann0 is missed in both."""
    keep(protocol, 0, {"ann": [False, True, True]}, fold=protocol)
    keep(protocol, 1, {"ann": [False], "bob": [False, True]}, fold=protocol)


@pytest.mark.parametrize("protocol", ["random", "origin"])
def test_the_row_of_a_random_split_by_hand(protocol: str) -> None:
    keep_random(protocol)
    (row,) = tables.table("fsdd")
    assert (row["protocol"], row["seeds"]) == (protocol, [0, 1])
    assert row["mean"] == pytest.approx(1 / 2) and row["per_seed"] == pytest.approx([2 / 3, 1 / 3])
    # Five groups: ann0 twice wrong, bob0 once wrong, three tests that were right. Of five draws, `twice` are the
    # first and `once` the second; the bounds are where the shares of all 5^5 outcomes pass 2.5 and 97.5 %.
    shares: dict[float, float] = defaultdict(float)
    for twice in range(6):
        for once in range(6 - twice):
            right = 5 - twice - once
            ways = math.comb(5, twice) * math.comb(5 - twice, once) * 3**right
            shares[right / (2 * twice + once + right)] += ways / 5**5
    passed = np.cumsum([shares[mean] for mean in sorted(shares)])
    assert np.abs(passed - 0.025).min() > 0.008 and np.abs(passed - 0.975).min() > 0.008  # no close call
    low, high = (sorted(shares)[np.searchsorted(passed, level)] for level in (0.025, 0.975))
    assert (row["low"], row["high"]) == pytest.approx((low, high))


def test_misses_of_one_recording_leave_more_doubt_than_those_of_two() -> None:
    found = []
    for missed in (["ann"] * 4, ["ann", "bob", "cleo", "dora"]):
        for seed, name in enumerate(missed):
            keep("random", seed, {name: [False] + [True] * 9}, fold="random")
        found += tables.table("fsdd")
    together, apart = found
    assert together["mean"] == apart["mean"] == pytest.approx(0.9)
    assert together["low"] < apart["low"] - 0.03 and apart["high"] < together["high"] == 1


def test_seeds_without_a_miss_leave_no_doubt() -> None:
    keep("random", 0, {"ann": [True] * 4}, fold="random")
    (row,) = tables.table("fsdd")
    assert (row["mean"], row["low"], row["high"]) == (1, 1, 1)


def test_markdown_has_a_line_a_recipe_and_a_column_a_protocol() -> None:
    keep_left_out(0)
    keep_two_official()
    keep("random", 0, {"ann": [True] * 4}, fold="random", name="fsdd/small", parameters=7, seconds=3.4)
    assert tables.markdown(tables.table("fsdd")).splitlines() == [
        "| model (recipe) | parameters | training | official split | random 90/10 | leave one speaker out | data |",
        "|---|---|---|---|---|---|---|",
        "| Toy network (`fsdd/small`) | 7 | 3 s |  | 100.0 % (100.0 % to 100.0 %), 1 seed |  | real |",
        "| Toy network (`fsdd/toy`) | 84,682 | 12 s | 62.5 % (25.0 % to 100.0 %), 2 seeds |  "
        "| 80.0 % (50.0 % to 100.0 %), 1 seed; worst ann 50.0 % | real |",
    ]


def test_the_columns_have_an_order_of_their_own_and_origin_is_called_leaky() -> None:
    for protocol in ("random", "origin"):
        keep_random(protocol)
    head = tables.markdown(tables.table("fsdd")).splitlines()[0]
    assert head == "| model (recipe) | parameters | training | origin's split (leaky) | random 90/10 | data |"


def test_update_replaces_what_stands_between_the_markers(tmp_path: Path) -> None:
    keep_two_official()
    file, rows = tmp_path / "README.md", tables.table("fsdd")
    file.write_text("Above\n<!-- table fsdd -->\nold\n<!-- end -->\nBelow\n<!-- table other -->\n<!-- end -->\n")
    tables.update(file, "fsdd", rows)
    expected = f"Above\n<!-- table fsdd -->\n{tables.markdown(rows)}\n<!-- end -->\nBelow\n"
    expected += "<!-- table other -->\n<!-- end -->\n"
    assert file.read_text() == expected
    tables.update(file, "fsdd", rows)
    assert file.read_text() == expected


@pytest.mark.parametrize(
    "text", ["", "<!-- table fsdd -->\nno end", "<!-- end -->\n", "<!-- table x -->\n<!-- end -->"]
)
def test_a_file_without_markers_is_refused_and_left_alone(text: str, tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text(text)
    with pytest.raises(ResultError, match=r"README\.md has no '<!-- table fsdd -->'"):
        tables.update(file, "fsdd", [])
    assert file.read_text() == text


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"README\.md"):
        tables.update(tmp_path / "README.md", "fsdd", [])


def test_a_data_set_without_recipes_is_answered_with_the_others() -> None:
    with pytest.raises(RecipeError, match="no recipes for 'bats'; known: fsdd"):
        tables.table("bats")


def test_a_damaged_result_is_named_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    keep_two_official()
    keep("official", 1, {"ann": [True]}).path.write_text("{")
    (row,) = tables.table("fsdd")
    assert row["seeds"] == [0]
    (warning,) = caplog.records
    assert "official-seed1.json is damaged" in warning.getMessage()


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_damaged_result_makes_the_command_line_fail_behind_the_rest_of_the_table(
    form: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep_two_official()
    keep_random()
    broken = keep("random", 1, {"ann": [True]}, fold="random").path
    broken.write_text("{")
    assert main(["table", "fsdd", *form]) == 1
    printed = capsys.readouterr().out
    assert "official" in printed and "random" in printed and "Toy network" in printed
    if form:
        assert [row["seeds"] for row in json.loads(printed)] == [[0, 1], [0]]
    file = tmp_path / "README.md"
    file.write_text("<!-- table fsdd -->\nold\n<!-- end -->\n")
    assert main(["table", "fsdd", "--update", str(file)]) == 1
    assert file.read_text() == "<!-- table fsdd -->\nold\n<!-- end -->\n"
    broken.unlink()
    assert main(["table", "fsdd", "--update", str(file)]) == 0
    assert "62.5 %" in file.read_text()


def test_the_command_line_writes_json(capsys: pytest.CaptureFixture[str]) -> None:
    keep_two_official()
    assert main(["table", "fsdd", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row.keys() >= {"recipe", "protocol", "seeds", "mean", "low", "high", "per_group", "source"}
    assert row == tables.table("fsdd")[0]


def test_the_command_line_writes_an_empty_list_without_results(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", "fsdd", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_the_command_line_writes_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    keep("official", 0, {"ann": [True]}, source="stand-in")
    assert main(["table", "fsdd"]) == 0
    assert "fsdd/toy" not in capsys.readouterr().out
    assert main(["table", "fsdd", "--stand-in"]) == 0
    assert "| stand-in |" in capsys.readouterr().out


def test_the_command_line_updates_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep_two_official()
    file = tmp_path / "README.md"
    file.write_text("<!-- table fsdd -->\n<!-- end -->\n")
    assert main(["table", "fsdd", "--update", str(file)]) == 0
    assert "62.5 %" in file.read_text()
    file.write_text("no markers")
    assert main(["table", "fsdd", "--update", str(file)]) == 1
    assert capsys.readouterr().err.startswith("ResultError: ")
