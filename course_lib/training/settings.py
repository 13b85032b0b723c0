"""How a model is trained, as one validated form."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

_OF_LATER_DATE = ("l1_penalty", "balance")


class Settings(BaseModel):
    """Training settings with the defaults of the first FSDD experiment.

    `schedule`: constant; exponential (times `decay` an epoch); one_cycle (linear rise over the first 15 % of the
    steps, then half a cosine down to 0). `weight_decay` is L2 (with adamw apart from the gradient); `l1_penalty`
    times the sum of the weights' sizes is added to the loss. `averaging` > 0 evaluates an exponential moving average
    of the weights with that decay a step. `keep` chooses the last epoch, or the best one by balanced accuracy (of two
    classes: MAcc) on the clips of the validation part. `extra_per_epoch` is how many clips of the extra material
    (synthetic voices) join each epoch. With `balance` an epoch draws as many clips as the training side has, with
    replacement, so that every class (or every class of every group) is equally likely. `precision` "auto" is
    bf16-mixed where the hardware multiplies bf16 numbers, else 32-true.

    Notebook: 02_spoken_digits_cnn
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(30, ge=1)
    batch_size: int = Field(256, ge=1)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = Field(1e-3, gt=0, le=10)
    weight_decay: float = Field(0.0, ge=0)
    l1_penalty: float = Field(0.0, ge=0)
    schedule: Literal["constant", "exponential", "one_cycle"] = "exponential"
    decay: float = Field(0.99, gt=0, le=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    averaging: float = Field(0.0, ge=0, lt=1)
    extra_per_epoch: int = Field(0, ge=0)
    balance: Literal["none", "class", "class_and_group"] = "none"
    keep: Literal["last", "best"] = "last"
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"

    def identity(self) -> dict[str, Any]:
        """What a result depends on: every setting, but those of later date only if they are used.

        So a new setting leaves valid what was made before there was one.
        """
        form = self.model_dump(mode="json")
        unused = [name for name in _OF_LATER_DATE if form[name] == type(self).model_fields[name].default]
        return {name: value for name, value in form.items() if name not in unused}

    def optimizer_for(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        """The optimiser over all parameters of a model.

        Layers with a method `parameter_groups(learning_rate)` say themselves how their parameters are to learn.
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
            fast = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in ("AVX512",) and _bf16_dots()
        return "bf16-mixed" if fast else "32-true"


def _bf16_dots() -> bool:
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported and supported())
