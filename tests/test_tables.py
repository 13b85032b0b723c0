"""The tables say of the results what a calculation by hand says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from toys import FORM, write_recipe

from course_lib import evaluation
from course_lib.__main__ import main
from course_lib.experiments import RecipeError, Result, ResultError, recipes
from course_lib.experiments import result as files
from course_lib.experiments.tables import COLUMNS, markdown, table, update

PROTOCOLS = {"official": 5, "random": 5, "leave_one_speaker_out": 2, "original_paper": 2}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only recipes there are: `fsdd/toy`, `fsdd/small`, and `fsdd/idle`, which is never run."""
    for name in ("toy", "small", "idle"):
        write_recipe(tmp_path / "recipes" / "fsdd" / f"{name}.yaml", FORM, protocols=PROTOCOLS, title="Toy network")
    monkeypatch.setattr(recipes, "FOLDER", tmp_path / "recipes")
    return tmp_path / "recipes" / "fsdd"


def put(
    protocol: str, seed: int, right: dict[str, list[int]], fold: str | None = None, folds: int = 1, **changes: Any
) -> Result:
    """A result in which recordings of digits 0 and 1, in turn, of each speaker were right (1) or not (0)."""
    recipe = recipes.load(changes.pop("name", "fsdd/toy"))
    confusion, counts, errors = np.zeros((10, 10), int), {}, {}
    for speaker, marks in right.items():
        for number, mark in enumerate(marks):
            label = number % 2
            confusion[label, label if mark else 9] += 1
            total = counts.setdefault(speaker, {}).setdefault(str(label), [0, 0])
            total[0], total[1] = total[0] + 1, total[1] + mark
            errors |= {} if mark else {f"{speaker}{number}": "9"}
    form = {
        "recipe": recipe.name, "recipe_hash": recipe.hash, "form": recipe.model_dump(mode="json"),
        "protocol": protocol, "fold": fold or protocol, "folds": folds, "seed": seed, "source": "real",
        "fingerprint": "0" * 16, "split": "1" * 16, "predictions": "", "train": 10, "validation": 0,
        "test": int(confusion.sum()), "scores": evaluation.scores_of_confusion(confusion), "counts": counts,
        "errors": errors, "confusion": confusion.tolist(), "parameters": 84_682, "kept_epoch": 30,
        "seconds": 12.0 + seed, "device": "cpu", "precision": "32-true", "threads": 1, "versions": {},
    }  # fmt: skip
    empty = pd.DataFrame(np.empty((0, 10)))
    about = pd.DataFrame({"label": [], "group": []})
    return files.write(Result(**(form | changes)), {"test": empty, "validation": empty}, about)


def put_two_official() -> None:
    put("official", 0, {"ann": [0, 1, 1, 1], "bob": [1, 1, 1, 1]})
    put("official", 1, {"ann": [0, 1, 1, 1], "bob": [0, 1, 0, 1]})


def put_left_out(seed: int = 0) -> None:
    put("leave_one_speaker_out", seed, {"ann": [1, 1, 0, 0]}, "ann", 3)
    put("leave_one_speaker_out", seed, {"bob": [1] * 6}, "bob", 3)
    put("leave_one_speaker_out", seed, {"cleo": [1, 0, 1, 0, 1, 1]}, "cleo", 3)


# Rows


def test_there_is_no_row_without_results() -> None:
    assert table("fsdd").empty and list(table("fsdd").columns) == list(COLUMNS)
    assert markdown(table("fsdd")) == ""


def test_the_row_of_a_split_by_recordings_by_hand() -> None:
    put_two_official()
    (row,) = table("fsdd").to_dict("records")
    per_seed = [(3 / 4 + 1) / 2, (1 / 4 + 1) / 2]  # of digit 0 (every other recording), one and three are missed
    assert row["per_seed"] == pytest.approx(per_seed) and row["mean"] == pytest.approx(np.mean(per_seed))
    assert row["scores"]["balanced_accuracy"] == row["mean"]
    assert row["scores"]["accuracy"] == row["scores"]["clip_accuracy"] == pytest.approx((7 / 8 + 5 / 8) / 2)
    assert row["per_group"] == pytest.approx({"ann": (1 / 2 + 1) / 2, "bob": (2 / 4 + 1) / 2})
    assert (row["low"], row["high"]) == pytest.approx(evaluation.interval_of_cells([4 / 8, 1], [4, 4]))
    facts = {name: row[name] for name in ("recipe", "title", "dataset", "protocol", "seeds", "parameters", "seconds")}
    assert facts == {
        "recipe": "fsdd/toy", "title": "Toy network", "dataset": "fsdd", "protocol": "official", "seeds": [0, 1],
        "parameters": 84_682, "seconds": 12.5,
    }  # fmt: skip
    assert (row["leaky"], row["unit"], row["recordings"], row["source"]) == (True, "recording", 8, "real")
    assert "same speakers" in row["leak"] and row["probe"] is None


