"""TrimSilence finds the loud part and moves it to the start."""

from __future__ import annotations

import pytest
import torch

from course_lib.layers import TrimSilence


def test_loud_part_moves_to_the_start_and_the_rest_becomes_zero():
    torch.manual_seed(0)
    waveforms = torch.zeros(2, 8000)
    waveforms[0, 2400:4800] = torch.randn(2400)
    waveforms[1, :8000] = 1e-3 * torch.randn(8000)
    waveforms[1, 800:1600] = torch.randn(800)
    trimmed = TrimSilence(below_db=30, frame=160)(waveforms)
    for row, (start, stop) in enumerate(((2400, 4800), (800, 1600))):
        shift = int((waveforms[row] == trimmed[row, 80]).nonzero()[0, 0]) - 80
        assert abs(shift - start) <= 160
        end = int(trimmed[row].nonzero().max()) + 1
        assert abs(shift + end - stop) <= 160
        assert torch.equal(trimmed[row, :end], waveforms[row, shift : shift + end])


def test_level_does_not_matter_and_trimming_twice_changes_little():
    torch.manual_seed(0)
    waveforms = torch.zeros(1, 4000)
    waveforms[0, 1000:3000] = torch.randn(2000)
    layer = TrimSilence()
    once = layer(waveforms)
    torch.testing.assert_close(layer(0.01 * waveforms), 0.01 * once)
    assert int(layer(once).ne(0).sum()) >= int(once.ne(0).sum()) - 160


def test_a_clip_that_is_loud_throughout_is_left_alone():
    torch.manual_seed(0)
    waveforms = torch.randn(3, 1600)
    assert torch.equal(TrimSilence()(waveforms), waveforms)


def test_silence_stays_silent_and_an_empty_batch_empty():
    assert torch.equal(TrimSilence()(torch.zeros(2, 800)), torch.zeros(2, 800))
    assert TrimSilence()(torch.zeros(0, 800)).shape == (0, 800)


def test_a_word_up_to_the_end_is_followed_by_zeros_where_the_frames_do_not_fit():
    waveforms = torch.zeros(1, 1000)
    waveforms[0, 300:] = 1 + torch.rand(700)
    trimmed = TrimSilence()(waveforms)
    assert torch.equal(trimmed[trimmed != 0], waveforms[0, 300:])


def test_it_acts_in_evaluation_mode_and_refuses_what_is_too_short():
    waveforms = torch.zeros(1, 1600)
    waveforms[0, 800:] = 1.0
    assert not torch.equal(TrimSilence().eval()(waveforms), waveforms)
    with pytest.raises(ValueError, match="too short"):
        TrimSilence(frame=160)(torch.zeros(1, 100))
