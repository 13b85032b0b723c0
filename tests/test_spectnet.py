"""The networks for heart sounds: the published one to the last parameter, a lean one, two baselines."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from course_lib.models import GammatoneCNN1d, GammatoneCNN2d, LeanSpectNet, SpectNet

BANDS_AND_FRAMES = (16, 240)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def on_images(kind: type[nn.Module], bands: int = 16, frames: int = 240, **settings: object) -> nn.Module:
    """A network that takes images, flattened to "waveforms", instead of making them."""
    torch.manual_seed(0)
    front_end = nn.Unflatten(1, (bands, frames))
    if kind is not LeanSpectNet:
        settings["clip_samples"] = bands * frames
    return kind(n_filters=bands, front_end=front_end, **settings).eval()


# SpectNet


def test_spectnet_has_the_published_number_of_parameters() -> None:
    model = SpectNet()
    assert model.front_end(torch.zeros(1, 2500)).shape[1:] == BANDS_AND_FRAMES
    assert parameters(model.front_end) == 48
    assert parameters(model) == 1_060_094 + 48
    assert model.features(torch.zeros(1, 1, *BANDS_AND_FRAMES)).shape == (1, 7680)


def test_a_static_spectnet_has_no_parameters_in_its_front_end() -> None:
    model = SpectNet(n_filters=4, learnable=False)
    assert parameters(model.front_end) == 0
    assert model.front_end(torch.zeros(1, 2500)).shape == (1, 4, 240)


def test_the_layers_of_spectnet_halve_the_image_and_double_the_channels() -> None:
    model, shapes = on_images(SpectNet), []
    for layer in model.features[:-1]:
        layer.register_forward_hook(lambda _layer, _inputs, output: shapes.append(tuple(output.shape[1:])))
    model(torch.zeros(1, 16 * 240))
    assert shapes == [(16, 17, 244), (32, 8, 122), (64, 4, 61), (128, 2, 30)]


@pytest.mark.parametrize(("bands", "frames"), [(2, 240), (4, 240), (5, 237), (8, 60), (17, 61), (46, 33)])
def test_spectnet_is_built_for_images_of_any_size(bands: int, frames: int) -> None:
    model = on_images(SpectNet, bands, frames, n_classes=3)
    assert model(torch.randn(2, bands * frames)).shape == (2, 3)


@pytest.mark.parametrize("block", [1, 2, 3])
def test_a_shortcut_is_max_pooling_and_zeros(block: int) -> None:
    layer = on_images(SpectNet).features[block]
    images = torch.randn(2, 8 * 2**block, 17, 244)
    for last in [module for module in layer.branch if isinstance(module, nn.BatchNorm2d)][-1:]:
        nn.init.zeros_(last.weight)  # the branch puts out nothing
    output = layer(images)
    _, channels, height, width = output.shape
    assert channels == 16 * 2**block
    pooled = functional.max_pool2d(images, 2)[:, :, :height, :width]
    kept = output[:, : channels // 2, : pooled.shape[2], : pooled.shape[3]]
    assert torch.equal(kept, pooled)
    assert not output[:, channels // 2 :].any()


def test_building_a_network_leaves_batch_normalisation_untouched_and_in_training() -> None:
    front_end = nn.Sequential(nn.Unflatten(1, BANDS_AND_FRAMES), nn.BatchNorm1d(16))
    model = SpectNet(clip_samples=16 * 240, front_end=front_end)
    for layer in model.modules():
        assert layer.training
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            assert layer.num_batches_tracked == 0


def test_with_softmax_it_puts_out_probabilities() -> None:
    waveforms = torch.randn(3, 16 * 240)
    logits, probabilities = (on_images(SpectNet, softmax=softmax)(waveforms) for softmax in (False, True))
    torch.testing.assert_close(probabilities, logits.softmax(dim=1))


@pytest.mark.parametrize("level", [1.0, 1e-3])
def test_standardised_images_have_mean_0_and_deviation_1_whatever_the_level(level: float) -> None:
    model = SpectNet(standardise=True)
    images = model.front_end(level * torch.randn(3, 2500))
    assert parameters(model) == 1_060_094 + 48
    torch.testing.assert_close(images.mean(dim=(1, 2)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(images.std(dim=(1, 2), correction=0), torch.ones(3), atol=1e-3, rtol=0)
    assert model.eval()(torch.zeros(1, 2500)).isfinite().all()


# All of them


@pytest.mark.parametrize("kind", [SpectNet, GammatoneCNN1d, GammatoneCNN2d])
def test_clips_of_another_length_are_refused_and_those_too_short_cannot_be_asked_for(kind: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match="built for clips of 2500 samples and got 2499"):
        kind(n_filters=4)(torch.zeros(1, 2499))
    with pytest.raises(ValueError, match="samples"):
        kind(n_filters=4, clip_samples=100)


@pytest.mark.parametrize("kind", [SpectNet, LeanSpectNet, GammatoneCNN1d, GammatoneCNN2d])
def test_dropout_acts_in_training_only(kind: type[nn.Module]) -> None:
    model, waveforms = on_images(kind, 4, 64), torch.randn(3, 4 * 64)
    assert torch.equal(model(waveforms), model(waveforms))
    model.train()
    assert not torch.equal(model(waveforms), model(waveforms))


@pytest.mark.parametrize("kind", [SpectNet, LeanSpectNet])
def test_the_filters_learn_from_the_logits(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind(n_filters=3)
    functional.cross_entropy(model(torch.randn(4, 2500) / 10), torch.tensor([0, 1, 0, 1])).backward()
    filters = list(model.front_end.parameters())
    assert len(filters) == 3  # centre frequencies, bandwidths, gains
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in filters)


# The lean network


def test_the_lean_network_counted_by_hand() -> None:
    stem = 16 * (15 + 2)
    blocks = sum(9 * one * two + 9 * two * two + one * two + 6 * two for one, two in ((16, 32), (32, 64), (64, 128)))
    head = (128 * 2 + 1) * 96 + (2 * 96 + 1) * 2
    assert stem + blocks + head == 327_730
    assert parameters(LeanSpectNet()) == 327_730 + 48
    assert parameters(LeanSpectNet(learnable=False)) == 327_730


@pytest.mark.parametrize("samples", [25, 300, 2500, 6000])
@pytest.mark.parametrize("bands", [4, 7])
def test_the_lean_network_takes_clips_of_any_length(samples: int, bands: int) -> None:
    model = LeanSpectNet(n_filters=bands).eval()
    assert model.embed(torch.randn(2, samples)).shape == (2, 192)
    assert model(torch.randn(2, samples)).shape == (2, 2)
    with pytest.raises(ValueError, match="samples"):
        model(torch.zeros(1, 24))


def test_the_lean_network_does_not_hear_how_loud_a_clip_is() -> None:
    torch.manual_seed(0)
    model, waveforms = LeanSpectNet(n_filters=8).eval(), torch.randn(2, 1000) / 10
    with torch.no_grad():
        torch.testing.assert_close(model(waveforms / 4), model(waveforms), rtol=1e-3, atol=1e-3)


def test_the_lean_network_has_a_block_for_each_further_number_of_channels() -> None:
    model = on_images(LeanSpectNet, 16, 248, channels=(4, 6, 8, 10, 12))
    assert model.features(torch.zeros(1, 1, 16, 248)).shape == (1, 12, 1, 8)


# The baselines


def test_the_baselines_counted_by_hand() -> None:
    # Frames: (240 - 4) // 2 = 118, (118 - 4) // 2 = 57; images: 8 x 60, 4 x 15.
    bands = 16 * (8 * (5 + 1 + 2) + 4 * (8 * 5 + 1 + 2))
    assert parameters(GammatoneCNN1d()) == bands + (16 * 4 * 57 + 1) * 20 + 21 * 2 == 76_798
    images = 16 * (63 + 1 + 2) + 32 * (16 * 33 + 1 + 2)
    assert parameters(GammatoneCNN2d()) == images + (32 * 4 * 15 + 1) * 100 + 101 * 2 == 210_350


def test_the_bands_of_the_one_dimensional_network_meet_in_the_dense_layer_only() -> None:
    model, images = on_images(GammatoneCNN1d, 6, 40), torch.randn(1, 6, 40)
    before = model.features(images[:, None]).unflatten(1, (6, -1))
    images[:, 2] += torch.randn(40)
    after = model.features(images[:, None]).unflatten(1, (6, -1))
    changed = (before != after).any(dim=2)[0]
    assert changed.tolist() == [False, False, True, False, False, False]


def test_the_two_dimensional_network_sees_neighbouring_bands_together() -> None:
    model, images = on_images(GammatoneCNN2d, 6, 40), torch.randn(1, 6, 40)
    before = model.features[0](images[:, None])
    images[:, 2] += torch.randn(40)
    changed = (before != model.features[0](images[:, None])).any(dim=3).any(dim=1)[0]
    assert changed.tolist() == [False, True, True, True, False, False]
