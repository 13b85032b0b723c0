"""Synthetic heart sounds: the same every time, in the published layout, with a confound to be found."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile as sf

from course_lib.datasets import ENTRIES, Recordings, load, physionet2016, stand_in
from course_lib.datasets.stand_ins import heart_sounds

SIZE = {"recordings": 50, "seconds": 5}


def fingerprints(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hearts")
    heart_sounds.write(folder, **SIZE)
    return folder


@pytest.fixture(scope="module")
def hearts(folder: Path) -> Recordings:
    return physionet2016.read(folder, "stand-in")


def test_it_is_read_as_the_real_data_are(hearts: Recordings) -> None:
    assert sorted(hearts.table["group"].unique()) == list("abcdef")
    assert hearts.table.groupby("group")["label"].nunique().eq(2).all()
    assert set(hearts.table["quality"]) >= {"clean", "noisy"}
    assert hearts.table["recording"].str.fullmatch(r"[abcdf]\d{4}|e\d{5}").all()
    flagged = hearts.table[hearts.table["flagged"]]
    assert flagged["group"].eq("e").all() and flagged["label"].eq(0).all() and flagged["quality"].eq("unknown").all()


def test_the_files_are_what_their_device_makes(hearts: Recordings) -> None:
    for path, group in zip(hearts.table["path"], hearts.table["group"], strict=True):
        header = sf.info(path)
        assert (header.samplerate, header.channels, header.subtype) == (2000, 1, "PCM_16")
        assert 5 <= header.duration <= 5 * 1.2 * 1.5
        peak = np.abs(sf.read(path)[0]).max()
        assert 0.69 < peak / heart_sounds.DEVICES[group].peak < 1.001


def test_the_lists_are_balanced_disjoint_and_without_flagged_recordings(hearts: Recordings) -> None:
    folds = physionet2016.published_lists(hearts)
    tested = np.concatenate([fold.test for fold in folds])
    assert len(np.unique(tested)) == len(tested) > 0
    flagged = set(hearts.find(flagged=True))
    for fold in folds:
        assert hearts.table["label"].iloc[fold.test].mean() == 0.5
        assert len(fold.train) + len(fold.test) == len(hearts) - len(flagged)
        assert not flagged & {*fold.train, *fold.test}


def test_the_same_seed_gives_the_same_files_here_and_in_a_fresh_process(folder: Path, tmp_path: Path) -> None:
    program = f"import heart_sounds; heart_sounds.write(heart_sounds.Path({str(tmp_path / 'fresh')!r}), **{SIZE})"
    fresh = subprocess.Popen([sys.executable, "-c", program], cwd=Path(heart_sounds.__file__).parent)
    heart_sounds.write(tmp_path / "other", recordings=1, seconds=5, seed=1)
    assert fresh.wait(timeout=120) == 0
    here, other = fingerprints(folder), fingerprints(tmp_path / "other")
    assert fingerprints(tmp_path / "fresh") == here
    sounds = [name for name in here if name.endswith(".wav")]
    assert len({here[name] for name in sounds}) == len(sounds)
    assert not {here[name] for name in sounds} & {other[name] for name in other}


def test_the_device_gives_away_part_of_the_label(hearts: Recordings) -> None:
    """The commonest class of each device is right far more often than the commonest class of all."""
    labels = hearts.table["label"]
    guess = hearts.table.groupby("group")["label"].transform(lambda each: each.mean() > 0.5)
    sensitivity, specificity = guess[labels == 1].mean(), 1 - guess[labels == 0].mean()
    assert (sensitivity + specificity) / 2 > 0.6


def test_the_device_can_be_told_from_the_spectrum(hearts: Recordings) -> None:
    """The nearest mean spectrum, of the other recordings, is that of the recording's own device."""
    spectra = np.stack([_log_spectrum(hearts.waveform(index).numpy()) for index in range(len(hearts))])
    groups = hearts.table["group"].to_numpy()
    right = 0
    for index, spectrum in enumerate(spectra):
        others = np.arange(len(spectra)) != index
        means = {letter: spectra[others & (groups == letter)].mean(0) for letter in "abcdef"}
        right += min(means, key=lambda letter: np.abs(means[letter] - spectrum).mean()) == groups[index]
    assert right / len(spectra) > 0.8


def _log_spectrum(samples: np.ndarray) -> np.ndarray:
    _, power = scipy.signal.welch(samples, 2000, nperseg=256)
    level = np.log(power + 1e-12)
    return level - level.mean()


@pytest.mark.parametrize("seed", range(6))
def test_a_heart_beats_at_a_plausible_rate_that_varies(seed: int) -> None:
    heart = heart_sounds.heart(20, None, np.random.default_rng(seed))
    assert heart.waveform.shape == (40000,)
    cycles = np.diff(heart.s1)
    assert 60 / 115 < cycles.mean() < 60 / 48 and 0.005 < cycles.std() / cycles.mean() < 0.1
    after = heart.s2[np.searchsorted(heart.s2, heart.s1[:-1])] - heart.s1[:-1]
    assert ((after > 0.2) & (after < 0.5)).all() and (after < 0.6 * cycles).all()
    assert len(heart.s1) == pytest.approx(20 / cycles.mean(), abs=1.5)


def test_the_two_sounds_are_where_it_says_and_silence_is_between() -> None:
    heart = heart_sounds.heart(10, None, np.random.default_rng(3))
    time = np.arange(len(heart.waveform)) / 2000
    beats = np.concatenate([heart.s1, heart.s2])
    since = np.min(np.where(time[:, None] >= beats, time[:, None] - beats, np.inf), axis=1)
    sounding = since < 0.125
    begun = time > beats.min()
    assert np.abs(heart.waveform[begun & ~sounding]).max() < 1e-9 < 0.1 < np.abs(heart.waveform[sounding]).max()


@pytest.mark.parametrize("murmur", heart_sounds.MURMURS)
def test_a_murmur_is_heard_in_its_part_of_the_cycle(murmur: str) -> None:
    quiet, heard = (heart_sounds.heart(20, name, np.random.default_rng(5)) for name in (None, murmur))
    assert np.array_equal(quiet.s1, heard.s1)
    power = (heard.waveform - quiet.waveform) ** 2
    time = np.arange(len(power)) / 2000
    begun = (time >= heard.s1[0]) & (time < heard.s1[-1])
    beat = np.searchsorted(heard.s1, time[begun], side="right") - 1
    systole = time[begun] < heard.s2[np.searchsorted(heard.s2, heard.s1)][beat]
    share = power[begun][systole].sum() / power[begun].sum()
    assert share > 0.9 if "systole" in heart_sounds.MURMURS[murmur] else share < 0.1


def test_the_stand_in_is_loaded_when_nothing_else_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(where: Path, **options: object) -> None:
        heart_sounds.write(where, **{"recordings": 1, "seconds": 5} | options)

    monkeypatch.setitem(ENTRIES, "physionet2016", replace(ENTRIES["physionet2016"], write_stand_in=write))
    hearts = load("physionet2016", progress=False)
    assert hearts.source == "stand-in" and len(hearts) == 24  # two of each class and device at least
    assert len(physionet2016.published_lists(hearts)) == 4
    assert len(stand_in("physionet2016", recordings=30)) > 24
