"""Reading sound files: what comes out of good ones, and what is said about bad ones."""

from __future__ import annotations

import os
import re
import struct
import sys
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
    assert "cannot be read as WAV, FLAC" in refused(tmp_path / name) or "OGG" in refused(tmp_path / name)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert "empty" in refused(tmp_path / name)


def test_a_file_without_samples_is_refused(tmp_path: Path) -> None:
    assert "holds no samples" in refused(write(tmp_path / "a.wav", np.zeros(0)))


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT", "ULAW"])
@given(share=st.floats(0.001, 0.999))
def test_a_truncated_wav_is_refused(tmp_path_factory: pytest.TempPathFactory, subtype: str, share: float) -> None:
    path = write(tmp_path_factory.getbasetemp() / f"cut_{subtype}.wav", tone(500), subtype)
    whole = path.read_bytes()
    path.write_bytes(whole[: max(1, int(share * len(whole)))])
    refused(path)


@given(share=st.floats(0.001, 0.999))
def test_a_truncated_flac_is_refused(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    path = write(tmp_path_factory.getbasetemp() / "cut.flac", np.random.default_rng(0).uniform(-1, 1, 20_000))
    whole = path.read_bytes()
    path.write_bytes(whole[: max(1, int(share * len(whole)))])
    refused(path)


def test_a_truncated_file_is_called_truncated(tmp_path: Path) -> None:
    for name in ("a.wav", "a.flac"):
        path = write(tmp_path / name)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert "truncated" in refused(path)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
@given(position=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_a_damaged_byte_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, name: str, position: float, value: int
) -> None:
    path = write(tmp_path_factory.getbasetemp() / f"damaged_{name}", tone(300))
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] = value
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


# Channels


def test_channels_can_be_read_apart(tmp_path: Path) -> None:
    both = np.stack([tone(100), tone(100, 1000)], 1)
    channels, rate = audio.read_channels(write(tmp_path / "a.wav", both, "FLOAT"))
    assert rate == RATE and channels.is_contiguous()
    torch.testing.assert_close(channels, torch.from_numpy(both.T.copy()).float())


def test_one_channel_or_the_side_can_be_read(tmp_path: Path) -> None:
    left, right = tone(100), tone(100, 1000)
    path = write(tmp_path / "two.wav", np.stack([left, right], 1), "FLOAT")
    for channel, sound in {"left": left, "right": right, "side": (left - right) / 2}.items():
        torch.testing.assert_close(audio.read(path, channel=channel), torch.from_numpy(sound).float())
    one, four = write(tmp_path / "one.wav"), write(tmp_path / "four.wav", np.tile(left[:, None], 4))
    assert torch.equal(audio.read(one, channel="right"), audio.read(one))
    for file, channel in ((one, "side"), (four, "left"), (four, "right"), (four, "side")):
        with pytest.raises(AudioError, match=f"none of them is the {channel}"):
            audio.read(file, channel=channel)
    with pytest.raises(AudioError, match="not 'middle'"):
        audio.read(one, channel="middle")


@pytest.mark.parametrize("other", [-1.0, -0.8, -1.2])
def test_channels_that_cancel_are_refused(tmp_path: Path, other: float) -> None:
    for offset in (0.0, 0.1):
        sound = np.stack([0.5 * tone(), other * 0.5 * tone()], 1) + offset
        assert "cancel" in refused(write(tmp_path / "a.wav", sound))
    four = np.stack([tone(), tone(frequency=700), -tone(), -tone(frequency=700)], 1)
    assert "cancel" in refused(write(tmp_path / "a.wav", four))


def test_channels_that_differ_are_averaged(tmp_path: Path) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal((4000, 8))
    for sound in (noise, noise * [1, 0, 0, 0, 0, 0, 0, 0], np.zeros((100, 2)), np.ones((1, 2)) * [0.5, -0.5]):
        expected = torch.from_numpy(sound.mean(axis=1)).float()
        torch.testing.assert_close(audio.read(write(tmp_path / "a.wav", sound, "FLOAT")), expected)


# Containers


def long_tone(path: Path, container: str, subtype: str | None = None, channels: int = 1) -> bytes:
    """Ten seconds of noise in a container; writes the file and returns its content."""
    noise = 0.1 * np.random.default_rng(0).standard_normal((80_000, channels))
    sf.write(path, noise, RATE, subtype, format=container)
    return path.read_bytes()


