"""One training in progress: an epoch at a time, to a checkpoint and back."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from course_lib import CourseError, environment
from course_lib.clips import Clips
from course_lib.models.base import Classifier, Losses
from course_lib.training import state
from course_lib.training.history import Epoch, History
from course_lib.training.settings import Settings
from course_lib.training.state import CheckpointError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class TrainingError(CourseError):
    """Training cannot go on; the message says why and what to change."""


@contextmanager
def mixing(front_end: nn.Module, batch_size: int, alpha: float) -> Iterator[Callable[[Tensor], Tensor]]:
    """Mix each of `batch_size` images that a front end makes with another, in shares drawn from Beta(alpha, alpha).

    Yields the function that mixes what belongs to the clips, such as their one-hot labels (batch, classes), likewise.
    Source: Zhang et al. 2018, "mixup: Beyond empirical risk minimization".
    """
    partner = torch.randperm(batch_size)
    share = torch.distributions.Beta(alpha, alpha).sample((batch_size,))

    def mixed(values: Tensor) -> Tensor:
        shares = share.to(values).view(-1, *[1] * (values.ndim - 1))
        return torch.lerp(values[partner.to(values.device)], values, shares)

    hook = front_end.register_forward_hook(lambda _, __, images: mixed(images))
    try:
        yield mixed
    finally:
        hook.remove()


def _balanced_accuracy(right: Tensor, labels: Tensor) -> float:
    recalls = [right[labels == label].double().mean() for label in labels.unique()]
    return torch.stack(recalls).mean().item()


def _decided(probabilities: Tensor, recording: Tensor, decision: str) -> Tensor:
    """The class of each recording, from those of its clips as `evaluation.decide` does it; two classes split at 0.5."""
    two = probabilities.shape[1] == 2
    if decision == "vote":
        likeliest = (probabilities[:, 1] >= 0.5).long() if two else probabilities.argmax(dim=1)
        values = functional.one_hot(likeliest, probabilities.shape[1]).double()
    else:
        values = probabilities.clamp(min=1e-7).log()
    sums = torch.zeros(int(recording.max()) + 1, values.shape[1], dtype=values.dtype).index_add(0, recording, values)
    return (sums[:, 1] >= sums[:, 0]).long() if two else sums.argmax(dim=1)


class Trainer:
    """One training in progress: the model, its optimiser, the averaged and the best weights, and the history."""

    def __init__(
        self, fabric: Fabric, learner: Classifier, model: nn.Module, settings: Settings, identity: dict[str, Any]
    ) -> None:
        self.fabric, self.learner, self.model, self.settings = fabric, learner, model, settings
        device, precision = fabric.device.type, settings.precision_on(fabric.device)
        self.history = History(device=device, precision=precision, threads=environment.threads())
        self.identity = identity | {"device": device, "precision": precision, "processes": fabric.world_size}
        learner.to(fabric.device, memory_format=torch.channels_last)  # convolutions on the CPU are twice as fast so
        self.wrapped, self.optimizer = fabric.setup(learner, settings.optimizer_for(model))
        self.wrapped.mark_forward_method("loss")  # so that it runs on several devices as `forward` does
        # Layers may learn faster or slower than the rest; the schedule goes for all that are not constant.
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
                if not group.get("constant"):
                    group["lr"] = rate * settings.learning_rate_at(epochs_done)
            self.learner.set_progress(epochs_done / settings.epochs)
            index = batch[self.fabric.global_rank :: self.fabric.world_size].to(self.fabric.device)
            waveforms, labels = train.batch(index)
            labelled = (labels >= 0).sum()
            targets = [labels, train.groups[index]]
            with ExitStack() as stack:
                if settings.mixup:
                    mixed = stack.enter_context(mixing(self.learner.front_end, len(index), settings.mixup))
                    pairs = zip(targets, sizes, strict=True)
                    targets = [mixed(functional.one_hot(indices, size).float()) for indices, size in pairs]
                stack.enter_context(self.fabric.autocast())  # on one device Fabric only does so for `forward`
                losses: Losses = self.wrapped.loss(waveforms, *targets, settings.label_smoothing)
            self.optimizer.zero_grad()
            self.fabric.backward(losses.total + self._penalty() if settings.l1_penalty else losses.total)
            self.optimizer.step()
            if self.averaged is not None:
                self.averaged.update_parameters(self.model)
            sums["clips"] += len(index)
            sums["labelled"] += labelled
            for head, (loss, correct) in losses.heads.items():
                sums[f"{head}_loss"] += loss.detach() * (labelled if head == "train" else len(index))
                sums[f"{head}_accuracy"] += correct
        clips, labelled, *totals = self.fabric.all_reduce(torch.stack(list(sums.values())), reduce_op="sum").tolist()
        if not math.isfinite(total := sum(totals)):
            raise TrainingError(f"the loss became {total} in epoch {number + 1}; lower learning_rate")
        of_head = {name: labelled if name.startswith("train_") else clips for name in list(sums)[2:]}
        means = {name: value / of_head[name] for name, value in zip(of_head, totals, strict=True)}
        return Epoch(means.pop("train_loss"), means.pop("train_accuracy"), other_heads=means)

    def _penalty(self) -> Tensor:
        weights = [parameter for parameter in self.model.parameters() if parameter.ndim > 1]  # no biases or gains
        return self.settings.l1_penalty * sum(weight.abs().sum() for weight in weights)

    @torch.no_grad()
    def evaluate(self, clips: Clips, epoch: Epoch, decision: str) -> None:
        """Write the validation values into an epoch."""
        self.evaluated.eval()
        loss, right, probabilities = 0.0, [], []
        for index in clips.index_batches():
            waveforms, labels = clips.batch(index)
            logits = self.evaluated(waveforms)
            loss += functional.cross_entropy(logits, labels, reduction="sum").item()
            right.append(logits.argmax(dim=1) == labels)
            probabilities.append(logits.cpu().double().softmax(dim=1))  # Apple's GPU knows no float64
        if not math.isfinite(loss):
            number = len(self.history.epochs) + 1
            raise TrainingError(f"the validation loss became {loss} in epoch {number}; lower learning_rate")
        right, labels = torch.cat(right).cpu(), clips.labels.cpu()
        epoch.validation_loss, epoch.validation_accuracy = loss / len(clips), right.sum().item() / len(clips)
        epoch.validation_balanced_accuracy = _balanced_accuracy(right, labels)
        _, first, member = np.unique(clips.recording.cpu().numpy(), return_index=True, return_inverse=True)
        predicted = _decided(torch.cat(probabilities), torch.from_numpy(member), decision)
        of_recordings = labels[first]
        epoch.validation_recordings_balanced_accuracy = _balanced_accuracy(predicted == of_recordings, of_recordings)

    def end_epoch(self, epoch: Epoch) -> None:
        history = self.history
        history.epochs.append(epoch)
        *before, now = [past.validation_balanced_accuracy for past in history.epochs]
        is_best = self.settings.keep == "last" or now > max(before, default=-1.0)
        if is_best:
            history.kept_epoch = len(history.epochs)
            if self.settings.keep == "best":
                self.best = {name: tensor.detach().clone() for name, tensor in self.evaluated.state_dict().items()}

    def finish(self) -> None:
        chosen = self.best if self.settings.keep == "best" else self.evaluated.state_dict()
        self.model.load_state_dict(chosen)
        self.model.eval()

    def save(self, path: Path) -> None:
        if self.fabric.global_rank == 0:
            tensors = self._tensors(self.best, self.optimizer.state_dict()["state"])
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

    def _tensors(self, best: dict[str, Tensor], optimizer: dict[int, dict[str, Any]]) -> dict[str, Tensor]:
        """The tensors of a checkpoint, each named after the part that it belongs to."""
        averaged = {} if self.averaged is None else self.averaged.state_dict()
        parts = {"model": self.model.state_dict(), "averaged": averaged, "best": best}
        parts |= {f"optimizer/{number}": values for number, values in optimizer.items()}
        every = ((f"{part}/{name}", tensor) for part, tensors in parts.items() for name, tensor in tensors.items())
        return {name: tensor for name, tensor in every if tensor is not None}

    def _load(self, tensors: dict[str, Tensor]) -> None:
        """Take over the tensors of a checkpoint, after all of them have the expected names and shapes."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        of_each = {"momentum_buffer"} if self.settings.optimizer == "sgd" else {"step", "exp_avg", "exp_avg_sq"}
        trained = {int(name.split("/")[1]) for name in tensors if name.startswith("optimizer/")}
        if not trained or min(trained) < 0:
            raise ValueError("without the state of the optimiser")
        optimizer = {
            number: {value: torch.zeros(()) if value == "step" else parameters[number] for value in of_each}
            for number in trained
        }
        expected = self._tensors(self.evaluated.state_dict() if self.settings.keep == "best" else {}, optimizer)
        if odd := sorted(tensors.keys() ^ expected.keys()):
            raise ValueError(f"{odd[0]} is missing or too much")
        if odd := [name for name, tensor in tensors.items() if tensor.shape != expected[name].shape]:
            raise ValueError(f"{odd[0]} has the shape {tuple(tensors[odd[0]].shape)}")

        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}

        self.model.load_state_dict(part("model/"))
        if self.averaged is not None:
            self.averaged.load_state_dict(part("averaged/"))
        self.best = {name: tensor.to(self.fabric.device) for name, tensor in part("best/").items()}
        states = {number: part(f"optimizer/{number}/") for number in trained}
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": states})
