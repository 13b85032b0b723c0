"""Executes the lessons: `python -m tools.publish [LESSON ...] (--html FOLDER | --publish)`."""

from __future__ import annotations

import argparse
import base64
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tqdm.auto import tqdm

from course_lib import CourseError, environment, figures
from course_lib.files import write_whole
from tools.badges import write_head

LARGEST = 700_000
_MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:root|work|tmp|home|Users)/")


class PublishError(CourseError):
    """A lesson is not there, fails, or is not fit to be committed; the message names it and says why."""


def lessons() -> list[Path]:
    """The notebooks of the course in order."""
    return sorted((environment.CHECKOUT / "notebooks").glob("[0-9]*.ipynb"))


def chosen(names: Sequence[str]) -> list[Path]:
    """The lessons of these numbers ("1", "01", "03b") or names, in order; all where none is named.

    Raises PublishError for one that is not there.
    """
    known = lessons()
    by_name = {name: path for path in known for name in _names(path)}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        numbers = ", ".join(path.stem.split("_")[0] for path in known)
        raise PublishError(f"there is no lesson {', '.join(unknown)}; there are {numbers}")
    wanted = {by_name[name] for name in names}
    return [path for path in known if path in wanted or not names]


def _names(path: Path) -> set[str]:
    number = path.stem.split("_")[0]
    return {number, number.lstrip("0"), path.stem, path.name, str(path), f"{path.parent.name}/{path.name}"}


def execute(path: Path, publishing: bool = False) -> nbformat.NotebookNode:
    """Run a notebook from top to bottom in a fresh kernel and return it with its outputs. Raises PublishError."""
    notebook = nbformat.read(path, as_version=4)
    # Set in this process: the kernel inherits both. What is committed is what the text of the lesson was written for.
    os.environ["COURSE_PUBLISH"] = "1" if publishing else "0"
    if publishing:
        os.environ["COURSE_PROFILE"] = "laptop"
    client = NotebookClient(
        notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    )
    try:
        client.execute()
    except CellExecutionError as error:
        raise PublishError(f"{path.name} stops with an error:\n{error}") from None
    return notebook


def publish(paths: list[Path]) -> None:
    """Execute notebooks on real data and store them as they are committed: outputs kept, nothing of this machine.

    Raises PublishError when a lesson fails, ran on a stand-in, or is not fit to be committed (see `faults`).
    """
    for path in tqdm(paths, "publishing", unit="lesson"):
        started = time.perf_counter()
        notebook = write_head(strip(execute(path, publishing=True)), path)
        problems = faults(notebook)
        if problems:
            raise PublishError(f"{path.name} is not stored: {'; '.join(problems)}")
        write_whole(path, f"{nbformat.writes(notebook).rstrip()}\n".encode())
        tqdm.write(f"{path.name}: {time.perf_counter() - started:.0f} s, {path.stat().st_size / 1000:.0f} KB")


def write_html(paths: list[Path], folder: Path) -> None:
    """Execute notebooks and write each as one self-contained HTML page to `folder`."""
    from nbconvert import HTMLExporter

    for path in tqdm(paths, "lessons", unit="lesson"):
        page, _ = HTMLExporter().from_notebook_node(execute(path))
        write_whole(folder / f"{path.stem}.html", page.encode())
        tqdm.write(f"{folder / path.stem}.html")


def strip(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove what differs from run to run (timestamps, metadata, progress bars), and make the pictures small."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index}"
        # What stays says what the figure of the cell shows.
        cell.metadata = {name: value for name, value in cell.metadata.items() if name == "alt"}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _progress(output)]
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    picture = figures.small_png(base64.b64decode(output.data["image/png"]))
                    output.data["image/png"] = base64.b64encode(picture).decode()
    return notebook


def _progress(output: nbformat.NotebookNode) -> bool:
    if output.output_type == "stream" and output.name == "stderr":
        return bool(re.search(r"\d+%\||\d+it ", output.text))
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def faults(notebook: nbformat.NotebookNode) -> list[str]:
    """Why a notebook is not fit to be committed; empty when it is."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    outputs = [output for cell in code for output in cell.outputs]
    size = len(nbformat.writes(notebook).encode())
    problems = []
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        problems.append("its cells were not executed once, in order")
    if any(output.output_type == "error" for output in outputs):
        problems.append("an output is an error")
    if any(output.get("name") == "stderr" for output in outputs):
        problems.append("an output is a warning")
    if "STAND-IN DATA" in str(outputs):
        problems.append("it ran on stand-in data")
    marks = [output.get("metadata", {}).get("course", {}) for output in outputs]
    recordings = [each for each in marks if each.get("recording")]
    if any(not each.get("credit") for each in recordings):
        problems.append("it stores a recording of a data set without naming its licence")
    if len(recordings) > 1:
        problems.append("it stores more than one recording of a data set")
    if _MACHINE_PATH.search(str(outputs)):
        problems.append("an output names a path of this machine")
    if size > LARGEST:
        problems.append(f"it has {size / 1000:.0f} KB; at most {LARGEST / 1000:.0f} KB are committed")
    return problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.publish", description=__doc__)
    parser.add_argument("lessons", nargs="*", metavar="LESSON", help="number or name of a lesson (default: all)")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--html", type=Path, metavar="FOLDER", help="write each lesson as an HTML page to this folder")
    how.add_argument("--publish", action="store_true", help="store each lesson, executed on real data, for git")
    given = parser.parse_args(arguments)
    try:
        paths = chosen(given.lessons)
        if given.publish:
            publish(paths)
        else:
            write_html(paths, given.html.expanduser())
    except (CourseError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
