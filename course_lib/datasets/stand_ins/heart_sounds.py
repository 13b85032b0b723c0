"""Synthetic heart sounds, in the file layout of the PhysioNet/CinC Challenge 2016."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile as sf

SAMPLE_RATE = 2000
# How a murmur fills systole or diastole, from its beginning (0) to its end (1).
MURMURS = {
    "aortic stenosis": ("systole", lambda t: np.sin(np.pi * t)),
    "mitral regurgitation": ("systole", np.ones_like),
    "aortic regurgitation": ("diastole", lambda t: (1 - t) ** 2),
    "mitral stenosis": ("diastole", lambda t: t**2),
}
_LISTS = 4


@dataclass(frozen=True)
class Device:
    """A stethoscope: the band it passes and the frequency at which it rings (Hz), its noise and its level.

    `noise_db` is relative to the heart, `slope` how the noise falls with frequency (0 white, 1 pink, 2 brown), `hum_db`
    that of the mains at 50 Hz; `peak` is the highest sample. `normal` and `abnormal` are the shares in a thousand
    of all recordings, `length` multiplies their duration.
    """

    band: tuple[float, float]
    ringing: float
    noise_db: float
    slope: float
    hum_db: float
    peak: float
    normal: int
    abnormal: int
    length: float


# Shares as in the challenge, but the small subsets are larger. Peaks and lengths are in the order of the real ones.
DEVICES = {
    "a": Device((20, 600), 90, -15, 1.0, -60, 0.4, normal=42, abnormal=105, length=1.3),
    "b": Device((30, 300), 60, -9, 2.0, -60, 1.0, normal=138, abnormal=37, length=0.8),
    "c": Device((45, 500), 120, -17, 1.0, -24, 0.6, normal=16, abnormal=42, length=1.5),
    "d": Device((20, 220), 45, -12, 1.5, -20, 0.25, normal=36, abnormal=38, length=0.9),
    "e": Device((15, 800), 200, -6, 0.5, -40, 0.75, normal=390, abnormal=47, length=1.0),
    "f": Device((60, 420), 150, -12, 0.0, -50, 0.88, normal=75, abnormal=34, length=1.3),
}


@dataclass(frozen=True)
class Heart:
    """A heartbeat with its timing: the sound (samples,) and the seconds at which S1 and S2 begin."""

    waveform: np.ndarray
    s1: np.ndarray
    s2: np.ndarray


def heart(seconds: float, murmur: str | None, random: np.random.Generator, loudness: float = 0.3) -> Heart:
    """Synthesise a heart at 2 kHz: two sounds a beat, varying in rate and strength, and perhaps a murmur between them.

    50 to 110 beats a minute, faster and slower with the breath (sinus arrhythmia) and a little at random. S1 is
    longer and lower than S2. A murmur is noise in systole or diastole, `loudness` times as strong as S1 or so.

    Notebook: 05_heart_sounds_physionet
    """
    cycle = 60 / random.uniform(50, 110)
    beats = np.arange(int(seconds / cycle * 1.5) + 3)
    breathing = 1 + random.uniform(0.01, 0.06) * np.sin(2 * np.pi * (beats * cycle / 4 + random.uniform()))
    intervals = cycle * breathing * (1 + random.normal(0, 0.015, len(beats)))
    s1 = np.cumsum(intervals) - random.uniform(1, 2) * cycle
    # Systole shortens less than the cycle does, about as its square root (Bazett 1920).
    systole = random.uniform(0.30, 0.35) * np.sqrt(intervals) * (1 + random.normal(0, 0.01, len(beats)))
    s2 = s1 + systole
    strength = 1 + random.normal(0, 0.08, len(beats))
    first = _sound(random, 0.12, (30, 50, 80), random.uniform(0.015, 0.025))
    second = _sound(random, 0.09, (50, 80, 130), random.uniform(0.008, 0.015)) * random.uniform(0.5, 1.0)
    length = round(seconds * SAMPLE_RATE)
    waveform = _place(first, s1, strength, length) + _place(second, s2, strength, length)
    if murmur is not None:
        phase, shape = MURMURS[murmur]
        gap = 0.5 * systole.mean()
        begins, lasts = (s1 + 0.06, systole.mean() - 0.08) if phase == "systole" else (s2 + 0.05, gap + 0.1)
        gate = _place(shape(np.linspace(0, 1, round(lasts * SAMPLE_RATE))), begins, strength, length)
        low = random.uniform(60, 120)
        turbulence = _filtered(random.normal(size=length), "bandpass", (low, random.uniform(1.8, 3) * low))
        waveform += loudness * np.abs(first).max() / 2 * gate * turbulence / turbulence.std()
    inside = (s1 >= 0) & (s1 < seconds)
    return Heart(waveform, s1[inside], s2[inside & (s2 < seconds)])


def record(sound: np.ndarray, device: Device, random: np.random.Generator, noisier_db: float = 0.0) -> np.ndarray:
    """What a device makes of a sound (samples,) at 2 kHz: its band, its ringing, its noise and hum, and its level.

    Notebook: 05_heart_sounds_physionet
    """
    noise = _coloured(random, len(sound), device.slope) * 10 ** ((device.noise_db + noisier_db) / 20)
    hum = np.sqrt(2) * np.sin(2 * np.pi * 50 * np.arange(len(sound)) / SAMPLE_RATE + random.uniform(0, 2 * np.pi))
    recorded = sound / sound.std() + noise + 10 ** (device.hum_db / 20) * hum
    recorded = _filtered(recorded, "bandpass", device.band)
    recorded = recorded + 2 * scipy.signal.lfilter(*scipy.signal.iirpeak(device.ringing, 4, SAMPLE_RATE), recorded)
    if random.uniform() < 0.1:  # a knock or two
        for knock in random.integers(0, len(recorded), random.integers(1, 3)):
            recorded[knock : knock + 20] += 8 * recorded.std() * np.hanning(20)[: len(recorded) - knock]
    return recorded * (device.peak * random.uniform(0.7, 1.0) / np.abs(recorded).max())


def write(folder: Path, recordings: int = 360, seconds: int = 8, seed: int = 0, progress: bool = False) -> None:
    """Write about `recordings` heart sounds of about `seconds` s as `folder/training-{a..f}/{recording}.wav`, 2 kHz.

    With REFERENCE.csv, a quality list, the list of flagged recordings and four fold lists. Each device has its own
    response, noise and share of abnormal hearts, so that the device gives away part of the label. An abnormal heart
    has one of four murmurs, at times a faint one; one recording in ten is noisy; a few of subset e hold
    no heart at all, and are flagged and labelled normal. The same arguments give the same samples.

    Notebook: 05_heart_sounds_physionet
    """
    from tqdm.auto import tqdm

    plan = [(letter, label) for letter, device in DEVICES.items() for label in _labels(device, recordings, seed)]
    counts = dict.fromkeys(DEVICES, 0)
    lines: dict[str, list[tuple[str, int, str]]] = {letter: [] for letter in DEVICES}
    flagged = []
    for letter in DEVICES:
        (folder / f"training-{letter}").mkdir(parents=True)
    for letter, label in tqdm(plan, "synthesising hearts", disable=not progress):
        counts[letter] += 1
        name = f"{letter}{counts[letter]:0{5 if letter == 'e' else 4}d}"
        random = np.random.default_rng((seed, ord(letter), counts[letter]))
        device = DEVICES[letter]
        lasts = max(5.0, seconds * device.length * random.uniform(0.8, 1.2))
        murmur = random.choice(list(MURMURS)) if label == 1 else None
        sound = heart(lasts, murmur, random, loudness=random.uniform(0.1, 0.5)).waveform
        lost = letter == "e" and label == -1 and random.uniform() < 0.05
        noisy = lost or random.uniform() < 0.1
        if lost:
            sound = _coloured(random, len(sound), 2)
            flagged.append(name)
        waveform = record(sound, device, random, noisier_db=8 if noisy else random.uniform(-3, 3))
        sf.write(folder / f"training-{letter}" / f"{name}.wav", waveform, SAMPLE_RATE, "PCM_16")
        lines[letter].append((name, label, "" if lost else str(int(not noisy))))
    for letter, rows in lines.items():
        subset = folder / f"training-{letter}"
        _write_lines(subset / "REFERENCE.csv", [f"{name},{label}" for name, label, _ in rows])
        _write_lines(subset / "REFERENCE_withSQI.csv", [f"{name},{label},{quality}" for name, label, quality in rows])
    labels = {name: label for rows in lines.values() for name, label, _ in rows if name not in flagged}
    _write_lists(folder / "folds_spectnet", labels, flagged, seed)


def _labels(device: Device, recordings: int, seed: int) -> np.ndarray:
    """The labels of one device's recordings, two of each class at least, in random order."""
    counts = [max(2, round(recordings * share / 1000)) for share in (device.normal, device.abnormal)]
    return np.random.default_rng(seed).permutation(np.repeat([-1, 1], counts)).tolist()


