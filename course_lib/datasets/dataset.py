"""What a data set is to the course: one module that ends in `DATASET = Dataset(...)`.

Notebook: 02_spoken_digits_cnn
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from course_lib import environment
from course_lib.datasets.decoded import Decoded
from course_lib.datasets.recordings import DatasetError, Recordings
from course_lib.datasets.splits import Split


class Preparation(BaseModel):
    """What is done to each waveform, shape (samples,) at `from_rate` Hz, before it is cut into clips.

    A subclass has the settings as fields, `from_rate` and `sample_rate` (Hz, afterwards) among them, and `__call__`.
    Its `repr` is part of the key of the cache of prepared samples, so it must name every setting.

    Notebook: 05_heart_sounds_physionet
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    from_rate: int
    sample_rate: int

    def __call__(self, waveform: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class Protocol:
    """How a data set is divided and scored; stated before anything is run.

    `splits(recordings, seed)` makes the folds. `title` heads its column in a table. The metric is balanced accuracy.
    Its mean and its interval are over `unit`: the test recordings, or the groups (speakers, devices, locations), each
    of which is left out once; `group` is what one is called. A recording is decided by the mean log-probabilities of
    its clips or, with `decision="vote"`, by the majority of its clips. Between two classes `threshold` is the rule by
    which the threshold is found. It should match the metric: "validation" has the highest balanced accuracy of the
    validation part, "validation_by_group" the highest mean over the groups of the validation part, of those that have
    both classes, and "half" is 0.5. `statement` says all this in two sentences. A protocol is `leaky` when its score is
    too good for data that nobody has seen: `leak` says why.

    Notebook: 02_spoken_digits_cnn
    """

    name: str
    title: str
    splits: Callable[[Recordings, int], list[Split]]
    unit: Literal["recording", "group"] = "recording"
    decision: Literal["log_odds", "vote"] = "log_odds"
    threshold: Literal["validation", "validation_by_group", "half"] = "validation"
    leak: str = ""
    group: str = "group"

    @property
    def scored(self) -> str:
        """What is scored, and over what: one sentence."""
        if self.unit == "recording":
            return "The score is the balanced accuracy of all test recordings together."
        return f"The score is the mean over the left-out {self.group}s of the balanced accuracy on each."

    @property
    def statement(self) -> str:
        """What is scored, over what, and how two classes are told apart: two sentences."""
        if self.decision == "vote":
            return f"{self.scored} Between two classes, a recording is of the second if at least half of its clips are."
        if self.threshold == "half":
            return f"{self.scored} Between two classes, the threshold is one half."
        over = "" if self.threshold == "validation" else f", as a mean over their {self.group}s"
        return (
            f"{self.scored} Between two classes, the threshold is the one with the highest balanced accuracy on "
            f"held-out recordings of the training side{over}."
        )

    @property
    def leaky(self) -> bool:
        """Whether the score is too good for data that nobody has seen."""
        return bool(self.leak)


@dataclass(frozen=True)
class Words:
    """The words of a data set in figures and tables: what its classes and its groups are called."""

    true: str = "true class"
    predicted: str = "predicted class"
    group: str = "group"


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")


@dataclass(frozen=True)
class Dataset:
    """Everything that is particular to one data set.

    `read(folder, source)` lists the recordings. `protocols` are the ways to divide them. `preparation` is the class of
    what can be done to each waveform first, and `clip_starts` are named ways to find the samples at which clips begin:
    `(recordings, progress, decoded) -> an array for each recording`. With `probe_groups` a result tells how well the
    groups can be read from a network's features. `location` is its folder where that is not in `COURSE_DATA`.

    Where it comes from: `archives` are addresses of zip or tar files, `doi:10.5281/zenodo.N/FILE` included, unpacked
    into one folder; an address may end in `#sha256=HEX`, or in `#sha256sums` where a file SHA256SUMS.txt beside the
    archive lists it. `inside` is the path in there that becomes the data set's folder (`*`: all of it, or the one
    folder around it), `megabytes` the size of the archives, by which downloads are bounded.
    `write_stand_in(folder, progress=...)` writes synthetic recordings in the same layout; a change of
    `stand_in_version` makes cached ones anew.

    What must be in it, for `data check`: how many recordings of each class (`class_counts`), the shortest useful one in
    seconds, a `manifest` with the label and a hash of the samples of each
    recording, and `differences(recordings)`, which lists what else is not as published.

    Notebook: 02_spoken_digits_cnn
    """

    name: str
    title: str
    read: Callable[[Path, str], Recordings]
    protocols: tuple[Protocol, ...]
    sample_rate: int
    words: Words = Words()
    preparation: type[Preparation] | None = None
    probe_groups: bool = False
    clip_starts: Mapping[str, Callable[[Recordings, bool, Decoded], Sequence[np.ndarray]]] = field(default_factory=dict)
    licence: str = ""
    citation: str = ""
    archives: tuple[str, ...] = ()
    inside: str = "*"
    megabytes: int = 0
    write_stand_in: Callable[..., None] | None = None
    stand_in_version: int = 1
    class_counts: Mapping[str, int] = field(default_factory=dict)
    shortest_s: float = 0.0
    manifest: Path | None = None
    differences: Callable[[Recordings], list[str]] = lambda _: []
    location: Path | None = None

    def __post_init__(self) -> None:
        if self.location is None and not _NAME.fullmatch(self.name):
            raise DatasetError(
                f"a data set cannot have the name {self.name!a}, which is also that of its folder; "
                "use up to 60 letters, digits, hyphens and underscores, a letter or a digit first"
            )

    @property
    def folder(self) -> Path:
        """Where its recordings are, or will be: a folder of its name in `COURSE_DATA`, unless it has a `location`."""
        return self.location or environment.data_folder() / self.name

    def protocol(self, name: str) -> Protocol:
        """The protocol of that name. Raises DatasetError naming those there are."""
        for protocol in self.protocols:
            if protocol.name == name:
                return protocol
        raise DatasetError(f"{self.name} has no protocol {name}; it has {', '.join(p.name for p in self.protocols)}")
