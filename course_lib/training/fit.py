"""The training loop: explicit, on one CPU or GPU or several, and resumable to the last bit."""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_lib import environment
from course_lib.clips import Clips
from course_lib.models.base import Classifier, require_fitting
from course_lib.training.history import History
from course_lib.training.settings import Settings
from course_lib.training.state import digest_of_model
from course_lib.training.trainer import Trainer, TrainingError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def fit(
    model: nn.Module,
    train: Clips,
    validation: Clips | None = None,
    settings: Settings | None = None,
    *,
    extra: Clips | None = None,
    seed: int = 0,
    decision: Literal["log_odds", "vote"] = "log_odds",
    checkpoint: str | Path | None = None,
    accelerator: str = "auto",
    progress: bool = True,
    on_epoch: Callable[[History], None] | None = None,
) -> History:
    """Train a model that maps waveforms to logits, in place, and return how it went.

    Each epoch goes once through `train` (or draws from it, see `Settings.balance`, as many clips as have labels) and
    through `settings.extra_per_epoch` random clips of `extra`. A Classifier has its own `loss`; any other module learns
    by the cross-entropy of its logits. Clips with the label -1 are unlabelled: no class loss counts them. With
    `checkpoint`, the state is written there after every epoch and training goes on from it: the weights come out the
    same as without the interruption. `on_epoch` is called after every epoch. The recordings of the validation part are
    decided by the mean log-probabilities of their clips, or by their votes. It uses `COURSE_THREADS` processor threads,
    and leaves torch's random numbers and number of threads as they were. Under `fabric run` it uses the devices named
    there. Raises ModelError for clips that do not fit the model, TrainingError and CheckpointError.

    Notebook: 02_spoken_digits_cnn
    """
    settings = (settings or Settings()).but()  # checks it once more, however it was made
    learner = model if isinstance(model, Classifier) else _Plain(model)
    _require_possible(learner, train, validation, extra, settings, seed)
    fabric = _fabric(settings, accelerator)
    parts = {"clips": train, "validation clips": validation, "extra clips": extra}
    identity = {"settings": settings.identity(), "seed": seed, "model": digest_of_model(model)}
    identity |= {name: clips.digest() if clips else "" for name, clips in parts.items()}
    trainer = Trainer(fabric, learner, model, settings, identity)
    if checkpoint is not None:
        checkpoint = Path(checkpoint).expanduser()
        if checkpoint.exists():
            trainer.resume(checkpoint)
    weights = _balancing_weights(train, settings.balance)
    own_clips, draws = len(train), int((train.labels >= 0).sum())  # unlabelled clips make no epoch longer
    train = (train + extra if settings.extra_per_epoch else train).to(fabric.device)
    validation = validation.to(fabric.device) if validation else None
    history = trainer.history
    quiet = not progress or fabric.global_rank > 0
    with (
        fixed_threads(history.threads),
        _own_random_numbers(fabric.device),
        tqdm(desc="training", total=settings.epochs, initial=len(history.epochs), unit="epoch", disable=quiet) as bar,
    ):
        while len(history.epochs) < settings.epochs:
            started, number = perf_counter(), len(history.epochs)
            epoch_seed = 1_000_003 * seed + number  # an epoch depends on the seed and its number, nothing else
            _seed(fabric.device, epoch_seed)
            order = _epoch_order(own_clips, len(train), settings.extra_per_epoch, weights, draws)
            _seed(fabric.device, epoch_seed + 500_009 * fabric.global_rank)
            epoch = trainer.train_epoch(train, order, number)
            if validation is not None:
                trainer.evaluate(validation, epoch, decision)
            epoch.seconds = perf_counter() - started
            trainer.end_epoch(epoch)
            if checkpoint is not None:
                trainer.save(checkpoint)
            bar.update()
            bar.set_postfix_str(f"loss {epoch.train_loss:.3f}, accuracy {epoch.train_accuracy:.1%}")
            if on_epoch is not None:
                on_epoch(history)
    trainer.finish()
    return history


class _Plain(Classifier):
    """Any module that maps waveforms to logits, as a Classifier."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.front_end, self.network = nn.Identity(), network

    def forward(self, waveforms: Tensor) -> Tensor:
        return self.network(self.front_end(waveforms))

    def require_outputs(self, clips: Clips) -> None:
        """How many outputs it has is not known."""


def _require_possible(
    model: Classifier, train: Clips, validation: Clips | None, extra: Clips | None, settings: Settings, seed: int
) -> None:
    if settings.keep == "best" and not validation:
        raise TrainingError('keep="best" needs a validation part; hold one out of the training side')
    if settings.extra_per_epoch and not extra:
        raise TrainingError(f"extra_per_epoch is {settings.extra_per_epoch} but there are no extra clips")
    if not (train.labels >= 0).any():
        raise TrainingError("there are no clips to train on")
    if settings.mixup and (train.labels < 0).any():
        raise TrainingError("mixup mixes labels, and some clips have none; set mixup to 0")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise TrainingError(f"seed is {seed!r}; it must be a whole number from 0 to {2**31 - 1}")
    for clips in (train, validation, extra):
        if clips:
            require_fitting(model, clips)
    for clips in (train, extra) if settings.extra_per_epoch else (train,):
        model.require_outputs(clips)


def _fabric(settings: Settings, accelerator: str) -> Fabric:
    from lightning_fabric import Fabric  # a second to import, which those who only read results are spared

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator == "auto":
        accelerator = next(name for name, usable in available.items() if usable)
    if not available.get(accelerator):
        usable = ", ".join(name for name, usable in available.items() if usable)
        raise TrainingError(f"accelerator is {accelerator!r}; this computer has: {usable}")
    precision = settings.precision_on(torch.device(accelerator))
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces the precision each time
    if os.environ.get("LT_CLI_USED") != "1":
        return Fabric(accelerator=accelerator, devices=1, precision=precision)
    atexit.register(_leave_process_group)
    return Fabric(precision=precision)  # already launched: the command line started the processes


def _leave_process_group() -> None:  # else gloo may abort the process while it exits
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def fixed_threads(threads: int | None = None) -> Iterator[None]:
    """Compute with a number of processor threads (default: `COURSE_THREADS`), because it changes the last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or environment.threads())
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _own_random_numbers(device: torch.device) -> Iterator[None]:
    """Leave torch's random numbers as they were."""
    on_mps = torch.mps.get_rng_state() if device.type == "mps" else None
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            if on_mps is not None:
                torch.mps.set_rng_state(on_mps)


def _seed(device: torch.device, seed: int) -> None:
    """Seed the generators that a training uses; `torch.manual_seed` would seed those of other devices too."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def _balancing_weights(clips: Clips, balance: str) -> Tensor | None:
    """How likely each clip is to be drawn: inversely to the size of its class, or of its class in its group.

    Unlabelled clips are a class of their own.
    """
    if balance == "none":
        return None
    cells = [clips.labels, clips.groups] if balance == "class_and_group" else [clips.labels]
    _, cell, sizes = torch.stack(cells).cpu().unique(dim=1, return_inverse=True, return_counts=True)
    return 1.0 / sizes[cell]


def _epoch_order(own: int, total: int, extra: int, weights: Tensor | None, draws: int) -> Tensor:
    order = torch.randperm(own) if weights is None else torch.multinomial(weights, draws, replacement=True)
    if extra:
        order = torch.cat([order, own + torch.randperm(total - own)[:extra]])
        order = order[torch.randperm(len(order))]
    return order
