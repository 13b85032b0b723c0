"""Hearing in noise: the noise is what it is said to be, and who hears by level alone falls with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_training import fresh
from torch import Tensor, nn

from course_lib import evaluation
from course_lib.clips import Clips
from course_lib.evaluation.noise import babble

SAMPLES = 256
SNRS = (20.0, 0.0, -5.0)


def tones(clips: int, seed: int = 0) -> Clips:
    """Clips of a low (class 0) or a high (class 1) tone of different length, one after the other without a gap."""
    random = np.random.default_rng(seed)
    labels = np.arange(clips) % 2
    lengths = random.integers(100, SAMPLES, clips)
    sound = [
        8000 * np.sin((1.5 if label else 0.4) * np.arange(length) + random.uniform(0, 6))
        for label, length in zip(labels, lengths, strict=True)
    ]
    samples = np.concatenate([*sound, np.zeros(SAMPLES)]).astype(np.int16)
    return Clips(
        samples=torch.from_numpy(samples),
        start=torch.from_numpy(np.cumsum(lengths) - lengths),
        length=torch.from_numpy(lengths),
        labels=torch.from_numpy(labels),
        groups=torch.zeros(clips, dtype=torch.int64),
        recording=torch.arange(clips),
        group_names=("one",),
        clip_samples=SAMPLES,
        sample_rate=8000,
        fingerprint="tones",
    )


class Listener(nn.Module):
    """Tells a low tone from a high one by their power at two frequencies, without mistake when there is no noise.

    `heard` keeps all that it was given.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.ones(()))
        self.heard: list[Tensor] = []

    def forward(self, waveforms: Tensor) -> Tensor:
        self.heard.append(waveforms)
        time = torch.arange(waveforms.shape[1])
        waves = torch.stack([torch.exp(1j * frequency * time) for frequency in (0.4, 1.5)], dim=1)
        return self.sharpness * (waveforms.to(waves.dtype) @ waves).abs()


def listen(model: nn.Module, clips: Clips, **options: object) -> list[dict[str, object]]:
    table = evaluation.accuracy_in_noise({"it": (model, clips)}, progress=False, **({"snrs": SNRS} | options))
    return table.to_dict("records")


def test_a_row_for_each_model_noise_and_ratio() -> None:
    clips = tones(40)
    models = {"one": (Listener(), clips), "other": (Listener(), clips[:10])}
    table = evaluation.accuracy_in_noise(models, (10, 0), progress=False)
    assert list(table.columns) == ["model", "noise", "snr", "accuracy"]
    cases = [("none", np.inf), ("white", 10.0), ("white", 0.0), ("babble", 10.0), ("babble", 0.0)]
    assert list(zip(table["noise"], table["snr"], strict=True)) == 2 * cases
    assert table["model"].tolist() == ["one"] * 5 + ["other"] * 5
    assert table["accuracy"].between(0, 1).all()


def test_who_hears_perfectly_falls_with_the_noise() -> None:
    found = {(row["noise"], row["snr"]): row["accuracy"] for row in listen(Listener(), tones(200), snrs=(30, 0, -30))}
    assert found["none", np.inf] == 1
    for noise in ("white", "babble"):
        assert found[noise, 30] == 1
        assert found[noise, 30] >= found[noise, 0] >= found[noise, -30]
        assert 0.3 < found[noise, -30] < 0.7


def test_what_is_heard_has_the_promised_ratio_and_a_silent_padding() -> None:
    clips, model = tones(30), Listener()
    listen(model, clips)
    clean, *noisy = model.heard
    assert torch.equal(clean, clips.batch(torch.arange(30))[0])
    for snr, waveforms in zip(2 * SNRS, noisy, strict=True):
        for length, word, heard in zip(clips.length, clean, waveforms, strict=True):
            assert not heard[length:].any()
            noise = (heard - word)[:length].double()
            ratio = 10 * torch.log10(word[:length].double().square().mean() / noise.square().mean())
            assert ratio == pytest.approx(snr, abs=0.05)


