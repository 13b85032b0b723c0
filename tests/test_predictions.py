"""Predictions of a model: of its clips, in evaluation mode, and of the recordings that the clips are of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_training import fresh, tones
from torch import Tensor, nn

from course_lib.clips import Clips
from course_lib.datasets import Recordings
from course_lib.evaluation import (
    EvaluationError,
    accuracy_in_noise,
    decide,
    embed,
    predict,
    predict_clips,
    predict_recordings,
)
from course_lib.models import LogMelCNN, StridedSampleCNN
from course_lib.models.base import ModelError


@pytest.mark.parametrize("training", [True, False])
def test_predictions_are_the_probabilities_of_a_model_in_evaluation_mode(training: bool) -> None:
    model, clips = fresh().train(training), tones(11)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = predict(model, clips)
    assert model.training is training
    assert found.shape == (11, 2) and found.dtype == torch.float32 and not found.requires_grad
    torch.testing.assert_close(found.sum(dim=1), torch.ones(11))
    with torch.no_grad():
        expected = model.eval()(clips.batch(torch.arange(11))[0]).softmax(dim=1)
    torch.testing.assert_close(found, expected)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_predictions_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, clips = fresh(), tones(9)
    whole = predict(model, clips)
    torch.testing.assert_close(predict(model, clips[3:5]), whole[3:5])
    monkeypatch.setattr(Clips, "index_batches", lambda clips: torch.arange(len(clips)).split(2))
    torch.testing.assert_close(predict(model, clips), whole)


def test_no_clips_have_no_predictions(recordings: Recordings) -> None:
    model = nn.Sequential(nn.Linear(64, 10))
    assert predict(model, tones(4)[:0]).shape == (0, 10)
    assert predict_clips(model, tones(4)[:0], recordings).shape == (0, 10)


def test_features_are_those_in_front_of_the_last_layer(recordings: Recordings) -> None:
    model, clips = StridedSampleCNN(10, 800, stride=64).eval(), Clips.cut(recordings, 0.1, progress=False)[:30]
    with torch.no_grad():
        torch.testing.assert_close(model.classify(embed(model, clips)).softmax(dim=1), predict(model, clips))


def test_a_row_for_each_recording(recordings: Recordings) -> None:
    torch.manual_seed(0)
    model = StridedSampleCNN(10, 800, stride=64)
    rows = recordings.find(group="bob")
    clips = Clips.cut(recordings, 0.1, 0.1, progress=False).of_recordings(rows)
    of_clips, found = predict_clips(model, clips, recordings), predict_recordings(model, clips, recordings)
    table = recordings.table.iloc[rows].set_index("recording")
    assert list(found.index) == list(table.index) and len(of_clips) == len(clips) > len(found) == 80
    np.testing.assert_allclose(of_clips, predict(model, clips), rtol=1e-6)
    assert list(of_clips.index) == recordings.table["recording"].iloc[clips.recording.numpy()].tolist()
    decided = decide(of_clips)
    assert found[["label", "group"]].equals(table[["label", "group"]])
    assert found[list(decided.columns)].equals(decided)
    right = of_clips.idxmax(axis=1) == table["label"][of_clips.index]
    assert found["clip_accuracy"].equals(right.groupby(level=0, sort=False).mean())
    voted = predict_recordings(model, clips, recordings, rule="vote")
    assert voted["predicted"].equals(decide(of_clips, "vote")["predicted"])


class Constant(nn.Module):
    """Says the same of every clip."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, waveforms: Tensor) -> Tensor:
        return self.logits.expand(len(waveforms), -1)

    embed = forward


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_output_that_is_not_finite_is_no_class(bad: float, recordings: Recordings) -> None:
    model, clips = Constant(*[0.0] * 9, bad).train(), Clips.cut(recordings, 0.1, progress=False)[:5]
    for function in (predict, embed, lambda model, clips: predict_recordings(model, clips, recordings)):
        with pytest.raises(EvaluationError, match="not finite"):
            function(model, clips)
    with pytest.raises(EvaluationError, match="the output of broken is not finite"):
        accuracy_in_noise({"broken": (model, clips)}, [0], progress=False)
    assert model.training


def test_clips_that_a_model_was_not_made_for_are_refused(recordings: Recordings) -> None:
    clips = Clips.cut(recordings, 0.1, progress=False)[:5]
    slower, shorter = replace(clips, sample_rate=4000), Clips.cut(recordings, 0.05, progress=False)[:5]
    cases = [(LogMelCNN(10, n_mels=16), slower), (StridedSampleCNN(10, 800, stride=64), shorter)]
    for model, unfit in cases:
        for function in (predict, embed, lambda m, c: accuracy_in_noise({"one": (m, c)}, [0], progress=False)):
            with pytest.raises(ModelError, match="was made for"):
                function(model, unfit)
