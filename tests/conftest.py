"""Shared fixtures: folders that no test shares with the user, and a small data set of generated sounds."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import numpy as np
import pytest
import soundfile as sf
import torch

from course_lib import environment
from course_lib.datasets import fsdd
from course_lib.datasets.recordings import Recordings

SPEAKERS = ("ann", "bob", "cleo")
TAKES = 8  # 0-4 are the published test side
USERS_DATA = environment.data_folder()

hypothesis.settings.register_profile("course", deadline=None, derandomize=True, max_examples=40)
hypothesis.settings.load_profile("course")
torch.set_num_threads(1)  # waking threads for such small tensors takes far longer than the work


@pytest.fixture(autouse=True)
def isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new home for data, cache and results, and no downloads, unless a test sets something else."""
    home = tmp_path_factory.mktemp("home")
    for variable in ("data", "cache", "results"):
        (home / variable).mkdir()
        monkeypatch.setenv(f"COURSE_{variable.upper()}", str(home / variable))
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    monkeypatch.setenv("COURSE_THREADS", "1")  # as above
    monkeypatch.delenv("COURSE_PROFILE", raising=False)
    return home


@pytest.fixture(scope="session")
def fsdd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `fsdd` in the published layout: 240 noisy tones, one pitch a digit, by three speakers. Read only."""
    folder = tmp_path_factory.mktemp("real") / "fsdd"
    (folder / "recordings").mkdir(parents=True)
    random = np.random.default_rng(0)
    for digit in range(10):
        for number, speaker in enumerate(SPEAKERS):
            for take in range(TAKES):
                time = np.arange(int(random.integers(800, 4000))) / fsdd.SAMPLE_RATE
                tone = np.sin(2 * np.pi * (300 + 300 * digit + 20 * number) * time)
                sound = random.uniform(0.1, 0.8) * tone + random.normal(0, 0.02, len(time))
                sf.write(folder / "recordings" / f"{digit}_{speaker}_{take}.wav", sound, fsdd.SAMPLE_RATE, "PCM_16")
    return folder


@pytest.fixture
def fsdd_data(fsdd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`COURSE_DATA` holds the generated `fsdd`, so that `load("fsdd")` finds it as the real one."""
    monkeypatch.setenv("COURSE_DATA", str(fsdd_folder.parent))
    return fsdd_folder


@pytest.fixture
def recordings(fsdd_folder: Path) -> Recordings:
    """The recordings of the generated `fsdd`."""
    return fsdd.read(fsdd_folder, "real")


@pytest.fixture
def real_data(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the real `fsdd`; skips the test on a computer that does not have it."""
    if not (USERS_DATA / "fsdd").is_dir():
        pytest.skip("the real recordings are not here; run: python -m course_lib data fetch fsdd")
    monkeypatch.setenv("COURSE_DATA", str(USERS_DATA))
    return USERS_DATA / "fsdd"
