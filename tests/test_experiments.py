"""A recipe is run once, kept, and never mixed up with another one or with stand-in data."""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from course_lib import datasets, environment, evaluation, experiments, recipes, tables, training
from course_lib.clips import Clips
from course_lib.datasets.recordings import Recordings
from course_lib.experiments import Result, ResultError
from course_lib.experiments.recipe import Recipe, RecipeError
from course_lib.training import History, Settings

FORM = {
    "name": "fsdd/toy",
    "title": "Toy",
    "dataset": "fsdd",
    "protocols": {"official": 1, "leave_one_speaker_out": 1},
    "clip": {"seconds": 0.1},
    "model": {"name": "SpectrogramCNN"},
    "training": {"epochs": 1, "batch_size": 32, "precision": "32-true"},
}
SPEAKERS = ["ann", "bob", "cleo"]

pytestmark = pytest.mark.usefixtures("fsdd_data")


def toy(**changes: Any) -> Recipe:
    return Recipe.model_validate(FORM | changes)


def with_training(**changes: Any) -> Recipe:
    return toy(training=FORM["training"] | changes)


def run(recipe: Recipe, **options: Any) -> list[Result]:
    return experiments.run(recipe, progress=False, **options)


def files(folder: Path) -> list[str]:
    """What is kept in a folder; the claims of processes at work are not."""
    found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return sorted(path.as_posix() for path in found if not path.parts[0].startswith("."))


class Fits(list[dict[str, Any]]):
    """What each call of `training.fit` got, and how many epochs it trained; `stop_after` an epoch interrupts it."""

    stop_after: int | None = None


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Fits:
    calls, real_fit = Fits(), training.fit

    def fit(model: nn.Module, train: Clips, validation: Clips | None, how: Settings, **options: Any) -> History:
        call = {"train": train, "validation": validation, "epochs": 0, **options}
        calls.append(call)

        def count(history: History) -> None:
            call["epochs"] += 1
            if len(history.epochs) == calls.stop_after:
                raise KeyboardInterrupt

        return real_fit(model, train, validation, how, on_epoch=count, **options)

    monkeypatch.setattr(training, "fit", fit)
    return calls


@pytest.fixture(scope="module")
def toy_files(tmp_path_factory: pytest.TempPathFactory, fsdd_folder: Path) -> dict[str, bytes]:
    """What the toy recipe leaves in its files, by the ending of their names."""
    folder = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_DATA", str(fsdd_folder.parent))
        patch.setenv("COURSE_CACHE", str(folder / "cache"))
        patch.setenv("COURSE_RESULTS", str(folder / "results"))
        (result,) = run(toy())
        return {ending: result.path.with_suffix(ending).read_bytes() for ending in (".json", ".npz")}


@pytest.fixture
def kept(toy_files: dict[str, bytes]) -> Path:
    """A result of the toy recipe in its place, with its predictions."""
    path = environment.results_folder() / "fsdd/toy/official/official-seed0.json"
    path.parent.mkdir(parents=True)
    for ending, content in toy_files.items():
        path.with_suffix(ending).write_bytes(content)
    return path


def test_the_official_protocol_keeps_one_result(recordings: Recordings) -> None:
    (result,) = run(toy())
    place = "fsdd/toy/official/official-seed0"
    assert files(environment.results_folder()) == [f"{place}.json", f"{place}.npz"]
    assert result.path == environment.results_folder() / "fsdd/toy/official/official-seed0.json"
    assert experiments.read(result.path) == result
    assert (result.recipe, result.recipe_hash) == ("fsdd/toy", toy().hash)
    assert Recipe.model_validate(result.form) == toy()
    assert (result.protocol, result.fold, result.folds, result.seed) == ("official", "official", 1, 0)
    assert (result.train, result.validation, result.test) == (90, 0, 150)
    assert result.source == "real"
    assert result.fingerprint == Clips.cut(recordings, 0.1, progress=False).fingerprint
    assert result.parameters == 84_682
    assert (result.kept_epoch, result.precision) == (1, "32-true")
    assert result.seconds > 0 and result.threads >= 1
    assert set(result.versions) == {"course_lib", "python", "torch"}


