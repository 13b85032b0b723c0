"""The filters' outputs as signals: values, gradients, delays, resynthesis and streams, against a recursion by SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from course_lib.layers import GammatoneFilterbank
from course_lib.layers.gammatone import response
from course_lib.layers.gammatone.backends import fourier, operator, recursive
from course_lib.layers.gammatone.pooling import Pooling

BACKENDS = ["reference", "fft", "recursive"]
every = pytest.mark.parametrize("backend", BACKENDS)
# sum over k of k^(n-1) q^k = q A(q) / (1 - q)^n with Euler's numbers
EULER = {1: [1], 2: [0, 1], 3: [0, 1, 1], 4: [0, 1, 4, 1], 5: [0, 1, 11, 11, 1], 6: [0, 1, 26, 66, 26, 1]}


def noises(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) / 4


def by_scipy(layer: GammatoneFilterbank, waveforms: Tensor) -> np.ndarray:
    """Complex outputs in double precision, from scipy.signal.lfilter."""
    rate, order, outputs = layer.sample_rate, layer.order, []
    for f, b, gain in zip(*(each.detach().double().numpy() for each in hertz(layer)), strict=True):
        pole = np.exp((-2 * np.pi * b + 2j * np.pi * f) / rate)
        numerator = np.array(EULER[order]) * pole ** np.arange(len(EULER[order]))
        output = scipy.signal.lfilter(numerator, np.poly([pole] * order), waveforms.double().numpy().astype(complex))
        outputs.append(gain * 2 * (2 * np.pi * b / rate) ** order / math.factorial(order - 1) * output)
    return np.stack(outputs, axis=-2)


def hertz(layer: GammatoneFilterbank) -> tuple[Tensor, Tensor, Tensor]:
    return layer.centre_frequencies, layer.bandwidths, layer.gains


# Values


@every
@pytest.mark.parametrize("order", [1, 2, 4, 6])
def test_outputs_of_every_order(backend: str, order: int) -> None:
    layer = GammatoneFilterbank(19, 2000, order=order, backend=backend)
    with torch.no_grad():
        layer.raw_gain += torch.linspace(-1, 1, 19)
    waveforms = noises(2, 700)
    expected = by_scipy(layer, waveforms)
    rounding = 3e-5 if order > 4 else 3e-6  # of SciPy's direct form, in which sixfold poles are badly conditioned
    real, both = layer.filtered(waveforms).detach(), layer.filtered(waveforms, analytic=True).detach()
    assert real.dtype == torch.float32 and both.dtype == torch.complex64
    np.testing.assert_allclose(both.numpy(), expected, rtol=0, atol=rounding * np.abs(expected).max())
    np.testing.assert_allclose(real.numpy(), expected.real, rtol=0, atol=rounding * np.abs(expected).max())
    np.testing.assert_allclose(layer.envelopes(waveforms).detach().numpy(), np.abs(both.numpy()), rtol=1e-5, atol=1e-7)


@every
def test_the_energies_are_those_of_the_outputs(backend: str) -> None:
    layer, waveforms = GammatoneFilterbank(20, 8000, backend=backend), noises(2, 2000)
    energies = layer.pooling.mean(layer.filtered(waveforms).square())
    torch.testing.assert_close(energies, layer.energies(waveforms), rtol=1e-4, atol=1e-9)


@every
def test_a_click_gives_the_impulse_responses(backend: str) -> None:
    layer = GammatoneFilterbank(16, 8000, backend=backend)
    click = functional.one_hot(torch.tensor(0), 500).float()
    torch.testing.assert_close(layer.filtered(click), layer.impulse_responses(500 / 8000), rtol=1e-4, atol=1e-7)


def test_the_gain_at_the_centre_is_what_the_layer_says() -> None:
    for distance, low, high in ((1.0, -0.1, 0.1), (2.0, -0.1, 0.1), (0.2, -3.4, 6.1), (0.38, -3.4, 0.0)):
        for f in (200.0 * distance, 8000 - 200.0 * distance):
            layer = GammatoneFilterbank(1, 16_000, centre_frequencies=[f], bandwidths=200.0).double()
            gain = layer.frequency_response(layer.centre_frequencies).detach().abs().log10().item() * 20
            assert low < gain < high, (f, gain)


@every
@pytest.mark.parametrize("shape", [(), (2,), (2, 3), (1, 2, 1, 2), (0,), (2, 0)])
def test_any_leading_dimensions(backend: str, shape: tuple[int, ...]) -> None:
    layer, waveforms = GammatoneFilterbank(5, 8000, backend=backend, compression="pcen"), noises(*shape, 400)
    rows = waveforms.reshape(math.prod(shape), 400)
    image, outputs, energies = layer(waveforms), layer.filtered(waveforms), layer.energies(waveforms)
    assert image.shape == energies.shape == (*shape, 5, 3) and outputs.shape == (*shape, 5, 400)
    assert torch.equal(image.reshape(-1, 5, 3) if rows.numel() else layer(rows), layer(rows))
    assert torch.equal(outputs.reshape(rows.shape[0], 5, 400), layer.filtered(rows))
    assert layer.synthesise(outputs).shape == waveforms.shape


@every
def test_anything_else_ends_in_one_sentence(backend: str) -> None:
    layer = GammatoneFilterbank(4, 8000, backend=backend)
    for bad in (torch.tensor(0.5), torch.zeros(2, 800, dtype=torch.int16), torch.zeros(800, dtype=torch.complex64)):
        for method in (layer, layer.energies, layer.filtered, layer.stream()):
            with pytest.raises(ValueError, match=r"expected floating-point waveforms of shape \(..., samples\)"):
                method(bad)
    for bad in (torch.zeros(4), torch.zeros(3, 100)):
        with pytest.raises(ValueError, match=r"expected bands of shape \(..., 4, samples\)"):
            layer.synthesise(bad)


@every
@pytest.mark.parametrize("analytic", [False, True])
def test_no_samples_silence_and_nonsense(backend: str, analytic: bool) -> None:
    layer = GammatoneFilterbank(18, 8000, backend=backend)
    for aligned in (False, True):
        assert layer.filtered(torch.zeros(2, 0), analytic, aligned).shape == (2, 18, 0)
        assert (layer.filtered(torch.zeros(2, 300), analytic, aligned) == 0).all()
    one = layer.filtered(torch.ones(2, 1), analytic)
    assert one.shape == (2, 18, 1) and one.isfinite().all()
    waveforms = noises(2, 300)
    expected = layer.filtered(waveforms, analytic)
    waveforms[1, 100] = math.nan
    outputs = layer.filtered(waveforms, analytic)
    assert torch.equal(outputs[0], expected[0]) and not outputs[1, :, 101:].isfinite().any()


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(backend: str, dtype: torch.dtype) -> None:
    layer, waveforms = GammatoneFilterbank(4, 8000, backend=backend), noises(2, 300).to(dtype)
    outputs = layer.filtered(waveforms)
    assert outputs.dtype == torch.float32 and torch.equal(outputs, layer.filtered(waveforms.float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.filtered(waveforms), outputs)
    other = layer.to(dtype)
    assert other.filtered(waveforms).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(other.filtered(waveforms).float(), outputs, rtol=1e-4, atol=1e-6)


def test_the_result_does_not_depend_on_the_number_of_threads_or_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recursive, "_ALONE", 1)  # else so little work is done by one thread
    layer, waveforms, threads = GammatoneFilterbank(40, 8000), noises(5, 1000), torch.get_num_threads()
    try:
        results = []
        for number in (1, 3):
            torch.set_num_threads(number)
            results.append(layer.filtered(waveforms))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results) and torch.equal(layer.filtered(waveforms[3:4]), results[0][3:4])


# Gradients


@pytest.mark.parametrize("analytic", [False, True])
@pytest.mark.parametrize("aligned", [False, True])
def test_gradcheck_of_the_outputs(analytic: bool, aligned: bool) -> None:
    layer = GammatoneFilterbank(3, 1000).double()
    names = ("raw_centre_frequency", "raw_bandwidth", "raw_gain")

    def output(waveforms: Tensor, *raw: Tensor) -> Tensor:
        with torch.nn.utils.stateless._reparametrize_module(layer, dict(zip(names, raw, strict=True))):
            return layer.filtered(waveforms, analytic, aligned)

    raw = [each.detach().clone().requires_grad_() for each in layer.parameters()]
    assert torch.autograd.gradcheck(output, (noises(2, 40).double().requires_grad_(), *raw))


@pytest.mark.parametrize("order", [1, 2, 4, 6])
@pytest.mark.parametrize("analytic", [False, True])
def test_the_recursion_has_the_gradients_of_double_precision(order: int, analytic: bool) -> None:
    generator = torch.Generator().manual_seed(order)
    decay = torch.rand(19, generator=generator) / 5 + 0.02
    frequency = torch.rand(19, generator=generator) * 2.9 + 0.1
    weights = torch.randn(3, 19, 500, dtype=torch.complex128 if analytic else torch.float64, generator=generator)
    gradients = []
    for dtype, method in ((torch.float32, "recursive"), (torch.float64, "fft")):
        leaves = [each.to(dtype).clone().requires_grad_() for each in (noises(3, 500), decay, frequency)]
        outputs = operator.outputs(*leaves, order, analytic, method)
        product = outputs * weights.to(outputs.dtype)
        (product.real.sum() + product.imag.square().sum() if analytic else product.sum()).backward()
        gradients.append([leaf.grad for leaf in leaves])
    for ours, expected in zip(*gradients, strict=True):
        assert (ours - expected).norm() < 2e-5 * expected.norm()


@every
@pytest.mark.parametrize("window", [(0.025, 0.010), (0.01, 0.02), (0.03, 0.03)])
def test_the_energies_have_the_gradient_of_the_waveforms(backend: str, window: tuple[float, float]) -> None:
    """By automatic differentiation of the definition, in double precision."""
    settings_ = {"window_s": window[0], "hop_s": window[1]}
    layer = GammatoneFilterbank(18, 8000, backend=backend, **settings_)
    waveforms = noises(2, 700).requires_grad_()
    weights = noises(2, 18, layer.pooling.frames(700), seed=1)
    (layer.energies(waveforms) * weights).sum().backward()
    double = waveforms.detach().double().requires_grad_()
    exact = GammatoneFilterbank(18, 8000, backend="reference", **settings_).double()
    (exact.energies(double) * weights).sum().backward()
    assert (waveforms.grad - double.grad).norm() < 1e-5 * double.grad.norm()
    for ours, theirs in zip(layer.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-3, atol=1e-6)


def test_a_gradient_of_the_waveforms_leaves_the_values_as_they_are() -> None:
    layer, waveforms = GammatoneFilterbank(6, 8000), noises(2, 500)
    assert torch.equal(layer(waveforms.clone().requires_grad_()), layer(waveforms))


def test_gradcheck_of_the_energies_by_the_waveforms() -> None:
    layer = GammatoneFilterbank(3, 1000, backend="fft").double()
    assert torch.autograd.gradcheck(layer, noises(2, 60).double().requires_grad_())


def test_frames_spread_back_over_samples_are_the_adjoint_of_their_means() -> None:
    for pooling in (Pooling(0, 25, 10), Pooling(7, 5, 9), Pooling(80, 25, 10)):
        signals = noises(3, 200).double().requires_grad_()
        frames = noises(3, pooling.frames(200), seed=1).double()
        (pooling.mean(signals[None])[0] * frames).sum().backward()
        torch.testing.assert_close(pooling.spread(frames, 200), signals.grad)


def test_the_operators_keep_the_rules_of_torch_library() -> None:
    decay, frequency = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 1.0, 2.0])
    leaves = [each.requires_grad_() for each in (noises(2, 100), decay, frequency)]
    for analytic in (False, True):
        torch.library.opcheck(operator._outputs, (*leaves, 4, analytic))
    torch.library.opcheck(operator._energies, (*leaves, torch.ones(3).requires_grad_(), 4, 0, 25, 10, "recursive"))


@pytest.mark.parametrize("analytic", [False, True])
def test_outputs_compile(analytic: bool) -> None:
    layer = GammatoneFilterbank(5, 8000)
    compiled = torch.compile(layer.filtered, fullgraph=True, backend="aot_eager")
    grads = []
    for function in (layer.filtered, compiled):
        layer.zero_grad()
        waveforms = noises(2, 300).requires_grad_()
        function(waveforms, analytic).abs().square().mean().backward()
        grads.append([waveforms.grad, *(parameter.grad.clone() for parameter in layer.parameters())])
    torch.testing.assert_close(grads[1], grads[0])


# Delays and resynthesis


def test_envelopes_peak_when_the_layer_says_and_aligned_ones_at_the_click() -> None:
    layer = GammatoneFilterbank(24, 16_000)
    click = functional.one_hot(torch.tensor(1000), 4000).float()
    peaks = layer.envelopes(click).argmax(-1) - 1000
    assert (peaks - layer.delays * 16_000).abs().max() <= 1
    at_click = layer.filtered(click, analytic=True, aligned=True).detach()
    assert (at_click.abs().argmax(-1) - 1000).abs().max() <= 1
    assert (at_click[:, 1000].angle().abs() < 1e-3).all()
    torch.testing.assert_close(layer.filtered(click, aligned=True), at_click.real)


@pytest.mark.parametrize("backend", ["fft", "recursive"])
def test_unchanged_bands_give_the_clip_back(backend: str) -> None:
    for filters in (32, 64):
        layer = GammatoneFilterbank(filters, 16_000, backend=backend)
        waveforms = functional.pad(noises(2, 8000), (0, 4000))
        assert error_in_db(layer.synthesise(layer.filtered(waveforms)), waveforms) < -120
        cut = waveforms[:, :8000]
        back = layer.synthesise(layer.filtered(cut, analytic=True))
        assert error_in_db(back[:, :-640], cut[:, :-640]) < -60
        assert -40 < error_in_db(back[:, -640:], cut[:, -640:]) < 0


def error_in_db(ours: Tensor, expected: Tensor) -> float:
    return 10 * math.log10((ours.detach() - expected).square().sum() / expected.square().sum())


def test_a_band_that_is_taken_out_is_missing() -> None:
    layer = GammatoneFilterbank(32, 8000)
    time = torch.arange(8000) / 8000
    low, high = (torch.sin(2 * math.pi * f * time) * torch.hann_window(8000) for f in (300, 2500))
    bands = layer.filtered(low + high) * (layer.centre_frequencies < 1000)[:, None]
    assert error_in_db(layer.synthesise(bands), low) < -30


# Streams


@pytest.mark.parametrize("backend", ["recursive", "double"])
@pytest.mark.parametrize("analytic", [False, True])
@settings(max_examples=15)
@given(lengths=st.lists(st.integers(0, 130), max_size=8), seed=st.integers(0, 2**16))
def test_blocks_put_together_are_the_whole(backend: str, analytic: bool, lengths: list[int], seed: int) -> None:
    layer = GammatoneFilterbank(18, 8000, learnable=False)
    layer = layer.double() if backend == "double" else layer
    waveforms = noises(2, sum(lengths), seed=seed)
    stream = layer.stream(analytic)
    outputs = [stream(block) for block in waveforms.split(lengths, dim=-1)]
    whole = layer.filtered(waveforms, analytic)
    assert stream.samples == sum(lengths)
    assert [output.shape for output in outputs] == [(2, 18, length) for length in lengths]
    together = torch.cat(outputs, -1) if outputs else whole
    assert together.dtype == whole.dtype
    torch.testing.assert_close(
        together, whole, rtol=0, atol=1e-6 * max(1e-3, float(whole.abs().amax() if sum(lengths) else 0))
    )


def test_a_stream_of_single_samples_and_its_reset() -> None:
    layer, waveform = GammatoneFilterbank(5, 8000), noises(200)
    stream = layer.stream()
    for _ in range(2):
        outputs = torch.cat([stream(sample) for sample in waveform.split(1)], dim=-1)
        assert outputs.shape == (5, 200) and not outputs.requires_grad
        torch.testing.assert_close(outputs, layer.filtered(waveform).detach(), rtol=0, atol=1e-7)
        stream.reset()


def test_a_stream_keeps_its_filters_and_its_shape() -> None:
    layer, waveforms = GammatoneFilterbank(5, 8000), noises(2, 200)
    stream, expected = layer.stream(), layer.filtered(waveforms).detach()
    first = stream(waveforms[:, :80])
    with torch.no_grad():
        layer.raw_centre_frequency += 1
    torch.testing.assert_close(torch.cat([first, stream(waveforms[:, 80:])], -1), expected, rtol=0, atol=1e-7)
    with pytest.raises(ValueError, match="call reset"):
        stream(waveforms[0])


def test_the_state_of_the_recursion_is_all_that_passes_from_block_to_block() -> None:
    decay, frequency = torch.tensor([0.05, 0.2]), torch.tensor([0.3, 1.7])
    waveforms, state = noises(3, 1000), recursive.silent_state(3, 2, 4)
    pieces = waveforms.split(300, dim=1)
    outputs, time = [], 0
    for piece in pieces:
        outputs.append(recursive.outputs(piece, decay, frequency, 4, False, state, time))
        time += piece.shape[1]
    expected = fourier.outputs(waveforms.double(), decay.double(), frequency.double(), 4, False)
    assert (torch.cat(outputs, -1) - expected).abs().max() < 1e-6 * expected.abs().max()
    assert response.length(decay, 4) < 1000
