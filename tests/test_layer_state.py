"""Weights know the settings that they were trained with: a front end of others refuses them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import safetensors.torch
import torch
from torch import nn

from course_lib.layers import MFCC, GammatoneFilterbank, LogMel, LogSpectrogram, PowerSpectrogram

PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], str]] = {
    "gammatone, rate": (
        lambda: GammatoneFilterbank(8, 8000),
        lambda: GammatoneFilterbank(8, 16_000),
        "sample_rate 8000",
    ),
    "gammatone, range": (
        lambda: GammatoneFilterbank(8, 8000, f_min=50),
        lambda: GammatoneFilterbank(8, 8000),
        "f_min 50.*this one has f_min 0",
    ),
    "gammatone, order": (
        lambda: GammatoneFilterbank(8, 8000, order=2),
        lambda: GammatoneFilterbank(8, 8000),
        "order 2",
    ),
    "gammatone, window": (
        lambda: GammatoneFilterbank(8, 8000, window_s=0.05),
        lambda: GammatoneFilterbank(8, 8000),
        "window 400",
    ),
    "gammatone, compression": (
        lambda: GammatoneFilterbank(8, 8000, compression=None),
        lambda: GammatoneFilterbank(8, 8000),
        "compression None",
    ),
    "gammatone, published": (
        lambda: GammatoneFilterbank.spectnet(8),
        lambda: GammatoneFilterbank(8, 1000, window_s=0.025, eps=1e-16),
        "amplitude",
    ),
    "mel, rate": (lambda: LogMel(8000), lambda: LogMel(16_000), "sample_rate 8000, f_max 4000"),
    "mel, range": (lambda: LogMel(8000, f_min=60), lambda: LogMel(8000), "f_min 60"),
    "mel, hop": (lambda: LogMel(8000, hop_length=64), lambda: LogMel(8000), "hop_length 64"),
    "mel, n_fft": (lambda: LogMel(8000, n_fft=512), lambda: LogMel(8000), "n_fft 512"),
    "mfcc, rate": (lambda: MFCC(8000), lambda: MFCC(16_000), "sample_rate 8000"),
    "spectrogram, n_fft": (lambda: LogSpectrogram(128, 64), LogSpectrogram, "n_fft 128"),
    "spectrogram, stretch": (lambda: LogSpectrogram(stretch=False), LogSpectrogram, "stretch False"),
    "power, log": (lambda: PowerSpectrogram(log=True), PowerSpectrogram, "log True"),
}
every = pytest.mark.parametrize("pair", PAIRS)


def network(front_end: nn.Module) -> nn.Module:
    return nn.ModuleDict({"front_end": nn.Sequential(front_end), "classify": nn.Linear(3, 2)})


@every
def test_weights_of_other_settings_are_refused_and_change_nothing(pair: str) -> None:
    make, make_other, message = PAIRS[pair]
    trained, other = network(make()), network(make_other())
    before = {name: tensor.clone() for name, tensor in other["front_end"].state_dict().items()}
    with pytest.raises(RuntimeError, match=message):
        other.load_state_dict(trained.state_dict())
    with pytest.raises(RuntimeError, match="build the layer with the settings that the weights were trained with"):
        other.load_state_dict(trained.state_dict(), strict=False)
    assert all(torch.equal(before[name], tensor) for name, tensor in other["front_end"].state_dict().items())


@every
def test_the_same_settings_load_from_safetensors(pair: str) -> None:
    for make in PAIRS[pair][:2]:
        content = safetensors.torch.save(network(make()).state_dict())
        network(make()).load_state_dict(safetensors.torch.load(content))
        network(make()).half().load_state_dict(network(make()).bfloat16().state_dict())


@every
def test_weights_stored_before_there_were_settings_load_all_the_same(pair: str) -> None:
    make = PAIRS[pair][0]
    state = {name: tensor for name, tensor in network(make()).state_dict().items() if "_extra_state" not in name}
    network(make()).load_state_dict(state)
    network(make()).load_state_dict(state, strict=True)


def test_old_weights_with_the_mel_bands_of_another_rate_are_refused() -> None:
    for make in (LogMel, MFCC):
        state = {name: tensor for name, tensor in make(8000).state_dict().items() if "_extra_state" not in name}
        with pytest.raises(RuntimeError, match="whose windows or bands are others"):
            make(16_000).load_state_dict(state)


def test_damaged_settings_are_refused() -> None:
    layer = LogSpectrogram()
    for damaged in (torch.tensor([1, 2, 3], dtype=torch.uint8), torch.tensor(5), torch.tensor([0.5])):
        with pytest.raises(RuntimeError, match="stored settings of this LogSpectrogram are damaged"):
            layer.load_state_dict({"_extra_state": damaged})


def test_how_a_filterbank_began_and_is_computed_does_not_matter() -> None:
    learned = GammatoneFilterbank(6, 8000, learnable=True, backend="fft")
    other = GammatoneFilterbank(6, 8000, centre_frequencies="linear", bandwidths=90.0, learnable=False)
    other.load_state_dict(learned.state_dict())
    torch.testing.assert_close(other.centre_frequencies, learned.centre_frequencies)
