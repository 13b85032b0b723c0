"""Every way to compute gammatone energies against one oracle: the definition in double precision, filters unending."""

from __future__ import annotations

import importlib.util
import math
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from pickle import UnpicklingError

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
from course_lib.layers.gammatone.backends import fourier, numba_kernel, operator, plan, recursive
from course_lib.layers.gammatone.pooling import Pooling

BACKENDS = ["reference", "fft", "recursive"]
every = pytest.mark.parametrize("backend", BACKENDS)
# Levels may be so many dB off, beside an error of so much of the waveform's own level: float32 has 7 digits, and
# convolution in float32 sums up thousands of products.
DECIBELS = {"reference": 2e-3, "fft": 2e-3, "recursive": 1e-4}
NOISE = {"reference": 1e-6, "fft": 1e-6, "recursive": 1e-7}
GRADIENT = {"reference": 1e-4, "fft": 1e-4, "recursive": 1e-5}


def noises(clips: int = 2, samples: int = 1200, seed: int = 0) -> Tensor:
    return torch.randn(clips, samples, generator=torch.Generator().manual_seed(seed)) / 4


def oracle(
    waveforms: Tensor,
    centres: Tensor,
    bandwidths: Tensor,
    rate: float,
    order: int,
    window: int,
    hop: int,
    first: int = 0,
) -> Tensor:
    """Energies by the textbook formula: times in seconds, one long linear convolution, one frame after the other."""
    waveforms, samples = waveforms.double(), waveforms.shape[1]
    time = torch.arange(samples, dtype=torch.float64) / rate
    f, b = centres[:, None], bandwidths[:, None]
    height = 2 * (2 * math.pi * b) ** order / math.factorial(order - 1)
    response = (
        height * time ** (order - 1) * torch.exp(-2 * math.pi * b * time) * torch.cos(2 * math.pi * f * time) / rate
    )
    size = 2 * samples
    output = torch.fft.irfft(torch.fft.rfft(waveforms, size)[:, None] * torch.fft.rfft(response, size), size)
    starts = range(first, samples - window + 1, hop)
    return torch.stack([output[..., start : start + window].square().mean(-1) for start in starts], dim=-1)


