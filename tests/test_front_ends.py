"""Front ends against other implementations, and what they do with silence, clicks, short clips and nonsense."""

from __future__ import annotations

from collections.abc import Callable

import librosa
import numpy as np
import pytest
import scipy.fft
import scipy.signal
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from course_lib.layers import (
    MFCC,
    Decibels,
    LogMel,
    LogSpectrogram,
    NormaliseLevel,
    PowerSpectrogram,
    TrimSilence,
)
from course_lib.layers.front_end import FrontEnd
from course_lib.layers.spectrogram import stretch

RATE = 8000
MAKE: dict[str, Callable[[], FrontEnd]] = {
    "spectrogram": LogSpectrogram,
    "power": PowerSpectrogram,
    "log power": lambda: PowerSpectrogram(log=True),
    "mel": lambda: LogMel(RATE),
    "mfcc": lambda: MFCC(RATE),
}
SHAPES = {  # of clips of 4000 samples
    "spectrogram": (64, 64),
    "power": (129, 17),
    "log power": (129, 17),
    "mel": (40, 32),
    "mfcc": (13, 32),
}


def make(name: str) -> FrontEnd:
    return MAKE[name]()


every = pytest.mark.parametrize("name", SHAPES)


def noises(clips: int = 3, samples: int = 4000, seed: int = 0) -> Tensor:
    return torch.randn(clips, samples, generator=torch.Generator().manual_seed(seed)) / 4


def word(samples: int = 3000) -> Tensor:
    """A chirp that swells and fades, with a little noise: shape (1, samples)."""
    time = np.arange(samples) / RATE
    chirp = scipy.signal.chirp(time, 200, time[-1], 3500) * np.hanning(samples)
    return (torch.from_numpy(chirp).float() + 1e-3 * noises(1, samples)) / 2


def in_decibels(power: np.ndarray, top_db: float = 80) -> np.ndarray:
    level = 10 * np.log10(np.maximum(power, 1e-10))
    return np.maximum(level, level.max() - top_db)


def mel_centres(bands: int) -> Tensor:
    """Centre frequencies (Hz) of mel bands, from the formula of HTK."""
    highest = 2595 * np.log10(1 + RATE / 2 / 700)
    mels = torch.arange(1, bands + 1) * highest / (bands + 1)
    return 700 * (10 ** (mels / 2595) - 1)


# Other implementations


