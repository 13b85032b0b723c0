"""Recordings cut into clips of one length, gathered in batches straight on the device that needs them."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from course_lib import CourseError
from course_lib.datasets.decoded import LONGEST_CLIP_S, Decoded, copies, decode
from course_lib.datasets.recordings import Recordings, first_few

_log = logging.getLogger(__name__)

_on_device: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # samples -> {device: their copy, while it is used}


class ClipError(CourseError, ValueError):
    """Clips cannot be cut or joined as asked; the message names the setting and the reason."""


@dataclass(frozen=True)
class Clips:
    """Clips of `clip_samples` samples each, as positions in one long array of samples, int16 or float32.

    `start`, `length` (samples before the padding begins), `labels` (-1: unlabelled), `groups` (indices into
    `group_names`) and `recording` (row in the table) have shape (clips,). Picking clips (`clips[index]`), joining
    (`a + b`) and moving (`.to(device)`) leave the audio encoded; only `batch` makes waveforms of it. `fingerprint` is a
    hash of all recordings that were cut: their names, samples, labels and groups, and the names of the classes.

    Notebook: 02_spoken_digits_cnn
    """

    _of_each: ClassVar = ("start", "length", "labels", "groups", "recording")

    samples: Tensor
    start: Tensor
    length: Tensor
    labels: Tensor
    groups: Tensor
    recording: Tensor
    group_names: tuple[str, ...]
    clip_samples: int
    sample_rate: int
    fingerprint: str

    @classmethod
    def cut(
        cls,
        recordings: Recordings,
        seconds: float,
        hop_seconds: float | None = None,
        progress: bool = True,
        starts: Sequence[np.ndarray] | Callable[[Recordings, bool, Decoded], Sequence[np.ndarray]] | None = None,
    ) -> Clips:
        """Cut every recording into clips of `seconds`.

        Without `hop_seconds` a recording gives one clip, its beginning; with it a clip starts every `hop_seconds`,
        and with `starts` at the given samples of each recording, for as long as a whole clip fits (one clip at least).
        `starts` may be a function of the recordings, `progress` and what was decoded that gives these samples.
        With both, clips start at those of the given samples, in order, that are a hop or more after the one before.
        What is too short is padded with zeros. Raises ClipError, and what `decode` raises.
        """
        clip_samples = _samples("clip", seconds, recordings.sample_rate)
        hop = None if hop_seconds is None else _samples("hop", hop_seconds, recordings.sample_rate)
        if seconds > LONGEST_CLIP_S:
            raise ClipError(f"a clip of {seconds} s; it holds from one sample to {LONGEST_CLIP_S} s, not more")
        decoded = decode(recordings, progress)
        if same := [" = ".join(names) for names in copies(recordings, decoded)]:
            _log.warning(
                "%s holds one recording under several names, which may be on both sides of a split: %s",
                recordings.name,
                first_few(same),
            )
        lengths = np.diff(decoded.offsets)
        group_names, groups = np.unique(recordings.table["group"].to_numpy(str), return_inverse=True)
        if starts is None:
            starts = _regular(lengths, clip_samples, hop)
        else:
            starts = starts(recordings, progress, decoded) if callable(starts) else starts
            starts = starts if hop is None else [_apart(each, hop) for each in starts]
        recording, within = _fitting(starts, lengths, clip_samples)
        return cls(
            samples=torch.from_numpy(decoded.samples),
            start=torch.from_numpy(decoded.offsets[recording] + within),
            length=torch.from_numpy(np.minimum(lengths[recording] - within, clip_samples)),
            labels=torch.from_numpy(recordings.table["label"].to_numpy(dtype=np.int64)[recording]),
            groups=torch.from_numpy(groups[recording]),
            recording=torch.from_numpy(recording),
            group_names=tuple(group_names.tolist()),
            clip_samples=clip_samples,
            sample_rate=recordings.sample_rate,
            fingerprint=_fingerprint(recordings, decoded),
        )

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, index: Tensor | np.ndarray | slice) -> Clips:
        """The clips at the given positions; the audio itself is shared."""
        if isinstance(index, np.ndarray):
            index = torch.from_numpy(index)
        picked = {name: getattr(self, name)[index] for name in self._of_each}
        return replace(self, **picked)

    def of_recordings(self, rows: np.ndarray) -> Clips:
        """The clips of the given recordings (row numbers of the table)."""
        return self[torch.isin(self.recording, torch.as_tensor(rows, device=self.recording.device))]

    def unlabelled(self, rows: np.ndarray) -> Clips:
        """The same clips, with label -1, which means unlabelled, where they are of the given recordings."""
        hidden = torch.isin(self.recording, torch.as_tensor(rows, device=self.recording.device))
        return replace(self, labels=self.labels.masked_fill(hidden, -1))

    def __add__(self, other: Clips) -> Clips:
        """Both sets of clips as one; the rows and groups of `other` are counted on from those of this one.

        Clips of the same audio share it; otherwise the audio of both is copied.
        """
        if (self.clip_samples, self.sample_rate) != (other.clip_samples, other.sample_rate):
            raise ClipError("clips of different length or sample rate cannot be joined")
        next_row = int(self.recording.max()) + 1 if len(self) else 0
        samples, offset = self.samples, 0
        if other.samples is not samples:
            both = [samples, other.samples]
            if samples.dtype != other.samples.dtype:
                both = [_as_float(each) for each in both]
            samples, offset = torch.cat(both), len(samples)
        return Clips(
            samples=samples,
            start=torch.cat([self.start, other.start + offset]),
            length=torch.cat([self.length, other.length]),
            labels=torch.cat([self.labels, other.labels]),
            groups=torch.cat([self.groups, other.groups + len(self.group_names)]),
            recording=torch.cat([self.recording, other.recording + next_row]),
            group_names=self.group_names + other.group_names,
            clip_samples=self.clip_samples,
            sample_rate=self.sample_rate,
            fingerprint=f"{self.fingerprint}+{other.fingerprint}",
        )

    def to(self, device: torch.device | str, keep_free: float = 0.5) -> Clips:
        """Move to a device, where clips of the same audio share one copy of it.

        On a GPU the audio stays behind when it would fill over `1 - keep_free` of the free memory.
        """
        device = torch.empty(0, device=device).device  # with its number
        moved = {name: getattr(self, name).to(device) for name in self._of_each}
        return replace(self, **moved, samples=self._samples_on(device, keep_free))

    def _samples_on(self, device: torch.device, keep_free: float) -> Tensor:
        copies = _on_device.setdefault(self.samples, {})
        existing = copies[device]() if device in copies else None
        if existing is not None:
            return existing
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if self.samples.nbytes >= (1 - keep_free) * free:
                return self.samples
        copy = self.samples.to(device)
        if copy is not self.samples:
            copies[device] = weakref.ref(copy)
        return copy

    def index_batches(self, samples: int = 2**22) -> Iterator[Tensor]:
        """The numbers of all clips, in order, a batch at a time: as many clips as hold `samples` samples, or one.

        Batches of short clips hold 1,024 at most.
        """
        size = min(max(1, samples // self.clip_samples), 1024)
        yield from torch.arange(len(self), device=self.start.device).split(size)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms (batch, clip_samples), float32, full scale 1, and labels (batch,), for the clips at `index`."""
        start, length = self.start[index], self.length[index]
        # A view with a row for every position: to pick rows is to copy slices, three times as fast as picking samples.
        slices = self.samples.unfold(0, self.clip_samples, 1)[start.to(self.samples.device)].to(start.device)
        beyond = torch.arange(self.clip_samples, device=start.device) >= length[:, None]
        return _as_float(slices).masked_fill_(beyond, 0.0), self.labels[index]

    def digest(self) -> str:
        """A digest of the content of the recordings, of where clips are cut, and of their labels and groups."""
        digest = hashlib.sha256(f"{self.fingerprint} {self.clip_samples} {self.sample_rate}".encode())
        for positions in (self.start, self.length, self.labels, self.groups):
            digest.update(positions.cpu().contiguous().numpy())
        return digest.hexdigest()


