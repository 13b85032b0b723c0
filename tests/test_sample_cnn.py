"""Networks on samples: as deep as the clip is long, of the published size, and strict about the length."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from course_lib.layers import RandomGain
from course_lib.models import SampleCNN, StridedSampleCNN
from course_lib.models.sample_cnn import frames_left, sample_level_blocks, strided_layers


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def strided(**options: object) -> StridedSampleCNN:
    """A small one, in evaluation mode."""
    torch.manual_seed(0)
    return StridedSampleCNN(**({"clip_samples": 400, "stride": 16} | options)).eval()


# Sample by sample


def sample_cnn_parameters(width: int, blocks: int, classes: int) -> int:
    """Counted block by block: three taps a convolution, two numbers a channel for batch normalisation."""
    channels = [1, width, *(width * 2 ** (number // 3) for number in range(blocks))]
    counted = sum(3 * before * after + 2 * after for before, after in pairwise(channels))
    return counted + (channels[-1] + 1) * classes


@pytest.mark.parametrize(
    ("samples", "blocks", "frames"),
    [(9, 1, 1), (26, 1, 2), (27, 2, 1), (243, 4, 1), (729, 5, 1), (6561, 7, 1), (8000, 7, 1), (19_683, 8, 1)],
)
def test_the_clip_length_decides_on_the_depth(samples: int, blocks: int, frames: int) -> None:
    layers = sample_level_blocks(samples, 4)
    assert len(layers) == 1 + blocks
    with torch.no_grad():
        out = layers.eval()(torch.zeros(1, 1, 1, samples))
    assert out.shape == (1, 4 * 2 ** ((blocks - 1) // 3), 1, frames)


@settings(max_examples=12)
@given(st.integers(9, 20_000))
def test_one_or_two_frames_are_left_of_any_clip(samples: int) -> None:
    blocks = len(sample_level_blocks(samples, 1))
    assert blocks == int(math.log(samples, 3) + 1e-9)
    assert 1 <= samples // 3**blocks <= 2


def test_the_number_of_its_parameters() -> None:
    assert parameters(SampleCNN()) == sample_cnn_parameters(32, 7, 10) == 66_794
    assert parameters(SampleCNN(3, 729, width=8)) == sample_cnn_parameters(8, 5, 3)


@pytest.mark.parametrize("samples", [8, 1, 0])
def test_a_clip_of_less_than_two_blocks_is_too_short(samples: int) -> None:
    with pytest.raises(ValueError, match=f"{samples} samples is too short for a SampleCNN; it needs 9"):
        SampleCNN(clip_samples=samples)


def test_three_samples_at_a_time_by_hand() -> None:
    torch.manual_seed(0)
    model = SampleCNN(2, clip_samples=9, width=1).eval()
    clip = torch.tensor([0.3, -0.2, 0.5, 0.1, 0.9, -0.7, 0.4, 0.4, 0.2])
    first, second = (block[0].weight.detach().flatten() for block in model.features)
    scale = 1 / (1 + 1e-5) ** 0.5  # of batch normalisation that has seen nothing yet
    frames = [max(0.0, scale * float(first @ clip[start : start + 3])) for start in (0, 3, 6)]
    padded = torch.tensor([0.0, *frames, 0.0])
    loudest = max(scale * float(second @ padded[place : place + 3]) for place in range(3))
    torch.testing.assert_close(model.embed(clip[None]), torch.tensor([[max(0.0, loudest)]]))


# In strides


def strided_parameters(frames: int, classes: int) -> int:
    convolutions = 256 * 16 + 2 * 16 * 16 + 2 * 16 * 32 + 32 * 64
    return convolutions + 3 * (16 + 16 + 32 + 64) + (64 * frames + 1) * classes  # a bias and two of normalisation


def test_the_strided_network_has_the_published_size() -> None:
    assert parameters(StridedSampleCNN()) == strided_parameters(17, 10) == 18_954
    assert parameters(strided(n_classes=3)) == strided_parameters(frames_left(400, 16), 3)


@settings(max_examples=15)
@given(st.integers(1, 40), st.integers(0, 500))
def test_the_frames_left_are_those_that_come_out(stride: int, more: int) -> None:
    samples = 256 + 6 * stride + more
    with torch.no_grad():
        out = strided_layers(stride).eval()(torch.zeros(1, 1, samples))
    assert out.shape == (1, 64, frames_left(samples, stride))


def test_a_clip_without_a_frame_left_is_too_short() -> None:
    assert frames_left(256 + 6 * 16, 16) == 1
    with pytest.raises(ValueError, match="a stride is at least 1, not 0"):
        frames_left(400, 0)
    with pytest.raises(ValueError, match="351 samples is too short; a stride of 16 needs 352"):
        StridedSampleCNN(clip_samples=351, stride=16)


def test_a_bias_before_the_normalisation_changes_nothing_while_it_trains() -> None:
    torch.manual_seed(0)
    biased = StridedSampleCNN(dropout=0.0).train()
    free = StridedSampleCNN(dropout=0.0, bias=False).train()
    free.load_state_dict({name: biased.state_dict()[name] for name in free.state_dict()})
    biases = [layer.bias for layer in biased.features.modules() if isinstance(layer, nn.Conv1d)]
    assert sum(bias.numel() for bias in biases) == 16 + 16 + 32 + 64
    with torch.no_grad():
        for bias in biases:
            bias.normal_()
    waveforms = torch.randn(8, 18_400)
    torch.testing.assert_close(biased(waveforms), free(waveforms), rtol=1e-3, atol=1e-4)


def test_unscaled_is_the_same_network_fed_with_integers() -> None:
    waveforms = torch.randint(-32_768, 32_768, (3, 400)) / 32_768
    plain, unscaled = strided(), strided(unscaled=True)
    assert torch.equal(unscaled(waveforms), plain(32_768 * waveforms))
    assert not torch.equal(unscaled(waveforms), plain(waveforms))


def test_unscaled_comes_behind_the_front_end() -> None:
    class Half(nn.Module):
        def forward(self, waveforms: Tensor) -> Tensor:
            return waveforms / 2

    waveforms = torch.randn(2, 400) / 10
    halved, plain = strided(unscaled=True, front_end=Half()), strided()
    torch.testing.assert_close(halved(waveforms), plain(16_384 * waveforms))


def test_sigmoid_squeezes_the_outputs_so_that_the_loss_has_a_floor() -> None:
    waveforms = torch.randn(5, 400)
    plain, squeezed = strided(), strided(sigmoid=True)
    torch.testing.assert_close(squeezed(waveforms), 1 / (1 + torch.exp(-plain(waveforms))))
    with torch.no_grad():  # as sure of class 3 as can be
        squeezed.last_layer.weight.zero_()
        squeezed.last_layer.bias.copy_(torch.where(torch.arange(10) == 3, 50.0, -50.0))
    outputs = squeezed(waveforms)
    assert outputs.min() >= 0 and outputs.max() <= 1
    loss = functional.cross_entropy(outputs, torch.full((5,), 3)).item()
    assert loss == pytest.approx(math.log(math.e + 9) - 1, abs=1e-5) == pytest.approx(1.46, abs=0.005)
    with torch.no_grad():
        plain.last_layer.weight.zero_()
        plain.last_layer.bias.copy_(squeezed.last_layer.bias)
    assert functional.cross_entropy(plain(waveforms), torch.full((5,), 3)).item() < 1e-6


@pytest.mark.parametrize("model", [SampleCNN(2, 27, 4), strided()], ids=lambda model: type(model).__name__)
def test_clips_of_another_length_are_refused(model: nn.Module) -> None:
    for samples in (model.clip_samples - 1, model.clip_samples + 1):
        with pytest.raises(ValueError, match=f"clips of {model.clip_samples} samples and got {samples}"):
            model(torch.zeros(2, samples))


def test_augmentation_in_front_acts_in_training_only() -> None:
    model, waveforms = SampleCNN(2, 81, 4, front_end=RandomGain()).eval(), torch.randn(2, 81)
    assert torch.equal(model(waveforms), model(waveforms))
    with torch.no_grad():
        assert not torch.equal(model.front_end.train()(waveforms), waveforms)
