"""Copies of one recording under several names are found, named, and never on both sides of a split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from course_lib.clips import Clips
from course_lib.datasets import DatasetError, Recordings, load, splits
from course_lib.datasets.decoded import copies


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Six different sounds of one length, one class and one group each."""
    noise = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "pets" / label).mkdir(parents=True)
        for number in range(3):
            sf.write(tmp_path / "pets" / label / f"{number}.wav", noise.uniform(-0.5, 0.5, 1000), 8000, "PCM_16")
    return tmp_path / "pets"


def as_flac(sound: Path, copy: Path) -> None:
    sf.write(copy.with_suffix(".flac"), sf.read(sound, dtype="int16")[0], 8000, "PCM_16")


def as_two_channels(sound: Path, copy: Path) -> None:
    sf.write(copy, np.tile(sf.read(sound, dtype="int16")[0][:, None], 2), 8000, "PCM_16")


def as_link(sound: Path, copy: Path) -> None:
    copy.symlink_to(sound)


@pytest.mark.parametrize("copied", [as_flac, as_two_channels, as_link])
@pytest.mark.parametrize("label", ["cat", "dog"])
def test_a_copy_is_found(
    pets: Path, copied: Callable[[Path, Path], None], label: str, caplog: pytest.LogCaptureFixture
) -> None:
    copied(pets / "cat" / "1.wav", pets / label / "copy of 1.wav")
    recordings = load(pets)
    (same,) = copies(recordings)
    assert same[0] == "cat/1.wav" and same[1].startswith(f"{label}/copy of 1.")
    Clips.cut(recordings, 0.1, progress=False)
    assert "pets holds one recording under several names" in caplog.text
    assert " = ".join(same) in caplog.text


def test_what_is_nearly_alike_is_no_copy(pets: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples, rate = sf.read(pets / "cat" / "1.wav", dtype="int16")
    sf.write(pets / "cat" / "shorter.wav", samples[:-1], rate, "PCM_16")
    samples[501] += 1
    sf.write(pets / "cat" / "other.wav", samples, rate, "PCM_16")
    for number in range(2):
        sf.write(pets / "dog" / f"silence {number}.wav", np.zeros(1000), rate, "PCM_16")
    recordings = load(pets)
    assert copies(recordings) == []
    Clips.cut(recordings, 0.1, progress=False)
    assert not caplog.records


def test_a_split_with_copies_on_both_sides_is_refused(pets: Path) -> None:
    as_flac(pets / "cat" / "1.wav", pets / "cat" / "x.wav")
    recordings = load(pets)

    def refuse(train: str, test: str, recordings: Recordings = recordings) -> None:
        split = splits.from_lists(recordings, "mine", train.split(), test.split())
        splits.refuse_copies(recordings, split, copies(recordings))

    refuse("cat/0.wav dog/1.wav", "cat/1.wav cat/x.flac")
    refuse("cat/1.wav cat/x.flac", "dog/1.wav")
    refuse("cat/1.wav", "dog/1.wav")
    with pytest.raises(DatasetError, match=r"split mine contain copies of one recording, cat/1\.wav = cat/x\.flac;"):
        refuse("cat/1.wav dog/0.wav", "dog/1.wav cat/x.flac")
