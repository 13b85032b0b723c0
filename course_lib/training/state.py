"""Checkpoints as safetensors files: no code in them, a digest over their content, never half a file."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from course_lib import CourseError
from course_lib.files import write_whole


class CheckpointError(CourseError):
    """A checkpoint is missing, damaged or of another model; the message names the file."""


def save(path: str | Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write tensors and a JSON-able description to `path`: complete, or (disk full, killed) not at all."""
    # Copies, because safetensors refuses tensors that share memory.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    # One text, because the order of several is random in the file.
    content = safetensors.torch.save(
        tensors, {"about": json.dumps(about | {"sha256": digest_of_tensors(tensors, about)})}
    )
    try:
        write_whole(Path(path).expanduser(), content)
    except OSError as error:
        raise CheckpointError(f"cannot write the checkpoint {path}: {error}") from error


def load(path: str | Path, digest_required: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save` wrote: the tensors and the description. Raises CheckpointError.

    Weights from before there were digests lack one, and are taken unless it is required.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            # Copies, for what is read is the file itself in memory: Windows lets no file be replaced that is so in use.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
        if not isinstance(about, dict):
            raise ValueError("its description is not as expected")
        digest = about.pop("sha256", None)
        if digest is None and (digest_required or "model" in about):
            raise ValueError("it has no checksum")
        if digest not in (None, digest_of_tensors(tensors, about)):
            raise ValueError("its checksum is wrong")
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of this course, or is damaged ({error}); delete it"
        ) from None
    return tensors, about


def save_model(path: str | Path, model: nn.Module, **about: Any) -> None:
    """Write the weights of a model with a description of your own, and with what `load_model` checks.

    Notebook: 02_spoken_digits_cnn
    """
    save(path, model.state_dict(), about | {"model": _kind(model)})


def load_model(path: str | Path, model: nn.Module) -> dict[str, Any]:
    """Put saved weights into a model of the same class, settings and shape, and return the description.

    Raises CheckpointError, and then leaves the model as it was.

    Notebook: 02_spoken_digits_cnn
    """
    tensors, about = load(path)
    saved, own = about.pop("model", {}), _kind(model)
    before = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    try:
        if other := [name for name in saved.keys() & own.keys() if saved[name] != own[name]]:
            raise ValueError("; ".join(f"{name} is {saved[name]} there and {own[name]} here" for name in sorted(other)))
        model.load_state_dict(tensors)
    except (RuntimeError, ValueError, TypeError, AttributeError, CourseError) as error:
        model.load_state_dict(before)  # a failure half-way leaves a mixture
        raise CheckpointError(f"{path} holds the weights of another model: {error}") from None
    return about


def digest_of_model(model: nn.Module) -> str:
    """A digest of the structure of a model and of the settings of every layer, dropout included; not of its weights."""
    layers = [(name, type(module).__qualname__, _settings(module)) for name, module in model.named_modules()]
    return hashlib.sha256(json.dumps(layers, sort_keys=True).encode()).hexdigest()


def _kind(model: nn.Module) -> dict[str, Any]:
    """The class of a model and its switches and whole numbers: with others the same weights mean something else."""
    settings = {name: value for name, value in _settings(model).items() if isinstance(value, int | str)}
    return {"class": type(model).__name__} | settings


_OF_EVERY_MODULE = set(vars(nn.Module()))


def _settings(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module that JSON can hold, without private ones."""
    settings = {}
    for name, value in vars(module).items():
        if name not in _OF_EVERY_MODULE and not name.startswith("_"):
            with contextlib.suppress(TypeError, ValueError):  # not a setting but something with a life of its own
                settings[name] = json.loads(json.dumps(value))
    return settings


def digest_of_tensors(tensors: dict[str, Tensor], about: dict[str, Any]) -> str:
    """A digest of named tensors on the CPU, their types and shapes, and of a description that JSON can hold."""
    digest = hashlib.sha256(json.dumps(about).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
