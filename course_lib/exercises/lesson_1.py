"""Exercises of lesson 1: aliasing, resampling, spectra, windows and mel bands.

Notebook: 01_waveforms_and_spectrograms
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import scipy.signal
import torch
import torchaudio

from course_lib import audio
from course_lib.exercises.exercise import (
    Exercise,
    Mistake,
    NotDone,
    Prediction,
    Wrong,
    is_stub,
    numbers,
    require_function,
)

RATE = 8000


def tone(frequency: float, samples: int, amplitude: float = 0.5, rate: int = RATE, phase: float = 0.0) -> np.ndarray:
    """A sine tone, shape (samples,), at `rate` samples per second."""
    return amplitude * np.sin(2 * math.pi * frequency * np.arange(samples) / rate + phase)


# Predict first: a tone above the Nyquist frequency

HEARD = Prediction(
    "A tone of 5,000 Hz, sampled 8,000 times per second",
    "Hz",
    close=50,
    good="It is folded at 4,000 Hz: 1,000 Hz above becomes 1,000 Hz below.",
    too_high="No tone above half the sample rate can be in the samples: the tone is folded down at 4,000 Hz.",
    too_low="The tone is folded at 4,000 Hz, half the sample rate: 1,000 Hz above becomes 1,000 Hz below.",
)


# (a) Where a tone is heard


def alias(frequency: float, rate: int) -> float:
    """The frequency in Hz at which a tone is heard after sampling."""
    return abs(frequency - rate * round(frequency / rate))


def _pairs_of_frequency_and_rate() -> list[tuple[float, int]]:
    random = np.random.default_rng(5)
    pairs: list[tuple[float, int]] = []
    while len(pairs) < 50:
        rate = int(random.choice([8_000, 11_025, 16_000, 22_050]))
        frequency = float(random.uniform(100, 3.5 * rate))
        if 20 < alias(frequency, rate) < rate / 2 - 20:
            pairs.append((round(frequency, 1), rate))
    return pairs


def _peak(frequency: float, rate: int) -> float:
    return float(np.abs(np.fft.rfft(tone(frequency, rate, rate=rate))).argmax())  # one second: bins 1 Hz apart


def _check_alias(answer: Any) -> None:
    require_function(answer)
    pairs = _pairs_of_frequency_and_rate()
    first = answer(*pairs[0])
    if is_stub(first):
        raise NotDone
    given = [numbers(answer(*pair), ()) for pair in pairs]
    for value, pair in zip(given, pairs, strict=True):
        heard = _peak(*pair)
        if not abs(value - heard) <= 1:
            raise Wrong(f"alias({pair[0]:,}, {pair[1]:,}) = {value:,.1f}", f"{heard:,.0f} Hz (FFT peak)", values=given)


ALIAS = Exercise(
    "Where a tone is heard",
    _check_alias,
    alias,
    [
        "Tones whose frequencies differ by a multiple of the sample rate have the same samples.",
        "Which multiple of the sample rate lies nearest to the frequency? round() finds it.",
        "The distance to that multiple is what is heard: |f - rate * round(f / rate)|.",
    ],
    [
        Mistake(
            lambda frequency, rate: frequency % rate,
            "The remainder is right up to half the sample rate; above it, the tone is folded down once more.",
        ),
        Mistake(
            lambda frequency, rate: abs(rate - frequency),
            "This folds at one multiple of the sample rate only; a tone may lie nearer to 0, 2 or 3 times the rate.",
        ),
        Mistake(
            lambda frequency, rate: min(frequency, rate / 2),
            "A tone above the Nyquist frequency does not stay there; it is folded down.",
        ),
        Mistake(
            lambda frequency, rate: frequency - rate * round(frequency / rate),
            "The sign is missing its absolute value: a tone of -1,000 Hz is heard at 1,000 Hz.",
        ),
        Mistake(
            lambda frequency, rate: abs(frequency - rate / 2 * round(frequency / (rate / 2))),
            "Samples repeat with the sample rate, not with half of it; half of it is where the tone is folded.",
        ),
    ],
    why="This is the frequency that a recorder without a filter puts into your data, and no network can undo it.",
)


# (d) A better resampler

KEPT = (150, 700, 1300, 1650, 1800)
REMOVED = (2100, 2250, 2700, 3300, 3850)


def halve(samples: torch.Tensor) -> torch.Tensor:
    """Half the sample rate: a long low-pass filter, then every second sample."""
    weights = scipy.signal.firwin(255, 1950, fs=8000, window=("kaiser", 6.0))
    filtered = scipy.signal.convolve(samples.numpy(), weights, mode="same")
    return torch.from_numpy(filtered[::2].copy())


def _gains(answer: Any) -> np.ndarray:
    """Level in dB of what is left of each tone, away from the ends."""
    random = np.random.default_rng(7)
    gains = []
    for frequency in (*KEPT, *REMOVED):
        samples = torch.from_numpy(tone(frequency, RATE, phase=random.uniform(0, 6))).float()
        before = math.sqrt(float(samples.double().square().mean()))
        halved = answer(samples.clone())
        if is_stub(halved):
            raise NotDone
        halved = numbers(halved)
        if halved.ndim != 1 or abs(len(halved) - RATE // 2) > 1:
            raise Wrong(
                f"the shape {halved.shape}", f"({RATE // 2},) from {RATE:,} samples", "Keep every second sample only."
            )
        if np.iscomplexobj(halved) or not np.isfinite(halved).all():
            raise Wrong("samples that are complex, NaN or infinite", "real numbers", "Samples are finite real numbers.")
        gains.append(20 * math.log10(max(math.sqrt(np.mean(np.square(halved[500:-500]))) / before, 1e-8)))
    return np.array(gains)


def _check_resample(answer: Any) -> None:
    require_function(answer)
    gains = _gains(answer)
    for frequency, gain in zip((*KEPT, *REMOVED), gains, strict=True):
        if frequency in KEPT and not abs(gain) <= 1:
            raise Wrong(f"{gain:+.1f} dB at {frequency:,} Hz", "within 1 dB up to 1,800 Hz", values=[gains])
        if frequency in REMOVED and not gain <= -60:
            raise Wrong(f"{gain:+.1f} dB at {frequency:,} Hz", "-60 dB or less from 2,100 Hz on", values=[gains])


RESAMPLE = Exercise(
    "A better resampler",
    _check_resample,
    halve,
    [
        "Two steps: a low-pass filter, then [::2].",
        "scipy.signal.firwin(number_of_weights, cutoff, fs=8000) designs the filter; more weights make it steeper.",
        "Put the cut-off half-way, at 1,950 Hz; use an odd number of weights, 200 or more, and a Kaiser window.",
    ],
    [
        Mistake(lambda samples: samples[::2], "Nothing is filtered out before samples are dropped: tones fold back."),
        Mistake(
            lambda samples: audio.resample(samples, 8000, 4000),
            "This is the library's resampler: its filter is short, so it cuts softly around 2,000 Hz.",
        ),
        Mistake(
            lambda samples: samples.reshape(-1, 2).mean(dim=1),
            "The mean of two neighbours is a filter, but a very soft one; it needs many more weights.",
        ),
        Mistake(
            lambda samples: 2 * halve(samples),
            "Everything is 6 dB too loud: the weights of a low-pass filter must add up to 1.",
        ),
        Mistake(
            lambda samples: np.convolve(samples, scipy.signal.firwin(255, 975, fs=8000), mode="same")[::2],
            "The cut-off lies at half the frequency it should: it is given in Hz with fs=8000.",
        ),
        Mistake(
            lambda samples: np.convolve(samples[::2], scipy.signal.firwin(255, 1950, fs=4000), mode="same"),
            "The filter comes too late: what was folded back cannot be told from the rest. Filter first.",
        ),
    ],
    why="A steep filter costs many weights; libraries choose how many for you, and differ in it.",
)


# (b) The hidden tone

_TONES = {700.0: 0.5, 1230.0: 0.5 * 10 ** (-12 / 20), 2610.0: 0.5 * 10 ** (-50 / 20)}


def mystery() -> torch.Tensor:
    """256 samples of three tones, at 8,000 samples per second; the amplitude of the strongest is 0.5."""
    phases = (0.4, 2.0, 1.1)
    parts = [tone(f, 256, a, phase=phase) for (f, a), phase in zip(_TONES.items(), phases, strict=True)]
    return torch.from_numpy(sum(parts)).float()


def _find_tones() -> dict[float, float]:
    """The three tones of `mystery()`: {frequency in Hz: level in dB relative to the strongest}."""
    faded = mystery() * torch.hann_window(256)
    magnitude = torch.fft.rfft(faded, 8192).abs()  # zero-padded: the curve is drawn finely
    peaks, _ = scipy.signal.find_peaks(magnitude, height=float(magnitude.max()) * 10 ** (-60 / 20))
    # Around a strong peak the window leaves small ones of its own: of neighbours, keep the strongest.
    peaks = sorted(peaks, key=lambda peak: -magnitude[peak])
    kept = [p for i, p in enumerate(peaks) if all(abs(p - other) > 4 * 32 for other in peaks[:i])][:3]
    return {float(p) * 8000 / 8192: 20 * math.log10(magnitude[p] / magnitude[kept[0]]) for p in kept}


def _levels_of_tones() -> dict[float, float]:
    return {frequency: 20 * math.log10(amplitude / 0.5) for frequency, amplitude in _TONES.items()}


def _check_mystery(answer: Any) -> None:
    if not isinstance(answer, dict):
        raise Wrong(answer, "{Hz: dB, Hz: dB, Hz: dB}", "Give a dict with a level for each frequency.")
    found = {float(numbers(f, ())): float(numbers(level, ())) for f, level in answer.items()}
    half_a_bin = RATE / 256 / 2
    text = ", ".join(f"{f:,.0f} Hz: {level:.1f} dB" for f, level in found.items())
    bins = {f * 256 / RATE for f in _TONES}
    if found and all(any(abs(f - each) <= 0.6 for each in bins) for f in found):
        raise Wrong(text, "frequencies in Hz", "These are numbers of bins; a bin is 8000 / 256 = 31.25 Hz wide.")
    for number, (frequency, right) in enumerate(_levels_of_tones().items(), start=1):
        near = [f for f in found if abs(f - frequency) <= half_a_bin]
        if not near:
            words = f"the tone number {number}, counted from low to high, within {half_a_bin:.1f} Hz"
            weak = "The weakest tone is missing: without a window the leakage of the strongest one buries it."
            strong = "A strong tone is missing: look for the highest peaks of the whole spectrum."
            raise Wrong(text, words, weak if number == len(_TONES) else strong)
        level = found[near[0]]
        if not abs(level - right) <= 1.5:
            expected = f"another level at {near[0]:,.0f} Hz, within 1.5 dB"
            raise Wrong(text, expected, _level_mistake(found, half_a_bin))
    if len(found) != len(_TONES):
        sentence = "Some of these are no tones but leakage: a smooth window makes them go away."
        raise Wrong(text, f"{len(_TONES)} tones", sentence)


def _level_mistake(found: dict[float, float], half_a_bin: float) -> str:
    right = _levels_of_tones()
    pairs = [(level, right[f]) for f in right for given, level in found.items() if abs(given - f) <= half_a_bin]
    off = [level - wanted for level, wanted in pairs]
    if len(off) > 1 and max(off) - min(off) <= 1.5:
        return "All levels are off by the same: give them relative to the strongest tone, which has 0 dB."
    if all(abs(level - wanted / 2) <= 1 for level, wanted in pairs):
        return "The levels are half of what they should be: it is 20 times the logarithm of an amplitude."
    if all(abs(level + wanted) <= 1.5 for level, wanted in pairs):
        return "The sign is the wrong way round: a weaker tone has a negative level."
    return "Read the level at the peak itself; zero-padding the FFT shows where the peak is."


_HINTS_OF_LEVELS = _levels_of_tones()
MYSTERY = Exercise(
    "Three tones in 256 samples",
    _check_mystery,
    _find_tones(),
    [
        "Plot the spectrum in dB, from the maximum down to 80 dB below it.",
        "Multiply by torch.hann_window(256) first, or the strongest tone hides the weakest.",
        "torch.fft.rfft(faded, 8192) draws the same spectrum with 32 times as many points; read the peaks there.",
    ],
    [
        Mistake(
            dict(list(_HINTS_OF_LEVELS.items())[:2]),
            "The weakest tone is missing: without a window the leakage of the strongest one buries it.",
        ),
        Mistake(
            dict(list(_HINTS_OF_LEVELS.items())[1:]),
            "A strong tone is missing: look for the highest peaks of the whole spectrum.",
        ),
        Mistake(
            {f * 256 / RATE: level for f, level in _HINTS_OF_LEVELS.items()},
            "These are numbers of bins; a bin is 8000 / 256 = 31.25 Hz wide.",
        ),
        Mistake(
            {f: level / 2 for f, level in _HINTS_OF_LEVELS.items()},
            "The levels are half of what they should be: it is 20 times the logarithm of an amplitude.",
        ),
        Mistake(
            {f: level + 30 for f, level in _HINTS_OF_LEVELS.items()},
            "All levels are off by the same: give them relative to the strongest tone, which has 0 dB.",
        ),
        Mistake(
            {f: -level for f, level in _HINTS_OF_LEVELS.items()},
            "The sign is the wrong way round: a weaker tone has a negative level.",
        ),
        Mistake(
            {**_HINTS_OF_LEVELS, 2610.0: -40.0},
            "Read the level at the peak itself; zero-padding the FFT shows where the peak is.",
        ),
        Mistake(
            {**_HINTS_OF_LEVELS, 1900.0: -40.0},
            "Some of these are no tones but leakage: a smooth window makes them go away.",
        ),
    ],
    why="A window let you find a tone with a hundred-thousandth of the power of its neighbour.",
    worked=_find_tones,
)


# (c) One window for both

CLICKS_APART, TONES_APART, DEEP = 0.012, 130, 6.0  # seconds, Hz, dB


def valleys(length: int, clicks_apart: float = CLICKS_APART, tones_apart: float = TONES_APART) -> tuple[float, float]:
    """How deep, in dB, a Hann window of `length` samples cuts between two clicks and between two tones.

    The valley between the clicks is that of the energy of the frames, centred on each sample in turn; the valley
    between the tones is that of the mean power spectrum. No valley is 0 dB.
    """
    window = np.hanning(length + 1)[:-1]
    gap, centre = round(clicks_apart * RATE), length + 10
    # The energy of a frame with two clicks is the sum of the window's squares at the two.
    energy = np.zeros(2 * centre + gap)
    for click in (centre, centre + gap):
        energy[click - length // 2 : click - length // 2 + length] += window[::-1] ** 2
    low, high = 1000, 1000 + tones_apart
    spectra = [
        np.abs(np.fft.rfft((tone(low, length, phase=p) + tone(high, length)) * window, RATE)) ** 2
        for p in np.arange(16) * math.pi / 8
    ]
    return _valley(energy[centre : centre + gap + 1]), _valley(np.mean(spectra, axis=0)[low : high + 1])


def _valley(power: np.ndarray) -> float:
    level = 10 * np.log10(np.maximum(power, 1e-12 * power.max()))
    return float(min(level[0], level[-1]) - level.min())


def _check_window(answer: Any) -> None:
    given = float(numbers(answer, ()).real)
    if not math.isfinite(given) or given != round(given):
        sentence = (
            "Give the length in samples: seconds times 8,000." if 0 < given < 1 else "A window has whole samples."
        )
        raise Wrong(answer, "a whole number of samples", sentence)
    if not 8 <= given <= 4000:
        raise Wrong(answer, "8 to 4,000 samples", "Such a window holds no frame of speech.")
    in_time, in_frequency = valleys(round(given))
    if min(in_time, in_frequency) >= DEEP:
        return
    text = f"{given:g} samples: {in_time:.1f} dB between the clicks, {in_frequency:.1f} dB between the tones"
    if max(in_time, in_frequency) < DEEP:
        sentence = "This window separates neither."
    elif in_time < DEEP:
        sentence = "The window is too long: it smears the two clicks into one."
    else:
        sentence = "The window is too short: its peaks are so wide that the two tones are one."
    raise Wrong(text, f"{DEEP:g} dB or more for both", sentence)


WINDOW = Exercise(
    "One window for both",
    _check_window,
    152,
    [
        "A longer window separates the tones, a shorter one the clicks.",
        "The clicks are 96 samples apart; a Hann window is above half of its height for half of its length.",
        "Try lengths between 128 and 192; only a few of them will do.",
    ],
    [
        Mistake(0.019, "Give the length in samples: seconds times 8,000."),
        Mistake(96, "The window is too short: its peaks are so wide that the two tones are one."),
        Mistake(256, "The window is too long: it smears the two clicks into one."),
        Mistake(152.5, "A window has whole samples."),
        Mistake(100_000, "Such a window holds no frame of speech."),
    ],
    why="Few windows do both, and for clicks and tones closer together there is none.",
)


# (e) Mel bands without a bin


def smallest_n_fft(n_mels: int, rate: int) -> int:
    """The smallest power of two for which every mel band holds at least one bin of the FFT."""
    n_fft = 2
    while True:
        bands = torchaudio.functional.melscale_fbanks(n_fft // 2 + 1, 0.0, rate / 2, n_mels, rate)  # (bins, bands)
        if (bands.amax(dim=0) > 0).all():
            return n_fft
        n_fft *= 2


def _check_mels(answer: Any) -> None:
    require_function(answer)
    cases = [(128, 8_000), (40, 8_000), (64, 16_000), (128, 16_000), (23, 11_025), (80, 22_050)]
    first = answer(*cases[0])
    if is_stub(first):
        raise NotDone
    given = [numbers(answer(*case), ()) for case in cases]
    for value, (n_mels, rate) in zip(given, cases, strict=True):
        right = _smallest(n_mels, rate)
        if value != right:
            raise Wrong(
                f"smallest_n_fft({n_mels}, {rate:,}) = {value:g}, with {_empty(value, n_mels, rate)}",
                f"{right}, with none",
                values=given,
            )


def _bands(n_fft: int, n_mels: int, rate: int) -> torch.Tensor:
    # torchaudio warns of the empty bands; counting them is the exercise.
    bins = torch.linspace(0, rate / 2, n_fft // 2 + 1)[:, None]
    corners = 700 * (10 ** (torch.linspace(0, 2595 * math.log10(1 + rate / 1400), n_mels + 2) / 2595) - 1)
    rising = (bins - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - bins) / (corners[2:] - corners[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)


@functools.cache
def _smallest(n_mels: int, rate: int) -> int:
    powers = (2**power for power in range(1, 18))
    return next(n_fft for n_fft in powers if (_bands(n_fft, n_mels, rate).amax(dim=0) > 0).all())


def _empty(n_fft: Any, n_mels: int, rate: int) -> str:
    if not 2 <= n_fft <= 2**17 or n_fft != round(float(n_fft)):
        return "no such FFT"
    count = int((_bands(int(n_fft), n_mels, rate).amax(dim=0) == 0).sum())
    return f"{count} empty {'band' if count == 1 else 'bands'}"


def _power_of_two(least: float) -> int:
    return 2 ** math.ceil(math.log2(least))


MELS = Exercise(
    "No mel band without a bin",
    _check_mels,
    smallest_n_fft,
    [
        "Which rows of the filterbank are all zero for 128 bands and n_fft = 256? They are the lowest ones.",
        "torchaudio.functional.melscale_fbanks(n_fft // 2 + 1, 0.0, rate / 2, n_mels, rate) has shape (bins, bands).",
        "Double n_fft until every band has a weight above zero.",
    ],
    [
        Mistake(
            lambda n_mels, rate: _power_of_two(2 * (n_mels - 1)),
            "As many bins as bands is not enough: bins are equally spaced in hertz, and the low bands lie closer.",
        ),
        Mistake(
            lambda n_mels, rate: _smallest(n_mels, rate) // 2,
            "One doubling is missing: with this n_fft there is still an empty band.",
        ),
        Mistake(
            lambda n_mels, rate: _smallest(n_mels, rate) // 2 + 1,
            "This is the number of bins; asked for is n_fft, about twice as much.",
        ),
        Mistake(
            lambda n_mels, rate: 2 * _smallest(n_mels, rate),
            "No band is empty, but half as many samples are enough, and they blur less in time.",
        ),
        Mistake(
            lambda n_mels, rate: 512,
            "The answer depends on the sample rate and the number of bands: it is 512 for one pair only.",
        ),
    ],
    why="An empty band is a constant row in every image that a network trains on, and no library stops you.",
)
