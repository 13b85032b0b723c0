"""The learner's own microphone, in JupyterLab, Notebook 7 and Colab: recorded in the browser, handed to Python.

Nothing is stored in the notebook, nothing is sent to anybody, and nothing is written unless `save` is called.

Notebook: 02_spoken_digits_cnn
"""

import logging
import math
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import torch
from torch import Tensor

from course_lib import CourseError, audio

try:
    import anywidget
    import traitlets
except ImportError as error:
    raise ImportError(f"the recorder needs anywidget ({error}); run: pip install 'course-lib[course]'") from None

LONGEST_S = 30.0
SILENT_DB, QUIET_DB = -70.0, -45.0  # of the loudest twentieth of a second
_FULL_SCALE, _IN_A_ROW = 0.999, 3
_SUFFIX = re.compile(r"[.][A-Za-z0-9]{1,8}")
_SPEAKER = re.compile(r"[a-z0-9]{1,30}")
_REFUSALS = {
    "NotAllowedError": "The browser was not allowed to use the microphone. Allow it in the address bar and try again.",
    "NotFoundError": "The browser finds no microphone. Connect one and try again, or choose a sound file.",
    "NotReadableError": "The microphone cannot be opened; another program may be using it. Close that, then try again.",
    "InsecureError": "This page has no microphone: browsers give one only to https pages and to localhost, and some "
    "editors never do. Open the notebook in a browser at http://localhost:8888, or choose a sound file.",
    "TimeoutError": "The browser did not start its audio within 5 seconds; it may need a loudspeaker or headphones. "
    "Connect some and try again, or choose a sound file.",
    "UnreadableError": "That file is no sound that can be read. Choose a WAV, FLAC, OGG, MP3 or M4A file.",
}
_SILENT = "Nothing was recorded but silence. Is the microphone muted, or another one chosen in the browser's settings?"

logger = logging.getLogger(__name__)


class MicrophoneError(CourseError, ValueError):
    """There is nothing to save, or it cannot be saved under that name; the message says what to do."""


@dataclass(frozen=True, eq=False)
class Recording:
    """What was recorded: `samples`, float32, shape (samples,), full scale 1, at the device's own `sample_rate` in Hz.

    Notebook: 02_spoken_digits_cnn
    """

    samples: np.ndarray
    sample_rate: int

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return len(self.samples) / self.sample_rate

    @property
    def level(self) -> float:
        """Level in dB: the root mean square of all samples, relative to full scale (a square wave of 1 has 0 dB)."""
        return _decibels(np.square(self.samples, dtype=np.float64).mean())

    @property
    def clipped(self) -> bool:
        """Whether three samples in a row are at full scale."""
        full = np.abs(self.samples) >= _FULL_SCALE
        return bool(np.convolve(full, np.ones(_IN_A_ROW)).max() >= _IN_A_ROW)

    def waveform(self, sample_rate: int | None = None) -> Tensor:
        """The samples as a tensor, shape (samples,), resampled to `sample_rate` Hz where that is given.

        Raises AudioError for a rate that cannot be.
        """
        samples = torch.from_numpy(self.samples.copy())
        return samples if sample_rate is None else audio.resample(samples, self.sample_rate, sample_rate)

    def save(self, folder: str | Path, digit: int, speaker: str) -> Path:
        """Write the recording to `folder/{digit}_{speaker}_{take}.wav`, 16 bits, as the next take; returns the path.

        Raises MicrophoneError for another digit than 0 to 9 and for a speaker that is not lower-case letters or digits.
        """
        if digit not in range(10):
            raise MicrophoneError(f"the digit is {digit!r}; give a whole number from 0 to 9")
        if not _SPEAKER.fullmatch(speaker):
            raise MicrophoneError(f"the speaker is {speaker!r}; use up to 30 lower-case letters and digits")
        folder = Path(folder).expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            take = sum(1 for _ in folder.glob(f"{digit}_{speaker}_*.wav"))
            while (path := folder / f"{digit}_{speaker}_{take}.wav").exists():
                take += 1
            sf.write(path, self.samples, self.sample_rate, "PCM_16")
        except (OSError, sf.LibsndfileError) as error:
            raise MicrophoneError(f"the recording cannot be written to {folder} ({error}); name another") from None
        return path


