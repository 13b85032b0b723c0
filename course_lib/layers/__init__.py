"""Front ends and augmentation as torch modules: they move with `.to(device)` and need no data loader."""
# ruff: noqa: F401 - imported for others

from course_lib.layers.cycle_bands import CycleBands
from course_lib.layers.gammatone import GammatoneFilterbank
from course_lib.layers.gradient_reversal import GradientReversal
from course_lib.layers.image_augmentation import (
    FreqMixStyle,
    RandomCrop,
    RandomEqualiser,
    SpecAugment,
    SpectrumMatching,
    TimeFrequencyWarp,
)
from course_lib.layers.level import NormaliseLevel
from course_lib.layers.spectrogram import (
    MFCC,
    Decibels,
    LogMel,
    LogSpectrogram,
    PowerSpectrogram,
    Standardise,
    StandardiseBands,
)
from course_lib.layers.statistics import BandStatistics
from course_lib.layers.trim_silence import TrimSilence
from course_lib.layers.waveform_augmentation import (
    AddNoise,
    MixBackground,
    RandomBandFilter,
    RandomChannel,
    RandomGain,
    RandomRoom,
    RandomShift,
    RandomSpeed,
    RandomStart,
    RandomTrim,
    TimeMask,
)

__all__ = [name for name in dir() if name[0].isupper()]  # what a recipe can name