def test_seeds_that_differ_more_than_recordings_widen_the_interval() -> None:
    scores = []
    for seed, missed in enumerate((0, 30, 60)):
        put("random", seed, {"ann": [0] * missed + [1] * (100 - missed)})
        scores.append(1 - missed / 100)
    (row,) = table("fsdd").to_dict("records")
    low, high = evaluation.t_interval(scores)
    assert (row["low"], row["high"]) == pytest.approx((max(low, 0), min(high, 1)))


def test_the_row_of_leaving_one_speaker_out_by_hand() -> None:
    put_left_out()
    (row,) = table("fsdd").to_dict("records")
    assert (row["protocol"], row["seeds"], row["unit"], row["leaky"]) == ("leave_one_speaker_out", [0], "group", False)
    per_group = {"ann": 1 / 2, "bob": 1.0, "cleo": (1 + 1 / 3) / 2}
    assert row["per_group"] == pytest.approx(per_group) and row["recordings"] == 16
    assert row["mean"] == pytest.approx(np.mean(list(per_group.values())))
    assert row["scores"]["accuracy"] == pytest.approx((2 / 4 + 1 + 4 / 6) / 3)
    low, high = evaluation.t_interval(list(per_group.values()))
    assert (row["low"], row["high"]) == pytest.approx((max(low, 0), min(high, 1)))
    put_left_out(1)
    (again,) = table("fsdd").to_dict("records")
    assert again["per_group"] == row["per_group"] and again["seeds"] == [0, 1]
    assert (again["low"], again["high"]) == (row["low"], row["high"]), "seeds are no more speakers"


