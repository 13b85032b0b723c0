"""The head of every lesson: badges that open it on Colab and Binder, and a first cell that sets Colab up.

    python -m tools.badges [LESSON ...]

writes it anew, into all lessons or some. The address of the repository is in pyproject.toml, and nowhere else.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import nbformat

from course_lib import CourseError, environment
from course_lib.files import write_whole

_BADGES = "[![Open in Colab]"
_CELL = 'import sys\n\nif "google.colab" in sys.modules:'


def repository() -> str:
    """The address of the repository, https://github.com/OWNER/NAME, from pyproject.toml."""
    project = tomllib.loads((environment.CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"].rstrip("/")


def badges(path: Path) -> str:
    """A line of Markdown with a link to a lesson on Colab and one to it on Binder."""
    name = "/".join(repository().split("/")[-2:])
    colab = f"https://colab.research.google.com/github/{name}/blob/main/notebooks/{path.name}"
    binder = f"https://mybinder.org/v2/gh/{name}/main?labpath={quote(f'notebooks/{path.name}', safe='')}"
    return f"{_BADGES}(../media/open_in_colab.svg)]({colab}) [![Open in Binder](../media/open_in_binder.svg)]({binder})"


def colab_cell() -> str:
    """The first code cell of a lesson, which does nothing unless it runs on Colab."""
    return (
        f"{_CELL}  # nothing to do elsewhere\n"
        f'    address, folder = "{repository()}", "/content/course"\n'
        '    get_ipython().system(f"test -d {folder} || git clone -q --depth 1 {address} {folder}")\n'
        "    sys.path.insert(0, folder)\n"
        "    from tools import colab\n\n"
        "    colab.set_up()"
    )


def write_head(notebook: nbformat.NotebookNode, path: Path) -> nbformat.NotebookNode:
    """Put badges below the title of a lesson and the cell for Colab after it; outputs stay as they are."""
    title, *rest = notebook.cells[0].source.split("\n")
    rest = [line for line in rest if not line.startswith(_BADGES)]
    notebook.cells[0].source = "\n".join([title, "", badges(path), "", "\n".join(rest).lstrip("\n")])
    if not notebook.cells[1].source.startswith(_CELL):
        notebook.cells.insert(1, nbformat.v4.new_code_cell(execution_count=0))
        for cell in notebook.cells:
            if cell.cell_type == "code" and cell.execution_count is not None:
                cell.execution_count += 1
    notebook.cells[1].source = colab_cell()
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index}"
    return notebook


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the head of the lessons named, or of all; returns the exit status."""
    from tools.publish import chosen  # which writes heads, too

    try:
        for path in chosen(sys.argv[1:] if arguments is None else arguments):
            notebook = write_head(nbformat.read(path, as_version=4), path)
            write_whole(path, f"{nbformat.writes(notebook).rstrip()}\n".encode())
    except (CourseError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
