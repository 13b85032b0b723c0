"""A training that is interrupted in any way goes on as if nothing had happened, or says why it cannot."""

from __future__ import annotations

import copy
import errno
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from test_training import Tiny, fresh, same, settings, tones, turned, weights
from torch import Tensor, nn

from course_lib.clips import Clips
from course_lib.models import SampleCNN, SpectrogramCNN, StridedSampleCNN
from course_lib.training import CheckpointError, History, Settings, fit, load_model, save_model, state

EPOCHS, CALLS_AN_EPOCH = 4, 4  # three batches to learn from, one to validate on
HOW = settings(epochs=EPOCHS, averaging=0.8, keep="best", schedule="one_cycle")

if os.name != "posix":
    pytest.skip("trainings are killed by signals of POSIX", allow_module_level=True)
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["course_lib.training", "course_lib.models", "pytest"])


class Stopped(Exception):
    """Stands for whatever stops a training between two epochs."""


def train(model: nn.Module, how: Settings = HOW, checkpoint: Path | None = None, **options: Any) -> History:
    """Train on twenty tones; unless it is given, a validation part with turned labels makes epoch 1 the best one."""
    options = {"validation": turned(tones(12, seed=1)), "accelerator": "cpu", "progress": False} | options
    return fit(model, tones(20), settings=how, checkpoint=checkpoint, **options)


def stop_after(epochs: int) -> Callable[[History], None]:
    def stop(history: History) -> None:
        if len(history.epochs) == epochs:
            raise Stopped

    return stop


def without_seconds(history: History) -> dict[str, Any]:
    form = asdict(history)
    for epoch in form["epochs"]:
        del epoch["seconds"]
    return form


def epochs_in(checkpoint: Path) -> int:
    return len(state.load(checkpoint)[1]["history"]["epochs"])


def stopped(checkpoint: Path, epochs: int = 2) -> Path:
    """The checkpoint of a training that was stopped after some epochs."""
    with pytest.raises(Stopped):
        train(fresh(), checkpoint=checkpoint, on_epoch=stop_after(epochs))
    return checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "run.safetensors"


@pytest.mark.parametrize(
    ("keep", "validation"),
    [("last", None), ("best", turned(tones(12, seed=1))), ("best", tones(12, seed=1))],
    ids=["last", "best-early", "best-late"],
)
@pytest.mark.parametrize("averaging", [0.0, 0.8])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_stopped_training_goes_on_to_the_same_weights(
    optimizer: str, averaging: float, keep: str, validation: Clips | None, checkpoint: Path
) -> None:
    how = settings(epochs=EPOCHS, optimizer=optimizer, averaging=averaging, keep=keep, weight_decay=0.01)
    straight, interrupted, resumed = fresh(), fresh(), fresh(seed=9)
    expected = train(straight, how, validation=validation)
    for epochs in (1, 3):
        with pytest.raises(Stopped):
            train(interrupted, how, checkpoint, validation=validation, on_epoch=stop_after(epochs))
        interrupted = fresh(seed=8)
    torch.rand(5)
    history = train(resumed, how, checkpoint, validation=validation)
    assert same(weights(resumed), weights(straight))
    np.testing.assert_equal(without_seconds(history), without_seconds(expected))
    assert all(epoch.seconds > 0 for epoch in history.epochs)


def test_the_spectrogram_cnn_goes_on_to_the_same_weights(checkpoint: Path) -> None:
    clips = replace(tones(20), start=30 * torch.arange(20), length=torch.full((20,), 600), clip_samples=600)
    how, models = settings(epochs=3), []
    for seed in (0, 0, 9):
        torch.manual_seed(seed)
        models.append(SpectrogramCNN(2, dropout=0.2))
    straight, interrupted, resumed = models
    options = {"settings": how, "accelerator": "cpu", "progress": False}
    fit(straight, clips, **options)
    with pytest.raises(Stopped):
        fit(interrupted, clips, checkpoint=checkpoint, on_epoch=stop_after(1), **options)
    fit(resumed, clips, checkpoint=checkpoint, **options)
    assert same(weights(resumed), weights(straight))