def _as_float(samples: Tensor) -> Tensor:
    return samples if samples.is_floating_point() else samples.float().div_(32768)


def _samples(what: str, seconds: float, sample_rate: int) -> int:
    """The samples in a clip or a hop of some seconds, one at least."""
    if not math.isfinite(seconds):
        raise ClipError(f"a {what} of {seconds} s; give a number of seconds, of at least one sample")
    samples = round(seconds * sample_rate)
    if samples < 1:
        raise ClipError(f"a {what} of {seconds} s at {sample_rate} Hz is under one sample; make it longer")
    return samples


def _fingerprint(recordings: Recordings, decoded: Decoded) -> str:
    table = recordings.table
    about = (
        table["label"].tolist(),
        table["group"].astype(str).tolist(),
        recordings.class_names,
        recordings.sample_rate,
    )
    return hashlib.sha256(json.dumps([decoded.fingerprint, *about]).encode()).hexdigest()[:16]


def _regular(lengths: np.ndarray, clip_samples: int, hop: int | None) -> list[np.ndarray]:
    """Where the clips of each recording start: at its beginning and, with a hop, as often as a whole one fits."""
    if hop is None:
        return [np.zeros(1, dtype=np.int64)] * len(lengths)
    return [np.arange(0, max(length - clip_samples, 0) + 1, hop) for length in lengths]


def _apart(starts: np.ndarray, hop: int) -> np.ndarray:
    """Those of the ascending starts that are at least a hop after the one taken before; the first is taken."""
    taken, index = [], 0
    while index < len(starts):
        taken.append(index)
        index = max(index + 1, int(np.searchsorted(starts, starts[index] + hop)))
    return starts[taken]


def _fitting(starts: Sequence[np.ndarray], lengths: np.ndarray, clip_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and position of every clip: those of the given starts at which a clip fits, or else the beginning."""
    if len(starts) != len(lengths):
        raise ClipError(f"starts for {len(starts)} recordings, but there are {len(lengths)}")
    if any((each < 0).any() for each in starts):
        raise ClipError("a clip cannot start before its recording")
    fitting = [each[each + clip_samples <= length] for each, length in zip(starts, lengths, strict=True)]
    fitting = [each if len(each) else np.zeros(1, dtype=np.int64) for each in fitting]
    return np.repeat(np.arange(len(lengths)), [len(each) for each in fitting]), np.concatenate(fitting)
