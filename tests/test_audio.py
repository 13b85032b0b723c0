"""Reading sound files: what comes out of good ones, and what is said about bad ones."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib import audio
from course_lib.audio import AudioError

RATE = 8000


def tone(samples: int = 4000, frequency: float = 440, rate: int = RATE) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(samples) / rate)


def write(path: Path, sound: np.ndarray | None = None, subtype: str | None = None) -> Path:
    sf.write(path, tone() if sound is None else sound, RATE, subtype)
    return path


def refused(path: str | Path) -> str:
    """The message with which a file is refused; it always names the file."""
    with pytest.raises(AudioError) as caught:
        audio.read(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "subtype", "error"),
    [
        ("a.wav", "PCM_U8", 1 / 127),
        ("a.wav", "PCM_16", 1 / 32767),
        ("a.wav", "PCM_24", 1e-6),
        ("a.wav", "FLOAT", 1e-7),
        ("a.wav", "DOUBLE", 1e-7),
        ("a.flac", "PCM_16", 1 / 32767),
        ("a.ogg", "VORBIS", 0.1),
    ],
)
def test_the_formats_of_the_course_are_read(tmp_path: Path, name: str, subtype: str, error: float) -> None:
    waveform = audio.read(write(tmp_path / name, subtype=subtype))
    assert waveform.dtype == torch.float32 and waveform.ndim == 1
    torch.testing.assert_close(waveform, torch.from_numpy(tone()).float(), atol=error, rtol=0)


def test_a_wav_in_which_one_cannot_move_is_read(tmp_path: Path) -> None:
    assert len(audio.read(write(tmp_path / "a.wav", subtype="GSM610"))) >= 4000


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = tone(100), tone(100, 1000)
    waveform = audio.read(write(tmp_path / "a.wav", np.stack([left, right], 1), "FLOAT"))
    torch.testing.assert_close(waveform, torch.from_numpy((left + right) / 2).float())


def test_sixteen_bits_survive_exactly(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, 500, dtype=np.int16)
    samples[:2] = -32768, 32767
    waveform = audio.read(write(tmp_path / "a.wav", samples))
    assert waveform.abs().max() <= 1
    np.testing.assert_array_equal(audio.to_int16(waveform), samples)


def test_int16_samples_beyond_full_scale_are_clipped() -> None:
    assert audio.to_int16(torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0])).tolist() == [-32768, -32768, 0, 32767, 32767]


@pytest.mark.parametrize("to_rate", [4000, 8000, 11025, 16000])
def test_resampling_keeps_the_tone_and_the_duration(tmp_path: Path, to_rate: int) -> None:
    waveform = audio.read(write(tmp_path / "a.wav", subtype="FLOAT"), to_rate)
    assert len(waveform) == -(-to_rate // 2)
    middle = slice(to_rate // 20, -to_rate // 20)  # the filter rings at both ends
    expected = torch.from_numpy(tone(len(waveform), rate=to_rate)).float()
    torch.testing.assert_close(waveform[middle], expected[middle], atol=5e-3, rtol=0)


def test_resampling_down_takes_away_what_the_lower_rate_cannot_hold(tmp_path: Path) -> None:
    waveform = audio.read(write(tmp_path / "a.wav", tone(frequency=3000)), 4000)
    assert waveform[200:-200].abs().max() < 0.01


def test_the_rate_is_told_without_reading(tmp_path: Path) -> None:
    assert audio.rate(write(tmp_path / "a.flac")) == RATE
    with pytest.raises(AudioError, match="does not exist"):
        audio.rate(tmp_path / "b.flac")


def test_audio_after_another_chunk_or_before_one_is_read(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.wav").read_bytes()
    (tmp_path / "b.wav").write_bytes(whole + b"LIST\x04\0\0\0INFO")
    assert torch.equal(audio.read(tmp_path / "b.wav"), audio.read(tmp_path / "a.wav"))


@given(samples=st.integers(0, 50), wanted=st.integers(1, 60))
def test_padding_and_cropping(samples: int, wanted: int) -> None:
    waveform = torch.arange(1.0, samples + 1).expand(2, samples)
    fixed = audio.fix_length(waveform, wanted)
    assert fixed.shape == (2, wanted)
    assert torch.equal(fixed[:, :samples], waveform[:, :wanted])
    assert not fixed[:, samples:].any()


@pytest.mark.parametrize("wanted", [0, -1])
def test_a_clip_needs_a_sample(wanted: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        audio.fix_length(torch.zeros(4), wanted)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "no.wav")
    assert "is a folder" in refused(tmp_path)
    assert "does not exist" in refused(str(tmp_path / "no.wav"))


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.raw", "a"])
@pytest.mark.parametrize("content", [b"hello, this is no sound" * 40, b"RIFF", b"fLaC", b"OggS", b"\0" * 500])
def test_what_is_not_audio_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert "cannot be read as WAV, FLAC or OGG" in refused(tmp_path / name)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert "empty" in refused(tmp_path / name)


def test_a_file_without_samples_is_refused(tmp_path: Path) -> None:
    assert "holds no samples" in refused(write(tmp_path / "a.wav", np.zeros(0)))


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT", "ULAW"])
@given(kept=st.floats(0.001, 0.999))
def test_a_truncated_wav_is_refused(tmp_path_factory: pytest.TempPathFactory, subtype: str, kept: float) -> None:
    path = write(tmp_path_factory.getbasetemp() / f"cut_{subtype}.wav", tone(500), subtype)
    whole = path.read_bytes()
    path.write_bytes(whole[: max(1, int(kept * len(whole)))])
    refused(path)


@given(kept=st.floats(0.001, 0.999))
def test_a_truncated_flac_is_refused(tmp_path_factory: pytest.TempPathFactory, kept: float) -> None:
    path = write(tmp_path_factory.getbasetemp() / "cut.flac", np.random.default_rng(0).uniform(-1, 1, 20_000))
    whole = path.read_bytes()
    path.write_bytes(whole[: max(1, int(kept * len(whole)))])
    refused(path)


def test_a_truncated_file_is_called_truncated(tmp_path: Path) -> None:
    for name in ("a.wav", "a.flac"):
        path = write(tmp_path / name)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert "truncated" in refused(path)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_a_damaged_byte_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, name: str, place: float, value: int
) -> None:
    path = write(tmp_path_factory.getbasetemp() / f"damaged_{name}", tone(300))
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] = value
    path.write_bytes(content)
    try:
        waveform = audio.read(path)
    except AudioError:
        return
    assert len(waveform) and waveform.isfinite().all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_that_are_no_numbers_are_refused(tmp_path: Path, bad: float, channels: int) -> None:
    sound = np.tile(tone()[:, None], channels)
    sound[7, -1] = bad
    assert "NaN or infinite" in refused(write(tmp_path / "a.wav", sound, "DOUBLE"))


@pytest.mark.parametrize("rate", [1, 99, 768_001, 2**31 - 1, 2**31, 2**32 - 1, 0])
def test_an_absurd_sample_rate_is_refused(tmp_path: Path, rate: int) -> None:
    path = write(tmp_path / "a.wav")
    content = bytearray(path.read_bytes())
    content[24:28] = struct.pack("<I", rate)
    path.write_bytes(content)
    message = refused(path)
    if 0 < rate < 2**31:
        assert f"{rate} Hz" in message
    with pytest.raises(AudioError):
        audio.rate(path)


@pytest.mark.parametrize("frames", [0, 2**36 - 1], ids=["unknown", "terabytes"])
def test_a_flac_that_tells_no_length_or_an_absurd_one_is_refused(tmp_path: Path, frames: int) -> None:
    path = write(tmp_path / "a.flac")
    content = bytearray(path.read_bytes())
    content[21:26] = (content[21] & 0xF0 | frames >> 32).to_bytes(1, "big") + (frames & 0xFFFFFFFF).to_bytes(4, "big")
    path.write_bytes(content)
    refused(path)


def test_the_error_is_also_a_value_error() -> None:
    assert issubclass(AudioError, ValueError)
