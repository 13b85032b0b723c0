"""What is missing is run once, by however many processes, and whatever ends them."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from course_lib import CourseError, environment, experiments, parallel, recipes
from course_lib.datasets import DatasetError
from course_lib.experiments import Result
from course_lib.experiments.workers import Job
from course_lib.experiments.recipe import RecipeError

FORM = {
    "title": "Toy",
    "dataset": "fsdd",
    "protocols": {"leave_one_speaker_out": 1, "official": 2},
    "clip": {"seconds": 0.1},
    "model": {"name": "StridedSampleCNN", "settings": {"clip_samples": 800, "stride": 64}},
    "training": {"epochs": 2, "batch_size": 32, "precision": "32-true"},
}

pytestmark = pytest.mark.usefixtures("fsdd_data")


class Shelf:
    """Recipes of one's own, which `only` names."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.only = folder, []
        folder.mkdir()

    def add(self, name: str, **changes: Any) -> str:
        """Write a recipe, without the keys that are None; returns its path."""
        path = self.folder / f"{name}.yaml"
        form = {key: value for key, value in (FORM | changes).items() if value is not None}
        path.write_text(yaml.safe_dump(form, sort_keys=False))
        self.only.append(str(path))
        return str(path)

    def missing(self) -> list[str]:
        """What is missing, in order, with the names of the files instead of their paths."""
        return [str(replace(job, recipe=Path(job.recipe).stem)) for job in parallel.missing("mine", self.only)]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "mine")


def run_missing(shelf: Shelf, workers: int) -> tuple[list[str], int]:
    return parallel.run_missing("mine", workers, shelf.only, progress=False)


def kept() -> list[str]:
    """All files of the results folder but the claims."""
    folder = environment.results_folder()
    found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return sorted(path.as_posix() for path in found if not path.parts[0].startswith("."))


# What is missing


def test_short_protocols_come_first_seed_by_seed(shelf: Shelf) -> None:
    shelf.add("one")
    shelf.add("other", protocols={"random": 1, "origin": 1})
    assert shelf.missing() == [
        "one official official seed 0",
        "other random random seed 0",
        "other origin origin seed 0",
        "one official official seed 1",
        "one leave_one_speaker_out ann seed 0",
        "one leave_one_speaker_out bob seed 0",
        "one leave_one_speaker_out cleo seed 0",
    ]
    assert parallel.missing("mine", shelf.only)[0] == Job(shelf.only[0], "official", "official", 0)


def test_what_has_a_result_of_this_version_is_not_missing(shelf: Shelf) -> None:
    path = shelf.add("one")
    recipe = recipes.load(path)
    experiments.run(recipe, 1, "official", progress=False)
    experiments.run(recipe, 0, "leave_one_speaker_out", "bob", progress=False)
    (other_data,) = experiments.run(recipe, 0, "official", progress=False)
    experiments.write_json(other_data.path, {"half": "a result"})
    left = [
        "one official official seed 0",
        "one leave_one_speaker_out ann seed 0",
        "one leave_one_speaker_out cleo seed 0",
    ]
    assert shelf.missing() == left
    shelf.add("one", training=FORM["training"] | {"epochs": 3})
    assert len(shelf.missing()) == 5  # named twice, counted once; nothing of the new version has been run


def test_all_recipes_of_a_folder_are_asked_for_unless_some_are_named(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shelf.folder / "fsdd").mkdir()
    monkeypatch.setattr(recipes, "FOLDER", shelf.folder)
    for name in ("fsdd/two", "fsdd/one"):
        shelf.add(name, protocols={"official": 1})
    assert [job.recipe for job in parallel.missing("fsdd")] == ["fsdd/one", "fsdd/two"]
    assert [job.recipe for job in parallel.missing("fsdd", ["fsdd/two"])] == ["fsdd/two"]


def test_what_cannot_be_asked_for_is_refused_at_once(shelf: Shelf) -> None:
    with pytest.raises(RecipeError, match="no recipes for 'bats'"):
        parallel.run_missing("bats", progress=False)
    with pytest.raises(RecipeError, match="no recipe fsdd/nonesuch"):
        parallel.run_missing("fsdd", only=["fsdd/nonesuch"], progress=False)
    for workers in (0, -1):
        with pytest.raises(CourseError, match=f"workers is {workers}; at least one"):
            run_missing(shelf, workers)
    shelf.add("one", dataset="nonesuch")
    with pytest.raises(DatasetError, match="nonesuch"):
        run_missing(shelf, 1)


