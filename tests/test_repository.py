"""What holds the course together: imports, packages, tables, committed lessons."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

from course_lib import environment, layers, models, publish, tables, training

ROOT = environment.CHECKOUT
LESSONS = publish.lessons()
PUBLIC = {
    name: value for part in (layers, models, training) for name, value in vars(part).items() if inspect.isclass(value)
}


def _package(requirement: str) -> str:
    return re.split(r"[<>=;\[ ]", requirement, maxsplit=1)[0].lower()


def _declared() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return {_package(each): each.lower() for each in project["dependencies"] + extras["course"] + extras["test"]}


def test_imports_go_in_one_direction():
    script = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([script, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_conda_and_pip_users_get_the_same_packages():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(each["pip"] for each in conda if isinstance(each, dict))
    listed = {_package(each): each.lower() for each in [*conda, *pip] if isinstance(each, str)}
    del listed["python"], listed["pip"]
    assert listed == _declared()


def test_every_package_is_pinned_exactly_and_no_address_is_recorded():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+]+", line) for line in lines)
    pinned = dict(line.lower().replace("_", "-").split("==") for line in lines)
    assert set(_declared()) <= set(pinned)
    assert pinned["torch"] == pinned["torchaudio"]


@pytest.mark.parametrize("dataset", ["fsdd", "physionet2016"])
def test_readme_shows_the_table_made_from_the_results(dataset, monkeypatch):
    monkeypatch.setenv("COURSE_RESULTS", str(ROOT / "results"))
    rows = tables.table(dataset)
    assert rows, "there are no results"
    assert all(row["source"] == "real" for row in rows)
    assert tables.markdown(rows) in (ROOT / "README.md").read_text()


def test_no_recording_and_no_large_file_is_in_git():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    assert not [path for path in files if path.suffix.lower() in (".wav", ".flac", ".mp3", ".ogg")]
    assert not [path for path in files if path.stat().st_size > 1_000_000]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_committed_lesson_is_complete(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert publish.faults(notebook) == []
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert max(source.count("\n") + 1 for source in code) <= 25
    prose = " ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert 1_000 <= len(prose.split()) <= 3_500


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_classes_shown_in_a_lesson_are_those_of_the_library(path):
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type != "code" or not re.search(r"^class ", cell.source, re.MULTILINE):
            continue
        for shown in ast.walk(ast.parse(cell.source)):
            if isinstance(shown, ast.ClassDef) and shown.name in PUBLIC:
                (kept,) = ast.parse(inspect.getsource(PUBLIC[shown.name])).body
                assert ast.dump(shown) == ast.dump(kept), f"{shown.name} in {path.name} differs from the library's"


def test_spectrogram_cnn_is_shown_in_lesson_2():
    source = (ROOT / "notebooks" / "02_spoken_digits_cnn.ipynb").read_text()
    assert "class SpectrogramCNN" in source


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        ({"output_type": "error", "ename": "E", "evalue": "", "traceback": []}, "error"),
        ({"output_type": "stream", "name": "stderr", "text": "careful"}, "warning"),
        ({"output_type": "stream", "name": "stdout", "text": "*** STAND-IN DATA ***"}, "stand-in"),
        ({"output_type": "stream", "name": "stdout", "text": "saved to /home/me/x.png"}, "path"),
        (
            {"output_type": "display_data", "data": {"text/html": ""}, "metadata": {"course": {"recording": True}}},
            "recording",
        ),
        ({"output_type": "stream", "name": "stdout", "text": "x" * 700_000}, "KB"),
    ],
)
def test_what_is_not_fit_to_be_committed_is_found(output, fault):
    cell = nbformat.v4.new_code_cell("1", execution_count=1, outputs=[nbformat.from_dict(output)])
    assert fault in " ".join(publish.faults(nbformat.v4.new_notebook(cells=[cell])))


def test_a_cell_that_was_not_executed_is_found():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    assert "not executed" in " ".join(publish.faults(notebook))


def test_citation_and_package_name_the_same_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __import__("course_lib").__version__
    assert json.dumps(citation["title"])
