"""What is missing is run once, by however many processes, and whatever ends them."""

from __future__ import annotations

import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toys import FORM, files_in, run, write_recipe

from course_lib import CourseError, environment, experiments, training
from course_lib.datasets import DatasetError
from course_lib.experiments import RecipeError, ResultBusy, recipes, workers
from course_lib.experiments.workers import Job, missing, run_in_processes, run_missing

pytestmark = pytest.mark.usefixtures("fsdd_data")


class Shelf:
    """A folder of recipes of one's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, **changes: Any) -> str:
        return write_recipe(self.folder / f"{name}.yaml", FORM, **changes)

    def missing(self) -> list[str]:
        """What is missing, in order, with the names of the files instead of their paths."""
        return [str(replace(job, recipe=Path(job.recipe).stem)) for job in missing(str(self.folder))]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "mine")


# What is missing


def test_short_protocols_come_first_seed_by_seed_and_ensembles_last(shelf: Shelf) -> None:
    one = shelf.add("one", protocols={"leave_one_speaker_out": 1, "official": 2})
    other = shelf.add("other", protocols={"random": 1, "official": 1})
    shelf.add("both", members=[one, other], protocols={"official": 1}, clip=None, model=None, training=None)
    assert shelf.missing() == [
        "one official official seed 0",
        "other random random seed 0",
        "other official official seed 0",
        "one official official seed 1",
        "one leave_one_speaker_out ann seed 0",
        "one leave_one_speaker_out bob seed 0",
        "one leave_one_speaker_out cleo seed 0",
        "both official official seed 0",
    ]
    assert missing("mine", [one])[0] == Job(one, "official", "official", 0)
    assert len(missing("mine", [one, one])) == 5, "named twice, counted once"


def test_what_has_a_result_of_this_version_is_not_missing(shelf: Shelf) -> None:
    recipe = recipes.load(shelf.add("one", protocols={"leave_one_speaker_out": 1, "official": 2}))
    run(recipe, seed=1, protocol="official")
    run(recipe, protocol="leave_one_speaker_out", fold="bob")
    (damaged,) = run(recipe, protocol="official")
    damaged.path.write_text("{}")
    left = ["official official seed 0", "leave_one_speaker_out ann seed 0", "leave_one_speaker_out cleo seed 0"]
    assert shelf.missing() == [f"one {name}" for name in left]
    run(recipe, protocol="official")[0].path.with_suffix(".npz").unlink()
    assert shelf.missing() == [f"one {name}" for name in left], "a result without its predictions is run again"
    shelf.add("one", protocols={"official": 2}, training=FORM["training"] | {"epochs": 3})
    assert len(shelf.missing()) == 2


def test_results_of_other_data_are_missing(
    shelf: Shelf, fsdd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [shelf.add(name, protocols={"official": 1}, clip={"seconds": 0.1, "hop_seconds": hop})
               for name, hop in (("one", 0.1), ("other", 0.2))]  # fmt: skip
    shelf.add("both", members=members, protocols={"official": 1}, clip=None, model=None, training=None)
    assert run_missing(str(shelf.folder), progress=False) == ([], 0) and shelf.missing() == []
    shutil.copytree(fsdd_folder, tmp_path / "fewer" / "fsdd")
    (tmp_path / "fewer/fsdd/recordings/0_ann_7.wav").unlink()  # of the training side
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "fewer"))
    assert len(shelf.missing()) == 3
    assert run_missing(str(shelf.folder), progress=False) == ([], 0) and shelf.missing() == []
    monkeypatch.setenv("COURSE_DATA", str(fsdd_folder.parent))
    run(recipes.load(members[0]))  # the ensemble's result is of another member now
    assert shelf.missing() == ["other official official seed 0", "both official official seed 0"]


def test_the_recipes_of_a_folder_of_the_course(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "FOLDER", shelf.folder)
    for name in ("fsdd/two", "fsdd/one"):
        shelf.add(name, protocols={"official": 1})
    assert [job.recipe for job in missing("fsdd")] == ["fsdd/one", "fsdd/two"]
    assert [job.recipe for job in missing("fsdd", ["fsdd/two"])] == ["fsdd/two"]


def test_what_cannot_be_asked_for_is_refused_at_once(shelf: Shelf) -> None:
    with pytest.raises(RecipeError, match="no recipes for 'bats'"):
        run_missing("bats", progress=False)
    with pytest.raises(RecipeError, match="no recipe fsdd/nonesuch"):
        run_missing("fsdd", ["fsdd/nonesuch"], progress=False)
    for count in (0, -1, 1001):
        with pytest.raises(CourseError, match=f"workers is {count}; it is from 1 to 1000"):
            run_in_processes(str(shelf.folder), count, progress=False)


# One process


def test_every_result_is_reported_and_what_cannot_be_run_does_not_stop_the_others(shelf: Shelf) -> None:
    one = shelf.add("one", protocols={"official": 1, "random": 1})
    shelf.add("impossible", protocols={"official": 1}, clip={"seconds": 0.09})
    other = shelf.add("other", protocols={"official": 1}, clip={"seconds": 0.1, "hop_seconds": 0.1})
    shelf.add("both", members=[one, other], protocols={"official": 1}, clip=None, model=None, training=None)
    lines: list[str] = []
    (problem,), busy = run_missing(str(shelf.folder), progress=False, report=lines.append)
    assert busy == 0 and problem.startswith(
        f"{shelf.folder}/impossible.yaml official official seed 0: mine/impossible:"
    )
    assert "StridedSampleCNN cannot take clips of 0.09 s" in problem
    (result,) = experiments.results(recipes.load(one), "official")
    assert f"{one} official official seed 0: {result.headline}" in lines and len(lines) == 4
    places = ["both/official/official", "one/official/official", "one/random/random", "other/official/official"]
    expected = [f"mine/{name}-seed0.{ending}" for name in places for ending in ("json", "npz")]
    assert files_in(environment.results_folder()) == expected
    assert shelf.missing() == ["impossible official official seed 0"]


def test_trainings_that_break_or_are_another_process_s_are_counted(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def training_of(recipe: Any, seed: int, protocol: str, fold: str, wait: bool, **_: Any) -> list[Any]:
        assert not wait
        if fold == "bob":
            raise RuntimeError("out of memory")
        raise ResultBusy("another process")

    monkeypatch.setattr(workers, "run", training_of)
    shelf.add("one", protocols={"leave_one_speaker_out": 1})
    (problem,), busy = run_missing(str(shelf.folder), progress=False)
    assert busy == 2
    assert problem.endswith("leave_one_speaker_out bob seed 0: RuntimeError: out of memory")


# Several processes


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that are forked, not spawned: they need not import anything."""
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs a system with fork")
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(workers.multiprocessing, "get_context", lambda kind: fork)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs a system with fork")
def test_two_processes_on_one_folder_run_each_training_once(shelf: Shelf, tmp_path: Path) -> None:
    fork, log = multiprocessing.get_context("fork"), tmp_path / "trained"
    members = [shelf.add("one", protocols={"official": 1, "leave_one_speaker_out": 1})]
    members += [shelf.add("other", protocols={"official": 1}, clip={"seconds": 0.1, "hop_seconds": 0.1})]
    shelf.add("both", members=members, protocols={"official": 1}, clip=None, model=None, training=None)
    start, fit = fork.Barrier(2), training.fit

    def counted(*arguments: Any, **options: Any) -> training.History:
        with open(log, "a") as file:
            file.write("fit\n")
        return fit(*arguments, **options)

    def work() -> None:
        start.wait(60)
        problems, _ = run_missing(str(shelf.folder), progress=False)
        raise SystemExit(len(problems))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "fit", counted)
        both = [fork.Process(target=work) for _ in range(2)]
        for process in both:
            process.start()
        for process in both:
            process.join(240)
    assert [process.exitcode for process in both] == [0, 0]
    assert log.read_text().count("fit") == 5
    assert [name for name in shelf.missing() if not name.startswith("both")] == []
    assert run_missing(str(shelf.folder), progress=False) == ([], 0) and log.read_text().count("fit") == 5
    for path in members:
        shutil.copy(path, tmp_path)
    (result,) = experiments.results(recipes.load(members[0]), "official")
    alone = result.predictions
    shutil.rmtree(environment.results_folder())
    assert run(recipes.load(members[0]))[0].predictions == alone, "how many processes there are changes no score"