# One job, in this process


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How far the worker has come with its training; this process is the second of two workers."""
    far = [0.0, 0.0]
    monkeypatch.setitem(parallel._worker, "number", 1)
    monkeypatch.setitem(parallel._worker, "shares", far)
    return far


def test_a_worker_tells_how_far_it_is_and_what_came_out(
    shelf: Shelf, shares: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    run = experiments.run

    def watched(*arguments: Any, on_epoch: Any, **options: Any) -> list[Result]:
        return run(*arguments, on_epoch=lambda history: (on_epoch(history), seen.append(shares[1])), **options)

    monkeypatch.setattr(experiments, "run", watched)
    said = parallel._work(Job(shelf.add("one"), "official", "official", 1))
    (result,) = experiments.results(recipes.load(shelf.only[0]), "official")
    assert said == f"accuracy {result.scores['accuracy']:.1%}" and result.seed == 1
    assert seen == [0.5, 1.0] and shares == [0.0, 0.0]


def test_a_worker_leaves_to_another_process_what_that_is_at_work_on(
    shelf: Shelf, shares: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: Any, wait: bool, **__: Any) -> None:
        assert not wait
        raise experiments.ResultBusy

    monkeypatch.setattr(experiments, "run", busy)
    with pytest.raises(experiments.ResultBusy):
        parallel._work(Job(shelf.add("one"), "official", "official", 0))
    assert shares == [0.0, 0.0]


def test_a_worker_trains_the_members_of_an_ensemble(shelf: Shelf, shares: list[float]) -> None:
    members = [shelf.add("one"), shelf.add("other", clip={"seconds": 0.1, "hop_seconds": 0.1})]
    both = shelf.add("both", members=members, clip=None, model=None, training=None)
    parallel._work(Job(both, "official", "official", 0))
    assert [len(experiments.results(recipes.load(path), "official")) for path in [*members, both]] == [1, 1, 1]
    assert shares == [0.0, 0.0]


# Several processes


def call(shelf: Shelf) -> None:
    """The work of a parent process: exit status 0 when nothing went wrong. Each of its workers has one thread."""
    raise SystemExit(len(run_missing(shelf, os.cpu_count() or 1)[0]))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs a system with fork")
def test_a_killed_run_is_completed_by_two_at_once(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    psutil = pytest.importorskip("psutil")
    fork = multiprocessing.get_context("fork")  # parents that need not import anything; their workers are spawned
    recipe = recipes.load(shelf.add("one", protocols={"official": 1}, training=FORM["training"] | {"epochs": 60}))

    killed = fork.Process(target=call, args=(shelf,))
    killed.start()
    while not list((environment.results_folder() / ".unfinished").glob("[!.]*.safetensors")):  # an epoch is done
        killed.join(0.01)
        assert killed.is_alive()
    workers = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    killed.join(60)
    assert workers and not psutil.wait_procs(workers, timeout=60)[1], "a worker outlived its parent"
    assert [name for name in kept() if not Path(name).name.startswith(".")] == []

    both = [fork.Process(target=call, args=(shelf,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(240)
    assert [process.exitcode for process in both] == [0, 0]
    places = [f"mine/one/official/official-seed0.{ending}" for ending in ("json", "npz")]
    assert [name for name in kept() if not Path(name).name.startswith(".")] == places
    assert shelf.missing() == []
    (completed,) = experiments.results(recipe, "official")

    for variable in ("CACHE", "RESULTS"):
        monkeypatch.setenv(f"COURSE_{variable}", str(tmp_path / variable))
    (straight,) = experiments.run(recipe, progress=False)
    assert replace(completed, seconds=0) == replace(straight, seconds=0)


def test_a_training_that_breaks_does_not_stop_the_others(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(job: Job) -> str:
        if job.fold == "bob":
            raise RuntimeError("out of memory")
        if job.seed == 1:
            raise experiments.ResultBusy
        return "done"

    monkeypatch.setattr(parallel, "ProcessPoolExecutor", lambda workers, *_: ThreadPoolExecutor(workers))
    monkeypatch.setattr(parallel, "_work", work)
    shelf.add("one")
    (problem,), left = run_missing(shelf, 2)
    assert left == 1  # the second seed of the official protocol
    assert problem.endswith("leave_one_speaker_out bob seed 0: RuntimeError: out of memory")


def test_two_workers_run_what_is_missing_and_report_what_cannot_be_run(shelf: Shelf) -> None:
    one = shelf.add("one", protocols={"official": 1, "random": 1})
    shelf.add("impossible", protocols={"official": 1}, clip={"seconds": 0.09})
    other = shelf.add("other", protocols={"official": 1}, clip={"seconds": 0.1, "hop_seconds": 0.1})
    shelf.add("both", members=[one, other], protocols={"official": 1}, clip=None, model=None, training=None)
    assert len(shelf.missing()) == 5
    (problem,), _ = run_missing(shelf, 2)
    assert problem.startswith(f"{shelf.folder}/impossible.yaml official official seed 0: mine/impossible: ")
    assert "StridedSampleCNN cannot take clips of 0.09 s" in problem
    results = ["both/official/official", "one/official/official", "one/random/random", "other/official/official"]
    before = {name: (environment.results_folder() / name).stat().st_mtime_ns for name in kept()}
    assert list(before) == [f"mine/{name}-seed0.{ending}" for name in results for ending in ("json", "npz")]
    assert shelf.missing() == ["impossible official official seed 0"]
    shelf.only = [path for path in shelf.only if "impossible" not in path]
    assert run_missing(shelf, 2) == ([], 0)
    assert {name: (environment.results_folder() / name).stat().st_mtime_ns for name in kept()} == before
    assert multiprocessing.active_children() == []
