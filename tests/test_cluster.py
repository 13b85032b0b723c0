"""Trainings handed out to other machines: each is done once, whatever becomes of the workers."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from toys import FORM, files_in, write_recipe

from course_lib import environment, experiments
from course_lib.__main__ import main
from course_lib.experiments import cluster, workers
from course_lib.experiments.cluster import ClusterError, hand_out
from course_lib.experiments.workers import Job, Outcome, missing

pytestmark = pytest.mark.usefixtures("fsdd_data")


class Lost(Exception):
    """The worker of a training is gone."""


class Hands:
    """What stands for a cluster: it ends each training at once, as a test asks for."""

    def __init__(self, end: Callable[[Job, int], Any]) -> None:
        self.end, self.asked, self.shown = end, [], []

    def submit(self, job: Job, waits: bool) -> Future[Any]:
        self.asked.append((job, waits))
        ended: Future[Any] = Future()
        try:
            ended.set_result(self.end(job, [asked for asked, _ in self.asked].count(job)))
        except Lost as error:
            ended.set_exception(error)
        return ended

    def hand_out(self, jobs: list[Job]) -> tuple[list[str], int]:
        return hand_out(jobs, self.submit, (Lost,), lambda outcome: self.shown.append(outcome.line), lambda: None)


def finished(job: Job) -> Outcome:
    return Outcome("finished", f"{job}: done")


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A folder of recipes: two short trainings, three long ones, one of members, and one that cannot be run."""
    folder = tmp_path / "mine"
    one = write_recipe(folder / "one.yaml", FORM)
    other = write_recipe(
        folder / "other.yaml", FORM, protocols={"official": 1}, clip={"seconds": 0.1, "hop_seconds": 0.1}
    )
    of_members = {"members": [one, other], "clip": None, "model": None, "training": None}
    write_recipe(folder / "both.yaml", FORM, protocols={"official": 1}, **of_members)
    write_recipe(folder / "impossible.yaml", FORM, protocols={"official": 1}, clip={"seconds": 0.09})
    return folder


EXPECTED = [
    f"mine/{name}-seed0.{ending}"
    for name in (
        "both/official/official",
        *(f"one/leave_one_speaker_out/{speaker}" for speaker in ("ann", "bob", "cleo")),
        "one/official/official",
        "other/official/official",
    )
    for ending in ("json", "npz")
]


# Who gets what


def test_ensembles_come_after_their_members_and_wait_for_one_another(shelf: Path) -> None:
    jobs = missing(str(shelf))
    hands = Hands(lambda job, _: finished(job))
    assert hands.hand_out(jobs) == ([], 0)
    assert [job for job, _ in hands.asked] == jobs and len(jobs) == 7
    assert [waits for _, waits in hands.asked] == [False] * 6 + [True]
    assert sorted(hands.shown) == sorted(f"{job}: done" for job in jobs)


def test_a_training_whose_worker_is_lost_is_handed_out_again(shelf: Path, caplog: pytest.LogCaptureFixture) -> None:
    def end(job: Job, attempt: int) -> Outcome:
        if job.fold == "bob" and attempt < 3:
            raise Lost
        return finished(job)

    jobs = missing(str(shelf))
    hands = Hands(end)
    assert hands.hand_out(jobs) == ([], 0)
    assert [waits for job, waits in hands.asked if job.fold == "bob"] == [False, True, True]
    assert len(hands.asked) == len(jobs) + 2 and len(hands.shown) == len(jobs)
    assert (
        caplog.text.count("leave_one_speaker_out bob seed 0: its worker was lost (Lost); it is handed out again") == 2
    )


def test_one_that_loses_every_worker_is_given_up_and_the_others_go_on(shelf: Path) -> None:
    def end(job: Job, _: int) -> Outcome:
        if job.fold == "bob":
            raise Lost
        return finished(job)

    hands = Hands(end)
    (problem,), busy = hands.hand_out(missing(str(shelf)))
    assert (
        problem.endswith("one.yaml leave_one_speaker_out bob seed 0: its worker was lost (Lost) 3 times") and busy == 0
    )
    assert [job.fold for job, _ in hands.asked].count("bob") == 3
    assert len(hands.shown) == 7


def test_what_fails_by_itself_is_told_once_and_what_others_do_is_counted(shelf: Path) -> None:
    def end(job: Job, _: int) -> Outcome:
        kinds = {"ann": "busy", "bob": "failed"}
        return Outcome(kinds.get(job.fold, "finished"), f"{job.fold}: told")

    hands = Hands(end)
    assert hands.hand_out(missing(str(shelf))) == (["bob: told"], 1)
    assert len(hands.asked) == 7


