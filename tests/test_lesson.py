"""Players keep the samples, mark recordings and name licences; sliders draw and play anew."""

from __future__ import annotations

import base64
import io
import re
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import soundfile as sf
import torch

from course_lib import lesson

TONE = 0.5 * torch.sin(torch.arange(800) * 0.3)


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Any] | None]]:
    """What lessons display, with its metadata."""
    shown: list[tuple[Any, dict[str, Any] | None]] = []
    monkeypatch.setattr(lesson, "display", lambda *what, metadata=None: shown.extend((each, metadata) for each in what))
    monkeypatch.setattr(plt, "show", lambda: None)
    return shown


def _sound(player: Any) -> tuple[np.ndarray, int]:
    encoded = re.search(r'src="data:audio/flac;base64,([^"]+)"', player._repr_html_())[1]
    return sf.read(io.BytesIO(base64.b64decode(encoded)))


def test_a_player_holds_the_samples_at_their_own_level(displayed: list) -> None:
    lesson.play(TONE, 8000)
    samples, rate = _sound(displayed[0][0])
    assert rate == 8000 and displayed[0][1] is None
    np.testing.assert_allclose(samples, TONE, atol=2**-15)
    with pytest.raises(ValueError, match=r"reaches 1\.50"):
        lesson.play(3 * TONE, 8000)


def test_a_recording_is_marked_and_published_only_with_its_licence(
    displayed: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lesson.play(TONE, 8000, recording=True)
    assert displayed.pop()[1] == {"course": {"recording": True}}
    monkeypatch.setenv("COURSE_PUBLISH", "1")
    lesson.play(TONE, 8000, recording=True)
    assert displayed == [] and "run this cell" in capsys.readouterr().out
    lesson.play(TONE, 8000, recording=True, credit="ann, CC BY-SA 4.0")
    assert displayed.pop()[1] == {"course": {"recording": True, "credit": "ann, CC BY-SA 4.0"}}
    assert "CC BY-SA 4.0" in capsys.readouterr().out


def test_a_slider_draws_and_plays_what_it_is_moved_to(displayed: list) -> None:
    drawn: list[int] = []

    def draw(value: int) -> torch.Tensor:
        drawn.append(value)
        return TONE * value / 10

    lesson.slider(draw, 8000, "size", [1, 2, 3], start=2)
    control = next(each for each, _ in displayed if hasattr(each, "observe") and hasattr(each, "options"))
    control.value = 3
    assert drawn == [2, 3]
    players = [each for each, _ in displayed if hasattr(each, "autoplay")]
    assert [player.autoplay for player in players] == [False, True]
    np.testing.assert_allclose(_sound(players[1])[0], 0.3 * TONE, atol=2**-15)


def test_a_published_slider_is_what_it_shows_at_its_start(displayed: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURSE_PUBLISH", "1")
    drawn: list[int] = []
    lesson.slider(lambda value: drawn.append(value) or TONE, 8000, "size", [1, 2, 3], start=2)
    assert drawn == [2]
    assert all(hasattr(each, "autoplay") for each, _ in displayed)


def test_the_smoke_profile_draws_both_ends_of_a_slider(displayed: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURSE_PROFILE", "smoke")

    def draw(value: int) -> torch.Tensor:
        if value == 3:
            raise RuntimeError("the last one fails")
        return TONE

    with pytest.raises(RuntimeError, match="last one"):
        lesson.slider(draw, 8000, "size", [1, 2, 3], start=1)