def test_one_speaker_has_no_interval(capsys: pytest.CaptureFixture[str]) -> None:
    put("leave_one_speaker_out", 0, {"ann": [1, 1, 0, 1]}, "ann", 1)
    (row,) = table("fsdd").to_dict("records")
    assert np.isnan(row["low"]) and np.isnan(row["high"]) and row["mean"] == 0.75
    assert "nan" not in markdown(table("fsdd"))
    assert main(["table", "fsdd", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["low"] is None


def test_many_groups_have_a_bootstrap_of_whole_groups() -> None:
    random = np.random.default_rng(0)
    right = {f"speaker {number:02}": random.integers(0, 2, 6).tolist() for number in range(25)}
    for speaker, marks in right.items():
        put("leave_one_speaker_out", 0, {speaker: marks}, speaker, 25)
    (row,) = table("fsdd").to_dict("records")
    values, classes = np.concatenate(list(right.values())), np.tile([0, 1], 75)
    expected = evaluation.interval(values, classes, np.repeat(list(right), 6))
    assert (row["low"], row["high"]) == pytest.approx(expected, abs=0.01)


def test_a_seed_with_missing_folds_and_another_version_and_other_data_are_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    put("leave_one_speaker_out", 1, {"ann": [0] * 4}, "ann", 3)
    assert table("fsdd").empty
    put_left_out()
    put("official", 0, {"ann": [1, 1]})
    put("official", 1, {"ann": [0, 0]}, recipe_hash="00000000")
    put("official", 2, {"ann": [1, 1]})
    put("official", 3, {"ann": [0, 0]}, fingerprint="f" * 16)
    put("official", 4, {"ann": [1, 1]}).path.write_text("{")
    rows = table("fsdd")
    assert rows["protocol"].tolist() == ["official", "leave_one_speaker_out"]
    assert rows["seeds"].tolist() == [[0, 2], [0]] and rows["mean"][0] == 1
    assert "seed 3 is of other data" in caplog.text and "official-seed4.json is damaged" in caplog.text


def test_stand_in_results_have_a_table_of_their_own() -> None:
    put("official", 0, {"ann": [1, 1]}, source="stand-in", note="three words")
    assert table("fsdd").empty
    (row,) = table("fsdd", source="stand-in").to_dict("records")
    assert (row["source"], row["note"]) == ("stand-in", "three words")
    assert "stand-in, three words" in markdown(table("fsdd", source="stand-in"))


def test_a_folder_of_one_s_own_has_a_table(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "own" / "mine.yaml", FORM)
    put("official", 0, {"ann": [1, 0]}, name=path)
    assert table(str(tmp_path / "own"))["recipe"].tolist() == ["own/mine"]
    with pytest.raises(RecipeError, match="no recipes for 'bats'; known: fsdd"):
        table("bats")


# Markdown


def test_markdown_has_a_section_for_each_protocol_and_the_best_recipe_first() -> None:
    put_left_out()
    put_two_official()
    put("official", 0, {"ann": [1] * 8}, name="fsdd/small", parameters=7, seconds=3.4)
    put("original_paper", 0, {"ann": [1] * 8})
    first, second, third = markdown(table("fsdd")).split("\n\n**")
    head, leak, lines = first.split("\n\n")
    stated = "The score is the balanced accuracy of all test recordings together."
    assert head == f"**Official split**; intervals over the 8 test recordings. {stated}"
    assert leak == "Too good for unseen data: the same speakers are on both sides."
    names, rule, best, worst = lines.splitlines()
    assert names == (
        "| model (recipe) | balanced accuracy (95 % interval) | accuracy | seeds | parameters | training | data |"
    )
    assert rule.count("---") == 7
    low, high = (f"{100 * end:.1f}" for end in evaluation.interval_of_cells([1, 1], [4, 4]))
    assert best == f"| Toy network (`fsdd/small`) | 100.0 % ({low} to {high}) | 100.0 % | 1 | 7 | 3 s | real |"
    assert "75.0 % (" in worst and "| 2 | 84,682 | 12 s | real |" in worst
    assert second.startswith("First experiment's split**") and "validation part" in second
    assert third.startswith(
        "Leave one speaker out**; intervals over 3 speakers. The score is the mean over the left-out"
    )
    assert "worst speaker" in third and "ann 50.0 %" in third and "Too good" not in third


def test_update_replaces_what_stands_between_the_markers(tmp_path: Path) -> None:
    put_two_official()
    file, rows = tmp_path / "README.md", table("fsdd")
    file.write_text("Above\n<!-- table fsdd -->\nold\n<!-- end -->\nBelow\n<!-- table other -->\n<!-- end -->\n")
    expected = f"Above\n<!-- table fsdd -->\n{markdown(rows)}\n<!-- end -->\nBelow\n"
    expected += "<!-- table other -->\n<!-- end -->\n"
    for _ in range(2):
        update(file, "fsdd", rows)
        assert file.read_text() == expected


@pytest.mark.parametrize(
    "text", ["", "<!-- table fsdd -->\nno end", "<!-- end -->\n", "<!-- table x -->\n<!-- end -->"]
)
def test_a_file_without_markers_is_refused_and_left_alone(text: str, tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text(text)
    with pytest.raises(ResultError, match=r"README\.md has no '<!-- table fsdd -->'"):
        update(file, "fsdd", table("fsdd"))
    assert file.read_text() == text
    with pytest.raises(ResultError, match=r"nowhere\.md"):
        update(tmp_path / "nowhere.md", "fsdd", table("fsdd"))


# The command line


def test_the_command_line_writes_json_and_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", "fsdd", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    put_two_official()
    assert main(["table", "fsdd", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert list(row) == list(COLUMNS) and row["seeds"] == [0, 1] and row["mean"] == 0.75
    assert main(["table", "fsdd"]) == 0
    assert capsys.readouterr().out == markdown(table("fsdd")) + "\n"
    put("random", 0, {"ann": [1, 1]}, source="stand-in")
    assert main(["table", "fsdd", "--stand-in"]) == 0
    assert "| stand-in |" in capsys.readouterr().out


def test_a_damaged_result_makes_the_command_line_fail_behind_the_rest_of_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_two_official()
    broken = put("random", 1, {"ann": [1, 1]}).path
    broken.write_text("{")
    for form in ([], ["--json"]):
        assert main(["table", "fsdd", *form]) == 1
        assert "Toy network" in capsys.readouterr().out
    file = tmp_path / "README.md"
    file.write_text("<!-- table fsdd -->\nold\n<!-- end -->\n")
    assert main(["table", "fsdd", "--update", str(file)]) == 1
    assert file.read_text() == "<!-- table fsdd -->\nold\n<!-- end -->\n"
    broken.unlink()
    assert main(["table", "fsdd", "--update", str(file)]) == 0
    assert "75.0 %" in file.read_text()
    file.write_text("no markers")
    capsys.readouterr()
    assert main(["table", "fsdd", "--update", str(file)]) == 1
    assert capsys.readouterr().err.startswith("ResultError: ")
