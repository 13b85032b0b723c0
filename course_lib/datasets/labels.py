"""Text files that say something of each recording, as data sets carry them: labels, qualities, the sides of a split."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from course_lib.datasets.recordings import listed

T = TypeVar("T")


def read_column(
    path: Path,
    meaning: Mapping[str, T],
    what: str,
    problems: list[str],
    separator: str = ",",
    column: int = 1,
    key: Callable[[str], str] = str,
) -> dict[str, T]:
    """What a column of a text file means, by the recording that its first column names: `key` of that column.

    `what` is the name of the column. That the file cannot be read, lines of no meaning and recordings in several lines
    are added to `problems`.
    """
    name = f"{path.parent.name}/{path.name}"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        problems.append(f"{name} is missing")
        return {}
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{name} cannot be read ({error})")
        return {}
    cells = [[cell.strip() for cell in line.split(separator)] for line in lines if line.strip()]
    usable = [line for line in cells if len(line) > column and line[column] in meaning]
    wrong = [repr(separator.join(line)) for line in cells if len(line) <= column or line[column] not in meaning]
    problems += listed(f"{name} has lines whose {what} is none of {', '.join(map(repr, meaning))}", wrong)
    times = Counter(key(line[0]) for line in cells)
    problems += listed(f"{name} lists more than once", [each for each, count in times.items() if count > 1])
    return {key(line[0]): meaning[line[column]] for line in usable}
