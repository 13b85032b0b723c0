"""Training learns, chooses, averages and repeats itself as its settings say."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import random
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from course_lib import evaluation
from course_lib.clips import Clips
from course_lib.models import ModelError, require_fitting
from course_lib.models.base import Classifier, Losses
from course_lib.training import History, Settings, TrainingError, fit
from course_lib.training.trainer import _decided, mixing

SAMPLES = 64
CPU = torch.device("cpu")


class Tiny(nn.Module):
    """Waveforms (batch, 64) -> logits (batch, 2), with buffers and dropout, and a convolution in two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, 6, 3),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(6 * 6 * 6, 2),
        )

    def forward(self, waveforms: Tensor) -> Tensor:
        return self.layers(waveforms)


def tones(clips: int, seed: int = 0) -> Clips:
    """Clips of a low (class 0) or a high (class 1) tone, each with another phase and some noise."""
    generator = np.random.default_rng(seed)
    labels = np.arange(clips) % 2
    phase = generator.uniform(0, 2 * np.pi, (clips, 1))
    wave = np.sin(np.where(labels, 1.5, 0.4)[:, None] * np.arange(SAMPLES) + phase)
    wave += generator.normal(0, 0.1, wave.shape)
    return Clips(
        samples=torch.from_numpy((8000 * wave).astype(np.int16).ravel()),
        start=SAMPLES * torch.arange(clips),
        length=torch.full((clips,), SAMPLES),
        labels=torch.from_numpy(labels),
        groups=torch.zeros(clips, dtype=torch.int64),
        recording=torch.arange(clips),
        group_names=("one",),
        clip_samples=SAMPLES,
        sample_rate=8000,
        fingerprint=f"tones{clips}-{seed}",
    )


def turned(clips: Clips) -> Clips:
    """The same clips with the other label each: the better a model has learnt, the worse it does on these."""
    return Clips(**(vars(clips) | {"labels": 1 - clips.labels}))


def fresh(seed: int = 0) -> Tiny:
    torch.manual_seed(seed)
    return Tiny()


def settings(**changes: object) -> Settings:
    form = {"epochs": 3, "batch_size": 8, "learning_rate": 0.01, "precision": "32-true"}
    return Settings(**(form | changes))


def train(model: nn.Module, how: Settings, validation: Clips | None = None, **options: object) -> History:
    return fit(model, tones(20), validation, how, accelerator="cpu", progress=False, **options)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@torch.no_grad()
def accuracy(model: nn.Module, clips: Clips) -> float:
    waveforms, labels = clips.batch(torch.arange(len(clips)))
    return (copy.deepcopy(model).eval()(waveforms).argmax(1) == labels).float().mean().item()


@pytest.fixture
def steps() -> Iterator[list[tuple[float, list[Tensor]]]]:
    """The learning rate and the weights after each step of every optimiser."""
    taken: list[tuple[float, list[Tensor]]] = []

    def note(optimizer: torch.optim.Optimizer, *_: object) -> None:
        (group,) = optimizer.param_groups
        taken.append((group["lr"], [parameter.detach().clone() for parameter in group["params"]]))

    hook = register_optimizer_step_post_hook(note)
    yield taken
    hook.remove()


def test_two_tones_are_learnt() -> None:
    model, how = fresh(), settings(epochs=15)
    history = fit(model, tones(40), tones(40, seed=1), how, accelerator="cpu", progress=False)
    table = history.table()
    assert list(table.index) == list(range(1, 16))
    assert table["train_loss"].iloc[-1] < 0.5 * table["train_loss"].iloc[0]
    assert table["validation_loss"].iloc[-1] < table["validation_loss"].iloc[0]
    assert accuracy(model, tones(60, seed=2)) > 0.9
    assert history.kept_epoch == 15
    assert history.seconds == pytest.approx(table["seconds"].sum()) and history.seconds > 0
    assert (history.device, history.precision) == ("cpu", "32-true")
    assert not model.training


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_optimiser_lowers_the_loss(optimizer: str) -> None:
    history = train(fresh(), settings(epochs=6, optimizer=optimizer))
    assert history.epochs[-1].train_loss < history.epochs[0].train_loss