def test_the_parts_of_a_result_agree(recordings: Recordings) -> None:
    (result,) = run(toy())
    confusion = np.array(result.confusion)
    table = recordings.table.set_index("recording")
    assert confusion.sum() == 150
    assert result.scores["accuracy"] == pytest.approx(np.trace(confusion) / 150)
    assert len(result.errors) == 150 - np.trace(confusion)
    for name, taken in result.errors.items():
        assert table.loc[name, "official"] == "test" and str(table.loc[name, "label"]) != taken
    assert result.per_class == pytest.approx({str(digit): confusion[digit, digit] / 15 for digit in range(10)})
    assert result.group_sizes == dict.fromkeys(SPEAKERS, 50)
    wrong = table.loc[list(result.errors), "group"].value_counts()
    assert result.per_group == pytest.approx({name: 1 - wrong.get(name, 0) / 50 for name in SPEAKERS})


def test_leaving_one_speaker_out_keeps_a_result_each() -> None:
    found = run(toy(), protocol="leave_one_speaker_out", seed=4)
    assert [result.fold for result in found] == SPEAKERS
    assert all((result.folds, result.train, result.test, result.seed) == (3, 160, 80, 4) for result in found)
    assert all(list(result.per_group) == [result.fold] for result in found)
    folder = environment.results_folder() / "fsdd/toy/leave_one_speaker_out"
    assert files(folder) == [f"{name}-seed4.{ending}" for name in SPEAKERS for ending in ("json", "npz")]
    assert experiments.results(toy(), "leave_one_speaker_out") == found


def test_results_of_whole_seeds_alone(kept: Path) -> None:
    whole = experiments.read(kept)
    folder = environment.results_folder() / "fsdd/toy/leave_one_speaker_out"
    for seed, speakers in ((0, SPEAKERS), (1, SPEAKERS[:2])):
        for name in speakers:
            one = replace(whole, protocol="leave_one_speaker_out", fold=name, folds=3, seed=seed)
            experiments.write_json(folder / f"{name}-seed{seed}.json", asdict(one))
    seeds = [result.seed for result in experiments.results(toy(), "leave_one_speaker_out", whole_seeds=True)]
    assert seeds == [0, 0, 0]
    assert len(experiments.results(toy(), "leave_one_speaker_out")) == 5
    assert experiments.results(toy(), "official", whole_seeds=True) == [whole]


def test_one_fold_alone(fits: Fits) -> None:
    (result,) = run(toy(), protocol="leave_one_speaker_out", fold="bob")
    assert (result.fold, len(fits)) == ("bob", 1)
    assert 80 not in fits[0]["train"].recording and len(fits[0]["train"]) == 160


def test_what_was_run_is_read(fits: Fits) -> None:
    (first,) = run(toy())
    assert run(toy()) == [first]
    assert run(toy(title="Another title", protocols={"official": 3})) == [first]
    assert len(fits) == 1


def test_another_seed_is_another_run() -> None:
    results = run(toy()) + run(toy(), seed=1)
    assert [result.seed for result in results] == [0, 1]
    assert results[0].scores != results[1].scores or results[0].errors != results[1].errors
    assert experiments.results(toy(), "official") == results


def test_a_run_can_be_repeated_to_the_last_digit() -> None:
    (first,) = run(toy())
    first.path.unlink()
    (second,) = run(toy())
    assert replace(second, seconds=0) == replace(first, seconds=0)


def test_a_changed_recipe_is_trained_anew(fits: Fits) -> None:
    run(toy())
    changed = with_training(learning_rate=0.002)
    (result,) = run(changed)
    assert len(fits) == 2
    assert result.recipe_hash == changed.hash
    assert experiments.results(toy(), "official") == []
    assert experiments.results(changed, "official") == [result]