@pytest.mark.parametrize(
    ("n_fft", "hop", "bands", "f_min", "f_max"), [(256, 128, 40, 0, None), (512, 100, 64, 50, 3500)]
)
@pytest.mark.filterwarnings("ignore:Empty filters detected")
def test_log_mel_is_that_of_librosa(n_fft: int, hop: int, bands: int, f_min: float, f_max: float | None) -> None:
    layer = LogMel(RATE, bands, n_fft, hop, f_min, f_max)
    for waveform in (word()[0], noises()[0]):
        power = librosa.feature.melspectrogram(
            y=waveform.double().numpy(),
            sr=RATE,
            n_fft=n_fft,
            hop_length=hop,
            n_mels=bands,
            fmin=f_min,
            fmax=f_max,
            htk=True,
            norm=None,
            power=2,
            pad_mode="reflect",
        )
        expected, ours = in_decibels(power), layer(waveform[None])[0].numpy()
        assert ours.shape == expected.shape == (bands, 1 + len(waveform) // hop)
        loud = expected > expected.max() - 45
        assert loud.mean() > 0.1
        np.testing.assert_allclose(ours[loud], expected[loud], atol=1e-3)
        np.testing.assert_allclose(ours, expected, atol=0.5)


def test_mfcc_is_the_cosine_transform_of_log_mel() -> None:
    waveforms = torch.cat([word(), noises(2, 3000)])
    expected = scipy.fft.dct(LogMel(RATE)(waveforms).numpy(), type=2, axis=1, norm="ortho")[:, :13]
    np.testing.assert_allclose(MFCC(RATE)(waveforms).numpy(), expected, atol=2e-3)


@pytest.mark.parametrize(("n_fft", "hop"), [(256, 128), (128, 50)])
def test_log_spectrogram_is_that_of_scipy(n_fft: int, hop: int) -> None:
    for waveform in (word(), noises(1)):
        _, _, spectrum = scipy.signal.stft(
            waveform[0].double().numpy(), nperseg=n_fft, noverlap=n_fft - hop, boundary=None, padded=False
        )
        power = np.abs(spectrum * scipy.signal.get_window("hann", n_fft).sum()) ** 2
        level = in_decibels(power, 60)
        expected = (level - level.min()) / (level.max() - level.min())
        layer = LogSpectrogram(n_fft, hop, expected.shape, top_db=60, stretch=False, mean=0.25, std=2)
        np.testing.assert_allclose(layer(waveform)[0].numpy() * 2 + 0.25, expected, atol=2e-4)


@pytest.mark.parametrize("n_fft", [256, 64, 200, 15])
def test_the_power_spectrogram_is_that_of_scipy(n_fft: int) -> None:
    for waveform in (word(), noises(1, 3001) + 0.3):
        _, _, power = scipy.signal.spectrogram(waveform[0].double().numpy(), RATE, nperseg=n_fft)
        image = PowerSpectrogram(n_fft)(waveform)[0].numpy()
        assert image.shape == power.shape
        np.testing.assert_allclose(image, power / power.max(), atol=1e-6)
        # A clip that is loud enough for the floor of the logarithm to lie below top_db.
        level = in_decibels(power * RATE * np.square(scipy.signal.get_window(("tukey", 0.25), n_fft)).sum(), 80)
        image = PowerSpectrogram(n_fft, log=True)(waveform)[0].numpy()
        np.testing.assert_allclose(image, 1 + (level - level.max()) / 80, atol=1e-3)


def test_the_power_spectrogram_with_scipys_own_defaults() -> None:
    waveform = word(5000)
    _, _, power = scipy.signal.spectrogram(waveform[0].double().numpy(), RATE)
    np.testing.assert_allclose(PowerSpectrogram()(waveform)[0].numpy(), power / power.max(), atol=1e-6)


def test_an_image_of_another_size_is_the_resized_spectrogram() -> None:
    waveform = word(4096)
    whole = LogSpectrogram(image_size=(129, 31), mean=0, std=1)(waveform)
    small = LogSpectrogram(image_size=(43, 31), mean=0, std=1)(waveform)
    resized = functional.interpolate(whole[:, None], (43, 31), mode="bilinear", antialias=True)[:, 0]
    resized = (resized - resized.min()) / (resized.max() - resized.min())
    torch.testing.assert_close(small, resized, atol=1e-3, rtol=0)


def test_low_frequencies_come_first_and_time_runs_to_the_right() -> None:
    time = torch.arange(8000) / RATE
    for frequency in (500, 3000):
        tone = torch.sin(2 * torch.pi * frequency * time)[None]
        tone[:, 4000:] = 1e-4 * noises(1, 4000)
        image = LogSpectrogram(stretch=False)(tone)[0]
        assert abs(image[:, :28].mean(1).argmax() - frequency / 4000 * 64) <= 1
        assert image[:, :28].amax(0).min() > image[:, 36:].amax(0).max()
        mel = LogMel(RATE)(tone)[0]
        assert (mel_centres(40)[mel[:, :28].mean(1).argmax()] - frequency).abs() < 150


# Shapes and kinds of input


@every
def test_shapes(name: str) -> None:
    assert make(name)(noises()).shape == (3, *SHAPES[name])
    assert make(name)(noises(1)).shape == (1, *SHAPES[name])
    empty = make(name)(noises(0))
    assert empty.shape == (0, *SHAPES[name]) and empty.dtype == torch.float32


def test_sizes_that_one_asks_for() -> None:
    assert LogSpectrogram(128, 64, (20, 90))(noises()).shape == (3, 20, 90)
    assert LogMel(16000, 64, 400, 160)(noises()).shape == (3, 64, 26)
    assert MFCC(16000, 20, 64, 400, 160)(noises()).shape == (3, 20, 26)


@every
def test_the_shortest_clip_and_one_that_is_too_short(name: str) -> None:
    layer = make(name)
    assert layer.shortest == (129 if name in ("mel", "mfcc") else 256)
    assert layer(noises(2, layer.shortest)).isfinite().all()
    for samples in (layer.shortest - 1, 1, 0):
        with pytest.raises(ValueError, match=f"{samples} samples is too short; this layer needs {layer.shortest}"):
            layer(noises(2, samples))


@every
@pytest.mark.parametrize("dtype", [torch.int16, torch.int64, torch.bool, torch.complex64])
def test_only_floating_point_waveforms_are_taken(name: str, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="expected floating-point waveforms"):
        make(name)(torch.ones(2, 4000).to(dtype))


@every
@pytest.mark.parametrize("shape", [(4000,), (2, 1, 4000), ()])
def test_only_batches_of_waveforms_are_taken(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"of shape \(batch, samples\)"):
        make(name)(torch.zeros(shape))


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_give_float32(name: str, dtype: torch.dtype) -> None:
    waveforms = noises().to(dtype)
    image = make(name)(waveforms)
    assert image.dtype == torch.float32
    assert torch.equal(image, make(name)(waveforms.float()))


@every
def test_autocast_changes_nothing(name: str) -> None:
    layer, waveforms = make(name), noises()
    expected = layer(waveforms)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image = layer(waveforms)
    assert image.dtype == torch.float32 and torch.equal(image, expected)


@every
def test_waveforms_need_not_be_contiguous(name: str) -> None:
    waveforms = noises(4000, 3).t()
    assert not waveforms.is_contiguous()
    torch.testing.assert_close(make(name)(waveforms), make(name)(waveforms.contiguous()))


@every
def test_a_clip_does_not_depend_on_the_others_of_its_batch(name: str) -> None:
    layer = make(name)
    quiet = 1e-4 * word(4000)
    quiet[:, 2000:] = 0
    together = layer(torch.cat([quiet, noises(2), torch.zeros(1, 4000)]))
    torch.testing.assert_close(together[:1], layer(quiet), atol=1e-4, rtol=1e-4)


@every
def test_waveforms_stay_as_they_were_and_images_repeat(name: str) -> None:
    layer, waveforms = make(name), noises()
    before = waveforms.clone()
    assert torch.equal(layer(waveforms), layer(waveforms))
    assert torch.equal(waveforms, before)
    assert torch.equal(layer.train()(waveforms), layer.eval()(waveforms))


@every
def test_a_front_end_has_nothing_to_learn_or_save(name: str) -> None:
    assert not list(make(name).parameters())


# Extreme input


@every
def test_silence_is_finite_and_even(name: str) -> None:
    image = make(name)(torch.zeros(2, 4000))
    assert image.isfinite().all()
    assert torch.equal(image[0], image[1])
    torch.testing.assert_close(image, image[:, :, :1].expand_as(image), atol=0.1, rtol=0)


def test_a_click_is_where_it_was_and_holds_all_frequencies() -> None:
    waveform = torch.zeros(1, 4096)
    waveform[0, 2048] = 1
    level = LogMel(RATE, 20)(waveform)[0]
    assert level.argmax(1).unique().tolist() == [16]
    sounding = torch.tensor([15 <= frame <= 17 for frame in range(33)])
    assert (level[:, ~sounding] == level.min()).all()
    image = LogSpectrogram(image_size=(129, 31), stretch=False, mean=0, std=1)(waveform)[0]
    assert image[:, 15].min() > 0.99 and image[:, [13, 17]].max() < 0.01


@every
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 3e38])
def test_nonsense_in_one_clip_leaves_the_others_alone(name: str, bad: float) -> None:
    layer, waveforms = make(name), noises()
    expected = layer(waveforms)
    waveforms[1, 1000] = bad
    image = layer(waveforms)
    assert image.shape == expected.shape
    torch.testing.assert_close(image[[0, 2]], expected[[0, 2]])