def test_the_history_tells_what_the_model_does_on_the_validation_part() -> None:
    model, validation = fresh(), tones(14, seed=3)
    last = train(model, settings(), validation).epochs[-1]
    waveforms, labels = validation.batch(torch.arange(14))
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(waveforms), labels).item()
    assert last.validation_loss == pytest.approx(loss, rel=1e-5)
    assert last.validation_accuracy == pytest.approx(accuracy(model, validation))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("rule", ["log_odds", "vote"])
def test_recordings_are_decided_in_training_as_they_are_afterwards(rule: str, classes: int) -> None:
    generator = np.random.default_rng(0)
    recording = np.sort(generator.integers(0, 60, 200))
    probabilities = generator.dirichlet(np.ones(classes), 200)
    clips = pd.DataFrame(probabilities, index=recording.astype(str))
    expected = evaluation.decide(clips, rule)["predicted"].tolist()
    member = np.unique(recording, return_inverse=True)[1]
    found = _decided(torch.from_numpy(probabilities), torch.from_numpy(member), rule)
    if rule == "vote" and classes == 3:  # most votes may be a tie
        votes = pd.get_dummies(clips.idxmax(axis=1)).groupby(level=0, sort=False).sum().to_numpy()
        assert (votes[np.arange(len(votes)), found] == votes.max(axis=1)).all()
    else:
        assert found.tolist() == expected


def test_without_a_validation_part_its_values_are_nan() -> None:
    (epoch,) = train(fresh(), settings(epochs=1)).epochs
    assert math.isnan(epoch.validation_loss) and math.isnan(epoch.validation_accuracy)
    assert math.isnan(epoch.validation_balanced_accuracy)
    assert math.isnan(epoch.validation_recordings_balanced_accuracy)


def test_the_training_accuracy_and_loss_are_those_of_all_clips() -> None:
    model = nn.Sequential(nn.Linear(SAMPLES, 2))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.copy_(torch.tensor([3.0, 0.0]))
    labels = torch.tensor([0] * 15 + [1] * 5)
    clips = Clips(**(vars(tones(20)) | {"labels": labels}))
    how = settings(epochs=1, optimizer="sgd", learning_rate=1e-12)
    (epoch,) = fit(model, clips, None, how, accelerator="cpu", progress=False).epochs
    assert epoch.train_accuracy == 0.75
    assert epoch.train_loss == pytest.approx(math.log(1 + math.exp(-3)) + 0.25 * 3)


@pytest.mark.parametrize("averaging", [0.0, 0.5])
def test_keep_best_ends_with_the_weights_of_the_best_epoch(averaging: float) -> None:
    validation, after = turned(tones(30, seed=1)), []
    model = fresh()
    how = settings(epochs=6, keep="best", averaging=averaging)
    history = train(model, how, validation, on_epoch=lambda _: after.append(weights(model)))
    accuracies = [epoch.validation_accuracy for epoch in history.epochs]
    best = int(np.argmax(accuracies))
    assert history.kept_epoch == best + 1 < 6
    assert accuracy(model, validation) == pytest.approx(accuracies[best])
    assert accuracies[-1] < accuracies[best]
    if averaging:  # the weights of each epoch's average are not to be seen from here
        return
    assert same(weights(model), after[best])
    recomputed = []
    for state in after:
        other = Tiny()
        other.load_state_dict(state)
        recomputed.append(accuracy(other, validation))
    assert recomputed == pytest.approx(accuracies)


def test_of_equally_good_epochs_the_first_is_kept() -> None:
    torch.manual_seed(0)
    model, how = nn.Sequential(nn.Linear(SAMPLES, 2)), settings(keep="best", optimizer="sgd", learning_rate=1e-12)
    history = train(model, how, tones(10, seed=1))
    assert len({epoch.validation_accuracy for epoch in history.epochs}) == 1
    assert history.kept_epoch == 1


