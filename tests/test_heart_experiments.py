"""Heart sounds from recipe to table: protocols, decisions per recording, thresholds, the device prior."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn import metrics

from course_lib import datasets, evaluation, experiments
from course_lib.datasets import Recordings, physionet2016
from course_lib.datasets.stand_ins import heart_sounds
from course_lib.experiments import Recipe, Result, recipe, recipes, tables

PROTOCOLS = {"published_list_0": 1, "published_lists": 1, "leave_one_device_out": 1}
FORM = {
    "title": "Toy",
    "dataset": "physionet2016",
    "protocols": PROTOCOLS,
    "preparation": {"first_s": 4},
    "clip": {"seconds": 1.0, "hop_seconds": 1.0},
    "validation": {"fraction": 0.5, "by": "recording_in_group"},
    "model": {"name": "StridedSampleCNN", "settings": {"clip_samples": 1000, "stride": 64}},
    "training": {"epochs": 1, "batch_size": 64, "learning_rate": 0.01, "precision": "32-true"},
}
LOG_MEL = {
    "name": "LogMelCNN",
    "settings": {"n_mels": 16},
    "front_end": [{"LogMel": {"sample_rate": 1000, "n_mels": 16, "n_fft": 128, "hop_length": 20}}],
}
TOGETHER = {"title": "Together", "dataset": "physionet2016", "protocols": PROTOCOLS}
PRIOR = {"title": "Prior", "dataset": "physionet2016", "protocols": PROTOCOLS, "baseline": "group_prior"}


@pytest.fixture(scope="module")
def hearts(tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    """Forty hearts of six devices, five of them flagged."""
    folder = tmp_path_factory.mktemp("hearts")
    heart_sounds.write(folder, recordings=40, seconds=5)
    recordings = physionet2016.read(folder, "real")
    few = recordings.find(group="e", label=0)[:5]
    return replace(recordings, table=recordings.table.assign(flagged=np.isin(np.arange(len(recordings)), few)))


@pytest.fixture(autouse=True)
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hearts: Recordings) -> None:
    """The recipes `physionet2016/toy`, `prior` and `together` alone, and the forty hearts as the data set."""
    folder = tmp_path / "recipes" / "physionet2016"
    folder.mkdir(parents=True)
    together = TOGETHER | {"members": ["physionet2016/prior", "physionet2016/toy"]}
    for name, form in (("toy", FORM), ("prior", PRIOR), ("together", together)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(form, sort_keys=False))
    monkeypatch.setattr(recipes, "FOLDER", folder.parent)
    monkeypatch.setattr(datasets, "load", lambda name, progress=True: hearts)


def run(name: str, protocol: str, **options: Any) -> list[Result]:
    return experiments.run(recipes.load(f"physionet2016/{name}"), protocol=protocol, progress=False, **options)


def macc(labels: Any, predicted: Any) -> float:
    return metrics.balanced_accuracy_score(labels, predicted)


# Clips


def test_clips_are_prepared_and_cut_as_the_recipe_says(hearts: Recordings) -> None:
    few = hearts.subset(np.arange(3))
    clips = Recipe.model_validate({"name": "mine/toy"} | FORM).clips(few, progress=False)
    assert clips.sample_rate == 1000 and np.bincount(clips.recording).tolist() == [4, 4, 4]
    at_beats = Recipe.model_validate({"name": "mine/toy"} | FORM | {"clip": {"seconds": 1.0, "starts": "cycles"}})
    starts = at_beats.clips(few, progress=False).start
    assert (starts[1:] != starts[:-1]).all() and not set(starts.tolist()) <= set(clips.start.tolist())


# Decisions


@pytest.mark.parametrize("protocol", ["published_list_0", "published_lists"])
def test_a_result_counts_recordings_and_has_the_scores_of_clips(protocol: str, hearts: Recordings) -> None:
    (result,) = run("toy", protocol, fold="list_0")
    table = hearts.table.set_index("recording")
    clips = experiments.predictions(result)
    assert clips.index.value_counts().eq(4).all()
    labels = table["label"][clips.index.unique()]
    odds = np.log(clips[1] / clips[0]).groupby(level=0, sort=False).mean()
    if protocol == "published_list_0":  # the rule of the paper: a vote, ties abnormal
        assert result.threshold == 0.5
        predicted = (clips[1] >= 0.5).groupby(level=0, sort=False).mean() >= 0.5
    else:
        predicted = odds >= np.log(result.threshold / (1 - result.threshold))
    assert result.test == len(labels) == np.sum(result.confusion)
    assert result.scores["balanced_accuracy"] == pytest.approx(macc(labels, predicted))
    assert result.errors.keys() == set(labels.index[labels != predicted])
    assert result.rules["log_odds"]["balanced_accuracy"] == pytest.approx(macc(labels, odds >= 0))
    assert result.rules["clip"]["accuracy"] == pytest.approx(((clips[1] >= 0.5) == table["label"][clips.index]).mean())
    decided = experiments.decisions(result)
    assert decided["predicted"].tolist() == predicted.astype(int).tolist()
    assert decided[["label", "group"]].equals(table.loc[decided.index, ["label", "group"]])
    assert decided["clips"].eq(4).all() and decided["predicted"].equals((decided["margin"] >= 0).astype(int))
    np.testing.assert_allclose(decided["probability"], 1 / (1 + np.exp(-odds)), atol=1e-5)
    assert repr(experiments.read(result.path)) == repr(result)  # NaN is not equal to itself


def test_the_threshold_is_chosen_on_the_validation_part_of_the_training_side(hearts: Recordings) -> None:
    (result,) = run("toy", "published_lists", fold="list_1")
    held_out, tested = (experiments.decisions(result, part) for part in ("validation", "test"))
    assert result.threshold == pytest.approx(evaluation.best_threshold(held_out["label"], held_out["probability"]))
    assert len(held_out) == result.validation
    split = physionet2016.DATASET.protocol("published_lists").splits(hearts, 0)[1]
    names = hearts.table["recording"].to_numpy()
    assert set(held_out.index) < set(names[split.train]) and set(tested.index) == set(names[split.test])
    assert set(held_out["group"]) == set("abcdef")


def test_the_threshold_for_left_out_devices_gives_each_other_device_the_same_say(hearts: Recordings) -> None:
    (result,) = run("toy", "leave_one_device_out", fold="b")
    held_out, tested = (experiments.decisions(result, part) for part in ("validation", "test"))
    by_device = evaluation.best_threshold(held_out["label"], held_out["probability"], held_out["group"])
    assert result.threshold == pytest.approx(by_device)
    assert set(held_out["group"]) == set("acdef") and set(tested["group"]) == {"b"}
    assert result.scores["roc_auc"] == pytest.approx(metrics.roc_auc_score(tested["label"], tested["probability"]))


def test_protocols_say_beforehand_what_is_scored_and_how_the_threshold_is_chosen() -> None:
    stated = {protocol.name: protocol.statement for protocol in physionet2016.DATASET.protocols}
    devices, lists = stated["leave_one_device_out"], stated["published_lists"]
    assert "the mean over the left-out devices" in devices and "as a mean over their devices" in devices
    assert "all test recordings together" in lists and "held-out recordings of the training side." in lists
    assert "at least half of its clips" in stated["published_list_0"]


def test_a_probe_of_held_out_recordings_tells_what_the_features_know_of_the_device(
    hearts: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed = Recipe.model_validate(FORM | {"model": LOG_MEL, "name": "mine/probed"})
    monkeypatch.setattr(recipe, "_PROBE_FOLDS", 2)
    (result,) = experiments.run(probed, 0, "published_lists", "list_1", keep_model=True, progress=False)
    held_out = experiments.decisions(result, "validation")
    counts = held_out["group"].value_counts()
    assert result.probe["chance"] == pytest.approx(1 / (counts >= 2).sum())
    model = experiments.load_model(probed, "published_lists", "list_1")
    clips = probed.clips(hearts, progress=False)
    names = hearts.table["recording"].to_numpy(str)
    features = []
    for name in held_out.index:
        features.append(evaluation.embed(model, clips.of_recordings(np.flatnonzero(names == name))).mean(dim=0).numpy())
    order = np.argsort([list(names).index(name) for name in held_out.index])
    expected = evaluation.probe(
        np.array(features)[order], held_out["group"].iloc[order], held_out.index[order], folds=2
    )
    assert result.probe["accuracy"] == pytest.approx(expected.accuracy)


def test_under_the_protocol_of_the_paper_the_test_side_is_the_validation_part() -> None:
    (result,) = run("toy", "published_list_0")
    assert result.validation == result.test
    pd.testing.assert_frame_equal(*(experiments.predictions(result, part) for part in ("test", "validation")))


@pytest.mark.parametrize("protocol", ["published_list_0", "published_lists"])
def test_the_history_has_the_score_of_the_recordings_that_the_last_epoch_gives(protocol: str) -> None:
    (result,) = run("toy", protocol, fold="list_0")
    rule = "vote" if protocol == "published_list_0" else "log_odds"
    decided = evaluation.decide(experiments.predictions(result, "validation"), rule)
    labels = experiments.decisions(result, "validation")["label"]
    (epoch,) = result.history
    assert epoch["validation_recordings_balanced_accuracy"] == pytest.approx(macc(labels, decided["predicted"]))


# Tables


def test_tables_have_a_row_for_each_protocol_with_the_words_of_the_data_set() -> None:
    run("prior", "leave_one_device_out")
    run("prior", "published_list_0")
    rows = tables.table("physionet2016")
    assert rows["protocol"].tolist() == ["published_list_0", "leave_one_device_out"]
    assert rows["leaky"].tolist() == [True, False] and rows["unit"].tolist() == ["recording", "group"]
    assert rows["mean"][1] == 0.5 and rows["low"][1] == rows["high"][1] == 0.5  # the prior knows no device it never saw
    text = tables.markdown(rows)
    assert "sensitivity" in text and "worst device" in text and "intervals over 6 devices" in text
    assert text.index("List 0") < text.index("Leave one device out")
    for protocol in ("published_list_0", "leave_one_device_out"):
        assert physionet2016.DATASET.protocol(protocol).statement in text
    assert rows["scores"][1]["roc_auc"] == 0.5 and "area under ROC" in text