@every
@given(
    samples=st.integers(256, 700), level_db=st.floats(-200, 80), seed=st.integers(0, 2**16), lead=st.integers(0, 700)
)
def test_any_finite_waveform_gives_a_finite_image(
    name: str, samples: int, level_db: float, seed: int, lead: int
) -> None:
    waveforms = noises(2, samples, seed) * 10 ** (level_db / 20)
    waveforms[1, :lead] = 0
    image = make(name)(waveforms)
    assert image.shape[:2] == (2, SHAPES[name][0]) and image.isfinite().all()


@every
def test_the_gradient_reaches_the_waveform(name: str) -> None:
    waveforms = torch.cat([functional.pad(word(), (0, 1000)), noises(1), torch.zeros(1, 4000)]).requires_grad_()
    make(name)(waveforms).square().mean().backward()
    assert waveforms.grad.isfinite().all()
    assert (waveforms.grad[:2].abs().amax(1) > 0).all()


# Levels


def test_the_level_of_a_clip_shows_in_log_mel_and_not_in_the_picture() -> None:
    waveforms = noises()
    torch.testing.assert_close(LogMel(RATE)(waveforms * 10), LogMel(RATE)(waveforms) + 20, atol=1e-3, rtol=0)
    torch.testing.assert_close(LogSpectrogram()(waveforms * 10), LogSpectrogram()(waveforms), atol=1e-3, rtol=0)


