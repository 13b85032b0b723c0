"""The cache of heart cycles: computed once, and made anew when it is damaged or of other recordings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from course_lib.clips import Clips
from course_lib.datasets.decoded import decode
from course_lib.datasets.hearts import cycles
from course_lib.datasets.hearts.cycles import cycle_starts
from course_lib.datasets.recordings import Recordings
from course_lib.environment import cache_folder

RATE = 1000


@pytest.fixture
def hearts(tmp_path: Path) -> Recordings:
    """Two recordings of five seconds with a knock every 0.8 and 0.9 s."""
    rows = []
    random = np.random.default_rng(0)
    for row, cycle in enumerate((0.8, 0.9)):
        time = np.arange(5 * RATE) / RATE
        knock = np.exp(-(((time % cycle) / 0.05) ** 2)) + 0.5 * np.exp(-(((time % cycle - 0.3) / 0.04) ** 2))
        sound = 0.5 * knock * np.sin(2 * np.pi * 60 * time) + 0.001 * random.standard_normal(len(time))
        sf.write(tmp_path / f"{row}.wav", sound, RATE)
        rows.append((f"r{row}", str(tmp_path / f"{row}.wav"), row, f"g{row}"))
    table = pd.DataFrame(rows, columns=["recording", "path", "label", "group"])
    return Recordings("hearts", table, ("no", "yes"), RATE, "real")


def cache_file() -> Path:
    (path,) = (cache_folder() / "cycles").iterdir()
    return path


def savez(path: Path, starts: np.ndarray, count: list[int], **more: object) -> None:
    np.savez(path, starts=starts, count=np.array(count), **more)


DAMAGES: dict[str, Callable[[Path, np.ndarray, list[int]], object]] = {
    "emptied": lambda path, *_: path.write_bytes(b""),
    "cut": lambda path, *_: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zeros": lambda path, *_: path.write_bytes(bytes(path.stat().st_size)),
    "no zip": lambda path, *_: path.write_bytes(b"hello"),
    "a folder": lambda path, *_: (path.unlink(), path.mkdir()),
    "shifted": lambda path, starts, count: savez(path, starts + 50, count),
    "shifted, with the digest": lambda path, starts, count: savez(
        path, starts + 50, count, digest=np.load(path)["digest"]
    ),
    "moved to another recording": lambda path, starts, count: savez(
        path, starts, [count[0] + 1, count[1] - 1], digest=np.load(path)["digest"]
    ),
    "other parts": lambda path, *_: np.savez(path, x=np.zeros(3)),
    "objects": lambda path, *_: np.savez(path, starts=np.array([{}]), count=np.array([{}]), digest="x"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_of_cycles_heals(hearts: Recordings, damage: str) -> None:
    starts = cycle_starts(hearts, progress=False)
    DAMAGES[damage](cache_file(), np.concatenate(starts), [len(each) for each in starts])
    for _ in range(2):
        healed = cycle_starts(hearts, progress=False)
        assert len(healed) == 2 and all(map(np.array_equal, healed, starts))


def test_cycles_of_other_recordings_are_computed(hearts: Recordings) -> None:
    first, second = cycle_starts(hearts, progress=False)
    turned = cycle_starts(hearts.subset(np.array([1, 0])), progress=False)
    assert len(first) > 3 and np.array_equal(turned[0], second) and np.array_equal(turned[1], first)


def test_recordings_are_looked_at_once_for_their_cycles_and_their_clips(
    hearts: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Clips.cut(hearts, 1.0, progress=False, starts=cycle_starts(hearts, progress=False))
    monkeypatch.setattr(cycles, "decode", lambda *_: pytest.fail("decoded again"))
    clips = Clips.cut(hearts, 1.0, progress=False, starts=cycle_starts)
    assert clips.start.tolist() == expected.start.tolist() and len(clips) > 4
    assert cycle_starts(hearts, progress=False, decoded=decode(hearts, progress=False))
