"""The training loop: explicit, on one CPU or GPU or several, and resumable to the last bit."""

from __future__ import annotations

import atexit
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from course_lib import CourseError
from course_lib.clips import Clips
from course_lib.models import DomainAdversarial
from course_lib.training import state as checkpoints
from course_lib.training.settings import Settings


class TrainingError(CourseError):
    """Training cannot go on; the message says why and what to change."""


@dataclass
class Epoch:
    """What one epoch did; accuracies are fractions, the balanced one a mean over classes (of two: MAcc).

    Validation values are NaN without a validation part; domain values (training side) None without a domain head.
    """

    train_loss: float
    train_accuracy: float
    validation_loss: float = math.nan
    validation_accuracy: float = math.nan
    validation_balanced_accuracy: float = math.nan
    domain_loss: float | None = None
    domain_accuracy: float | None = None
    seconds: float = 0.0


@dataclass
class History:
    """One Epoch a row, the number of the epoch whose weights the model holds (from 1), and where it was trained."""

    epochs: list[Epoch] = field(default_factory=list)
    kept_epoch: int = 0
    device: str = ""
    precision: str = ""

    @property
    def seconds(self) -> float:
        """Training time in seconds, evaluation on the validation part included."""
        return sum(epoch.seconds for epoch in self.epochs)

    def table(self) -> pd.DataFrame:
        """A row an epoch, numbered from 1; domain values only if there are any."""
        table = pd.DataFrame([asdict(epoch) for epoch in self.epochs])
        table = table.drop(columns=[name for name in table if "domain" in name and table[name].isna().all()])
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
    checkpoint: Path | None = None,
    accelerator: str = "auto",
    progress: bool = True,
    on_epoch: Callable[[History], None] | None = None,
) -> History:
    """Train a model that maps waveforms to logits, in place, and return how it went.

    Each epoch goes once through `train` (or draws from it, see `Settings.balance`) and through
    `settings.extra_per_epoch` random clips of `extra`. A DomainAdversarial model learns from `groups` too: the loss of
    its domain head is added, and the weight of the gradient reversal follows the progress of the training. With
    `checkpoint`, the state is written there after every epoch and training goes on from it: the weights come out the
    same as without the interruption. `on_epoch` is called after every epoch. Under `fabric run` it uses the devices
    named there. Raises TrainingError and CheckpointError.

    Notebook: 02_spoken_digits_cnn
    """
    settings = settings or Settings()
    if settings.keep == "best" and not validation:
        raise TrainingError('keep="best" needs a validation part; hold one out of the training side')
    if settings.extra_per_epoch and not extra:
        raise TrainingError(f"extra_per_epoch is {settings.extra_per_epoch} but there are no extra clips")
    if not len(train):
        raise TrainingError("there are no clips to train on")
    if isinstance(model, DomainAdversarial) and train.groups.max() >= model.n_domains:
        groups = int(train.groups.max()) + 1
        raise TrainingError(f"the model tells {model.n_domains} domains apart but the clips have {groups} groups")
    fabric = _fabric(settings, accelerator)
    own_clips, weights = len(train), _balancing_weights(train, settings.balance)
    train = (train + extra if settings.extra_per_epoch else train).to(fabric.device)
    validation = validation.to(fabric.device) if validation else None
    run = _Run(fabric, model, settings, seed, f"{train.fingerprint} {len(train)}")
    if checkpoint is not None and checkpoint.exists():
        run.resume(checkpoint)
    history = run.history
    quiet = not progress or fabric.global_rank > 0
    bar = tqdm(desc="training", total=settings.epochs, initial=len(history.epochs), unit="epoch", disable=quiet)
    while len(history.epochs) < settings.epochs:
        started, number = time.perf_counter(), len(history.epochs)
        torch.manual_seed(1_000_003 * seed + number)  # an epoch depends on the seed and its number, nothing else
        order = _epoch_order(own_clips, len(train), settings.extra_per_epoch, weights)
        torch.manual_seed(1_000_003 * seed + number + 500_009 * fabric.global_rank)
        epoch = run.train_epoch(train, order, number)
        if validation is not None:
            run.evaluate(validation, epoch)
        epoch.seconds = time.perf_counter() - started
        run.end_epoch(epoch)
        if checkpoint is not None:
            run.save(checkpoint)
        bar.update()
        bar.set_postfix_str(f"loss {epoch.train_loss:.3f}, accuracy {epoch.train_accuracy:.1%}")
        if on_epoch is not None:
            on_epoch(history)
    bar.close()
    run.finish()
    return history


def _fabric(settings: Settings, accelerator: str) -> Fabric:
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
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