def oracle_of(layer: GammatoneFilterbank, waveforms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Its energies, and its centre frequencies and bandwidths as leaves."""
    centres, widths = (each.detach().double().requires_grad_() for each in (layer.centre_frequencies, layer.bandwidths))
    first, window, hop = layer.pooling
    return oracle(waveforms, centres, widths, layer.sample_rate, layer.order, window, hop, first), centres, widths


def assert_levels(layer: GammatoneFilterbank, waveforms: Tensor) -> None:
    """The energies of a layer are those of the oracle."""
    with torch.no_grad():
        amplitude, expected = layer.energies(waveforms).double().sqrt(), oracle_of(layer, waveforms)[0].sqrt()
    noise = NOISE[layer.backend] * waveforms.double().square().mean().sqrt()
    assert amplitude.isfinite().all()
    share = 10 ** (DECIBELS[layer.backend] / 20) - 1
    assert ((amplitude - expected).abs() / (share * expected + noise)).max() < 1


# The oracle


def test_the_oracle_itself_is_a_recursion_written_out() -> None:
    rate, f, b, order = 1000.0, 130.0, 30.0, 3
    waveform = noises(1, 300)[0].double().numpy()
    pole = np.exp((-2 * np.pi * b + 2j * np.pi * f) / rate)
    # sum_k k^2 q^k = q (1 + q) / (1 - q)^3
    output = scipy.signal.lfilter([0, pole, pole**2], np.poly([pole] * 3), waveform.astype(complex)).real
    output *= 2 * (2 * np.pi * b / rate) ** order / 2
    expected = [np.mean(output[start : start + 25] ** 2) for start in range(0, 276, 10)]
    ours = oracle(torch.from_numpy(waveform)[None], torch.tensor([f]), torch.tensor([b]), rate, order, 25, 10)
    np.testing.assert_allclose(ours[0, 0], expected, rtol=1e-6)


# Values


@every
@pytest.mark.parametrize("order", range(1, 7))
def test_energies_of_every_order(backend: str, order: int) -> None:
    assert_levels(GammatoneFilterbank(19, 8000, order=order, backend=backend), noises())


@every
@pytest.mark.parametrize(
    ("rate", "seconds", "settings_"),
    [
        (100, 20.0, {"bandwidths": 2.0, "window_s": 0.5, "hop_s": 0.2}),
        (1000, 2.5, {}),
        (2000, 1.0, {"f_min": 25, "f_max": 400}),
        (44100, 0.3, {"f_min": 20.0, "centre_frequencies": "log"}),
    ],
    ids=["100 Hz", "1 kHz", "2 kHz", "44.1 kHz"],
)
def test_energies_at_other_sample_rates(backend: str, rate: int, seconds: float, settings_: dict) -> None:
    layer = GammatoneFilterbank(17, rate, backend=backend, **settings_)
    waveforms = noises(2, int(rate * seconds))
    assert_levels(layer, waveforms)


@every
@pytest.mark.parametrize("kind", ["impulse", "constant", "nyquist", "tone", "chirp"])
def test_energies_of_plain_signals(backend: str, kind: str) -> None:
    time = torch.arange(4000) / 8000
    waveform = {
        "impulse": functional.one_hot(torch.tensor(200), 4000).float(),
        "constant": torch.full((4000,), 0.5),
        "nyquist": 0.5 * torch.cos(math.pi * torch.arange(4000)),
        "tone": 0.5 * torch.sin(2 * math.pi * 440 * time),
        "chirp": torch.from_numpy(scipy.signal.chirp(time.numpy(), 50, 0.5, 3900)).float(),
    }[kind][None]
    layer = GammatoneFilterbank(16, 8000, backend=backend)
    assert_levels(layer, waveform)


@every
def test_a_narrow_filter_rings_as_long_as_it_should(backend: str) -> None:
    layer = GammatoneFilterbank(2, 8000, centre_frequencies=[500, 510], bandwidths=4.0, backend=backend)
    waveforms = functional.pad(noises(1, 400), (0, 7600))
    assert_levels(layer, waveforms)


def test_long_clips_are_filtered_in_pieces_without_seams() -> None:
    layer = GammatoneFilterbank(3, 4000, centre_frequencies=[40, 300, 1500], backend="recursive")
    assert_levels(layer, noises(1, 300_000))


@settings(max_examples=25)
@given(
    clips=st.integers(1, 3),
    n_filters=st.integers(1, 18),
    order=st.integers(1, 6),
    window=st.integers(1, 90),
    hop=st.integers(1, 120),
    more=st.integers(0, 300),
    seed=st.integers(0, 2**16),
)
def test_any_sizes(clips: int, n_filters: int, order: int, window: int, hop: int, more: int, seed: int) -> None:
    waveforms = noises(clips, window + more, seed)
    for backend in BACKENDS:
        layer = GammatoneFilterbank(
            n_filters, 4000, order=order, window_s=window / 4000, hop_s=hop / 4000, backend=backend
        )
        energies, expected = layer.energies(waveforms), oracle_of(layer, waveforms)[0]
        assert energies.shape == (clips, n_filters, more // hop + 1)
        rounding = 1e-6 * expected.max().item() + 1e-14  # where the response is 0, an FFT is not
        torch.testing.assert_close(energies.double(), expected, rtol=2e-3, atol=rounding)


# Gradients


@every
@pytest.mark.parametrize("order", [1, 2, 4, 6])
def test_gradients(backend: str, order: int) -> None:
    layer = GammatoneFilterbank(18, 8000, order=order, backend=backend)
    waveforms = noises()
    weights = torch.rand(1, 18, 1) + torch.rand(2, 1, 13)
    centres, widths = layer.centre_frequencies, layer.bandwidths
    layer_grads = _gradients_by_hertz(layer, waveforms, weights)
    expected, *leaves = oracle_of(layer, waveforms)
    for ours, theirs, at in zip(
        layer_grads, torch.autograd.grad((expected * weights).sum(), leaves), (centres, widths), strict=True
    ):
        assert ours.isfinite().all()
        difference = (ours.double() - theirs) * at.detach()
        assert difference.norm() < GRADIENT[backend] * (theirs * at.detach()).norm()


def _gradients_by_hertz(layer: GammatoneFilterbank, waveforms: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    hertz = [each.detach().requires_grad_() for each in (layer.centre_frequencies, layer.bandwidths)]
    f, b = (each * (2 * math.pi / layer.sample_rate) for each in hertz)
    settings_ = waveforms, b, f, torch.ones(len(f)), layer.order, layer.pooling
    if layer.backend == "reference":
        from course_lib.layers.gammatone.backends import reference

        energies = reference.energies(*settings_)
    else:
        energies = operator.energies(*settings_, layer.backend)
    return torch.autograd.grad((energies * weights).sum(), hertz)


@pytest.mark.parametrize("backend", ["reference", "fft"])
@pytest.mark.parametrize("order", [1, 4])
def test_gradcheck(backend: str, order: int) -> None:
    layer = GammatoneFilterbank(3, 1000, order=order, backend=backend, compression="log").double()
    waveforms = noises(2, 120).double()

    def output(*raw: Tensor) -> Tensor:
        names = ("raw_centre_frequency", "raw_bandwidth", "raw_gain")
        return torch.func.functional_call(layer, dict(zip(names, raw, strict=True)), (waveforms,))

    raw = [each.detach().clone().requires_grad_() for each in layer.parameters()]
    assert torch.autograd.gradcheck(output, raw)


@every
def test_all_backends_have_the_gradient_of_all_parameters(backend: str) -> None:
    waveforms = noises()
    grads = []
    for name in (backend, "reference"):
        layer = GammatoneFilterbank(20, 8000, backend=name)
        layer(waveforms).square().mean().backward()
        grads.append([parameter.grad for parameter in layer.parameters()])
    assert len(grads[0]) == 3
    for ours, expected in zip(*grads, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@every
def test_waveforms_get_their_gradient_too(backend: str) -> None:
    waveforms = noises(2, 400).requires_grad_()
    layer = GammatoneFilterbank(4, 8000, backend=backend)
    layer(waveforms).mean().backward()
    expected = noises(2, 400).requires_grad_()
    energies = oracle_of(layer, expected)[0]
    torch.log(energies + layer.eps).mean().backward()
    torch.testing.assert_close(waveforms.grad, expected.grad, rtol=1e-3, atol=1e-6)
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_second_derivatives_are_refused_or_right() -> None:
    layer = GammatoneFilterbank(3, 8000)
    (first,) = torch.autograd.grad(layer(noises()).mean(), layer.raw_bandwidth, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
    plain = GammatoneFilterbank(3, 1000, backend="reference").double()
    (first,) = torch.autograd.grad(plain(noises(1, 100).double()).mean(), plain.raw_bandwidth, create_graph=True)
    first.sum().backward()
    assert plain.raw_bandwidth.grad.abs().min() > 0


# The operator


@pytest.mark.parametrize("method", ["fft", "recursive"])
def test_the_operator_keeps_the_rules_of_torch_library(method: str) -> None:
    decay, frequency = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 1.0, 2.0])
    arguments = [each.requires_grad_() for each in (decay, frequency, torch.ones(3))]
    torch.library.opcheck(operator._energies, (noises(2, 100), *arguments, 4, 0, 25, 10, method))


def test_the_result_does_not_depend_on_the_number_of_threads_or_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recursive, "_ALONE", 1)  # else so little work is done by one thread
    layer, waveforms = GammatoneFilterbank(40, 8000), noises(5, 3000)
    long = GammatoneFilterbank(20, 8000, centre_frequencies="linear"), noises(1, 280_000)
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2, 3, 7):
            torch.set_num_threads(number)
            results.append((layer(waveforms), long[0](long[1])))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert torch.equal(result[0], results[0][0]) and torch.equal(result[1], results[0][1])
    assert torch.equal(layer(waveforms[3:4]), results[0][0][3:4])


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the workers of a DataLoader are: the threads that the parent has kept do not run in them."""
    monkeypatch.setattr(recursive, "_ALONE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # torch's own do not survive a fork either
    decay, frequency = torch.tensor([0.1, 0.2]), torch.tensor([0.5, 1.0])
    arguments = noises(4, 500), decay, frequency, torch.ones(2), 4, Pooling(0, 25, 10)
    here, context = recursive.energies(*arguments)[0], multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(recursive.energies(*arguments)[0].numpy()))
    process.start()
    try:
        assert receiver.poll(60)
        np.testing.assert_array_equal(receiver.recv(), here.numpy())
    finally:
        process.kill()
        process.join()


@pytest.mark.parametrize(
    ("backend", "compression"),
    [*((backend, "log") for backend in BACKENDS), ("recursive", "log1p"), ("recursive", "pcen"), ("recursive", None)],
)
def test_it_compiles(backend: str, compression: str | None) -> None:
    layer, waveforms = GammatoneFilterbank(5, 8000, backend=backend, compression=compression), noises(2, 400)
    compiled = torch.compile(layer, fullgraph=backend != "reference", backend="aot_eager")
    grads = []
    for model in (layer, compiled):
        layer.zero_grad()
        model(waveforms).square().mean().backward()
        grads.append([parameter.grad.clone() for parameter in layer.parameters()])
    torch.testing.assert_close(grads[1], grads[0])
    torch.testing.assert_close(compiled(waveforms), layer(waveforms))


def test_numba_waits_until_it_is_needed() -> None:
    layer = "course_lib.layers.GammatoneFilterbank(4, 8000, backend='fft')(torch.zeros(1, 400))"
    code = f"import sys, torch, course_lib.layers; {layer}"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print('numba' in sys.modules)"], capture_output=True, text=True
    )
    assert done.stdout.split() == ["False"], done.stderr


