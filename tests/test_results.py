"""Results and the predictions beside them: whole, their own, and named where they are not."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn import metrics
from toys import files_in, run, toy

from course_lib import datasets, environment, evaluation, experiments
from course_lib.datasets import Recordings
from course_lib.experiments import Result, ResultError, recipes
from course_lib.experiments import result as files
from course_lib.experiments.result import file_name, path_of, read, results, signed, write_json

PLACE = "mine/toy/official/official-seed0"
KEPT = sorted((environment.CHECKOUT / "results").glob("*/*/*/*.json"))

pytestmark = pytest.mark.usefixtures("fsdd_data")


class Toy(NamedTuple):
    """A result of the toy recipe and the content of its two files."""

    result: Result
    files: dict[str, bytes]
    predictions: pd.DataFrame

    def __repr__(self) -> str:
        return "Toy"


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, fsdd_folder: Path) -> Toy:
    folder = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_DATA", str(fsdd_folder.parent))
        patch.setenv("COURSE_CACHE", str(folder / "cache"))
        patch.setenv("COURSE_RESULTS", str(folder / "results"))
        patch.setenv("COURSE_THREADS", "1")
        (result,) = run(toy())
        content = {ending: result.path.with_suffix(ending).read_bytes() for ending in (".json", ".npz")}
        return Toy(result, content, experiments.predictions(result))


@pytest.fixture
def existing(one: Toy) -> Path:
    """The result in its place, with its predictions."""
    path = environment.results_folder() / f"{PLACE}.json"
    path.parent.mkdir(parents=True)
    for ending, content in one.files.items():
        path.with_suffix(ending).write_bytes(content)
    return path


def put(result: Result) -> Path:
    write_json(result.path, signed(asdict(result)))
    return result.path


# The results of the course


def test_every_result_of_the_course_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(KEPT) > 500
    monkeypatch.setenv("COURSE_RESULTS", str(environment.CHECKOUT / "results"))
    names = [name for folder in recipes.FOLDER.glob("[!_.]*") for name in recipes.names(folder.name)]
    hashes = {name: recipes.load(name).hash for name in names}
    for path in KEPT:
        result = read(path)
        assert result.path == path and result.recipe_hash == hashes[result.recipe], path
        files.require_predictions(result)
    # Weights and predictions belong to a result each.
    for ending in ("npz", "safetensors"):
        assert {path.with_suffix(".json") for path in KEPT[0].parents[3].glob(f"*/*/*/*.{ending}")} <= set(KEPT)


def test_members_of_the_ensembles_of_the_course_are_those_whose_results_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COURSE_RESULTS", str(environment.CHECKOUT / "results"))
    ensembles = [result for result in map(read, KEPT) if result.members]
    assert ensembles
    for result in ensembles:
        for name, predictions in result.members.items():
            assert read(path_of(name, result.protocol, result.fold, result.seed, "real")).predictions == predictions


def test_members_that_were_chosen_are_the_best_on_the_held_out_recordings_of_their_list(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COURSE_RESULTS", str(environment.CHECKOUT / "results"))
    for name in ("ensemble_chosen", "ensemble_chosen_without_device"):
        recipe = recipes.load(f"physionet2016/{name}")
        result = read(path_of(recipe.name, "published_lists", "list_1", 0, "real"))
        members = [read(path_of(member, "published_lists", "list_1", 0, "real")) for member in recipe.members]
        held_out = {member.recipe: experiments.predictions(member, "validation") for member in members}
        labels = experiments.decisions(result, "validation")["label"]
        assert set(labels.index).isdisjoint(experiments.decisions(result).index)
        assert set(evaluation.choose_members(held_out, labels)) == set(result.members)


HEARTS = environment.CHECKOUT / "results" / "physionet2016"
FOLLOWED = sorted(HEARTS.glob("log_mel_cnn/*/*-seed0.json")) + sorted(HEARTS.glob("*/*/[ae]-seed0.json"))


@pytest.mark.parametrize("path", FOLLOWED, ids=lambda path: "/".join(path.parts[-3:]))
def test_kept_scores_of_hearts_follow_from_the_predictions_by_the_rule_of_the_protocol(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COURSE_RESULTS", str(environment.CHECKOUT / "results"))
    result, protocol = read(path), datasets.get("physionet2016").protocol(path.parts[-2])
    held_out, tested = (experiments.decisions(result, part) for part in ("validation", "test"))
    rule = {"validation": None, "validation_by_group": held_out["group"]}
    if protocol.threshold in rule:
        expected = evaluation.best_threshold(held_out["label"], held_out["probability"], rule[protocol.threshold])
    else:
        expected = 0.5
    assert result.threshold == pytest.approx(expected, abs=1e-9)
    score = tested["vote"] if protocol.decision == "vote" else tested["probability"]
    positive = score >= (0.5 if protocol.decision == "vote" else expected)
    abnormal = tested["label"] == 1
    assert result.scores["sensitivity"] == pytest.approx(positive[abnormal].mean())
    assert result.scores["specificity"] == pytest.approx(1 - positive[~abnormal].mean())
    assert result.scores["balanced_accuracy"] == pytest.approx(np.mean(list(result.per_class.values())))
    assert result.scores["roc_auc"] == pytest.approx(metrics.roc_auc_score(abnormal, tested["probability"]))
    assert result.errors.keys() == set(tested.index[positive != abnormal]) and result.test == len(tested)
    assert result.confusion[1] == [int((~positive & abnormal).sum()), int((positive & abnormal).sum())]


# One file


def test_a_result_is_what_was_written(existing: Path, one: Toy) -> None:
    assert read(existing) == one.result
    assert experiments.results(toy(), "official") == [one.result] and experiments.damaged(toy()) == []
    pd.testing.assert_frame_equal(experiments.predictions(one.result), one.predictions)


def test_scores_that_do_not_exist_are_null_in_the_file(one: Toy) -> None:
    gone = replace(one.result, scores=one.result.scores | {"precision": math.nan}, rules={"vote": {"f1": math.nan}})
    path = put(gone)
    form = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert form["scores"]["precision"] is None and form["rules"]["vote"]["f1"] is None
    assert repr(read(path)) == repr(gone)


EDITS = {
    "seconds": -5.0, "seed": 1, "source": "stand-in", "scores": {}, "test": 5, "errors": {}, "confusion": [[1]],
    "folds": 1000, "form": {}, "recipe_hash": "00000000", "fingerprint": "0" * 16, "predictions": "", "threshold": 0.9,
    "counts": {}, "parameters": 1, "kept_epoch": 9, "mood": "good", "digest": "0" * 16, "recipe": "mine/other",
    "protocol": "random", "fold": "../x", "note": "clean",
}  # fmt: skip


@pytest.mark.parametrize("key", EDITS)
def test_an_edited_result_is_noticed(key: str, existing: Path) -> None:
    content = json.loads(existing.read_text())
    existing.write_text(json.dumps(content | {key: EDITS[key]}))
    with pytest.raises(ResultError, match=r"official-seed0\.json is damaged .*; delete it and run its recipe again"):
        read(existing)
    existing.write_text(json.dumps({name: value for name, value in content.items() if name != key}))
    if key in content:
        with pytest.raises(ResultError, match="is damaged"):
            read(existing)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": "0"}, {"seed": True}, {"seed": -1}, {"test": 0}, {"test": 150.0}, {"seconds": -5.0},
        {"threshold": None}, {"threshold": 1.5}, {"scores": {"accuracy": "high"}}, {"counts": {"ann": {"0": [-1, 0]}}},
        {"source": "radio"},
        {"confusion": [[0.5]]}, {"form": []}, {"errors": None}, {"mood": "good"}, {"seed": 1}, {"fold": "other"},
        {"recipe": "mine/other"}, {"source": "stand-in"},
    ],
    ids=str,
)  # fmt: skip
def test_what_no_result_can_hold_is_refused_whatever_its_digest(changes: dict[str, Any], existing: Path) -> None:
    existing.write_text(json.dumps(signed(json.loads(existing.read_text()) | changes)))
    with pytest.raises(ResultError, match="is damaged"):
        read(existing)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"3", b"[" * 100_000, b"\xff\xfe\xfa", b'{"seed": NaN}',
                                     b'{"seed": 1' + b"0" * 5000 + b"}"], ids=lambda content: content[:12])  # fmt: skip
def test_a_damaged_result_is_named_left_out_and_made_anew(
    content: bytes, existing: Path, one: Toy, caplog: pytest.LogCaptureFixture
) -> None:
    existing.write_bytes(content)
    with pytest.raises(ResultError, match=r"official-seed0\.json is damaged"):
        read(existing)
    assert experiments.results(toy(), "official") == [] and experiments.damaged(toy()) == [existing]
    assert str(existing) in caplog.text
    (again,) = run(toy())
    assert "it is made anew" in caplog.text and again.predictions == one.result.predictions
    assert read(existing) == again


@pytest.mark.parametrize("name", ["official-seed1.json", "official-seed01.json", "official-seed0-00000000.json",
                                  "random-seed0.json", "../random/official-seed0.json"])  # fmt: skip
def test_a_result_in_the_place_of_another_is_refused(name: str, existing: Path) -> None:
    copy = existing.parent / name
    copy.parent.mkdir(exist_ok=True)
    shutil.copy(existing, copy)
    with pytest.raises(ResultError, match=r"it belongs to .*official-seed0\.json"):
        read(copy)
    assert len(results(toy(), "official")) == 1


def test_the_ten_of_seed_one_is_not_seed_ten(one: Toy) -> None:
    path = put(replace(one.result, seed=1))
    shutil.copy(path, path.with_name("official-seed10.json"))
    assert [result.seed for result in results(toy(), "official")] == [1]


def test_a_result_under_two_names_counts_once(existing: Path, one: Toy) -> None:
    shutil.copy(existing, existing.with_stem(f"{existing.stem}-{one.result.recipe_hash}"))
    assert len(results(toy(), "official")) == 1 and len(results(toy(), "official", whole_seeds=True)) == 1


def test_damaged_results_are_listed_and_the_others_stay(existing: Path, one: Toy) -> None:
    broken = [
        existing.with_name("official-seed1.json"),
        existing.parent.parent / "leave_one_speaker_out/ann-seed0.json",
    ]
    for path in broken:
        path.parent.mkdir(exist_ok=True)
        path.write_text("{")
    existing.with_name(".official-seed2.json-x1y2").write_text("{")  # half written by a process that was killed
    assert experiments.results(toy(), "official") == [one.result]
    assert experiments.damaged(toy()) == broken and experiments.damaged(toy(), "stand-in") == []
    assert experiments.damaged(toy(protocols={"official": 1})) == broken[:1]


# Whole seeds


def fold(one: Toy, seed: int, name: str, **changes: Any) -> Result:
    return replace(one.result, protocol="leave_one_speaker_out", fold=name, folds=2, seed=seed, **changes)


def test_whole_seeds_have_every_fold(one: Toy, existing: Path) -> None:
    for seed, names in ((0, "ab"), (1, "a"), (2, "ab")):
        for name in names:
            put(fold(one, seed, name))
    assert [result.seed for result in results(toy(), "leave_one_speaker_out", whole_seeds=True)] == [0, 0, 2, 2]
    assert len(results(toy(), "leave_one_speaker_out")) == 5
    assert results(toy(), "official", whole_seeds=True) == [one.result]


def test_folds_and_seeds_of_other_data_are_not_averaged(one: Toy, caplog: pytest.LogCaptureFixture) -> None:
    for seed in range(3):
        put(fold(one, seed, "a"))
        put(fold(one, seed, "b", fingerprint="0" * 16) if seed == 1 else fold(one, seed, "b"))
    assert [result.seed for result in results(toy(), "leave_one_speaker_out", whole_seeds=True)] == [0, 0, 2, 2]
    assert "mine/toy, leave_one_speaker_out, seed 1 is of other data than the rest; run it again" in caplog.text
    for name in "ab":
        put(fold(one, 1, name, fingerprint="0" * 16))
    assert {result.seed for result in results(toy(), "leave_one_speaker_out", whole_seeds=True)} == {0, 2}


# Predictions


def test_predictions_are_those_that_were_counted(one: Toy, existing: Path, recordings: Recordings) -> None:
    found = experiments.predictions(one.result)
    tested = recordings.table.iloc[recordings.find(official="test")].set_index("recording")
    assert found.shape == (150, 10) and set(found.index) == set(tested.index)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (tested["label"][found.index], found.to_numpy().argmax(axis=1)), 1)
    assert confusion.tolist() == one.result.confusion
    decided = experiments.decisions(one.result)
    assert decided[["label", "group"]].equals(tested[["label", "group"]].loc[decided.index])
    assert decided["clip_accuracy"].tolist() == (decided["label"] == decided["predicted"]).astype(float).tolist()


def test_missing_predictions_are_named_and_made_again(existing: Path, one: Toy) -> None:
    existing.with_suffix(".npz").unlink()
    for use in (experiments.predictions, experiments.decisions):
        with pytest.raises(ResultError, match=r"official-seed0\.npz, the predictions of a result, .*run it again"):
            use(one.result)
    (again,) = run(toy())
    pd.testing.assert_frame_equal(experiments.predictions(again), one.predictions)


def test_predictions_of_another_run_are_noticed(existing: Path, one: Toy, caplog: pytest.LogCaptureFixture) -> None:
    (other,) = run(toy(), seed=1)
    shutil.copy(other.path.with_suffix(".npz"), existing.with_suffix(".npz"))
    with pytest.raises(ResultError, match="they are not those of the result"):
        experiments.predictions(one.result)
    (again,) = run(toy())
    assert again.predictions == one.result.predictions and "they are not those of the result" in caplog.text
    pd.testing.assert_frame_equal(experiments.predictions(again), one.predictions)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1, exclude_max=True), flipped=st.integers(1, 255), cut=st.booleans())
def test_predictions_with_a_wrong_byte_or_cut_off_are_named_or_harmless(
    position: float, flipped: int, cut: bool, one: Toy
) -> None:
    content = bytearray(one.files[".npz"])
    content[int(position * len(content))] ^= flipped
    path = one.result.path.with_suffix(".npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content[: int(position * len(content))] if cut else content)
    try:
        found = experiments.predictions(one.result)
    except ResultError:
        return
    pd.testing.assert_frame_equal(found, one.predictions)


# Names


@given(st.text(min_size=1, max_size=200), st.text(min_size=1, max_size=200))
@example("con", "CON.txt")
@example("lpt1", "nul.")
@example("a ", "a.")
def test_a_file_name_tells_names_apart_and_is_one_any_disk_takes(one: str, other: str) -> None:
    try:
        names = [file_name(one), file_name(other)]
    except UnicodeEncodeError:  # half a character
        return
    assert (one == other) == (names[0] == names[1])
    for name in names:
        assert len(name.encode()) <= 120 and name.isascii() and not set('/\\:*?"<>|\0\n') & set(name)
        assert name not in (".", "..") and not name.startswith(".") and not name.endswith((".", " "))
        assert not PureWindowsPath(name).is_reserved()


@pytest.mark.parametrize(
    "group", ["cafe/restaurant", "../../x", ".hidden", "a b", "Zoë", "x" * 300, "%2F", "a\\b", "con:", "aux", "bob."]
)
def test_results_of_groups_with_any_name_are_found(group: str, one: Toy) -> None:
    result = replace(one.result, protocol="leave_one_speaker_out", fold=group, folds=1)
    path = put(result)
    assert path.parent == environment.results_folder() / "mine/toy/leave_one_speaker_out"
    assert read(path) == result and results(toy(), "leave_one_speaker_out", whole_seeds=True) == [result]


def test_ordinary_names_stay_as_they_are(one: Toy) -> None:
    assert [file_name(name) for name in ("list_0", "bob", "fold_3", "a-b")] == ["list_0", "bob", "fold_3", "a-b"]


# Writing


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResultError, match=r"cannot write the result .*below\.json"):
        write_json(tmp_path / "file" / "below.json", {})
    monkeypatch.setenv("COURSE_RESULTS", str(tmp_path / "file" / "results"))
    with pytest.raises(ResultError, match="cannot write the result"):
        run(toy())
    assert files_in(tmp_path) == ["file"]
