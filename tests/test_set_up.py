"""Where the course is set up by itself (Binder, containers, workflows) agrees with what it needs and says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from course_lib import environment

ROOT = environment.CHECKOUT
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SCRIPT = ROOT / "binder" / "postBuild"
TESTS = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))


def test_every_python_that_is_offered_is_tested() -> None:
    tested = set(TESTS["jobs"]["tests"]["strategy"]["matrix"]["python"])
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    offered = {
        (ROOT / "binder" / "runtime.txt").read_text().strip().removeprefix("python-"),
        re.search(r"python:(\d+\.\d+)", container["image"])[1],
        *re.findall(r"3\.\d+", (ROOT / "docs" / "install.md").read_text().split("torch", 1)[0]),
    }
    assert offered == tested
    assert PROJECT["requires-python"] == f">={min(tested, key=lambda version: int(version.split('.')[1]))}"


@pytest.mark.parametrize("path", [*WORKFLOWS, SCRIPT], ids=lambda path: path.name)
def test_extras_and_files_that_are_named_are_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    extras = {name for group in re.findall(r"\.\[([a-z,]+)\]", text) for name in group.split(",")}
    assert extras <= PROJECT["optional-dependencies"].keys()
    assert all((ROOT / name).exists() for name in re.findall(r"(?:--constraint|uses: \./)\s*(\S+)", text))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_have_jobs_with_steps_that_end(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["jobs"] and "permissions" in workflow
    for job in workflow["jobs"].values():
        assert "uses" in job or (
            job["timeout-minutes"] and all("uses" in step or "run" in step for step in job["steps"])
        )


@pytest.mark.skipif(os.name != "posix" or not shutil.which("bash"), reason="there is no bash, or one of its own paths")
def test_the_script_for_binder_can_be_run() -> None:
    assert subprocess.run(["bash", "-n", SCRIPT]).returncode == 0
    listed = subprocess.run(["git", "ls-files", "--stage", SCRIPT], cwd=ROOT, capture_output=True, text=True).stdout
    assert not listed or listed.startswith("100755"), "Binder runs it as a program"