@pytest.fixture
def fresh_kernels() -> Iterator[None]:
    """No kernel has been compiled yet in this process, before and after the test."""
    for cached in (recursive._kernel, recursive._warn_once):
        cached.cache_clear()
    yield
    for cached in (recursive._kernel, recursive._warn_once):
        cached.cache_clear()


class Kernel:
    """Stands for a compiled kernel that is called for the first time."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def __call__(self, *arguments: object) -> None:
        if self.error is not None:
            raise self.error


@pytest.mark.usefixtures("fresh_kernels")
def test_where_nothing_can_be_stored_the_kernel_is_compiled_in_memory_with_one_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nowhere() -> Kernel:
        raise RuntimeError("cannot cache function '_run': no locator available")

    monkeypatch.setattr(numba_kernel, "stored", nowhere)
    monkeypatch.setattr(numba_kernel, "unstored", Kernel)
    with pytest.warns(RuntimeWarning, match="set NUMBA_CACHE_DIR to a folder that can be written") as warned:
        kernels = [recursive._kernel(order) for order in (4, 5)]
    assert all(isinstance(kernel, Kernel) for kernel in kernels) and len(warned) == 1


@pytest.mark.usefixtures("fresh_kernels")
def test_damaged_machine_code_is_deleted_and_compiled_again(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    kernels, deleted = [Kernel(UnpicklingError("truncated")), Kernel()], []
    monkeypatch.setattr(numba_kernel, "stored", lambda: kernels[len(deleted)])
    monkeypatch.setattr(numba_kernel, "delete_stored", deleted.append)
    assert recursive._kernel(4) is kernels[1]
    assert deleted == kernels[:1] and not recwarn.list


@pytest.mark.usefixtures("fresh_kernels")
@pytest.mark.parametrize("error", [OSError("no space left on device"), PermissionError("read-only")])
def test_a_disk_that_takes_nothing_stops_nobody(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def refuse(kernel: Kernel) -> None:
        raise error

    monkeypatch.setattr(numba_kernel, "stored", lambda: Kernel(error))
    monkeypatch.setattr(numba_kernel, "delete_stored", refuse)
    monkeypatch.setattr(numba_kernel, "unstored", Kernel)
    with pytest.warns(RuntimeWarning, match=str(error)):
        recursive._kernel(4)


def test_what_is_saved_for_the_backward_pass_is_small() -> None:
    saved: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        saved[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    layer, waveforms = GammatoneFilterbank(64, 16000), noises(1, 32000)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        image = layer(waveforms)
    assert sum(saved.values()) < 6 * image.numel() * image.element_size()


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_kernel_for_graphics_cards_in_the_interpreter() -> None:
    """On the processor, statement by statement: right, but far too slow for more than a few samples."""
    code = """
