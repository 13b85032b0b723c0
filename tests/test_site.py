"""The site is built without a warning, holds what it should, loads nothing from elsewhere, and can be read by all."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup

import course_lib
from course_lib import environment
from tools.site import __main__ as command

ROOT = environment.CHECKOUT
MISSING = [name for name in command.PACKAGES if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"the extra docs is not installed: {', '.join(MISSING)}")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
KINDS = (
    "index notebooks/01b_quantisation_and_mfcc notebooks/03b_rivals_and_noise results/README docs/gammatone_layer "
    "docs/reference/clips search"
).split()
WIDTHS = {"desktop": (1440, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site. A warning of Sphinx, such as a dead link between pages, is a failure."""
    folder = tmp_path_factory.mktemp("build") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "tools.site", str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, BeautifulSoup]:
    """The pages of the site by their paths."""
    return {
        path.relative_to(site).as_posix(): BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for path in sorted(site.rglob("*.html"))
        if "_static" not in path.parts
    }


def test_every_lesson_and_every_page_is_there(pages: dict[str, BeautifulSoup]) -> None:
    documents = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("notebooks/[0-9]*.ipynb"), ROOT / "results" / "README.md"]
    expected = {path.relative_to(ROOT).with_suffix(".html").as_posix() for path in documents}
    assert expected | {"index.html", "search.html"} <= set(pages)
    menu = {link["href"].split("#")[0] for link in pages["index.html"].select("nav.bd-links a[href]")}
    assert expected <= menu


def test_a_page_has_one_main_heading(pages: dict[str, BeautifulSoup]) -> None:
    # Beside it the theme keeps one for the printed page, which takes the place of the menus.
    headings = {name: page.select("h1:not(.onlyprint h1)") for name, page in pages.items()}
    assert {name: len(found) for name, found in headings.items() if len(found) != 1} == {}


def test_figures_say_what_they_show(pages: dict[str, BeautifulSoup]) -> None:
    poor = [
        (name, image.get("alt"))
        for name, page in pages.items()
        for image in page.select("main img")
        if len((image.get("alt") or "").split()) < 3 or re.search(r"\.(png|gif|svg)|_images", image["alt"])
    ]
    assert poor == []


