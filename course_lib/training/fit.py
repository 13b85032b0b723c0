"""The training loop: explicit, on one CPU or GPU or several, and resumable to the last bit."""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd
import torch
from lightning_fabric import Fabric
from pydantic import ConfigDict, TypeAdapter
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from course_lib import CourseError, environment
from course_lib.clips import Clips
from course_lib.models.base import Classifier, Losses, require_fitting
from course_lib.training import state
from course_lib.training.settings import Settings
from course_lib.training.state import CheckpointError


class TrainingError(CourseError):
    """Training cannot go on; the message says why and what to change."""


@dataclass
class Epoch:
    """What one epoch did; accuracies are fractions, the balanced one is the mean of the classes' recalls.

    The training values are means over the batches, with the weights of their time. Under mixup a prediction counts by
    the share that the predicted class has in its clip. Validation values are NaN without a validation part.
    `other_heads` holds the training loss and accuracy of further heads, such as `domain_loss`.
    """

    train_loss: float
    train_accuracy: float
    validation_loss: float = math.nan
    validation_accuracy: float = math.nan
    validation_balanced_accuracy: float = math.nan
    other_heads: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)


@dataclass
class History:
    """How a training went: its epochs, the number of the one whose weights the model holds (from 1), and where it ran.

    `threads` is the number of processor threads: with another one, sums are rounded otherwise.
    """

    epochs: list[Epoch] = field(default_factory=list)
    kept_epoch: int = 0
    device: str = ""
    precision: str = ""
    threads: int = 0

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    @property
    def seconds(self) -> float:
        """Training time in seconds, evaluation on the validation part included."""
        return sum(epoch.seconds for epoch in self.epochs)

    def table(self) -> pd.DataFrame:
        """A row an epoch, numbered from 1; a column for each value, and for those of further heads if there are any."""
        rows = [asdict(epoch) for epoch in self.epochs]
        table = pd.DataFrame([row | row.pop("other_heads") | {"seconds": row["seconds"]} for row in rows])
        table.insert(len(table.columns) - 1, "seconds", table.pop("seconds"))
        table.index = pd.RangeIndex(1, len(table) + 1, name="epoch")
        return table


def fit(
    model: nn.Module,
    train: Clips,
    validation: Clips | None = None,
    settings: Settings | None = None,
    *,
    extra: Clips | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    accelerator: str = "auto",
    progress: bool = True,
    on_epoch: Callable[[History], None] | None = None,
) -> History:
    """Train a model that maps waveforms to logits, in place, and return how it went.

    Each epoch goes once through `train` (or draws from it, see `Settings.balance`) and through
    `settings.extra_per_epoch` random clips of `extra`. A Classifier has its own `loss`; any other module learns by the
    cross-entropy of its logits. With `checkpoint`, the state is written there after every epoch and training goes on
    from it: the weights come out the same as without the interruption. `on_epoch` is called after every epoch. It
    uses `COURSE_THREADS` processor threads, and leaves torch's random numbers and number of threads as they were.
    Under `fabric run` it uses the devices named there. Raises ModelError for clips that do not fit the model,
    TrainingError and CheckpointError.

    Notebook: 02_spoken_digits_cnn
    """
    settings = (settings or Settings()).but()  # checks it once more, however it was made
    learner = model if isinstance(model, Classifier) else _Plain(model)
    _require_possible(learner, train, validation, extra, settings, seed)
    fabric = _fabric(settings, accelerator)
    run = _Run(fabric, learner, model, settings, seed)
    run.identity |= {"clips": _digest(train), "validation clips": _digest(validation), "extra clips": _digest(extra)}
    if checkpoint is not None:
        checkpoint = Path(checkpoint).expanduser()
        if checkpoint.exists():
            run.resume(checkpoint)
    own_clips, weights = len(train), _balancing_weights(train, settings.balance)
    train = (train + extra if settings.extra_per_epoch else train).to(fabric.device)
    validation = validation.to(fabric.device) if validation else None
    history = run.history
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
            order = _epoch_order(own_clips, len(train), settings.extra_per_epoch, weights)
            _seed(fabric.device, epoch_seed + 500_009 * fabric.global_rank)
            epoch = run.train_epoch(train, order, number)
            if validation is not None:
                run.evaluate(validation, epoch)
            epoch.seconds = perf_counter() - started
            run.end_epoch(epoch)
            if checkpoint is not None:
                run.save(checkpoint)
            bar.update()
            bar.set_postfix_str(f"loss {epoch.train_loss:.3f}, accuracy {epoch.train_accuracy:.1%}")
            if on_epoch is not None:
                on_epoch(history)
    run.finish()
    return history


