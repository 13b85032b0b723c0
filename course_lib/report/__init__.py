"""A report of one's own data: facts -> score -> findings -> one page of HTML.

Notebook: 02_spoken_digits_cnn
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from course_lib import files
from course_lib.report import copies, facts, findings, groups, page, score
from course_lib.report.facts import ReportError
from course_lib.report.page import Results

__all__ = ["ReportError", "Results", "examine", "report"]


def report(
    folder: str | Path,
    output: str | Path | None = None,
    minutes: float = 5.0,
    with_score: bool = True,
    progress: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Path, Results]:
    """Write a page about a folder of class folders to `output` (default: NAME_report.html in the current folder).

    The score is trained within about `minutes`; `say` is told how long that takes before it starts. Returns where
    the page is, and what it says. Raises ReportError for a folder without two classes of recordings, and for an output
    that cannot be written.

    Notebook: 02_spoken_digits_cnn
    """
    folder = Path(folder).expanduser().resolve()
    output = Path(output).expanduser() if output else Path(f"{folder.name}_report.html")
    _require_writable(output)
    results = examine(folder, minutes, with_score, progress, say)
    try:
        files.write_whole(output.resolve(), page.render(results).encode())
    except OSError as error:
        raise ReportError(f"{output} cannot be written ({error.strerror}); name another file with --output") from None
    return output, results


def examine(
    folder: Path, minutes: float = 5.0, with_score: bool = True, progress: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> Results:  # fmt: skip
    """What there is to say about a folder of class folders; see `report`.

    Notebook: 02_spoken_digits_cnn
    """
    read = facts.read(folder, progress)
    table = read.table
    equal, near = copies.equal(table), copies.near(read, progress)
    found = groups.known_or_guessed(table)
    together = groups.joined(found.of, equal + near, table["recording"])
    division = score.divide(table, together, found.known)
    why = "it was not asked for."
    without_listening, group_alone, reached = {}, None, None
    if division is None:
        why = "no two classes have recordings of two groups each, so nothing can be tested on what was not trained on."
    else:
        without_listening = score.without_listening(table, together, division)
        if found.known:
            group_alone = score.by_group_alone(read, found.of, division)
        if with_score:
            try:
                reached = score.train_and_test(read, found.of, together, division, minutes, say, progress)
            except ReportError as error:
                why = str(error)
    faults = findings.collect(read, found, equal, near, division, without_listening, reached)
    return Results(read, found, division, without_listening, group_alone, reached, why, faults)


def _require_writable(output: Path) -> None:
    """Raise ReportError where no file can be written, before anything long begins."""
    try:
        if output.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output.parent):
            pass
        if output.exists() and not os.access(output, os.W_OK):
            raise PermissionError(0, "permission denied")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ReportError(f"{output} cannot be written ({why}); name another file with --output") from None
