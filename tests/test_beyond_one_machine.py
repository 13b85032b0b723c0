"""What docs/beyond_one_machine.md shows runs, as far as one machine can run it."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_docs import write_files
from toys import FORM, files_in, write_recipe

from course_lib import environment
from course_lib.experiments.workers import missing

pytestmark = pytest.mark.usefixtures("fsdd_data")


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the page shows, in the current folder."""
    write_files("beyond_one_machine.md", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_array_jobs_share_a_list(shown: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    write_recipe(shown / "mine" / "toy.yaml")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = ["bash", "course.sbatch", "mine"]
    jobs = [
        subprocess.Popen(
            command, env=os.environ | {"PATH": path, "PYTHONPATH": str(environment.CHECKOUT)}, stderr=-1, text=True
        )
        for _ in range(2)
    ]
    said = [job.communicate(timeout=240)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], said
    assert missing("mine") == [] and len(files_in(environment.results_folder())) == 8


def test_the_script_for_several_gpus_trains_on_one_device_too(
    shown: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recipe(shown / "mine" / "toy.yaml", FORM, validation={"by": "recording", "fraction": 0.2})
    monkeypatch.setattr(sys, "argv", ["train_on_many.py", "mine/toy.yaml", "official", "official"])
    runpy.run_path("train_on_many.py", run_name="__main__")
    assert "1 epochs, validation accuracy" in capsys.readouterr().out
    assert (shown / "trained.safetensors").is_file()


def test_sounds_in_shards_are_learned_from(
    shown: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("webdataset", reason="webdataset is not installed; the course does not need it")
    monkeypatch.setattr(sys, "argv", ["shards.py", "shards"])
    runpy.run_path("shards.py", run_name="__main__")
    said = capsys.readouterr().out
    losses = [float(line.split()[-1]) for line in said.splitlines() if line.startswith("epoch")]
    assert len(losses) == 3 and losses[-1] < losses[0]
    assert "balanced accuracy" in said and "(real data)" in said
