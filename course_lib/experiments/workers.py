"""Whatever is missing among the results of a folder of recipes, run by any number of processes.

Each process goes through the same list and claims one training after the other by a file lock, so that processes on
one shared folder, on one machine or on several, work together without knowing of one another.

Notebook: 03_raw_waveforms_sample_cnn
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from tqdm.auto import tqdm

from course_lib import CourseError, datasets
from course_lib.clips import Clips
from course_lib.experiments import recipes
from course_lib.experiments.recipe import Ensemble, Experiment, Fold, Recipe
from course_lib.experiments.result import Result, ResultBusy, ResultError
from course_lib.experiments.runs import existing, path_of, run


@dataclass(frozen=True)
class Job:
    """One training that has no result yet."""

    recipe: str
    protocol: str
    fold: str
    seed: int

    def __str__(self) -> str:
        return f"{self.recipe} {self.protocol} {self.fold} seed {self.seed}"


class Outcome(NamedTuple):
    """How a training ended: finished, left to another process that is at work on it (busy), or failed; a line says."""

    kind: Literal["finished", "busy", "failed"]
    line: str


def missing(folder: str, only: list[str] | None = None) -> list[Job]:
    """Every training that the recipes of a folder promise and that has no result of the data at hand.

    Protocols with few folds come first, ensembles last. `only` names some of the recipes. Raises RecipeError and
    DatasetError.
    """
    jobs, loaded = [], {}
    for name in dict.fromkeys(only or recipes.names(folder)):
        recipe, clips = recipes.load(name), {}
        if recipe.dataset not in loaded:
            loaded[recipe.dataset] = datasets.load(recipe.dataset)
        recordings = loaded[recipe.dataset]
        for protocol, seeds in recipe.protocols.items():
            for seed in range(seeds):
                folds = recipe.folds(recordings, protocol, seed)
                order = (isinstance(recipe, Ensemble), len(folds), seed)
                jobs += [
                    (order, Job(name, protocol, fold.split.name, seed))
                    for fold in folds
                    if _existing(recipe, fold, clips) is None
                ]
    return [job for _, job in sorted(jobs, key=lambda pair: pair[0])]


def _existing(recipe: Experiment, fold: Fold, clips: dict[str, Clips]) -> Result | None:
    """The result of a fold on the data at hand, or None. `clips` are those of recipes, cut when they are needed."""
    inputs = None
    if isinstance(recipe, Ensemble):
        inputs = [_existing(member, fold, clips) for member in recipe.recipes]
        if None in inputs:
            return None
    elif not path_of(recipe, fold).exists():
        return None
    elif isinstance(recipe, Recipe):
        if recipe.name not in clips:
            clips[recipe.name] = recipe.inputs(fold, progress=False)
        inputs = clips[recipe.name]
    try:
        return existing(recipe, fold, inputs)
    except ResultError:  # its run tells what is wrong
        return None


def run_missing(
    folder: str,
    only: list[str] | None = None,
    progress: bool = True,
    report: Callable[[str], None] | None = None,
) -> tuple[list[str], int]:
    """Run what is missing, one training after the other, in this process.

    Returns what went wrong, and how many trainings were left to other processes, which are at work on them. `report`
    is called with a line for each that is finished. Stop it anywhere: finished results stay, and what was under way
    goes on from its last epoch in the next call. Raises RecipeError and DatasetError.

    Notebook: 03_raw_waveforms_sample_cnn
    """
    jobs, problems, busy = missing(folder, only), [], 0
    bar = tqdm(total=len(jobs), desc=f"{folder}: trainings", disable=not progress, bar_format=_BAR)
    for number, job in enumerate(jobs):
        recipe = recipes.load(job.recipe)

        def show(history: Any, number: int = number, recipe: Any = recipe) -> None:
            if isinstance(recipe, Recipe):  # an ensemble's members have recipes of their own
                bar.n = number + len(history.epochs) / recipe.training.epochs
                bar.refresh()

        outcome = carry_out(job, on_epoch=show)
        if outcome.kind == "finished":
            (report or bar.set_postfix_str)(outcome.line)
        busy += outcome.kind == "busy"
        problems += [outcome.line] * (outcome.kind == "failed")
        bar.n = number + 1
        bar.refresh()
    bar.close()
    return problems, busy


def carry_out(job: Job, wait: bool = False, **fit_options: Any) -> Outcome:
    """Run one training that is missing; what is wrong with it is told in the outcome, so that the others go on."""
    try:
        [result] = run(
            recipes.load(job.recipe), job.seed, job.protocol, job.fold, wait=wait, progress=False, **fit_options
        )
        return Outcome("finished", f"{job}: {result.headline}")
    except ResultBusy as error:
        return Outcome("busy", f"{job}: {error}")
    except CourseError as error:
        return Outcome("failed", f"{job}: {error}")
    except (RuntimeError, MemoryError) as error:  # such as CUDA's out of memory
        return Outcome("failed", f"{job}: {type(error).__name__}: {error}")


def run_in_processes(
    folder: str, workers: int, only: list[str] | None = None, progress: bool = True
) -> tuple[list[str], int]:
    """`run_missing` in several processes at once, which take turns at the GPUs.

    Raises CourseError when one of them is killed; what the others finished stays.

    Notebook: 03_raw_waveforms_sample_cnn
    """
    if not 1 <= workers <= 1000:
        raise CourseError(f"workers is {workers}; it is from 1 to 1000")
    if workers == 1:
        return run_missing(folder, only, progress)
    total = len(missing(folder, only))
    spawn = multiprocessing.get_context("spawn")
    lines, ends = spawn.SimpleQueue(), [spawn.SimpleQueue() for _ in range(workers)]
    devices, before = _devices(), os.environ.get("CUDA_VISIBLE_DEVICES")
    processes, reports = [], []
    try:
        for number, end in enumerate(ends):
            if devices:  # before CUDA starts in that process
                os.environ["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
            process = spawn.Process(target=_work, args=(folder, only, lines, end))
            process.start()
            processes.append(process)
    finally:
        if devices:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
            os.environ |= {} if before is None else {"CUDA_VISIBLE_DEVICES": before}
    try:
        with tqdm(total=total, desc=f"{folder}: trainings", disable=not progress) as bar:
            while any(process.is_alive() for process in processes):
                while not lines.empty():
                    bar.set_postfix_str(lines.get())
                    bar.update()
                reports += [end.get() for end in ends if not end.empty()]  # a long one would wait for its reader
                processes[0].join(0.2)
                time.sleep(0.05)
    finally:
        for process in processes:
            if process.is_alive():  # stopped from outside
                process.terminate()
            process.join()
    reports += [end.get() for end in ends if not end.empty()]
    if len(reports) < workers:
        raise CourseError("a training process was killed, perhaps for want of memory; use fewer workers")
    problems = [problem for each, _ in reports for problem in each]
    return list(dict.fromkeys(problems)), max(0, len(missing(folder, only)) - len(set(problems)))


_BAR = "{desc}: {n:.1f} of {total} |{bar}| {elapsed}{postfix}"


def _work(folder: str, only: list[str] | None, lines: Any, end: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        end.put(run_missing(folder, only, progress=False, report=lines.put))
    except CourseError as error:
        end.put(([str(error)], 0))


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()  # on Windows, too, where os.getppid() stays the same for ever
    os._exit(1)


def _devices() -> list[str]:
    """The GPUs of this process, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count()
    return os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",") if count else []
