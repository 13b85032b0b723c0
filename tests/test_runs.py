"""A recipe is run once for its data, goes on where it was stopped, and is never mixed up with another one."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from torch import nn
from toys import FORM, PRIOR, files_in, run, toy, write_recipe

from course_lib import datasets, environment, evaluation, experiments, layers, training
from course_lib.clips import Clips
from course_lib.datasets import DatasetError, Recordings
from course_lib.experiments import GroupPrior, Recipe, RecipeError, Result, ResultBusy, ResultError, recipes, runs
from course_lib.models import DomainAdversarial
from course_lib.training import CheckpointError, History, Settings

SPEAKERS = ["ann", "bob", "cleo"]
PLACE = "mine/toy/official/official-seed0"

pytestmark = pytest.mark.usefixtures("fsdd_data")


def with_training(**changes: Any) -> Recipe:
    return toy(training=FORM["training"] | changes)


def lasting(result: Result) -> Result:
    """A result without the seconds it took."""
    history = [{key: value for key, value in row.items() if key != "seconds"} for row in result.history]
    return replace(result, seconds=0.0, history=history)


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


@pytest.fixture
def own_data(fsdd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the recordings that a test may change."""
    shutil.copytree(fsdd_folder, tmp_path / "data" / "fsdd")
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "fsdd" / "recordings"


# One result


def test_the_official_protocol_makes_one_result(recordings: Recordings) -> None:
    (result,) = run(toy())
    assert files_in(environment.results_folder()) == [f"{PLACE}.json", f"{PLACE}.npz"]
    assert result.path == environment.results_folder() / f"{PLACE}.json"
    assert experiments.read(result.path) == result
    assert (result.recipe, result.recipe_hash, Recipe.model_validate(result.form)) == ("mine/toy", toy().hash, toy())
    assert (result.protocol, result.fold, result.folds, result.seed) == ("official", "official", 1, 0)
    assert (result.train, result.validation, result.test, result.source) == (90, 0, 150, "real")
    assert result.fingerprint == Clips.cut(recordings, 0.1, progress=False).fingerprint
    assert (result.kept_epoch, result.precision, result.threads, result.rules) == (1, "32-true", 1, {})
    assert result.parameters == sum(parameter.numel() for parameter in toy().build(10).parameters())
    assert result.seconds > 0 and set(result.versions) == {"course_lib", "python", "torch"}


def test_the_parts_of_a_result_agree(recordings: Recordings) -> None:
    (result,) = run(toy())
    confusion, table = np.array(result.confusion), recordings.table.set_index("recording")
    assert confusion.sum() == 150 and len(result.errors) == 150 - np.trace(confusion)
    assert result.scores == evaluation.scores_of_confusion(confusion)
    assert result.headline == f"balanced accuracy {result.scores['balanced_accuracy']:.1%}"
    for name, predicted in result.errors.items():
        assert table.loc[name, "official"] == "test" and str(table.loc[name, "label"]) != predicted
    assert result.per_class == pytest.approx({str(digit): confusion[digit, digit] / 15 for digit in range(10)})
    wrong = table.loc[list(result.errors), "group"].value_counts()
    assert result.per_group == pytest.approx({name: 1 - wrong.get(name, 0) / 50 for name in SPEAKERS})
    assert result.table().groupby("group")["total"].sum().to_dict() == dict.fromkeys(SPEAKERS, 50)
    decided = experiments.decisions(result)
    errors = decided[decided["label"] != decided["predicted"]]["predicted"]
    assert errors.astype(str).to_dict() == result.errors


