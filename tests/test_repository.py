"""What holds the course together: imports, packages, tables, committed lessons."""

from __future__ import annotations

import ast
import importlib
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

from course_lib import environment, layers, models, training
from course_lib.experiments import tables
from tools import publish

ROOT = environment.CHECKOUT
LESSONS = publish.lessons()
RESULTS_PAGE = ROOT / "results" / "README.md"
TABLES = re.findall(r"^<!-- table (\S+) -->$", RESULTS_PAGE.read_text(), re.MULTILINE)
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


def test_the_results_page_has_a_table_for_every_folder_of_results():
    folders = {path.parts[-4] for path in (ROOT / "results").glob("*/*/*/*.json")}
    assert set(TABLES) == folders


@pytest.mark.parametrize("folder", TABLES)
def test_the_results_page_shows_the_table_made_from_the_results(folder, monkeypatch):
    monkeypatch.setenv("COURSE_RESULTS", str(ROOT / "results"))
    rows = tables.table(folder)
    assert len(rows) and (rows["source"] == "real").all()
    shown = RESULTS_PAGE.read_text().partition(f"<!-- table {folder} -->\n")[2].partition("<!-- end -->")[0]
    assert shown == f"{tables.markdown(rows)}\n", "run: make table"


def _tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if (ROOT / name).is_file()]


def test_no_recording_and_no_large_file_is_in_git():
    files = _tracked()
    assert not [path for path in files if path.suffix.lower() in (".wav", ".flac", ".mp3", ".ogg")]
    assert not [path for path in files if path.stat().st_size > 1_000_000]


def test_no_file_names_a_folder_of_somebody_s_machine():
    text = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".cfg", ".cff", ".json", ""}
    paths = re.compile(r"(?<![\w.:/])/(?:root|work|Users)/|\.\./" + "shared")
    files = [path for path in _tracked() if path.suffix in text and path.name != "run" and path != Path(__file__)]
    assert not [path for path in files if path.stem != "publish" and paths.search(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("part", ["layers", "models", "training", "evaluation", "datasets", "experiments"])
def test_what_lessons_use_names_the_lesson(part):
    public = importlib.import_module(f"course_lib.{part}")
    books = {path.stem for path in LESSONS}
    lessons = " ".join(path.read_text() for path in LESSONS)
    for name, value in vars(public).items():
        if not getattr(value, "__module__", "").startswith("course_lib") or name.startswith("_"):
            continue
        named = re.findall(r"Notebook: (\w+)", value.__doc__ or "")
        assert value.__doc__ and set(named) <= books, f"{part}.{name}"
        assert named or not re.search(rf"\b{part}\.{name}\(", lessons), f"{part}.{name} is used in a lesson: name it"


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_committed_lesson_is_complete(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert publish.faults(notebook) == []
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert max(source.count("\n") + 1 for source in code) <= 25
    prose = " ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    appendix = path.stem.split("_")[0].endswith("b")
    assert (400 if appendix else 1_000) <= len(prose.split()) <= 2_500


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


def _recording(**marks: str) -> nbformat.NotebookNode:
    player = {"output_type": "display_data", "data": {"text/html": ""}}
    return nbformat.from_dict(player | {"metadata": {"course": {"recording": True} | marks}})


def test_one_recording_may_be_stored_with_its_licence():
    outputs = [_recording(credit="jackson, CC BY-SA 4.0")]
    cell = nbformat.v4.new_code_cell("1", execution_count=1, outputs=outputs)
    assert publish.faults(nbformat.v4.new_notebook(cells=[cell])) == []
    cell.outputs = outputs * 2
    assert "more than one recording" in " ".join(publish.faults(nbformat.v4.new_notebook(cells=[cell])))


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        ({"output_type": "error", "ename": "E", "evalue": "", "traceback": []}, "error"),
        ({"output_type": "stream", "name": "stderr", "text": "careful"}, "warning"),
        ({"output_type": "stream", "name": "stdout", "text": "*** STAND-IN DATA ***"}, "stand-in"),
        ({"output_type": "stream", "name": "stdout", "text": "saved to /home/me/x.png"}, "path"),
        (_recording(), "without naming its licence"),
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
