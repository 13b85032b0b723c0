"""The first cell of a lesson in a made-up Colab: real IPython, git without a network, a pip that takes notes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from course_lib import environment
from tools import badges

pytestmark = pytest.mark.skipif(
    os.name != "posix" or not shutil.which("git"), reason="Colab is Linux, and the cell calls git"
)
PROJECT = """
[project]
dependencies = ["numpy>=2.0", "torch>=2.11", "torchaudio>=2.11"]
[project.optional-dependencies]
course = ["ipywidgets>=8.1", "jupyterlab>=99", "scikit-learn>=1.8", "not-on-colab>=1"]
"""
OLD = {"torch": "2.8.0+cu126", "torchaudio": "2.11.0", "ipywidgets": "7.7.1", "scikit_learn": "1.6.1"}
PIP = """
import json, os, pathlib, shutil, sys
constraints = pathlib.Path(sys.argv[sys.argv.index("--constraint") + 1]).read_text().split()
with open(os.environ["NOTES"], "a") as notes:
    print(json.dumps([sys.argv[1:], constraints]), file=notes)
if os.environ.get("PIP_FAILS"):
    sys.exit("no matching distribution")
fake = pathlib.Path(os.environ["FAKE"])
shutil.rmtree(fake / "scikit_learn-1.6.1.dist-info")
for name in ("not_on_colab", "scikit_learn"):
    about = fake / f"{name}-9.0.dist-info"
    about.mkdir(exist_ok=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\\nName: {name}\\nVersion: 9.0\\n")
"""
# What a notebook does: one cell after the other, in one IPython.
SESSION = """
import json, os, sys, types
from IPython.core.interactiveshell import InteractiveShell
if os.environ.get("ON_COLAB"):
    sys.modules |= {"google": types.ModuleType("google"), "google.colab": types.ModuleType("google.colab")}
shell = InteractiveShell.instance()
for cell in json.loads(sys.argv[1]):
    if not shell.run_cell(cell).success:
        sys.exit("the cell failed")
"""
STATE = """
import os, subprocess, sys
import course_lib
from_elsewhere = [sys.executable, "-c", "import course_lib; print('process', course_lib.WHERE)"]
print("at", os.getcwd())
print("course", course_lib.WHERE)
print(subprocess.run(from_elsewhere, cwd="/", capture_output=True, text=True).stdout)
"""


@pytest.fixture
def colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with Colab's older packages, and a repository where git finds the course's address."""
    origin, fake = tmp_path / "origin", tmp_path / "fake"
    for folder in ("notebooks", "tools", "course_lib"):
        (origin / folder).mkdir(parents=True)
    (origin / "pyproject.toml").write_text(PROJECT)
    (origin / "notebooks" / "01.ipynb").write_text("{}")
    (origin / "course_lib" / "__init__.py").write_text("WHERE = 'the clone'\n")
    shutil.copy(environment.CHECKOUT / "tools" / "colab.py", origin / "tools")
    git = ["git", "-C", str(origin), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], check=True)
    (fake / "pip").mkdir(parents=True)
    (fake / "pip" / "__init__.py").touch()
    (fake / "pip" / "__main__.py").write_text(PIP)
    for name, version in OLD.items():
        about = fake / f"{name}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    redirect = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.file://{origin}.insteadOf"}
    redirect |= {"GIT_CONFIG_VALUE_0": badges.repository(), "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
    own = {"HOME": str(tmp_path), "IPYTHONDIR": str(tmp_path / "ipython"), "NOTES": str(tmp_path / "notes")}
    own |= {"PYTHONPATH": str(fake), "FAKE": str(fake), "ON_COLAB": "1", "NO_COLOR": "1"}
    for name, value in (redirect | own).items():
        monkeypatch.setenv(name, value)
    return tmp_path


def cell(home: Path) -> str:
    return badges.colab_cell().replace("/content", str(home))


def run(home: Path, *cells: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SESSION, json.dumps(cells)]
    return subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=60)


def noted(home: Path) -> list[list[list[str]]]:
    notes = home / "notes"
    return [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []


def test_the_cell_gets_the_course_and_what_colab_lacks(colab: Path) -> None:
    done = run(colab, cell(colab), STATE)
    assert done.returncode == 0, done.stdout + done.stderr
    clone = colab / "course"
    assert f"at {clone / 'notebooks'}\n" in done.stdout
    assert "course the clone\n" in done.stdout and "process the clone\n" in done.stdout
    assert "Colab has torch 2.8.0+cu126; the course was written for torch>=2.11" in done.stdout
    [[arguments, constraints]] = noted(colab)
    packages = [each for each in arguments if ">=" in each]
    assert packages == ["scikit-learn>=1.8", "not-on-colab>=1"]  # and neither jupyterlab nor another torch
    assert "--upgrade" not in arguments
    assert sorted(constraints) == ["ipywidgets==7.7.1", "torch==2.8.0+cu126", "torchaudio==2.11.0"]


def test_a_second_run_of_the_cell_fetches_and_installs_nothing(colab: Path) -> None:
    done = run(colab, cell(colab), cell(colab), STATE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(noted(colab)) == 1 and "fatal" not in done.stdout + done.stderr


def test_a_pip_that_fails_stops_the_cell_with_its_reason(colab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FAILS", "1")
    done = run(colab, cell(colab))
    assert done.returncode != 0
    assert "no matching distribution" in done.stdout and "run this cell again" in done.stdout + done.stderr


def test_elsewhere_the_cell_does_nothing(colab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ON_COLAB")
    done = run(colab, cell(colab), "import os; print('at', os.getcwd())")
    assert done.returncode == 0 and done.stdout == f"at {colab}\n"
    assert not noted(colab)
    assert {path.name for path in colab.iterdir()} <= {"origin", "fake", "ipython"}