def _write_lists(folder: Path, labels: dict[str, int], flagged: list[str], seed: int) -> None:
    """Four disjoint validation lists with a tenth of the recordings, as many normal as abnormal ones; and the rest."""
    folder.mkdir()
    random = np.random.default_rng(seed)
    shuffled = {label: random.permutation([name for name in labels if labels[name] == label]) for label in (-1, 1)}
    half = min(max(1, len(labels) // 20), len(shuffled[1]) // _LISTS, len(shuffled[-1]) // _LISTS)
    for number in range(_LISTS):
        held = {name for names in shuffled.values() for name in names[number * half : (number + 1) * half]}
        _write_lines(folder / f"validation{number}.txt", [name for name in labels if name in held])
        _write_lines(folder / f"train{number}.txt", [name for name in labels if name not in held])
    _write_lines(folder / "Recordings need to be removed in training-e.txt", flagged)


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def _sound(random: np.random.Generator, seconds: float, partials: tuple[float, ...], decay: float) -> np.ndarray:
    """One beat of a valve: damped vibrations of a few frequencies (Hz), swelling within some milliseconds."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    frequencies = np.array(partials)[:, None] * random.uniform(0.85, 1.15, (len(partials), 1))
    phases = random.uniform(0, 2 * np.pi, (len(partials), 1))
    weights = random.uniform(0.4, 1.0, (len(partials), 1)) / np.arange(1, len(partials) + 1)[:, None]
    vibration = (weights * np.sin(2 * np.pi * frequencies * time + phases)).sum(0)
    shaped = vibration * (1 - np.exp(-time / 0.006)) * np.exp(-time / decay) * np.hanning(2 * len(time))[len(time) :]
    return shaped / np.abs(shaped).max()


def _place(shape: np.ndarray, seconds: np.ndarray, strength: np.ndarray, length: int) -> np.ndarray:
    """The shape, begun at each of the given times with the given strength, in `length` samples."""
    lead = 2 * SAMPLE_RATE  # room for a beat that began before the recording
    starts = np.round(seconds * SAMPLE_RATE).astype(int) + lead
    inside = (starts >= 0) & (starts < lead + length)
    impulses = np.zeros(lead + length)
    impulses[starts[inside]] = strength[inside]
    return scipy.signal.fftconvolve(impulses, shape)[lead : lead + length]


def _filtered(samples: np.ndarray, kind: str, band: tuple[float, float]) -> np.ndarray:
    return scipy.signal.sosfilt(scipy.signal.butter(2, band, kind, fs=SAMPLE_RATE, output="sos"), samples)


def _coloured(random: np.random.Generator, length: int, slope: float) -> np.ndarray:
    """Noise with standard deviation 1 whose power falls with frequency as f ** -slope, above 10 Hz."""
    spectrum = np.fft.rfft(random.normal(size=length))
    spectrum *= np.maximum(np.fft.rfftfreq(length, 1 / SAMPLE_RATE), 10) ** (-slope / 2)
    noise = np.fft.irfft(spectrum, length)
    return noise / noise.std()
