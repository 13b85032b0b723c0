"""Writes the manifest of a data set, by which `data check` compares every sample: for those who publish one.

python -m tools.manifest NAME FILE
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from course_lib import CourseError, datasets
from course_lib.datasets.check import write_manifest


def main() -> int:
    """Write the manifest of the recordings on this disk, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.manifest", description="Write the manifest of a data set.")
    parser.add_argument("name", help="a name from 'python -m course_lib data list', or a folder of sounds")
    parser.add_argument("file", type=Path, help="the file to write, such as course_lib/datasets/NAME.sha256")
    options = parser.parse_args()
    try:
        dataset = datasets.get(options.name)
        write_manifest(dataset, dataset.folder, options.file)
    except CourseError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
