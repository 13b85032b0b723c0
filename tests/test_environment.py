"""Environment variables are read in one place, and a value that cannot be used ends in one sentence that names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from course_lib import CourseError, environment

SWITCHES = {"COURSE_OFFLINE": environment.offline, "COURSE_PUBLISH": environment.publishing}
FOLDERS = {
    "COURSE_DATA": environment.data_folder,
    "COURSE_CACHE": environment.cache_folder,
    "COURSE_RESULTS": environment.results_folder,
}


@pytest.mark.parametrize("variable", SWITCHES)
def test_a_switch_is_on_or_off_in_several_words(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("1", "true", "Yes", "ON", " 1 "):
        monkeypatch.setenv(variable, value)
        assert SWITCHES[variable]() is True
    for value in ("", "0", "false", "No", "OFF", " "):
        monkeypatch.setenv(variable, value)
        assert SWITCHES[variable]() is False
    monkeypatch.delenv(variable)
    assert SWITCHES[variable]() is False
    for value in ("2", "-1", "maybe", "nein"):
        monkeypatch.setenv(variable, value)
        with pytest.raises(CourseError, match=rf"^{variable} is '{value}'; it must be 1 .* or 0 "):
            SWITCHES[variable]()


@pytest.mark.parametrize("variable", FOLDERS)
def test_a_folder_may_be_at_home_and_need_not_exist(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, "~/sounds")
    assert FOLDERS[variable]() == tmp_path / "sounds"
    monkeypatch.setenv(variable, " ")
    assert environment.CHECKOUT in FOLDERS[variable]().parents


@pytest.mark.parametrize("variable", FOLDERS)
def test_what_cannot_be_a_folder_is_refused(variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for value, reason in (
        (str(tmp_path / "file"), "is not a folder"),
        ("~nobody-of-this-name/data", "cannot be a path"),
        (f"/{300 * 'a'}", "cannot be a path"),
    ):
        monkeypatch.setenv(variable, value)
        with pytest.raises(CourseError, match=f"^{variable} is .*{reason}"):
            FOLDERS[variable]()


def test_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (("4", 4), (" 16 ", 16), ("", 2)):
        monkeypatch.setenv("COURSE_THREADS", value)
        assert environment.threads() == expected
    monkeypatch.delenv("COURSE_THREADS")
    assert environment.threads() == 2
    for value in ("0", "-1", "two", "1.5", "1e1", "1_0", "²", "257", 40 * "9"):
        monkeypatch.setenv("COURSE_THREADS", value)
        with pytest.raises(CourseError, match=f"^COURSE_THREADS is '{value}'; it must be a number from 1 to 256"):
            environment.threads()


def test_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (("", "laptop"), ("smoke", "smoke"), ("FULL", "full"), (" laptop ", "laptop")):
        monkeypatch.setenv("COURSE_PROFILE", value)
        assert environment.profile() == expected
        assert environment.by_profile(smoke="smoke", laptop="laptop", full="full") == expected
    monkeypatch.setenv("COURSE_PROFILE", "quick")
    with pytest.raises(CourseError, match=r"^COURSE_PROFILE is 'quick'; it must be one of smoke, laptop, full"):
        environment.profile()


@pytest.mark.parametrize("read", [environment.threads, environment.profile, environment.offline])
def test_an_unusable_value_is_a_value_error_too(read: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("COURSE_THREADS", "COURSE_PROFILE", "COURSE_OFFLINE"):
        monkeypatch.setenv(variable, "?")
    with pytest.raises(ValueError, match=r"is '\?'"):
        read()
