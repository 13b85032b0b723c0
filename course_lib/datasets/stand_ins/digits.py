"""Spoken digits from the eSpeak NG synthesiser, in the file layout of the Free Spoken Digit Dataset."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
from scipy.signal import firwin, resample_poly

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SAMPLE_RATE = 8000

_ENGLISH = tuple("en-us en en-gb-scotland en-gb-x-rp en-gb-x-gbclan en-gb-x-gbcwmd en-us-nyc en-029".split())
# Speakers of other languages say the words with the sounds of their own, spelt in eSpeak NG's phonemes.
_FOREIGN = ("de", "el", "es", "fi", "fr", "hi", "hu", "id", "it", "nl", "pl", "pt", "ro", "sv", "tr")
_PHONEMES = ("z'iro", "u'an", "t'u", "tr'i", "f'or", "f'aiv", "s'iks", "s'even", "'eit", "n'ain")
_VARIANTS = tuple(
    """
    m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f3 f4 f5 klatt klatt2 klatt3 klatt4 adam Alex Alicia Andrea Andy anika Annie
    antonio aunty belinda benjamin boris caleb david Denis Diogo ed edward Gene grandma grandpa Hugo ian iven john
    Lee linda Marco Mario max Michael michel miguel Mike norbert pablo paul pedro quincy Reed rob robert sandro
    shelby steph Storm travis victor zac
    """.split()
)
_LOW_PASS = firwin(2 * 10 * 441 + 1, 1 / 441, window=("kaiser", 5.0))


@dataclass(frozen=True)
class Voice:
    """One synthetic speaker: an eSpeak NG accent and variant, with its usual rate (words/min) and pitch (0-99)."""

    name: str
    accent: str
    variant: str
    rate: float
    pitch: float


def voices(n: int, seed: int = 0) -> list[Voice]:
    """Draw `n` different synthetic speakers; the first of a longer list are those of a shorter one.

    Notebook: 02_spoken_digits_cnn
    """
    random = np.random.default_rng(seed)
    pairs = [(accent, variant) for variant in _VARIANTS for accent in (*_ENGLISH, *_FOREIGN)]
    order = np.concatenate([random.permutation(len(pairs)) for _ in range(1 + n // len(pairs))])[:n]
    manners = random.spawn(1)[0].uniform(size=(n, 2))
    return [
        Voice(f"voice{i:04d}", *pairs[pair], rate=110 + 130 * rate, pitch=20 + 60 * pitch)
        for i, (pair, (rate, pitch)) in enumerate(zip(order, manners, strict=True))
    ]


def write(folder: Path, speakers: int = 6, takes: int = 50, seed: int = 0, progress: bool = False) -> None:
    """Write `speakers` x 10 digits x `takes` recordings as `folder/recordings/{digit}_{speaker}_{take}.wav`.

    8 kHz mono PCM-16, silence trimmed; rate, pitch and level differ from take to take. The same arguments
    give the same samples. Source: eSpeak NG, through the library that the package espeakng-loader carries.

    Notebook: 02_spoken_digits_cnn
    """
    from tqdm.auto import tqdm

    recordings = folder / "recordings"
    recordings.mkdir(parents=True, exist_ok=True)
    cast = voices(speakers, seed)
    synthesiser = _Synthesiser()
    for index, voice in enumerate(tqdm(cast, desc="speaking digits", unit="voice", disable=not progress)):
        random = np.random.default_rng((seed, index))
        for take in range(takes):
            for digit, waveform in enumerate(_speak_digits(synthesiser, voice, random)):
                sf.write(recordings / f"{digit}_{voice.name}_{take}.wav", waveform, SAMPLE_RATE, "PCM_16")


def spoken(speakers: int, seed: int = 0) -> list[list[np.ndarray]]:
    """The ten digits by each of some speakers, once, at 8 kHz."""
    synthesiser = _Synthesiser()
    return [_speak_digits(synthesiser, voice, np.random.default_rng(seed)) for voice in voices(speakers, seed)]


def _speak_digits(synthesiser: _Synthesiser, voice: Voice, random: np.random.Generator) -> list[np.ndarray]:
    spoken = []
    words = [f"[[{sounds}]]" for sounds in _PHONEMES] if voice.accent in _FOREIGN else WORDS
    for word in words:
        rate = int(np.clip(voice.rate * random.uniform(0.85, 1.2), 80, 300))
        pitch = int(np.clip(voice.pitch + random.normal(0, 6), 0, 99))
        intonation = int(random.uniform(20, 80))
        samples = synthesiser.speak(word, f"{voice.accent}+{voice.variant}", rate, pitch, intonation)
        samples = _trim(resample_poly(samples, 160, 441, window=_LOW_PASS))  # 22,050 Hz -> 8,000 Hz
        level = 10 ** (random.uniform(-18, -1) / 20)
        spoken.append(samples * (level / max(np.abs(samples).max(), 1e-9)))
    return spoken


def _trim(samples: np.ndarray, threshold: float = 0.02) -> np.ndarray:
    loud = np.flatnonzero(np.abs(samples) > threshold * np.abs(samples).max())
    return samples[loud[0] : loud[-1] + 1] if len(loud) else samples


def _encoded(path: str) -> bytes:
    return path.encode("mbcs") if os.name == "nt" else os.fsencode(path)  # as C's fopen takes it


class _Synthesiser:
    """eSpeak NG behind ctypes, starting from the same state every time.

    The library keeps the phase of its voice flutter in static variables that nothing resets, so each instance
    loads a copy of its own.
    """

    _CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    _SYNCHRONOUS, _CHARACTERS, _UTF8_AND_PHONEMES = 2, 1, 0x101
    _RATE, _PITCH, _RANGE = 1, 3, 4
    _LONGEST_PATH = 140  # 160 with what it appends

    def __init__(self) -> None:
        import espeakng_loader

        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            self._library = ctypes.CDLL(shutil.copy(espeakng_loader.get_library_path(), folder))
        data = self._data_path(espeakng_loader.get_data_path())
        if self._library.espeak_Initialize(self._SYNCHRONOUS, 0, data, 0) != 22050:
            raise RuntimeError("eSpeak NG did not start; reinstall the package espeakng-loader")
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # breathy voices; else seeded by the clock
        self._chunks: list[np.ndarray] = []
        self._callback = self._CALLBACK(self._collect)  # an attribute, for ctypes does not hold a reference
        self._library.espeak_SetSynthCallback(self._callback)
        self._voice = ""

    def _data_path(self, path: str) -> bytes:
        """The path of the data for eSpeak NG, which cuts a long one off, does not find it, and ends the process."""
        if len(_encoded(path)) > self._LONGEST_PATH:
            self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # while this synthesiser lives
            path = shutil.copytree(path, os.path.join(self._home.name, "espeak-ng-data"))
            if len(_encoded(path)) > self._LONGEST_PATH:
                raise RuntimeError(
                    f"eSpeak NG cannot use a path as long as {path}; set TMPDIR to a folder with a short one"
                )
        return _encoded(path)

    def _collect(self, samples, count: int, events) -> int:
        if count:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def speak(self, text: str, voice: str, rate: int, pitch: int, intonation: int) -> np.ndarray:
        if voice != self._voice:
            if self._library.espeak_SetVoiceByName(voice.encode()):
                raise RuntimeError(f"eSpeak NG has no voice {voice!r}")
            self._voice = voice
        for parameter, value in ((self._RATE, rate), (self._PITCH, pitch), (self._RANGE, intonation)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._chunks.clear()
        encoded = text.encode()
        self._library.espeak_Synth(
            encoded, len(encoded) + 1, 0, self._CHARACTERS, 0, self._UTF8_AND_PHONEMES, None, None
        )
        return np.concatenate(self._chunks).astype(np.float64) / 32768
