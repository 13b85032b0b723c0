"""The cells of a lesson as a page shows them."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from tools.site.alt_texts import alt_text


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-read", _arrange)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _arrange(app: Sphinx, doctree: nodes.document) -> None:
    """Colour the code, say what each figure shows, and leave out the cell that is for Colab alone.

    The metadata of a cell may hold the text of its figure under `alt`.
    """
    before = ""
    for cell in list(doctree.findall(_is_cell)):
        code = next(iter(cell.findall(nodes.literal_block)), None)
        source = code.astext() if code is not None else ""
        if "google.colab" in source:
            cell.parent.remove(cell)
            continue
        if code is not None:
            code["language"] = "ipython3"
        for image in cell.findall(nodes.image):
            image["alt"] = cell.get("cell_metadata", {}).get("alt") or _titled(alt_text(source, before), cell)
        before += f"{source}\n"


def _is_cell(node: nodes.Node) -> bool:
    return isinstance(node, nodes.container) and node.get("nb_element") == "cell_code"


def _titled(text: str, node: nodes.Node) -> str:
    """The text, after the heading above a node where the figure has no title of its own."""
    if text and not text.startswith("Axes: "):
        return text
    while node.parent is not None and not isinstance(node, nodes.section):
        node = node.parent
    title = next(iter(node.findall(nodes.title)), None)
    heading = f"Figure of the section “{title.astext()}”" if title is not None else ""
    return ". ".join(part for part in (heading, text) if part)
