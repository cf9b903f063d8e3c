"""The report in a real browser: on a screen, on a telephone, and on paper."""

from __future__ import annotations

import contextlib
import re
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dinoscope.cli import main
from dinoscope.report.page import Bullets, Document, Paragraph, Section, render
from dinoscope.report.sections import embedding
from dinoscope.tables import Column, Table, TableRow
from dinoscope.tables import Section as Rows
from tests.report_runs import HOSTILE, trained

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 120_000  # ms; far more than it takes, for machines that are busy
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = trained(tmp_path_factory.mktemp("trained"))
    patch = pytest.MonkeyPatch()
    patch.setattr(embedding, "best_method", lambda: "pca")  # UMAP takes seconds to be loaded
    out = root / "report.html"
    runs = [str(root / name) for name in (HOSTILE, "simclr", "supervised")]
    assert main(["report", *runs, "--out", str(out), "--device", "cpu", "--workers", "0"]) == 0
    patch.undo()
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE)
        yield browser
        browser.close()


def new_page(browser: Any, **settings: Any) -> Any:
    page = browser.new_page(**settings)
    page.set_default_timeout(PATIENCE)
    page.set_default_navigation_timeout(PATIENCE)
    return page


@pytest.fixture(params=[1366, 420])
def opened(request: pytest.FixtureRequest, browser: Any, report: Path) -> Iterator[Any]:
    """The page at two widths; whatever it asks of the net or complains of fails the test.

    It is opened as by a person who wants no motion: a click while the page glides may hit what is no longer there.
    """
    page = new_page(browser, viewport={"width": request.param, "height": 900}, reduced_motion="reduce")
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.goto(report.as_uri())
    yield page
    page.close()
    assert complaints == []
    assert [url[:80] for url in asked if not url.startswith("data:")] == [report.as_uri()]


def test_all_pictures_are_there_and_nothing_is_wider_than_the_page(opened):
    assert opened.title()
    widths = opened.evaluate("[...document.images].map(image => image.complete && image.naturalWidth)")
    assert len(widths) > 0
    assert all(width > 0 for width in widths)
    assert opened.evaluate("document.querySelectorAll('img.drawing').length") >= 12
    opened.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert opened.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    # what stands in a frame of its own scrolls there; all else stays within the page
    outside = opened.evaluate(
        "[...document.querySelectorAll('main *')].filter(each => !each.closest('.scroll, .frame, svg') && "
        "each.getBoundingClientRect().right > innerWidth + 1).map(each => each.outerHTML.slice(0, 80))"
    )
    assert outside == []
    shrunk = opened.evaluate(
        "[...document.querySelectorAll('.frame img')].filter(each => each.width < 0.74 * each.naturalWidth "
        "&& each.width < 900).map(each => [each.width, each.naturalWidth])"
    )
    assert opened.locator(".frame img").count() > 0
    assert shrunk == []


def test_navigation_leads_to_the_sections(opened):
    for link in opened.query_selector_all("nav a"):
        anchor = link.get_attribute("href")
        assert anchor is not None
        link.click()
        opened.wait_for_function("anchor => location.hash === anchor", arg=anchor)
        assert opened.locator(f"section{anchor} h2").is_visible()
    assert opened.evaluate("scrollY") > 0


def test_on_paper_everything_is_unfolded(browser, report, tmp_path):
    page = new_page(browser)
    page.goto(report.as_uri())
    assert page.locator("details").first.get_attribute("open") is None
    pdf = page.pdf(path=str(tmp_path / "report.pdf"), prefer_css_page_size=True)
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 3
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.querySelectorAll('details:not([open])').length") == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.querySelectorAll('details[open]').length") == 0
    page.close()


def test_in_the_dark_the_text_is_light(browser, report):
    page = new_page(browser, color_scheme="dark")
    page.goto(report.as_uri())
    ground, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    brightness = [sum(map(int, re.findall(r"\d+", color)[:3])) for color in (ground, ink)]
    assert brightness[0] < 150 < 600 < brightness[1]
    page.close()


def test_no_sheet_of_paper_holds_a_row_or_two_of_a_longer_table(browser):
    """Wherever on the sheet a table of eight rows begins, it is whole, or three rows or more are on each sheet."""
    rows = Rows(tuple(TableRow((f"row {number}", "cell")) for number in range(8)))
    table = Table((Column("A"), Column("B")), (rows,), "A caption")
    page, parts = new_page(browser), list[int]()
    for lines in range(30, 44):
        above = Bullets(tuple(f"line {number}" for number in range(lines)))
        page.set_content(render(Document("t", (Section("s", "s", "", (above, table, Paragraph("the end"))),))))
        _, second = texts_on_sheets(page.pdf(prefer_css_page_size=True))
        parts.append((second - 3) // 2)  # without the two headings, which are repeated, and the end
    page.close()
    split = [rows for rows in parts if rows < 8]
    assert len(split) > 3
    assert all(3 <= rows <= 5 for rows in split)


def texts_on_sheets(pdf: bytes) -> list[int]:
    """Number of the texts on each sheet."""
    streams = [match[1] for match in re.finditer(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)]
    drawn: list[bytes] = []
    for stream in streams:
        with contextlib.suppress(zlib.error):
            drawn.append(zlib.decompress(stream))
    return [number for content in drawn if (number := content.count(b"BT\n/F"))]