@pytest.mark.usefixtures("forked")
def test_worker_processes_report_and_end(shelf: Shelf) -> None:
    shelf.add("one", protocols={"official": 1})
    shelf.add("impossible", protocols={"official": 1}, clip={"seconds": 0.09})
    (problem,), busy = run_in_processes(str(shelf.folder), 2, progress=False)
    assert "impossible.yaml official official seed 0" in problem and busy == 0
    assert shelf.missing() == ["impossible official official seed 0"]
    assert multiprocessing.active_children() == []


@pytest.mark.usefixtures("forked")
def test_a_report_longer_than_a_pipe_holds_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = [f"{number}: {'x' * 200}" for number in range(5000)]
    monkeypatch.setattr(workers, "missing", lambda *_: [])
    monkeypatch.setattr(workers, "run_missing", lambda *_, **__: (problems, 0))
    assert run_in_processes("any", 2, progress=False) == (problems, 0)


@pytest.mark.usefixtures("forked")
def test_workers_end_with_a_killed_parent_and_the_next_ones_go_on(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    psutil = pytest.importorskip("psutil")
    fork = multiprocessing.get_context("fork")
    shelf.add("one", protocols={"official": 1}, training=FORM["training"] | {"epochs": 400})
    killed = fork.Process(target=run_in_processes, args=(str(shelf.folder), 2, None, False))
    killed.start()
    while not list((environment.results_folder() / ".unfinished").glob("[!.]*.safetensors")):  # an epoch is done
        killed.join(0.01)
        assert killed.is_alive()
    children = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    killed.join(60)
    assert children and not psutil.wait_procs(children, timeout=60)[1], "a worker outlived its parent"
    assert files_in(environment.results_folder()) == [] and len(shelf.missing()) == 1

    def stop(*_: Any, checkpoint: Path, **__: Any) -> None:
        assert checkpoint.is_file()  # the next process goes on from there
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "fit", stop)
    with pytest.raises(KeyboardInterrupt):
        run_missing(str(shelf.folder), progress=False)


def test_a_data_set_that_is_not_there_is_named(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "sounds" / "a").mkdir(parents=True)
    path = shelf.add("one", dataset=str(tmp_path / "sounds"), protocols={"random": 1})
    with pytest.raises(DatasetError, match="sounds"):
        run_missing(str(shelf.folder), [path], progress=False)
