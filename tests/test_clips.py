"""Decoding once and for all, and cutting clips that hold what the files hold."""

from __future__ import annotations

import errno
import gc
import io
import multiprocessing
import os
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib import CourseError, audio
from course_lib.audio import AudioError
from course_lib.clips import ClipError, Clips
from course_lib.datasets import DatasetError, Recordings, decoded
from course_lib.datasets.decoded import LONGEST_CLIP_S, decode
from course_lib.environment import cache_folder

RATE = 1000
LENGTHS = (1, 40, 99, 100, 101, 250, 400)


def sounds(where: Path, lengths: tuple[int, ...] | list[int] = LENGTHS, seed: int = 0) -> Recordings:
    """Recordings of the given lengths (samples) full of noise, labelled 0, 1, 2, 0, ..."""
    where.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    rows = []
    for row, length in enumerate(lengths):
        path = where / f"{row}.wav"
        sf.write(path, random.integers(-32768, 32768, length, dtype=np.int16), RATE)
        rows.append((f"r{row}", str(path), row % 3, f"g{row}"))
    table = pd.DataFrame(rows, columns=["recording", "path", "label", "group"])
    return Recordings("noises", table, ("a", "b", "c"), RATE, "real")


@pytest.fixture
def noises(tmp_path: Path) -> Recordings:
    return sounds(tmp_path / "noises")


def cut(recordings: Recordings, seconds: float = 0.1, hop_seconds: float | None = None) -> Clips:
    return Clips.cut(recordings, seconds, hop_seconds, progress=False)


def everything(clips: Clips) -> torch.Tensor:
    return clips.batch(torch.arange(len(clips)))[0]


def cached() -> list[str]:
    return sorted(path.name for path in (cache_folder() / "decoded").iterdir())


# Decoding


def test_decoded_samples_are_those_of_the_files(noises: Recordings) -> None:
    all_of_them = decode(noises, progress=False)
    assert isinstance(all_of_them.samples, np.memmap) and all_of_them.samples.dtype == np.int16
    assert np.diff(all_of_them.offsets).tolist() == list(LENGTHS)
    for row, path in enumerate(noises.table["path"]):
        expected, _ = sf.read(path, dtype="int16")
        np.testing.assert_array_equal(
            all_of_them.samples[all_of_them.offsets[row] : all_of_them.offsets[row + 1]], expected
        )


def test_silence_as_long_as_the_longest_clip_ends_the_decoded_samples(noises: Recordings) -> None:
    all_of_them = decode(noises, progress=False)
    assert all_of_them.offsets[-1] == sum(LENGTHS)
    assert len(all_of_them.samples) == sum(LENGTHS) + LONGEST_CLIP_S * RATE
    assert not all_of_them.samples[sum(LENGTHS) :].any() and all_of_them.samples[sum(LENGTHS) - 1] != 0


