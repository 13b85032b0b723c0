"""Files and folders that appear whole or not at all, and leave nothing behind."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from course_lib import files
from course_lib.files import remove, whole_folder, write_whole

posix = pytest.mark.skipif(os.name != "posix", reason="needs locks and signals of POSIX")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The flushes and the final names, in order."""
    recorded: list[tuple[str, str]] = []

    def spy(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: object) -> object:
            path = os.readlink(f"/proc/self/fd/{arguments[0]}") if name == "fsync" else str(arguments[-1])
            recorded.append((name, path))
            return real(*arguments)

        monkeypatch.setattr(os, name, call)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    for name in ("fsync", "replace", "rename"):
        spy(name)
    return recorded


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.txt"
    for content in (b"first", b"second", b""):
        write_whole(path, content)
        assert path.read_bytes() == content and names(path.parent) == ["a.txt"]


def test_a_file_is_flushed_before_it_gets_its_name_and_its_folder_after(
    tmp_path: Path, events: list[tuple[str, str]]
) -> None:
    path = tmp_path / "new" / "a.txt"
    write_whole(path, b"content")
    made, flushed, named, folder = events
    assert made == ("fsync", str(tmp_path)) and named == ("replace", str(path))
    assert flushed[0] == "fsync" and flushed[1].endswith(".part")
    assert folder == ("fsync", str(path.parent))


def test_a_folder_is_flushed_before_it_gets_its_name_and_its_parent_after(
    tmp_path: Path, events: list[tuple[str, str]]
) -> None:
    with whole_folder(tmp_path / "set") as unfinished:
        (unfinished / "sub").mkdir()
        (unfinished / "sub" / "a").write_bytes(b"a")
        (unfinished / "b").write_bytes(b"b")
        assert names(tmp_path) == [unfinished.name]
    within = [path.removeprefix(str(unfinished)) for _, path in events[:-2]]
    assert sorted(within[:2]) == ["/b", "/sub/a"] and within[2:] == ["/sub", ""]
    assert events[-2:] == [("rename", str(tmp_path / "set")), ("fsync", str(tmp_path))]
    assert names(tmp_path) == ["set"] and names(tmp_path / "set") == ["b", "sub"]


@posix
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_whole(tmp_path / "a", b"")
        with whole_folder(tmp_path / "b"):
            pass
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"]
    assert modes == [0o666 & ~mask, 0o777 & ~mask]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), ValueError("bad")])
def test_a_folder_that_fails_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def fail() -> None:
        with whole_folder(tmp_path / "set") as unfinished:
            (unfinished / "a").write_bytes(b"a")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_file_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write_whole(tmp_path / "a", b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "damaged disk")

    monkeypatch.setattr(os, name, fail)
    with pytest.raises(OSError, match="damaged disk"):
        write_whole(tmp_path / "a", b"new")
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"old"


def test_a_folder_that_another_process_finished_first_stays(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "set") as mine:
        (mine / "a").write_bytes(b"mine")
        with whole_folder(tmp_path / "set") as other:
            (other / "a").write_bytes(b"other")
    assert (tmp_path / "set" / "a").read_bytes() == b"other" and names(tmp_path) == ["set"]


def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "set").write_bytes(b"")
    with pytest.raises(OSError, match="set"), whole_folder(tmp_path / "set"):
        pass
    assert names(tmp_path) == ["set"]


def test_names_as_long_as_they_may_be(tmp_path: Path) -> None:
    write_whole(tmp_path / ("a" * 255), b"a")
    with whole_folder(tmp_path / ("é" * 127)):
        pass
    assert len(names(tmp_path)) == 2


@posix
@pytest.mark.parametrize("block", ["whole_folder(target)", "_temporary(target, pathlib.Path.touch)"])
def test_leftovers_of_a_killed_process_are_swept_and_those_of_a_living_one_stay(tmp_path: Path, block: str) -> None:
    code = (
        "import os, pathlib, sys; from course_lib.files import _temporary, whole_folder\n"
        f"target = pathlib.Path(sys.argv[1]) / 'a'\nwith {block} as path:\n print(path.name, flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        name = process.stdout.readline().decode().strip()
        (tmp_path / ".mine-0123456789abcdef.partial").touch()
        write_whole(tmp_path / "b", b"")
        assert name in names(tmp_path)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert name in names(tmp_path)
    write_whole(tmp_path / "b", b"")
    assert names(tmp_path) == [".mine-0123456789abcdef.partial", "b"]


def test_many_threads_may_write_beside_each_other(tmp_path: Path) -> None:
    errors = []

    def work(number: int) -> None:
        try:
            for turn in range(20):
                write_whole(tmp_path / f"{number % 3}", bytes([number]) * 1000)
                with whole_folder(tmp_path / f"set{number}-{turn}") as unfinished:
                    (unfinished / "a").write_bytes(b"a")
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and len(names(tmp_path)) == 3 + 120
    assert all(len(set((tmp_path / str(number)).read_bytes())) == 1 for number in range(3))


def test_what_is_removed_is_gone(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "set") as unfinished:
        (unfinished / "a").write_bytes(b"a")
    write_whole(tmp_path / "file", b"")
    remove(tmp_path / "set")
    remove(tmp_path / "file")
    assert names(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        remove(tmp_path / "file")


def test_where_nothing_can_be_locked_files_are_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "fcntl", None)
    write_whole(tmp_path / "a", b"a")
    with whole_folder(tmp_path / "b"):
        pass
    assert names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("refusals", [1, 5])
def test_a_name_that_is_refused_for_a_moment_is_given_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusals: int
) -> None:
    left, pauses = {"replace": refusals, "rename": refusals}, []

    def refusing(name: str) -> None:
        really = getattr(os, name)

        def move(path: Path, target: Path) -> None:
            left[name] -= 1
            if left[name] >= 0:
                raise PermissionError(errno.EACCES, "used by another process", str(target))
            really(path, target)

        monkeypatch.setattr(os, name, move)

    for name in left:
        refusing(name)
    monkeypatch.setattr(files.time, "sleep", pauses.append)
    monkeypatch.setattr(files, "_PAUSES", (0.01, 0.03, 0.1, 0.3, 1.0))
    write_whole(tmp_path / "a", b"a")
    with whole_folder(tmp_path / "set") as unfinished:
        (unfinished / "b").write_bytes(b"b")
    assert names(tmp_path) == ["a", "set"] and (tmp_path / "a").read_bytes() == b"a"
    assert len(pauses) == 2 * refusals and sum(pauses) < 3


def test_a_name_that_is_refused_for_good_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, target: Path) -> None:
        raise PermissionError(errno.EACCES, "used by another process", str(target))

    write_whole(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    for pauses in ((), (0.01, 0.03)):
        monkeypatch.setattr(files, "_PAUSES", pauses)
        with pytest.raises(PermissionError, match="another process"):
            write_whole(tmp_path / "a", b"new")
        assert names(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"old"