WHOLE = {
    "wav": ("WAV", "PCM_16"),
    "wavex": ("WAVEX", "PCM_24"),
    "adpcm": ("WAV", "MS_ADPCM"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_file_is_read_and_a_truncated_one_never(tmp_path: Path, kind: str) -> None:
    container, subtype = WHOLE[kind]
    for channels in (1, 2):
        path = tmp_path / f"sound.{kind}"
        content = long_tone(path, container, subtype, channels)
        assert 80_000 <= len(audio.read(path)) < 80_500  # ADPCM fills its last block
        for share in (0.02, 0.1, 0.5, 0.9, 0.97, 1 - 1 / len(content)):
            path.write_bytes(content[: int(share * len(content))])
            refused(path)


@pytest.mark.parametrize("name", ["sound", "sound.wav"])
@pytest.mark.parametrize("container", ["RF64", "W64", "AIFF", "AU", "CAF", "NIST", "VOC"])
def test_other_containers_are_named(tmp_path: Path, container: str, name: str) -> None:
    long_tone(tmp_path / name, container)
    assert f"is a {container} file; convert it to WAV or FLAC" in refused(tmp_path / name)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_with_a_page_less_a_damaged_one_or_a_second_stream_is_refused(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "a.ogg"
    content = long_tone(path, "OGG", subtype)
    pages = content.split(b"OggS")
    for number in range(2, len(pages)):
        path.write_bytes(b"OggS".join(pages[:number] + pages[number + 1 :]))
        refused(path)
    for position in np.linspace(5000, len(content) - 1, 20).astype(int):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        refused(path)
    path.write_bytes(content + content)
    assert "several OGG streams" in refused(path)
    path.write_bytes(content + b"TAG" + bytes(125))
    assert len(audio.read(path)) == 80_000


def streamed(content: bytes, riff: int, data: int) -> bytes:
    """A WAV as a program leaves it that cannot go back to the header."""
    size = content.index(b"data") + 4
    header = b"RIFF" + struct.pack("<I", riff) + content[8:size] + struct.pack("<I", data)
    return header + content[size + 4 :]


@pytest.mark.parametrize(
    ("riff", "data"),
    [
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x7FFFF024, 0x7FFFF000),
        (0x7FFFFF24, 0x7FFFFF00),
        (0x80000024, 0x80000000),
        (0xFFFFFFFF, 0xFFFFFFDB),
    ],
)
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_a_streamed_wav_is_read_to_its_end(tmp_path: Path, riff: int, data: int, subtype: str) -> None:
    path = write(tmp_path / "a.wav", subtype=subtype)
    whole, content = audio.read(path), path.read_bytes()
    path.write_bytes(streamed(content, riff, data))
    assert torch.equal(audio.read(path), whole)
    assert (audio.rate(path), audio.seconds(path)) == (RATE, 0.5)
    path.write_bytes(streamed(content, riff, data)[:-3])  # stopped within a sample
    assert torch.equal(audio.read(path), whole[: len(audio.read(path))]) and len(whole) - len(audio.read(path)) <= 2


@pytest.mark.parametrize("riff", [0, 8, 36, 0xFFFFFFFF])
def test_a_wav_that_was_not_finished_is_called_so(tmp_path: Path, riff: int) -> None:
    path = write(tmp_path / "a.wav")
    path.write_bytes(streamed(path.read_bytes(), riff, 0))
    assert "streamed or not finished" in refused(path)


def test_a_wav_of_endless_chunks_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF\xff\xff\xff\xffWAVE" + bytes(2**23))
    assert "leads to no samples" in refused(tmp_path / "a.wav")


def test_what_follows_an_empty_data_chunk_is_no_sound(tmp_path: Path) -> None:
    content = write(tmp_path / "a.wav", np.zeros(0)).read_bytes() + b"LIST\x04\0\0\0INFO"
    (tmp_path / "a.wav").write_bytes(content[:4] + struct.pack("<I", len(content) - 8) + content[8:])
    assert "holds no samples" in refused(tmp_path / "a.wav")


def test_a_streamed_flac_is_called_streamed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac")
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert "tells no length" in refused(path)


# Files of all names and kinds


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems refuse such names themselves")
def test_a_name_need_not_be_utf8(tmp_path: Path) -> None:
    write(tmp_path / "a.wav")
    for name in (b"\xff.wav", b"\xe4\xf6.WAV"):
        path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
        os.link(tmp_path / "a.wav", path)
        assert len(audio.read(path)) == 4000 and audio.rate(str(path)) == RATE


@pytest.mark.parametrize("name", ["a\0b.wav", "x" * 300 + ".wav", "a.wav/b.wav"])
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a.wav")
    refused(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.wav")
    assert "is a device" in refused(tmp_path / "a.wav")


# Rates


@pytest.mark.parametrize(
    ("from_rate", "to_rate"), [(16_001, 16_000), (16_000, 16_001), (44_099, 44_100), (767_999, 8000), (8000, 191_999)]
)
def test_odd_rates_are_resampled_at_a_bounded_cost(from_rate: int, to_rate: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audio.torchaudio.functional, "resample", lambda *_: pytest.fail("would fill the memory"))
        waveform = torch.from_numpy(tone(from_rate // 2, rate=from_rate)).float().expand(2, -1)
        resampled = audio.resample(waveform, from_rate, to_rate)
    assert resampled.shape == (2, -(-waveform.shape[1] * to_rate // from_rate)) and resampled.dtype == torch.float32
    expected = torch.from_numpy(tone(resampled.shape[1], rate=to_rate)).float()
    middle = slice(to_rate // 20, -to_rate // 20)
    torch.testing.assert_close(resampled[1, middle], expected[middle], atol=5e-3, rtol=0)
    assert audio.resample(torch.zeros(1), from_rate, to_rate).shape == (-(-to_rate // from_rate),)


@pytest.mark.parametrize("to_rate", [0, -1, 99, 768_001, 10**12, 8000.5, float("nan"), float("inf")])
def test_rates_that_cannot_be_are_refused(tmp_path: Path, to_rate: float) -> None:
    with pytest.raises(AudioError, match="a sample rate of"):
        audio.read(write(tmp_path / "a.wav"), to_rate)


def test_a_damaged_rate_does_not_fill_the_memory() -> None:
    with pytest.raises(AudioError, match="too many; is the sample rate"):
        audio.resample(torch.zeros(1).expand(2**22), 100, 44_100)


def test_huge_samples_are_refused_before_they_become_infinite(tmp_path: Path) -> None:
    for sound in (np.full((100, 2), 3e38), np.full(100, -1e30)):
        assert "over 2^31" in refused(write(tmp_path / "a.wav", sound, "FLOAT"))


# What 16 bits hold


def test_sixteen_bits_hold_what_is_exact_or_loud_enough() -> None:
    random = np.random.default_rng(0)

    def fits(samples: np.ndarray) -> bool:
        return audio.fits_int16(torch.from_numpy(samples).float())

    noise = random.standard_normal(8000)
    click = np.where(np.arange(8000) == 4000, 1.0, 1e-6 * noise)
    assert fits(np.array([1, -1, 0, 32767, -32768]) / 32768) and fits(np.zeros(5))
    assert fits(0.1 * noise) and fits(np.concatenate([np.zeros(80_000), 0.1 * noise]))
    assert not fits(1e-6 * noise) and not fits(click)
    assert not fits(tone() * 2.1) and not fits(tone() * 32768)


def test_the_error_is_also_a_value_error() -> None:
    assert issubclass(AudioError, ValueError)


# A part at a time


@pytest.mark.parametrize("kind", WHOLE)
def test_the_parts_of_a_file_are_the_file(tmp_path: Path, kind: str) -> None:
    container, subtype = WHOLE[kind]
    path = tmp_path / f"sound.{kind}"
    long_tone(path, container, subtype, channels=2)
    channels, rate = audio.read_channels(path)
    header = audio.header(path)
    assert (header.channels, header.samples, header.sample_rate) == (*channels.shape, rate)
    assert (header.container, header.encoding) == (container, subtype)
    parts = list(audio.parts(path, 9_999))
    assert {part.shape[1] for part in parts[:-1]} == {9_999}
    torch.testing.assert_close(torch.cat(parts, dim=1), channels, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", WHOLE)
def test_the_parts_of_a_truncated_file_end_in_an_error(tmp_path: Path, kind: str) -> None:
    container, subtype = WHOLE[kind]
    path = tmp_path / f"sound.{kind}"
    content = long_tone(path, container, subtype)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match=re.escape(str(path))):
        list(audio.parts(path, 1000))


def test_a_file_without_samples_has_no_parts(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="holds no samples"):
        list(audio.parts(write(tmp_path / "a.wav", np.zeros(0)), 100))
