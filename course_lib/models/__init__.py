"""Networks: each maps waveforms (batch, samples) to logits (batch, classes), front end included."""

from course_lib.models.log_mel_cnn import LogMelCNN
from course_lib.models.spectrogram_cnn import SpectrogramCNN

__all__ = ["LogMelCNN", "SpectrogramCNN"]
