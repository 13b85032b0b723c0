"""Checkpoints as safetensors files: no code in them, and never half a file in its final place."""

from __future__ import annotations

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


def save(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write tensors and a JSON-able description to `path`: complete, or (disk full, killed) not at all."""
    # Copies, because safetensors refuses tensors that share memory.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    try:
        write_whole(path, safetensors.torch.save(tensors, {"about": json.dumps(about)}))
    except OSError as error:
        raise CheckpointError(f"cannot write the checkpoint {path}: {error}") from error


def load(path: Path, device: str | torch.device = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save` wrote: the tensors and the description. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            about = json.loads((file.metadata() or {})["about"])
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of this course, or is damaged ({error}); delete it"
        ) from None


def save_model(path: Path, model: nn.Module, **about: Any) -> None:
    """Write the weights of a model with a description.

    Notebook: 02_spoken_digits_cnn
    """
    save(path, model.state_dict(), about)


def load_model(path: Path, model: nn.Module) -> dict[str, Any]:
    """Put saved weights into a model of the same shape and return the description. Raises CheckpointError.

    Notebook: 02_spoken_digits_cnn
    """
    tensors, about = load(path)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path} holds the weights of another model: {error}") from None
    return about
