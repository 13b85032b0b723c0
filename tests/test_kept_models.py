"""Kept networks classify sounds from anywhere: any numbers, rate, length and level, with silence around the word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import course_lib
from course_lib import audio, datasets, experiments, kept_models, training
from course_lib.datasets.stand_ins import digits, heart_sounds
from course_lib.kept_models import KeptModel, KeptModelError, find_word, kept

RATE = 8000
PITCHES = (500, 1000, 2000)


class Pitch(nn.Module):
    """Logits by the loudest of three pitches: classifies tones without any training."""

    def forward(self, waveforms: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(waveforms, n=RATE).abs()
        return torch.stack([spectrum[:, pitch - 20 : pitch + 20].sum(dim=1) for pitch in PITCHES], dim=1) / 50


@pytest.fixture
def pitch() -> KeptModel:
    return KeptModel(experiments.load("fsdd/log_mel_cnn"), Pitch(), ("low", "middle", "high"))


def word(hertz: float, rate: int = RATE, seconds: float = 0.4) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return 0.3 * np.sin(2 * np.pi * hertz * time) * np.hanning(len(time))


def surrounded(sound: np.ndarray, before: int, after: int, noise: float = 1e-3) -> np.ndarray:
    random = np.random.default_rng(0)
    around = random.normal(0, noise, before + len(sound) + after)
    around[before : before + len(sound)] += sound
    return around


def best(answer: dict[str, float]) -> str:
    assert sum(answer.values()) == pytest.approx(1) and min(answer.values()) >= 0
    return max(answer, key=answer.get)


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("before_s", [0.0, 0.5, 3.0])
def test_the_word_is_found_at_any_rate_wherever_it_is(pitch: KeptModel, rate: int, before_s: float) -> None:
    for hertz, name in zip(PITCHES, pitch.class_names, strict=True):
        sound = surrounded(word(hertz, rate), round(before_s * rate), rate // 3)
        assert best(pitch.classify(sound, rate)) == name


CHANGES: dict[str, Callable[[np.ndarray], object]] = {
    "float32": lambda sound: sound.astype(np.float32),
    "int16": lambda sound: (sound * 32767).astype(np.int16),
    "int32": lambda sound: (sound * 2**31).astype(np.int32),
    "uint8": lambda sound: (sound * 127 + 128).astype(np.uint8),
    "soft": lambda sound: sound * 1e-4,
    "loud": lambda sound: sound * 1e5,
    "offset": lambda sound: sound + 0.5,
    "list": list,
    "tensor": torch.from_numpy,
    "stereo": lambda sound: np.stack([sound, 0.5 * sound]),
    "one channel": lambda sound: sound[None],
    "upside down": lambda sound: np.stack([sound, -sound]),
    "one silent": lambda sound: np.stack([sound, 0 * sound]),
    "reversed view": lambda sound: sound[::-1],
    "click before": lambda sound: np.concatenate([[1.0, -1.0], np.zeros(2000), sound]),
    "rumble": lambda sound: sound + 0.3 * np.sin(2 * np.pi * 20 * np.arange(len(sound)) / RATE),
}


@pytest.mark.parametrize("change", CHANGES)
def test_numbers_channels_and_level_do_not_matter(pitch: KeptModel, change: str) -> None:
    for hertz, name in zip(PITCHES, pitch.class_names, strict=True):
        assert best(pitch.classify(CHANGES[change](surrounded(word(hertz), 3000, 3000)), RATE)) == name


def test_the_level_changes_nothing(pitch: KeptModel) -> None:
    sound = surrounded(word(1000), 2000, 2000)
    first, second = (pitch.classify(level * sound, RATE) for level in (1.0, 1e-3))
    assert first == pytest.approx(second, abs=1e-4)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(0), "no samples"),
        (np.zeros((2, 0)), "no samples"),
        (np.zeros(8000), "nothing to hear"),
        (np.full(8000, 0.3), "nothing to hear"),
        (np.full(8000, 1000, dtype=np.int16), "nothing to hear"),
        (np.array([0.1]), "nothing to hear"),
        (np.array([0.1, np.nan, 0.2]), "not all finite"),
        (np.array([0.1, np.inf, 0.2]), "not all finite"),
        (np.zeros((2, 2, 2)), "shape"),
        (np.ones((8000, 2)), "8,000 channels"),
        (np.array(["a"]), "expected numbers"),
        (np.array([1j, 2]), "expected numbers"),
        (None, "expected numbers"),
    ],
)
def test_what_cannot_be_classified_is_refused_in_words(pitch: KeptModel, samples: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pitch.classify(samples, RATE)


@pytest.mark.parametrize("rate", [0, -8000, 16_000.5, float("nan"), 10**7])
def test_a_rate_that_cannot_be_is_refused(pitch: KeptModel, rate: float) -> None:
    with pytest.raises(ValueError, match="sample rate"):
        pitch.classify(word(500), rate)


@given(st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=400), st.sampled_from([100, 8000, 44_100]))
def test_a_sound_of_any_length_gets_probabilities(samples: list[float], rate: int) -> None:
    network = KeptModel(experiments.load("fsdd/log_mel_cnn"), Pitch(), ("low", "middle", "high"))
    sound = np.array(samples)
    if np.ptp(sound) > 1e-6:
        best(network.classify(sound, rate))


@given(st.integers(0, 12_000), st.integers(0, 12_000), st.floats(0.15, 0.7), st.sampled_from([0.0, 1e-4, 1e-2]))
def test_the_stretch_found_covers_the_word(before: int, after: int, seconds: float, noise: float) -> None:
    time = np.arange(round(seconds * RATE)) / RATE
    waveform = torch.from_numpy(surrounded(0.3 * np.sin(2 * np.pi * 700 * time), before, after, noise)).float()
    start, end = find_word(waveform, RATE)
    slack = round(0.03 * RATE)
    assert before - slack <= start <= before + slack
    assert before + len(time) - slack <= end <= before + len(time) + slack


def test_a_closure_inside_a_word_does_not_end_it() -> None:
    parts = [word(700, seconds=0.3), np.zeros(800), 0.3 * word(2500, seconds=0.15)]
    waveform = torch.from_numpy(surrounded(np.concatenate(parts), 4000, 4000, 1e-4)).float()
    start, end = find_word(waveform, RATE)
    assert start <= 4600 and end >= 4000 + 2400 + 800 + 900


def test_what_is_longer_than_a_clip_is_cut_to_its_loudest_part() -> None:
    waveform = torch.from_numpy(np.concatenate([0.1 * word(700, seconds=2.0), word(700, seconds=1.0)])).float()
    start, end = find_word(waveform, RATE, longest=0.5)
    assert end - start == 4000 and start > 16_000


def test_a_long_recording_is_pooled_over_its_clips() -> None:
    recipe = experiments.load("physionet2016/lean_plain_16")
    assert recipe.clip.hop_seconds and recipe.preparation
    model = KeptModel(recipe, recipe.build(2), ("normal", "abnormal"))
    sound = np.random.default_rng(0).normal(size=12 * 4000)
    clips = model.clips(sound, 4000)
    assert len(clips) > 1 and clips.shape[1] == round(recipe.clip.seconds * model.sample_rate)
    assert model.sample_rate == recipe.preparation.sample_rate
    best(model.classify(sound, 4000))


def test_a_network_is_kept_with_its_recipe_classes_and_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "fsdd/spectrogram_cnn"
    network = experiments.load(name).build(10)
    (tmp_path / "fsdd").mkdir()
    training.save_model(tmp_path / f"{name}.safetensors", network, class_names=list("0123456789"))
    (tmp_path / f"{name}.md").write_text("# Card\n")
    monkeypatch.setattr(kept_models, "FOLDER", tmp_path)
    kept.cache_clear()
    model = course_lib.kept(name)
    assert model.class_names == tuple("0123456789") and model.sample_rate == 8000 and model.card == "# Card\n"
    sound = surrounded(word(500), 100, 100)
    same = KeptModel(experiments.load(name), network, model.class_names)
    assert model.classify(sound, RATE) == pytest.approx(same.classify(sound, RATE), abs=1e-5)
    kept.cache_clear()


class Heard(nn.Module):
    """Even logits; remembers the clips that it was shown."""

    def forward(self, waveforms: Tensor) -> Tensor:
        self.clips = waveforms
        return torch.zeros(len(waveforms), 10)


def test_a_word_is_heard_at_three_speeds() -> None:
    network = Heard()
    model = KeptModel(experiments.load("fsdd/log_mel_cnn"), network, tuple("0123456789"))
    sound = surrounded(word(1000), 2000, 2000)
    model.classify(sound, RATE)
    spectra = torch.fft.rfft(network.clips, n=RATE).abs()
    heard = spectra.argmax(dim=1).unique().tolist()
    assert heard == pytest.approx([900, 1000, 1100], abs=3)
    own_speed = model.clips(sound, RATE)
    assert all(any(torch.equal(clip, other) for other in network.clips) for clip in own_speed)


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(KeptModelError, match="no kept network 'nobody'; there are:"):
        kept("nobody")


@pytest.mark.parametrize("name", kept_models.names())
def test_every_kept_network_is_small_and_has_a_card(name: str) -> None:
    model = kept(name)
    path = kept_models.FOLDER / f"{name}.safetensors"
    assert path.stat().st_size < 1_000_000 and len(model.card.split()) > 50
    assert not model.network.training
    answer = model.classify(surrounded(word(350, 16_000), 24_000, 24_000), 16_000)
    assert tuple(answer) == model.class_names and best(answer)


@pytest.fixture(scope="module")
def spoken() -> list[np.ndarray]:
    """The ten digits by a synthetic voice, at 8 kHz."""
    return digits.spoken(1, seed=5)[0]


def test_the_network_for_strangers_knows_the_digits_of_a_synthetic_voice(spoken: list[np.ndarray]) -> None:
    model = kept("fsdd/for_strangers")
    answers = [model.classify(surrounded(sound, 2400, 2400, 1e-4), RATE) for sound in spoken]
    assert np.mean([best(answer) == str(digit) for digit, answer in enumerate(answers)]) >= 0.8


def test_the_network_for_strangers_gives_the_same_answer_at_any_level_rate_and_start(spoken: list[np.ndarray]) -> None:
    model = kept("fsdd/for_strangers")
    sound = surrounded(spoken[7], 2400, 2400, 1e-4)
    expected = model.classify(sound, RATE)
    waveform = torch.from_numpy(sound).float()
    assert model.classify(1e-3 * sound, RATE) == pytest.approx(expected, abs=1e-3)
    assert model.classify(np.concatenate([np.zeros(4000), sound]), RATE) == pytest.approx(expected, abs=0.05)
    for rate in (16_000, 44_100):
        assert model.classify(audio.resample(waveform, RATE, rate), rate) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("samples", [np.zeros(8000), np.zeros(0), np.full(8000, np.nan)])
def test_the_network_for_strangers_refuses_what_is_no_sound(samples: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"nothing to hear|no samples|not all finite"):
        kept("fsdd/for_strangers").classify(samples, RATE)


# --- hearts


def murmuring(seconds: float = 10, seed: int = 3, murmur: str | None = "aortic stenosis") -> np.ndarray:
    """A synthetic heart at 2 kHz with a little noise."""
    random = np.random.default_rng(seed)
    sound = heart_sounds.heart(seconds, murmur, random).waveform
    return 0.1 * (sound / sound.std() + random.normal(0, 0.03, len(sound)))


def abnormal(sound: np.ndarray | Tensor, rate: int = 2000) -> float:
    return kept("physionet2016/for_strangers").classify(sound, rate)["abnormal"]


def test_synthetic_murmurs_are_heard_in_two_seconds_and_in_ten() -> None:
    for seconds in (2, 4, 10):
        heard = [abnormal(murmuring(seconds, seed)) for seed in range(8)]
        without = [abnormal(murmuring(seconds, seed, None)) for seed in range(8)]
        assert np.mean(heard) > np.mean(without) + 0.05


CHANGED_HEARTS: dict[str, Callable[[np.ndarray], tuple[object, int]]] = {
    "soft": lambda sound: (1e-3 * sound, 2000),
    "loud": lambda sound: (1e3 * sound, 2000),
    "int16": lambda sound: ((3000 * sound).astype(np.int16), 2000),
    "upside down": lambda sound: (-sound, 2000),
    "1 kHz": lambda sound: (audio.resample(torch.from_numpy(sound), 2000, 1000), 1000),
    "4 kHz": lambda sound: (audio.resample(torch.from_numpy(sound), 2000, 4000), 4000),
    "8 kHz": lambda sound: (audio.resample(torch.from_numpy(sound), 2000, 8000), 8000),
    "44.1 kHz": lambda sound: (audio.resample(torch.from_numpy(sound), 2000, 44_100), 44_100),
    "dull": lambda sound: (scipy.signal.lfilter(*scipy.signal.butter(1, 150, fs=2000), sound), 2000),
    "bright": lambda sound: (scipy.signal.lfilter([1, -0.6], [1], sound), 2000),
}


@pytest.mark.parametrize("change", CHANGED_HEARTS)
def test_level_rate_and_a_mild_equaliser_hardly_change_a_heart(change: str) -> None:
    for seed, murmur in ((3, "aortic stenosis"), (4, None), (5, "mitral regurgitation")):
        sound = murmuring(10, seed, murmur)
        assert abnormal(*CHANGED_HEARTS[change](sound)) == pytest.approx(abnormal(sound), abs=0.05)


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros(8000), 2000, "nothing to hear"),
        (np.zeros(0), 2000, "no samples"),
        (np.full(8000, np.nan), 2000, "not all finite"),
        (murmuring(1.99), 2000, "lasts 1.99 s, less than the 2 s"),
        (murmuring(10), 999, "a sample rate of 999 Hz is too low; it must be at least 1,000 Hz"),
    ],
    ids=["silence", "nothing", "NaN", "short", "low rate"],
)
def test_what_is_no_heart_is_refused_in_words(samples: np.ndarray, rate: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        abnormal(samples, rate)


def test_the_last_clip_ends_with_the_recording() -> None:
    model = kept("physionet2016/for_strangers")
    clips = model.clips(murmuring(14), 2000)
    assert len(clips) == 2 and clips[0, 4000:].equal(clips[1, :-4000])


@pytest.mark.parametrize("name", kept_models.names())
def test_kept_weights_are_those_of_their_recipe(name: str) -> None:
    _, about = training.state.load(kept_models.FOLDER / f"{name}.safetensors")
    assert about["recipe_hash"] == experiments.load(name).hash


@pytest.mark.parametrize("name", [name for name in kept_models.names() if name.startswith("fsdd/")])
def test_kept_networks_know_the_digits_of_voices_that_were_not_recorded(name: str, real_data: Path) -> None:
    """On recordings of the training, brought to another rate, level and start: a wrong file, rate or class order."""
    model, recordings = kept(name), datasets.load("fsdd")
    rows = recordings.table.groupby(["group", "label"]).head(1).index
    right = [
        best(model.classify(surrounded(0.1 * recordings.waveform(row).numpy(), 4000, 3000, 1e-4), RATE))
        == model.class_names[recordings.table["label"].iloc[row]]
        for row in rows
    ]
    assert np.mean(right) >= 0.9
