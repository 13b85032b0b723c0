"""Front ends and augmentation as torch modules: they move with `.to(device)` and need no data loader."""

from course_lib.layers.augmentation import AddNoise, RandomEqualiser, RandomTrim, SpecAugment, TimeFrequencyWarp
from course_lib.layers.silence import TrimSilence
from course_lib.layers.spectrogram import MFCC, LogMel, LogSpectrogram, Standardise

__all__ = [
    "MFCC",
    "AddNoise",
    "LogMel",
    "LogSpectrogram",
    "RandomEqualiser",
    "RandomTrim",
    "SpecAugment",
    "Standardise",
    "TimeFrequencyWarp",
    "TrimSilence",
]
