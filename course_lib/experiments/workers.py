"""What is missing among a data set's results, run by several processes at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import torch
from tqdm.auto import tqdm

from course_lib import CourseError, datasets, experiments, recipes
from course_lib.training import History


@dataclass(frozen=True)
class Job:
    """One training that has no result yet."""

    recipe: str
    protocol: str
    fold: str
    seed: int

    def __str__(self) -> str:
        return f"{self.recipe} {self.protocol} {self.fold} seed {self.seed}"


def missing(folder: str, only: list[str] | None = None) -> list[Job]:
    """Every training that the recipes of a folder, such as fsdd, promise and that has no result: short protocols first.

    `only` names some of the recipes. Raises RecipeError and DatasetError.
    """
    jobs = []
    for name in dict.fromkeys(only or recipes.names(folder)):
        recipe = recipes.load(name)
        recordings = datasets.load(recipe.dataset)
        for protocol, seeds in recipe.protocols.items():
            done = {(result.fold, result.seed) for result in experiments.results(recipe, protocol, recordings.source)}
            for seed in range(seeds):
                folds = experiments.folds_of(recordings, protocol, seed)
                jobs += [Job(name, protocol, fold.name, seed) for fold in folds if (fold.name, seed) not in done]
    return sorted(jobs, key=lambda job: (job.protocol.startswith("leave_one"), job.seed))


def run_missing(
    folder: str, workers: int = 1, only: list[str] | None = None, progress: bool = True
) -> tuple[list[str], int]:
    """Run what is missing with `workers` processes, which share the cores and the GPUs.

    Returns what went wrong, and how many trainings were left to another process, which is at work on them.
    Stop it anywhere: what is finished is kept, what was under way goes on from its last epoch in the next call. Raises
    RecipeError and DatasetError.

    Notebook: 03_raw_waveforms_sample_cnn
    """
    if workers < 1:
        raise CourseError(f"workers is {workers}; at least one is needed")
    jobs = missing(folder, only)
    spawn = multiprocessing.get_context("spawn")
    numbers, shares = spawn.SimpleQueue(), spawn.Array("d", workers)
    for number in range(workers):
        numbers.put(number)
    problems: list[str] = []
    left = 0
    bar = tqdm(total=len(jobs), desc=f"{folder}: trainings", disable=not progress, bar_format=_BAR)
    pool = ProcessPoolExecutor(workers, spawn, _start_worker, (numbers, shares, workers, _devices(), os.getpid()))
    running: dict[Future[str], Job] = {}
    try:
        running |= {pool.submit(_work, job): job for job in jobs}
        finished = 0
        while running:
            done, _ = wait(running, timeout=1, return_when=FIRST_COMPLETED)
            for future in done:
                job = running.pop(future)
                try:
                    bar.set_postfix_str(f"{job}: {future.result()}")
                except BrokenProcessPool:
                    raise
                except experiments.ResultBusy:
                    left += 1
                except CourseError as error:
                    problems.append(f"{job}: {error}")
                except Exception as error:  # such as CUDA's out of memory: the other trainings go on
                    problems.append(f"{job}: {type(error).__name__}: {error}")
                finished += 1
            bar.n = finished + sum(shares)
            bar.refresh()
    except BrokenProcessPool:
        raise CourseError("a training process was killed, perhaps for want of memory; use fewer workers") from None
    finally:
        bar.close()
        if running:  # stopped; who has nothing left to do ends by itself
            for child in multiprocessing.active_children():
                child.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
    return problems, left


_BAR = "{desc}: {n:.1f} of {total} |{bar}| {elapsed}{postfix}"
_worker: dict[str, Any] = {}


def _start_worker(numbers: Any, shares: Any, workers: int, devices: list[str], parent: int) -> None:
    number = numbers.get()
    _worker.update(number=number, shares=shares)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent ends the others
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]  # before CUDA starts in this process


def _devices() -> list[str]:
    """The GPUs of this process, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count()
    return os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",") if count else []


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.1)
    os._exit(1)


def _work(job: Job) -> str:
    recipe = recipes.load(job.recipe)
    number, shares = _worker["number"], _worker["shares"]

    def report(history: History) -> None:
        if isinstance(recipe, recipes.Recipe):  # an ensemble's members have recipes of their own
            shares[number] = len(history.epochs) / recipe.training.epochs

    try:
        [result] = experiments.run(
            recipe, job.seed, job.protocol, job.fold, wait=False, progress=False, on_epoch=report
        )
    finally:
        shares[number] = 0.0
    return result.headline
