"""What the kept predictions say, what several recipes say together, and whose turn it is to run."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from course_lib import environment, experiments, recipes, training
from course_lib.datasets import DatasetError
from course_lib.datasets.recordings import Recordings
from course_lib.experiments import Result, ResultBusy, ResultError
from course_lib.experiments.recipe import Ensemble, Recipe, RecipeError

FORM = {
    "title": "Toy",
    "dataset": "fsdd",
    "protocols": {"official": 1, "leave_one_speaker_out": 1},
    "clip": {"seconds": 0.1},
    "model": {"name": "StridedSampleCNN", "settings": {"clip_samples": 800, "stride": 64}},
    "training": {"epochs": 2, "batch_size": 32, "learning_rate": 0.01, "precision": "32-true"},
}

pytestmark = pytest.mark.usefixtures("fsdd_data")


def toy(**changes: Any) -> Recipe:
    return Recipe.model_validate({"name": "mine/toy"} | FORM | changes)


def run(recipe: Recipe | Ensemble, **options: Any) -> list[Result]:
    return experiments.run(recipe, progress=False, **options)


@pytest.fixture
def both(tmp_path: Path) -> Ensemble:
    """Two recipes together; the second cuts its recordings into several clips."""
    folder = tmp_path / "mine"
    folder.mkdir()
    forms = {"one": FORM, "other": FORM | {"clip": {"seconds": 0.1, "hop_seconds": 0.1}}}
    for name, form in forms.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(form, sort_keys=False))
    form = {key: FORM[key] for key in ("dataset", "protocols")}
    form |= {"title": "Both", "members": [str(folder / f"{name}.yaml") for name in forms]}
    (folder / "both.yaml").write_text(yaml.safe_dump(form, sort_keys=False))
    return recipes.load(folder / "both.yaml")


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


# Protocols


@pytest.fixture(scope="module")
def many() -> Recordings:
    """A table of 600 digits by six speakers."""
    speakers = ["george", "jackson", "lucas", "nicolas", "theo", "yweweler"]
    rows = [(f"{digit}_{name}_{take}", digit, name) for digit in range(10) for name in speakers for take in range(10)]
    table = pd.DataFrame(rows, columns=["recording", "label", "group"]).assign(path="none.wav")
    return Recordings("fsdd", table, tuple("0123456789"), 8000, "real")


@pytest.mark.parametrize(
    ("protocol", "speakers", "recordings"), [("origin", {"jackson", "nicolas", "theo"}, 300), ("random", None, 600)]
)
def test_a_tenth_is_drawn_by_the_seed(protocol: str, speakers: set[str] | None, recordings: int, many: Recordings):
    groups, labels = (many.table[column].to_numpy() for column in ("group", "label"))
    tests = []
    for seed in (0, 1, 0):
        (split,) = experiments.folds_of(many, protocol, seed)
        assert split.name == protocol
        assert (len(split.train), len(split.test)) == (recordings * 9 // 10, recordings // 10)
        assert not set(split.train) & set(split.test)
        assert set(groups[split.train]) == set(groups[split.test]) == (speakers or set(groups))
        assert np.bincount(labels[split.test]).tolist() == [recordings // 100] * 10
        tests.append(split.test.tolist())
    assert tests[0] == tests[2] != tests[1]


def test_the_other_protocols_do_not_depend_on_the_seed(many: Recordings) -> None:
    folds = [experiments.folds_of(many, "leave_one_speaker_out", seed) for seed in (0, 1)]
    assert [fold.name for fold in folds[0]] == sorted(set(many.table["group"]))
    assert all(np.array_equal(one.test, other.test) for one, other in zip(*folds, strict=True))
    with pytest.raises(DatasetError, match="no official split"):
        experiments.folds_of(many, "official")
    with pytest.raises(RecipeError, match="'by_heart'; known: origin, official, random, leave_one_speaker_out"):
        experiments.folds_of(many, "by_heart")


@pytest.mark.parametrize("protocol", ["origin", "random"])
def test_a_random_split_is_run_and_kept(protocol: str) -> None:
    recipe = toy(protocols={protocol: 2})
    one, other = (run(recipe, seed=seed)[0] for seed in (0, 1))
    assert (one.protocol, one.fold, one.folds, one.train, one.test) == (protocol, protocol, 1, 216, 24)
    assert one.path == environment.results_folder() / f"mine/toy/{protocol}/{protocol}-seed0.json"
    assert experiments.results(recipe, protocol) == [one, other]
    assert set(experiments.predictions(one).index) != set(experiments.predictions(other).index)


# Predictions


def test_predictions_are_those_that_were_counted(recordings: Recordings) -> None:
    (result,) = run(toy(clip={"seconds": 0.1, "hop_seconds": 0.1}))
    kept = experiments.predictions(result)
    assert kept.shape[1] == 10 and set(kept.index) == set(
        recordings.table["recording"][recordings.find(official="test")]
    )
    np.testing.assert_allclose(kept.sum(axis=1), 1, atol=5e-3)
    assert len(kept) > kept.index.nunique() == 150
    labels = recordings.table.set_index("recording")["label"]
    counted = np.zeros((10, 10), int)
    for name in kept.index.unique():  # a recording is what its clips say together, however many they are
        counted[labels[name], np.log(kept.loc[[name]].to_numpy()).sum(axis=0).argmax()] += 1
    assert counted.tolist() == result.confusion


class OneResult(NamedTuple):
    """A result, the content of the file of its predictions, and what is read from there."""

    result: Result
    content: bytes
    whole: pd.DataFrame

    def __repr__(self) -> str:
        return "OneResult"


@pytest.fixture(scope="module")
def one_result(tmp_path_factory: pytest.TempPathFactory, fsdd_folder: Path) -> OneResult:
    folder = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_DATA", str(fsdd_folder.parent))
        patch.setenv("COURSE_CACHE", str(folder / "cache"))
        patch.setenv("COURSE_RESULTS", str(folder / "results"))
        (result,) = run(toy())
        return OneResult(result, result.path.with_suffix(".npz").read_bytes(), experiments.predictions(result))


def in_place(result: Result, content: bytes) -> Path:
    path = result.path.with_suffix(".npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_missing_predictions_are_named(one_result: OneResult) -> None:
    with pytest.raises(ResultError, match=r"official-seed0\.npz, the predictions of a result"):
        experiments.predictions(one_result[0])


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"no archive",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content.replace(b"probabilities", b"probabilitiez"),
    ],
)
def test_damaged_predictions_are_named(damage: Callable[[bytes], bytes], one_result: OneResult) -> None:
    in_place(one_result[0], damage(one_result[1]))
    with pytest.raises(ResultError, match=r"official-seed0\.npz, the predictions of a result, cannot be read"):
        experiments.predictions(one_result[0])


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), flipped=st.integers(1, 255))
def test_predictions_with_a_wrong_byte_are_named_or_harmless(place: float, flipped: int, one_result: OneResult) -> None:
    result, content, whole = one_result
    wrong = bytearray(content)
    wrong[int(place * len(wrong))] ^= flipped
    in_place(result, bytes(wrong))
    try:
        found = experiments.predictions(result)
    except ResultError:
        return
    pd.testing.assert_frame_equal(found, whole)


# Several recipes together


def test_an_ensemble_is_the_normalised_product_of_its_members(both: Ensemble, recordings: Recordings) -> None:
    (result,) = run(both)
    members = [experiments.results(member, "official")[0] for member in both.recipes]
    table = recordings.table.set_index("recording")
    tested = table.index[table["official"] == "test"]
    product = np.ones((150, 10))
    for member in members:
        opinions = experiments.predictions(member)
        for row, name in enumerate(tested):
            several = np.maximum(opinions.loc[[name]].to_numpy(), 1e-7)
            product[row] *= np.prod(several, axis=0) ** (1 / len(several))
    expected = np.sqrt(product) / np.sqrt(product).sum(axis=1, keepdims=True)
    found = experiments.predictions(result)
    assert found.index.is_unique and len(found) == 150
    np.testing.assert_allclose(found.loc[tested], expected, atol=1e-3)
    labels, guesses = table["label"][tested].to_numpy(), expected.argmax(axis=1)
    assert result.scores["accuracy"] == pytest.approx((labels == guesses).mean())
    wrong = labels != guesses
    assert result.errors == dict(zip(tested[wrong], guesses[wrong].astype(str), strict=True))
    assert result.parameters == sum(member.parameters for member in members)
    assert result.seconds == pytest.approx(sum(member.seconds for member in members), abs=0.02)
    assert (result.recipe, result.recipe_hash, result.seed, result.kept_epoch) == ("mine/both", both.hash, 0, 0)
    assert (result.train, result.test, result.fingerprint) == (90, 150, members[0].fingerprint)
    assert Ensemble.model_validate(result.form) == both
    assert experiments.read(result.path) == result


def test_an_ensemble_trains_what_its_members_lack(both: Ensemble, trained: list[int]) -> None:
    one, other = both.recipes
    options = {"protocol": "leave_one_speaker_out", "fold": "bob", "seed": 3}
    run(one, **options)
    (result,) = run(both, **options)
    assert (result.fold, result.folds, trained) == ("bob", 3, [3, 3])
    assert [kept.fold for kept in experiments.results(other, "leave_one_speaker_out")] == ["bob"]
    assert run(both, **options) == [result] and len(trained) == 2
    result.path.unlink()
    assert run(both, **options) == [result] and len(trained) == 2


def test_an_ensemble_follows_a_member_that_changes(both: Ensemble, trained: list[int]) -> None:
    run(both)
    path = Path(both.members[0])
    path.write_text(path.read_text().replace("epochs: 2", "epochs: 1"))
    assert experiments.results(both, "official") == []
    (result,) = run(both)
    assert len(trained) == 3 and result.recipe_hash == both.hash


def test_an_ensemble_with_a_member_that_cannot_be_keeps_nothing(both: Ensemble, trained: list[int]) -> None:
    Path(both.members[1]).unlink()
    with pytest.raises(RecipeError, match=r"other\.yaml"):
        run(both)
    assert trained == [] and not list(environment.results_folder().rglob("*.json"))


def test_an_ensemble_of_a_member_without_predictions_names_their_file(both: Ensemble) -> None:
    (member,) = run(both.recipes[0])
    member.path.with_suffix(".npz").unlink()
    with pytest.raises(ResultError, match=r"mine/one/official/official-seed0\.npz"):
        run(both)
    assert experiments.results(both, "official") == []


# Whose turn it is


def test_what_another_is_at_work_on_is_not_run_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    fit, said = training.fit, []

    def another() -> None:
        try:
            run(toy(), wait=False)
        except ResultBusy as busy:
            said.append(str(busy))
        run(toy(), seed=1, wait=False)

    def meanwhile(*arguments: Any, **options: Any) -> training.History:
        monkeypatch.setattr(training, "fit", fit)
        thread = threading.Thread(target=another, daemon=True)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
        return fit(*arguments, **options)

    monkeypatch.setattr(training, "fit", meanwhile)
    (result,) = run(toy())
    (busy,) = said
    assert str(result.path) in busy
    assert run(toy(), wait=False) == [result]
    assert len(experiments.results(toy(), "official")) == 2


def test_what_another_is_at_work_on_is_waited_for_and_read(monkeypatch: pytest.MonkeyPatch, trained: list[int]) -> None:
    waits, fit, found = threading.Event(), training.fit, []
    another = threading.Thread(target=lambda: found.extend(run(toy())), daemon=True)

    def meanwhile(*arguments: Any, **options: Any) -> training.History:
        another.start()
        assert waits.wait(60)
        return fit(*arguments, **options)

    monkeypatch.setattr(training, "fit", meanwhile)
    monkeypatch.setattr(experiments.logger, "warning", lambda *_: waits.set())
    (result,) = run(toy())
    another.join(60)
    assert found == [result] and trained == [0]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs a system with fork")
def test_the_claim_of_a_killed_process_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fork = multiprocessing.get_context("fork")
    started = fork.Event()

    def train_forever(*_: Any, **__: Any) -> None:
        started.set()
        signal.pause()

    with monkeypatch.context() as patch:
        patch.setattr(experiments, "train", train_forever)
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
        patch.setattr(experiments, "train", fail)
        with pytest.raises(KeyboardInterrupt):
            run(toy())
    assert len(run(toy(), wait=False)) == 1


def test_results_that_cannot_be_claimed_are_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("COURSE_RESULTS", str(tmp_path / "file"))
    with pytest.raises(ResultError, match="cannot write the result"):
        run(toy())


def test_fit_options_reach_the_training() -> None:
    seen: list[int] = []
    run(toy(), on_epoch=lambda history: seen.append(len(history.epochs)))
    assert seen == [1, 2]
