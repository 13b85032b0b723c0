"""How a model is trained, as one validated form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Training settings with the defaults of the first FSDD experiment. Raises ValueError for impossible values.

    epochs: how often the training goes through the clips.
    batch_size: clips in a step of the optimiser.
    optimizer: adam, adamw, or sgd with momentum 0.9.
    learning_rate: the largest learning rate of the schedule.
    weight_decay: L2 penalty; adamw keeps it apart from the gradient.
    l1_penalty: times the sum of the weights' absolute values, added to the loss.
    schedule: constant; exponential; one_cycle (linear rise over 15 % of the steps, then half a cosine down to 0).
    decay: factor of the learning rate for each epoch of the exponential schedule.
    label_smoothing: share of a target that is spread over all classes (Szegedy et al. 2016).
    mixup: alpha of the Beta distribution of the shares in which pairs of images are mixed (Zhang et al. 2018); 0: none.
    averaging: decay for each step of the moving average of the weights, which is then the model; 0: no average.
    extra_per_epoch: how many clips of the extra material (synthetic voices) join each epoch, drawn anew.
    balance: draw with replacement so that every class, or every class of every group, is equally likely.
    keep: the last epoch, or the one with the best balanced accuracy on the validation part.
    precision: auto is bf16-mixed where the hardware multiplies bf16 numbers, else 32-true.

    Notebook: 02_spoken_digits_cnn
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    epochs: int = Field(30, ge=1, le=100_000)
    batch_size: int = Field(256, ge=1, le=1_000_000)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = Field(1e-3, gt=0, le=10)
    weight_decay: float = Field(0.0, ge=0, le=100)
    l1_penalty: float = Field(0.0, ge=0, le=100)
    schedule: Literal["constant", "exponential", "one_cycle"] = "exponential"
    decay: float = Field(0.99, gt=0, le=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    mixup: float = Field(0.0, ge=0, le=100)
    averaging: float = Field(0.0, ge=0, lt=1)
    extra_per_epoch: int = Field(0, ge=0, le=100_000_000)
    balance: Literal["none", "class", "class_and_group"] = "none"
    keep: Literal["last", "best"] = "last"
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"

    def but(self, **changes: Any) -> Settings:
        """The same settings with some changed: `settings.but(epochs=5)`. Raises ValueError, as `Settings` does."""
        return type(self).model_validate(dict(self) | changes)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Settings:
        """As `but`: pydantic itself would not check a copy."""
        return self.but(**(update or {}))

    copy = model_copy

    def identity(self) -> dict[str, Any]:
        """What a result depends on: the settings that differ from the defaults, so that a new setting changes none."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def optimizer_for(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        """The optimiser over all parameters of a model.

        Layers with a method `parameter_groups(learning_rate)` set their own learning rates.
        """
        own = [
            group
            for module in model.modules()
            if hasattr(module, "parameter_groups")
            for group in module.parameter_groups(self.learning_rate)
        ]
        taken = {parameter for group in own for parameter in group["params"]}
        rest = [parameter for parameter in model.parameters() if parameter not in taken]
        parameters = [{"params": rest}, *own] if rest else own
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, self.learning_rate, momentum=0.9, weight_decay=self.weight_decay)
        kind = torch.optim.AdamW if self.optimizer == "adamw" else torch.optim.Adam
        return kind(parameters, self.learning_rate, weight_decay=self.weight_decay)

    def learning_rate_at(self, epoch: float) -> float:
        """Learning rate after `epoch` epochs (0 .. epochs; fractions between steps)."""
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "exponential":
            return self.learning_rate * self.decay ** math.floor(epoch)
        progress, rise = epoch / self.epochs, 0.15
        if progress < rise:
            return self.learning_rate * (0.04 + 0.96 * progress / rise)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (progress - rise) / (1 - rise)))

    def precision_on(self, device: torch.device) -> str:
        """The precision that "auto" means on a device, or the one asked for; a CPU has no 16-mixed but bf16-mixed."""
        if self.precision != "auto":
            return "bf16-mixed" if (self.precision, device.type) == ("16-mixed", "cpu") else self.precision
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            wide = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512"
            fast = wide and getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
        return "bf16-mixed" if fast else "32-true"
