"""Networks: each maps waveforms (batch, samples) to logits (batch, classes), front end included.

`__all__` holds the networks that a recipe can name; `Classifier` is the base of them all.
"""
# ruff: noqa: F401 - imported for others

from course_lib.models.base import Classifier, ModelError, require_fitting
from course_lib.models.crnn import CRNN
from course_lib.models.domain_adversarial import DomainAdversarial
from course_lib.models.gammatone_cnn import GammatoneCNN1d, GammatoneCNN2d
from course_lib.models.lean_spectnet import LeanSpectNet
from course_lib.models.log_mel_cnn import LogMelCNN
from course_lib.models.power_spectrogram_cnn import PowerSpectrogramCNN
from course_lib.models.sample_cnn import SampleCNN, StridedSampleCNN
from course_lib.models.scene_cnn import SceneCNN
from course_lib.models.spectnet import SpectNet
from course_lib.models.spectrogram_cnn import SpectrogramCNN

__all__ = [name for name in dir() if name[0].isupper() and name not in ("Classifier", "ModelError")]
