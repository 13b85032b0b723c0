"""Heart sounds from recipe to table: protocols, decisions per recording, thresholds, the device prior."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn import metrics

from course_lib import datasets, evaluation, experiments, recipes, results, tables
from course_lib.__main__ import main
from course_lib.datasets import Recordings, physionet2016
from course_lib.datasets.stand_ins import heart_sounds
from course_lib.experiments import Result, ResultError
from course_lib.models import DomainAdversarial
from course_lib.experiments.recipe import Recipe

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


# Protocols


def test_the_published_lists_and_the_first_of_them_as_its_origin_used_it(hearts: Recordings) -> None:
    folds = experiments.folds_of(hearts, "published_lists")
    (first,) = experiments.folds_of(hearts, "published_list_0")
    assert [fold.name for fold in folds] == ["list_0", "list_1", "list_2", "list_3"]
    assert np.array_equal(first.train, folds[0].train) and np.array_equal(first.test, folds[0].test)
    assert np.array_equal(first.validation, first.test) and all(fold.validation is None for fold in folds)
    for fold in folds:
        assert not set(fold.train) & set(fold.test)
        assert not hearts.table["flagged"].iloc[[*fold.train, *fold.test]].any()


def test_leaving_one_device_out(hearts: Recordings) -> None:
    folds = experiments.folds_of(hearts, "leave_one_device_out")
    assert [fold.name for fold in folds] == list("abcdef")
    assert sorted(np.concatenate([fold.test for fold in folds])) == hearts.find(flagged=False).tolist()
    assert all(set(hearts.table["group"].iloc[fold.test]) == {fold.name} for fold in folds)


# Clips


def test_clips_are_prepared_and_cut_as_the_recipe_says(hearts: Recordings) -> None:
    few = hearts.subset(np.arange(3))
    recipe = Recipe.model_validate({"name": "mine/toy"} | FORM)
    clips = experiments.clips_of(recipe, few, progress=False)
    assert clips.sample_rate == 1000 and np.bincount(clips.recording).tolist() == [4, 4, 4]
    beats = recipe.model_copy(update={"clip": recipes.Clip(seconds=1.0, starts="cycles")})
    at_beats = experiments.clips_of(beats, few, progress=False)
    assert (at_beats.start[1:] != at_beats.start[:-1]).all() and not set(at_beats.start.tolist()) <= set(
        clips.start.tolist()
    )


# Decisions


@pytest.mark.parametrize("protocol", ["published_list_0", "published_lists"])
def test_a_result_counts_recordings_and_keeps_what_was_said_of_clips(protocol: str, hearts: Recordings) -> None:
    (result,) = run("toy", protocol, fold="list_0")
    table = hearts.table.set_index("recording")
    clips = experiments.predictions(result)
    assert clips.index.value_counts().eq(4).all()
    labels = table["label"][clips.index.unique()]
    odds = np.log(clips[1] / clips[0]).groupby(level=0, sort=False).mean()
    if protocol == "published_list_0":  # the origin's rule: a vote, ties abnormal
        assert result.threshold == 0.5
        predicted = (clips[1] >= 0.5).groupby(level=0, sort=False).mean() >= 0.5
    else:
        predicted = odds >= np.log(result.threshold / (1 - result.threshold))
    assert result.test == len(labels) == np.sum(result.confusion)
    assert result.scores["macc"] == pytest.approx(macc(labels, predicted))
    assert result.errors.keys() == set(labels.index[labels != predicted])
    assert result.rules["log_odds"]["macc"] == pytest.approx(macc(labels, odds >= 0))
    assert result.rules["segment"]["accuracy"] == pytest.approx(
        ((clips[1] >= 0.5) == table["label"][clips.index]).mean()
    )
    assert result.headline == f"MAcc {result.scores['macc']:.1%}"
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
    split = experiments.folds_of(hearts, "published_lists")[1]
    names = hearts.table["recording"].to_numpy()
    assert set(held_out.index) < set(names[split.train]) and set(tested.index) == set(names[split.test])
    assert set(held_out["group"]) == set("abcdef")


def test_a_probe_of_held_out_recordings_says_what_the_features_know_of_the_device(
    hearts: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (result,) = run("toy", "published_lists", fold="list_1")
    assert result.probe == {}  # a strided network names no features
    form = FORM | {"model": {"name": "LogMelCNN", "settings": {"n_mels": 16}}, "name": "mine/probed"}
    form["model"]["front_end"] = [{"LogMel": {"sample_rate": 1000, "n_mels": 16, "n_fft": 128, "hop_length": 20}}]
    recipe = Recipe.model_validate(form)
    monkeypatch.setattr(experiments, "_PROBE_FOLDS", 2)
    (result,) = experiments.run(recipe, 0, "published_lists", "list_1", keep_model=True, progress=False)
    held_out = experiments.decisions(result, "validation")
    counts = held_out["group"].value_counts()
    assert result.probe["chance"] == pytest.approx(1 / (counts >= 2).sum())
    model = experiments.load_model(recipe, "published_lists", "list_1")
    clips = experiments.clips_of(recipe, hearts, progress=False)
    names = hearts.table["recording"].to_numpy(str)
    features = []
    for name in held_out.index:
        features.append(evaluation.embed(model, clips.of_recordings(np.flatnonzero(names == name))).mean(dim=0).numpy())
    order = np.argsort([list(names).index(name) for name in held_out.index])
    expected = evaluation.probe(
        np.array(features)[order], held_out["group"].iloc[order], held_out.index[order], folds=2
    )
    assert result.probe["accuracy"] == pytest.approx(expected.accuracy)


def test_under_the_protocol_of_the_origin_the_test_side_is_the_validation_part() -> None:
    (result,) = run("toy", "published_list_0")
    assert result.validation == result.test
    pd.testing.assert_frame_equal(*(experiments.predictions(result, part) for part in ("test", "validation")))


def test_a_missing_part_is_named() -> None:
    (result,) = run("prior", "published_list_0")
    result.path.with_suffix(".npz").unlink()
    with pytest.raises(ResultError, match=r"list_0-seed0\.npz, the predictions of a result"):
        experiments.decisions(result)


# Against the device


def test_an_adversarial_recipe_is_trained_with_a_domain_for_each_device_and_loaded_with_it(hearts: Recordings) -> None:
    changes = {
        "adversarial": {"weight": 0.5},
        "model": {"name": "LeanSpectNet", "settings": {"n_filters": 4, "channels": [2, 4], "width": 8}},
    }
    recipe = Recipe.model_validate({"name": "physionet2016/against"} | FORM | changes)
    where = {"protocol": "leave_one_device_out", "fold": "c"}
    (result,) = experiments.run(recipe, **where, keep_model=True, progress=False)
    model = experiments.load_model(recipe, **where)
    assert isinstance(model, DomainAdversarial) and (model.n_domains, model.weight) == (6, 0.5)
    tested = experiments.clips_of(recipe, hearts, progress=False).of_recordings(hearts.find(group="c"))
    said = evaluation.predict(model, tested).numpy()
    np.testing.assert_allclose(experiments.predictions(result).to_numpy(), said, atol=1e-5)
    assert result.parameters == sum(parameter.numel() for parameter in model.parameters())


# The device prior


def test_the_prior_knows_the_device_and_nothing_else(hearts: Recordings) -> None:
    for result, split in zip(
        run("prior", "published_lists"), experiments.folds_of(hearts, "published_lists"), strict=True
    ):
        train = hearts.table.iloc[split.train]
        share = train.groupby("group")["label"].mean()
        decided = experiments.decisions(result)
        assert decided["probability"].tolist() == pytest.approx(share[decided["group"]].tolist(), abs=1e-6)
        counted = experiments.decisions(result, "validation")
        assert set(counted.index) == set(train["recording"])
        assert result.scores["macc"] == pytest.approx(macc(decided["label"], decided["predicted"]))


def test_the_prior_knows_nothing_of_an_unseen_device() -> None:
    results = run("prior", "leave_one_device_out")
    assert [result.scores["macc"] for result in results] == [0.5] * 6
    assert all(experiments.decisions(result)["probability"].nunique() == 1 for result in results)


@pytest.mark.parametrize(("protocol", "fold"), [("published_lists", "list_1"), ("leave_one_device_out", "b")])
def test_a_network_and_the_prior_together_are_their_normalised_product(
    protocol: str, fold: str, hearts: Recordings
) -> None:
    (result,) = run("together", protocol, fold=fold)
    (network,), (prior,) = (run(name, protocol, fold=fold) for name in ("toy", "prior"))
    labels = hearts.table.set_index("recording")["label"]
    odds = {}
    for part in ("test", "validation"):
        heard, known, both = (experiments.decisions(each, part)["probability"] for each in (network, prior, result))
        assert both.index.tolist() == heard.index.tolist() and set(both.index) <= set(known.index)
        odds[part] = (np.log(heard / (1 - heard)) + np.log(known / (1 - known))[heard.index]) / 2
        np.testing.assert_allclose(both, 1 / (1 + np.exp(-odds[part])), atol=1e-3)
    watched = odds["validation"]
    threshold = evaluation.best_threshold(labels[watched.index], 1 / (1 + np.exp(-watched)))
    assert result.threshold == pytest.approx(threshold, abs=1e-3)
    assert (result.train, result.validation, result.parameters) == (
        network.train,
        network.validation,
        network.parameters,
    )


# Tables


def keep(protocol: str, fold: str, folds: int, seed: int, said: dict[str, float], labels: Callable[[str], int]) -> None:
    """Keep a result of the prior with one clip a recording, said to be abnormal with the given probability."""
    (some,) = run("prior", "published_list_0")
    clips = pd.DataFrame({0: 1 - np.array([*said.values()]), 1: [*said.values()]}, index=[*said])
    about = pd.DataFrame({"label": map(labels, said), "group": [name[0] for name in said]}, index=[*said])
    results.keep(replace(some, protocol=protocol, fold=fold, folds=folds, seed=seed), clips, clips[:0], about)


def label(name: str) -> int:
    return int(name[1] == "1")


def test_the_row_of_the_lists_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    for seed, doubtful in ((0, 0.9), (1, 0.1)):
        keep("published_lists", "list_0", 2, seed, {"a1x": 0.8, "a1y": 0.2, "a0x": 0.3}, label)
        keep("published_lists", "list_1", 2, seed, {"b0x": 0.4, "b0y": doubtful, "b0z": 0.0}, label)
    row = next(row for row in tables.table("physionet2016") if row["protocol"] == "published_lists")
    assert (row["recipe"], row["seeds"], row["source"], row["leaky"]) == ("physionet2016/prior", [0, 1], "real", False)
    assert row["scores"]["sensitivity"] == 0.5
    assert row["scores"]["specificity"] == pytest.approx((3 / 4 + 4 / 4) / 2)
    assert row["scores"]["macc"] == pytest.approx((1 / 2 + 7 / 8) / 2)
    assert row["scores"]["precision"] == pytest.approx((1 / 2 + 1) / 2)
    assert row["scores"]["accuracy"] == row["scores"]["segment_accuracy"] == pytest.approx((4 / 6 + 5 / 6) / 2)
    assert row["per_group"] == {"a": pytest.approx((1 / 2 + 1) / 2), "b": None}
    assert row["per_group_interval"]["b"] is None
    # Of two abnormal ones, none or both are right in a quarter of the draws each; a normal one is half right.
    assert (row["low"], row["high"]) == evaluation.balanced_interval([1, 0, 1, 1, 0.5, 1], [1, 1, 0, 0, 0, 0])
    assert main(["table", "physionet2016", "--json"]) == 0
    assert row in json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_the_row_of_leaving_one_device_out_is_a_mean_over_devices() -> None:
    keep("leave_one_device_out", "a", 2, 0, {"a1x": 0.8, "a1y": 0.2, "a0x": 0.3}, label)
    keep("leave_one_device_out", "b", 2, 0, {"b1x": 0.8, "b0x": 0.9, "b0y": 0.9, "b0z": 0.9, "b0v": 0.1}, label)
    row = next(row for row in tables.table("physionet2016") if row["protocol"] == "leave_one_device_out")
    assert row["per_group"] == pytest.approx({"a": 3 / 4, "b": 5 / 8})
    assert row["scores"]["macc"] == pytest.approx((3 / 4 + 5 / 8) / 2)
    assert row["scores"]["accuracy"] == pytest.approx((2 / 3 + 2 / 5) / 2)
    assert row["low"] < row["scores"]["macc"] < row["high"]
    low, high = row["per_group_interval"]["a"]
    assert (low, high) == (0.5, 1)


def test_markdown_has_a_line_for_each_recipe_and_protocol_and_marks_the_leaky_one() -> None:
    run("prior", "leave_one_device_out")
    run("prior", "published_list_0")
    head, _, leaky, left_out = tables.markdown(tables.table("physionet2016")).splitlines()
    assert "MAcc" in head and head.count("|") == leaky.count("|") == left_out.count("|")
    assert "(leaky)" in leaky and "`physionet2016/prior`" in leaky and leaky.endswith("| 1 | real |")
    assert "leave one device out" in left_out and "50.0 % (50.0 % to 50.0 %)" in left_out
