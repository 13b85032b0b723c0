"""What a training reports, epoch by epoch."""

import math
from dataclasses import asdict, dataclass, field

import pandas as pd
from pydantic import ConfigDict


@dataclass
class Epoch:
    """What one epoch did; accuracies are fractions, the balanced one is the mean of the classes' recalls.

    The training values are means over the batches, with the weights of their time. Under mixup a prediction counts by
    the share that the predicted class has in its clip. Validation values are NaN without a validation part;
    `validation_recordings_balanced_accuracy` is that of its recordings, each decided from all its clips.
    `other_heads` holds the training loss and accuracy of further heads, such as `domain_loss`.
    """

    train_loss: float
    train_accuracy: float
    validation_loss: float = math.nan
    validation_accuracy: float = math.nan
    validation_balanced_accuracy: float = math.nan
    validation_recordings_balanced_accuracy: float = math.nan
    other_heads: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)


@dataclass
class History:
    """How a training went: its epochs, the number of the one whose weights the model holds (from 1), and where it ran.

    `threads` is the number of processor threads: with another one, sums are rounded otherwise.
    """

    epochs: list[Epoch] = field(default_factory=list)
    kept_epoch: int = 0
    device: str = ""
    precision: str = ""
    threads: int = 0

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    @property
    def seconds(self) -> float:
        """Training time in seconds, evaluation on the validation part included."""
        return sum(epoch.seconds for epoch in self.epochs)

    def table(self) -> pd.DataFrame:
        """A row an epoch, numbered from 1; a column for each value, and for those of further heads if there are any."""
        rows = [asdict(epoch) for epoch in self.epochs]
        table = pd.DataFrame([row | row.pop("other_heads") | {"seconds": row["seconds"]} for row in rows])
        table.insert(len(table.columns) - 1, "seconds", table.pop("seconds"))
        table.index = pd.RangeIndex(1, len(table) + 1, name="epoch")
        return table