def test_leaving_one_speaker_out_makes_a_result_each(fits: Fits) -> None:
    found = run(toy(), protocol="leave_one_speaker_out", seed=4)
    assert [result.fold for result in found] == SPEAKERS
    assert all((result.folds, result.train, result.test, result.seed) == (3, 160, 80, 4) for result in found)
    assert all(list(result.per_group) == [result.fold] for result in found)
    folder = environment.results_folder() / "mine/toy/leave_one_speaker_out"
    assert files_in(folder) == [f"{name}-seed4.{ending}" for name in SPEAKERS for ending in ("json", "npz")]
    assert experiments.results(toy(), "leave_one_speaker_out", whole_seeds=True) == found
    (bob,) = run(toy(), protocol="leave_one_speaker_out", seed=5, fold="bob")
    assert (bob.fold, len(fits)) == ("bob", 4) and 80 not in fits[-1]["train"].recording
    assert experiments.results(toy(), "leave_one_speaker_out", whole_seeds=True) == found


def test_what_was_run_is_read(fits: Fits) -> None:
    (first,) = run(toy())
    assert run(toy()) == [first]
    assert run(toy(title="Another title", protocols={"official": 3})) == [first]
    (second,) = run(toy(), seed=1)
    assert len(fits) == 2 and second.predictions != first.predictions
    assert experiments.results(toy(), "official") == [first, second]
    for result in (first, second):
        result.path.unlink()
    (again,) = run(toy())
    assert lasting(again) == lasting(first), "it can be repeated to the last digit"


def test_running_leaves_random_numbers_and_threads_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(toy())
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == 1


def test_a_validation_part_is_taken_from_the_training_side(recordings: Recordings, fits: Fits) -> None:
    recipe = toy(validation={"fraction": 0.15, "by": "recording"}, training=FORM["training"] | {"keep": "best"})
    (result,) = run(recipe)
    train, validation = (set(fits[0][side].recording.tolist()) for side in ("train", "validation"))
    test = set(recordings.find(official="test").tolist())
    assert train | validation == set(range(240)) - test and not train & validation
    assert (result.train, result.validation, result.test) == (len(train), len(validation), 150) == (76, 14, 150)
    held_out = set(recordings.table["recording"].iloc[sorted(validation)])
    assert set(experiments.decisions(result, "validation").index) == held_out
    (result,) = run(toy(validation={"fraction": 0.3}), protocol="leave_one_speaker_out", fold="ann")  # whole speakers
    speakers = recordings.table["group"].to_numpy()
    train, validation = (set(speakers[fits[1][side].recording.numpy()]) for side in ("train", "validation"))
    assert len(train) == len(validation) == 1 and train | validation == {"bob", "cleo"}