class Scripted(nn.Module):
    """Learns nothing; its n-th evaluation says of every clip what the n-th row of a script says."""

    def __init__(self, script: Tensor) -> None:
        super().__init__()
        self.bias, self.rows = nn.Parameter(torch.zeros(2)), iter(script)

    def forward(self, waveforms: Tensor) -> Tensor:
        if self.training:
            return self.bias.expand(len(waveforms), 2)
        return nn.functional.one_hot(next(self.rows), 2).float()


def test_the_best_epoch_has_the_best_mean_over_classes_not_the_most_right_clips() -> None:
    labels = torch.tensor([0] * 8 + [1] * 2)
    said = torch.tensor(
        [
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0],  # eight of ten, and one class alone
            [0, 0, 0, 0, 0, 1, 1, 1, 1, 1],  # seven of ten, but 5/8 and 2/2 of the classes
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 1],  # nine of ten: 8/8 and 1/2
        ]
    )
    validation = Clips(**(vars(tones(10)) | {"labels": labels}))
    history = train(Scripted(said), settings(keep="best"), validation)
    table = history.table()
    expected = [metrics.balanced_accuracy_score(labels, row) for row in said]
    assert table["validation_balanced_accuracy"].tolist() == pytest.approx(expected)
    assert table["validation_accuracy"].tolist() == pytest.approx([0.8, 0.7, 0.9])
    assert history.kept_epoch == 2


def test_averaging_is_the_moving_average_of_the_weights(steps: list) -> None:
    model, decay = fresh(), 0.7
    train(model, settings(epochs=2, averaging=decay))
    assert len(steps) == 6
    average = steps[0][1]
    for _, after in steps[1:]:
        average = [decay * old + (1 - decay) * new for old, new in zip(average, after, strict=True)]
    for found, expected, last in zip(model.parameters(), average, steps[-1][1], strict=True):
        torch.testing.assert_close(found.detach(), expected, rtol=1e-5, atol=1e-7)
        assert not torch.equal(found, last)