def test_an_interrupted_run_goes_on(fits: Fits) -> None:
    recipe = with_training(epochs=3)
    (straight,) = run(recipe)
    straight.path.unlink()
    straight.path.with_suffix(".npz").unlink()
    fits.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        run(recipe)
    assert files(environment.results_folder()) == []
    fits.stop_after = None
    (resumed,) = run(recipe)
    assert [call["epochs"] for call in fits] == [3, 2, 1]
    assert replace(resumed, seconds=0) == replace(straight, seconds=0)
    assert files(environment.results_folder() / ".unfinished") == []


def test_an_interrupted_run_of_another_version_is_not_gone_on_with(fits: Fits) -> None:
    fits.stop_after = 1
    for recipe, seed in ((with_training(epochs=2), 0), (with_training(epochs=2), 1), (with_training(epochs=3), 0)):
        with pytest.raises(KeyboardInterrupt):
            run(recipe, seed=seed)
    fits.stop_after = None
    run(with_training(epochs=2, learning_rate=0.002))
    assert [call["epochs"] for call in fits] == [1, 1, 1, 2]


def test_the_validation_part_is_taken_from_the_training_side(recordings: Recordings, fits: Fits) -> None:
    recipe = toy(validation={"fraction": 0.15}, training=FORM["training"] | {"keep": "best"})
    (result,) = run(recipe)
    train, validation = (set(fits[0][side].recording.tolist()) for side in ("train", "validation"))
    test = set(recordings.find(official="test").tolist())
    assert train | validation == set(range(240)) - test and not train & validation
    assert (result.train, result.validation, result.test) == (len(train), len(validation), 150)
    assert len(validation) == 14


def test_a_validation_part_of_whole_speakers(recordings: Recordings, fits: Fits) -> None:
    (result,) = run(toy(validation={"fraction": 0.3, "by": "group"}), protocol="leave_one_speaker_out", fold="ann")
    speakers = recordings.table["group"].to_numpy()
    train, validation = (set(speakers[fits[0][side].recording.numpy()]) for side in ("train", "validation"))
    assert len(train) == len(validation) == 1 and train | validation == {"bob", "cleo"}
    assert (result.train, result.validation) == (80, 80)


def test_synthetic_voices_join_the_training_side(
    recordings: Recordings, fits: Fits, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, int]] = []

    def stand_in(name: str, progress: bool, **size: int) -> Recordings:
        asked.append(size)
        return replace(recordings.subset(np.arange(12)), source="stand-in")

    monkeypatch.setattr(datasets, "stand_in", stand_in)
    run(toy(training=FORM["training"] | {"extra_per_epoch": 5}, extra_voices={"speakers": 3, "takes": 2}))
    assert asked == [{"speakers": 3, "takes": 2}]
    assert (len(fits[0]["train"]), len(fits[0]["extra"])) == (90, 12)


def test_results_on_stand_ins_are_kept_apart(recordings: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "names", lambda dataset: ["fsdd/toy"])
    monkeypatch.setattr(recipes, "load", lambda name: toy())
    monkeypatch.setattr(datasets, "load", lambda name, progress: replace(recordings, source="stand-in"))
    (result,) = run(toy())
    assert result.source == "stand-in"
    assert result.path.is_relative_to(environment.cache_folder()) and result.path.is_file()
    assert files(environment.results_folder()) == []
    assert experiments.results(toy(), "official") == []
    assert experiments.results(toy(), "official", "stand-in") == [result]
    assert tables.table("fsdd") == []
    (row,) = tables.table("fsdd", source="stand-in")
    assert row["source"] == "stand-in"
    monkeypatch.setattr(datasets, "load", lambda name, progress: recordings)
    (real,) = run(toy())
    assert real.source == "real"
    assert [row["source"] for row in tables.table("fsdd")] == ["real"]


def test_a_front_end_that_makes_no_image_is_refused_before_training(fits: Fits) -> None:
    recipe = toy(model={"name": "CRNN", "front_end": [{"Standardise": {}}]})
    with pytest.raises(RecipeError, match=r"fsdd/toy: CRNN cannot take clips"):
        run(recipe)
    assert fits == []