def test_synthetic_voices_join_the_training_side(
    recordings: Recordings, fits: Fits, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[dict[str, int]] = []

    def stand_in(name: str, progress: bool, **size: int) -> Recordings:
        sizes.append(size)
        return replace(recordings.subset(np.arange(12)), source="stand-in")

    monkeypatch.setattr(datasets, "stand_in", stand_in)
    run(toy(training=FORM["training"] | {"extra_per_epoch": 5}, synthetic={"speakers": 3, "takes": 2}))
    assert sizes == [{"speakers": 3, "takes": 2}]
    assert (len(fits[0]["train"]), len(fits[0]["extra"])) == (90, 12)


def test_results_on_stand_ins_lie_apart(recordings: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load", lambda name, progress: replace(recordings, source="stand-in"))
    (result,) = run(toy())
    assert result.source == "stand-in" and files_in(environment.results_folder()) == []
    assert result.path.is_relative_to(environment.cache_folder()) and result.path.is_file()
    assert experiments.results(toy(), "official") == []
    assert experiments.results(toy(), "official", "stand-in") == [result]
    assert run(toy()) == [result]


def test_a_recording_of_several_clips_has_scores_by_every_rule() -> None:
    (result,) = run(toy(clip={"seconds": 0.1, "hop_seconds": 0.1}))
    clips, decided = experiments.predictions(result), experiments.decisions(result)
    assert len(clips) > len(decided) == 150 == result.test
    for rule in ("vote", "log_odds"):
        predicted = experiments.decisions(result, rule=rule)["predicted"]
        assert result.rules[rule] == evaluation.scores(decided["label"], predicted, 10)
    accuracy = (clips.idxmax(axis=1) == decided["label"][clips.index]).mean()
    assert result.rules["clip"]["accuracy"] == pytest.approx(accuracy)
    assert result.scores == result.rules["log_odds"]


# Other data, other labels, another recipe


def test_a_result_of_other_recordings_is_made_anew(
    own_data: Path, fits: Fits, caplog: pytest.LogCaptureFixture
) -> None:
    (first,) = run(toy())
    (own_data / "0_ann_0.wav").unlink()
    (fewer,) = run(toy())
    assert (first.test, fewer.test, len(fits)) == (150, 149, 2)
    assert "is of other data: fingerprint, split differ; it is made anew" in caplog.text
    assert experiments.results(toy(), "official") == [fewer]
    sf.write(own_data / "0_ann_1.wav", np.random.default_rng(0).normal(0, 0.1, 2000), 8000, "PCM_16")
    (other,) = run(toy())
    assert len(fits) == 3 and "is of other data: fingerprint differ" in caplog.text
    assert run(toy()) == [other] and len(fits) == 3


def corrected_label(recordings: Recordings) -> Recordings:
    labels = recordings.table["label"].to_numpy().copy()
    labels[0] = 1
    return replace(recordings, table=recordings.table.assign(label=labels))


def another_group(recordings: Recordings) -> Recordings:
    groups = np.where(np.arange(len(recordings)) == 3, "dora", recordings.table["group"])
    return replace(recordings, table=recordings.table.assign(group=groups))


def another_class_name(recordings: Recordings) -> Recordings:
    return replace(recordings, class_names=(*recordings.class_names[:-1], "niner"))


def another_side(recordings: Recordings) -> Recordings:
    sides = recordings.table["official"].to_numpy().copy()
    sides[recordings.find(official="train")[0]] = "test"
    return replace(recordings, table=recordings.table.assign(official=sides))


@pytest.mark.parametrize("change", [corrected_label, another_group, another_class_name, another_side])
@pytest.mark.parametrize("kind", ["network", "prior"])
def test_a_result_of_other_labels_groups_or_sides_is_made_anew(
    change: Any, kind: str, recordings: Recordings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = toy() if kind == "network" else GroupPrior.model_validate(PRIOR | {"name": "mine/prior"})
    before = run(recipe)
    monkeypatch.setattr(datasets, "load", lambda name, progress: change(recordings))
    after = run(recipe)
    assert "is of other data" in caplog.text and after != before
    assert run(recipe) == after == experiments.results(recipe, "official")


def test_an_interrupted_training_of_other_labels_is_not_gone_on_with(
    recordings: Recordings, fits: Fits, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits.stop_after = 1
    for change in (lambda recordings: recordings, corrected_label):
        monkeypatch.setattr(datasets, "load", lambda name, progress, change=change: change(recordings))
        with pytest.raises(KeyboardInterrupt):
            run(with_training(epochs=2))
    assert [call["epochs"] for call in fits] == [1, 1]


def test_a_changed_recipe_has_a_result_of_its_own(fits: Fits) -> None:
    (first,) = run(toy())
    changed = with_training(learning_rate=0.002)
    (second,) = run(changed)
    assert len(fits) == 2 and second.recipe_hash == changed.hash and second.path != first.path
    assert second.path.stem == f"{first.path.stem}-{changed.hash}"
    for recipe, result in ((toy(), first), (changed, second)):
        assert experiments.results(recipe, "official") == [result] == run(recipe)
        assert len(experiments.predictions(result)) == 150
    first.path.unlink()
    assert run(changed) == [second] == experiments.results(changed, "official") and len(fits) == 2


def test_two_recipes_of_one_name_do_not_share_results(tmp_path: Path, fits: Fits) -> None:
    paths = [write_recipe(tmp_path / each / "mine" / "one.yaml", FORM) for each in ("here", "there")]
    write_recipe(Path(paths[1]), FORM, training=FORM["training"] | {"learning_rate": 0.01})
    one, other = map(recipes.load, paths)
    assert one.name == other.name == "mine/one"
    found = [run(recipe)[0] for recipe in (one, other, one, other)]
    assert found[0] == found[2] and found[1] == found[3] and len(fits) == 2
    assert len({result.path for result in found}) == 2
    run(one, keep_model=True)
    run(other, keep_model=True)
    assert all(experiments.load_model(recipe, "official", "official") is not None for recipe in (one, other))


# Interruptions


def test_an_interrupted_run_goes_on(fits: Fits) -> None:
    recipe = with_training(epochs=3)
    (straight,) = run(recipe)
    for ending in (".json", ".npz"):
        straight.path.with_suffix(ending).unlink()
    fits.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        run(recipe)
    assert files_in(environment.results_folder()) == []
    fits.stop_after = None
    (resumed,) = run(recipe)
    assert [call["epochs"] for call in fits] == [3, 2, 1]
    assert lasting(resumed) == lasting(straight)
    assert not list((environment.results_folder() / ".unfinished").glob("[!.]*"))


def test_an_interrupted_run_of_another_version_is_not_gone_on_with(fits: Fits) -> None:
    fits.stop_after = 1
    for recipe, seed in ((with_training(epochs=2), 0), (with_training(epochs=2), 1), (with_training(epochs=3), 0)):
        with pytest.raises(KeyboardInterrupt):
            run(recipe, seed=seed)
    fits.stop_after = None
    run(with_training(epochs=2, learning_rate=0.002))
    assert [call["epochs"] for call in fits] == [1, 1, 1, 2]


@pytest.mark.parametrize(("ending", "left"), [("npz", []), ("json", [f"{PLACE}.npz"])])
def test_a_full_disk_leaves_no_result_and_does_not_lose_the_training(
    ending: str, left: list[str], fits: Fits, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.replace

    def full(source: str, target: Path) -> None:
        if target.name == f"official-seed0.{ending}":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        really(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(ResultError, match=rf"official-seed0\.{ending}.*No space left"):
            run(toy())
    assert files_in(environment.results_folder()) == left and experiments.results(toy(), "official") == []
    (result,) = run(toy())
    assert [call["epochs"] for call in fits] == [1, 0]
    assert len(experiments.predictions(result)) == 150


# What cannot be run is refused before the training


NO_IMAGE = {"name": "CRNN", "front_end": [{"Standardise": {}}]}
OTHER_RATE = {"name": "LogMelCNN", "settings": {"n_mels": 20}}
OTHER_RATE["front_end"] = [{"LogMel": {"sample_rate": 16_000, "n_mels": 20}}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": NO_IMAGE}, "mine/toy: CRNN cannot take clips"),
        ({"clip": {"seconds": 0.02}}, r"mine/toy: StridedSampleCNN cannot take clips of 0\.02 s \(160 samples\)"),
        ({"model": OTHER_RATE}, "mine/toy: LogMelCNN cannot take clips .* 16000 Hz but the clips have 8000 Hz"),
        ({"model": {"name": "SpectrogramCNN", "settings": {"dropout": 7}}}, "SpectrogramCNN cannot be built"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused_first(changes: dict[str, Any], message: str, fits: Fits) -> None:
    with pytest.raises(RecipeError, match=message):
        run(toy(**changes))
    assert fits == [] and files_in(environment.results_folder()) == []


def test_settings_that_fail_while_training_only_are_refused_first(fits: Fits, monkeypatch: pytest.MonkeyPatch) -> None:
    really = layers.Standardise.forward

    def forward(self: nn.Module, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            raise ValueError("masks are wider than the image")
        return really(self, images)

    monkeypatch.setattr(layers.Standardise, "forward", forward)
    front_end = [{"LogMel": {"sample_rate": 8000, "n_mels": 20, "n_fft": 128}}, {"Standardise": {}}]
    with pytest.raises(RecipeError, match=r"mine/toy: LogMelCNN cannot take clips .* masks are wider"):
        run(toy(model={"name": "LogMelCNN", "settings": {"n_mels": 20}, "front_end": front_end}))
    assert fits == []


def test_trying_a_model_out_leaves_its_training_as_it_was(recordings: Recordings) -> None:
    recipe = toy(model={"name": "LogMelCNN", "settings": {"n_mels": 16, "channels": [4, 4, 4]}})
    torch.manual_seed(3)
    model = recipe.build(10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    recipe._try_out(model, recipe.clips(recordings, progress=False))
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_unknown_protocols_folds_and_seeds_are_answered_with_the_known_ones(fits: Fits) -> None:
    with pytest.raises(RecipeError, match="no protocol by_heart; it has official, leave_one_speaker_out"):
        run(toy(), protocol="by_heart")
    with pytest.raises(RecipeError, match="no fold 'dora'; it has ann, bob, cleo"):
        run(toy(), protocol="leave_one_speaker_out", fold="dora")
    for seed in (-1, 2**31, 10**14):
        with pytest.raises(RecipeError, match=f"from 0 to 2147483647, not {seed}"):
            run(toy(), seed=seed)
    assert fits == []


def test_one_of_several_processes_of_a_training_makes_no_result(fits: Fits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ResultError, match=r"recipe\.train"):
        run(toy())
    assert fits == []


def test_copies_of_one_recording_on_both_sides_are_refused_unless_the_protocol_is_leaky_anyway(
    own_data: Path, fits: Fits
) -> None:
    shutil.copy(own_data / "4_ann_2.wav", own_data / "4_bob_6.wav")
    with pytest.raises(DatasetError, match="4_ann_2 = 4_bob_6"):
        run(toy(), protocol="leave_one_speaker_out", fold="ann")
    assert fits == []
    assert len(run(toy())) == 1


# Weights


def test_weights_are_those_that_were_tested(recordings: Recordings) -> None:
    assert experiments.load_model(toy(), "official", "official") is None
    (result,) = run(toy(), keep_model=True)
    assert result.weights_path.is_file()
    model = experiments.load_model(toy(), "official", "official")
    tested = Clips.cut(recordings, 0.1, progress=False).of_recordings(recordings.find(official="test"))
    predicted = evaluation.predict(model, tested).argmax(dim=1)
    assert evaluation.confusion_matrix(tested.labels, predicted, 10).tolist() == result.confusion
    assert not model.training
    for recipe, seed in ((with_training(epochs=2), 0), (toy(clip={"seconds": 0.1, "hop_seconds": 1.0}), 0), (toy(), 1)):
        assert experiments.load_model(recipe, "official", "official", seed=seed) is None


def test_asking_for_weights_never_replaces_a_result(fits: Fits, monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = run(toy())
    before = {ending: first.path.with_suffix(ending).read_bytes() for ending in (".json", ".npz")}
    assert run(toy(), keep_model=True) == [first] and len(fits) == 2
    assert experiments.load_model(toy(), "official", "official") is not None
    assert run(toy(), keep_model=True) == [first] and len(fits) == 2
    first.weights_path.unlink()
    really = evaluation.predict_clips
    monkeypatch.setattr(evaluation, "predict_clips", lambda *given: really(*given) * 0.9)
    with pytest.raises(ResultError, match=r"other predictions now .* so its weights are not kept"):
        run(toy(), keep_model=True)
    assert {ending: first.path.with_suffix(ending).read_bytes() for ending in before} == before
    assert not first.weights_path.exists()


def test_weights_of_a_replaced_result_go_with_it(own_data: Path) -> None:
    (first,) = run(toy(), keep_model=True)
    weights = first.weights_path.read_bytes()
    (own_data / "0_ann_0.wav").unlink()
    run(toy())
    assert experiments.load_model(toy(), "official", "official") is None
    (own_data / "0_ann_1.wav").unlink()
    (third,) = run(toy(), keep_model=True)
    assert third.weights_path.read_bytes() != weights


def test_damaged_weights_are_named() -> None:
    (result,) = run(toy(), keep_model=True)
    content = bytearray(result.weights_path.read_bytes())
    content[-100] ^= 4
    result.weights_path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"official-seed0\.safetensors"):
        experiments.load_model(toy(), "official", "official")


def test_an_adversarial_network_has_a_domain_for_each_group_and_is_loaded_with_it(recordings: Recordings) -> None:
    recipe = toy(adversarial={"weight": 0.5})
    where = {"protocol": "leave_one_speaker_out", "fold": "cleo"}
    (result,) = run(recipe, **where, keep_model=True)
    model = experiments.load_model(recipe, **where)
    assert isinstance(model, DomainAdversarial) and (model.n_domains, model.weight) == (3, 0.5)
    tested = recipe.clips(recordings, progress=False).of_recordings(recordings.find(group="cleo"))
    predicted = evaluation.predict(model, tested).numpy()
    np.testing.assert_allclose(experiments.predictions(result).to_numpy(), predicted, atol=1e-5)
    assert result.parameters == sum(parameter.numel() for parameter in model.parameters())


# Whose turn it is


def test_what_another_is_at_work_on_is_not_run_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    fit, busy = training.fit, []

    def another() -> None:
        try:
            run(toy(), wait=False)
        except ResultBusy as error:
            busy.append(str(error))
        run(toy(), seed=1, wait=False)

    def meanwhile(*arguments: Any, **options: Any) -> History:
        monkeypatch.setattr(training, "fit", fit)
        thread = threading.Thread(target=another, daemon=True)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
        return fit(*arguments, **options)

    monkeypatch.setattr(training, "fit", meanwhile)
    (result,) = run(toy())
    assert len(busy) == 1 and str(result.path) in busy[0]
    assert run(toy(), wait=False) == [result]
    assert len(experiments.results(toy(), "official")) == 2


def test_what_another_is_at_work_on_is_waited_for_and_read(monkeypatch: pytest.MonkeyPatch, fits: Fits) -> None:
    waits, fit, found = threading.Event(), training.fit, []
    another = threading.Thread(target=lambda: found.extend(run(toy())), daemon=True)

    def meanwhile(*arguments: Any, **options: Any) -> History:
        another.start()
        assert waits.wait(60)
        return fit(*arguments, **options)

    monkeypatch.setattr(training, "fit", meanwhile)
    monkeypatch.setattr(runs.logger, "warning", lambda *_: waits.set())
    (result,) = run(toy())
    another.join(60)
    assert found == [result] and len(fits) == 1


@pytest.mark.parametrize("names", [("a-b/c", "a/b-c"), ("a/b", "a-b")])
def test_names_with_hyphens_have_claims_of_their_own(names: tuple[str, str], tmp_path: Path) -> None:
    one, other = (environment.results_folder() / name / "official" / "official-seed0.json" for name in names)
    with (
        runs._claim(one, "real", wait=False),
        runs._claim(other, "real", wait=False),
        pytest.raises(ResultBusy),
        runs._claim(one, "real", wait=False),
    ):
        pass


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs a system with fork")
def test_the_claim_of_a_killed_process_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fork = multiprocessing.get_context("fork")
    started = fork.Event()

    def train_forever(*_: Any, **__: Any) -> None:
        started.set()
        signal.pause()

    with monkeypatch.context() as patch:
        patch.setattr(Recipe, "train", train_forever)
        other = fork.Process(target=run, args=(toy(),))
        other.start()
    try:
        assert started.wait(60)
        with pytest.raises(ResultBusy):
            run(toy(), wait=False)
    finally:
        other.kill()
        other.join(60)
    (result,) = run(toy(), wait=False)
    assert result.path.is_file()


def test_a_failed_run_gives_its_claim_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Recipe, "train", fail)
        with pytest.raises(KeyboardInterrupt):
            run(toy())
    assert len(run(toy(), wait=False)) == 1


def test_fit_options_reach_the_training() -> None:
    seen: list[int] = []
    run(with_training(epochs=2), on_epoch=lambda history: seen.append(len(history.epochs)))
    assert seen == [1, 2]
