"""Checking a data set tells what is wrong with it, and never fails on it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from course_lib import audio
from course_lib.__main__ import main
from course_lib.datasets import Recordings, fsdd, load
from course_lib.datasets.check import check, counts, fingerprint, write_manifest
from course_lib.datasets.clipping import Tops
from course_lib.datasets.dataset import Dataset
from course_lib.datasets.recordings import DatasetError

NAMES = [f"{digit}_{speaker}_{take}" for digit in range(2) for speaker in ("ann", "bob") for take in range(5)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty short recordings in the published layout, in their place in `COURSE_DATA`."""
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "data"))
    folder = tmp_path / "data" / "tiny"
    (folder / "recordings").mkdir(parents=True)
    noise = np.random.default_rng(0)
    for name in NAMES:
        sf.write(sound(folder, name), noise.uniform(-0.5, 0.5, 200), 8000, subtype="PCM_16")
    return folder


@pytest.fixture
def tiny(folder: Path, tmp_path: Path) -> Dataset:
    dataset = Dataset(
        name="tiny",
        title="Tiny Digits",
        licence="CC0",
        citation="",
        archives=(),
        inside="",
        megabytes=1,
        sample_rate=8000,
        protocols=(),
        class_counts={"0": 10, "1": 10},
        manifest=tmp_path / "tiny.sha256",
        read=fsdd.read,
        write_stand_in=lambda *_, **__: None,
    )
    write_manifest(dataset, folder, dataset.manifest)
    return dataset


def sound(folder: Path, name: str) -> Path:
    return folder / "recordings" / f"{name}.wav"


def test_the_published_recordings_pass(tiny: Dataset, folder: Path, tmp_path: Path) -> None:
    assert check(tiny, progress=False) == []
    shutil.move(folder, tmp_path / "elsewhere")
    assert check(tiny, tmp_path / "elsewhere", progress=False) == []


def test_another_lossless_format_passes(tiny: Dataset, folder: Path) -> None:
    path = sound(folder, "0_ann_0")
    samples, rate = sf.read(path, dtype="int16")
    sf.write(path.with_suffix(".flac"), samples, rate, subtype="PCM_16")
    path.unlink()
    assert check(tiny, progress=False) == []


