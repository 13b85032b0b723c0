"""Synthetic digits: the same every time, in the published layout, and plausible as speech."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from course_lib.datasets import fsdd
from course_lib.datasets.stand_ins import digits

SIZE = {"speakers": 10, "takes": 2}  # some of these voices are breathy: they draw random numbers


def fingerprints(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "recordings").iterdir()}


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spoken")
    digits.write(folder, **SIZE)
    return folder


def test_every_digit_of_every_speaker_and_take_is_there(spoken: Path) -> None:
    names = {f"{digit}_voice000{speaker}_{take}.wav" for digit in range(10) for speaker in range(10) for take in (0, 1)}
    assert set(fingerprints(spoken)) == names
    recordings = fsdd.read(spoken, "stand-in")
    assert len(recordings) == 200 and recordings.table["group"].nunique() == 10


def test_the_files_are_short_loud_words_at_8_khz(spoken: Path) -> None:
    seconds = []
    for path in (spoken / "recordings").iterdir():
        header = sf.info(path)
        assert (header.samplerate, header.channels, header.subtype) == (8000, 1, "PCM_16")
        samples, _ = sf.read(path)
        seconds.append(len(samples) / 8000)
        peak = np.abs(samples).max()
        assert 10 ** (-18.1 / 20) < peak <= 10 ** (-0.9 / 20)
        assert abs(samples[0]) > 0.01 * peak and abs(samples[-1]) > 0.01 * peak
    assert min(seconds) > 0.05 and 0.2 < np.median(seconds) < 0.6 and max(seconds) < 1.5


def test_no_two_recordings_are_alike(spoken: Path) -> None:
    assert len(set(fingerprints(spoken).values())) == 200


def test_the_same_seed_gives_the_same_samples_here_and_in_a_fresh_process(spoken: Path, tmp_path: Path) -> None:
    program = f"import digits; digits.write(digits.Path({str(tmp_path / 'fresh')!r}), **{SIZE})"
    fresh = subprocess.Popen([sys.executable, "-c", program], cwd=Path(digits.__file__).parent)
    digits.write(tmp_path / "here", **SIZE)
    assert fresh.wait(timeout=60) == 0
    assert fingerprints(tmp_path / "here") == fingerprints(spoken)
    assert fingerprints(tmp_path / "fresh") == fingerprints(spoken)


def test_another_seed_gives_other_samples(spoken: Path, tmp_path: Path) -> None:
    digits.write(tmp_path, speakers=1, takes=1, seed=1)
    assert not set(fingerprints(tmp_path).values()) & set(fingerprints(spoken).values())


def test_the_digits_sound_different(spoken: Path) -> None:
    """Spectra of one digit in two takes are closer than spectra of two digits, for most of them."""

    def spectrum(digit: int, take: int) -> np.ndarray:
        samples, _ = sf.read(spoken / "recordings" / f"{digit}_voice0000_{take}.wav")
        power = [np.abs(np.fft.rfft(part, 1024)) ** 2 for part in np.array_split(samples, 6)]
        bands = np.stack(power)[:, :512].reshape(6, 32, 16).mean(2)
        return np.log(bands + 1e-6 * bands.max())

    first, second = ([spectrum(digit, take) for digit in range(10)] for take in (0, 1))
    nearest = [np.argmin([np.abs(a - b).mean() for b in second]) for a in first]
    assert sum(near == digit for digit, near in enumerate(nearest)) >= 7


@pytest.mark.parametrize("longer", [40, 500, 1500, 3000])
def test_the_first_voices_of_a_longer_list_are_those_of_a_shorter_one(longer: int) -> None:
    many = digits.voices(longer)
    assert len(many) == longer
    for shorter in (0, 1, 6, 30):
        assert digits.voices(shorter) == many[:shorter]


def test_more_speakers_or_takes_keep_the_recordings_there_were(spoken: Path, tmp_path: Path) -> None:
    digits.write(tmp_path, speakers=1, takes=3)
    ours, theirs = fingerprints(tmp_path), fingerprints(spoken)
    shared = [name for name in ours if name in theirs]
    assert len(shared) == 20 and all(ours[name] == theirs[name] for name in shared)


def test_voices_differ_and_depend_on_the_seed() -> None:
    voices = digits.voices(400)
    assert len({voice.name for voice in voices}) == 400
    assert len({(voice.accent, voice.variant) for voice in voices}) == 400
    assert digits.voices(6) == digits.voices(6, seed=0) != digits.voices(6, seed=1)
    for voice in voices:
        assert 110 <= voice.rate <= 240 and 20 <= voice.pitch <= 80


def test_speaking_is_quick(tmp_path: Path) -> None:
    start = time.process_time()
    digits.write(tmp_path, speakers=6, takes=10)
    assert time.process_time() - start < 10
    assert len(fingerprints(tmp_path)) == 600


AT = """
import sys
import espeakng_loader, numpy
from course_lib.datasets.stand_ins import digits
espeakng_loader.get_data_path = lambda: sys.argv[1]
print(numpy.concatenate(digits.spoken(1)[0]).tobytes().hex())
"""


def test_a_long_path_of_the_synthesiser_s_data_changes_nothing(tmp_path: Path, monkeypatch) -> None:
    import espeakng_loader

    there = tmp_path / ("deep" * 30) / "espeak-ng-data"
    there.parent.mkdir()
    there.symlink_to(espeakng_loader.get_data_path(), target_is_directory=True)
    done = subprocess.run([sys.executable, "-c", AT, str(there)], capture_output=True, text=True)
    assert done.stdout.strip() == np.concatenate(digits.spoken(1)[0]).tobytes().hex(), done.stderr
    monkeypatch.setattr(tempfile, "tempdir", str(there.parent))
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(there))
    with pytest.raises(RuntimeError, match="set TMPDIR to a folder with a short one"):
        digits.spoken(1)
