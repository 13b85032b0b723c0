"""What the first cell of a lesson calls on Google Colab: installs what Colab lacks, and goes to the lessons."""

import importlib
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

CHECKOUT = Path(__file__).resolve().parent.parent
NEVER = {"ipykernel", "jupyterlab"}  # in their place Colab has a page of its own, which another version of them breaks
KEPT = {"ipywidgets", "torch", "torchaudio"}  # Colab's page and GPU work with its own versions of these


def required() -> list[Requirement]:
    """What the lessons need, as pyproject.toml says it."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [Requirement(each) for each in project["dependencies"] + project["optional-dependencies"]["course"]]


def lacking(requirements: Iterable[Requirement]) -> list[Requirement]:
    """Those to install: what is not there, and what is too old unless it is Colab's own."""
    wanted = [each for each in requirements if each.name not in NEVER]
    return [each for each in wanted if _version(each) is None or not (_fits(each) or each.name in KEPT)]


def set_up() -> None:
    """Install what is lacking, go to the lessons, and let subprocesses find the course. Raises RuntimeError."""
    requirements = required()
    kept = [each for each in requirements if each.name in KEPT and _version(each) is not None]
    for each in kept:
        if each.name != "ipywidgets" and not _fits(each):
            print(f"Colab has {each.name} {_version(each)}; the course was written for {each}, so some cells may fail.")
    if packages := [str(each) for each in lacking(requirements)]:
        print(f"Installing what Colab lacks: {', '.join(packages)}")
        _install(packages, [f"{each.name}=={_version(each)}" for each in kept])
    os.chdir(CHECKOUT / "notebooks")
    places = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(CHECKOUT) not in places:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(CHECKOUT), *filter(None, places)])


def _install(packages: list[str], kept: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # As constraints, so that no other package can bring another version of what is kept.
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("\n".join(kept), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(constraints), *packages]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout, done.stderr)
        raise RuntimeError("pip could not install what the course needs (see above); run this cell again")
    importlib.invalidate_caches()


def _version(requirement: Requirement) -> str | None:
    try:
        return metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return None


def _fits(requirement: Requirement) -> bool:
    return requirement.specifier.contains(_version(requirement), prereleases=True)