def test_lessons_keep_their_figures_players_and_formulas(pages: dict[str, BeautifulSoup]) -> None:
    for path in sorted(ROOT.glob("notebooks/[0-9]*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", ())]
        page = pages[f"notebooks/{path.stem}.html"]
        assert len(page.select("div.cell_output img")) == sum(
            "image/png" in data or "<img" in data.get("text/html", "") for data in outputs
        )
        assert len(page.select("audio[controls]")) == sum("<audio" in data.get("text/html", "") for data in outputs)
        displayed = sum(cell.source.count("$$") // 2 for cell in cells if cell.cell_type == "markdown")
        assert len(page.select('math[display="block"]')) == displayed


def _local(address: str) -> bool:
    return not urlsplit(address).scheme and not address.startswith("//")


def test_no_page_loads_anything_from_elsewhere(site: Path, pages: dict[str, BeautifulSoup]) -> None:
    loaded = {
        address
        for page in pages.values()
        for tag in page.select("[src], [srcset], link[href], [data], [poster]")
        if not (tag.name == "link" and {"canonical", "author"} & set(tag.get("rel", ())))
        for address in (tag.get(key) for key in ("src", "srcset", "href", "data", "poster"))
        if address and not address.startswith("data:")
    }
    assert [address for address in loaded if not _local(address)] == []
    styles = {path.name: path.read_text(encoding="utf-8") for path in site.rglob("*.css")}
    assert not [name for name, text in styles.items() if re.search(r"(url\(|@import )['\"]?(https?:)?//", text)]


def test_links_inside_the_site_lead_somewhere(site: Path, pages: dict[str, BeautifulSoup]) -> None:
    targets = {name: {tag["id"] for tag in page.select("[id]")} for name, page in pages.items()}
    dead = []
    for name, page in pages.items():
        for tag in page.select("a[href], img[src], script[src], link[href], source[src]"):
            address = tag.get("href") or tag.get("src")
            if not _local(address):
                continue
            parts = urlsplit(address)
            path = (site / name).parent / unquote(parts.path) if parts.path else site / name
            found = path.resolve().relative_to(site.resolve()).as_posix()
            fragment = unquote(parts.fragment)
            if not path.is_file() or (fragment and found in targets and fragment not in targets[found]):
                dead.append((name, address))
    assert dead == []


def test_links_to_elsewhere_are_listed(site: Path) -> None:
    lines = (site / "external_links.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) > 30 and all(re.match(r"https?://\S+$", line) for line in lines)
    assert "https://doi.org/10.1016/0378-5955(90)90170-T" in lines


def _public(module: Any) -> set[str]:
    """The full names of what a package exports, or a module defines, that has a docstring."""
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    values = {name: getattr(module, name) for name in names}
    return {
        f"{module.__name__}.{name}"
        for name, value in values.items()
        if (inspect.isclass(value) or inspect.isroutine(value))
        and value.__doc__
        and value.__module__.startswith("course_lib" if hasattr(module, "__path__") else module.__name__)
    }


def test_every_public_name_is_explained_once(pages: dict[str, BeautifulSoup]) -> None:
    explained = Counter(
        tag["id"]
        for name, page in pages.items()
        if name.startswith("docs/reference/")
        for tag in page.select("dl.py.class > dt[id], dl.py.function > dt[id], dl.py.exception > dt[id]")
    )
    assert [name for name, count in explained.items() if count > 1] == []
    parts = [part.name for part in pkgutil.iter_modules(course_lib.__path__) if part.name != "__main__"]
    assert len(parts) > 15
    for part in parts:
        assert _public(importlib.import_module(f"course_lib.{part}")) <= set(explained), f"no page has all of {part}"
    last = Counter(name.rpartition(".")[2] for name in explained)
    assert last["GammatoneFilterbank"] == last["Recordings"] == last["Split"] == 1


def test_a_name_leads_to_its_lesson(pages: dict[str, BeautifulSoup]) -> None:
    layer = pages["docs/reference/layers.html"].find("dt", id="course_lib.layers.GammatoneFilterbank").parent
    links = [link["href"] for link in layer.select("a.reference.internal")]
    assert "../../notebooks/04_learnable_gammatone.html" in links
    assert not [name for name, page in pages.items() if "reference" in name and "Notebook: " in page.text]


def test_a_formula_becomes_mathml() -> None:
    from tools.site.formulas import mathml

    page = BeautifulSoup(mathml(r"X[k] = \sum_{n=0}^{N-1} x[n]\, e^{-2\pi i k n / N}", "block"), "html.parser")
    assert page.math["alttext"].startswith("X[k]") and page.math["display"] == "block"
    assert page.munderover or page.msubsup


@pytest.mark.parametrize("tex", [r"\nosuchcommand{x}", r"\left( x"])
def test_a_formula_that_cannot_be_drawn_is_an_error(tex: str) -> None:
    from tools.site.formulas import mathml

    with pytest.raises(ValueError, match="formula"):
        mathml(tex)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ('axes.set(xlabel="time (s)", ylabel="level (dB)", title="A tone")', "A tone. Axes: time (s), level (dB)"),
        ('p[0].set_title("left")\nfigure.suptitle("Both.")', "Both. left"),
        ('figures.waveform(word, rate, "A word", axes)', "A word"),
        ('title = figures.labelled("Two hearts", source)\nfigures.estimates(t, title)', "Two hearts"),
        ('axes.plot(x, y, label="ours")\naxes.set_title(f"every {n:.0f} Hz")', "every … Hz. Shown: ours"),
        ('figure.suptitle("Sums")\npanel.set_title(f"{k} Hz")\npanel.plot(x, label=f"{k}")', "Sums"),
        ('who = "jackson" if real else "a stand-in"\nplt.title(f"Spoken by {who}")', "Spoken by jackson"),
        ('panel.set_title(f"{name}")\nprint("not this")', ""),
        ('def draw(k):\n    plt.title(f"{k:,} Hz")\nlesson.slider(draw, 8000, start=5500)', "5,500 Hz"),
        ('name = "ours"\nfor name in names:\n    plt.title(f"{name} and more")', "and more"),
        ("%matplotlib inline", ""),
    ],
)
def test_the_text_of_a_figure_is_what_its_cell_writes_on_it(source: str, text: str) -> None:
    from tools.site.alt_texts import alt_text

    assert alt_text(source) == text


def test_a_figure_may_be_drawn_by_a_function_of_an_earlier_cell() -> None:
    from tools.site.alt_texts import alt_text

    before = 'def running_sums(k):\n    axes.set(title="Sums", ylabel="sum")'
    assert alt_text("running_sums(44)", before) == "Sums. Axes: sum"


