"""A training that is interrupted in any way goes on as if nothing had happened, or says why it cannot."""

from __future__ import annotations

import errno
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
from course_lib.models import SpectrogramCNN
from course_lib.training import CheckpointError, History, Settings, fit, load_model, save_model, state

EPOCHS, CALLS_AN_EPOCH = 4, 4  # three batches to learn from, one to validate on
HOW = settings(epochs=EPOCHS, averaging=0.8, keep="best", schedule="one_cycle")

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


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint .*missing\.safetensors"):
        load_model(tmp_path / "missing.safetensors", Tiny())
