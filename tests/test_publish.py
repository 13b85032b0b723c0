"""Lessons are chosen by number or name, and one that is not there is an error."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from course_lib import environment
from tools import publish


@pytest.fixture
def notebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with three lessons of one cell each; lesson 3b fails."""
    monkeypatch.setattr(environment, "CHECKOUT", tmp_path)
    monkeypatch.setenv("COURSE_PROFILE", "smoke")
    monkeypatch.setenv("COURSE_PUBLISH", "0")
    (tmp_path / "notebooks").mkdir()
    for name, source in {"01_tones": "print(6 * 7)", "03_waves": "print(1)", "03b_more": "1 / 0"}.items():
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
        nbformat.write(notebook, tmp_path / "notebooks" / f"{name}.ipynb")
    return tmp_path / "notebooks"


@pytest.mark.parametrize(
    ("names", "stems"),
    [
        ([], ["01_tones", "03_waves", "03b_more"]),
        (["1"], ["01_tones"]),
        (["01"], ["01_tones"]),
        (["3b", "01_tones"], ["01_tones", "03b_more"]),
        (["03", "3", "notebooks/03_waves.ipynb"], ["03_waves"]),
    ],
)
def test_lessons_are_chosen_by_number_or_name(notebooks: Path, names: list[str], stems: list[str]) -> None:
    assert [path.stem for path in publish.chosen(names)] == stems


@pytest.mark.parametrize("names", [["9"], ["01", "tones"], [""], ["0"]])
def test_a_lesson_that_is_not_there_is_an_error(notebooks: Path, names: list[str], capsys) -> None:
    assert publish.main([*names, "--html", str(notebooks / "html")]) == 1
    assert "there is no lesson" in capsys.readouterr().err
    assert not (notebooks / "html").exists()


@pytest.mark.parametrize("arguments", [[], ["1"], ["1", "--html"], ["1", "--publish", "--html", "x"]])
def test_a_command_without_one_way_to_publish_is_refused(arguments: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        publish.main(arguments)
    assert stopped.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_a_lesson_becomes_a_page(notebooks: Path, tmp_path: Path) -> None:
    assert publish.main(["1", "--html", str(tmp_path / "html")]) == 0
    assert "42" in (tmp_path / "html" / "01_tones.html").read_text()


def test_a_lesson_that_fails_is_not_stored(notebooks: Path, capsys) -> None:
    before = (notebooks / "03b_more.ipynb").read_bytes()
    assert publish.main(["3b", "--publish"]) == 1
    assert "03b_more.ipynb stops with an error" in capsys.readouterr().err
    assert (notebooks / "03b_more.ipynb").read_bytes() == before


def test_the_text_of_a_figure_stays_and_other_metadata_go() -> None:
    cell = nbformat.v4.new_code_cell("1", metadata={"alt": "Two tones", "collapsed": True})
    assert publish.strip(nbformat.v4.new_notebook(cells=[cell])).cells[0].metadata == {"alt": "Two tones"}
