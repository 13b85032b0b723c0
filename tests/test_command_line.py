"""Every command ends with an exit status and, when something is wrong, one sentence."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import FORM, write_recipe

from course_lib import datasets, environment, experiments
from course_lib.__main__ import main
from course_lib.experiments import recipes, workers


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A recipe of one's own."""
    return Path(write_recipe(tmp_path / "mine" / "toy.yaml"))


def complaint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that fails; the one line that it says, after what would have been scored."""
    assert main(arguments) == 1
    output = capsys.readouterr()
    assert all("The score is" in line for line in output.out.splitlines())
    assert output.err.count("\n") == 1 and "Traceback" not in output.err
    return output.err


COMMANDS = [
    [],
    ["data"],
    ["data", "list"],
    ["data", "fetch"],
    ["data", "check"],
    ["run"],
    ["table"],
    ["report"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([*command, "--help"])
    assert left.value.code == 0
    assert " ".join(["usage: python -m course_lib", *command]) in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["data"],
        ["run"],
        ["table"],
        ["data", "fetch"],
        ["dance"],
        ["run", "x", "--seed", "one"],
        ["run", "x", "--workers", "few"],
        ["report"],
        ["report", "x", "--minutes", "0"],
        ["report", "x", "--minutes", "long"],
    ],
)
def test_a_command_that_is_not_complete_shows_how_it_is_used(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(command)
    assert left.value.code == 2
    assert "usage: " in capsys.readouterr().err


def test_it_starts_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "course_lib", "--help"],
        cwd=environment.CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and "usage: python -m course_lib" in done.stdout


def test_data_list_says_what_is_here(
    fsdd_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "list"]) == 0
    here = capsys.readouterr().out
    assert "fsdd" in here and "CC BY-SA 4.0" in here and f"in {fsdd_data}" in here
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    assert main(["data", "list"]) == 0
    assert "not on this disk" in capsys.readouterr().out


def test_data_check_of_missing_data_says_how_to_get_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "fsdd"]) == 1
    said = "".join(capsys.readouterr())
    assert said.count("\n") == 1 and "python -m course_lib data fetch fsdd" in said


def test_data_check_lists_what_is_wrong(fsdd_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "fsdd"]) == 1
    assert "240 recordings instead of 3000" in capsys.readouterr().out


def test_data_fetch_offline_says_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert complaint(["data", "fetch", "fsdd"], capsys).startswith("DatasetError: ")


def test_data_fetch_without_a_network_says_why_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise socket.gaierror("Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setenv("COURSE_OFFLINE", "0")
    assert main(["data", "fetch", "fsdd"]) == 1
    *_, said = capsys.readouterr().err.splitlines()
    assert said.startswith("DatasetError: ") and "no connection" in said


def test_data_fetch_or_stand_in_takes_what_is_here(fsdd_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "fetch", "fsdd", "--or-stand-in"]) == 0
    assert capsys.readouterr().out == "fsdd: 240 recordings, real data\n"


@pytest.mark.parametrize("command", [["data", "check"], ["data", "fetch"]], ids=" ".join)
def test_an_unknown_data_set_is_answered_with_the_known_ones(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = complaint([*command, "nonesuch"], capsys)
    assert said.startswith("DatasetError: ") and "nonesuch" in said and "fsdd" in said


def test_a_table_of_an_unknown_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    said = complaint(["table", "nonesuch"], capsys)
    assert "nonesuch" in said and "fsdd" in said


def test_an_unknown_recipe_is_answered_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    said = complaint(["run", "fsdd/nonesuch"], capsys)
    assert said.startswith("RecipeError: ") and "fsdd/spectrogram_cnn" in said


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"colour": "red"}, "RecipeError: toy.yaml: colour: unknown key"),
        ({"dataset": "nonesuch"}, "RecipeError: toy.yaml: there is no data set or folder 'nonesuch'"),
        ({"clip": {"seconds": 0.02}}, "RecipeError: mine/toy: StridedSampleCNN cannot take clips of 0.02 s"),
        (
            {"model": {"name": "SpectrogramCNN", "settings": {"dropout": 7}}},
            "RecipeError: mine/toy: the model Spectrogram",
        ),
    ],
)
def test_a_recipe_that_cannot_be_run(
    change: dict[str, Any], expected: str, toy: Path, fsdd_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recipe(toy, FORM, **change)
    assert complaint(["run", str(toy)], capsys).startswith(expected)


def test_an_unknown_protocol_or_fold(toy: Path, fsdd_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = "mine/toy has no protocol x; it has official, leave_one_speaker_out"
    assert known in complaint(["run", str(toy), "--protocol", "x"], capsys)
    options = ["--protocol", "leave_one_speaker_out", "--fold", "dora"]
    assert "it has ann, bob, cleo" in complaint(["run", str(toy), *options], capsys)


def test_run_runs_all_protocols_of_a_recipe(toy: Path, fsdd_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(toy), "--seed", "3", "--keep-model"]) == 0
    lines = capsys.readouterr().out.splitlines()
    places = ["official official", *(f"leave_one_speaker_out {speaker}" for speaker in ("ann", "bob", "cleo"))]
    stated = [f"{name}: {datasets.get('fsdd').protocol(name).statement}" for name in experiments.load(toy).protocols]
    assert [lines.pop(0), lines.pop(1)] == stated and len(lines) == 4
    for line, place in zip(lines, places, strict=True):
        assert (
            line.startswith(f"mine/toy {place} seed 3: balanced accuracy ")
            and line.endswith(" (real data)")
            and " of " in line
        )
    kept = environment.results_folder() / "mine/toy/official/official-seed3.json"
    assert json.loads(kept.read_text())["seed"] == 3
    assert experiments.load_model(recipes.load(toy), "official", "official", seed=3) is not None


def test_run_runs_one_fold(toy: Path, fsdd_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(toy), "--protocol", "leave_one_speaker_out", "--fold", "bob"]) == 0
    stated, line = capsys.readouterr().out.splitlines()
    assert stated.startswith("leave_one_speaker_out: The score is the mean over the left-out speakers")
    assert line.startswith("mine/toy leave_one_speaker_out bob seed 0: balanced accuracy ")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What each call of `workers.run_in_processes` got; it runs nothing and finds nothing wrong."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(workers, "run_in_processes", lambda *given: calls.append(given) or ([], 0))
    return calls


@pytest.mark.parametrize(
    ("options", "gpus", "processes", "only"),
    [
        ([], 0, 1, None),
        ([], 3, 3, None),
        (["--workers", "2"], 3, 2, None),
        (["--workers", "2", "--only", "fsdd/crnn", "mine/toy.yaml"], 0, 2, ["fsdd/crnn", "mine/toy.yaml"]),
    ],
)
def test_run_all_takes_a_worker_a_gpu_or_as_many_as_asked_for(
    options: list[str],
    gpus: int,
    processes: int,
    only: list[str] | None,
    asked: list[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert main(["run", "fsdd", "--all", *options]) == 0
    assert asked == [("fsdd", processes, only)]
    assert "fsdd: nothing is missing now" in capsys.readouterr().err


def test_run_all_says_what_went_wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(workers, "run_in_processes", lambda *_: (["one went wrong", "so did another"], 0))
    assert main(["run", "fsdd", "--all"]) == 1
    assert capsys.readouterr().err == "one went wrong\nso did another\n"


def test_run_all_says_what_another_process_is_at_work_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workers, "run_in_processes", lambda *_: ([], 3))
    assert main(["run", "fsdd", "--all"]) == 0
    assert capsys.readouterr().err == "fsdd: nothing is missing now, but for what another process is at work on: 3\n"


def test_run_all_runs_nothing_when_all_is_there(toy: Path, fsdd_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(toy)]) == 0
    before = {path: path.stat().st_mtime_ns for path in environment.results_folder().rglob("*.json")}
    assert len(before) == 4
    assert main(["run", str(toy.parent), "--all"]) == 0
    assert {path: path.stat().st_mtime_ns for path in environment.results_folder().rglob("*.json")} == before
    assert f"{toy.parent}: nothing is missing now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["run", "bats", "--all"], "RecipeError: there are no recipes for 'bats'; known: dcase2016, fsdd"),
        (["run", "fsdd", "--all", "--only", "fsdd/nonesuch"], "RecipeError: there is no recipe fsdd/nonesuch; known: "),
        (["run", "fsdd", "--all", "--workers", "-1"], "CourseError: workers is -1; it is from 1 to 1000"),
        (["run", "fsdd", "--all", "--workers", "0"], "CourseError: workers is 0; it is from 1 to 1000"),
        (
            ["run", "fsdd", "--all", "--seed", "0", "--fold", "theo", "--keep-model"],
            "CourseError: --all runs whatever is missing; --seed, --fold, --keep-model goes with one recipe",
        ),
        (["run", "fsdd/crnn", "--workers", "2"], "CourseError: --workers, --only, --cluster and --gpus go with --all"),
        (["run", "fsdd"], "RecipeError: fsdd is a folder of recipes"),
        (["run", "/"], "RecipeError: there is no recipe /;"),
        (
            ["run", "fsdd/crnn", "--protocol", "published_lists"],
            "RecipeError: fsdd/crnn has no protocol published_lists",
        ),
    ],
)
def test_run_all_of_what_is_not_there(command: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert complaint(command, capsys).startswith(expected)


def test_the_help_of_run_names_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    options = (
        "--all, --workers N, --cluster ADDRESS, --gpus SHARE, --only RECIPE, --seed, --protocol, --fold, --keep-model"
    )
    options = options.split(", ")
    assert all(option in said for option in options)
    assert "with --all a folder of recipes" in said and "default: 1 a GPU" in said


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("COURSE_RESULTS", "ResultError: cannot write the result {file}/here/mine/toy/official/official-seed0.json: "),
        ("COURSE_CACHE", "DatasetError: cannot write the decoded fsdd to {file}/here/decoded ("),
    ],
)
def test_a_folder_that_cannot_be_written_is_named(
    variable: str,
    expected: str,
    toy: Path,
    fsdd_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, str(toy / "here"))  # within a file: even root cannot make a folder there
    assert main(["run", str(toy), "--protocol", "official"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(expected.format(file=toy)) and said.count("\n") == 1


def test_a_table_that_cannot_be_written_is_named(
    toy: Path, fsdd_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = complaint(["table", str(toy.parent), "--update", str(toy / "page.md")], capsys)
    assert str(toy / "page.md") in said


def test_a_damaged_result_is_named_and_made_anew(
    toy: Path, fsdd_data: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = environment.results_folder() / "mine/toy/official/official-seed0.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert main(["run", str(toy), "--protocol", "official"]) == 0
    assert f"{path} is damaged" in caplog.text and "it is made anew" in caplog.text
    assert experiments.read(path).seed == 0


@pytest.mark.parametrize("seed", ["-1", "2147483648", "1" * 30])
def test_a_seed_that_cannot_be_is_refused(
    seed: str, toy: Path, fsdd_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"not {seed}" in complaint(["run", str(toy), f"--seed={seed}"], capsys)
    assert not list(environment.results_folder().rglob("*.json"))


def test_a_closed_pipe_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.run(
        f"{sys.executable} -m course_lib data list | true; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        cwd=environment.CHECKOUT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_says_that_nothing_is_lost(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, "run", interrupt)
    assert main(["run", str(toy)]) == 130
    assert "goes on where this one was" in capsys.readouterr().err


def test_a_mistake_of_the_library_is_not_hidden(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(experiments, "run", broken)
    with pytest.raises(RuntimeError, match="a mistake"):
        main(["run", str(toy)])