def test_averaging_does_not_change_what_is_trained(steps: list) -> None:
    train(fresh(), settings(epochs=2))
    plain, steps[:] = list(steps), []
    train(fresh(), settings(epochs=2, averaging=0.9))
    for (_, one), (_, other) in zip(plain, steps, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_constant_learning_rate(steps: list) -> None:
    train(fresh(), settings(schedule="constant"))
    assert [rate for rate, _ in steps] == [0.01] * 9


def test_an_exponential_learning_rate_falls_once_an_epoch(steps: list) -> None:
    train(fresh(), settings(schedule="exponential", decay=0.5))
    assert [rate for rate, _ in steps] == pytest.approx([0.01] * 3 + [0.005] * 3 + [0.0025] * 3)


def test_one_cycle_rises_to_the_learning_rate_and_falls_to_nothing(steps: list) -> None:
    how = settings(schedule="one_cycle", epochs=4)
    train(fresh(), how)
    rates = [rate for rate, _ in steps]
    peak = int(np.argmax(rates))
    assert rates[0] == pytest.approx(0.0004)
    assert peak == 2  # of 12 steps, the nearest to 15 %
    assert rates[: peak + 1] == sorted(rates[: peak + 1]) and rates[peak:] == sorted(rates[peak:], reverse=True)
    assert how.learning_rate_at(0.15 * 4) == pytest.approx(0.01)
    assert how.learning_rate_at(0.575 * 4) == pytest.approx(0.005)
    assert how.learning_rate_at(4) == pytest.approx(0, abs=1e-9)


class Shifted(nn.Module):
    """Tiny behind an offset that learns at a tenth of the rate and must not decay."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.ones(1))
        self.tiny = Tiny()

    def parameter_groups(self, lr: float) -> list[dict[str, object]]:
        return [{"params": [self.offset], "lr": 0.1 * lr, "weight_decay": 0.0}]

    def forward(self, waveforms: Tensor) -> Tensor:
        return self.tiny(waveforms + self.offset)


def test_a_layer_sets_its_own_learning_rate_and_the_schedule_goes_for_it_too() -> None:
    rates: list[list[float]] = []
    hook = register_optimizer_step_post_hook(
        lambda optimizer, *_: rates.append([g["lr"] for g in optimizer.param_groups])
    )
    how = Settings(epochs=3, batch_size=10, learning_rate=0.01, schedule="exponential", decay=0.5, precision="32-true")
    fit(Shifted(), tones(40), settings=how, progress=False)
    hook.remove()
    assert len(rates) == 12
    for step, (usual, own) in enumerate(rates):
        assert usual == pytest.approx(0.01 * 0.5 ** (step // 4))
        assert own == pytest.approx(0.1 * usual)


def test_every_parameter_is_trained_once_and_as_its_layer_says() -> None:
    model = Shifted()
    usual, own = Settings(optimizer="adamw", weight_decay=0.3).optimizer_for(model).param_groups
    assert usual["weight_decay"] == 0.3 and own["weight_decay"] == 0
    assert own["params"] == [model.offset]
    assert {id(parameter) for parameter in usual["params"]} == {id(parameter) for parameter in model.tiny.parameters()}


def test_a_model_may_leave_no_parameter_to_the_usual_rate() -> None:
    class Lone(Shifted):
        def __init__(self) -> None:
            super().__init__()
            self.tiny = nn.Identity()

    assert len(Settings().optimizer_for(Lone()).param_groups) == 1


def one_step(l1_penalty: float) -> tuple[Tiny, Tiny, float]:
    """A model before and after one step of plain gradient descent on all clips, and the loss that was reported."""
    before, after = fresh(), fresh()
    how = settings(epochs=1, batch_size=20, optimizer="sgd", schedule="constant", l1_penalty=l1_penalty)
    (epoch,) = train(after, how).epochs
    return before, after, epoch.train_loss


def test_the_l1_penalty_pulls_every_weight_and_no_bias_or_gain_towards_zero() -> None:
    (before, plain, loss), (_, pulled, same_loss) = one_step(0.0), one_step(0.3)
    for name, parameter in before.named_parameters():
        moved = pulled.get_parameter(name) - plain.get_parameter(name)
        pull = -0.01 * 0.3 * parameter.sign() if parameter.ndim > 1 else torch.zeros_like(parameter)
        torch.testing.assert_close(moved.detach(), pull.detach(), rtol=1e-3, atol=1e-7)
    assert {parameter.ndim for parameter in before.parameters()} == {1, 2, 4}
    assert same_loss == loss  # the penalty is no part of the loss that is reported


def test_the_l1_penalty_leaves_few_weights() -> None:
    kept = []
    for l1_penalty in (0.0, 0.02):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(SAMPLES, 2))
        train(model, settings(epochs=15, schedule="constant", l1_penalty=l1_penalty))
        kept.append((model[0].weight.abs() > 0.02).float().mean().item())
    assert kept[0] > 0.7 and kept[1] < 0.35


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    models = [fresh() for _ in range(3)]
    histories = [
        train(model, settings(averaging=0.9), seed=seed) for model, seed in zip(models, (5, 5, 6), strict=True)
    ]
    losses = [[epoch.train_loss for epoch in history.epochs] for history in histories]
    assert same(weights(models[0]), weights(models[1])) and losses[0] == losses[1]
    assert not same(weights(models[0]), weights(models[2])) and losses[0] != losses[2]


def test_random_numbers_drawn_before_training_do_not_matter() -> None:
    one, other = fresh(), fresh()
    train(one, settings())
    torch.rand(17)
    train(other, settings())
    assert same(weights(one), weights(other))


def numpy_state() -> list[int]:
    return np.random.get_state()[1].tolist()  # noqa: NPY002


@pytest.mark.parametrize("fails", [False, True])
def test_training_leaves_random_numbers_and_threads_as_they_were(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURSE_THREADS", "2")
    used: list[int] = []

    def note(history: History) -> None:
        used.append(torch.get_num_threads())
        if fails:
            raise KeyboardInterrupt

    before = torch.random.get_rng_state(), numpy_state(), random.getstate()
    model = Tiny()
    torch.random.set_rng_state(before[0])
    with pytest.raises(KeyboardInterrupt) if fails else contextlib.nullcontext():
        history = train(model, settings(epochs=2), tones(10, seed=1), on_epoch=note)
        assert history.threads == 2
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (numpy_state(), random.getstate()) == before[1:]
    assert set(used) == {2} and torch.get_num_threads() == 1


def test_repeats_start_from_different_weights() -> None:
    torch.manual_seed(0)
    starts = []
    for _ in range(3):
        model = Tiny()
        starts.append(weights(model))
        train(model, settings(epochs=1))
    assert not same(starts[0], starts[1]) and not same(starts[1], starts[2]) and not same(starts[0], starts[2])


def test_the_number_of_threads_around_a_training_does_not_matter() -> None:
    models = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            models.append(fresh())
            train(models[-1], settings())
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(1)
    assert same(*map(weights, models))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_training_on_a_gpu_leaves_its_random_numbers_as_they_were() -> None:
    torch.cuda.manual_seed_all(5)
    before = [torch.cuda.get_rng_state(number) for number in range(torch.cuda.device_count())]
    for accelerator in ("cuda", "cpu"):
        fit(fresh(), tones(20), settings=settings(mixup=0.3), accelerator=accelerator, progress=False)
        after = [torch.cuda.get_rng_state(number) for number in range(torch.cuda.device_count())]
        assert all(torch.equal(*states) for states in zip(before, after, strict=True))


def test_mixed_clips_are_sums_of_pairs_and_their_targets_too() -> None:
    torch.manual_seed(0)
    waveforms, labels, groups = torch.eye(50), torch.arange(50) % 3, torch.arange(50) % 2
    front_end = nn.Identity()
    with mixing(front_end, 50, 0.4) as mixed:
        shares = front_end(waveforms)  # each clip is one sample, so a mixed clip holds its own shares
        classes, domains = (
            mixed(nn.functional.one_hot(labels, 3).float()),
            mixed(nn.functional.one_hot(groups, 2).float()),
        )
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(50))
    assert ((shares > 0).sum(dim=1) <= 2).all() and len(shares.diagonal().unique()) > 40
    torch.testing.assert_close(classes, shares @ nn.functional.one_hot(labels, 3).float())
    torch.testing.assert_close(domains, shares @ nn.functional.one_hot(groups, 2).float())
    assert 0.3 < shares.diagonal().mean() < 0.7  # Beta(alpha, alpha) has the mean one half


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 0.2, 1.0, 100.0])
def test_mixing_is_finite_for_any_alpha(alpha: float) -> None:
    front_end = nn.Identity()
    with mixing(front_end, 500, alpha) as mixed:
        assert front_end(torch.randn(500, 4, 3)).isfinite().all()
        classes = mixed(nn.functional.one_hot(torch.arange(500) % 2, 2).float())
    torch.testing.assert_close(classes.sum(dim=1), torch.ones(500))


def test_nothing_is_mixed_after_a_step_even_if_it_fails() -> None:
    front_end = nn.Identity()
    with pytest.raises(RuntimeError, match="half-way"), mixing(front_end, 9, 1.0):
        raise RuntimeError("half-way")
    torch.testing.assert_close(front_end(torch.eye(9)), torch.eye(9))


def test_mixup_learns_and_counts_by_shares() -> None:
    model = fresh()
    history = fit(
        model, tones(40), tones(40, seed=1), settings(epochs=15, mixup=0.4), accelerator="cpu", progress=False
    )
    assert accuracy(model, tones(60, seed=2)) > 0.9
    last = history.epochs[-1]
    assert 0.6 < last.train_accuracy < last.validation_accuracy  # half of a mixed clip may be of the other class
    assert last.train_loss > last.validation_loss
    plain = fresh()
    train(plain, settings(epochs=15))
    assert not same(weights(plain), weights(model))


class TwoLosses(Classifier):
    """A network with an objective of its own: its logits, and how loud a clip is."""

    def __init__(self) -> None:
        super().__init__()
        self.front_end = nn.Identity()
        self.classify, self.level = nn.Linear(SAMPLES, 2), nn.Linear(SAMPLES, 1)
        self.progress: list[float] = []

    def embed(self, waveforms: Tensor) -> Tensor:
        return self.front_end(waveforms)

    def set_progress(self, progress: float) -> None:
        self.progress.append(progress)

    def loss(self, waveforms: Tensor, labels: Tensor, groups: Tensor, label_smoothing: float = 0.0) -> Losses:
        losses = super().loss(waveforms, labels, groups, label_smoothing)
        level = (self.level(waveforms)[:, 0] - waveforms.std(dim=1)).square().mean()
        return Losses(losses.total + level, losses.heads | {"level": (level, torch.tensor(len(waveforms)))})


@pytest.mark.parametrize("mixup", [0.0, 0.2])
def test_a_network_may_have_an_objective_of_its_own(mixup: float) -> None:
    model = TwoLosses()
    table = train(model, settings(epochs=4, mixup=mixup)).table()
    assert list(table)[-3:] == ["level_loss", "level_accuracy", "seconds"]
    assert table["level_loss"].iloc[-1] < table["level_loss"].iloc[0] and set(table["level_accuracy"]) == {1.0}
    assert model.progress == pytest.approx([step / 12 for step in range(12)])


@pytest.mark.parametrize("part", ["train", "validation", "extra"])
@pytest.mark.parametrize("change", [{"sample_rate": 16_000}, {"clip_samples": 32}])
def test_clips_that_do_not_fit_the_layers_are_refused(part: str, change: dict[str, int]) -> None:
    class Strict(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.layers[0].sample_rate, self.layers[0].clip_samples = 8000, SAMPLES

    parts: dict[str, Clips] = {"train": tones(20), "validation": tones(6), "extra": tones(6)}
    fit(Strict(), settings=settings(epochs=1), accelerator="cpu", progress=False, **parts)
    parts[part] = replace(parts[part], **change)
    ((_, number),) = change.items()
    with pytest.raises(ModelError, match=rf"Unflatten was made for .* {number}[ ;].* build it with"):
        fit(Strict(), settings=settings(epochs=1), accelerator="cpu", progress=False, **parts)
    with pytest.raises(ModelError, match="Unflatten was made for"):
        require_fitting(Strict(), parts[part])


def test_a_class_without_an_output_is_refused() -> None:
    clips = replace(tones(20), labels=torch.arange(20) % 5)
    with pytest.raises(ModelError, match="distinguishes 2 classes but the clips have 5; set n_classes"):
        fit(TwoLosses(), clips, settings=settings(), accelerator="cpu", progress=False)


@pytest.mark.parametrize("seed", [-1, True, 1.0, "1", None, 2**31])
def test_a_seed_is_a_whole_number_from_zero(seed: object) -> None:
    with pytest.raises(TrainingError, match=r"seed is .* it must be a whole number from 0"):
        train(fresh(), settings(), seed=seed)


def test_an_accelerator_that_is_not_there_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"accelerator is 'tpu'; this computer has: .*cpu"):
        fit(fresh(), tones(20), accelerator="tpu", progress=False)


def test_an_epoch_takes_every_clip_once_and_some_of_the_extra_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Tensor] = []
    real_batch = Clips.batch

    def batch(clips: Clips, index: Tensor) -> tuple[Tensor, Tensor]:
        taken.append(index)
        return real_batch(clips, index)

    monkeypatch.setattr(Clips, "batch", batch)
    train(fresh(), settings(epochs=2, extra_per_epoch=6), extra=tones(30, seed=1))
    assert [len(index) for index in taken] == [7, 7, 6, 6] * 2
    epochs = [torch.cat(taken[: len(taken) // 2]), torch.cat(taken[len(taken) // 2 :])]
    extras = []
    for epoch in epochs:
        own = epoch[epoch < 20]
        assert sorted(own.tolist()) == list(range(20))
        extras.append(set(epoch[epoch >= 20].tolist()))
        assert len(extras[-1]) == 6 and max(extras[-1]) < 50
    assert extras[0] != extras[1]
    assert not torch.equal(*epochs)


def test_after_every_epoch_the_caller_is_told() -> None:
    seen: list[int] = []
    train(fresh(), settings(), on_epoch=lambda history: seen.append(len(history.epochs)))
    assert seen == [1, 2, 3]


def test_a_loss_that_is_not_a_number_stops_training() -> None:
    model = fresh()
    with torch.no_grad():
        model.layers[-1].bias.fill_(math.nan)
    with pytest.raises(TrainingError, match=r"nan in epoch 1; lower learning_rate"):
        train(model, settings())


def test_outputs_that_are_not_a_number_on_the_validation_part_stop_training() -> None:
    class NotANumber(Tiny):
        def forward(self, waveforms: Tensor) -> Tensor:
            return super().forward(waveforms) * (1.0 if self.training else math.nan)

    with pytest.raises(TrainingError, match="the validation loss became nan in epoch 1; lower learning_rate"):
        train(NotANumber(), settings(), tones(10))


def test_keep_best_needs_a_validation_part() -> None:
    with pytest.raises(TrainingError, match="validation"):
        train(fresh(), settings(keep="best"))


def test_extra_clips_are_asked_for() -> None:
    with pytest.raises(TrainingError, match="extra_per_epoch is 4"):
        train(fresh(), settings(extra_per_epoch=4))


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0},
        {"learning_rate": math.nan},
        {"decay": 1.5},
        {"averaging": 1.0},
        {"label_smoothing": -0.1},
        {"l1_penalty": -1e-3},
        {"l1_penalty": math.nan},
        {"optimizer": "lion"},
        {"schedule": "cosine"},
        {"keep": "first"},
        {"precision": "8"},
        {"epoch": 3},
        {"epochs": -3},
        {"epochs": True},
        {"epochs": "3"},
        {"epochs": 3.0},
        {"epochs": 10**9},
        {"batch_size": math.inf},
        {"learning_rate": "on"},
        {"learning_rate": True},
        {"learning_rate": math.inf},
        {"weight_decay": math.inf},
        {"weight_decay": math.nan},
        {"averaging": math.nan},
        {"mixup": -0.1},
        {"mixup": math.inf},
        {"mixup": False},
        {"extra_per_epoch": -1},
        {"balance": False},
        {"keep": None},
    ],
    ids=str,
)
def test_impossible_settings_are_refused_however_they_are_made(change: dict[str, object]) -> None:
    (name,) = change
    usual = Settings()
    for make in (Settings, usual.but, lambda **change: usual.model_copy(update=change)):
        with pytest.raises(ValueError, match=name):
            make(**change)
    if name in Settings.model_fields:
        with pytest.raises(ValueError, match=name):
            fit(fresh(), tones(20), settings=Settings.model_construct(**change), accelerator="cpu", progress=False)


def test_settings_with_changes() -> None:
    usual = Settings(epochs=7)
    assert (
        usual.but(learning_rate=1)
        == Settings(epochs=7, learning_rate=1.0)
        == usual.model_copy(update={"learning_rate": 1.0})
    )
    assert usual.but() == usual and usual.epochs == 7


def test_only_what_differs_from_the_defaults_is_part_of_the_identity() -> None:
    assert Settings().identity() == Settings(epochs=30, mixup=0.0).identity() == {}
    assert Settings(epochs=4, mixup=0.2).identity() == {"epochs": 4, "mixup": 0.2}


def test_every_setting_has_a_line_of_its_own() -> None:
    for name in Settings.model_fields:
        assert f"\n    {name}: " in Settings.__doc__


def test_bf16_training_keeps_float32_weights() -> None:
    model = fresh()
    history = train(model, settings(epochs=2, precision="bf16-mixed"))
    assert history.precision == "bf16-mixed"
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)])
def test_a_training_computes_in_the_precision_that_it_names(precision: str, dtype: torch.dtype) -> None:
    types, model = set(), fresh()
    model.layers.register_forward_hook(lambda _module, _inputs, output: types.add(output.dtype))
    train(model, settings(epochs=1, precision=precision))
    assert types == {dtype}


def test_a_precision_that_is_given_is_taken() -> None:
    assert Settings(precision="16-mixed").precision_on(torch.device("cuda")) == "16-mixed"
    assert Settings(precision="16-mixed").precision_on(CPU) == "bf16-mixed"
    assert Settings(precision="32-true").precision_on(torch.device("cuda")) == "32-true"


@pytest.mark.parametrize(("fast", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_precision_on_a_gpu(fast: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: fast and not including_emulation)
    assert Settings().precision_on(torch.device("cuda")) == expected


@pytest.mark.parametrize(
    ("capability", "dots", "expected"),
    [("AVX512", True, "bf16-mixed"), ("AVX512", False, "32-true"), ("AVX2", True, "32-true")],
)
def test_auto_precision_on_a_cpu(capability: str, dots: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: dots, raising=False)
    assert Settings().precision_on(CPU) == expected
    assert Settings().precision_on(torch.device("mps")) == "32-true"


TWO_PROCESSES = """
import json, os, sys
from pathlib import Path
import torch
from course_lib.training import TrainingError, fit
from test_training import fresh, settings, tones

torch.set_num_threads(1)
folder, model = Path(sys.argv[1]), fresh()
fit(model, tones(20), tones(10, seed=1), settings(epochs=1), accelerator="cpu", progress=False)
kept = folder / "kept.safetensors"
history = fit(model, tones(20), tones(10, seed=1), settings(), accelerator="cpu", progress=False, checkpoint=kept)
try:
    fit(model, tones(3), None, settings(batch_size=2), accelerator="cpu", progress=False)
except TrainingError as error:
    refusal = str(error)
report = {"epochs": [vars(epoch) for epoch in history.epochs], "device": history.device, "refusal": refusal}
report["weights"] = {name: tensor.tolist() for name, tensor in model.named_parameters()}
(folder / f"{os.environ['RANK']}.json").write_text(json.dumps(report))
"""


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    fabric = Path(sysconfig.get_path("scripts")) / "fabric"
    if not fabric.is_file():
        pytest.skip("the command fabric of lightning-fabric is not installed")
    (tmp_path / "two.py").write_text(TWO_PROCESSES)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = Path(__file__).parent
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{here.parent}{os.pathsep}{here}"}
    command = [sys.executable, fabric, "run", "--accelerator=cpu", "--devices=2", f"--main-port={port}"]
    try:
        done = subprocess.run(
            [*command, tmp_path / "two.py", tmp_path], env=environment, capture_output=True, text=True, timeout=45
        )
    except subprocess.TimeoutExpired:
        pytest.skip("this computer is too busy to run two processes within 45 s")
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["weights"] == second["weights"]
    assert [epoch["train_loss"] for epoch in first["epochs"]] == [epoch["train_loss"] for epoch in second["epochs"]]
    assert len(first["epochs"]) == 3 and first["device"] == "cpu"
    assert first["epochs"][-1]["train_loss"] < first["epochs"][0]["train_loss"]
    assert (tmp_path / "kept.safetensors").is_file()
    assert "raise batch_size" in first["refusal"] and first["refusal"] == second["refusal"]