def test_a_worker_that_cannot_take_part_stops_everything(shelf: Path) -> None:
    hands = Hands(lambda job, _: ClusterError("it does not see the results") if job.fold == "bob" else finished(job))
    with pytest.raises(ClusterError, match="it does not see the results"):
        hands.hand_out(missing(str(shelf)))


def test_where_nothing_can_end_any_more_one_is_told(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check() -> None:
        cluster._require_room([{"Alive": False, "Resources": {"CPU": 8}}], num_cpus=1, num_gpus=0)

    monkeypatch.setattr(cluster, "_PATIENCE", 0.01)
    with pytest.raises(ClusterError, match="no machine of the cluster has the 1 CPU and 0 GPU that a training takes"):
        hand_out(missing(str(shelf)), lambda *_: Future(), (Lost,), lambda _: None, check)


def test_a_share_of_a_gpu_fits_on_a_machine_that_has_one() -> None:
    with_gpu = {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}}
    without = {"Alive": True, "Resources": {"CPU": 64.0}}
    cluster._require_room([without, with_gpu], num_cpus=4, num_gpus=0.25)
    with pytest.raises(
        ClusterError, match=r"the 8 CPU and 0\.25 GPU that a training takes; lower COURSE_THREADS or --gpus"
    ):
        cluster._require_room([without, with_gpu], num_cpus=8, num_gpus=0.25)


def test_handed_out_to_two_workers_every_result_is_there_once(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shelf.parent)
    jobs = missing("mine")
    views = cluster._views({job.recipe for job in jobs})
    lines: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        (problem,), busy = hand_out(
            jobs,
            lambda job, waits: pool.submit(cluster._train, job, waits, views[job.recipe]),
            (Lost,),
            lambda outcome: lines.append(outcome.line),
            lambda: None,
        )
    assert problem.startswith("mine/impossible.yaml official official seed 0: ") and busy == 0
    assert len(lines) == len(jobs) and files_in(environment.results_folder()) == EXPECTED
    assert [job.recipe for job in missing("mine")] == ["mine/impossible.yaml"]


