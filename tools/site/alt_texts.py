"""Alternative texts of the figures that a lesson's cells draw: what a figure shows, for those who cannot see it.

A text is put together from what the cell writes on the figure: titles, axes, names of curves. What is only known when
the cell runs, such as a number in a title, is left out as "…".
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator

from course_lib import figures

MISSING = "…"


def alt_text(source: str, before: str = "") -> str:
    """What the figure of a cell shows, from the cell's source and that of the cells before it; "" if it says nothing.

    The order is: title of the figure, titles of its panels, axes, curves.
    """
    try:
        cell, earlier = ast.parse(source), ast.parse(before)
    except SyntaxError:  # a magic command
        return ""
    drawn = _Drawn(cell, earlier)
    parts = [*drawn.titles, *(f"{what}: {mark.join(texts)}" for what, mark, texts in drawn.details if texts)]
    return ". ".join(parts)


class _Drawn:
    """What the calls of a cell write on a figure, those of functions defined in it or before included."""

    def __init__(self, cell: ast.Module, earlier: ast.Module) -> None:
        statements = [*earlier.body, *cell.body]
        self.functions = {node.name: node for node in statements if isinstance(node, ast.FunctionDef)}
        self.values = _assigned(statements)
        for loop in (node for node in ast.walk(cell) if isinstance(node, ast.For)):
            for name in (node.id for node in ast.walk(loop.target) if isinstance(node, ast.Name)):
                self.values.pop(name, None)
        self.written: dict[str, list[str]] = {"suptitle": [], "title": [], "xlabel": [], "ylabel": [], "label": []}
        self._visit(cell, frozenset())
        whole, panels = self.written["suptitle"], self.written["title"]
        first, *others = whole + panels or [""]
        # Of what is known in part the title of the figure alone is worth reading.
        self.titles = [title for title in (first.lstrip(f"{MISSING}: "), *map(_known, others)) if title]
        axes, curves = self.written["xlabel"] + self.written["ylabel"], self.written["label"]
        self.details = [
            (what, mark, list(filter(None, map(_known, texts))))
            for what, mark, texts in (("Axes", ", ", axes), ("Shown", "; ", curves))
        ]

    def _visit(self, tree: ast.AST, entered: frozenset[str]) -> None:
        for call in _calls(tree):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            given = {keyword.arg: keyword.value for keyword in call.keywords} | _title_of_figures(call)
            if name.removeprefix("set_") in self.written and call.args:
                given[name.removeprefix("set_")] = call.args[0]
            for kind, texts in self.written.items():
                text = self._read(given[kind]) if kind in given else ""
                if re.search("[^\\W\\d_]", text) and text not in texts:
                    texts.append(text)
            named = {name} | {each.id for each in call.args if isinstance(each, ast.Name)}  # lesson.slider(draw, ...)
            for function in sorted(named & self.functions.keys() - entered):
                outside, body = self.values, self.functions[function]
                self.values = outside | _assigned(body.body)
                if "start" in given and body.args.args:  # what a slider shows first
                    self.values[body.args.args[0].arg] = given["start"]
                self._visit(body, entered | {function})
                self.values = outside

    def _read(self, node: ast.expr) -> str:
        return " ".join(self._text(node, 0).replace("$", "").split()).strip(" .:")

    def _text(self, node: ast.expr, depth: int) -> str:
        """The text of an expression, with what is not known left out."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        if isinstance(node, ast.JoinedStr):
            return "".join(self._text(part, depth) for part in node.values)
        if isinstance(node, ast.FormattedValue):
            return self._formatted(node, depth)
        if isinstance(node, ast.Name) and node.id in self.values and depth < 5:
            return self._text(self.values[node.id], depth + 1)
        if isinstance(node, ast.IfExp):  # lessons are published with what stands first: the real data
            return self._text(node.body, depth)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "labelled":
            return self._text(node.args[0], depth)
        return MISSING

    def _formatted(self, node: ast.FormattedValue, depth: int) -> str:
        value = self.values.get(node.value.id) if isinstance(node.value, ast.Name) else node.value
        if isinstance(value, ast.Constant) and not isinstance(value.value, str):
            return format(value.value, "".join(part.value for part in getattr(node.format_spec, "values", ())))
        return self._text(node.value, depth) if node.format_spec is None else MISSING


def _known(text: str) -> str:
    return "" if MISSING in text else text


def _assigned(statements: list[ast.stmt]) -> dict[str, ast.expr]:
    return {
        node.targets[0].id: node.value
        for node in statements
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    """The calls of a tree in the order of the source, without those in functions that it only defines."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        if isinstance(node, ast.Call):
            yield node
        yield from _calls(node)


def _title_of_figures(call: ast.Call) -> dict[str, ast.expr]:
    """The title given to one of the course's own figures, wherever it stands among the arguments."""
    if not isinstance(call.func, ast.Attribute) or getattr(call.func.value, "id", "") != "figures":
        return {}
    if call.func.attr == "labelled":  # no figure: it adds to a title where the data come from
        return {}
    function = getattr(figures, call.func.attr, None)
    if not inspect.isfunction(function) or any(isinstance(each, ast.Starred) for each in call.args):
        return {}
    arguments = zip(inspect.signature(function).parameters, call.args, strict=False)
    return {name: value for name, value in arguments if name == "title"}
