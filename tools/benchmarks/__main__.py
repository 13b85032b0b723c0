"""`python -m tools.benchmarks gammatone [--quick]` or `augmentation`, from the root of the checkout."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tools.benchmarks import augmentation, gammatone


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.benchmarks", description="Measure speed and memory.")
    parser.add_argument("benchmark", choices=("gammatone", "augmentation"))
    parser.add_argument("--quick", action="store_true", help="toy sizes; the report goes to the cache")
    given = parser.parse_args(arguments)
    {"gammatone": gammatone, "augmentation": augmentation}[given.benchmark].run(quick=given.quick)


if __name__ == "__main__":
    main()
