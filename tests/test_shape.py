"""What is particular to one data set is in its module, and nowhere else in the library."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import course_lib
from course_lib.datasets import ENTRIES, splits
from course_lib.datasets.folder import SIDES

LIBRARY = Path(course_lib.__file__).parent
# Recipes, exercises and stand-ins are about a data set, and so is each data set's module.
ABOUT_ONE = {"recipes", "exercises", "stand_ins"}
MODULES = [
    path
    for path in sorted(LIBRARY.rglob("*.py"))
    if not ABOUT_ONE & set(path.relative_to(LIBRARY).parts)
    and not (path.parent.name == "datasets" and path.stem in ENTRIES)
]
# Protocols that are called like a split, or a plain word such as random, are not particular to a data set.
PROTOCOLS = {
    protocol.name
    for dataset in ENTRIES.values()
    for protocol in dataset.protocols
    if not protocol.name.isalpha() and not hasattr(splits, protocol.name)
}
CLASSES = {name for dataset in ENTRIES.values() for name in dataset.class_counts if not name.isdigit()} - SIDES.keys()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_no_module_names_a_data_set_a_protocol_or_a_class(path: Path) -> None:
    text = path.read_text()
    named = [name for name in sorted(ENTRIES.keys() | PROTOCOLS) if re.search(rf"\b{re.escape(name)}\b", text)]
    strings = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
    assert not named + sorted(CLASSES & strings), "names of one data set belong into its module"


def test_every_shipped_data_set_is_a_module_that_ends_in_its_definition() -> None:
    for name, dataset in ENTRIES.items():
        body = ast.parse((LIBRARY / "datasets" / f"{name}.py").read_text()).body
        assert isinstance(body[-1], ast.Assign) and ast.unparse(body[-1].targets[0]) == "DATASET"
        assert dataset.protocols and dataset.archives and dataset.megabytes and dataset.licence and dataset.citation
        assert len({protocol.name for protocol in dataset.protocols}) == len(dataset.protocols)
        assert all(protocol.title for protocol in dataset.protocols)
