"""Several recipes together, and a baseline that knows the group alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from toys import FORM, PRIOR, run, write_recipe

from course_lib import environment, experiments, training
from course_lib.datasets import Recordings
from course_lib.evaluation import EvaluationError, choose_members, group_prior
from course_lib.experiments import Ensemble, RecipeError, recipes

TOGETHER = {key: FORM[key] for key in ("dataset", "protocols")} | {"title": "Together"}

pytestmark = pytest.mark.usefixtures("fsdd_data")


@pytest.fixture
def both(tmp_path: Path) -> Ensemble:
    """Two recipes together; the second cuts its recordings into several clips."""
    folder = tmp_path / "mine"
    members = [write_recipe(folder / "one.yaml")]
    members += [write_recipe(folder / "other.yaml", clip={"seconds": 0.1, "hop_seconds": 0.1})]
    return recipes.load(write_recipe(folder / "both.yaml", TOGETHER, members=members))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seed of each call of `training.fit`."""
    calls: list[int] = []
    fit = training.fit

    def counted(*arguments: Any, seed: int, **options: Any) -> training.History:
        calls.append(seed)
        return fit(*arguments, seed=seed, **options)

    monkeypatch.setattr(training, "fit", counted)
    return calls


def test_an_ensemble_is_the_normalised_product_of_its_members(both: Ensemble, recordings: Recordings) -> None:
    (result,) = run(both)
    members = [experiments.results(member, "official")[0] for member in both.recipes]
    table = recordings.table.set_index("recording")
    tested = table.index[table["official"] == "test"]
    product = np.ones((150, 10))
    for member in members:
        clips = experiments.predictions(member)
        for row, name in enumerate(tested):
            several = np.maximum(clips.loc[[name]].to_numpy(), 1e-7)
            product[row] *= np.prod(several, axis=0) ** (1 / len(several))
    expected = np.sqrt(product) / np.sqrt(product).sum(axis=1, keepdims=True)
    found = experiments.predictions(result)
    assert found.index.is_unique and len(found) == 150
    np.testing.assert_allclose(found.loc[tested], expected, atol=1e-5)
    labels, predicted = table["label"][tested].to_numpy(), expected.argmax(axis=1)
    assert result.scores["accuracy"] == pytest.approx((labels == predicted).mean())
    assert result.parameters == sum(member.parameters for member in members)
    assert result.seconds == pytest.approx(sum(member.seconds for member in members), abs=0.02)
    assert (result.recipe, result.recipe_hash, result.seed, result.kept_epoch) == ("mine/both", both.hash, 0, 0)
    assert (result.train, result.test) == (90, 150)
    assert result.members == {member.recipe: member.predictions for member in members}
    assert Ensemble.model_validate(result.form) == both
    assert experiments.read(result.path) == result


def test_an_ensemble_trains_what_its_members_lack(both: Ensemble, trained: list[int]) -> None:
    one, other = both.recipes
    options = {"protocol": "leave_one_speaker_out", "fold": "bob", "seed": 3}
    run(one, **options)
    (result,) = run(both, **options)
    assert (result.fold, result.folds, trained) == ("bob", 3, [3, 3])
    assert [each.fold for each in experiments.results(other, "leave_one_speaker_out")] == ["bob"]
    assert run(both, **options) == [result] and len(trained) == 2
    result.path.unlink()
    assert run(both, **options) == [result] and len(trained) == 2


def test_an_ensemble_follows_a_member_that_changes(both: Ensemble, trained: list[int]) -> None:
    run(both)
    path = Path(both.members[0])
    path.write_text(path.read_text().replace("epochs: 1", "epochs: 2"))
    assert experiments.results(both, "official") == []
    (result,) = run(both)
    assert len(trained) == 3 and result.recipe_hash == both.hash


def test_an_ensemble_of_members_that_were_made_again_is_made_again(
    both: Ensemble, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (before,) = run(both)
    member = experiments.results(both.recipes[0], "official")[0]
    member.path.unlink()
    monkeypatch.setattr(training.Settings, "learning_rate_at", lambda *_: 0.01)  # a training that comes out otherwise
    (other,) = run(both.recipes[0])
    assert other.predictions != member.predictions
    (after,) = run(both)
    assert after.members["mine/one"] == other.predictions != before.members["mine/one"]
    assert "is of other data: members differ; it is made anew" in caplog.text


def test_members_on_other_data_are_run_again_before_they_are_joined(
    both: Ensemble, trained: list[int], fsdd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (before,) = run(both)
    shutil.copytree(fsdd_folder, tmp_path / "fewer" / "fsdd")
    (tmp_path / "fewer/fsdd/recordings/0_ann_0.wav").unlink()
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "fewer"))
    (after,) = run(both)
    assert (before.test, after.test, len(trained)) == (150, 149, 4)
    assert after.fingerprint != before.fingerprint and after.split != before.split