def test_a_clip_that_the_model_cannot_take_is_refused_before_training(fits: Fits) -> None:
    with pytest.raises(RecipeError, match=r"fsdd/toy: SpectrogramCNN cannot take clips of 0\.02 s \(160 samples\)"):
        run(toy(clip={"seconds": 0.02}))
    assert fits == [] and files(environment.results_folder()) == []


def test_a_layer_for_another_sample_rate_is_refused_before_training(fits: Fits) -> None:
    front_end = [{"LogMel": {"sample_rate": 16_000, "n_mels": 20}}]
    with pytest.raises(RecipeError, match=r"its .*Mel.* is made for 16000 Hz, and the clips have 8000 Hz"):
        run(toy(model={"name": "LogMelCNN", "settings": {"n_mels": 20}, "front_end": front_end}))
    assert fits == []


def test_one_of_several_processes_of_a_training_keeps_no_result(fits: Fits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ResultError, match=r"experiments\.train"):
        run(toy())
    assert fits == []


def test_a_model_that_cannot_be_built_is_refused_before_training(fits: Fits) -> None:
    with pytest.raises(RecipeError, match="SpectrogramCNN"):
        run(toy(model={"name": "SpectrogramCNN", "settings": {"dropout": 7}}))
    assert fits == []


def test_unknown_protocols_and_folds_are_answered_with_the_known_ones(fits: Fits) -> None:
    with pytest.raises(RecipeError, match="no protocol by_heart; it has official, leave_one_speaker_out"):
        run(toy(), protocol="by_heart")
    with pytest.raises(RecipeError, match="no fold 'dora'; it has ann, bob, cleo"):
        run(toy(), protocol="leave_one_speaker_out", fold="dora")
    assert fits == []


def test_kept_weights_are_those_that_were_tested(recordings: Recordings) -> None:
    (result,) = run(toy(), keep_model=True)
    model = experiments.load_model(toy(), "official", "official")
    tested = Clips.cut(recordings, 0.1, progress=False).of_recordings(recordings.find(official="test"))
    predicted = evaluation.predict(model, tested).argmax(dim=1)
    assert evaluation.confusion_matrix(tested.labels, predicted, 10).tolist() == result.confusion
    assert not model.training


def test_weights_that_were_not_kept_are_trained_once_more(fits: Fits) -> None:
    (first,) = run(toy())
    assert run(toy()) == [first] and len(fits) == 1
    (second,) = run(toy(), keep_model=True)
    assert replace(second, seconds=0) == replace(first, seconds=0) and len(fits) == 2
    assert experiments.load_model(toy(), "official", "official") is not None
    assert run(toy(), keep_model=True) == [second] and len(fits) == 2


def test_weights_of_another_version_are_not_loaded() -> None:
    assert experiments.load_model(toy(), "official", "official") is None
    run(toy(), keep_model=True)
    assert experiments.load_model(with_training(epochs=2), "official", "official") is None
    other = toy(model={"name": "SpectrogramCNN", "settings": {"dropout": 0.1}})
    assert experiments.load_model(other, "official", "official") is None
    assert experiments.load_model(toy(), "official", "official", seed=1) is None


def test_weights_of_another_version_are_replaced() -> None:
    run(toy(), keep_model=True)
    run(with_training(epochs=2))
    run(with_training(epochs=2), keep_model=True)
    assert experiments.load_model(with_training(epochs=2), "official", "official") is not None