def test_the_manifest_is_sorted_and_repeatable(tiny: Dataset, folder: Path, tmp_path: Path) -> None:
    lines = tiny.manifest.read_text().splitlines()
    assert [line.split("  ")[1:] for line in lines] == [[name[0], name] for name in sorted(NAMES)]
    assert all(len(line.split("  ")[0]) == 16 for line in lines)
    write_manifest(tiny, folder, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == tiny.manifest.read_bytes()


def test_the_fingerprint_is_that_of_the_int16_samples() -> None:
    # The first 16 digits of: printf '\x00\x80\x00\x00\x01\x00\xff\x7f' | sha256sum
    assert fingerprint(torch.tensor([-32768, 0, 1, 32767]) / 32768) == "3945eedc4ab6f95e"


def test_a_missing_folder(tiny: Dataset, folder: Path) -> None:
    shutil.rmtree(folder)
    (problem,) = check(tiny, progress=False)
    assert str(folder) in problem and "data fetch tiny" in problem


def test_an_empty_folder(tiny: Dataset, folder: Path) -> None:
    shutil.rmtree(folder / "recordings")
    (problem,) = check(tiny, progress=False)
    assert "no recordings found" in problem


def test_a_name_that_breaks_the_layout(tiny: Dataset, folder: Path) -> None:
    sound(folder, "0_ann_0").rename(sound(folder, "zero by ann"))
    (problem,) = check(tiny, progress=False)
    assert "recordings/zero by ann.wav is not named" in problem.replace("\\", "/")


def test_a_missing_recording(tiny: Dataset, folder: Path) -> None:
    sound(folder, "1_bob_3").unlink()
    assert check(tiny, progress=False) == [
        "19 recordings instead of 20",
        "class 1 has 9 recordings instead of 10",
        "1 missing: 1_bob_3",
    ]


def test_an_unknown_recording(tiny: Dataset, folder: Path) -> None:
    shutil.copy(sound(folder, "0_ann_0"), sound(folder, "7_cat_0"))
    assert check(tiny, progress=False) == [
        "21 recordings instead of 20",
        "class 7 has 1 recordings instead of 0",
        "1 unknown: 7_cat_0",
    ]


def test_one_changed_sample(tiny: Dataset, folder: Path) -> None:
    path = sound(folder, "0_bob_2")
    samples, rate = sf.read(path, dtype="int16")
    samples[100] += 1
    sf.write(path, samples, rate, subtype="PCM_16")
    assert check(tiny, progress=False) == ["1 different from the published ones: 0_bob_2"]


def test_a_wrong_sample_rate(tiny: Dataset, folder: Path) -> None:
    path = sound(folder, "0_ann_4")
    samples, _ = sf.read(path, dtype="int16")
    sf.write(path, samples, 16000, subtype="PCM_16")
    assert check(tiny, progress=False) == ["1 not at 8000 Hz: 0_ann_4 (16000 Hz)"]


@pytest.mark.parametrize("size", [0, 10, 44, 300])
def test_a_truncated_file(size: int, tiny: Dataset, folder: Path) -> None:
    path = sound(folder, "1_ann_1")
    path.write_bytes(path.read_bytes()[:size])
    (problem,) = check(tiny, progress=False)
    assert problem.startswith("1 unreadable: ")
    assert path.name in problem and str(folder) not in problem


@pytest.mark.parametrize("ending", [".wav", ".flac"])
def test_any_damaged_byte_is_found_or_harmless(ending: str, tiny: Dataset, folder: Path) -> None:
    path = sound(folder, "1_ann_1")
    samples, rate = sf.read(path, dtype="int16")
    path.unlink()
    path = path.with_suffix(ending)
    sf.write(path, samples, rate, subtype="PCM_16")
    intact = path.read_bytes()
    for position in range(0, 60, 2):
        damaged = bytearray(intact)
        damaged[position] ^= 0xFF
        path.write_bytes(bytes(damaged))
        problems = check(tiny, progress=False)
        assert all("1_ann_1" in problem for problem in problems)


def test_a_header_that_promises_terabytes(tiny: Dataset, folder: Path) -> None:
    path = sound(folder, "1_ann_1")
    samples, rate = sf.read(path, dtype="int16")
    path.unlink()
    path = path.with_suffix(".flac")
    sf.write(path, samples, rate, subtype="PCM_16")
    damaged = bytearray(path.read_bytes())
    damaged[21] |= 0x0F  # the highest bits of the number of samples
    path.write_bytes(bytes(damaged))
    (problem,) = check(tiny, progress=False)
    assert problem.startswith("1 unreadable: ")


def test_flat_and_short_recordings_are_told_apart(tiny: Dataset, folder: Path) -> None:
    sf.write(sound(folder, "0_ann_1"), np.full(200, 0.25), 8000, subtype="PCM_16")
    sf.write(sound(folder, "0_bob_1"), np.linspace(0, 0.5, 160), 8000, subtype="PCM_16")
    write_manifest(tiny, folder, tiny.manifest)
    assert check(tiny, progress=False) == ["1 flat lines: 0_ann_1"]
    assert check(replace(tiny, shortest_s=0.025), progress=False) == [
        "1 flat lines: 0_ann_1",
        "1 shorter than 0.025 s: 0_bob_1 (0.02 s)",
    ]


def test_things_that_are_not_files(tiny: Dataset, folder: Path) -> None:
    sound(folder, "1_ann_1").unlink()
    sound(folder, "1_ann_1").mkdir()
    assert check(tiny, progress=False)[-1] == "1 missing: 1_ann_1"
    sound(folder, "1_ann_2").unlink()
    sound(folder, "1_ann_2").symlink_to(folder / "nowhere")
    (problem,) = check(tiny, progress=False)
    assert "links that lead nowhere: 1_ann_2.wav" in problem


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_no_file(tiny: Dataset, folder: Path) -> None:
    sound(folder, "1_ann_2").unlink()
    os.mkfifo(sound(folder, "1_ann_2"))
    (problem,) = check(tiny, progress=False)
    assert "1_ann_2.wav is no file" in problem


def test_long_lists_are_cut_after_ten(tiny: Dataset, folder: Path) -> None:
    for name in NAMES[:13]:
        sf.write(sound(folder, name), np.linspace(0, 0.5, 50), 8000, subtype="PCM_16")
    (problem,) = check(tiny, progress=False)
    assert problem == f"13 different from the published ones: {', '.join(NAMES[:10])} and 3 more"


@pytest.mark.parametrize("content", [None, "nonsense\n"])
def test_a_manifest_that_cannot_be_used(content: str | None, tiny: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "bad.sha256"
    if content is not None:
        path.write_text(content)
    (problem,) = check(replace(tiny, manifest=path), progress=False)
    assert str(path) in problem


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of one's own sounds: three of each of two classes, in two groups."""
    noise = np.random.default_rng(1)
    for label in ("cat", "dog"):
        for group, number in (("rex", 1), ("rex", 2), ("tom", 3)):
            path = tmp_path / "own" / label / group / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            sf.write(path, noise.uniform(-0.5, 0.5, 400), 8000, subtype="PCM_16")
    return tmp_path / "own"


def test_ones_own_sounds_that_are_in_order_pass(own: Path) -> None:
    assert check(str(own), progress=False) == []


def test_everything_that_is_wrong_with_ones_own_sounds_is_listed(own: Path) -> None:
    noise = np.random.default_rng(2)
    sf.write(own / "cat" / "tom" / "flat.wav", np.zeros(400), 8000)
    sf.write(own / "cat" / "tom" / "flat too.wav", np.zeros(400), 8000)
    sf.write(own / "cat" / "tom" / "loud.wav", np.clip(noise.normal(0, 2, 400), -1, 1), 8000)
    sf.write(own / "dog" / "tom" / "fast.wav", noise.uniform(-0.5, 0.5, 400), 16000)
    samples, rate = sf.read(own / "cat" / "rex" / "1.wav", dtype="int16")
    sf.write(own / "dog" / "rex" / "copy of 1.flac", samples, rate)
    (own / "dog" / "rex" / "nonsense.wav").write_bytes(b"nonsense" * 9)
    path = own / "dog" / "rex" / "long.flac"
    sf.write(path, noise.uniform(-0.5, 0.5, 4000), 8000)
    path.write_bytes(path.read_bytes()[:3000])
    sf.write(own / "dog" / "tom" / "loud beat.wav", np.where(np.arange(4000) == 7, 1.0, 0.01), 8000)  # not clipped
    unreadable, *others = check(str(own), progress=False)
    assert unreadable.startswith("1 unreadable: ") and "nonsense.wav" in unreadable
    assert others[1].startswith("1 unreadable: dog/rex/long.flac (")
    assert [others[0], *others[2:]] == [
        "1 not at 8000 Hz: dog/tom/fast.wav (16000 Hz)",
        "2 flat lines: cat/tom/flat too.wav, cat/tom/flat.wav",
        "1 clipped: cat/tom/loud.wav",
        "1 there under several names: cat/rex/1.wav = dog/rex/copy of 1.flac",
    ]


@pytest.mark.parametrize("make", [lambda own: own / "nowhere", lambda own: own / "cat" / "rex" / "1.wav"])
def test_no_folder_to_check(make: Callable[[Path], Path], own: Path) -> None:
    with pytest.raises(DatasetError, match="no data set or folder"):
        check(str(make(own)), progress=False)


def test_a_folder_without_classes_has_one_problem(own: Path) -> None:
    (problem,) = check(str(own / "cat" / "rex"), progress=False)
    assert "class folders" in problem


def test_the_counts_of_classes_and_groups(own: Path) -> None:
    listed: list[Recordings] = []
    check(str(own), progress=False, show=listed.append)
    table = counts(listed[0])
    assert table.columns.tolist() == ["cat", "dog"] and table.index.tolist() == ["rex", "tom", "all"]
    assert table.to_numpy().tolist() == [[2, 2], [1, 1], [3, 3]]
    for number in range(30):
        shutil.copy(own / "cat" / "rex" / "1.wav", own / "cat" / f"{number}.wav")
    assert counts(load(own)).to_numpy().tolist() == [[33, 3]]


def test_checking_on_the_command_line(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(own)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:4]] == [["rex", "2", "2"], ["tom", "1", "1"], ["all", "3", "3"]]
    (own / "dog" / "rex" / "1.wav").write_bytes(b"")
    assert main(["data", "check", str(own)]) == 1
    assert "1 unreadable" in capsys.readouterr().out


def samples_of(kind: str) -> np.ndarray:
    """Half a second at 44.1 kHz in [-1, 1]: the loudest that each kind of sound can be without or with its tops cut."""
    time, noise = np.arange(22_050) / 44_100, np.random.default_rng(3).normal(0, 1, 22_050)
    hum = np.convolve(noise, np.hanning(40), "same")
    return {
        "bass": 0.99 * np.sin(2 * np.pi * 50 * time),
        "tone": 0.99 * np.sin(2 * np.pi * 11_025 / 2 * time),
        "speech": 0.99 * hum / np.abs(hum).max(),
        "noise": np.clip(noise / np.abs(noise).max(), -1, 1),
        "speech, cut off": np.clip(2 * hum / np.abs(hum).max(), -1, 1),
        "bass, cut off": np.clip(1.3 * np.sin(2 * np.pi * 50 * time), -1, 1),
        "noise, cut off": np.clip(noise, -1, 1),
    }[kind]


@pytest.mark.parametrize(
    "kind", ["bass", "tone", "speech", "noise", "speech, cut off", "bass, cut off", "noise, cut off"]
)
@pytest.mark.parametrize("encoding", ["PCM_16", "PCM_U8", "FLOAT", "ULAW", "VORBIS", "MPEG_LAYER_III"])
def test_clipped_is_what_has_its_tops_cut_off(tmp_path: Path, kind: str, encoding: str) -> None:
    containers = {"VORBIS": "OGG", "MPEG_LAYER_III": "MP3"}
    path, samples = tmp_path / "sound", samples_of(kind)
    if encoding in containers and "cut off" not in kind:
        samples = 0.9 * samples  # or the coding itself would lead beyond full scale
    sf.write(path, samples, 44_100, encoding, format=containers.get(encoding, "WAV"))
    tops = Tops(encoding)
    for part in audio.parts(path, 4_000):
        tops.add(part.numpy())
    assert tops.clipped == ("cut off" in kind)


def test_an_unknown_name() -> None:
    with pytest.raises(DatasetError, match="fsdd"):
        check("no such data set")


def test_the_real_spoken_digits_pass(real_data: Path) -> None:
    assert check("fsdd", real_data, progress=False) == []
