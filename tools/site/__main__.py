"""Build the course's site, which any browser opens from the disk: `python -m tools.site`."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from course_lib import CourseError, environment, files

PACKAGES = ("sphinx", "myst_nb", "sphinx_book_theme", "sphinx_copybutton", "latex2mathml", "ziamath")


class SiteError(CourseError):
    """The site cannot be built; the message says why."""


def build(folder: Path) -> None:
    """Build the site. The folder appears whole, in place of an earlier one, or stays as it was.

    Raises SiteError where a package is missing and where Sphinx finds a fault, such as a dead link; OSError.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise SiteError(
            f"the site needs packages that are not installed ({', '.join(missing)}); run: pip install -e '.[docs]'"
        )
    if folder.exists() and not _is_site(folder):
        raise SiteError(f"{folder} is there and holds something other than a site; name another folder")
    from sphinx.cmd.build import build_main

    with files.whole_folder(folder) as unfinished, tempfile.TemporaryDirectory() as parsed:
        options = ["-b", "html", "-q", "-W", "--keep-going", "-c", "docs", "-d", parsed]
        if build_main([*options, ".", str(unfinished)]):
            raise SiteError("the site was not built; the lines above say what is wrong")
        if folder.exists():
            files.remove(folder)


def _is_site(folder: Path) -> bool:
    return folder.is_dir() and ((folder / "searchindex.js").is_file() or not any(folder.iterdir()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.site", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=environment.CHECKOUT / "build" / "site")
    folder = parser.parse_args(arguments).folder.expanduser()
    started = time.perf_counter()
    try:
        build(folder)
    except (CourseError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"{folder / 'index.html'} ({time.perf_counter() - started:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
