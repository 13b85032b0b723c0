"""The base of the front ends: input checks, precision, and a state that knows its settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from course_lib.layers.waveforms import require_waveforms, single_at_least


class FrontEnd(nn.Module):
    """Waveforms (batch, samples) -> images (batch, bands, frames), by the method `image` of a subclass.

    Images are computed in float32 (after `.double()` in float64), autocast or not, and have the type of the module:
    after `.half()` or `.bfloat16()` they are rounded at the very end. The state dict holds `settings`, all that decides
    what an image looks like; weights of other settings are refused as weights of another shape are.
    Raises ValueError for clips of fewer than `shortest` samples.
    """

    settings: dict[str, Any]  # whatever JSON can hold
    unstated: ClassVar[dict[str, Any]] = {}  # settings that old states do not name, and what they were then
    shortest: int = 1

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_type", torch.empty(0), persistent=False)  # follows `.half()`; nothing else does

    @property
    def precision(self) -> torch.dtype:
        """The type that images are computed in: float32 or float64."""
        return single_at_least(self._type.dtype)

    def forward(self, waveforms: Tensor) -> Tensor:
        require_waveforms(waveforms, self.shortest)
        if len(waveforms) == 0:  # FFTs refuse an empty batch
            return self(waveforms.new_zeros(1, waveforms.shape[1]))[:0]
        with torch.autocast(waveforms.device.type, enabled=False):
            return self.image(waveforms.to(self.precision)).to(self._type.dtype)

    def image(self, waveforms: Tensor) -> Tensor:
        """Images of waveforms of the type `precision`."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.settings.items())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrontEnd:
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if tensor is self._type or not moved.is_floating_point() or moved.dtype.itemsize >= 4:
                return moved
            return tensor.to(moved.device, torch.float32)

        return super()._apply(move, recurse)

    def get_extra_state(self) -> Tensor:
        """The settings as JSON, in a tensor so that safetensors can hold them."""
        return torch.tensor(list(json.dumps(self.settings).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing: settings are compared when a state is loaded, and never changed."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        settings = state_dict.setdefault(f"{prefix}_extra_state", self.get_extra_state())  # old states have none
        # What a front end was made of, such as its mel bands, is compared and never replaced.
        made = {f"{prefix}{name}": buffer for name, buffer in self.named_buffers() if "." in name}
        made = {name: made[name] for name in made.keys() & state_dict.keys()}
        fault = self._difference(settings)
        if fault is None and not all(_alike(state_dict[name], made[name]) for name in made):
            fault = f"these weights belong to a {type(self).__name__} whose windows or bands are others"
        state_dict.update(made)
        if fault is None:
            super()._load_from_state_dict(state_dict, prefix, *rest)
        else:
            error_messages = rest[-1]
            error_messages.append(f"{fault}; build the layer with the settings that the weights were trained with.")

    def _difference(self, state: Tensor) -> str | None:
        """What is wrong with the settings in a stored state, if anything is."""
        try:
            stored = self.unstated | dict(json.loads(bytes(state.tolist())))
        except (ValueError, TypeError):
            return f"the stored settings of this {type(self).__name__} are damaged"
        own = json.loads(json.dumps(self.settings))
        differing = [name for name in own if name in stored and stored[name] != own[name]]
        if not differing:
            return None
        theirs, ours = (", ".join(f"{name} {values[name]}" for name in differing) for values in (stored, own))
        return f"these weights belong to a {type(self).__name__} with {theirs}, and this one has {ours}"


def _alike(stored: Tensor, own: Tensor) -> bool:
    return stored.shape == own.shape and torch.allclose(stored.to(own), own, rtol=0, atol=1e-2)
