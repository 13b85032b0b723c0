"""Every lesson opens on Colab and Binder, and what its head says comes from one address."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from course_lib import environment
from tools import badges, publish

LESSONS = [pytest.param(path, id=path.stem) for path in publish.lessons()]


@pytest.mark.parametrize("path", LESSONS)
def test_the_head_of_a_lesson_is_as_written(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    before = nbformat.writes(notebook)
    assert nbformat.writes(badges.write_head(notebook, path)) == before, "run: python -m tools.badges"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of another repository with one executed lesson."""
    (tmp_path / "notebooks").mkdir()
    address = "https://github.com/someone/her-course/"
    (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "x"\nurls = {{ Repository = "{address}" }}\n')
    title = nbformat.v4.new_markdown_cell("# Lesson 1\n\nWhy?\n\nBecause.")
    printed = nbformat.v4.new_output("stream", text="1\n")
    code = [nbformat.v4.new_code_cell("print(1)", execution_count=1, outputs=[printed]), nbformat.v4.new_code_cell("2")]
    code[1].execution_count = 2
    nbformat.write(nbformat.v4.new_notebook(cells=[title, *code]), tmp_path / "notebooks" / "01_tones.ipynb")
    monkeypatch.setattr(environment, "CHECKOUT", tmp_path)
    return tmp_path


def test_the_head_is_put_in_once_and_outputs_stay(checkout: Path) -> None:
    path = checkout / "notebooks" / "01_tones.ipynb"
    assert badges.main([]) == 0
    first = path.read_text()
    notebook = nbformat.read(path, as_version=4)
    title, cell, *code = notebook.cells
    assert title.source.startswith("# Lesson 1\n\n[![Open in Colab]") and title.source.endswith("\n\nWhy?\n\nBecause.")
    assert "someone/her-course/blob/main/notebooks/01_tones.ipynb" in title.source
    assert "/gh/someone/her-course/main?labpath=notebooks%2F01_tones.ipynb" in title.source
    assert 'address, folder = "https://github.com/someone/her-course", "/content/course"\n' in cell.source
    assert code[0].outputs[0].text == "1\n"
    assert publish.faults(notebook) == []
    nbformat.validate(notebook)
    assert badges.main(["1"]) == 0
    assert path.read_text() == first


def test_another_address_replaces_the_first(checkout: Path) -> None:
    badges.main([])
    page = checkout / "pyproject.toml"
    page.write_text(page.read_text().replace("someone", "somebody"))
    badges.main([])
    text = (checkout / "notebooks" / "01_tones.ipynb").read_text()
    assert "someone" not in text and text.count("somebody/her-course") == 3


def test_a_lesson_that_is_not_there_is_named(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert badges.main(["9"]) == 1
    assert "there is no lesson 9" in capsys.readouterr().err
