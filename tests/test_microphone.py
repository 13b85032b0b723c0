"""The recorder's side in Python: messages as a browser sends them, handed over directly."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

pytest.importorskip("anywidget")

from course_lib import audio
from course_lib.datasets import fsdd
from course_lib.microphone import _REFUSALS, MicrophoneError, Recorder, Recording

RATE = 48_000


def tone(seconds: float = 0.5, level: float = 0.25, hertz: float = 440.0, rate: int = RATE) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def recorded(recorder: Recorder, samples: np.ndarray, rate: int = RATE) -> None:
    content = {"kind": "recorded", "sample_rate": rate}
    recorder._handle_custom_msg(content, [memoryview(samples.astype("<f4").tobytes())])


def chosen(recorder: Recorder, content: bytes, name: str) -> list[dict]:
    """Hand over a sound file; returns what the recorder answers."""
    answers: list[dict] = []
    recorder.send = lambda message, *_: answers.append(message)
    recorder._handle_custom_msg({"kind": "file", "name": name}, [memoryview(content)])
    return answers


def sound_file(samples: np.ndarray, rate: int, kind: str) -> bytes:
    file = io.BytesIO()
    sf.write(file, samples, rate, format=kind)
    return file.getvalue()


def test_a_recording_arrives_as_it_was_sent() -> None:
    heard: list[Recording] = []
    recorder = Recorder(seconds=0.5, on_recorded=heard.append)
    assert recorder.recording is None
    sent = tone() + np.float32(1e-3)
    recorded(recorder, sent)
    recording = recorder.recording
    assert heard == [recording]
    assert recording.samples.dtype == np.float32 and np.array_equal(recording.samples, sent)
    assert recording.sample_rate == RATE and recording.seconds == pytest.approx(0.5)
    assert recording.level == pytest.approx(20 * np.log10(0.25 / np.sqrt(2)), abs=0.05)
    assert not recording.clipped and "level -15 dB" in recorder.message


def test_samples_can_be_written_to_and_are_no_trait() -> None:
    recorder = Recorder()
    recorded(recorder, tone())
    recorder.recording.samples[0] = 1
    state = recorder.get_state()
    assert {"seconds", "prompt"} <= state.keys()
    assert not any(isinstance(value, bytes | memoryview | np.ndarray) for value in state.values())
    assert "recording" not in state


def test_the_zeros_that_a_device_begins_with_are_dropped() -> None:
    recorder = Recorder()
    recorded(recorder, np.concatenate([np.zeros(1000), tone() + 0.01]))
    assert len(recorder.recording.samples) == len(tone())


@pytest.mark.parametrize("reason", sorted(_REFUSALS))
def test_every_refusal_is_put_into_words(reason: str) -> None:
    recorder = Recorder()
    recorder._handle_custom_msg({"kind": "refused", "reason": reason}, [])
    assert recorder.message == _REFUSALS[reason] and recorder.recording is None


def test_an_unknown_refusal_is_named() -> None:
    recorder = Recorder()
    recorder._handle_custom_msg({"kind": "refused", "reason": "OverconstrainedError"}, [])
    assert "OverconstrainedError" in recorder.message


def test_the_browser_knows_every_reason_that_the_widget_makes_up() -> None:
    script = (Path(audio.__file__).parent / "microphone.js").read_text()
    assert all(f'"{reason}"' in script for reason in ("InsecureError", "TimeoutError", "UnreadableError"))


@pytest.mark.parametrize(
    "samples",
    [np.zeros(4000), np.zeros(0), tone(level=1e-5), np.full(4000, np.nan)],
    ids=["zeros", "none", "soft", "nan"],
)
def test_silence_is_refused_in_words_and_leaves_the_last_recording(samples: np.ndarray) -> None:
    heard: list[Recording] = []
    recorder = Recorder(on_recorded=heard.append)
    recorded(recorder, tone())
    before = recorder.recording
    recorded(recorder, samples)
    assert recorder.recording is before and len(heard) == 1
    assert "muted" in recorder.message


def test_clipping_and_low_level_are_said_and_kept() -> None:
    recorder = Recorder()
    recorded(recorder, np.clip(tone(level=2.0), -1, 1))
    assert recorder.recording.clipped and "clipped" in recorder.message
    recorded(recorder, tone(level=0.003))
    assert not recorder.recording.clipped and "soft" in recorder.message
    assert not Recording(tone(level=1.0, hertz=8000), RATE).clipped


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_a_file_is_read_by_the_course_s_reader(kind: str, tmp_path: Path) -> None:
    samples = np.stack([tone(rate=16_000), 0.5 * tone(rate=16_000)], axis=1)
    content = sound_file(samples, 16_000, kind)
    path = tmp_path / f"own.{kind.lower()}"
    path.write_bytes(content)
    recorder = Recorder()
    answers = chosen(recorder, content, path.name)
    read = audio.read(path).numpy()
    assert np.array_equal(recorder.recording.samples, read[np.flatnonzero(read)[0] :])
    assert recorder.recording.sample_rate == 16_000
    assert [answer["kind"] for answer in answers] == ["said"]


@pytest.mark.parametrize("name", ["voice.m4a", "voice", "voice.wav", "..", "a/b.c/../x.wav"])
def test_what_the_reader_does_not_know_is_left_to_the_browser(name: str) -> None:
    recorder = Recorder()
    assert chosen(recorder, b"\0\0\0\x1cftypM4A something", name) == [{"kind": "decode"}]
    assert recorder.recording is None


def test_a_waveform_is_resampled_to_the_rate_asked_for() -> None:
    recording = Recording(tone(seconds=1.0), RATE)
    assert torch.equal(recording.waveform(), torch.from_numpy(recording.samples))
    waveform = recording.waveform(8000)
    assert waveform.shape == (8000,) and waveform.dtype == torch.float32
    assert int(torch.fft.rfft(waveform).abs().argmax()) == 440


def test_saved_takes_are_numbered_and_can_be_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    with pytest.raises(MicrophoneError, match="nothing has been recorded"):
        recorder.save(tmp_path, 7, "mia")
    recorded(recorder, tone())
    folder = tmp_path / "mine" / "fsdd" / "recordings"
    names = [recorder.save(folder, 7, "mia").name for _ in range(2)]
    assert names == ["7_mia_0.wav", "7_mia_1.wav"]
    (recorder.save(folder, 3, "mia")).rename(folder / "3_mia_5.wav")
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "mine"))
    recordings = fsdd.DATASET.read(fsdd.DATASET.folder, "real")
    assert recordings.table["label"].tolist() == [3, 7, 7] and set(recordings.table["group"]) == {"mia"}
    assert recordings.waveform(1).shape == (4000,)
    assert float(recordings.waveform(1).abs().max()) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(("digit", "speaker"), [(10, "mia"), (-1, "mia"), (7, "../mia"), (7, "Mia_2"), (7, "")])
def test_a_name_that_cannot_be_read_back_is_refused(digit: int, speaker: str, tmp_path: Path) -> None:
    recorder = Recorder()
    recorded(recorder, tone())
    with pytest.raises(MicrophoneError, match=r"the (digit|speaker) is"):
        recorder.save(tmp_path, digit, speaker)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seconds", [0, -1, 31, float("nan")])
def test_a_length_that_cannot_be_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="a recording of"):
        Recorder(seconds=seconds)