def test_a_docstring_becomes_text_a_list_and_a_link() -> None:
    from tools.site.docstrings import restructured

    docstring = """Read *.wav, a|b, of shape (x,) as `Tensor`s.

order: of the filters,
    1 to 6.
f_min: in Hz.

    read("a_")

Notebook: 01_waves"""
    assert restructured(docstring.splitlines()) == [
        r"Read \*.wav, a\|b, of shape (x,) as ``Tensor``\ s.",
        "",
        "* ``order``: of the filters,",
        "  1 to 6.",
        "* ``f_min``: in Hz.",
        "",
        "::",
        "",
        '    read("a_")',
        "",
        "Lesson: :doc:`/notebooks/01_waves`",
        "",
    ]


@pytest.fixture
def sphinx(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """In place of Sphinx: it writes a page and ends with the status in the list."""
    status = [0]

    def build_main(arguments: list[str]) -> int:
        for name in ("index.html", "searchindex.js"):
            Path(arguments[-1], name).write_text(f"status {status[0]}")
        return status[0]

    monkeypatch.setattr("sphinx.cmd.build.build_main", build_main)
    return status


def test_a_site_appears_whole_or_not_at_all(sphinx: list[int], tmp_path: Path, capsys) -> None:
    folder = tmp_path / "site"
    sphinx[0] = 1
    assert command.main([str(folder)]) == 1
    assert list(tmp_path.iterdir()) == []
    sphinx[0] = 0
    assert command.main([str(folder)]) == command.main([str(folder)]) == 0
    sphinx[0] = 2
    assert command.main([str(folder)]) == 1
    assert (folder / "index.html").read_text() == "status 0"
    assert list(tmp_path.iterdir()) == [folder]
    assert capsys.readouterr().err.count("the site was not built") == 2


@pytest.mark.usefixtures("sphinx")
def test_a_folder_with_other_things_is_not_replaced(tmp_path: Path, capsys) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    assert command.main([str(tmp_path)]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert "name another folder" in capsys.readouterr().err


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(command, "PACKAGES", ("sphinx", "no_such_package"))
    assert command.main([str(tmp_path / "site")]) == 1
    assert "not installed (no_such_package); run: pip install -e '.[docs]'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, without a window."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium; on Debian: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_asks_for_nothing_elsewhere_and_fits_the_screen(
    width: str, site: Path, pages: dict[str, BeautifulSoup], browser
) -> None:
    page = _screen(browser, width)
    wrong: list[str] = []
    page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url[:150]}"))
    page.on("pageerror", lambda error: wrong.append(f"{page.url}: {error}"))
    page.on("request", lambda request: _expect_local(request.url, wrong))
    for name in pages:
        page.goto((site / name).as_uri())
        if page.evaluate("document.documentElement.scrollWidth > innerWidth + 1"):
            wrong.append(f"wider than the screen: {name}")
    page.close()
    assert wrong == []


def _screen(browser: Any, width: str) -> Any:
    page = browser.new_page(viewport=dict(zip(("width", "height"), WIDTHS[width], strict=True)))
    page.set_default_timeout(120_000)  # other tests may need the processor, too
    return page


def _expect_local(address: str, wrong: list[str]) -> None:
    if urlsplit(address).scheme not in ("file", "data", "blob"):
        wrong.append(f"from elsewhere: {address[:150]}")


def test_players_play(site: Path, browser) -> None:
    page = browser.new_page()
    page.goto((site / "notebooks" / "01_waveforms_and_spectrograms.html").as_uri())
    played = page.evaluate(
        """async () => {
            const players = [...document.querySelectorAll('audio')];
            for (const player of players) { player.muted = true; await player.play(); player.pause(); }
            return players.map(player => player.duration);
        }"""
    )
    page.close()
    assert len(played) > 5 and all(0.05 < seconds < 60 for seconds in played)


def test_the_search_finds_a_page(site: Path, browser) -> None:
    page = browser.new_page()
    page.goto(f"{(site / 'search.html').as_uri()}?q=aliasing")
    page.wait_for_selector("ul.search li a")
    found = page.eval_on_selector_all("ul.search li a", "links => links.map(link => link.href)")
    page.close()
    assert any("01_waveforms_and_spectrograms" in address for address in found)


@pytest.mark.parametrize("name", KINDS)
def test_axe_finds_no_serious_fault(name: str, site: Path, browser) -> None:
    """axe-core on a page of each kind: nothing is a serious or critical obstacle, on a desktop or a phone."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="the extra docs is not installed").Axe()
    for width in WIDTHS:
        page = _screen(browser, width)
        page.goto((site / f"{name}.html").as_uri())
        violations = axe.run(page).response["violations"]
        page.close()
        serious = [found for found in violations if found["impact"] in ("serious", "critical")]
        assert [(width, found["id"], found["nodes"][0]["html"][:150]) for found in serious] == []