@pytest.mark.parametrize("top_db", [20.0, 50.0])
def test_nothing_lies_further_below_the_maximum_than_asked_for(top_db: float) -> None:
    loud = word(4000)
    level = LogMel(RATE, top_db=top_db)(torch.cat([loud, 1e-2 * loud]))
    torch.testing.assert_close(level.amax(dim=(1, 2)) - level.amin(dim=(1, 2)), torch.full((2,), top_db))


def test_power_is_relative_to_the_loudest_place_of_its_clip() -> None:
    waveforms = noises()
    for top_db in (20.0, 60.0):
        power = PowerSpectrogram()(torch.cat([waveforms, 1e-2 * waveforms]))
        torch.testing.assert_close(power.amax(dim=(1, 2)), torch.ones(6))
        torch.testing.assert_close(power[3:], power[:3], atol=1e-5, rtol=1e-4)
        assert power.min() >= 0
        level = PowerSpectrogram(log=True, top_db=top_db)(waveforms)
        torch.testing.assert_close(level, 1 + (10 * power[:3].log10()).clamp(min=-top_db) / top_db)


def test_silence_is_nothing_in_a_power_spectrogram_and_even_in_decibels() -> None:
    assert torch.equal(PowerSpectrogram()(torch.zeros(2, 800)), torch.zeros(2, 129, 3))
    assert torch.equal(PowerSpectrogram(log=True)(torch.zeros(2, 800)), torch.ones(2, 129, 3))


def test_a_picture_spans_black_to_white() -> None:
    image = LogSpectrogram(mean=0.5, std=0.25)(noises())
    torch.testing.assert_close(image.amin(dim=(1, 2)), torch.full((3,), -2.0))
    torch.testing.assert_close(image.amax(dim=(1, 2)), torch.full((3,), 2.0))


# Stretching


@pytest.mark.parametrize("samples", [256, 1000, 3000, 7999])
def test_a_word_looks_the_same_whatever_pads_it(samples: int) -> None:
    layer = LogSpectrogram(mean=0, std=1)
    one, two = (layer(functional.pad(word(samples), (0, length - samples))) for length in (8000, 16000))
    torch.testing.assert_close(one, two, atol=0.02, rtol=0)


@pytest.mark.parametrize("samples", [1000, 3000])
def test_a_padded_word_looks_nearly_like_the_word_alone(samples: int) -> None:
    stretched, plain = LogSpectrogram(mean=0, std=1), LogSpectrogram(mean=0, std=1, stretch=False)
    alone, padded = word(samples), functional.pad(word(samples), (0, 8000 - samples))
    torch.testing.assert_close(stretched(alone), plain(alone))
    assert (stretched(padded) - plain(alone)).abs().mean() < 0.05
    assert (plain(padded) - plain(alone)).abs().mean() > 0.1


def test_each_clip_of_a_batch_is_stretched_by_its_own_length() -> None:
    layer = LogSpectrogram()
    words = [functional.pad(word(samples), (0, 8000 - samples)) for samples in (800, 2000, 8000)]
    torch.testing.assert_close(layer(torch.cat(words)), torch.cat([layer(padded) for padded in words]))


def test_a_stretched_image_is_as_exact_at_the_end_of_a_long_clip() -> None:
    frames, width = 400_000, 1000
    ramp = torch.arange(frames, dtype=torch.float64)[None, None]
    stretched = stretch(ramp % 2, torch.tensor([0.7713], dtype=torch.float64), width)[0, 0]
    position = (torch.arange(width, dtype=torch.float64) + 0.5) * (0.7713 * frames / width) - 0.5
    expected = torch.minimum(position % 2, 2 - position % 2)
    torch.testing.assert_close(stretched, expected, rtol=0, atol=1e-6)