def test_an_ensemble_with_a_member_that_cannot_be_makes_nothing(both: Ensemble, trained: list[int]) -> None:
    Path(both.members[1]).unlink()
    with pytest.raises(RecipeError, match=r"other\.yaml"):
        run(both)
    assert trained == [] and not list(environment.results_folder().rglob("*.json"))


def test_a_member_without_predictions_is_run_again(both: Ensemble, trained: list[int]) -> None:
    (member,) = run(both.recipes[0])
    member.path.with_suffix(".npz").unlink()
    (result,) = run(both)
    assert len(trained) == 3 and result.members["mine/one"] == member.predictions


def test_the_prior_knows_the_group_and_nothing_else(tmp_path: Path, recordings: Recordings, trained: list[int]) -> None:
    prior = recipes.load(write_recipe(tmp_path / "mine" / "prior.yaml", PRIOR))
    (result,) = run(prior)
    train, test = (recordings.table.iloc[recordings.find(official=side)] for side in ("train", "test"))
    expected = group_prior(train["label"], train["group"], 10)(test["group"]).set_axis(test["recording"])
    np.testing.assert_allclose(experiments.predictions(result).loc[test["recording"]], expected, atol=1e-6)
    assert (result.parameters, result.device, trained) == (0, "none", [])
    for unseen in run(prior, protocol="leave_one_speaker_out"):
        assert unseen.scores["balanced_accuracy"] == pytest.approx(0.1), "of an unknown group it knows nothing"


def test_a_network_and_the_prior_together(tmp_path: Path) -> None:
    members = [write_recipe(tmp_path / "mine" / "one.yaml"), write_recipe(tmp_path / "mine" / "prior.yaml", PRIOR)]
    together = recipes.load(write_recipe(tmp_path / "mine" / "both.yaml", TOGETHER, members=members))
    (result,) = run(together)
    network, prior = (experiments.predictions(run(member)[0]) for member in together.recipes)
    product = np.sqrt(network * prior.loc[network.index])
    found = experiments.predictions(result).loc[network.index]
    np.testing.assert_allclose(found, product.div(product.sum(axis=1), axis=0), atol=1e-5)


def certain(classes: list[int]) -> pd.DataFrame:
    """Probabilities of recordings r0, r1 ... that are sure of the given classes."""
    return pd.DataFrame(np.eye(3)[classes] * 0.7 + 0.1, index=[f"r{row}" for row in range(len(classes))])


def test_members_are_chosen_that_are_best_together() -> None:
    labels = pd.Series([0, 1, 2, 0, 1, 2], index=[f"r{row}" for row in range(6)])
    good, half, wrong = certain([0, 1, 2, 0, 1, 0]), certain([0, 1, 0, 0, 1, 2]), certain([1, 2, 0, 1, 2, 0])
    assert choose_members({"wrong": wrong, "good": good}, labels) == ("good",)
    sure = half.copy()
    sure.loc["r5"] = [0.01, 0.01, 0.98]  # right where the other is wrong, and surer of it
    good.loc["r2"] = [0.01, 0.01, 0.98]
    assert choose_members({"wrong": wrong, "good": good, "sure": sure}, labels) == ("good", "sure")
    assert choose_members({"a": good, "b": good.iloc[::-1]}, labels) == ("a",), "of equals the smaller set"
    with pytest.raises(EvaluationError, match="from 1 to 12"):
        choose_members({}, labels)


def test_two_classes_are_chosen_by_the_best_threshold_of_each_set() -> None:
    names = [f"r{row}" for row in range(6)]
    labels = pd.Series([0, 0, 0, 1, 1, 1], index=names)

    def two(positive: list[float]) -> pd.DataFrame:
        return pd.DataFrame({0: 1 - np.array(positive), 1: positive}, index=names)

    low = two([0.01, 0.02, 0.03, 0.1, 0.2, 0.3])  # from a half it has one class, from 0.05 it is always right
    half = two([0.1, 0.1, 0.7, 0.4, 0.9, 0.9])
    assert choose_members({"half": half, "low": low}, labels) == ("low",)
    with pytest.raises(EvaluationError, match="of one class"):
        choose_members({"low": low}, pd.Series(1, index=names))