class _Plain(Classifier):
    """Any module that maps waveforms to logits, as a Classifier."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, waveforms: Tensor) -> Tensor:
        return self.network(waveforms)

    def require_outputs(self, clips: Clips) -> None:
        """How many outputs it has is not known."""


def _require_possible(
    model: Classifier, train: Clips, validation: Clips | None, extra: Clips | None, settings: Settings, seed: int
) -> None:
    if settings.keep == "best" and not validation:
        raise TrainingError('keep="best" needs a validation part; hold one out of the training side')
    if settings.extra_per_epoch and not extra:
        raise TrainingError(f"extra_per_epoch is {settings.extra_per_epoch} but there are no extra clips")
    if not len(train):
        raise TrainingError("there are no clips to train on")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise TrainingError(f"seed is {seed!r}; it must be a whole number from 0 to {2**31 - 1}")
    parts = [clips for clips in (train, validation, extra) if clips]
    for clips in parts:
        require_fitting(model, clips)
    for clips in (train, extra) if settings.extra_per_epoch else (train,):
        model.require_outputs(clips)


def _fabric(settings: Settings, accelerator: str) -> Fabric:
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator == "auto":
        accelerator = next(name for name, usable in available.items() if usable)
    if not available.get(accelerator):
        usable = ", ".join(name for name, usable in available.items() if usable)
        raise TrainingError(f"accelerator is {accelerator!r}; this computer has: {usable}")
    precision = settings.precision_on(torch.device(accelerator))
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces the precision each time
    if os.environ.get("LT_CLI_USED") == "1":
        fabric = Fabric(precision=precision)  # already launched: the command line started the processes
        atexit.register(_leave_process_group)
        return fabric
    return Fabric(accelerator=accelerator, devices=1, precision=precision)


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


def _digest(clips: Clips | None) -> str:
    """A digest of clips: the content of their recordings, where they are cut, their labels and groups."""
    if not clips:
        return ""
    digest = hashlib.sha256(f"{clips.fingerprint} {clips.clip_samples} {clips.sample_rate}".encode())
    for positions in (clips.start, clips.length, clips.labels, clips.groups):
        digest.update(positions.cpu().contiguous().numpy())
    return digest.hexdigest()


def _balancing_weights(clips: Clips, balance: str) -> Tensor | None:
    """How likely each clip is to be drawn: inversely to the size of its class, or of its class in its group."""
    if balance == "none":
        return None
    cells = [clips.labels, clips.groups] if balance == "class_and_group" else [clips.labels]
    _, cell, sizes = torch.stack(cells).cpu().unique(dim=1, return_inverse=True, return_counts=True)
    return 1.0 / sizes[cell]


def _epoch_order(own: int, total: int, extra: int, weights: Tensor | None) -> Tensor:
    order = torch.randperm(own) if weights is None else torch.multinomial(weights, own, replacement=True)
    if extra:
        order = torch.cat([order, own + torch.randperm(total - own)[:extra]])
        order = order[torch.randperm(len(order))]
    return order


def mixed_up(waveforms: Tensor, targets: list[Tensor], sizes: list[int], alpha: float) -> tuple[Tensor, list[Tensor]]:
    """Each clip of a batch mixed with another, in shares drawn from Beta(alpha, alpha), and its targets likewise.

    Waveforms (batch, samples) -> (batch, samples); `targets`, indices (batch,) below `sizes`, -> shares (batch, size).
    Source: Zhang et al. 2018, "mixup: Beyond empirical risk minimization".
    """
    partner = torch.randperm(len(waveforms)).to(waveforms.device)
    share = torch.distributions.Beta(alpha, alpha).sample((len(waveforms), 1)).to(waveforms.device)
    one_hot = [functional.one_hot(target, size).float() for target, size in zip(targets, sizes, strict=True)]
    mixed, *shares = (torch.lerp(values[partner], values, share) for values in (waveforms, *one_hot))
    return mixed, shares


class _Run:
    """One training in progress: the model, its optimiser, the averaged and the best weights, and the history."""

    def __init__(self, fabric: Fabric, learner: Classifier, model: nn.Module, settings: Settings, seed: int) -> None:
        self.fabric, self.learner, self.model, self.settings = fabric, learner, model, settings
        self.history = History(
            device=fabric.device.type,
            precision=settings.precision_on(fabric.device),
            threads=environment.threads(),
        )
        self.identity: dict[str, Any] = {
            "settings": settings.identity(),
            "seed": seed,
            "model": state.digest_of_model(model),
            "device": self.history.device,
            "precision": self.history.precision,
            "processes": fabric.world_size,
        }
        learner.to(fabric.device, memory_format=torch.channels_last)  # convolutions on the CPU are twice as fast so
        self.wrapped, self.optimizer = fabric.setup(learner, settings.optimizer_for(model))
        self.wrapped.mark_forward_method("loss")  # so that it runs in the precision, and on the devices, of `forward`
        # Layers may learn faster or slower than the rest; the schedule goes for all of them.
        self.rates = [group["lr"] / settings.learning_rate for group in self.optimizer.param_groups]
        self.averaged = None
        if settings.averaging:
            average = get_ema_multi_avg_fn(settings.averaging)
            self.averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        self.best: dict[str, Tensor] = {}

    @property
    def evaluated(self) -> nn.Module:
        return self.model if self.averaged is None else self.averaged.module

    def train_epoch(self, train: Clips, order: Tensor, number: int) -> Epoch:
        settings = self.settings
        self.model.train()
        batches = order.tensor_split(math.ceil(len(order) / settings.batch_size))
        if len(batches[-1]) < self.fabric.world_size:
            shares = f"a batch of {len(batches[-1])} clips for {self.fabric.world_size} processes"
            raise TrainingError(f"{shares} leaves one without any; raise batch_size")
        sizes = [int(targets.max()) + 1 for targets in (train.labels, train.groups)]
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.fabric.device))
        for step, batch in enumerate(batches):
            epochs_done = number + step / len(batches)
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * settings.learning_rate_at(epochs_done)
            self.learner.set_progress(epochs_done / settings.epochs)
            index = batch[self.fabric.global_rank :: self.fabric.world_size].to(self.fabric.device)
            waveforms, labels = train.batch(index)
            targets = [labels, train.groups[index]]
            if settings.mixup:
                waveforms, targets = mixed_up(waveforms, targets, sizes, settings.mixup)
            losses: Losses = self.wrapped.loss(waveforms, *targets, settings.label_smoothing)
            self.optimizer.zero_grad()
            self.fabric.backward(losses.total + self._penalty() if settings.l1_penalty else losses.total)
            self.optimizer.step()
            if self.averaged is not None:
                self.averaged.update_parameters(self.model)
            sums["clips"] += len(index)
            for head, (loss, correct) in losses.heads.items():
                sums[f"{head}_loss"] += loss.detach() * len(index)
                sums[f"{head}_accuracy"] += correct
        totals = self.fabric.all_reduce(torch.stack(list(sums.values())), reduce_op="sum").tolist()
        count, *totals = totals
        if not math.isfinite(total := sum(totals)):
            raise TrainingError(f"the loss became {total} in epoch {number + 1}; lower learning_rate")
        means = {name: value / count for name, value in zip(list(sums)[1:], totals, strict=True)}
        return Epoch(means.pop("train_loss"), means.pop("train_accuracy"), other_heads=means)

    def _penalty(self) -> Tensor:
        weights = [parameter for parameter in self.model.parameters() if parameter.ndim > 1]  # no biases or gains
        return self.settings.l1_penalty * sum(weight.abs().sum() for weight in weights)

    @torch.no_grad()
    def evaluate(self, clips: Clips, epoch: Epoch) -> None:
        """Write the validation values into an epoch."""
        self.evaluated.eval()
        loss, right = 0.0, []
        for index in clips.index_batches():
            waveforms, labels = clips.batch(index)
            logits = self.evaluated(waveforms)
            loss += functional.cross_entropy(logits, labels, reduction="sum").item()
            right.append(logits.argmax(dim=1) == labels)
        if not math.isfinite(loss):
            number = len(self.history.epochs) + 1
            raise TrainingError(f"the validation loss became {loss} in epoch {number}; lower learning_rate")
        right, labels = torch.cat(right).cpu(), clips.labels.cpu()
        epoch.validation_loss, epoch.validation_accuracy = loss / len(clips), right.sum().item() / len(clips)
        recalls = [right[labels == label].double().mean() for label in labels.unique()]
        epoch.validation_balanced_accuracy = torch.stack(recalls).mean().item()

    def end_epoch(self, epoch: Epoch) -> None:
        history = self.history
        history.epochs.append(epoch)
        *before, now = [past.validation_balanced_accuracy for past in history.epochs]
        is_best = self.settings.keep == "last" or now > max(before, default=-1.0)
        if is_best:
            history.kept_epoch = len(history.epochs)
        if is_best and self.settings.keep == "best":
            self.best = {name: tensor.detach().clone() for name, tensor in self.evaluated.state_dict().items()}

    def finish(self) -> None:
        chosen = self.best if self.settings.keep == "best" else self.evaluated.state_dict()
        self.model.load_state_dict(chosen)
        self.model.eval()

    def save(self, path: Path) -> None:
        if self.fabric.global_rank == 0:
            tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
            for index, values in self.optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer/{index}/{name}": value for name, value in values.items() if value is not None}
            if self.averaged is not None:
                tensors |= {f"averaged/{name}": tensor for name, tensor in self.averaged.state_dict().items()}
            tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
            state.save(path, tensors, {"history": asdict(self.history), "identity": self.identity})
        self.fabric.barrier()

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint, with the number of threads that it was begun with. Raises CheckpointError."""
        tensors, about = state.load(path, digest_required=True)
        identity = about.get("identity")
        if not isinstance(identity, dict):
            raise CheckpointError(f"{path} is not the checkpoint of a training; delete it")
        if other := [name for name, value in self.identity.items() if identity.get(name) != value]:
            raise CheckpointError(f"{path} belongs to another training: its {', '.join(other)} differ; delete it")
        try:
            past = TypeAdapter(History).validate_json(json.dumps(about["history"]))
            if not (1 <= len(past.epochs) <= self.settings.epochs and 0 <= past.kept_epoch <= len(past.epochs)):
                raise ValueError(f"{len(past.epochs)} epochs of {self.settings.epochs}")
            if not 1 <= past.threads <= environment.MOST_THREADS:
                raise ValueError(f"{past.threads} threads")
            self._load(tensors)
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            what = str(error).splitlines()[0]
            raise CheckpointError(f"{path} is not a checkpoint of this training ({what}); delete it") from None
        self.history = past

    def _load(self, tensors: dict[str, Tensor]) -> None:
        """Take over the tensors of a checkpoint, after all of them have the expected names and shapes."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "averaged": {}, "best": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        _require_layout(parts["model"], self.model.state_dict())
        _require_layout(parts["averaged"], {} if self.averaged is None else self.averaged.state_dict())
        _require_layout(parts["best"], self.evaluated.state_dict() if self.settings.keep == "best" else {})
        values = {"momentum_buffer"} if self.settings.optimizer == "sgd" else {"step", "exp_avg", "exp_avg_sq"}
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        numbers = sorted({int(name.split("/")[0]) for name in parts["optimizer"]})
        if not numbers or numbers[0] < 0:
            raise ValueError("without the state of the optimiser")
        shapes = {
            f"{number}/{value}": torch.zeros(()) if value == "step" else parameters[number]
            for number in numbers
            for value in values
        }
        _require_layout(parts["optimizer"], shapes)
        states = {number: {value: parts["optimizer"][f"{number}/{value}"] for value in values} for number in numbers}
        self.model.load_state_dict(parts["model"])
        if self.averaged is not None:
            self.averaged.load_state_dict(parts["averaged"])
        self.best = {name: tensor.to(self.fabric.device) for name, tensor in parts["best"].items()}
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": states})


def _require_layout(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    if odd := sorted(tensors.keys() ^ expected.keys()):
        raise ValueError(f"{odd[0]} is missing or too much")
    if odd := [name for name, tensor in tensors.items() if tensor.shape != expected[name].shape]:
        raise ValueError(f"{odd[0]} has the shape {tuple(tensors[odd[0]].shape)}")
