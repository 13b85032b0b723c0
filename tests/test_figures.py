"""Figures show the numbers that they are given."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from course_lib import figures


@pytest.fixture(autouse=True)
def unseen() -> Iterator[None]:
    """No window, and nothing left open."""
    before = matplotlib.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(before)


def test_in_noise_has_a_panel_a_noise_and_a_line_a_model() -> None:
    snrs = [20.0, 10.0, 0.0]
    rows = [(model, "none", np.inf, 1.0) for model in ("ours", "theirs")]
    for model, loss in (("ours", 0.1), ("theirs", 0.3)):
        for noise in ("white", "babble"):
            rows += [(model, noise, snr, 1 - loss * number) for number, snr in enumerate(snrs)]
    figure = figures.in_noise(pd.DataFrame(rows, columns=["model", "noise", "snr", "accuracy"]), "Noise", 0.1)
    white, babble = figure.axes
    assert (white.get_title(), babble.get_title()) == ("white", "babble")
    assert figure.get_suptitle() == "Noise"
    for panel in (white, babble):
        curves = [line for line in panel.get_lines() if len(line.get_xdata()) == 3]
        drawn = [dict(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in curves]
        assert drawn[0] == pytest.approx({20: 100, 10: 90, 0: 80})
        assert drawn[1] == pytest.approx({20: 100, 10: 70, 0: 40})
        low, high = panel.get_ylim()
        assert low == 0 and high > 100
        assert panel.get_xlim()[0] > panel.get_xlim()[1]  # the noise grows to the right
        assert "dB" in panel.get_xlabel()
    assert [text.get_text() for text in babble.get_legend().get_texts()] == ["ours", "theirs"]
    assert white.get_legend() is None


def test_filters_are_sorted_by_their_peak_and_shown_in_decibels() -> None:
    responses = np.full((3, 5), 0.5)
    responses[[0, 1, 2], [4, 0, 2]] = [1.0, 5.0, 10.0]  # peaks at Nyquist, at 0 Hz and in between
    figure = figures.filters(responses, 8000, "Filters")
    panel = figure.axes[0]
    (image,) = panel.get_images()
    shown = np.asarray(image.get_array())
    assert shown.shape == (5, 3) and shown.argmax(axis=0).tolist() == [0, 2, 4]
    np.testing.assert_allclose(shown.max(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(shown[1], 20 * np.log10([0.1, 0.05, 0.5]))
    assert list(image.get_extent()) == [0.5, 3.5, 0, 4000]
    assert panel.get_title() == "Filters" and panel.get_ylabel() == "frequency (Hz)"


def test_estimates_are_dots_with_bars_a_row_each() -> None:
    table = pd.DataFrame({"name": ["one", "two"], "mean": [0.5, 0.9], "low": [0.4, 0.9], "high": [0.7, 0.95]})
    figure = figures.estimates(table, "Estimates", chance=0.1)
    (panel,) = figure.axes
    (dots,) = panel.containers
    assert dots.lines[0].get_xdata().tolist() == pytest.approx([50, 90])
    assert dots.lines[0].get_ydata().tolist() == [0, 1]
    bars = [segment[:, 0].tolist() for segment in dots.lines[2][0].get_segments()]
    assert bars == [pytest.approx([40, 70]), pytest.approx([90, 95])]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["one", "two"]
    bottom, top = panel.get_ylim()
    assert bottom > 1 and top < 0  # the first row is on top and none is cut off
    assert panel.get_xlim() == (0, 101)
    assert any(np.ptp(line.get_xdata()) == 0 and line.get_xdata()[0] == 10 for line in panel.get_lines())
    assert panel.get_legend() is None


def test_estimates_of_several_protocols_have_a_colour_each() -> None:
    rows = [("one", "official", 0.9), ("one", "random", 0.8), ("two", "official", 0.7)]
    table = pd.DataFrame(rows, columns=["name", "protocol", "mean"]).assign(low=0.5, high=0.95)
    (panel,) = figures.estimates(table, "Estimates", chance=None).axes
    official, random = panel.containers
    assert official.lines[0].get_xdata().tolist() == pytest.approx([90, 70])
    assert random.lines[0].get_xdata().tolist() == pytest.approx([80])
    assert np.round(official.lines[0].get_ydata()).tolist() == [0, 1]
    assert random.lines[0].get_ydata()[0] != official.lines[0].get_ydata()[0]
    assert official.lines[0].get_color() != random.lines[0].get_color()
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["official", "random"]
    assert not any(line.get_linestyle() == ":" for line in panel.get_lines())


def test_curves_of_two_classes_have_a_line_for_each_model() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(60) % 2
    probabilities = (labels + random.random(60)) / 2
    table = pd.DataFrame({"label": labels, "probability": probabilities, "margin": probabilities - 0.5})
    figure = figures.two_class_curves({"one": table, "other": table}, "Curves", "murmur")
    for panel in figure.axes[:4]:
        names = [text.get_text() for text in panel.get_legend().get_texts()]
        assert sum("one" in name for name in names) == sum("other" in name for name in names) == 1
    decided = figure.axes[3].get_lines()[0]
    assert decided.get_xdata()[-1] == 100
    right = [(probabilities[labels == 0] < 0.5).mean(), (probabilities[labels == 1] >= 0.5).mean()]
    assert decided.get_ydata()[-1] == pytest.approx(100 * np.mean(right))


def test_confusions_show_percent_or_count_the_errors_alone() -> None:
    matrices = {"one": np.array([[8, 2], [0, 10]]), "two": np.array([[10, 0], [5, 5]])}
    shown = {}
    for errors in (False, True):
        figure = figures.confusions(matrices, ("a", "b"), "Confusions", errors=errors)
        shown[errors] = [[text.get_text() for text in panel.texts] for panel in figure.axes]
        scales = {panel.collections[0].get_clim() for panel in figure.axes}
        assert scales == {(0, 5 if errors else 100)}
    assert shown[False] == [["80", "20", "", "100"], ["100", "", "50", "50"]]
    assert shown[True] == [["", "2", "", ""], ["", "", "5", ""]]


def test_top_classes_show_the_likeliest_and_mark_the_right_one() -> None:
    sounds = [torch.randn(2000), torch.randn(3000), torch.randn(2500)]
    answers = [{"a": 0.7, "b": 0.2, "c": 0.06, "d": 0.04}, {"a": 0.1, "b": 0.5, "c": 0.4}, {"a": 1.0}]
    figure = figures.top_classes(sounds, answers, ["a", "c", "a"], 8000, "Ten words")
    bars = [panel for panel in figure.axes if panel.patches]
    assert [len(panel.patches) for panel in bars] == [3, 3, 1]
    first = {text.get_text() for text in bars[0].texts}
    assert first == {"a: 70%", "b: 20%", "c: 6%"}
    colours = [bar.get_facecolor() for bar in bars[1].patches]  # from the third to the first
    assert colours[1] != colours[2] and colours[0] == colours[2]
    assert [panel.get_title() for panel in figure.axes if panel.images] == ["“a”", "“c”", "“a”"]


def test_a_mel_spectrogram_draws_each_band_around_its_centre() -> None:
    image = np.zeros((40, 10))
    axes = figures.spectrogram(image, 8000, 64, "Mel", y_axis="mel")
    left, right, low, high = axes.get_images()[0].get_extent()
    # The centre of the first band is the first inner corner of the triangles.
    first = low + (high - low) / 80
    corners = np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 42)
    np.testing.assert_allclose(first, corners[1])
    np.testing.assert_allclose((left, right), (-0.004, 9.5 * 0.008))
    ticks = {text.get_text(): tick for tick, text in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)}
    np.testing.assert_allclose(ticks["1000"], 2595 * np.log10(1 + 1000 / 700))
    assert max(map(int, ticks)) < 4000


def test_a_spectrogram_in_hertz_ends_at_nyquist() -> None:
    axes = figures.spectrogram(np.zeros((129, 10)), 8000, 64, "Hertz")
    low, high = axes.get_images()[0].get_extent()[2:]
    assert low + (high - low) / 258 == pytest.approx(0, abs=1e-9)  # the centre of the first row
    assert axes.get_ylim() == (0, 4000)
