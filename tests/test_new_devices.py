"""Devices that were left out: use of their unlabelled sound, and recipes compared on them in pairs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy import stats
from sklearn import metrics

from course_lib import datasets, evaluation, experiments, tables
from course_lib.datasets import Recordings, physionet2016
from course_lib.datasets.stand_ins import heart_sounds
from course_lib.experiments import Recipe, ResultError, comparison, recipes
from course_lib.training import adapt_batch_norm

LOG_MEL = {"LogMel": {"sample_rate": 1000, "n_mels": 16, "n_fft": 128, "hop_length": 20}}
FORM: dict[str, Any] = {
    "title": "Toy",
    "dataset": "physionet2016",
    "protocols": {"leave_one_device_out": 2},
    "preparation": {"first_s": 4},
    "clip": {"seconds": 1.0, "hop_seconds": 1.0},
    "validation": {"fraction": 0.5, "by": "recording_in_group"},
    "model": {"name": "LogMelCNN", "settings": {"n_mels": 16, "channels": [4, 8]}, "front_end": [LOG_MEL]},
    "training": {"epochs": 1, "batch_size": 32, "precision": "32-true", "balance": "class_and_group"},
}
TARGET = {"adversarial": {"weight": 0.5, "target": True, "head_learning_rate": 0.01}}


@pytest.fixture(scope="module")
def hearts(tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    """Forty hearts of six devices."""
    folder = tmp_path_factory.mktemp("hearts")
    heart_sounds.write(folder, recordings=40, seconds=5)
    return physionet2016.read(folder, "real")


@pytest.fixture(autouse=True)
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hearts: Recordings) -> None:
    """The recipes `physionet2016/toy`, `faster` and `target`, and the forty hearts as the data set."""
    folder = tmp_path / "recipes" / "physionet2016"
    folder.mkdir(parents=True)
    faster = {"training": FORM["training"] | {"learning_rate": 0.01}, "title": "Faster"}
    for name, changes in {"toy": {}, "faster": faster, "target": TARGET | {"title": "Target"}}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(FORM | changes, sort_keys=False))
    monkeypatch.setattr(recipes, "FOLDER", folder.parent)
    monkeypatch.setattr(datasets, "load", lambda name, progress=True: hearts)


def made(**changes: Any) -> Recipe:
    return Recipe.model_validate({"name": "mine/toy"} | FORM | changes)


def prediction(recipe: Recipe, recordings: Recordings, device: str) -> experiments.Prediction:
    return recipe.predict(recipe.fold(recordings, "leave_one_device_out", device), progress=False)


# Unlabelled sound


def relabelled(recordings: Recordings, device: str) -> Recordings:
    """The same recordings with the other label on one device."""
    table = recordings.table
    return replace(
        recordings, table=table.assign(label=table["label"].where(table["group"] != device, 1 - table["label"]))
    )


@pytest.mark.parametrize("changes", [TARGET, {"adaptation": "batch_norm"}], ids=["target", "adaptation"])
def test_the_sound_of_a_left_out_device_is_used_and_its_labels_are_not(
    hearts: Recordings, changes: dict[str, Any]
) -> None:
    first, flipped = (prediction(made(**changes), each, "b").test for each in (hearts, relabelled(hearts, "b")))
    assert first.equals(flipped)
    plain = TARGET["adversarial"] | {"target": False}
    without = prediction(made(adversarial=plain) if "adversarial" in changes else made(), hearts, "b").test
    assert set(first.index) == set(without.index) and not np.allclose(first.sort_index(), without.sort_index())


def test_unlabelled_recordings_are_not_counted_as_training_recordings(hearts: Recordings) -> None:
    recipe = made(**TARGET)
    fold = recipe.fold(hearts, "leave_one_device_out", "a")
    learned = np.setdiff1d(fold.split.train, recipe.validation_rows(fold))
    assert prediction(recipe, hearts, "a").facts["train"] == len(learned)


def test_each_device_is_predicted_after_adapting_to_its_own_clips(hearts: Recordings) -> None:
    recipe = made(adaptation="batch_norm")
    fold = recipe.fold(hearts, "leave_one_device_out", "c")
    model, _, clips = recipe.train(fold, progress=False)
    groups = hearts.table["group"].to_numpy(str)
    predicted = prediction(recipe, hearts, "c")
    for side, device in ((predicted.test, "c"), (predicted.validation, "f")):
        own = clips.of_recordings(np.flatnonzero(groups == device))
        expected = evaluation.predict_clips(adapt_batch_norm(model, own), own, hearts)
        names = [name for name in dict.fromkeys(expected.index) if name in side.index]
        assert names
        np.testing.assert_allclose(side.loc[names], expected.loc[names], atol=1e-6)


@pytest.mark.parametrize("changes", [TARGET, {"adaptation": "batch_norm"}], ids=["target", "adaptation"])
def test_a_result_and_its_row_say_that_unlabelled_sound_was_used(changes: dict[str, Any]) -> None:
    recipe = made(**changes)
    (result,) = experiments.run(recipe, fold="d", progress=False)
    assert result.note.endswith("uses its unlabelled sound")
    assert experiments.read(result.path).note == result.note
    assert made().note == "" and made(adversarial={"weight": 1}).note == ""


def test_unlabelled_clips_and_mixup_are_refused_together() -> None:
    with pytest.raises(ValueError, match=r"adversarial\.target and training\.mixup do not go together"):
        made(**TARGET, training=FORM["training"] | {"mixup": 0.2})


def test_new_keys_leave_the_hash_of_older_recipes_as_it_is() -> None:
    adversarial = made(adversarial={"weight": 1.0})
    told = made(adversarial={"weight": 1.0, "target": False, "head_learning_rate": None}, adaptation=None)
    assert told.hash == adversarial.hash
    changed = [made(**TARGET), made(adaptation="batch_norm"), made(adversarial={"weight": 1.0, "target": True})]
    changed.append(made(adversarial={"weight": 1.0, "head_learning_rate": 0.1}))
    assert len({recipe.hash for recipe in [made(), adversarial, *changed]}) == 6


# Comparison with a control


def run(name: str, seeds: int) -> None:
    for seed in range(seeds):
        experiments.run(recipes.load(f"physionet2016/{name}"), seed, "leave_one_device_out", progress=False)


def test_scores_of_each_left_out_device_follow_from_the_kept_predictions() -> None:
    run("toy", 1)
    scores = comparison.scores_by_group(recipes.load("physionet2016/toy"), "leave_one_device_out")
    found = experiments.results(recipes.load("physionet2016/toy"), "leave_one_device_out")
    assert len(scores) == len(found) == 6
    for result in found:
        tested, held_out = (experiments.decisions(result, part) for part in ("test", "validation"))
        row = scores.loc[(result.fold, result.fold, 0)]
        assert row["roc_auc"] == pytest.approx(metrics.roc_auc_score(tested["label"], tested["probability"]))
        assert row["balanced_accuracy"] == pytest.approx(result.scores["balanced_accuracy"])
        known = [
            metrics.balanced_accuracy_score(part["label"], part["predicted"])
            for _, part in held_out.groupby("group")
            if part["label"].nunique() == 2
        ]
        assert row["known"] == pytest.approx(np.mean(known))


def test_gains_are_paired_by_device_and_seed() -> None:
    run("toy", 1)
    run("faster", 2)
    names = ["physionet2016/faster", "physionet2016/target"]
    table = experiments.compared(names, "physionet2016/toy", "leave_one_device_out")
    assert table.index.tolist() == ["physionet2016/toy", "physionet2016/faster"]  # the third has no result
    control, faster = table.loc["physionet2016/toy"], table.loc["physionet2016/faster"]
    assert np.isnan(control["roc_auc_gain"]) and control["seeds"] == 1
    assert faster["seeds"] == 1 and faster["groups"] == 6  # the second seed has no partner
    own, other = (
        comparison.scores_by_group(recipes.load(f"physionet2016/{name}"), "leave_one_device_out").xs(0, level="seed")
        for name in ("faster", "toy")
    )
    for measure in comparison.MEASURES:
        gain = (own[measure] - other[measure]).to_numpy()
        low, high = stats.ttest_1samp(gain, 0).confidence_interval()
        shown = faster[[f"{measure}_gain", f"{measure}_low", f"{measure}_high"]].tolist()
        assert shown == pytest.approx([gain.mean(), low, high])
        assert faster[measure] - control[measure] == pytest.approx(gain.mean())
    fewer = experiments.compared(names, "physionet2016/toy", "leave_one_device_out", without=["e"])
    assert fewer["groups"].tolist() == [5, 5]
    expected = own.drop("e", level="group")["roc_auc"].mean()
    assert fewer.loc["physionet2016/faster", "roc_auc"] == pytest.approx(expected)


def test_a_control_without_results_is_named() -> None:
    with pytest.raises(ResultError, match="physionet2016/toy has no complete seed under leave_one_device_out"):
        experiments.compared([], "physionet2016/toy", "leave_one_device_out")


def test_the_note_stands_in_the_table() -> None:
    run("target", 1)
    row = tables.table("physionet2016").set_index("recipe").loc["physionet2016/target"]
    assert "uses its unlabelled sound" in tables.markdown(tables.table("physionet2016"))
    assert row["note"].endswith("uses its unlabelled sound")


def test_a_model_with_a_watching_head_learns_what_it_learns_without(hearts: Recordings) -> None:
    alone = prediction(made(), hearts, "b")
    watched = prediction(made(adversarial={"weight": 0.0, "head_learning_rate": 0.01}), hearts, "b")
    assert alone.test.equals(watched.test)
    assert torch.equal(alone.model.last_layer.weight, watched.model.last_layer.weight)
