"""The page about the gammatone layer: what it shows runs with the core alone, and it names all there is."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from test_install import _core_alone

from course_lib.layers import GammatoneFilterbank

PAGE = (Path(__file__).parent.parent / "docs" / "gammatone_layer.md").read_text()


def test_what_the_page_shows_runs_in_a_fresh_process_with_the_core_alone() -> None:
    blocks = re.findall(r"<!-- run -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == PAGE.count("```python") == 4
    checks = """
print(tuple(images.shape), tuple(bands.shape), analytic.is_complex(), tuple(envelopes.shape))
print(float((torch.cat(blocks, -1) - bands).abs().max()) < 1e-6)
print(float((again - clip)[:-640].norm() / clip.norm()) < 1e-3)
"""
    lines = _core_alone("\n".join(blocks) + checks)
    assert lines[-3:] == ["(8, 2, 64, 98) (64, 16000) True (64, 16000)", "True", "True"]
    assert float(lines[-4].removeprefix("tensor(").split(",")[0]) < 1e-3  # the exported convolution against the layer


def test_every_option_is_in_the_table_with_its_default() -> None:
    rows = {
        name: row.split("|")[2].strip()
        for row in re.findall(r"^\| `.*$", PAGE, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    parameters = inspect.signature(GammatoneFilterbank).parameters
    assert set(rows) == set(parameters)
    for name, parameter in parameters.items():
        if isinstance(parameter.default, (bool, str)):
            assert repr(parameter.default).replace("'", '"') == rows[name].strip("`")


def test_every_method_is_mentioned() -> None:
    for name in ("filtered", "envelopes", "synthesise", "stream", "to_conv", "parameter_groups"):
        assert f".{name}(" in PAGE and inspect.getdoc(getattr(GammatoneFilterbank, name))
