"""Class probabilities and embeddings of clips."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from course_lib.clips import Clips
from course_lib.datasets import Recordings
from course_lib.evaluation.decisions import EvaluationError, clip_accuracy, decide
from course_lib.models.base import in_evaluation_mode, require_fitting


def predict(model: nn.Module, clips: Clips) -> Tensor:
    """Class probabilities, shape (clips, classes), on the CPU, by a model in evaluation mode.

    The model stays on its device and gets its training mode back. Raises EvaluationError for NaN, and ValueError for
    clips of another sample rate or length than the model is made for.

    Notebook: 02_spoken_digits_cnn
    """
    return _in_batches(model, lambda waveforms: model(waveforms).float().softmax(dim=1), clips)


def embed(model: nn.Module, clips: Clips) -> Tensor:
    """The features of a model in front of its last layer, shape (clips, features), on the CPU; otherwise as `predict`.

    Notebook: 06_adversarial_devices
    """
    return _in_batches(model, lambda waveforms: model.embed(waveforms).float(), clips)


def predict_clips(model: nn.Module, clips: Clips, recordings: Recordings) -> pd.DataFrame:
    """Class probabilities of clips, a row each, named after their recordings; a column for each class.

    Notebook: 05_heart_sounds_physionet
    """
    names = recordings.table["recording"].to_numpy(str)[clips.recording.cpu().numpy()]
    if len(clips) == 0:
        return pd.DataFrame(np.empty((0, len(recordings.class_names))))
    return pd.DataFrame(predict(model, clips).numpy().astype(float), index=names)


def predict_recordings(
    model: nn.Module, clips: Clips, recordings: Recordings, rule: str = "log_odds", threshold: float = 0.5
) -> pd.DataFrame:
    """A row for each recording that clips are of: its label, group, what it is classified as, and how confidently.

    The columns of `decide`, and label, group and clip_accuracy (the share of its clips that are classified correctly).

    Notebook: 02_spoken_digits_cnn
    """
    probabilities = predict_clips(model, clips, recordings)
    table = recordings.table.set_index("recording")
    decided = decide(probabilities, rule, threshold)
    about = table.loc[decided.index, ["label", "group"]]
    return pd.concat([about, decided], axis=1).assign(clip_accuracy=clip_accuracy(probabilities, table["label"]))


@torch.no_grad()
def _in_batches(model: nn.Module, function: Callable[[Tensor], Tensor], clips: Clips) -> Tensor:
    require_fitting(model, clips)
    clips = clips.to(next(model.parameters()).device)
    with in_evaluation_mode(model):
        values = torch.cat([function(clips.batch(index)[0]).cpu() for index in clips.index_batches()])
    if not values.isfinite().all():
        raise EvaluationError(
            "the network's output is not finite (NaN); its weights are damaged or its training failed"
        )
    return values