# Settings


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogMel(RATE, f_max=8000), "f_max 8000 Hz, and that at most half the sample rate, 4000 Hz"),
        (lambda: LogMel(RATE, f_min=5000, f_max=6000), "at most half the sample rate"),
        (lambda: LogMel(RATE, f_min=3000, f_max=3000), "f_min 3000 Hz must be at least 0 and below f_max 3000 Hz"),
        (lambda: LogMel(RATE, f_min=-1), "f_min -1 Hz"),
        (lambda: LogMel(RATE, f_min=float("nan")), "f_min is nan"),
        (lambda: LogMel(RATE, f_max=float("inf")), "f_max is inf"),
        (lambda: LogMel(RATE, top_db=-5), "top_db is -5"),
        (lambda: LogMel(RATE, top_db=0), "top_db is 0"),
        (lambda: LogMel(RATE, n_mels=0), "n_mels is 0"),
        (lambda: LogMel(RATE, n_mels=200), "take fewer bands or a larger n_fft"),
        (lambda: LogMel(RATE, n_fft=0), "n_fft is 0"),
        (lambda: LogMel(RATE, n_fft=25.6), r"n_fft is 25\.6"),
        (lambda: LogMel(RATE, hop_length=0), "hop_length is 0"),
        (lambda: LogMel(RATE, hop_length=257), "hop_length 257 is above n_fft 256"),
        (lambda: LogMel(RATE, width=0), "width is 0"),
        (lambda: LogMel(0), "sample_rate is 0"),
        (lambda: LogMel("8000"), "sample_rate is '8000'"),
        (lambda: MFCC(-8000), "sample_rate is -8000"),
        (lambda: MFCC(RATE, n_mfcc=41), "40 mel bands have at most 40"),
        (lambda: MFCC(RATE, n_mfcc=0), "n_mfcc is 0"),
        (lambda: MFCC(RATE, n_mels=300), "take fewer bands"),
        (lambda: MFCC(RATE, n_fft=1), "n_fft is 1"),
        (lambda: LogSpectrogram(n_fft=-256), "n_fft is -256"),
        (lambda: LogSpectrogram(hop_length=512), "hop_length 512 is above n_fft 256"),
        (lambda: LogSpectrogram(top_db=-80), "top_db is -80"),
        (lambda: LogSpectrogram(image_size=(0, 64)), "height in image_size is 0"),
        (lambda: LogSpectrogram(image_size=64), "must be a height and a width"),
        (lambda: LogSpectrogram(image_size=(64, 64, 3)), "must be a height and a width"),
        (lambda: LogSpectrogram(std=0), "std is 0"),
        (lambda: LogSpectrogram(mean=float("nan")), "mean is nan"),
        (lambda: PowerSpectrogram(n_fft=True), "n_fft is True"),
        (lambda: PowerSpectrogram(top_db=float("inf")), "top_db is inf"),
        (lambda: Decibels(-1), "top_db is -1"),
        (lambda: TrimSilence(below_db=-30), "below_db is -30"),
        (lambda: TrimSilence(frame=1), "frame is 1"),
        (lambda: NormaliseLevel(float("nan")), "level_db is nan"),
    ],
)
def test_impossible_settings_are_refused(
    make: Callable[[], FrontEnd], message: str, recwarn: pytest.WarningsRecorder
) -> None:
    with pytest.raises(ValueError, match=message):
        make()
    assert not recwarn.list


def test_numbers_of_numpy_are_numbers() -> None:
    layer = LogMel(np.int64(RATE), n_mels=np.int32(40), f_min=np.float32(60))
    layer.load_state_dict(LogMel(RATE, f_min=60.0).state_dict())


def test_a_layer_says_its_settings() -> None:
    text = repr(LogMel(RATE, f_min=60))
    assert all(part in text for part in ("sample_rate=8000", "n_mels=40", "f_min=60", "hop_length=128"))


# Devices


@every
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graphics_card_gives_the_same_images(name: str) -> None:
    layer, waveforms = make(name), torch.cat([noises(2), word(4000)])
    expected = layer(waveforms)
    image = layer.to("cuda")(waveforms.to("cuda"))
    assert image.is_cuda
    torch.testing.assert_close(image.cpu(), expected, atol=2e-2, rtol=1e-3)


def test_decibels_of_energies_end_at_the_floor_of_their_clip() -> None:
    energies = torch.tensor([[[1.0, 0.1, 1e-9]], [[1e-4, 1e-4, 0.0]]])
    level = Decibels(top_db=60)(energies)
    torch.testing.assert_close(level, torch.tensor([[[0.0, -10.0, -60.0]], [[-40.0, -40.0, -100.0]]]))
    assert Decibels()(torch.zeros(1, 2, 3)).isfinite().all()