def test_members_may_be_chosen_by_the_mean_over_groups() -> None:
    names = [f"r{row}" for row in range(24)]
    labels = pd.Series([0, 1] * 12, index=names)
    groups = pd.Series(["large"] * 20 + ["small"] * 4, index=names)

    def right_in(rows: list[int], sure: float) -> pd.DataFrame:
        positive = np.where(np.isin(np.arange(24), rows), labels, 1 - labels) * (2 * sure - 1) + 1 - sure
        return pd.DataFrame({0: 1 - positive, 1: positive}, index=names)

    # The surer one outvotes the other, so that both together are no better than it is.
    members = {"large": right_in([*range(20)], 0.99), "small": right_in([*range(14), *range(20, 24)], 0.6)}
    assert choose_members(members, labels) == ("large",), "20 of 24 are right against 18"
    assert choose_members(members, labels, groups) == ("small",), "85 % on the mean of groups against 50 %"


def test_members_are_chosen_on_the_training_side_of_each_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, protocols = tmp_path / "mine", {"leave_one_speaker_out": 1}
    members = [write_recipe(folder / f"{name}.yaml", protocols=protocols) for name in ("one", "other")]
    form = TOGETHER | {"protocols": protocols}
    some = recipes.load(write_recipe(folder / "some.yaml", form, members=members, chosen_on="leave_one_speaker_out"))
    shown: list[set[str]] = []

    def first(predicted: dict[str, pd.DataFrame], labels: pd.Series) -> tuple[str, ...]:
        shown.append({name.split("_")[1] for clips in predicted.values() for name in clips.index})
        return tuple(predicted)[: 1 + len(shown) % 2]

    monkeypatch.setattr("course_lib.evaluation.choose_members", first)
    results = run(some)
    assert [len(result.members) for result in results] == [2, 1, 2]
    assert len(experiments.results(some, "leave_one_speaker_out", whole_seeds=True)) == 3
    assert shown[:3] == [{"bob", "cleo"}, {"ann", "cleo"}, {"ann", "bob"}], "nothing of the speaker that is left out"
    every = recipes.load(write_recipe(folder / "every.yaml", form, members=members))
    assert every.hash != some.hash
    with pytest.raises(RecipeError, match="no protocol official to be chosen on"):
        _ = recipes.load(write_recipe(folder / "odd.yaml", form, members=members, chosen_on="official")).recipes


def test_members_may_be_chosen_on_the_validation_part_of_each_fold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[int]
) -> None:
    folder, protocols = tmp_path / "mine", {"leave_one_speaker_out": 1}
    form = {"protocols": protocols, "validation": {"fraction": 0.3, "by": "recording"}}
    members = [write_recipe(folder / f"{name}.yaml", **form) for name in ("one", "other")]
    changes = {"protocols": protocols, "members": members, "chosen_on": "validation"}
    some = recipes.load(write_recipe(folder / "some.yaml", TOGETHER | changes))
    shown: list[set[str]] = []

    def by_size(predicted: dict[str, pd.DataFrame], labels: pd.Series, groups: object) -> tuple[str, ...]:
        shown.append({name for clips in predicted.values() for name in clips.index})
        return tuple(predicted) if any("_ann_" in name for name in shown[-1]) else tuple(predicted)[1:]

    monkeypatch.setattr("course_lib.evaluation.choose_members", by_size)
    results = run(some)
    own = experiments.results(some.recipes[0], "leave_one_speaker_out")
    held_out = {result.fold: set(experiments.predictions(result, "validation").index) for result in own}
    assert len(trained) == 6 and all(names in shown for names in held_out.values())
    for result in results:
        assert not any(f"_{result.fold}_" in name for name in held_out[result.fold]), "nothing of the speaker left out"
        assert list(result.members) == ["mine/one", "mine/other"][result.fold == "ann" :]
    assert len(experiments.results(some, "leave_one_speaker_out", whole_seeds=True)) == 3
    assert run(some) == results and len(trained) == 6
    without = [write_recipe(folder / "without.yaml", protocols=protocols), members[0]]
    with pytest.raises(RecipeError, match="mine/without has no validation part"):
        _ = recipes.load(write_recipe(folder / "odd.yaml", TOGETHER | changes | {"members": without})).recipes
