"""Decoding once and for all, and cutting clips that hold what the files hold."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
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

from course_lib import audio
from course_lib.audio import AudioError
from course_lib.clips import Clips
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


def kept() -> list[str]:
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
    assert len(kept()) == 1


def test_what_another_process_finished_first_is_taken(noises: Recordings, monkeypatch: pytest.MonkeyPatch) -> None:
    read = audio.read

    def decode_it_elsewhere(*arguments: object) -> torch.Tensor:
        monkeypatch.setattr(audio, "read", read)
        decode(noises, progress=False)
        return read(*arguments)

    monkeypatch.setattr(audio, "read", decode_it_elsewhere)
    assert len(decode(noises, progress=False).offsets) == len(LENGTHS) + 1
    assert len(kept()) == 1


def test_a_bad_file_in_the_middle_leaves_nothing_behind(noises: Recordings) -> None:
    path = Path(noises.table["path"][3])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(AudioError, match=path.name):
        decode(noises, progress=False)
    assert kept() == []
    sounds(path.parent)
    assert len(decode(noises, progress=False).offsets) == len(LENGTHS) + 1


def test_a_file_that_has_gone_is_named(noises: Recordings) -> None:
    path = Path(noises.table["path"][3])
    path.unlink()
    with pytest.raises(DatasetError, match=f"{path.name} has gone"):
        decode(noises, progress=False)


def fail_as_full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def open_on_a_full_disk(*arguments: object) -> object:
    file = open(*arguments)  # noqa: SIM115
    full = type(
        "Full", (), {"__enter__": lambda self: self, "__exit__": lambda *_: file.close(), "write": fail_as_full}
    )
    return full()


@pytest.mark.parametrize(
    ("where", "name", "broken"),
    [
        (decoded, "open", open_on_a_full_disk),
        (np, "save", fail_as_full),
        (Path, "write_text", fail_as_full),
        (decoded.tempfile, "mkdtemp", fail_as_full),
    ],
    ids=["samples", "offsets", "about", "folder"],
)
def test_a_full_disk_is_one_clear_error_and_leaves_nothing_behind(
    noises: Recordings, monkeypatch: pytest.MonkeyPatch, where: object, name: str, broken: Callable[..., object]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(where, name, broken, raising=False)
        with pytest.raises(DatasetError, match=r"cannot write .*No space left on device"):
            decode(noises, progress=False)
    assert kept() == []
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
    assert kept() == []


def test_a_cache_that_cannot_be_written_is_one_clear_error(
    tmp_path: Path, noises: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DatasetError, match="COURSE_CACHE"):
        decode(noises, progress=False)


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
    assert clips.fingerprint == decode(noises, progress=False).fingerprint


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
    with pytest.raises(ValueError, match=f"from one sample to {LONGEST_CLIP_S} s, not"):
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


@pytest.mark.parametrize(("seconds", "hop"), [(0.0, None), (0.0004, None), (-1, None), (0.1, 0.0), (0.1, 0.0001)])
def test_clips_and_hops_of_no_sample_are_refused(noises: Recordings, seconds: float, hop: float | None) -> None:
    with pytest.raises(ValueError, match="sample"):
        cut(noises, seconds, hop)


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
    assert first.fingerprint in joined.fingerprint and second.fingerprint in joined.fingerprint
    assert (second + first).fingerprint != joined.fingerprint


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
