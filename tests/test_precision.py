"""Every layer in every floating-point type: results of the type that was asked for, computed in float32 at least."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from course_lib import layers, models

RATE = 8000
FRONT_ENDS: dict[str, Callable[[], nn.Module]] = {
    "LogSpectrogram": layers.LogSpectrogram,
    "PowerSpectrogram": layers.PowerSpectrogram,
    "LogMel": lambda: layers.LogMel(RATE),
    "LogMel, stretched": lambda: layers.LogMel(RATE, width=20),
    "MFCC": lambda: layers.MFCC(RATE),
    "CycleBands": lambda: layers.CycleBands(RATE // 4),
    "GammatoneFilterbank": lambda: layers.GammatoneFilterbank(8, RATE),
    "GammatoneFilterbank, fft": lambda: layers.GammatoneFilterbank(8, RATE, backend="fft", compression="log1p"),
    "GammatoneFilterbank, reference": lambda: layers.GammatoneFilterbank(8, RATE, backend="reference"),
    "GammatoneFilterbank, pcen": lambda: layers.GammatoneFilterbank(8, RATE, compression="pcen", learnable=False),
    "GammatoneFilterbank.spectnet": lambda: layers.GammatoneFilterbank.spectnet(8),
}
ON_WAVEFORMS: dict[str, Callable[[], nn.Module]] = {
    "NormaliseLevel": layers.NormaliseLevel,
    "TrimSilence": layers.TrimSilence,
    "RandomGain": layers.RandomGain,
    "RandomShift": layers.RandomShift,
    "RandomSpeed": layers.RandomSpeed,
    "RandomStart": layers.RandomStart,
    "RandomTrim": layers.RandomTrim,
    "AddNoise": layers.AddNoise,
    "MixBackground": layers.MixBackground,
    "RandomBandFilter": lambda: layers.RandomBandFilter(RATE),
    "RandomChannel": layers.RandomChannel,
    "RandomRoom": lambda: layers.RandomRoom(RATE),
    "TimeMask": layers.TimeMask,
}
ON_IMAGES: dict[str, Callable[[], nn.Module]] = {
    "Decibels": layers.Decibels,
    "BandStatistics": layers.BandStatistics,
    "Standardise": layers.Standardise,
    "StandardiseBands": lambda: layers.StandardiseBands(20),
    "RandomCrop": layers.RandomCrop,
    "RandomEqualiser": layers.RandomEqualiser,
    "TimeFrequencyWarp": layers.TimeFrequencyWarp,
    "SpecAugment": layers.SpecAugment,
    "SpectrumMatching": layers.SpectrumMatching,
    "FreqMixStyle": layers.FreqMixStyle,
}
ON_ANYTHING = ON_WAVEFORMS | ON_IMAGES
TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
# What rounding to a type may change, as a fraction.
ROUNDING = {torch.float16: 1e-3, torch.bfloat16: 1e-2, torch.float32: 1e-5, torch.float64: 1e-5}

front_ends = pytest.mark.parametrize("name", FRONT_ENDS)
types = pytest.mark.parametrize("dtype", TYPES, ids=str)


def waveforms() -> Tensor:
    batch = torch.randn(3, 4000, generator=torch.Generator().manual_seed(0), dtype=torch.float32) / 8
    batch[1, 3000:] = 0
    return batch


def batch_for(name: str) -> Tensor:
    """Something to put into a layer: waveforms, or powers as an image."""
    if name in ON_WAVEFORMS:
        return waveforms()
    return torch.rand(3, 20, 150, generator=torch.Generator().manual_seed(0), dtype=torch.float32)


@pytest.fixture(params=[torch.float64, torch.bfloat16], ids=str)
def default_dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


def test_no_layer_is_forgotten() -> None:
    tested = {name.split(",")[0] for name in FRONT_ENDS} | set(ON_ANYTHING) | {"GradientReversal"}
    assert set(layers.__all__) <= tested


@front_ends
@types
def test_an_image_has_the_type_of_its_module_and_is_computed_exactly(name: str, dtype: torch.dtype) -> None:
    layer = FRONT_ENDS[name]()
    expected = layer(waveforms()).double()
    converted = copy.deepcopy(layer).to(dtype)
    for batch in (waveforms(), waveforms().to(dtype)):
        image = converted(batch)
        assert image.dtype == dtype and image.isfinite().all()
    torch.testing.assert_close(
        converted(waveforms()).double(), expected, rtol=ROUNDING[dtype], atol=10 * ROUNDING[dtype]
    )


@front_ends
def test_there_and_back_loses_nothing(name: str) -> None:
    layer = FRONT_ENDS[name]()
    expected = layer(waveforms())
    assert torch.equal(layer.half().bfloat16().float()(waveforms()), expected)
    assert torch.equal(layer.double().half().float()(waveforms()), expected)


@front_ends
def test_a_layer_has_the_default_type_of_when_it_was_made(name: str, default_dtype: torch.dtype) -> None:
    layer = FRONT_ENDS[name]()
    image = layer(waveforms())
    assert image.dtype == default_dtype
    assert layer.float()(waveforms()).dtype == torch.float32
    torch.set_default_dtype(torch.float32)
    single = FRONT_ENDS[name]()(waveforms())
    tolerance = ROUNDING[default_dtype]
    torch.testing.assert_close(image.double(), single.double(), rtol=tolerance, atol=20 * tolerance)


@pytest.mark.parametrize("name", ON_ANYTHING)
@types
def test_what_has_no_weights_keeps_the_type_of_its_input(name: str, dtype: torch.dtype) -> None:
    layer, batch = ON_ANYTHING[name]().train(), batch_for(name).to(dtype)
    torch.manual_seed(0)
    changed = layer(batch)
    torch.manual_seed(0)
    expected = layer(batch.float())
    assert changed.dtype == dtype
    torch.testing.assert_close(changed.double(), expected.double(), rtol=ROUNDING[dtype], atol=2 * ROUNDING[dtype])


@pytest.mark.parametrize("name", ON_ANYTHING)
def test_the_default_type_does_not_matter_without_weights(name: str, default_dtype: torch.dtype) -> None:
    results = []
    for dtype in (default_dtype, torch.float32):
        torch.set_default_dtype(dtype)
        torch.manual_seed(0)
        results.append(ON_ANYTHING[name]().train()(batch_for(name)))
    assert results[0].dtype == torch.float32
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-6)


NETWORKS = [
    value
    for value in vars(models).values()
    if isinstance(value, type)
    and issubclass(value, models.Classifier)
    and value not in (models.Classifier, models.DomainAdversarial)
]


@pytest.mark.parametrize("network", NETWORKS)
@types
def test_networks_take_waveforms_of_their_own_type(network: type[models.Classifier], dtype: torch.dtype) -> None:
    model = network(n_classes=3).to(dtype).eval()
    clips = torch.randn(2, model.clip_samples or 20_000) / 8
    with torch.no_grad():
        logits = model(clips.to(dtype))
    assert logits.shape == (2, 3) and logits.dtype == dtype and logits.isfinite().all()


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_can_be_made_in_float64(network: type[models.Classifier], default_dtype: torch.dtype) -> None:
    model = network(n_classes=3)
    model(torch.randn(2, model.clip_samples or 20_000)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_filterbank_in_half_precision_learns(dtype: torch.dtype) -> None:
    layer = layers.GammatoneFilterbank(8, RATE).to(dtype)
    layer(waveforms()).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
    torch.optim.SGD(layer.parameters(), lr=1e-3).step()


@pytest.mark.parametrize("name", [*FRONT_ENDS, *ON_ANYTHING])
def test_a_clip_with_nan_never_looks_like_a_sound(name: str) -> None:
    """What is not a number stays not a number, and only in its own clip."""
    if name in FRONT_ENDS:
        layer, batch = FRONT_ENDS[name](), waveforms()
    else:
        layer, batch = ON_ANYTHING[name]().eval(), batch_for(name)
    expected = layer(batch)
    batch[1].view(-1)[300] = torch.nan
    result = layer(batch)
    assert result[1].isnan().any()
    assert torch.equal(result[[0, 2]], expected[[0, 2]])


@front_ends
def test_front_ends_compile(name: str) -> None:
    layer = FRONT_ENDS[name]()
    compiled = torch.compile(
        layer, fullgraph="Spectrogram" in name or name == "GammatoneFilterbank", backend="aot_eager"
    )
    torch.testing.assert_close(compiled(waveforms()), layer(waveforms()), rtol=1e-4, atol=1e-4)
    torch.compiler.reset()


@pytest.mark.parametrize("name", ON_ANYTHING)
def test_the_other_layers_compile(name: str) -> None:
    layer, batch = ON_ANYTHING[name]().train(), batch_for(name)
    assert torch.compile(layer, fullgraph=True, backend="aot_eager")(batch).shape == layer(batch).shape
    torch.compiler.reset()
