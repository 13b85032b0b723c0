"""NormaliseLevel brings clips to one level and takes nothing else from them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib.layers import NormaliseLevel


def noise(clips: int = 3, samples: int = 4000) -> torch.Tensor:
    return torch.randn(clips, samples, generator=torch.Generator().manual_seed(0)) / 10


def test_the_part_before_the_padding_has_the_asked_level() -> None:
    waveforms = noise()
    waveforms[0, 1000:] = 0
    levelled = NormaliseLevel(level_db=-26)(waveforms).double()
    assert not levelled[0, 1000:].any()
    for clip, length in zip(levelled, (1000, 4000, 4000), strict=True):
        assert 20 * clip[:length].square().mean().sqrt().log10() == pytest.approx(-26, abs=1e-4)


@given(st.floats(-60, 30), st.booleans())
def test_how_loud_a_clip_came_makes_no_difference_its_shape_and_polarity_do(gain_db: float, inverted: bool) -> None:
    waveforms = noise()
    gain = 10 ** (gain_db / 20) * (-1 if inverted else 1)
    layer, sign = NormaliseLevel(), -1 if inverted else 1
    torch.testing.assert_close(layer(gain * waveforms), sign * layer(waveforms), rtol=1e-4, atol=1e-6)


def test_silence_stays_silent_with_a_finite_gradient_and_an_empty_batch_empty() -> None:
    silence = torch.zeros(2, 800, requires_grad=True)
    levelled = NormaliseLevel()(silence)
    assert not levelled.any()
    levelled.sum().backward()
    assert silence.grad is not None and silence.grad.isfinite().all()
    assert NormaliseLevel()(torch.zeros(0, 800)).shape == (0, 800)


def test_it_acts_in_evaluation_mode_and_its_gradient_is_right() -> None:
    waveforms = noise(2, 30)
    assert torch.equal(NormaliseLevel().eval()(waveforms), NormaliseLevel().train()(waveforms))
    assert torch.autograd.gradcheck(NormaliseLevel(), (waveforms.double().requires_grad_(),))


def test_one_bad_clip_spoils_no_other() -> None:
    waveforms = noise()
    waveforms[1, 5] = torch.nan
    levelled = NormaliseLevel()(waveforms)
    assert levelled[1].isnan().any() and levelled[[0, 2]].isfinite().all()
    with pytest.raises(ValueError, match="shape"):
        NormaliseLevel()(torch.zeros(800))
