"""Whatever is missing among the results of a folder of recipes, trained on the machines of a cluster by Ray.

Ray gives each training to a free worker. The file claim of a run still decides who makes its result, so that a cluster
and any number of `run --all` processes can work on one folder of results.

Notebook: 03_raw_waveforms_sample_cnn
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from course_lib import CourseError, datasets, environment
from course_lib.experiments import recipes
from course_lib.experiments.recipe import Ensemble
from course_lib.experiments.result import ResultError, digest_of, root_of
from course_lib.experiments.workers import Job, Outcome, carry_out, missing
from course_lib.files import write_whole

ATTEMPTS = 3
_PATIENCE, _LONGEST_CHECK = 10.0, 60.0  # seconds
logger = logging.getLogger(__name__)


class ClusterError(CourseError):
    """A cluster cannot be used; the message says why and what to do."""


class View(NamedTuple):
    """What a training depends on, as the process that hands it out sees it; every worker must see the same."""

    folder: str  # where relative paths begin
    mark: str  # a file among the results
    source: str
    recordings: str
    recipe: str


def run_on_cluster(
    folder: str,
    address: str = "auto",
    gpus: float | None = None,
    only: list[str] | None = None,
    progress: bool = True,
) -> tuple[list[str], int]:
    """`run_missing` on a Ray cluster, of which this machine is a part: as many trainings at a time as it has room for.

    `address` is HOST:PORT of its head, or "auto" for the cluster that was started here. A training takes
    `COURSE_THREADS` processors and `gpus`, the share of a GPU (default: a whole one, where there are any). Every
    machine must see the folders of the command, of `COURSE_DATA` and of `COURSE_RESULTS` under the same paths. A
    training whose worker is lost is handed out again, two times at most. Prints a line for each result; returns what
    `run_missing` does. Raises ClusterError, RecipeError, DatasetError and ResultError.

    Notebook: 03_raw_waveforms_sample_cnn
    """
    if gpus is not None and not 0 <= gpus <= 1:
        raise ClusterError(f"gpus is {gpus:g}; it is the share of a GPU that one training takes, from 0 to 1")
    ray = _ray()
    _require_reachable(address)
    jobs = missing(folder, only)
    if not jobs:
        return [], 0
    views = _views({job.recipe for job in jobs})
    try:
        with _connected(ray, address), tqdm(total=len(jobs), desc=f"{folder}: trainings", disable=not progress) as bar:
            if gpus is None:
                gpus = min(1, ray.cluster_resources().get("GPU", 0))
            room = {"num_cpus": environment.threads(), "num_gpus": gpus}
            train = ray.remote(max_retries=0, **room)(_train)

            def submit(job: Job, waits: bool) -> Future[Outcome | ClusterError]:
                return train.remote(job, waits, views[job.recipe]).future()

            def show(outcome: Outcome) -> None:
                bar.update()
                if outcome.kind == "finished":
                    bar.write(outcome.line)

            def check() -> None:
                _require_room(ray.nodes(), **room)

            check()
            kinds = ray.exceptions
            lost = (kinds.WorkerCrashedError, kinds.NodeDiedError, kinds.LocalRayletDiedError, kinds.OutOfMemoryError)
            try:
                return hand_out(jobs, submit, lost, show, check)
            except kinds.RayError as error:
                why = f"a machine of the cluster cannot run the course ({_last_line(error)})"
                raise ClusterError(f"{why}; install the same version on every machine") from error
    finally:
        for view in views.values():
            Path(view.mark).unlink(missing_ok=True)


def hand_out(
    jobs: list[Job],
    submit: Callable[[Job, bool], Future[Outcome | ClusterError]],
    lost: tuple[type[Exception], ...],
    show: Callable[[Outcome], None],
    check: Callable[[], None],
) -> tuple[list[str], int]:
    """Hand out trainings, those of ensembles after the others, and those whose worker is `lost` again.

    `submit` starts a training, which waits for another process that is at work on the same if its second argument says
    so. `show` is called with how each ended, `check` whenever nothing ends for some seconds. Returns what went wrong,
    and how many are left to other processes. Raises ClusterError where a worker cannot take part.
    """
    late = {name: isinstance(recipes.load(name), Ensemble) for name in {job.recipe for job in jobs}}
    problems, busy = [], 0
    for turn in (False, True):
        # Ensembles run the members that are missing, and may wait for one another to do so.
        under_way = {submit(job, turn): (job, 1) for job in jobs if late[job.recipe] == turn}
        while under_way:
            done, _ = wait(under_way, _PATIENCE, FIRST_COMPLETED)
            if not done:
                check()
            for future in done:
                job, attempt = under_way.pop(future)
                try:
                    outcome = future.result()
                except lost as error:
                    why = f"{job}: its worker was lost ({type(error).__name__})"
                    if attempt < ATTEMPTS:
                        logger.warning("%s; it is handed out again", why)
                        under_way[submit(job, True)] = job, attempt + 1  # the claim of the lost one may last a moment
                        continue
                    outcome = Outcome("failed", f"{why} {ATTEMPTS} times")
                if isinstance(outcome, ClusterError):
                    raise outcome
                busy += outcome.kind == "busy"
                problems += [outcome.line] * (outcome.kind == "failed")
                show(outcome)
    return problems, busy


def _train(job: Job, waits: bool, view: View) -> Outcome | ClusterError:
    """One training, on a worker that sees what it needs."""
    try:
        if unseen := _unseen(job.recipe, view):
            return ClusterError(
                f"the machine {socket.gethostname()} does not see {unseen} as the one that hands out the trainings "
                "does; keep it where every machine has it under the same path"
            )
        return carry_out(job, waits)
    except Exception as error:  # such as a mistake in the code of one data set: the other trainings go on
        return Outcome("failed", f"{job}: {type(error).__name__}: {error}")


@functools.cache  # a worker is asked once for each recipe
def _unseen(name: str, view: View) -> str | None:
    """What of a view this process does not see, in words; None where it sees all of it."""
    try:
        os.chdir(view.folder)
    except OSError:
        return f"the folder {view.folder}"
    if not Path(view.mark).is_file():
        return f"the results in {Path(view.mark).parent.parent}"
    try:
        recipe = recipes.load(name)
        if recipe.hash != view.recipe:
            return f"the recipe {name}"
        folder = datasets.get(recipe.dataset).folder
        if view.source == "real" and not folder.is_dir():  # to load them would fetch them, or make a stand-in
            return f"the recordings in {folder}"
        if _listing(recipe.dataset) != (view.source, view.recordings):
            return f"the recordings of {recipe.dataset}"
    except CourseError as error:
        return f"the recipe {name} and its recordings ({error})"
    return None


def _views(names: set[str]) -> dict[str, View]:
    """What the trainings of each recipe depend on. Their marks are among the results from now on."""
    loaded = {name: recipes.load(name) for name in names}
    listings = {dataset: _listing(dataset) for dataset in {recipe.dataset for recipe in loaded.values()}}
    marks = {}
    for source in {source for source, _ in listings.values()}:
        marks[source] = root_of(source) / ".locks" / f"{secrets.token_hex(8)}.seen"
        try:
            write_whole(marks[source], b"")
        except OSError as error:
            raise ResultError(f"cannot write to the results in {root_of(source)}: {error}") from error
    return {
        name: View(os.getcwd(), str(marks[listings[recipe.dataset][0]]), *listings[recipe.dataset], recipe.hash)
        for name, recipe in loaded.items()
    }


def _listing(dataset: str) -> tuple[str, str]:
    """Whether the recordings of a data set are real, and a digest of their names, labels and groups."""
    recordings = datasets.load(dataset, progress=False)
    rows = recordings.table[["recording", "label", "group"]].astype(str).to_numpy().ravel()
    return recordings.source, digest_of(*recordings.class_names, *rows)


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ClusterError(
            '--cluster needs Ray, the extra `cluster`; in the checkout: pip install -e ".[cluster]"'
        ) from None
    return ray


def _require_reachable(address: str) -> None:
    """Raise ClusterError where no cluster answers at an address; Ray itself would try for many minutes."""
    why = "ray health-check fails"
    try:
        if address != "auto":
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
        where = [] if address == "auto" else ["--address", address]
        command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", *where]
        if subprocess.run(command, capture_output=True, timeout=_LONGEST_CHECK).returncode == 0:
            return
    except (OSError, OverflowError, ValueError, subprocess.TimeoutExpired) as error:
        why = str(error)
    raise ClusterError(
        f"no Ray cluster answers at {address!r} ({why}); start one with `ray start --head`, give the HOST:PORT that it "
        "shows, or auto, and give this command on one of its machines"
    )


@contextlib.contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """Be connected to a cluster, whose workers of this command end with the block, whatever they are doing."""
    folders = {
        "COURSE_DATA": environment.data_folder(),
        "COURSE_CACHE": environment.cache_folder(),
        "COURSE_RESULTS": environment.results_folder(),
    }
    given = {name: value for name, value in os.environ.items() if name.startswith("COURSE_")}
    variables = given | {name: str(path) for name, path in folders.items()}
    try:
        ray.init(address, runtime_env={"env_vars": variables}, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(f"the Ray cluster at {address!r} cannot be joined: {_last_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _require_room(nodes: list[dict[str, Any]], num_cpus: int, num_gpus: float) -> None:
    """Raise ClusterError where no machine could take a training even if it had nothing else to do."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    if not any(has.get("CPU", 0) >= num_cpus and has.get("GPU", 0) >= num_gpus for has in alive):
        raise ClusterError(
            f"no machine of the cluster has the {num_cpus} CPU and {num_gpus:g} GPU that a training takes; lower "
            "COURSE_THREADS or --gpus, or start a machine that has them"
        )


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
