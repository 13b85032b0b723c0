"""Docstrings of the library, which are plain text with `names` in backquotes, as reStructuredText for autodoc."""

from __future__ import annotations

import inspect
import re
from typing import Any

from numpy.typing import ArrayLike
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation

_SETTING = re.compile(r"^(\w+(?:, \w+)*): (.*)")
_LAST = re.compile(r"(?<=[.)])\n(?=Raises |Sources?: )")  # each in a paragraph of its own
_LESSON = re.compile(r"Notebook: (\w+)")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", _convert)
    app.connect("autodoc-process-signature", _shorten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def restructured(lines: list[str]) -> list[str]:
    """The lines of a docstring as reStructuredText: settings become a list, code a block, `Notebook: NN` a link."""
    converted = []
    for block in re.split(r"\n[ \t]*\n", _LAST.sub("\n\n", "\n".join(lines).strip("\n"))):
        rows = block.split("\n")
        lesson = _LESSON.fullmatch(block.strip())
        if lesson:
            converted += [f"Lesson: :doc:`/notebooks/{lesson[1]}`"]
        elif block.startswith("    "):
            converted += ["::", "", *rows]
        elif _is_settings(rows):
            converted += _settings(rows)
        else:
            converted += [_escaped(row) for row in rows]
        converted.append("")
    return converted


def _convert(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    lines[:] = restructured(lines)


def _shorten(
    app: Sphinx, what: str, name: str, value: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """The signature with ArrayLike by its name; without types where one of them, or a default, is no expression."""
    if signature is not None and "<" in signature:
        parameters = inspect.signature(value).parameters.values()
        signature = f"({', '.join(str(each.replace(annotation=each.empty)) for each in parameters)})"
        signature = re.sub("=<[^>]*>", "=...", signature)
    elif signature is not None:
        signature = signature.replace(stringify_annotation(ArrayLike, "smart", short_literals=False), "ArrayLike")
    return signature, returns


def _is_settings(rows: list[str]) -> bool:
    """Whether a block is a list of `name: what it is`, with the lines that go on indented."""
    first = _SETTING.match(rows[0])
    return bool(first) and first[1] != "Source" and all(_SETTING.match(row) or row.startswith("    ") for row in rows)


def _settings(rows: list[str]) -> list[str]:
    listed = []
    for row in rows:
        setting = _SETTING.match(row)
        listed.append(f"* ``{setting[1]}``: {_escaped(setting[2])}" if setting else f"  {_escaped(row.strip())}")
    return listed


def _escaped(text: str) -> str:
    """Text in which nothing but `names` and bullets has a meaning; each line by itself."""
    bullet, text = re.fullmatch(r"(\s*(?:[*-] )?)(.*)", text).groups()
    pieces = re.split(r"(`+[^`]+`+)", text)
    plain = [re.sub(r"([*|\\`]|(?<=\w)_(?!\w))", r"\\\1", piece) for piece in pieces[::2]]
    code = [f"``{piece.strip('`')}``\\ " for piece in pieces[1::2]]
    return bullet + "".join(a + b for a, b in zip(plain, [*code, ""], strict=True))
