"""Front ends and augmentation as torch modules: they move with `.to(device)` and need no data loader."""

from course_lib.layers.augmentation import (
    AddNoise,
    FrequencyWarp,
    RandomEqualiser,
    RandomGain,
    RandomSpeed,
    SpecAugment,
)
from course_lib.layers.spectrogram import MFCC, LogMel, LogSpectrogram

__all__ = [
    "MFCC",
    "AddNoise",
    "FrequencyWarp",
    "LogMel",
    "LogSpectrogram",
    "RandomEqualiser",
    "RandomGain",
    "RandomSpeed",
    "SpecAugment",
]
