"""The pages of docs/: what they show runs, and what they link to is there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import course_lib
from course_lib import environment, experiments
from course_lib.__main__ import _parser, main
from course_lib.datasets import catalogue

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "results" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def write_files(page: str, folder: Path) -> str:
    """Write the files that a page of docs/ shows to a folder; returns the page's text."""
    text = (ROOT / "docs" / page).read_text()
    for name, content in re.findall(r"<!-- file (\S+) -->\n```\w+\n(.*?)```", text, re.DOTALL):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    return text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_of_the_checkout(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    local = [link for link in links if not link.startswith(("http://", "https://"))]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_readme_is_one_page() -> None:
    assert (ROOT / "README.md").stat().st_size < 6_000


def test_teachers_are_told_how_many_exercises_a_lesson_has() -> None:
    page = (ROOT / "docs" / "teaching" / "README.md").read_text()
    told = re.findall(r"^\| \[(\d) [^|]*\| \d+ \| (\d+), and (\d+) guess", page, re.MULTILINE)
    assert len(told) >= 5
    for number, *counts in told:
        (lesson,) = (ROOT / "notebooks").glob(f"0{number}_*.ipynb")
        source = lesson.read_text()
        found = [len(re.findall(rf"exercises\.lesson_{number}\.\w+\.{what}\(", source)) for what in ("check", "guess")]
        assert [int(count) for count in counts] == found, lesson.stem


def test_citation_names_the_version() -> None:
    assert f"\nversion: {course_lib.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_every_variable_is_documented() -> None:
    source = Path(environment.__file__).read_text()
    page = (ROOT / "docs" / "environment.md").read_text()
    assert set(re.findall(r'"(COURSE_\w+)"', source)) == set(re.findall(r"^\| `(COURSE_\w+)`", page, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_are_those_of_the_command_line(page: Path) -> None:
    for command in re.findall(r"^python -m course_lib (.*)$", page.read_text(), re.MULTILINE):
        assert _parser().parse_args(shlex.split(command, comments=True)).command


def test_the_recipe_shown_extends_one_of_the_course(tmp_path: Path) -> None:
    write_files("experiments.md", tmp_path)
    recipe = experiments.load(tmp_path / "twice_as_long.yaml")
    assert recipe.training.epochs == 2 * experiments.load("fsdd/log_mel_cnn").training.epochs


@pytest.fixture
def no_other_data_sets() -> Iterator[None]:
    """Whatever a test adds to the catalogue is taken out again."""
    before = dict(catalogue.ENTRIES)
    yield
    catalogue.ENTRIES.clear()
    catalogue.ENTRIES.update(before)
    catalogue._FILES_READ.clear()


@pytest.mark.usefixtures("no_other_data_sets")
def test_a_data_set_of_ones_own_goes_from_file_to_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = write_files("own_sounds.md", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COURSE_DATA", "data")
    monkeypatch.setenv("COURSE_CACHE", "cache")
    shell, python = re.findall(r"<!-- run -->\n```\w+\n(.*?)```", page, re.DOTALL)
    for line in shell.splitlines():
        word, *words = shlex.split(line)
        if word == "export":
            for variable, value in (each.split("=") for each in words):
                monkeypatch.setenv(variable, value)
        else:
            assert [word, *words[:2]] == ["python", "-m", "course_lib"]
            assert main(words[2:]) == 0
    shown = capsys.readouterr().out
    assert "| Log-mel CNN (`birds_recipes/log_mel" in shown
    assert "intervals over 4 sites" in shown and "worst site" in shown
    exec(python, {})
    assert (tmp_path / "birds.png").stat().st_size > 10_000