def test_a_mistake_in_code_is_a_problem_of_one_training(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise TypeError("a mistake")

    job = missing(str(shelf))[0]
    view = cluster._views({job.recipe})[job.recipe]
    monkeypatch.setattr(workers, "run", broken)
    assert cluster._train(job, False, view) == Outcome("failed", f"{job}: TypeError: a mistake")


# What every machine must see


@pytest.mark.parametrize("what", ["folder", "results", "recipe", "data", "recordings", "broken"])
def test_a_worker_that_does_not_see_the_same_says_what(
    what: str, shelf: Path, tmp_path: Path, fsdd_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = next(job for job in missing(str(shelf)) if job.recipe.endswith("one.yaml"))
    view = cluster._views({job.recipe})[job.recipe]
    assert cluster._unseen(job.recipe, view) is None
    cluster._unseen.cache_clear()
    expected = {
        "folder": "the folder /nowhere/at/all",
        "results": f"the results in {environment.results_folder()}",
        "recipe": f"the recipe {job.recipe}",
        "data": f"the recordings in {tmp_path / 'fsdd'}",
        "recordings": "the recordings of fsdd",
        "broken": f"the recipe {job.recipe} and its recordings \\(there is no recipe",
    }
    if what == "folder":
        view = view._replace(folder="/nowhere/at/all")
    elif what == "results":
        Path(view.mark).unlink()
    elif what == "recipe":
        write_recipe(Path(job.recipe), FORM, training=FORM["training"] | {"epochs": 3})
    elif what == "broken":
        Path(job.recipe).unlink()
    else:
        monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    if what == "recordings":
        (tmp_path / "fsdd" / "recordings").mkdir(parents=True)
        for path in sorted((fsdd_folder / "recordings").iterdir())[1:]:
            (tmp_path / "fsdd" / "recordings" / path.name).symlink_to(path)
    told = cluster._train(job, False, view)
    assert isinstance(told, ClusterError)
    assert str(told).startswith(f"the machine {socket.gethostname()} does not see {expected[what]}".replace("\\", ""))
    assert files_in(environment.results_folder()) == []


# What is said where there is no cluster


def complaint(options: list[str], shelf: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["run", str(shelf), "--all", *options]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_without_ray_its_extra_is_named(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    said = complaint(["--cluster", "auto"], shelf, capsys)
    assert (
        said == 'ClusterError: --cluster needs Ray, the extra `cluster`; in the checkout: pip install -e ".[cluster]"\n'
    )


@pytest.mark.parametrize(
    "address", ["127.0.0.1:{free}", "nowhere.invalid:6379", "6379", "x:y", "", "127.0.0.1:99999999"]
)
def test_where_nothing_answers_one_sentence_comes_soon(
    address: str, shelf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster, "_ray", lambda: None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = address.format(free=free.getsockname()[1])
        said = complaint([f"--cluster={address}"], shelf, capsys)
    assert said.startswith(f"ClusterError: no Ray cluster answers at {address!r} (")
    assert "start one with `ray start --head`" in said


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ["--cluster", "auto", "--gpus", "1.5"],
            "ClusterError: gpus is 1.5; it is the share of a GPU that one training",
        ),
        (["--cluster", "auto", "--gpus=-1"], "ClusterError: gpus is -1;"),
        (["--cluster", "auto", "--gpus=nan"], "ClusterError: gpus is nan;"),
        (["--cluster", "auto", "--workers", "2"], "CourseError: --workers are those of this machine;"),
        (["--gpus", "0.5"], "CourseError: --gpus goes with --cluster"),
        (
            ["--cluster", "auto", "--seed", "1"],
            "CourseError: --all runs whatever is missing; --seed goes with one recipe",
        ),
    ],
)
def test_options_that_do_not_go_together(
    options: list[str], expected: str, shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complaint(options, shelf, capsys).startswith(expected)


# Two machines of a real cluster, which are two sets of Ray's processes on this one


@pytest.fixture(scope="module")
def two_machines() -> Iterator[Any]:
    """A Ray cluster of two machines with one processor each, on the loopback interface."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # or whatever else is running keeps the workers waiting
        patch.setenv("RAY_TMPDIR", folder)  # the paths of sockets must be short
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # on Linux, too, this means 127.0.0.1
        absent = 'Ray is not installed; it comes with: pip install -e ".[cluster]"'
        machines = pytest.importorskip("ray.cluster_utils", reason=absent).Cluster()
        try:
            try:
                for _ in range(2):
                    machines.add_node(num_cpus=1, include_dashboard=False, include_log_monitor=False, no_monitor=True)
            except Exception as error:  # a plain one, after half a minute
                if "timed out" not in str(error):
                    raise
                pytest.skip("this computer is too busy to start Ray within half a minute")
            yield machines
        finally:
            machines.shutdown()


def under_way() -> list[Path]:
    return list((environment.results_folder() / ".unfinished").glob("[!.]*.safetensors"))


def until(condition: Callable[[], Any], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_stopped_by_ctrl_c_nothing_is_half_done_and_nothing_claimed(two_machines: Any, shelf: Path) -> None:
    write_recipe(shelf / "one.yaml", FORM, training=FORM["training"] | {"epochs": 100_000})
    command = [sys.executable, "-m", "course_lib", "run", str(shelf), "--all", "--cluster", two_machines.address]
    started = subprocess.Popen(command, cwd=environment.CHECKOUT, stderr=subprocess.PIPE, text=True)
    until(lambda: len(under_way()) == 2 or started.poll() is not None)
    started.send_signal(signal.SIGINT)
    said = started.communicate(timeout=120)[1]
    assert started.returncode == 130, said
    assert said.endswith("stopped; the same command goes on where this one was\n") and "Traceback" not in said
    claims = list((environment.results_folder() / ".locks").glob("*.lock"))
    assert claims
    for claim in claims:
        FileLock(claim).acquire(timeout=120)
    for path in environment.results_folder().rglob("*.json"):
        experiments.read(path)


def test_a_machine_that_fails_in_the_middle_changes_nothing(
    two_machines: Any, shelf: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    psutil = pytest.importorskip("psutil")  # Jupyter needs it, so that it is there
    write_recipe(shelf / "one.yaml", FORM, training=FORM["training"] | {"epochs": 60})

    def fail() -> None:
        until(lambda: len(under_way()) == 2)  # each machine is in the middle of a training
        [head] = two_machines.head_node.all_processes["raylet"]
        for worker in psutil.Process(head.process.pid).children():
            if "ray::_train" in worker.name() + worker.cmdline()[0]:
                worker.kill()
        two_machines.remove_node(next(iter(two_machines.worker_nodes)), allow_graceful=False)

    failure = threading.Thread(target=fail)
    failure.start()
    status = main(["run", str(shelf), "--all", "--cluster", two_machines.address])
    failure.join()
    shown = capsys.readouterr()
    problem = "impossible.yaml official official seed 0: mine/impossible: StridedSampleCNN cannot take clips of 0.09 s"
    assert status == 1 and shown.err.count(problem) == 1
    lines = [line for line in shown.out.splitlines() if "balanced accuracy" in line]  # Ray says something of its own
    assert len(set(lines)) == len(lines) == 6, "a line for each result"
    # One of the two may just have ended when its machine fails.
    assert 1 <= caplog.text.count("it is handed out again") <= 2
    assert files_in(environment.results_folder()) == EXPECTED and under_way() == []