class _Run:
    """One training in progress: the model, its optimiser, the averaged and the best weights, and the history."""

    def __init__(self, fabric: Fabric, model: nn.Module, settings: Settings, seed: int, clips: str) -> None:
        self.fabric, self.model, self.settings, self.seed, self.clips = fabric, model, settings, seed, clips
        model.to(fabric.device, memory_format=torch.channels_last)  # convolutions on the CPU are twice as fast so
        self.wrapped, self.optimizer = fabric.setup(model, settings.optimizer_for(model))
        # Layers may learn faster or slower than the rest; the schedule goes for all of them.
        self.rates = [group["lr"] / settings.learning_rate for group in self.optimizer.param_groups]
        self.averaged = None
        if settings.averaging:
            average = get_ema_multi_avg_fn(settings.averaging)
            self.averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        self.best: dict[str, Tensor] = {}
        self.history = History(device=fabric.device.type, precision=settings.precision_on(fabric.device))

    @property
    def evaluated(self) -> nn.Module:
        return self.model if self.averaged is None else self.averaged.module

    def train_epoch(self, train: Clips, order: Tensor, number: int) -> Epoch:
        self.model.train()
        batches = order.tensor_split(math.ceil(len(order) / self.settings.batch_size))
        if len(batches[-1]) < self.fabric.world_size:
            shares = f"a batch of {len(batches[-1])} clips for {self.fabric.world_size} processes"
            raise TrainingError(f"{shares} leaves one without any; raise batch_size")
        adversarial = isinstance(self.model, DomainAdversarial)
        heads = ("train", "domain") if adversarial else ("train",)
        totals = torch.zeros(1 + 2 * len(heads), device=self.fabric.device)
        for step, batch in enumerate(batches):
            epochs_done = number + step / len(batches)
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * self.settings.learning_rate_at(epochs_done)
            if adversarial:
                self.model.set_progress(epochs_done / self.settings.epochs)
            mine = batch[self.fabric.global_rank :: self.fabric.world_size].to(self.fabric.device)
            waveforms, labels = train.batch(mine)
            output = self.wrapped(waveforms)
            pairs = zip(output, (labels, train.groups[mine]), strict=True) if adversarial else [(output, labels)]
            losses, correct = zip(*(self._compare(*pair) for pair in pairs), strict=True)
            loss = sum(losses)
            self.optimizer.zero_grad()
            self.fabric.backward(loss + self._penalty() if self.settings.l1_penalty else loss)
            self.optimizer.step()
            if self.averaged is not None:
                self.averaged.update_parameters(self.model)
            clips = torch.tensor(len(mine), device=totals.device)
            totals += torch.stack([clips, *(loss.detach() * clips for loss in losses), *correct])
        count, *sums = self.fabric.all_reduce(totals, reduce_op="sum").tolist()
        if not math.isfinite(total := sum(sums)):
            raise TrainingError(f"the loss became {total} in epoch {number + 1}; lower learning_rate")
        names = [f"{head}_{what}" for what in ("loss", "accuracy") for head in heads]
        return Epoch(**{name: value / count for name, value in zip(names, sums, strict=True)})

    def _compare(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of logits and the number of right answers among them."""
        loss = functional.cross_entropy(logits, targets, label_smoothing=self.settings.label_smoothing)
        return loss, (logits.argmax(dim=1) == targets).sum()

    def _penalty(self) -> Tensor:
        weights = [parameter for parameter in self.model.parameters() if parameter.ndim > 1]  # no biases or gains
        return self.settings.l1_penalty * sum(weight.abs().sum() for weight in weights)

    @torch.no_grad()
    def evaluate(self, clips: Clips, epoch: Epoch) -> None:
        """Write the validation values into an epoch."""
        self.evaluated.eval()
        loss, right = 0.0, []
        for batch in torch.arange(len(clips), device=self.fabric.device).split(512):
            waveforms, labels = clips.batch(batch)
            logits = self.evaluated(waveforms)
            loss += functional.cross_entropy(logits, labels, reduction="sum").item()
            right.append(logits.argmax(dim=1) == labels)
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
            for index, state in self.optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer/{index}/{name}": tensor for name, tensor in state.items() if tensor is not None}
            if self.averaged is not None:
                tensors |= {f"averaged/{name}": tensor for name, tensor in self.averaged.state_dict().items()}
            tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
            checkpoints.save(path, tensors, {"history": asdict(self.history)} | self._identity())
        self.fabric.barrier()

    def resume(self, path: Path) -> None:
        tensors, about = checkpoints.load(path)
        if {key: about.get(key) for key in self._identity()} != self._identity():
            raise checkpoints.CheckpointError(f"{path} belongs to a training with other settings or clips; delete it")
        try:
            self.model.load_state_dict(_under(tensors, "model/"))
        except RuntimeError as error:
            raise checkpoints.CheckpointError(f"{path} belongs to another model; delete it ({error})") from None
        if self.averaged is not None:
            self.averaged.load_state_dict(_under(tensors, "averaged/"))
        self.best = _under(tensors, "best/")
        states: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under(tensors, "optimizer/").items():
            index, key = name.split("/")
            states.setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": states})
        past = about["history"]
        self.history.epochs.extend(Epoch(**epoch) for epoch in past["epochs"])
        self.history.kept_epoch = past["kept_epoch"]

    def _identity(self) -> dict[str, object]:
        return {"settings": self.settings.identity(), "seed": self.seed, "clips": self.clips}


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
