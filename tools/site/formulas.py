"""Formulas as MathML, which every current browser draws without a script, and the font that it is drawn with."""

from __future__ import annotations

import html
import importlib.resources
from pathlib import Path
from typing import Any

from docutils import nodes
from fontTools import subset
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging

FONT = "formulas.woff"
# Letters, Greek, accents, punctuation, arrows, operators and the italic letters of mathematics.
CHARACTERS = [(0x20, 0x17F), (0x2C6, 0x3FF), (0x2000, 0x22FF), (0x27E6, 0x27EF), (0x1D434, 0x1D467), (0x1D6E2, 0x1D71B)]
logger = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
    app.connect("build-finished", _write_font)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def mathml(tex: str, display: str = "inline") -> str:
    """A formula as MathML, `display` inline or block. Raises ValueError for a command that is not known."""
    try:
        converted = convert(tex, display=display)
    except Exception as error:  # its exceptions have no base of their own
        raise ValueError(f"the formula {tex!r} cannot be converted ({type(error).__name__} {error})") from None
    if "\\" in converted:
        raise ValueError(f"the formula {tex!r} has a command that is not known; write it in another way")
    # A bar that browsers stretch over what is below it.
    converted = converted.replace('<mo accent="true">&#x02015;</mo>', '<mo stretchy="true">&#x0203E;</mo>')
    return converted.replace("<math ", f'<math alttext="{html.escape(tex)}" ', 1)


def _inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(_converted(node, "inline"))
    raise nodes.SkipNode


def _block(writer: Any, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="formula" tabindex="0">{_converted(node, "block")}</div>')
    raise nodes.SkipNode


def _converted(node: nodes.Element, display: str) -> str:
    try:
        return mathml(node.astext(), display)
    except ValueError as error:
        logger.warning("%s", error, location=node)
        return html.escape(node.astext())


def _write_font(app: Sphinx, failure: Exception | None) -> None:
    """Write the part that formulas need of STIX Two Math (SIL Open Font License), whose tables say where signs go."""
    if failure is not None:
        return
    options = subset.Options(layout_features=["*"], flavor="woff", notdef_outline=True)
    with importlib.resources.as_file(importlib.resources.files("ziamath.fonts") / "STIXTwoMath-Regular.ttf") as path:
        font = subset.load_font(str(path), options)
        subsetter = subset.Subsetter(options)
        subsetter.populate(unicodes=[sign for first, last in CHARACTERS for sign in range(first, last + 1)])
        subsetter.subset(font)
        subset.save_font(font, str(Path(app.outdir, "_static", FONT)), options)