def test_scores_that_do_not_exist_are_null_in_the_file(kept: Path) -> None:
    whole = experiments.read(kept)
    gone = replace(whole, scores=whole.scores | {"precision": math.nan}, rules={"vote": {"f1": math.nan}})
    experiments.write_json(kept, asdict(gone))
    form = json.loads(kept.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert form["scores"]["precision"] is None and form["rules"]["vote"]["f1"] is None
    assert repr(experiments.read(kept)) == repr(gone)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key != "seed"}),
        lambda text: json.dumps(json.loads(text) | {"mood": "good"}),
        lambda text: json.dumps(json.loads(text) | {"scores": {}}),
        lambda text: json.dumps(json.loads(text) | {"scores": {"accuracy": 9.9}}),
        lambda text: json.dumps(json.loads(text) | {"scores": {"accuracy": None}}),
        lambda text: json.dumps(json.loads(text) | {"test": 0}),
        lambda text: json.dumps(json.loads(text) | {"per_group": None}),
        lambda text: json.dumps(json.loads(text) | {"seed": "0"}),
        lambda text: json.dumps(json.loads(text) | {"seed": 1}),  # it lies in the place of seed 0
        lambda text: json.dumps(json.loads(text) | {"source": "stand-in"}),
        lambda text: json.dumps(json.loads(text) | {"seconds": math.nan}),
        lambda text: json.dumps(json.loads(text) | {"seconds": -5}),
        lambda text: json.dumps(json.loads(text) | {"threshold": None}),
        lambda text: json.dumps(json.loads(text) | {"test": 5}),
        lambda text: json.dumps(json.loads(text) | {"errors": {}}),
        lambda text: json.dumps(json.loads(text) | {"per_group": {"nobody": 0.5}}),
        lambda text: json.dumps(json.loads(text) | {"confusion": [[1]]}),
        lambda text: json.dumps(json.loads(text) | {"scores": {"accuracy": 0.999}}),
    ],
)
def test_a_damaged_result_is_named_and_never_used(
    damage: Callable[[str], str], kept: Path, fits: Fits, caplog: pytest.LogCaptureFixture
) -> None:
    kept.write_text(damage(kept.read_text()))
    message = r"official-seed0\.json is damaged .*delete it"
    for use in (lambda: experiments.read(kept), lambda: run(toy())):
        with pytest.raises(ResultError, match=message):
            use()
    assert fits == []
    assert experiments.results(toy(), "official") == []
    (warning,) = caplog.records
    assert re.search(message, warning.getMessage()) and str(kept) in warning.getMessage()


def test_damaged_results_are_listed_and_the_others_stay(kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert experiments.damaged(toy()) == []
    whole = experiments.read(kept)
    broken = [kept.with_name("official-seed1.json"), kept.parent.parent / "leave_one_speaker_out/ann-seed0.json"]
    for path in broken:
        path.parent.mkdir(exist_ok=True)
        path.write_text("{")
    kept.with_name(".official-seed2.json-x1y2").write_text("{")  # half written by a process that was killed
    assert experiments.results(toy(), "official") == [whole]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert experiments.damaged(toy()) == broken
    assert experiments.damaged(toy(), "stand-in") == []
    assert experiments.damaged(toy(protocols={"official": 1})) == broken[:1]


def test_a_result_that_is_no_text_is_refused_by_name(kept: Path) -> None:
    kept.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ResultError, match=r"official-seed0\.json"):
        experiments.read(kept)


@pytest.mark.parametrize(("ending", "left"), [("npz", []), ("json", ["fsdd/toy/official/official-seed0.npz"])])
def test_a_full_disk_leaves_no_result_and_keeps_the_training(
    ending: str, left: list[str], fits: Fits, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_really = os.replace

    def full(source: str, target: Path) -> None:
        if target.name == f"official-seed0.{ending}":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace_really(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(ResultError, match=rf"official-seed0\.{ending}.*No space left"):
            run(toy())
    assert files(environment.results_folder()) == left
    assert experiments.results(toy(), "official") == []
    (result,) = run(toy())
    assert [call["epochs"] for call in fits] == [1, 0]
    assert len(experiments.predictions(result)) == 150


def test_a_full_disk_leaves_the_old_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "result.json"
    experiments.write_json(path, {"a": 1})
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ResultError, match=r"result\.json"):
        experiments.write_json(path, {"a": 2})
    assert path.read_bytes() == before and files(path.parent) == ["result.json"]
    with pytest.raises(ResultError, match=r"below\.json"):
        experiments.write_json(path / "below.json", {})
