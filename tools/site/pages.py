"""The pages of the site: the README is the start page, and the menu lists what the repository holds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util.matching import patfilter

START = "README"


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("site_menu", {}, "env", dict)
    app.connect("source-read", _add_menu)
    app.connect("doctree-read", _unlink_folders)
    app.connect("build-finished", _name_start_page)
    app.connect("build-finished", _list_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def menu(headings: dict[str, list[str]], pages: set[str]) -> str:
    """The menu as Markdown: under each heading the pages whose names match its patterns, each page once."""
    lists = []
    for heading, patterns in headings.items():
        listed = dict.fromkeys(page for pattern in patterns for page in sorted(patfilter(pages, pattern)))
        if listed:
            lists += ["```{toctree}", ":hidden:", f":caption: {heading}", "", *listed, "```", ""]
    return "\n".join(lists)


def _add_menu(app: Sphinx, page: str, source: list[str]) -> None:
    if page == START:
        source[0] += f"\n\n{menu(app.config.site_menu, app.env.found_docs)}\n"


def _unlink_folders(app: Sphinx, doctree: nodes.document) -> None:
    """Leave a link to a folder of the repository as text: the site has no page for it."""
    page = Path(app.env.doc2path(app.env.docname))
    for link in list(doctree.findall(pending_xref)):
        if link.get("reftype") == "myst" and (page.parent / link["reftarget"]).is_dir():
            link.replace_self(link.children)


def _name_start_page(app: Sphinx, failure: Exception | None) -> None:
    if failure is None:
        shutil.copyfile(Path(app.outdir, f"{START}.html"), Path(app.outdir, "index.html"))


def _list_links(app: Sphinx, failure: Exception | None) -> None:
    """The addresses outside that the pages link to, one a line: nothing here asks whether they answer."""
    if failure is None:
        pages = map(app.env.get_doctree, sorted(app.env.found_docs))
        links = {link.get("refuri", "") for page in pages for link in page.findall(nodes.reference)}
        outside = sorted(link for link in links if link.startswith(("http://", "https://")))
        Path(app.outdir, "external_links.txt").write_text("\n".join(outside) + "\n", encoding="utf-8")