class Recorder(anywidget.AnyWidget):
    """A button that records the microphone for `seconds`, with a level meter, and a chooser for a sound file instead.

    `recording` is the last Recording, or None. `on_recorded(recording)` is called for each. `prompt` is shown above
    the button and may be changed at any time. What is wrong is said beside the button, and kept in `message`:
    no permission, no device, a page without microphones, silence, a level that is too low, clipping.
    The browser's echo cancellation, noise suppression and gain control are off. A cell that waits for a recording
    would wait for ever, because messages arrive between cells: read `recording` in the next one.

    Notebook: 02_spoken_digits_cnn
    """

    _esm = Path(__file__).with_suffix(".js")
    seconds = traitlets.Float(1.5).tag(sync=True)
    prompt = traitlets.Unicode("").tag(sync=True)

    def __init__(
        self, seconds: float = 1.5, on_recorded: Callable[[Recording], Any] | None = None, prompt: str = ""
    ) -> None:
        if not 0 < seconds <= LONGEST_S:
            raise ValueError(f"a recording of {seconds} s; give more than 0, and {LONGEST_S:.0f} s at most")
        super().__init__(seconds=seconds, prompt=prompt)
        self.recording: Recording | None = None
        self.message = ""
        self.on_recorded = on_recorded
        self.on_msg(self._receive)

    def save(self, folder: str | Path, digit: int, speaker: str) -> Path:
        """Write the last recording, as `Recording.save` does. Raises MicrophoneError, also when there is none."""
        if self.recording is None:
            raise MicrophoneError("nothing has been recorded yet; press the button first")
        return self.recording.save(folder, digit, speaker)

    def _receive(self, _: Any, content: dict[str, Any], buffers: list[Any]) -> None:
        kind = content.get("kind")
        if kind == "refused":
            reason = str(content.get("reason"))
            self._say(_REFUSALS.get(reason, f"The browser could not record ({reason}). Choose a sound file instead."))
        elif kind == "recorded":
            samples = np.frombuffer(buffers[0], dtype="<f4").astype(np.float32)  # a copy: the buffer is read-only
            self._take(samples, int(content["sample_rate"]))
        elif kind == "file":
            try:
                self._take(*_read(bytes(buffers[0]), Path(str(content.get("name"))).suffix))
            except audio.AudioError as error:
                logger.info("%s", error)
                self.send({"kind": "decode"})  # the browser may know what the library's reader does not

    def _take(self, samples: np.ndarray, sample_rate: int) -> None:
        heard = np.flatnonzero(samples)
        if len(heard) == 0 or not np.isfinite(samples).all():
            self._say(_SILENT)
            return
        recording = Recording(samples[heard[0] :], sample_rate)  # a device begins with some zeros
        loudest = _loudest(recording)
        if loudest < SILENT_DB:
            self._say(_SILENT)
            return
        self.recording = recording
        text = f"{recording.seconds:.1f} s at {sample_rate:,} Hz, level {recording.level:.0f} dB."
        if recording.clipped:
            text += " It is clipped: the microphone was overloaded. Move back or speak more softly, and record again."
        elif loudest < QUIET_DB:
            text += " It is very soft: move closer or speak up, and record again."
        self._say(text)
        if self.on_recorded is not None:
            self.on_recorded(recording)

    def _say(self, text: str) -> None:
        self.message = text
        self.send({"kind": "said", "text": text})


def _read(content: bytes, suffix: str) -> tuple[np.ndarray, int]:
    """The samples of a file, one channel, and its rate, by the course's reader. Raises AudioError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("chosen" + suffix if _SUFFIX.fullmatch(suffix) else "chosen")
        path.write_bytes(content)
        return audio.read(path).numpy(), audio.rate(path)


def _loudest(recording: Recording) -> float:
    """Level in dB of the loudest twentieth of a second."""
    window = max(1, min(recording.sample_rate // 20, len(recording.samples)))
    power = np.cumsum(np.square(np.concatenate([[0.0], recording.samples]), dtype=np.float64))
    return _decibels((power[window:] - power[:-window]).max() / window)


def _decibels(power: float) -> float:
    return 10 * math.log10(max(power, 1e-20))
