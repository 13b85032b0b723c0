"""Adapting batch normalisation to another device: what is counted anew, what stays, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from course_lib.clips import Clips
from course_lib.models import LogMelCNN, ModelError
from course_lib.models.base import Classifier
from course_lib.training import adapt_batch_norm

SAMPLES = 400


def clips_of(waveforms: np.ndarray) -> Clips:
    count = len(waveforms)
    return Clips(
        samples=torch.from_numpy(waveforms.astype(np.float32).ravel()),
        start=SAMPLES * torch.arange(count),
        length=torch.full((count,), SAMPLES),
        labels=torch.zeros(count, dtype=torch.long),
        recording=torch.arange(count),
        clip_samples=SAMPLES,
        sample_rate=8000,
        fingerprint="made",
        groups=torch.zeros(count, dtype=torch.long),
        group_names=("device",),
    )


class Normalised(Classifier):
    """Two normalised numbers of a waveform, and two logits of them."""

    def __init__(self) -> None:
        super().__init__()
        self.front_end, self.norm = nn.Identity(), nn.BatchNorm1d(2, momentum=0.1)
        self.classify = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2))

    def embed(self, waveforms: Tensor) -> Tensor:
        return self.norm(waveforms[:, :2])


def noises(count: int, mean: float = 0.0, spread: float = 0.1) -> np.ndarray:
    return np.random.default_rng(0).normal(mean, spread, (count, SAMPLES))


@pytest.mark.parametrize("count", [2, 40, 1500])
def test_the_statistics_are_those_of_the_clips_whatever_they_were(count: int) -> None:
    model, waveforms = Normalised(), noises(count, mean=3.0, spread=2.0)
    adapted = adapt_batch_norm(model, clips_of(waveforms))
    expected = waveforms[:, :2].astype(np.float32)
    np.testing.assert_allclose(adapted.norm.running_mean, expected.mean(axis=0), atol=1e-4)
    # Three batches of 500: what is between their means is left out.
    np.testing.assert_allclose(
        adapted.norm.running_var, expected.var(axis=0, ddof=1), rtol=1e-4 if count < 512 else 1e-2
    )
    assert adapted.norm.momentum == 0.1 and not adapted.training and not adapted.norm.training


def test_the_model_itself_and_all_weights_stay_as_they_are() -> None:
    torch.manual_seed(0)
    model = LogMelCNN(2, channels=(4, 8), n_mels=16).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    clips = clips_of(noises(30))
    adapted = adapt_batch_norm(model, clips)
    assert model.training and all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    changed = {name for name, tensor in adapted.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and all("running" in name or "num_batches" in name for name in changed)
    again = adapt_batch_norm(model, clips).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in adapted.state_dict().items())


def test_what_a_device_does_to_a_normalised_number_is_undone() -> None:
    torch.manual_seed(0)
    model, known = Normalised(), noises(600)
    model = adapt_batch_norm(model, clips_of(known))
    strange = clips_of(5 * known + 2)
    expected = model(torch.from_numpy(known).float())
    with torch.no_grad():
        assert (model(strange.batch(torch.arange(600))[0]) - expected).abs().max() > 1
        adapted = adapt_batch_norm(model, strange)(strange.batch(torch.arange(600))[0])
    torch.testing.assert_close(adapted, expected, atol=1e-2, rtol=0)


def test_what_cannot_be_adapted_is_refused() -> None:
    class Plain(Normalised):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.Identity()

    with pytest.raises(ModelError, match="the model has no batch normalisation, so there is nothing to adapt"):
        adapt_batch_norm(Plain(), clips_of(noises(3)))
    with pytest.raises(ModelError, match="there are no clips"):
        adapt_batch_norm(Normalised(), clips_of(noises(3))[:0])
    with pytest.raises(ModelError, match="made for"):
        adapt_batch_norm(LogMelCNN(2, sample_rate=1000, n_mels=8), clips_of(noises(3)))
