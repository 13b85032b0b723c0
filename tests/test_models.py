"""The spectrogram CNN is the published network, and takes any batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from course_lib.models import SpectrogramCNN


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture
def model() -> SpectrogramCNN:
    torch.manual_seed(0)
    return SpectrogramCNN().eval()


def test_it_has_the_published_number_of_parameters(model: SpectrogramCNN) -> None:
    assert parameters(model) == 84_682
    assert parameters(SpectrogramCNN(n_classes=2)) == 84_682 - 8 * 1601


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("samples", [256, 1000, 18_400])
def test_waveforms_become_logits(model: SpectrogramCNN, batch: int, samples: int) -> None:
    waveforms = torch.randn(batch, samples)
    logits = model(waveforms)
    assert logits.shape == (batch, 10) and logits.isfinite().all()
    assert model.embed(waveforms).shape == (batch, 1600)


def test_the_logits_are_a_linear_map_of_the_features(model: SpectrogramCNN) -> None:
    waveforms = torch.randn(2, 800)
    torch.testing.assert_close(model(waveforms), model.classify(model.embed(waveforms)))


def test_clips_do_not_influence_each_other(model: SpectrogramCNN) -> None:
    waveforms = torch.randn(4, 800)
    torch.testing.assert_close(model(waveforms)[2:3], model(waveforms[2:3]), rtol=1e-4, atol=1e-5)


def test_silence_has_finite_logits(model: SpectrogramCNN) -> None:
    assert model(torch.zeros(1, 800)).isfinite().all()


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model, waveforms = SpectrogramCNN(3, dropout=0.5), torch.randn(2, 800)
    assert not torch.equal(model(waveforms), model(waveforms))
    torch.testing.assert_close(model.embed(waveforms), model.embed(waveforms))
    model.eval()
    assert torch.equal(model(waveforms), model(waveforms))


def test_a_front_end_of_ones_own() -> None:
    class Fold(nn.Module):
        def forward(self, waveforms: Tensor) -> Tensor:
            return waveforms.unflatten(1, (64, 64))

    model = SpectrogramCNN(5, front_end=Fold())
    assert model(torch.randn(2, 4096)).shape == (2, 5)
    assert parameters(model) == parameters(SpectrogramCNN(5))


@pytest.mark.parametrize("waveforms", [torch.zeros(1, 100), torch.zeros(800), torch.zeros(1, 800, dtype=torch.int16)])
def test_what_is_no_batch_of_waveforms_is_refused(model: SpectrogramCNN, waveforms: Tensor) -> None:
    with pytest.raises(ValueError, match="samples"):
        model(waveforms)


def test_every_parameter_learns(model: SpectrogramCNN) -> None:
    model.train()(torch.randn(4, 800)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