import torch
from course_lib.layers.gammatone.backends import recursive, triton_kernel
from course_lib.layers.gammatone.pooling import Pooling
triton_kernel._PIECE = 40
waveforms = torch.randn(2, 160, generator=torch.Generator().manual_seed(0))
filters = torch.tensor([[0.8, 1.0, 1.5], [0.2, 1.0, 2.5], [1.0, 0.5, 2.0]])
for order in (1, 4):
    arguments = waveforms, *filters, order, Pooling(5, 25, 10)
    for ours, expected in zip(triton_kernel.energies(*arguments), recursive.energies(*arguments), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
"""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


# The numbers behind it


@pytest.mark.parametrize("power", range(7))
def test_powers_are_sums_of_binomials(power: int) -> None:
    fractions = response.pole_fractions(power)
    for k in range(12):
        assert sum(c * math.comb(k + j, j) for j, c in enumerate(fractions)) == k**power


@given(first=st.integers(0, 50), window=st.integers(1, 300), hop=st.integers(1, 300), more=st.integers(0, 2000))
def test_every_frame_is_a_run_of_segments(first: int, window: int, hop: int, more: int) -> None:
    pooling = Pooling(first, window, hop)
    edges, frames = plan.segments(first + window + more, pooling)
    assert len(frames) == pooling.frames(first + window + more) == 1 + more // hop
    assert (np.diff(edges) > 0).all() and np.diff(edges).max() <= plan.LONGEST_SEGMENT
    starts = first + hop * np.arange(len(frames))
    np.testing.assert_array_equal(edges[frames[:, 0]], starts)
    np.testing.assert_array_equal(edges[frames[:, 1]], starts + window)


@pytest.mark.parametrize("power", range(7))
def test_powers_are_running_sums_of_delayed_whole_numbers(power: int) -> None:
    sums = np.zeros(20)
    taps = plan.whole_numbers(power)
    sums[: len(taps)] = taps
    for _ in range(power + 1):
        sums = np.cumsum(sums)
    np.testing.assert_array_equal(sums, [float(k**power) for k in range(20)])


# Filters wider than 1.25 radians a sample go another way through the kernel, their neighbours with them.
@pytest.mark.parametrize("widest", [0.4, 1.2, 1.3, 1.6])
@pytest.mark.parametrize("order", [1, 4, 6])
def test_wide_filters(order: int, widest: float) -> None:
    generator = torch.Generator().manual_seed(0)
    decay = torch.linspace(0.01, widest, 20)
    settings_ = decay, torch.rand(20, generator=generator) * 3, torch.rand(20, generator=generator), order
    pooling, waveforms = Pooling(3, 25, 10), noises(2, 300)
    ours = recursive.energies(waveforms, *settings_, pooling)
    double = (each.double() if isinstance(each, Tensor) else each for each in (waveforms, *settings_))
    for got, expected in zip(ours, fourier.energies(*double, pooling), strict=True):
        # Six stages in single precision round more than four.
        assert (got - expected).norm() < (3e-5 if order == 6 else 1e-5) * expected.norm()
    alone = recursive.energies(waveforms, *settings_, pooling, False)
    assert torch.equal(alone[0], ours[0]) and alone[1].numel() == alone[2].numel() == 0