def test_a_finished_training_is_not_repeated(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = fresh(), fresh(seed=9)
    history = train(first, checkpoint=checkpoint)
    monkeypatch.setattr(Clips, "batch", None)
    assert without_seconds(train(again, checkpoint=checkpoint)) == without_seconds(history)
    assert same(weights(again), weights(first))


def test_a_checkpoint_does_not_change_the_training(checkpoint: Path) -> None:
    without, with_one = fresh(), fresh()
    train(without)
    train(with_one, checkpoint=checkpoint)
    assert same(weights(without), weights(with_one))
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


# What follows happens in processes of their own, because it ends with `kill -9`.


def finish(checkpoint: Path | None, final: Path) -> None:
    os.environ["COURSE_THREADS"] = "1"  # the processes do not get that of the fixture
    model = fresh(seed=9 if checkpoint and checkpoint.exists() else 0)
    history = train(model, checkpoint=checkpoint)
    save_model(final, model, history=without_seconds(history))


def killed_in_batch(checkpoint: Path, number: int) -> None:
    os.environ["COURSE_THREADS"] = "1"  # the processes do not get that of the fixture
    calls, real_batch = [], Clips.batch

    def batch(clips: Clips, index: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(index)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real_batch(clips, index)

    Clips.batch = batch
    train(fresh(), checkpoint=checkpoint)


def killed_in_save(checkpoint: Path, number: int) -> None:
    os.environ["COURSE_THREADS"] = "1"  # the processes do not get that of the fixture
    calls, real_replace = [], os.replace

    def replace(unfinished: str, path: Path) -> None:
        calls.append(path)
        if len(calls) < number:
            return real_replace(unfinished, path)
        os.truncate(unfinished, os.path.getsize(unfinished) // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace
    train(fresh(), checkpoint=checkpoint)


def out_of_space(checkpoint: Path, report: Path) -> None:
    import resource

    size = checkpoint.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
    try:
        train(fresh(), checkpoint=checkpoint)
    except CheckpointError as error:
        report.write_text(str(error))


def elsewhere(target: Callable[..., None], *arguments: Any) -> int | None:
    """Run a function in another process and return its exit code."""
    process = PROCESSES.Process(target=target, args=arguments)
    process.start()
    process.join(300)
    return process.exitcode


@pytest.fixture(scope="module")
def final(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights and history of a training that nothing interrupted."""
    path = tmp_path_factory.mktemp("uninterrupted") / "final.safetensors"
    assert elsewhere(finish, None, path) == 0
    return path


def assert_it_goes_on(checkpoint: Path, final: Path) -> None:
    after = checkpoint.with_name("after.safetensors")
    assert elsewhere(finish, checkpoint, after) == 0
    (found, found_about), (expected, expected_about) = state.load(after), state.load(final)
    assert same(found, expected)
    assert found_about == expected_about
    assert epochs_in(checkpoint) == EPOCHS


@pytest.mark.parametrize(("call", "finished"), [(2, 0), (CALLS_AN_EPOCH + 2, 1), (3 * CALLS_AN_EPOCH, 2)])
def test_killed_in_the_middle_of_an_epoch(call: int, finished: int, checkpoint: Path, final: Path) -> None:
    assert elsewhere(killed_in_batch, checkpoint, call) == -signal.SIGKILL
    assert checkpoint.is_file() == (finished > 0)
    if finished:
        assert epochs_in(checkpoint) == finished
    assert_it_goes_on(checkpoint, final)


@pytest.mark.parametrize("number", [1, 3, EPOCHS])
def test_killed_in_the_middle_of_a_checkpoint(number: int, checkpoint: Path, final: Path) -> None:
    assert elsewhere(killed_in_save, checkpoint, number) == -signal.SIGKILL
    assert list(checkpoint.parent.iterdir()) != [checkpoint]  # the unfinished file lies beside it
    assert checkpoint.is_file() == (number > 1)
    if number > 1:
        assert epochs_in(checkpoint) == number - 1
    assert_it_goes_on(checkpoint, final)


def test_killed_twice(checkpoint: Path, final: Path) -> None:
    assert elsewhere(killed_in_save, checkpoint, 2) == -signal.SIGKILL
    assert elsewhere(killed_in_batch, checkpoint, CALLS_AN_EPOCH + 1) == -signal.SIGKILL
    assert epochs_in(checkpoint) == 2
    assert_it_goes_on(checkpoint, final)


def test_no_space_left_for_the_whole_file(checkpoint: Path, tmp_path: Path, final: Path) -> None:
    before = stopped(checkpoint).read_bytes()
    assert elsewhere(out_of_space, checkpoint, tmp_path / "report") == 0
    assert f"cannot write the checkpoint {checkpoint}" in (tmp_path / "report").read_text()
    assert checkpoint.read_bytes() == before
    assert list(checkpoint.parent.iterdir()) == [checkpoint]
    assert_it_goes_on(checkpoint, final)


# From here on in this process again.


def test_a_full_disk_leaves_the_old_checkpoint(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stopped(checkpoint).read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointError, match=r"run\.safetensors.*No space left"):
        train(fresh(), checkpoint=checkpoint)
    assert checkpoint.read_bytes() == before
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CheckpointError, match=r"run\.safetensors"):
        train(fresh(), checkpoint=tmp_path / "file" / "run.safetensors")


@pytest.mark.parametrize("change", [{"learning_rate": 0.02}, {"epochs": 9}, {"averaging": 0.0}, {"optimizer": "sgd"}])
def test_the_checkpoint_of_other_settings_is_refused(change: dict[str, Any], checkpoint: Path) -> None:
    before = stopped(checkpoint).read_bytes()
    with pytest.raises(CheckpointError, match=r"run\.safetensors belongs to another training: its settings differ"):
        train(fresh(), HOW.but(**change), checkpoint)
    assert checkpoint.read_bytes() == before


def test_the_checkpoint_of_another_seed_is_refused(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"run\.safetensors"):
        train(fresh(), checkpoint=stopped(checkpoint), seed=1)


def test_the_checkpoint_of_other_clips_is_refused(checkpoint: Path) -> None:
    how = {"settings": HOW, "validation": tones(12, seed=1), "accelerator": "cpu", "progress": False}
    for clips in (tones(19), replace(tones(20), fingerprint="other")):
        with pytest.raises(CheckpointError, match=r"its clips, validation clips differ; delete it"):
            fit(fresh(), clips, checkpoint=stopped(checkpoint), **how)
        checkpoint.unlink()


def test_the_checkpoint_of_another_model_is_refused(checkpoint: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 2))
    with pytest.raises(CheckpointError, match=r"run\.safetensors belongs to another training: its model differ"):
        train(model, checkpoint=stopped(checkpoint))


class Other(Tiny):
    pass


def with_dropout(dropout: float) -> Tiny:
    model = fresh()
    model.layers[5].p = dropout
    return model


@pytest.mark.parametrize("model", [with_dropout(0.2), Other()], ids=["dropout", "class"])
def test_the_checkpoint_of_a_model_with_other_settings_is_refused(model: nn.Module, checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"run\.safetensors belongs to another training: its model differ"):
        train(model, checkpoint=stopped(checkpoint))


@pytest.mark.parametrize("name", ["labels", "groups", "start", "length"])
def test_the_checkpoint_of_clips_that_are_labelled_or_cut_otherwise_is_refused(name: str, checkpoint: Path) -> None:
    stopped(checkpoint)
    for part, clips in (("train", tones(20)), ("validation", turned(tones(12, seed=1)))):
        values = getattr(clips, name).clone()
        values[3] = 1 - values[3] if name in ("labels", "groups") else values[3] - 1
        parts = {"train": tones(20), "validation": turned(tones(12, seed=1))} | {part: replace(clips, **{name: values})}
        what = "validation clips" if part == "validation" else "clips"
        with pytest.raises(CheckpointError, match=f": its {what} differ; delete it"):
            fit(fresh(), settings=HOW, checkpoint=checkpoint, accelerator="cpu", progress=False, **parts)


def test_a_training_goes_on_with_the_threads_that_it_was_begun_with(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COURSE_THREADS", "2")
    straight, resumed, used = fresh(), fresh(seed=9), []
    train(straight)
    stopped(checkpoint)
    monkeypatch.setenv("COURSE_THREADS", "1")
    history = train(resumed, checkpoint=checkpoint, on_epoch=lambda _: used.append(torch.get_num_threads()))
    assert history.threads == 2 and set(used) == {2} and torch.get_num_threads() == 1
    assert same(weights(resumed), weights(straight))


def test_weights_alone_are_no_checkpoint(checkpoint: Path) -> None:
    save_model(checkpoint, fresh())
    with pytest.raises(CheckpointError, match=r"run\.safetensors"):
        train(fresh(), checkpoint=checkpoint)


def _half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _other_length(content: bytes) -> bytes:
    return b"\xff" * 8 + content[8:]


def _other_header(content: bytes) -> bytes:
    return content[:8] + b"\x80" + content[9:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:5],
        lambda content: content[:200],
        _half,
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: bytes(1000),
        lambda content: b"PK\x03\x04 not tensors at all",
        _other_length,
        _other_header,
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name(damage: Callable[[bytes], bytes], checkpoint: Path) -> None:
    content = damage(stopped(checkpoint).read_bytes())
    checkpoint.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"run\.safetensors .*damaged"):
        train(fresh(), checkpoint=checkpoint)
    assert checkpoint.read_bytes() == content


def flipped(content: bytes, position: int, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[position] ^= 1 << bit
    return bytes(damaged)


def test_one_bit_anywhere_in_a_file_is_noticed(checkpoint: Path) -> None:
    save_model(checkpoint, nn.Linear(3, 2), recipe="toy")
    content = checkpoint.read_bytes()
    random = np.random.default_rng(0)
    for position in range(len(content)):
        checkpoint.write_bytes(flipped(content, position, int(random.integers(8))))
        with pytest.raises(CheckpointError, match=r"run\.safetensors .*damaged"):
            load_model(checkpoint, nn.Linear(3, 2))


def test_one_bit_in_the_checkpoint_of_a_training_is_noticed(checkpoint: Path) -> None:
    content = stopped(checkpoint).read_bytes()
    random = np.random.default_rng(0)
    for position in random.choice(len(content), 40, replace=False):
        checkpoint.write_bytes(flipped(content, int(position), int(random.integers(8))))
        with pytest.raises(CheckpointError, match=r"run\.safetensors .*damaged.*delete it"):
            train(fresh(), checkpoint=checkpoint)


def without(prefix: str) -> Callable[[dict[str, Tensor]], Any]:
    return lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith(prefix)]


def with_tensor(name: str, *shape: int) -> Callable[[dict[str, Tensor]], Any]:
    return lambda tensors: tensors.update({name: torch.zeros(shape)})


ODD_TENSORS = {
    "no optimiser": without("optimizer/"),
    "half an optimiser": without("optimizer/0/exp_avg_sq"),
    "no average": without("averaged/"),
    "no best epoch": without("best/"),
    "no model": without("model/"),
    "a layer too few": without("model/layers.1"),
    "a layer too many": with_tensor("model/more", 1),
    "tensors of nothing": with_tensor("more", 1),
    "a parameter that is no number": with_tensor("optimizer/x/step"),
    "a parameter below zero": with_tensor("optimizer/-1/step"),
    "a parameter too many": with_tensor("optimizer/99/step"),
    "an unknown value": with_tensor("optimizer/0/speed"),
    "a value of a value": with_tensor("optimizer/0/step/1"),
    "a step of another shape": with_tensor("optimizer/0/step", 2),
    "a moment of another shape": with_tensor("optimizer/0/exp_avg", 3),
    "weights of another shape": with_tensor("model/layers.1.weight", 3),
    "an average of another shape": with_tensor("averaged/module.layers.1.weight", 3),
    "a best epoch of another shape": with_tensor("best/layers.1.weight", 3),
}
NOT_OF_THIS = r"run\.safetensors is not a checkpoint of this training \(.*\); delete it"


@pytest.mark.parametrize("change", ODD_TENSORS.values(), ids=ODD_TENSORS)
def test_odd_tensors_are_refused_although_their_checksum_is_right(
    change: Callable[[dict[str, Tensor]], Any], checkpoint: Path
) -> None:
    tensors, about = state.load(stopped(checkpoint))
    change(tensors)
    state.save(checkpoint, tensors, about)
    model = fresh()
    before = weights(model)
    with pytest.raises(CheckpointError, match=NOT_OF_THIS):
        train(model, checkpoint=checkpoint)
    assert same(weights(model), before)


ODD_HISTORIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "none": lambda about: about.pop("history"),
    "null": lambda about: about.update(history=None),
    "a list": lambda about: about.update(history=[1]),
    "empty": lambda about: about.update(history={}),
    "no epochs": lambda about: about["history"].update(epochs=[]),
    "epochs that are no list": lambda about: about["history"].update(epochs=2),
    "too many epochs": lambda about: about["history"].update(epochs=50 * about["history"]["epochs"]),
    "an epoch too late": lambda about: about["history"].update(kept_epoch=3),
    "an epoch that is no number": lambda about: about["history"].update(kept_epoch="1"),
    "threads": lambda about: about["history"].update(threads=0),
    "many threads": lambda about: about["history"].update(threads=10**6),
    "an unknown key": lambda about: about["history"].update(more=1),
    "an unknown key in an epoch": lambda about: about["history"]["epochs"][0].update(more=1),
    "a missing key in an epoch": lambda about: about["history"]["epochs"][0].pop("train_loss"),
    "text in an epoch": lambda about: about["history"]["epochs"][0].update(seconds="long"),
}


@pytest.mark.parametrize("change", ODD_HISTORIES.values(), ids=ODD_HISTORIES)
def test_odd_histories_are_refused_although_their_checksum_is_right(
    change: Callable[[dict[str, Any]], Any], checkpoint: Path
) -> None:
    tensors, about = state.load(stopped(checkpoint))
    change(about)
    state.save(checkpoint, tensors, about)
    with pytest.raises(CheckpointError, match=NOT_OF_THIS):
        train(fresh(), checkpoint=checkpoint)


ODD_DESCRIPTIONS = ["null", "[]", "3", '"text"', "{", "", "[" * 100_000, '{"a":' * 100_000]


@pytest.mark.parametrize("about", ODD_DESCRIPTIONS, ids=lambda about: about[:6] or "empty")
def test_odd_descriptions_are_refused(about: str, checkpoint: Path) -> None:
    checkpoint.parent.mkdir()
    tensors = weights(fresh())
    safetensors.torch.save_file(tensors, checkpoint, {"about": about})
    for read in (lambda: load_model(checkpoint, fresh()), lambda: train(fresh(), checkpoint=checkpoint)):
        with pytest.raises(CheckpointError, match=r"run\.safetensors .*damaged.*delete it"):
            read()


def test_the_checkpoint_of_a_training_needs_a_checksum(checkpoint: Path) -> None:
    tensors, about = state.load(stopped(checkpoint))
    safetensors.torch.save_file(tensors, checkpoint, {"about": json.dumps(about)})
    with pytest.raises(CheckpointError, match=r"it has no checksum\); delete it"):
        train(fresh(), checkpoint=checkpoint)


def test_tensors_of_someone_else_are_refused_by_name(checkpoint: Path) -> None:
    checkpoint.parent.mkdir()
    safetensors.torch.save_file({"weight": torch.zeros(3)}, checkpoint)
    with pytest.raises(CheckpointError, match=r"run\.safetensors"):
        train(fresh(), checkpoint=checkpoint)


def test_weights_are_kept_with_a_description(tmp_path: Path) -> None:
    path, model, other = tmp_path / "model.safetensors", fresh(), fresh(seed=1)
    save_model(path, model.to(memory_format=torch.channels_last), recipe="toy", epochs=3)
    assert load_model(path, other) == {"recipe": "toy", "epochs": 3}
    assert same(weights(other), weights(model))
    assert same(safetensors.torch.load_file(path), weights(model))


def test_the_same_weights_make_the_same_file(tmp_path: Path) -> None:
    for name in "ab":
        save_model(tmp_path / name, fresh(), recipe="toy", epochs=3)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_weights_that_two_layers_share_are_kept(tmp_path: Path) -> None:
    path, model, other = (
        tmp_path / "model.safetensors",
        *(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)) for _ in "ab"),
    )
    model[1].weight = model[0].weight
    save_model(path, model)
    load_model(path, other)
    assert same(weights(other), weights(model))


def test_the_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=r"model\.safetensors holds the weights of another model"):
        load_model(path, Tiny())


def test_weights_from_before_there_were_checksums_load(tmp_path: Path) -> None:
    path, model, other = tmp_path / "model.safetensors", fresh(), fresh(seed=1)
    safetensors.torch.save_file(weights(model), path, {"about": '{"recipe": "toy"}'})
    assert load_model(path, other) == {"recipe": "toy"}
    assert same(weights(other), weights(model))


class Scaled(nn.Linear):
    """Three samples to two logits, in units that the weights are relative to."""

    def __init__(self, unit: int) -> None:
        super().__init__(3, 2)
        self.unit = unit


class Rated(nn.Linear):
    """A layer that keeps its sample rate beside its weights and refuses those of another."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__(3, 2)
        self.sample_rate = sample_rate

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.sample_rate)

    def set_extra_state(self, state: Tensor) -> None:
        if state.item() != self.sample_rate:
            raise ValueError(f"made for {state.item()} Hz and not {self.sample_rate} Hz")


@pytest.mark.parametrize(
    ("saved", "model", "message"),
    [
        (Scaled(1), Scaled(2), "unit is 1 there and 2 here"),
        (nn.Linear(3, 2), Scaled(1), "class is Linear there and Scaled here"),
        (nn.Sequential(Rated(8000)), nn.Sequential(Rated(16_000)), "made for 8000 Hz and not 16000 Hz"),
        (StridedSampleCNN(2, 400, 16), StridedSampleCNN(2, 400, 16, unscaled=True), "unscaled is False there"),
        (SampleCNN(2, 729, 2), SampleCNN(2, 800, 2), "clip_samples is 729 there and 800 here"),
    ],
    ids=["settings", "class", "extra state", "switch", "clip length"],
)
def test_weights_that_would_mean_something_else_are_refused(
    saved: nn.Module, model: nn.Module, message: str, tmp_path: Path
) -> None:
    path, before = tmp_path / "model.safetensors", weights(model)
    save_model(path, saved)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors holds the weights of another model: .*{message}"):
        load_model(path, model)
    assert same(weights(model), before)
    load_model(path, copy.deepcopy(saved))


def test_weights_that_do_not_fit_change_nothing(tmp_path: Path) -> None:
    path, model = tmp_path / "model.safetensors", nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    before = weights(model)
    save_model(path, nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    with pytest.raises(CheckpointError, match="another model"):
        load_model(path, model)
    assert same(weights(model), before)


def test_paths_may_be_text_and_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    model = fresh()
    train(model, checkpoint="~/run.safetensors")
    save_model("~/model.safetensors", model)
    load_model(str(tmp_path / "model.safetensors"), fresh(seed=1))
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {"run.safetensors", "model.safetensors"}


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint .*missing\.safetensors"):
        load_model(tmp_path / "missing.safetensors", Tiny())


def test_what_was_loaded_does_not_hang_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    tensors = {"weight": torch.arange(100.0)}
    state.save(path, tensors, {})
    loaded, _ = state.load(path)
    with open(path, "r+b") as file:  # not replaced: overwritten where it lies
        file.write(bytes(path.stat().st_size))
    assert same(loaded, tensors)