def test_white_noise_is_white() -> None:
    model, clips = Listener(), tones(200)
    listen(model, clips, snrs=(0,))
    noise = (model.heard[1] - model.heard[0])[:, :100]
    power = torch.fft.rfft(noise).abs().square().mean(dim=0)[1:-1]
    assert power.max() / power.min() < 2
    assert (noise[:-1] * noise[1:]).mean().abs() < 0.1 * noise.square().mean()  # each clip has its own


def test_a_seed_decides_on_the_noise_and_the_model_does_not() -> None:
    clips, one, other, third = tones(30), Listener(), Listener(), Listener()
    torch.manual_seed(0)
    listen(one, clips, seed=1)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    torch.rand(3)
    evaluation.accuracy_in_noise(
        {"first": (fresh_listener(), clips), "second": (other, clips)}, SNRS, seed=1, progress=False
    )
    listen(third, clips, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(one.heard, other.heard, strict=True))
    assert not torch.equal(one.heard[1], third.heard[1]) and not torch.equal(one.heard[4], third.heard[4])
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's random numbers are left alone


def fresh_listener() -> nn.Module:
    """A network of another kind, with dropout and weights."""
    return nn.Sequential(nn.Linear(SAMPLES, 64), fresh())


def test_every_ratio_has_the_same_noise_at_another_level() -> None:
    clips, model = tones(10), Listener()
    listen(model, clips, snrs=(10.0, -10.0))
    clean, loud, louder = model.heard[:3]
    torch.testing.assert_close(10 * (loud - clean), louder - clean, atol=1e-4, rtol=1e-3)


def test_accuracies_do_not_depend_on_the_batch_without_noise() -> None:
    clips = tones(21)
    for size in (1, 4, 256):
        assert listen(Listener(), clips, snrs=(), batch_size=size) == [
            {"model": "it", "noise": "none", "snr": np.inf, "accuracy": 1.0}
        ]


def test_a_model_with_dropout_is_tested_in_evaluation_mode() -> None:
    clips = replace(tones(40), length=torch.full((40,), 100))
    model = fresh_listener().train()
    assert listen(model, clips) == listen(model, clips)


# Babble


def voices_of(found: Tensor, clips: Clips) -> list[int]:
    """Which clips sound in a babble of one voice each, by brute force over all clips and beginnings."""
    voices = []
    for row in found:
        for number in range(len(clips)):
            length = int(clips.length[number])
            word = clips.batch(torch.tensor([number]))[0][0, :length]
            endless = word.repeat(2 + 2 * SAMPLES // length)
            if (endless.unfold(0, SAMPLES, 1)[:length] == row).all(dim=1).any():
                voices.append(number)
                break
    return voices


def test_babble_is_another_clip_repeated_without_its_padding_and_begun_anywhere() -> None:
    clips, index = tones(8), torch.arange(8).repeat(6)
    found = babble(clips, index, 1, torch.Generator().manual_seed(0))
    assert found.shape == (48, SAMPLES)
    voices = voices_of(found, clips)
    assert len(voices) == 48
    assert all(voice != own for voice, own in zip(voices, index.tolist(), strict=True))
    assert len(set(voices)) == 8
    of_one = [row for row, voice in zip(found, voices, strict=True) if voice == voices[0]]
    assert len(torch.unique(torch.stack(of_one), dim=0)) > 1
    for row, voice in zip(found, voices, strict=True):
        period = int(clips.length[voice])
        assert torch.equal(row[period:], row[:-period])
        assert row[-20:].any()


def test_babble_of_two_clips_is_always_the_other() -> None:
    found = babble(tones(2), torch.tensor([0, 1] * 10), 1, torch.Generator().manual_seed(0))
    assert voices_of(found, tones(2)) == [1, 0] * 10


def test_many_voices_are_added_up_and_repeat_with_their_seed() -> None:
    clips, index = tones(8), torch.arange(8)
    four, again = (babble(clips, index, 4, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(four, again)
    random = torch.Generator().manual_seed(3)
    torch.testing.assert_close(four, sum(babble(clips, index, 1, random) for _ in range(4)))
    assert not torch.equal(four, babble(clips, index, 4, torch.Generator().manual_seed(4)))
    assert four.square().mean() > 2 * babble(clips, index, 1, torch.Generator().manual_seed(3)).square().mean()
