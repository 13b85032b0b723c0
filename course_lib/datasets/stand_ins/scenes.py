"""Synthetic acoustic scenes, in the file layout of TUT Acoustic Scenes 2016."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.fft
import soundfile as sf
from scipy.signal import resample_poly

from course_lib.datasets.stand_ins import digits

SAMPLE_RATE = 44_100
# What can be heard in each place, in dB relative to the loudest.
SCENES: dict[str, dict[str, float]] = {
    "beach": {"surf": 0, "wind": -8, "birds": -22, "voices": -26},
    "bus": {"engine": 0, "rumble": -4, "hiss": -18, "voices": -20, "doors": -16},
    "cafe/restaurant": {"babble": 0, "clinks": -10, "hum": -26, "music": -20},
    "car": {"rumble": 0, "engine": -8, "hiss": -24},
    "city_center": {"traffic": 0, "steps": -18, "babble": -12, "horns": -22},
    "forest_path": {"wind": -4, "birds": -8, "steps": -4},
    "grocery_store": {"hum": -6, "babble": -8, "beeps": -10, "steps": -18, "music": -14},
    "home": {"hum": -14, "clinks": -6, "voices": -8, "steps": -16},
    "library": {"hum": -10, "keys": -16, "steps": -12, "hiss": -8},
    "metro_station": {"rails": -8, "rumble": -4, "babble": -8, "doors": -12, "steps": -14},
    "office": {"hum": -6, "keys": -4, "hiss": -12, "voices": -14},
    "park": {"wind": -6, "birds": -4, "traffic": -12, "voices": -10, "steps": -14},
    "residential_area": {"traffic": -6, "birds": -10, "wind": -10, "steps": -16},
    "train": {"rumble": 0, "rails": -4, "hiss": -14, "voices": -18},
    "tram": {"engine": -8, "rails": 0, "rumble": -6, "doors": -14, "babble": -16},
}
CLASS_NAMES = tuple(SCENES)
_FOLDS = 4


def write(
    folder: Path,
    locations: int = 4,
    segments: int = 4,
    seconds: float = 2.0,
    published: int = 0,
    seed: int = 0,
    progress: bool = False,
) -> None:
    """Write 15 scenes x `locations` x `segments` of `seconds` as `development/audio/{location}_{start}_{end}.wav`.

    44.1 kHz mono PCM-16, or with `published` two channels of 24 bits, as in the published set; and `meta.txt`,
    `evaluation_setup/` with four folds by location, and a small `evaluation/` part at other locations. Locations of a
    scene differ in level, colour and in how much of each sound there is; the segments of a location are parts of one
    recording. The same arguments give the same samples.

    Notebook: 07_acoustic_scenes
    """
    from tqdm.auto import tqdm

    voices = _voices()
    scenes = [(scene, number) for scene in CLASS_NAMES for number in range(locations + 1)]
    lines: dict[str, list[tuple[str, str, int]]] = {"development": [], "evaluation": []}
    for index, (scene, number) in enumerate(tqdm(scenes, desc="making scenes", unit="location", disable=not progress)):
        random = np.random.default_rng((seed, index))
        part = "development" if number < locations else "evaluation"
        recording = _recording(scene, segments * seconds, 1 + bool(published), random, voices)
        (folder / part / "audio").mkdir(parents=True, exist_ok=True)
        length = round(seconds * SAMPLE_RATE)
        for segment in range(segments):
            begin, end = round(segment * seconds), round((segment + 1) * seconds)
            name = f"audio/a{index:03d}_{begin}_{end}.wav"
            samples = recording[segment * length : (segment + 1) * length]
            sf.write(folder / part / name, samples, SAMPLE_RATE, "PCM_24" if published else "PCM_16")
            lines[part].append((name, scene, number % _FOLDS))
    for part, listed in lines.items():
        setup = folder / part / "evaluation_setup"
        setup.mkdir(parents=True, exist_ok=True)
        _write_list(folder / part / "meta.txt", listed)
        for fold in range(_FOLDS) if part == "development" else ():
            _write_list(setup / f"fold{fold + 1}_train.txt", [line for line in listed if line[2] != fold])
            _write_list(setup / f"fold{fold + 1}_evaluate.txt", [line for line in listed if line[2] == fold])
    _write_list(folder / "evaluation" / "evaluation_setup" / "evaluate.txt", lines["evaluation"])


def _write_list(path: Path, lines: list[tuple[str, str, int]]) -> None:
    path.write_text("".join(f"{name}\t{scene}\n" for name, scene, _ in lines), encoding="utf-8", newline="\n")


def _recording(
    scene: str, seconds: float, channels: int, random: np.random.Generator, voices: np.ndarray
) -> np.ndarray:
    """One location: shape (samples,) or (samples, 2)."""
    samples = round(seconds * SAMPLE_RATE)
    total = np.zeros((channels, samples))
    for name, level in SCENES[scene].items():
        # In one place of a kind much is as in the others, and much is not.
        amount = level + random.normal(0, 5)
        sound = _SOUNDS[name](samples, random, voices)
        rms = np.sqrt((sound**2).mean()) + 1e-9
        balance = random.uniform(0.7, 1.3, size=channels)
        total += balance[:, None] * 10 ** (amount / 20) * sound / rms
    total += 10 ** (-45 / 20) * random.standard_normal(total.shape)
    spectrum = scipy.fft.rfft(total, axis=1) * _colour(samples, random)
    coloured = scipy.fft.irfft(spectrum, samples, axis=1)
    coloured *= 10 ** (random.uniform(-50, -22) / 20) / np.sqrt((coloured**2).mean())
    return np.clip(coloured, -1, 1).T.squeeze()


def _colour(samples: int, random: np.random.Generator) -> np.ndarray:
    """The gain of a microphone, a jacket and a room at each frequency of a spectrum: +-5 dB in broad bands."""
    octaves = np.log2(np.maximum(_hertz(samples), 20) / 20)
    knots = random.normal(0, 4, size=12)
    return 10 ** (np.interp(octaves, np.arange(12), knots) / 20)


def _hertz(samples: int) -> np.ndarray:
    return scipy.fft.rfftfreq(samples, 1 / SAMPLE_RATE)


def _noise(samples: int, random: np.random.Generator, shape: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    spectrum = scipy.fft.rfft(random.standard_normal(samples))
    return scipy.fft.irfft(spectrum * shape(_hertz(samples)), samples)


def _slow(samples: int, random: np.random.Generator, hertz: float, depth: float) -> np.ndarray:
    """A gain that wanders `hertz` times a second, between 1 - depth and 1."""
    points = max(4, round(samples / SAMPLE_RATE * hertz) + 3)
    walk = np.interp(np.linspace(0, points - 1, samples), np.arange(points), random.uniform(size=points))
    return 1 - depth * walk


def _events(
    samples: int, random: np.random.Generator, a_second: float, one: Callable[[np.ndarray], np.ndarray], seconds: float
) -> np.ndarray:
    """`one(time)` at random moments."""
    total = np.zeros(samples + round(seconds * SAMPLE_RATE))
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    for _ in range(max(1, random.poisson(a_second * samples / SAMPLE_RATE))):
        begin = random.integers(samples)
        total[begin : begin + len(time)] += random.uniform(0.3, 1) * one(time)
    return total[:samples]


def _low(cut: float, slope: float = 2.0) -> Callable[[np.ndarray], np.ndarray]:
    return lambda hertz: 1 / (1 + (hertz / cut) ** slope)


def _band(centre: float, octaves: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda hertz: np.exp(-((np.log2(np.maximum(hertz, 1) / centre) / octaves) ** 2))


def _tones(samples: int, random: np.random.Generator, base: float, count: int, vibrato: float = 0.0) -> np.ndarray:
    phase = 2 * np.pi * base * np.cumsum(1 + vibrato * (_slow(samples, random, 1, 1) - 0.5)) / SAMPLE_RATE
    return sum(np.sin(n * phase + random.uniform(0, 6)) / n for n in range(1, count + 1))


def _chirp(random: np.random.Generator, low: float, high: float, decay: float) -> Callable[[np.ndarray], np.ndarray]:
    begin, end = random.uniform(low, high, size=2)

    def one(time: np.ndarray) -> np.ndarray:
        sweep = begin + (end - begin) * time / time[-1]
        return (
            np.sin(2 * np.pi * np.cumsum(sweep) / SAMPLE_RATE) * np.exp(-time / decay) * np.sin(np.pi * time / time[-1])
        )

    return one


def _ring(random: np.random.Generator, low: float, high: float, decay: float) -> Callable[[np.ndarray], np.ndarray]:
    def one(time: np.ndarray) -> np.ndarray:
        return np.sin(2 * np.pi * random.uniform(low, high) * time) * np.exp(-time / decay)

    return one


def _steps(samples: int, random: np.random.Generator, voices: np.ndarray) -> np.ndarray:
    beats = np.zeros(samples)
    period, ground = random.uniform(0.45, 0.65), random.uniform(200, 1500)
    for begin in np.arange(random.uniform(0, period), samples / SAMPLE_RATE - 0.1, period):
        at, length = round(begin * SAMPLE_RATE), round(0.08 * SAMPLE_RATE)
        beats[at : at + length] += random.uniform(0.5, 1) * np.exp(-np.arange(length) / (0.015 * SAMPLE_RATE))
    return _noise(samples, random, _low(ground)) * beats


def _rails(samples: int, random: np.random.Generator, voices: np.ndarray) -> np.ndarray:
    joints = np.zeros(samples)
    period, gap = random.uniform(0.5, 1.2), random.uniform(0.08, 0.16)
    for begin in np.arange(0, samples / SAMPLE_RATE, period):
        for at in (begin, begin + gap):
            at = round(at * SAMPLE_RATE)
            joints[at : at + 4000] += np.exp(-np.arange(len(joints[at : at + 4000])) / 900)
    squeal = _tones(samples, random, random.uniform(900, 2600), 2, 0.02) * _slow(samples, random, 0.5, 1) ** 4
    return _noise(samples, random, _band(random.uniform(90, 300), 1.0)) * (0.2 + joints) + 0.004 * squeal


def _babble(samples: int, random: np.random.Generator, voices: np.ndarray, speakers: int = 8) -> np.ndarray:
    total = np.zeros(samples)
    for _ in range(speakers):
        voice = voices[random.integers(len(voices))]
        total += np.resize(np.roll(voice, random.integers(len(voice))), samples) * random.uniform(0.3, 1)
    return total


def _voices() -> np.ndarray:
    """Eight synthetic speakers who say digits in random order, one after the other: (speakers, samples)."""
    random, streams = np.random.default_rng(0), []
    for words in digits.spoken(8, seed=3):
        spaced = [np.pad(words[n], (0, random.integers(800, 4000))) for n in random.permutation(10)]
        streams.append(resample_poly(np.concatenate(spaced), 441, 80))
    shortest = min(map(len, streams))
    return np.stack([stream[:shortest] for stream in streams])


_SOUNDS: dict[str, Callable[[int, np.random.Generator, np.ndarray], np.ndarray]] = {
    "surf": lambda n, r, v: _noise(n, r, _low(r.uniform(600, 2500), 1)) * _slow(n, r, 0.3, 0.9),
    "wind": lambda n, r, v: _noise(n, r, _low(r.uniform(60, 200))) * _slow(n, r, 0.7, 0.8),
    "rumble": lambda n, r, v: _noise(n, r, _low(r.uniform(50, 150))),
    "hiss": lambda n, r, v: _noise(n, r, _band(r.uniform(2500, 7000), 1.5)),
    "traffic": lambda n, r, v: _noise(n, r, _band(r.uniform(200, 900), 1.8)) * _slow(n, r, 0.4, 0.8),
    "engine": lambda n, r, v: _tones(n, r, r.uniform(25, 60), 12, 0.2) + 0.5 * _noise(n, r, _low(300)),
    "hum": lambda n, r, v: _tones(n, r, r.choice([50.0, 100.0]), 6) + _noise(n, r, _low(r.uniform(200, 500))),
    "birds": lambda n, r, v: _events(n, r, r.uniform(1, 5), _chirp(r, 2000, 7500, 0.2), 0.15),
    "clinks": lambda n, r, v: _events(n, r, r.uniform(1, 4), _ring(r, 2500, 9000, 0.04), 0.3),
    "beeps": lambda n, r, v: _events(n, r, r.uniform(0.3, 1), _ring(r, 1800, 3200, 0.5), 0.12),
    "keys": lambda n, r, v: _events(n, r, r.uniform(3, 9), _ring(r, 1500, 6000, 0.004), 0.03),
    "doors": lambda n, r, v: _events(n, r, 0.4, _ring(r, 500, 1100, 0.3), 0.5),
    "horns": lambda n, r, v: _events(n, r, 0.3, _ring(r, 300, 600, 0.6), 0.6),
    "music": lambda n, r, v: sum(
        _tones(n, r, 220 * 2 ** (k / 12), 3) * _slow(n, r, 3, 1) for k in r.integers(0, 24, 4)
    ),
    "steps": _steps,
    "rails": _rails,
    "babble": _babble,
    "voices": lambda n, r, v: _babble(n, r, v, 1) * (_slow(n, r, 0.5, 1) > 0.4),
}
