"""The gammatone layer: its settings, its filters, what it does with odd input, and that it learns."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import scipy.signal
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from course_lib.layers import GammatoneFilterbank
from course_lib.layers.gammatone import response, scales

BACKENDS = ["reference", "fft", "recursive"]
every = pytest.mark.parametrize("backend", BACKENDS)


def noises(clips: int = 3, samples: int = 800, seed: int = 0) -> Tensor:
    return torch.randn(clips, samples, generator=torch.Generator().manual_seed(seed)) / 4


# The filters


@pytest.mark.parametrize("f", [100, 440, 1500, 3000])
def test_the_magnitude_is_that_of_scipys_gammatone(f: int) -> None:
    numerator, denominator = scipy.signal.gammatone(f, "fir", fs=8000, numtaps=2000)
    at, theirs = scipy.signal.freqz(numerator, denominator, worN=np.linspace(20, 3980, 300), fs=8000)
    layer = GammatoneFilterbank(1, 8000, centre_frequencies=[f], bandwidths=1.019 * 24.7 * (4.37 * f / 1000 + 1))
    ours = layer.frequency_response(torch.from_numpy(at)).detach().abs()[0].numpy()
    theirs = np.abs(theirs)
    np.testing.assert_allclose(ours / ours.max(), theirs / theirs.max(), atol=2e-3)


@pytest.mark.parametrize("order", range(1, 7))
def test_frequency_responses_are_the_transform_of_impulse_responses(order: int) -> None:
    layer = GammatoneFilterbank(10, 8000, order=order).double()
    responses = layer.impulse_responses(0.5)
    assert responses.shape == (10, 4000)
    at = torch.fft.rfftfreq(4000, 1 / 8000).double()
    torch.testing.assert_close(layer.frequency_response(at), torch.fft.rfft(responses), rtol=1e-6, atol=1e-6)


def test_long_responses_are_exact_in_single_precision() -> None:
    """The phase of a narrow filter at a high frequency reaches ten thousands of radians."""
    decay, frequency = torch.tensor([1e-3]), torch.tensor([2.5])
    single, double = (
        response.impulse_response(decay.to(dtype), frequency.to(dtype), 4, 30_000)
        for dtype in (torch.float32, torch.float64)
    )
    assert single.dtype == torch.float32
    assert (single - double).abs().max() < 1e-7 * double.abs().max()


@pytest.mark.parametrize("bandwidth", [20.0, 60.0, 180.0])
def test_the_bandwidth_does_not_change_the_level(bandwidth: float) -> None:
    layer = GammatoneFilterbank(1, 8000, centre_frequencies=[1000], bandwidths=bandwidth)
    time = torch.arange(8000) / 8000
    energy = layer.energies(torch.sin(2 * math.pi * 1000 * time)[None])[0, 0, -1]
    torch.testing.assert_close(energy.detach(), torch.tensor(0.5), rtol=2e-3, atol=0)


def test_the_filters_have_the_bandwidth_of_the_ear() -> None:
    for order in (2, 4, 6):
        layer = GammatoneFilterbank(1, 32000, order=order, centre_frequencies=[1000])
        at = torch.linspace(0, 16000, 40_000)
        power = layer.frequency_response(at).detach().abs().square()[0]
        assert float(power.sum() * at[1]) == pytest.approx(24.7 * (1 + 4.37), rel=0.01)


def test_published_layer() -> None:
    """The front end of SpectNet as a plain convolution, reversed in time because it correlates."""
    layer, waveforms = GammatoneFilterbank.spectnet(), noises(2, 2500)
    mel = np.linspace(0, 2595 * np.log10(1 + 500 / 700), 16)
    centres = torch.from_numpy(700 * (10 ** (mel / 2595) - 1))[:, None]
    time = torch.arange(81) / 1000
    kernels = time**3 * torch.exp(-2 * math.pi * 100 * time) * torch.cos(2 * math.pi * centres * time)
    outputs = functional.conv1d(waveforms[:, None].double(), kernels.flip(1)[:, None])
    window = torch.zeros(16, 16, 25, dtype=torch.float64)
    window[range(16), range(16)] = 1
    expected = torch.log(functional.conv1d(outputs.square(), window, stride=10) + 1e-16)
    image = layer(waveforms)
    assert image.shape == (2, 16, 240)
    torch.testing.assert_close(image.double(), expected, rtol=0, atol=1e-3)


def test_published_layer_learns_like_the_published_layer() -> None:
    layer, waveforms = GammatoneFilterbank.spectnet(4).double(), noises(2, 600).double()
    f = layer.centre_frequencies.detach().requires_grad_()
    b = layer.bandwidths.detach().requires_grad_()
    time = torch.arange(81, dtype=torch.float64) / 1000
    kernels = time**3 * torch.exp(-2 * math.pi * b[:, None] * time) * torch.cos(2 * math.pi * f[:, None] * time)
    outputs = functional.conv1d(waveforms[:, None], kernels.flip(1)[:, None])
    image = torch.log(25 * functional.avg_pool1d(outputs.square(), 25, 10) + 1e-16)
    expected = torch.autograd.grad(image.square().sum(), (f, b))
    hertz = layer.centre_frequencies, layer.bandwidths
    widths = layer.bandwidths
    layer_image = layer(waveforms)
    torch.testing.assert_close(layer_image, image, rtol=0, atol=1e-6)
    raw = torch.autograd.grad(layer_image.square().sum(), (layer.raw_centre_frequency, layer.raw_bandwidth))
    by_raw_bandwidth = expected[1] * torch.autograd.grad(widths.sum(), layer.raw_bandwidth, retain_graph=True)[0]
    torch.testing.assert_close(raw[1], by_raw_bandwidth, rtol=1e-4, atol=1e-8)
    by_raw_centre = torch.autograd.grad(hertz, layer.raw_centre_frequency, expected)[0]
    torch.testing.assert_close(raw[0], by_raw_centre, rtol=1e-4, atol=1e-8)


# Settings


@pytest.mark.parametrize("spacing", ["mel", "erb", "linear", "log"])
def test_spacings(spacing: str) -> None:
    layer = GammatoneFilterbank(12, 16000, f_min=50, f_max=7000, centre_frequencies=spacing)
    centres = layer.centre_frequencies.detach().double().numpy()
    on_scale = {
        "mel": 2595 * np.log10(1 + centres / 700),
        "erb": 21.4 * np.log10(1 + 4.37e-3 * centres),
        "linear": centres,
        "log": np.log(centres),
    }[spacing]
    np.testing.assert_allclose(np.diff(on_scale), np.diff(on_scale).mean(), rtol=1e-3)
    assert centres[0] > 50 and centres[-1] < 7000
    there, back = scales.SCALES[spacing]
    frequencies = torch.linspace(1, 20000, 50, dtype=torch.float64)
    torch.testing.assert_close(back(there(frequencies)), frequencies)


def test_values_in_hertz() -> None:
    given_ = [0.0, 250.5, 4000.0]
    layer = GammatoneFilterbank(3, 8000, centre_frequencies=given_, bandwidths=[30.0, 40.0, 50.0])
    torch.testing.assert_close(layer.centre_frequencies.detach(), torch.tensor(given_), rtol=1e-4, atol=0.02)
    torch.testing.assert_close(layer.bandwidths.detach(), torch.tensor([30.0, 40.0, 50.0]), rtol=1e-4, atol=0)
    torch.testing.assert_close(layer.gains.detach(), torch.ones(3))


@pytest.mark.parametrize(
    ("learnable", "names"),
    [
        (True, ["centre_frequency", "bandwidth", "gain"]),
        (False, []),
        ({"bandwidth"}, ["bandwidth"]),
        (["gain", "centre_frequency"], ["centre_frequency", "gain"]),
        ("gain", ["gain"]),
    ],
)
def test_what_is_learned(learnable: object, names: list[str]) -> None:
    layer = GammatoneFilterbank(5, 8000, learnable=learnable)
    assert [name for name, _ in layer.named_parameters()] == [f"raw_{name}" for name in names]
    assert len(layer.state_dict()) == 4
    groups = layer.parameter_groups(1e-3)
    assert [group["params"][0].shape for group in groups] == [(5,)] * len(names)
    assert all(group["lr"] >= 1e-3 and group["weight_decay"] == 0 for group in groups)
    image = layer(noises())
    assert image.requires_grad == bool(names)


def test_settings_can_be_written_in_yaml() -> None:
    text = (
        "{order: 2, f_min: 25, f_max: 400, centre_frequencies: [30, 60, 120], bandwidths: 20, learnable: [bandwidth]}"
    )
    layer = GammatoneFilterbank(3, 1000, **yaml.safe_load(text))
    assert layer(noises()).shape == (3, 3, 78)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"f_max": 4001}, "at most half the sample rate, 4000 Hz"),
        ({"f_min": -1}, "f_min -1 Hz must be at least 0"),
        ({"f_min": 3000, "f_max": 2000}, "below f_max 2000 Hz"),
        ({"f_min": math.nan}, "f_min is nan"),
        ({"order": 0}, "order is 0"),
        ({"order": 7}, "order is 7"),
        ({"order": 2.5}, "order is 2.5"),
        ({"centre_frequencies": [300, 200, 400, 500]}, "must rise"),
        ({"centre_frequencies": [-1, 200, 400, 500]}, "lie between f_min 0"),
        ({"centre_frequencies": [100, 200, 400, 5000]}, "lie between f_min 0 and f_max 4000 Hz"),
        ({"centre_frequencies": [100, 200]}, "must be 4 finite values in Hz"),
        ({"centre_frequencies": [100, 200, 300, math.nan]}, "must be 4 finite values in Hz"),
        ({"centre_frequencies": "bark"}, "known: mel, erb, linear, log"),
        ({"centre_frequencies": "log"}, "give an f_min above 0"),
        ({"bandwidths": "wide"}, "known: erb"),
        ({"bandwidths": 0.0}, "times the ear's"),
        ({"bandwidths": [30, 30, 30]}, "must be 4 finite values in Hz"),
        ({"learnable": {"phase"}}, "some of centre_frequency, bandwidth, gain"),
        ({"learnable": {"pcen"}}, "give compression='pcen'"),
        ({"compression": "cube"}, "known: log, log1p, pcen, None"),
        ({"backend": "magic"}, "known: auto, reference, fft, recursive"),
        ({"window_s": 0}, "window_s is 0"),
        ({"window_s": math.nan}, "window_s is nan"),
        ({"hop_s": -0.01}, "hop_s is -0.01"),
        ({"learnable": 1}, "some of centre_frequency"),
        ({"hop_s": 1e-5}, "must each last a sample at 8000 Hz"),
        ({"eps": 0.0}, "eps is 0.0"),
        ({"eps": math.inf}, "eps is inf"),
    ],
    ids=str,
)
def test_settings_that_make_no_filterbank(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GammatoneFilterbank(4, 8000, **settings)


@pytest.mark.parametrize(("n_filters", "rate"), [(0, 8000), (2.5, 8000), (4, 0), (4, -8000), (4, math.nan), (4, "8k")])
def test_numbers_that_make_no_filterbank(n_filters: int, rate: int) -> None:
    with pytest.raises(ValueError, match=r"(n_filters|sample_rate) is"):
        GammatoneFilterbank(n_filters, rate)


def test_compressions() -> None:
    waveforms = noises(2, 4000)
    energies = GammatoneFilterbank(6, 8000, compression=None)(waveforms)
    assert torch.equal(energies, GammatoneFilterbank(6, 8000).energies(waveforms))
    log = GammatoneFilterbank(6, 8000, eps=1e-6)(waveforms)
    torch.testing.assert_close(log, torch.log(energies + 1e-6))
    shifted = GammatoneFilterbank(6, 8000, compression="log1p", eps=1e-6)(waveforms)
    torch.testing.assert_close(shifted, log - math.log(1e-6), rtol=1e-4, atol=1e-4)
    mean, expected = energies[..., 0], []
    for frame in energies.unbind(-1):
        mean = 0.975 * mean + 0.025 * frame
        expected.append((frame / (1e-10 + mean) ** 0.98 + 2) ** 0.5 - 2**0.5)
    normalised = GammatoneFilterbank(6, 8000, compression="pcen")(waveforms)
    torch.testing.assert_close(normalised, torch.stack(expected, -1), rtol=1e-3, atol=1e-4)


def test_pcen_hardly_hears_the_level() -> None:
    layer, waveforms = GammatoneFilterbank(6, 8000, compression="pcen"), noises()
    torch.testing.assert_close(layer(10 * waveforms), layer(waveforms), rtol=0.1, atol=0.05)


def test_pcen_can_be_learned_and_begins_as_it_is_without() -> None:
    fixed = GammatoneFilterbank(6, 8000, compression="pcen")
    layer = GammatoneFilterbank(6, 8000, compression="pcen", learnable={"pcen", "centre_frequency"})
    assert [name for name, _ in layer.named_parameters()] == ["raw_centre_frequency", "raw_pcen"]
    torch.testing.assert_close(layer(noises()), fixed(noises()), rtol=1e-4, atol=1e-5)
    target, training = noises(3, 6 * 8).reshape(3, 6, 8), torch.optim.Adam(layer.parameter_groups(0.1))
    losses = steps(layer, training, target[:1], 20)
    assert losses[-1] < losses[0]
    assert all((values - usual).abs().min() > 1e-4 for values, usual in zip(layer.pcen, fixed.pcen, strict=True))
    state = layer.state_dict()
    fixed.load_state_dict(state)
    assert torch.equal(fixed(noises()), layer(noises()))
    del state["raw_pcen"]  # weights from before it could be learned
    fixed.load_state_dict(state)


@pytest.mark.parametrize("rate", [1e3, 1e12])
def test_no_step_can_break_pcen(rate: float) -> None:
    layer = GammatoneFilterbank(6, 8000, compression="pcen", learnable="pcen")
    steps(layer, torch.optim.Adam(layer.parameters(), lr=rate), torch.zeros(4, 6, 8), 3)
    image = layer(noises())
    image.square().mean().backward()
    assert image.isfinite().all() and layer.raw_pcen.grad.isfinite().all()
    assert all(values.min() >= 0.001 and values.max() <= 0.9991 for values in (layer.pcen.speed, layer.pcen.root))


def test_it_tells_what_it_is() -> None:
    text = repr(GammatoneFilterbank(8, 8000, learnable={"bandwidth"}, backend="fft"))
    for part in ("8 filters of order 4", "sample rate 8000 Hz", "learns bandwidth", "backend fft", "window 200"):
        assert part in text


def test_filters_can_be_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    for rate in (1000, 16000):
        GammatoneFilterbank(8, rate).play(7)
    assert [type(each).__name__ for each in shown] == ["Audio", "Audio"]


# Learning


def steps(layer: GammatoneFilterbank, optimiser: torch.optim.Optimizer, target: Tensor, times: int) -> list[float]:
    losses = []
    for seed in range(times):
        waveforms = noises(4, 800, seed)
        loss = (layer(waveforms) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def test_learning_finds_the_filter_that_made_the_target() -> None:
    hidden = GammatoneFilterbank(1, 8000, centre_frequencies=[900], bandwidths=60.0, learnable=False)
    layer = GammatoneFilterbank(1, 8000, centre_frequencies=[850], bandwidths=100.0)
    optimiser = torch.optim.Adam(layer.parameter_groups(3e-3))
    for seed in range(250):
        waveforms = noises(4, 1600, seed)
        loss = (layer(waveforms) - hidden(waveforms)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert layer.centre_frequencies.item() == pytest.approx(900, abs=5)
    assert layer.bandwidths.item() == pytest.approx(60, rel=0.1)


@pytest.mark.parametrize("rate", [1e3, 1e12])
@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam])
def test_no_step_can_break_a_filter(optimiser: type[torch.optim.Optimizer], rate: float) -> None:
    layer = GammatoneFilterbank(8, 8000, f_min=100, f_max=3000)
    steps(layer, optimiser(layer.parameters(), lr=rate), torch.zeros(4, 8, 8), 4)
    f, b = layer.centre_frequencies.detach(), layer.bandwidths.detach()
    assert ((f > 100) & (f < 3000)).all()
    ear = scales.erb(f)
    assert ((b > 0.049 * ear) & (b < 20.1 * ear)).all()
    for backend in BACKENDS:
        layer.backend = backend
        assert layer(noises()).isfinite().all()


def test_a_state_dict_brings_back_the_filters() -> None:
    layer = GammatoneFilterbank(6, 8000)
    steps(layer, torch.optim.Adam(layer.parameters(), lr=0.1), torch.zeros(4, 6, 8), 3)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = GammatoneFilterbank(6, 8000, centre_frequencies="linear", learnable=False)
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(noises()), layer(noises()))


# Input


@every
def test_the_shortest_clip_and_one_that_is_too_short(backend: str) -> None:
    layer = GammatoneFilterbank(4, 8000, backend=backend)
    assert layer.shortest == 200 and layer(noises(2, 200)).shape == (2, 4, 1)
    for samples in (199, 0):
        with pytest.raises(ValueError, match=f"{samples} samples is too short; this layer needs 200"):
            layer(noises(2, samples))


@every
def test_only_floating_point_waveforms_are_taken(backend: str) -> None:
    layer = GammatoneFilterbank(4, 8000, backend=backend)
    for bad in (torch.tensor(0.5), torch.zeros(2, 800, dtype=torch.int16)):
        with pytest.raises(ValueError, match="expected floating-point waveforms"):
            layer(bad)


@every
def test_an_empty_batch(backend: str) -> None:
    layer = GammatoneFilterbank(4, 8000, backend=backend)
    image = layer(noises(0))
    assert image.shape == (0, 4, 8)
    image.sum().backward()
    assert layer.raw_bandwidth.grad.abs().sum() == 0


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_give_float32(backend: str, dtype: torch.dtype) -> None:
    layer, waveforms = GammatoneFilterbank(4, 8000, backend=backend), noises().to(dtype)
    image = layer(waveforms)
    assert image.dtype == torch.float32 and torch.equal(image, layer(waveforms.float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(waveforms), image)


@every
def test_waveforms_need_not_be_contiguous(backend: str) -> None:
    layer, waveforms = GammatoneFilterbank(4, 8000, backend=backend), noises(800, 3).t()
    torch.testing.assert_close(layer(waveforms), layer(waveforms.contiguous()))


@every
@pytest.mark.parametrize("compression", ["log", "log1p", "pcen", None])
def test_silence_is_finite_in_image_and_gradient(backend: str, compression: str | None) -> None:
    layer = GammatoneFilterbank(4, 8000, backend=backend, compression=compression)
    image = layer(torch.zeros(2, 800))
    image.sum().backward()
    assert image.isfinite().all() and (image == image[0, 0, 0]).all()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


@every
@pytest.mark.parametrize("bad", [math.nan, math.inf, 3e38])
def test_nonsense_in_one_clip_leaves_the_others_alone(backend: str, bad: float) -> None:
    layer, waveforms = GammatoneFilterbank(18, 8000, backend=backend), noises()
    expected = layer(waveforms)
    waveforms[1, 500] = bad
    image = layer(waveforms)
    assert torch.equal(image[[0, 2]], expected[[0, 2]])
    assert not image[1, :, -3:].isfinite().any() or bad == 3e38


def test_ringing_into_digital_silence_ends_in_zeros() -> None:
    layer = GammatoneFilterbank(16, 8000, compression=None)
    energies = layer(functional.pad(noises(1), (0, 40_000)))
    assert (energies[..., -1] == 0).all() and (energies >= 0).all()


@given(samples=st.integers(200, 500), level_db=st.floats(-200, 80), seed=st.integers(0, 2**16))
def test_any_finite_waveform_gives_a_finite_image(samples: int, level_db: float, seed: int) -> None:
    waveforms = noises(2, samples, seed) * 10 ** (level_db / 20)
    assert GammatoneFilterbank(5, 8000)(waveforms).isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graphics_card_gives_the_same_images() -> None:
    layer, waveforms = GammatoneFilterbank(20, 8000), noises(2, 8000)
    expected = layer(waveforms)
    for backend in ("auto", *BACKENDS):
        layer.backend = backend
        image = layer.to("cuda")(waveforms.to("cuda"))
        torch.testing.assert_close(image.cpu(), expected, atol=2e-3, rtol=0)