def test_recordings_at_another_rate_are_resampled(noises: Recordings) -> None:
    halved = Recordings("noises", noises.table, noises.class_names, RATE // 2, "real")
    assert np.diff(decode(halved, progress=False).offsets).tolist() == [-(-length // 2) for length in LENGTHS]
    assert np.diff(decode(noises, progress=False).offsets).tolist() == list(LENGTHS)


def test_recordings_are_read_once(noises: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    first = decode(noises, progress=False)
    monkeypatch.setattr(audio, "read", lambda *_: pytest.fail("read again"))
    again = decode(noises, progress=False)
    assert first.fingerprint == again.fingerprint and np.array_equal(first.samples, again.samples)


def test_what_is_written_to_the_samples_never_reaches_the_cache(noises: Recordings) -> None:
    scribbled = decode(noises, progress=False).samples
    before = scribbled.copy()
    scribbled[:] = 0
    np.testing.assert_array_equal(decode(noises, progress=False).samples, before)


def test_a_changed_file_is_decoded_anew(noises: Recordings) -> None:
    before = decode(noises, progress=False)
    path = noises.table["path"][2]
    sf.write(path, np.full(LENGTHS[2], 77, dtype=np.int16), RATE)
    os.utime(path, (1, 1))
    after = decode(noises, progress=False)
    assert (after.samples[after.offsets[2] : after.offsets[3]] == 77).all()
    assert after.fingerprint != before.fingerprint


def test_the_fingerprint_is_of_names_and_samples_not_of_places(tmp_path: Path, noises: Recordings) -> None:
    fingerprint = decode(noises, progress=False).fingerprint
    assert decode(sounds(tmp_path / "elsewhere" / "deep"), progress=False).fingerprint == fingerprint
    assert decode(sounds(tmp_path / "other", seed=1), progress=False).fingerprint != fingerprint
    assert decode(noises.subset(np.arange(3)), progress=False).fingerprint != fingerprint
    renamed = noises.table.assign(recording=[f"x{row}" for row in range(len(noises))])
    other_names = Recordings("noises", renamed, noises.class_names, RATE, "real")
    assert decode(other_names, progress=False).fingerprint != fingerprint


def decode_after(start: Barrier, recordings: Recordings, found: SimpleQueue) -> None:
    start.wait(30)
    found.put(decode(recordings, progress=False).fingerprint)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs a system with fork")
def test_two_processes_may_decode_at_once(tmp_path: Path) -> None:
    recordings = sounds(tmp_path / "noises", [1000] * 200)
    fork = multiprocessing.get_context("fork")
    start, found = fork.Barrier(2), fork.SimpleQueue()
    both = [fork.Process(target=decode_after, args=(start, recordings, found)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert found.get() == found.get() == decode(recordings, progress=False).fingerprint
    assert len(cached()) == 1


def test_what_another_process_finished_first_is_taken(noises: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    read = audio.read

    def decode_it_elsewhere(*arguments: object) -> torch.Tensor:
        monkeypatch.setattr(audio, "read", read)
        decode(noises, progress=False)
        return read(*arguments)

    monkeypatch.setattr(audio, "read", decode_it_elsewhere)
    assert len(decode(noises, progress=False).offsets) == len(LENGTHS) + 1
    assert len(cached()) == 1


def test_a_bad_file_in_the_middle_leaves_nothing_behind(noises: Recordings) -> None:
    path = Path(noises.table["path"][3])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(AudioError, match=path.name):
        decode(noises, progress=False)
    assert cached() == []
    sounds(path.parent)
    assert len(decode(noises, progress=False).offsets) == len(LENGTHS) + 1


def test_a_file_that_has_gone_is_named(noises: Recordings) -> None:
    path = Path(noises.table["path"][3])
    path.unlink()
    with pytest.raises(DatasetError, match=f"{path.name} has gone"):
        decode(noises, progress=False)


def fail_as_full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def open_on_a_full_disk(*_: object) -> object:
    return type("Full", (io.BytesIO,), {"write": fail_as_full})()


@pytest.mark.parametrize(
    ("where", "name", "broken"),
    [
        (decoded, "open", open_on_a_full_disk),
        (np, "save", fail_as_full),
        (Path, "write_text", fail_as_full),
        (os, "mkdir", fail_as_full),
        (os, "fsync", fail_as_full),
    ],
    ids=["samples", "offsets", "about", "folder", "flush"],
)
def test_a_full_disk_is_one_clear_error_and_leaves_nothing_behind(
    noises: Recordings, monkeypatch: pytest.MonkeyPatch, where: object, name: str, broken: Callable[..., object]
) -> None:
    (cache_folder() / "decoded").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(where, name, broken, raising=False)
        with pytest.raises(DatasetError, match=r"cannot write .*No space left on device"):
            decode(noises, progress=False)
    assert cached() == []
    assert len(decode(noises, progress=False).offsets) == len(LENGTHS) + 1


def test_an_interrupt_leaves_nothing_behind(noises: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    read = audio.read

    def stop_in_the_middle(path: str, rate: int) -> torch.Tensor:
        if path == noises.table["path"][4]:
            raise KeyboardInterrupt
        return read(path, rate)

    monkeypatch.setattr(audio, "read", stop_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        decode(noises, progress=False)
    assert cached() == []


def test_a_cache_that_cannot_be_written_is_one_clear_error(noises: Recordings) -> None:
    (cache_folder() / "decoded").touch()
    with pytest.raises(DatasetError, match="COURSE_CACHE"):
        decode(noises, progress=False)


# Samples that 16 bits do not hold


def written(folder: Path, sounds: list[np.ndarray], subtype: str) -> Recordings:
    folder.mkdir()
    rows = []
    for row, sound in enumerate(sounds):
        sf.write(folder / f"{row}.wav", sound, RATE, subtype)
        rows.append((f"r{row}", str(folder / f"{row}.wav"), 0, f"g{row}"))
    table = pd.DataFrame(rows, columns=["recording", "path", "label", "group"])
    return Recordings("noises", table, ("a",), RATE, "real")


NOISE = np.random.default_rng(0).standard_normal(500)
CLICK = np.where(np.arange(500) == 250, 1.0, 1e-6 * NOISE)


@pytest.mark.parametrize(
    ("sound", "subtype"),
    [
        (3000 * NOISE, "FLOAT"),
        (np.sin(np.arange(500)) * 1.05, "FLOAT"),
        (1e-5 * NOISE, "PCM_24"),
        (1e-12 * NOISE, "DOUBLE"),
        (CLICK, "PCM_24"),
        (np.where(CLICK == 1, 30_000, 0.01 * NOISE), "FLOAT"),
    ],
    ids=["units of int16", "hot", "quiet", "hardly there", "click", "huge click"],
)
def test_clips_hold_what_the_file_holds(tmp_path: Path, sound: np.ndarray, subtype: str) -> None:
    recordings = written(tmp_path / "odd", [np.sin(np.arange(300)) / 2, sound, np.zeros(40)], subtype)
    assert decode(recordings, progress=False).samples.dtype == np.float32
    clips = cut(recordings, 0.5)
    waveforms, _ = clips.batch(torch.arange(3))
    assert waveforms.dtype == torch.float32
    for row in range(3):
        expected = audio.fix_length(recordings.waveform(row), 500)
        torch.testing.assert_close(waveforms[row], expected, atol=2e-5 if row == 0 else 0, rtol=0)
    joined = cut(sounds(tmp_path / "more", [500]), 0.5) + clips
    alone = cut(sounds(tmp_path / "more", [500]), 0.5)
    assert torch.equal(everything(joined), torch.cat([everything(alone), waveforms]))


def test_recordings_in_other_units_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    decode(written(tmp_path / "odd", [0.3 * NOISE, 3000 * NOISE], "FLOAT"), progress=False)
    assert "far beyond full scale" in caplog.text and "r1" in caplog.text and "r0" not in caplog.text


def test_loud_24_bit_recordings_take_16_bits(tmp_path: Path) -> None:
    recordings = written(tmp_path / "loud", [0.1 * NOISE, np.zeros(30)], "PCM_24")
    assert decode(recordings, progress=False).samples.dtype == np.int16


def test_a_preparation_that_gives_no_waveform_is_named(noises: Recordings) -> None:
    for broken in (np.nan, np.inf, None):
        with pytest.raises(AudioError, match=r"0\.wav: its preparation gives"):
            decode(replace(noises, preparation=Broken(broken)), progress=False)


class Broken:
    from_rate = sample_rate = RATE

    def __init__(self, factor: float | None) -> None:
        self.factor = factor

    def __call__(self, waveform: torch.Tensor) -> torch.Tensor:
        return waveform[:0] if self.factor is None else waveform * self.factor


# Damage


def overwrite(path: Path, position: int, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(position)
        file.write(content)


OFFSETS = np.cumsum([0, *LENGTHS])
DAMAGES: dict[str, Callable[[Path], object]] = {
    "samples emptied": lambda folder: os.truncate(folder / "samples.int16", 0),
    "samples cut": lambda folder: os.truncate(folder / "samples.int16", 501),
    "samples longer": lambda folder: os.truncate(folder / "samples.int16", 200_000),
    "samples gone": lambda folder: (folder / "samples.int16").unlink(),
    "a sample changed": lambda folder: overwrite(folder / "samples.int16", 1001, b"\x55"),
    "silence no longer silent": lambda folder: overwrite(folder / "samples.int16", 50_000, b"\1"),
    "a block of zeros": lambda folder: overwrite(folder / "samples.int16", 400, bytes(600)),
    "offsets emptied": lambda folder: os.truncate(folder / "offsets.npy", 0),
    "offsets cut": lambda folder: os.truncate(folder / "offsets.npy", 150),
    "offsets gone": lambda folder: (folder / "offsets.npy").unlink(),
    "offsets garbage": lambda folder: overwrite(folder / "offsets.npy", 10, b"(((((((("),
    "offsets too few": lambda folder: np.save(folder / "offsets.npy", OFFSETS[:-2]),
    "offsets shifted": lambda folder: np.save(folder / "offsets.npy", OFFSETS + (OFFSETS == 41)),
    "offsets descending": lambda folder: np.save(folder / "offsets.npy", OFFSETS[::-1].copy()),
    "offsets negative": lambda folder: np.save(folder / "offsets.npy", np.where(OFFSETS == 1, -1, OFFSETS)),
    "offsets of objects": lambda folder: np.save(folder / "offsets.npy", np.array([{}] * 8), allow_pickle=True),
    "about emptied": lambda folder: os.truncate(folder / "about.json", 0),
    "about {}": lambda folder: (folder / "about.json").write_text("{}"),
    "about of a list": lambda folder: (folder / "about.json").write_text("[1, 2]"),
    "about no text": lambda folder: (folder / "about.json").write_bytes(b"\xff\xfe"),
    "about another fingerprint": lambda folder: (folder / "about.json").write_text(
        '{"fingerprint": "0123456789abcdef", "dtype": "int16"}'
    ),
    "about another type": lambda folder: (folder / "about.json").write_text(
        (folder / "about.json").read_text().replace("int16", "../../x")
    ),
    "about gone": lambda folder: (folder / "about.json").unlink(),
    "all gone": lambda folder: [path.unlink() for path in folder.iterdir()],
    "a file for the folder": lambda folder: (shutil.rmtree(folder), folder.write_text("x")),
    "a broken link for the folder": lambda folder: (shutil.rmtree(folder), folder.symlink_to("nowhere")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_heals(noises: Recordings, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    whole = decode(noises, progress=False)
    expected = (np.array(whole.samples).tobytes(), whole.offsets.tolist(), whole.fingerprint)
    del whole
    (name,) = cached()
    DAMAGES[damage](cache_folder() / "decoded" / name)
    healed = decode(noises, progress=False)
    assert (np.array(healed.samples).tobytes(), healed.offsets.tolist(), healed.fingerprint) == expected
    assert cached() == [name] and "is damaged and is made anew" in caplog.text


def test_the_samples_are_compared_with_their_digest_once(noises: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    decode(noises, progress=False)
    monkeypatch.setattr(decoded, "_verified", set())  # as in another process
    decode(noises, progress=False)
    monkeypatch.setattr(decoded, "_fingerprint", lambda *_: pytest.fail("hashed again"))
    decode(noises, progress=False)


def test_a_damaged_cache_that_cannot_be_removed_is_named(noises: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    decode(noises, progress=False)
    (name,) = cached()
    (cache_folder() / "decoded" / name / "about.json").write_text("")
    monkeypatch.setattr(os, "rename", fail_as_full)
    with pytest.raises(DatasetError, match=f"{name} is damaged and cannot be removed .*delete it"):
        decode(noises, progress=False)


def test_a_cache_that_cannot_be_read_for_now_is_left_alone(noises: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    decode(noises, progress=False)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(np, "memmap", fail)
        with pytest.raises(DatasetError, match=r"cannot be read .*Too many open files.*delete it"):
            decode(noises, progress=False)
    monkeypatch.setattr(audio, "read", lambda *_: pytest.fail("read again"))
    decode(noises, progress=False)


def test_nothing_is_written_where_a_cache_is_there(noises: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    decode(noises, progress=False)
    for name in ("mkdir", "rename", "replace"):
        monkeypatch.setattr(os, name, fail_as_full)
    assert len(decode(noises, progress=False).offsets) == len(LENGTHS) + 1


@pytest.mark.parametrize("name", ["x" * 255, "é" * 120, "cafe/restaurant", "../up", ".hidden", "a\0b", "\udcff", "..."])
def test_any_name_of_a_data_set_can_be_cached(noises: Recordings, name: str) -> None:
    recordings = replace(noises)
    object.__setattr__(recordings, "name", name)  # whatever a data set may be called
    assert len(decode(recordings, progress=False).offsets) == len(LENGTHS) + 1
    (folder,) = cached()
    assert not folder.startswith(".") and len(list(cache_folder().iterdir())) == 1


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_the_cache_is_for_all_whom_the_umask_allows(noises: Recordings) -> None:
    before = os.umask(0o022)
    try:
        decode(noises, progress=False)
    finally:
        os.umask(before)
    (name,) = cached()
    folder = cache_folder() / "decoded" / name
    assert folder.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}


# Cutting


@settings(max_examples=20)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=6),
    seconds=st.integers(1, 200).map(lambda samples: samples / RATE),
    hop=st.none() | st.integers(1, 150),
)
def test_clips_are_what_reading_and_cutting_the_files_gives(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], seconds: float, hop: int | None
) -> None:
    recordings = sounds(tmp_path_factory.mktemp("noises"), lengths)
    clips = cut(recordings, seconds, None if hop is None else hop / RATE)
    samples = round(seconds * RATE)
    expected, labels, rows = [], [], []
    for row, path in enumerate(recordings.table["path"]):
        waveform = audio.read(path)
        starts = [0] if hop is None else [0, *range(hop, len(waveform) - samples + 1, hop)]
        expected += [audio.fix_length(waveform[start:], samples) for start in starts]
        labels += [row % 3] * len(starts)
        rows += [row] * len(starts)
    waveforms, targets = clips.batch(torch.arange(len(clips)))
    assert waveforms.dtype == torch.float32 and waveforms.abs().max() <= 1
    assert torch.equal(waveforms, torch.stack(expected))
    assert targets.dtype == torch.int64 and targets.tolist() == labels
    assert clips.recording.tolist() == rows
    shutil.rmtree(Path(path).parent)


def test_a_recording_without_hop_is_one_clip(noises: Recordings) -> None:
    clips = cut(noises, 0.1)
    assert len(clips) == len(noises)
    assert (clips.clip_samples, clips.sample_rate) == (100, RATE)
    assert clips.length.tolist() == [min(length, 100) for length in LENGTHS]


def test_a_hop_gives_a_clip_for_as_long_as_one_fits(noises: Recordings) -> None:
    clips = cut(noises, 0.1, hop_seconds=0.05)
    assert torch.bincount(clips.recording).tolist() == [1, 1, 1, 1, 1, 4, 7]


def test_a_clip_of_the_last_recording_may_be_the_longest_there_is(noises: Recordings) -> None:
    clips = cut(noises, LONGEST_CLIP_S)
    last = clips.batch(torch.tensor([6]))[0][0]
    assert last.shape == (LONGEST_CLIP_S * RATE,) and not last[400:].any()
    assert torch.equal(last[:400], audio.read(noises.table["path"][6]))
    ends_with_a_single_sample = sounds(Path(noises.table["path"][0]).parent / "more", [5, 1])
    (_, single), _ = cut(ends_with_a_single_sample, LONGEST_CLIP_S).batch(torch.arange(2))
    assert single[0] != 0 and not single[1:].any()


@pytest.mark.parametrize("seconds", [LONGEST_CLIP_S + 0.001, 1e9])
def test_longer_clips_are_refused(noises: Recordings, seconds: float) -> None:
    with pytest.raises(ClipError, match=f"from one sample to {LONGEST_CLIP_S} s, not"):
        cut(noises, seconds)


def test_a_batch_is_a_copy(noises: Recordings) -> None:
    clips = cut(noises)
    before = everything(clips)
    clips.batch(torch.tensor([5, 6]))[0].fill_(7)
    assert torch.equal(everything(clips), before)


def test_joined_clips_may_run_beyond_the_end_of_the_first_audio(tmp_path: Path, noises: Recordings) -> None:
    joined = cut(noises, 2.0) + cut(sounds(tmp_path / "more", [30], seed=1), 2.0)
    waveforms = joined.batch(torch.tensor([6, 7]))[0]
    assert torch.equal(waveforms[0, :400], audio.read(noises.table["path"][6])) and not waveforms[0, 400:].any()
    assert (waveforms[1, :30] != 0).any() and not waveforms[1, 30:].any()


INFINITE = float("inf")


@pytest.mark.parametrize(
    ("seconds", "hop"),
    [
        *((seconds, None) for seconds in (0.0, 0.0004, -1, 1e-5, INFINITE, -INFINITE, float("nan"))),
        *((0.1, hop) for hop in (0.0, 0.0001, -0.1, 1e-6, INFINITE, float("nan"))),
    ],
)
def test_clips_and_hops_that_cannot_be_cut_are_refused(noises: Recordings, seconds: float, hop: float | None) -> None:
    with pytest.raises(ClipError, match=f"a {'clip' if hop is None else 'hop'} of .* one sample"):
        cut(noises, seconds, hop)
    assert issubclass(ClipError, CourseError) and issubclass(ClipError, ValueError)


def test_a_hop_of_no_sample_between_given_starts_is_refused(noises: Recordings) -> None:
    with pytest.raises(ValueError, match="is under one sample"):
        Clips.cut(noises, 0.1, 0.0001, progress=False, starts=[np.array([0, 1])] * len(noises.table))


def test_a_batch_of_nothing_has_the_shape_of_a_batch(noises: Recordings) -> None:
    waveforms, labels = cut(noises).batch(torch.empty(0, dtype=torch.int64))
    assert waveforms.shape == (0, 100) and waveforms.dtype == torch.float32
    assert labels.shape == (0,) and labels.dtype == torch.int64


def test_a_batch_follows_the_index_in_any_order_and_twice(noises: Recordings) -> None:
    clips = cut(noises)
    index = torch.tensor([5, 0, 5, 6])
    waveforms, labels = clips.batch(index)
    assert torch.equal(waveforms, everything(clips)[index])
    assert torch.equal(labels, clips.labels[index])


@pytest.mark.parametrize(
    "index",
    [
        torch.tensor([6, 1]),
        np.array([6, 1]),
        slice(2, 5),
        torch.tensor([0, 1, 0, 1, 1, 0, 0], dtype=torch.bool),
        np.array([0, 1, 0, 1, 1, 0, 0], dtype=bool),
        torch.empty(0, dtype=torch.int64),
    ],
    ids=["tensor", "array", "slice", "mask", "array mask", "nothing"],
)
def test_picked_clips_share_the_audio(noises: Recordings, index: torch.Tensor | np.ndarray | slice) -> None:
    clips = cut(noises)
    picked = clips[index]
    index = torch.from_numpy(index) if isinstance(index, np.ndarray) else index
    assert torch.equal(everything(picked), everything(clips)[index])
    assert torch.equal(picked.recording, clips.recording[index])
    assert torch.equal(picked.labels, clips.labels[index])
    assert torch.equal(picked.groups, clips.groups[index])
    assert picked.samples.data_ptr() == clips.samples.data_ptr()


def test_every_clip_knows_its_group(noises: Recordings) -> None:
    groups = ["theo", "ann", "theo", "bob", "ann", "bob", "theo"]
    clips = cut(replace(noises, table=noises.table.assign(group=groups)), 0.1, hop_seconds=0.05)
    assert clips.group_names == ("ann", "bob", "theo") and clips.groups.dtype == torch.int64
    assert [clips.group_names[number] for number in clips.groups] == [groups[row] for row in clips.recording]
    assert clips.to("cpu").groups.tolist() == clips.groups.tolist()


def test_the_clips_of_some_recordings(noises: Recordings) -> None:
    clips = cut(noises, 0.1, hop_seconds=0.05)
    chosen = clips.of_recordings(np.array([6, 1]))
    assert chosen.recording.tolist() == [1] + [6] * 7
    assert torch.equal(everything(chosen), everything(clips)[[1, *range(9, 16)]])
    assert len(clips.of_recordings(np.array([], dtype=int))) == 0


def test_joined_clips_are_those_of_both(tmp_path: Path, noises: Recordings) -> None:
    first, second = cut(noises), cut(sounds(tmp_path / "more", [30, 120], seed=1), 0.1, 0.01)
    joined = first + second
    assert len(joined) == len(first) + len(second)
    assert torch.equal(everything(joined), torch.cat([everything(first), everything(second)]))
    assert torch.equal(joined.labels, torch.cat([first.labels, second.labels]))
    assert joined.recording.tolist() == [*range(7), 7, 8, 8, 8]
    names = [joined.group_names[number] for number in joined.groups]
    assert names == [clips.group_names[number] for clips in (first, second) for number in clips.groups]
    assert joined.samples is not first.samples
    assert first.fingerprint in joined.fingerprint and second.fingerprint in joined.fingerprint
    assert (second + first).fingerprint != joined.fingerprint


def test_the_fingerprint_is_of_all_that_is_learnt_from(tmp_path: Path, noises: Recordings) -> None:
    table = noises.table
    same = [noises, sounds(tmp_path / "elsewhere"), replace(noises, source="stand-in", name="other")]
    others = [
        sounds(tmp_path / "other", seed=1),
        noises.subset(np.arange(6)),
        noises.subset(np.arange(7)[::-1]),
        replace(noises, table=table.assign(label=(table["label"] + 1) % 3)),
        replace(noises, table=table.assign(group="g0")),
        replace(noises, table=table.assign(recording=[f"x{row}" for row in range(7)])),
        replace(noises, class_names=("a", "b", "d")),
        replace(noises, class_names=("a", "b", "c", "d")),
        replace(noises, sample_rate=RATE // 2),
    ]
    assert len({cut(each).fingerprint for each in same}) == 1
    assert len({cut(each).fingerprint for each in [noises, *others]}) == 1 + len(others)
    assert len(cut(noises).fingerprint) == 16


def test_starts_may_be_computed_from_what_was_decoded(noises: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def starts(recordings: Recordings, progress: bool, decoded: decoded.Decoded) -> list[np.ndarray]:
        calls.append((recordings, progress))
        return [np.array([max(0, length - 100)]) for length in np.diff(decoded.offsets)]

    clips = Clips.cut(noises, 0.1, progress=False, starts=starts)
    assert calls == [(noises, False)] or calls[0][0] is noises
    assert torch.equal(clips.batch(torch.tensor([6]))[0][0], audio.read(noises.table["path"][6])[-100:])


def test_joined_clips_of_the_same_audio_share_it(noises: Recordings) -> None:
    clips = cut(noises)
    joined = clips[:2] + clips[5:]
    assert joined.samples is clips.samples
    assert torch.equal(everything(joined), everything(clips)[[0, 1, 5, 6]])
    assert joined.group_names == 2 * clips.group_names and joined.recording.tolist() == [0, 1, 7, 8]


@pytest.mark.parametrize(
    ("budget", "sizes"), [(100, [1] * 7), (250, [2, 2, 2, 1]), (10**9, [7]), (1, [1] * 7), (700, [7])]
)
def test_batches_are_bounded_by_their_samples(noises: Recordings, budget: int, sizes: list[int]) -> None:
    clips = cut(noises)
    batches = list(clips.index_batches(budget))
    assert [len(batch) for batch in batches] == sizes and torch.cat(batches).tolist() == list(range(7))
    assert torch.cat([clips.batch(batch)[0] for batch in batches]).equal(everything(clips))
    assert all(len(batch) == 0 for batch in clips[:0].index_batches())


def test_clips_on_a_device_share_their_audio_and_let_go_of_it(noises: Recordings) -> None:
    clips = cut(noises)
    first, second = clips.to("meta"), clips[:3].to("meta")
    assert first.samples.is_meta and first.samples is second.samples and first.to("meta").samples is first.samples
    gone = weakref.ref(first.samples)
    del first, second
    gc.collect()
    assert gone() is None and clips.to("meta").samples.is_meta


def test_joining_a_part_keeps_the_recordings_apart(noises: Recordings) -> None:
    clips = cut(noises)
    joined = clips[torch.tensor([5, 2])] + clips
    assert len(joined.recording.unique()) == 2 + len(noises)
    nothing = clips[:0] + clips
    assert torch.equal(everything(nothing), everything(clips))
    assert torch.equal(nothing.recording, clips.recording)
    assert torch.equal(everything(clips + clips[:0]), everything(clips))


def test_clips_of_different_length_or_rate_cannot_be_joined(noises: Recordings) -> None:
    slower = Recordings("noises", noises.table, noises.class_names, RATE // 2, "real")
    for other in (cut(noises, 0.2), cut(slower, 0.2)):
        with pytest.raises(ValueError, match="cannot be joined"):
            cut(noises) + other


def test_moving_to_the_processor_changes_nothing(noises: Recordings) -> None:
    clips = cut(noises)
    assert torch.equal(everything(clips.to("cpu")), everything(clips))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graphics_card_gives_the_same_batches(noises: Recordings) -> None:
    clips = cut(noises)
    for keep_free in (0.5, 1.0):  # the audio moves along, or stays behind
        moved = clips.to("cuda", keep_free)
        waveforms, labels = moved.batch(torch.arange(len(clips), device="cuda"))
        assert waveforms.is_cuda and labels.is_cuda
        assert moved.samples.is_cuda == (keep_free == 0.5)
        assert torch.equal(waveforms.cpu(), everything(clips))


def test_the_real_recordings_are_cut_as_read(real_data: Path) -> None:
    from course_lib.datasets import load

    recordings = load("fsdd", "real").subset(np.arange(0, 3000, 300))
    waveforms, labels = cut(recordings, 1.0).batch(torch.arange(10))
    assert labels.tolist() == list(range(10))
    for row, waveform in enumerate(waveforms):
        assert torch.equal(waveform, audio.fix_length(recordings.waveform(row), 8000))
