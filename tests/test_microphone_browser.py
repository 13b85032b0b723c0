"""The recorder in a real browser: chromium's fake microphone plays a WAV file, a JupyterLab of our own takes it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import soundfile as sf

from course_lib import audio, datasets, environment, kept_models

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; on Debian: apt-get install chromium")

HERTZ, LEVEL, PATIENCE = 440.0, 0.25, 240  # seconds: other tests may need the processor, too
CELL = """
import numpy as np
from course_lib.microphone import Recorder
def keep(recording):
    with open("part", "wb") as file:
        np.savez(file, samples=recording.samples, rate=recording.sample_rate, level=recording.level)
    __import__("os").replace("part", "recorded.npz")
recorder = Recorder(seconds=1.0, on_recorded=keep, prompt="Say seven")
recorder
"""

LESSON = environment.CHECKOUT / "notebooks" / "02_spoken_digits_cnn.ipynb"
# What section 10 of the lesson takes from the sections before: here a network that has learned nothing.
BEFORE = """
from course_lib.models import SpectrogramCNN
voices, front_end, network = recordings, LogSpectrogram(), SpectrogramCNN()
"""


def seventh_speaker() -> list[str]:
    """The cells of the lesson that record ten digits and classify them, after the one with its imports."""
    cells = [cell.source for cell in nbformat.read(LESSON, as_version=4).cells if cell.cell_type == "code"]
    first = next(number for number, source in enumerate(cells) if re.search(r"^recorder = Recorder", source, re.M))
    imports = next(source for source in cells if "lesson.start()" in source)
    return [imports + BEFORE, *cells[first : first + 4]]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a JupyterLab on a free port, and its folder, which holds the notebook."""
    folder = tmp_path_factory.mktemp("lab")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    for name, sources in {"mine": [CELL.strip()], "seventh": seventh_speaker()}.items():
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / f"{name}.ipynb")
    own = {f"COURSE_{name}": str(folder / name.lower()) for name in ("DATA", "CACHE", "RESULTS")}
    own |= {"COURSE_OFFLINE": "1", "COURSE_PROFILE": "smoke", "COURSE_PUBLISH": "0"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
    options += ["--IdentityProvider.token=", f"--ServerApp.root_dir={folder}", "--LabApp.expose_app_in_browser=True"]
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | own,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(lambda: _answers(f"{address}/api"), "JupyterLab did not start")
        yield address, folder
    finally:
        server.terminate()
        server.wait(timeout=30)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


def _wait_for(condition: Any, otherwise: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.1)


@pytest.fixture
def run_notebook(lab: tuple[str, Path]) -> Iterator[Any]:
    """A function that opens a notebook in a browser with the given options, runs it, and returns the page."""
    address, _ = lab
    with sync_api.sync_playwright() as playwright:
        browsers = []

        def run(*options: str, notebook: str = "mine") -> Any:
            options = ("--no-sandbox", "--use-fake-device-for-media-stream", *options)
            browsers.append(playwright.chromium.launch(executable_path=CHROMIUM, args=options))
            page = browsers[-1].new_page()
            page.set_default_timeout(1000 * PATIENCE)
            page.goto(f"{address}/lab/tree/{notebook}.ipynb?reset")
            page.wait_for_selector(".jp-Notebook .jp-CodeCell")
            page.wait_for_function("window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel != null")
            page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
            page.wait_for_selector(".course-record")
            return page

        yield run
        for browser in browsers:
            browser.close()


def test_a_tone_arrives_with_its_frequency_and_level_and_is_not_stored(
    lab: tuple[str, Path], run_notebook: Any, tmp_path: Path
) -> None:
    time_s = np.arange(10 * 48_000) / 48_000
    played = tmp_path / "tone.wav"
    sf.write(played, LEVEL * np.sin(2 * np.pi * HERTZ * time_s), 48_000, "PCM_16")
    page = run_notebook("--use-fake-ui-for-media-stream", f"--use-file-for-fake-audio-capture={played}")
    assert page.inner_text(".course-prompt") == "Say seven"
    page.click(".course-record")
    recorded = lab[1] / "recorded.npz"
    _wait_for(recorded.exists, "nothing arrived in Python")
    with np.load(recorded) as arrived:
        samples, rate, level = arrived["samples"], int(arrived["rate"]), float(arrived["level"])
    assert samples.dtype == np.float32 and len(samples) == pytest.approx(rate, rel=0.02)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), n=8 * len(samples)))
    assert spectrum.argmax() * rate / (8 * len(samples)) == pytest.approx(HERTZ, abs=0.2)
    assert level == pytest.approx(20 * np.log10(LEVEL / np.sqrt(2)), abs=0.1)
    page.wait_for_function("document.querySelector('.course-said').textContent.includes('level -15 dB')")
    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    notebook = lab[1] / "mine.ipynb"
    _wait_for(lambda: 'execution_count": 1' in notebook.read_text(), "the notebook was not saved")
    assert notebook.stat().st_size < 20_000  # a second of samples would be ten times as much


def test_a_refused_permission_is_said_in_words(run_notebook: Any) -> None:
    page = run_notebook("--deny-permission-prompts")
    page.click(".course-record")
    page.wait_for_function("document.querySelector('.course-said').textContent.includes('not allowed')")
    assert page.is_enabled(".course-record")


@pytest.mark.skipif("fsdd/for_strangers" not in kept_models.names(), reason="no network for strangers is kept")
def test_the_seventh_speaker_of_lesson_2_is_recorded_and_recognised(
    lab: tuple[str, Path], run_notebook: Any, tmp_path: Path
) -> None:
    voices = datasets.stand_in("fsdd")
    speaker = voices.table["group"].iloc[0]
    played = tmp_path / "digit.wav"

    def play(digit: int) -> None:
        word = voices.waveform(voices.find(group=speaker, label=digit)[0])
        sf.write(played, audio.resample(word / word.abs().max() / 2, 8000, 48_000).numpy(), 48_000, "PCM_16")

    play(0)
    capture = f"--use-file-for-fake-audio-capture={played}%noloop"
    page = run_notebook("--use-fake-ui-for-media-stream", capture, notebook="seventh")
    asked = []
    while (prompt := page.inner_text(".course-prompt")).startswith("Say"):
        asked.append(int(re.search(r"\d", prompt)[0]))
        play(asked[-1])
        page.click(".course-record")
        page.wait_for_function(
            "before => document.querySelector('.course-prompt').textContent.match(/\\d/)?.[0] !== before",
            arg=str(asked[-1]),
        )
    assert sorted(asked) == list(range(10))
    page.click(".jp-CodeCell >> nth=2")
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-below')")
    outputs = "[...document.querySelectorAll('.jp-OutputArea')].map(area => area.textContent).join()"
    page.wait_for_function(f"!{outputs}.includes('No ten recordings')")  # the cells themselves have these words, too
    page.wait_for_function(f"/network for strangers: \\d+ of 10/.test({outputs})")
    assert int(re.search(r"network for strangers: (\d+) of 10", page.evaluate(outputs))[1]) >= 8
