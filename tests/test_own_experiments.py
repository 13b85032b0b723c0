"""A data set from outside the library goes from recipe to run, table and figure; so does a folder of sounds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from test_own_dataset import TOY, defined_in
from toys import run, write_recipe

from course_lib import datasets, evaluation, experiments, figures
from course_lib.__main__ import main
from course_lib.datasets import ENTRIES, catalogue
from course_lib.experiments import recipes, tables, workers

PROTOCOLS = {"one_wood": 1, "woods": 1}
FORM = {
    "title": "Birds",
    "dataset": "birds",
    "protocols": PROTOCOLS,
    "preparation": {"times": 3.0},
    "clip": {"seconds": 0.25, "hop_seconds": 0.25},
    "model": {"name": "StridedSampleCNN", "settings": {"clip_samples": 1000, "stride": 64}},
    "training": {"epochs": 8, "batch_size": 16, "learning_rate": 0.01, "precision": "32-true"},
}
PRIOR = {"title": "Wood alone", "dataset": "birds", "protocols": PROTOCOLS, "baseline": "group_prior"}


@pytest.fixture(params=["COURSE_DATASETS", "register"])
def birds(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Three recipes for a data set of three classes that is defined in one file."""
    text = TOY.replace(
        'Protocol("one_wood", "one wood", one_wood, unit="group"),',
        'Protocol("one_wood", "one wood", one_wood, unit="group"), '
        'Protocol("woods", "leave one wood out", lambda r, seed: splits.leave_one_group_out(r), unit="group"),',
    )
    file = tmp_path / "birds.py"
    file.write_text(text)
    before = dict(ENTRIES)
    if request.param == "register":
        datasets.register(defined_in(file))
    else:
        monkeypatch.setenv("COURSE_DATASETS", str(file))
    folder = tmp_path / "aviary"
    members = [write_recipe(folder / "network.yaml", FORM), write_recipe(folder / "prior.yaml", PRIOR)]
    form = {key: value for key, value in PRIOR.items() if key != "baseline"} | {"title": "Both", "members": members}
    write_recipe(folder / "together.yaml", form)
    yield folder
    plt.close("all")
    ENTRIES.clear()
    ENTRIES.update(before)
    catalogue._FILES_READ.clear()


def test_a_data_set_of_one_s_own_goes_from_recipe_to_run_table_and_figure(
    birds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workers.run_missing(str(birds), progress=False) == ([], 0) and workers.missing(str(birds)) == []
    network = recipes.load(birds / "network.yaml")
    found = experiments.results(network, "woods", "stand-in", whole_seeds=True)
    assert [result.fold for result in found] == list("abcd") and found[0].form["preparation"]["times"] == 3.0
    assert all(set(result.counts[result.fold]) == {"finch", "tit", "wren"} for result in found)
    rows = tables.table(str(birds), source="stand-in")
    assert rows[["recipe", "protocol"]].to_numpy().tolist() == [
        [f"aviary/{name}", protocol] for name in ("network", "prior", "together") for protocol in PROTOCOLS
    ]
    best = rows.set_index(["recipe", "protocol"])
    assert best.loc[("aviary/network", "woods"), "mean"] > 0.8, "each kind of bird has a note of its own"
    assert best.loc[("aviary/prior", "woods"), "mean"] == pytest.approx(1 / 3)
    per_group = list(best.loc[("aviary/network", "woods"), "per_group"].values())
    low, high = evaluation.t_interval(per_group)
    assert best.loc[("aviary/network", "woods"), ["low", "high"]].tolist() == pytest.approx([max(low, 0), min(high, 1)])
    assert best.loc[("aviary/network", "one_wood"), ["low", "high"]].isna().all(), "one wood tells nothing of others"
    text = tables.markdown(rows)
    assert "nan" not in text and "worst wood" in text and "intervals over 4 woods" in text and "sensitivity" not in text
    assert main(["table", str(birds), "--stand-in"]) == 0 and capsys.readouterr().out.strip() == text
    shown = rows.rename(columns={"title": "name"})
    figure = figures.estimates(shown, "Birds", chance=1 / 3)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["Birds", "Wood alone", "Both"]
    decided = pd.concat([experiments.decisions(result) for result in found])
    matrix = evaluation.confusion_matrix(decided["label"], decided["predicted"], 3)
    words = datasets.get("birds").words
    axes = figures.confusions({"Birds": matrix}, ("finch", "tit", "wren"), "Birds", words).axes[0]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("bird", "taken for")


def test_an_ensemble_with_the_prior_of_one_s_own_data(birds: Path) -> None:
    together = recipes.load(birds / "together.yaml")
    (result,) = run(together, protocol="woods", fold="b")
    network, prior = (
        experiments.predictions(run(member, protocol="woods", fold="b")[0]) for member in together.recipes
    )
    expected = evaluation.pool_members([network, prior])
    np.testing.assert_allclose(experiments.predictions(result).loc[expected.index], expected, atol=1e-6)
    assert result.members.keys() == {"aviary/network", "aviary/prior"}


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """Noise of two places, one of which has a bar in its name, recorded by four people each."""
    random, folder = np.random.default_rng(0), tmp_path / "places"
    for place, hertz in {"cafe-restaurant": 400, "park & ride": 1200}.items():
        for person in ("ann", "bob.", "ann/bob".replace("/", " or "), "Zoë"):
            (folder / place / person).mkdir(parents=True)
            for number in range(3):
                tone = 0.2 * np.sin(2 * np.pi * hertz * np.arange(2000) / 4000) + random.normal(0, 0.05, 2000)
                sf.write(folder / place / person / f"{number}.wav", tone, 4000, "PCM_16")
    return folder


@pytest.mark.parametrize("protocol", ["random", "grouped_folds", "leave_one_person_out"])
def test_a_folder_of_one_s_own_sounds_goes_from_recipe_to_table(protocol: str, places: Path, tmp_path: Path) -> None:
    form = {key: value for key, value in FORM.items() if key != "preparation"}
    form |= {"dataset": str(places), "protocols": {protocol: 1}, "training": FORM["training"] | {"epochs": 1}}
    recipe = recipes.load(write_recipe(tmp_path / "mine" / "places.yaml", form))
    if protocol == "grouped_folds":
        with pytest.raises(datasets.DatasetError, match="4 groups, too few for 5 folds"):
            run(recipe)
        return
    found = run(recipe)
    listed = experiments.results(recipe, protocol, whole_seeds=True)
    assert sorted(map(repr, listed)) == sorted(map(repr, found))  # as text, for NaN is not equal to itself
    (row,) = tables.table(str(tmp_path / "mine")).to_dict("records")
    assert row["recordings"] == sum(result.test for result in found) and 0 <= row["mean"] <= 1
    assert row["scores"].keys() >= {"sensitivity", "specificity"}
    text = tables.markdown(tables.table(str(tmp_path / "mine")))
    assert "Birds (`mine/places`)" in text and "nan" not in text
