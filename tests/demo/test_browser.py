"""The page in a real browser: upload, controls, clicks, two models, bad uploads, Spanish; no request leaves."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import pytest

pytest.importorskip("gradio", reason="needs gradio: pip install 'dinoscope[demo]'")
pytest.importorskip("playwright", reason="needs playwright")

from playwright import sync_api

from dinoscope.demo.pictures import Limits
from dinoscope.demo.serving import page_served
from dinoscope.model_names import load_models, shipped_model
from tests.conftest import draw_picture

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
PATIENCE = 120_000  # ms; these wait for what happens, and not for time


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    models = load_models([f"random:{shipped_model()}", str(shipped_model())])
    with page_served(models, limits=Limits(megapixels=4)) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    arguments = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # Chromium has no sandbox for root
        arguments.append("--no-sandbox")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments, timeout=PATIENCE)
        yield browser
        browser.close()


@dataclass
class Visit:
    """An open page, and what it did that it should not."""

    page: Any
    faults: list[str] = field(default_factory=list)

    def watch(self) -> None:
        self.page.on("console", lambda message: self._note(message.type == "error", f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self._note(True, f"script: {error}"))
        self.page.on("request", lambda request: self._note(not _is_here(request.url), f"request: {request.url}"))
        self.page.on("response", lambda reply: self._note(reply.status >= 400, f"{reply.status}: {reply.url}"))

    def _note(self, wrong: bool, what: str) -> None:
        if wrong:
            self.faults.append(what)

    def picture(self, name: str) -> str:
        """Address of the picture that is shown; it is another one when the picture is."""
        image = self.page.locator(f"#{name} img").first
        image.wait_for(timeout=PATIENCE)
        return image.get_attribute("src")

    def changed(self, name: str, before: str) -> str:
        """Wait until a picture is another one."""
        sync_api.expect(self.page.locator(f"#{name} img").first).not_to_have_attribute("src", before, timeout=PATIENCE)
        return self.picture(name)

    def caption(self, name: str, pattern: str) -> None:
        expected = re.compile(pattern, re.DOTALL)
        sync_api.expect(self.page.locator(f"#{name}-caption")).to_contain_text(expected, timeout=PATIENCE)


def _is_here(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:", "blob:"))


@pytest.fixture
def visit(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Visit]:
    options = getattr(request, "param", {})
    chosen = {"viewport": {"width": 1366, "height": 768}, "locale": "en-US", **options}
    context = browser.new_context(**chosen)
    context.set_default_timeout(PATIENCE)
    context.set_default_navigation_timeout(PATIENCE)
    visit = Visit(context.new_page())
    visit.watch()
    visit.page.goto(address)
    visit.picture("second-overlay")
    yield visit
    context.close()
    assert visit.faults == []


def upload(visit: Visit, name: str, file: Path) -> None:
    visit.page.locator(f"#{name} input[type=file]").set_input_files(str(file))


def photograph(folder: Path, seed: int = 3) -> Path:
    file = folder / "mine.png"
    cv2.imwrite(str(file), draw_picture(seed, (90, 120)))
    return file


def test_upload_then_every_slider(visit: Visit, tmp_path: Path) -> None:
    overlay, mask = visit.picture("first-overlay"), visit.picture("second-mask")
    visit.caption("second", "overlap with the ground truth")
    upload(visit, "upload", photograph(tmp_path))
    overlay = visit.changed("first-overlay", overlay)
    mask = visit.changed("second-mask", mask)
    visit.caption("second", r"Mask: \d+%.*37 × 28 patches")
    assert "truth" not in visit.page.locator("#second-caption").inner_text()
    visit.page.locator("#mass input[type=number]").fill("20")
    visit.page.locator("#mass input[type=number]").press("Enter")
    mask = visit.changed("second-mask", mask)
    visit.page.locator("#block input[type=number]").fill("1")
    visit.page.locator("#block input[type=number]").press("Enter")
    overlay = visit.changed("first-overlay", overlay)
    visit.caption("first", "layer 1 of 3")
    visit.page.locator("#opacity input[type=number]").fill("30")
    visit.page.locator("#opacity input[type=number]").press("Enter")
    overlay = visit.changed("first-overlay", overlay)
    visit.page.locator("#first-heads button").nth(2).click()
    visit.changed("first-overlay", overlay)
    visit.caption("first", "head 3 of 3")


def test_models_kinds_and_saving(visit: Visit) -> None:
    visit.caption("first", "random")
    overlay = visit.picture("second-overlay")
    visit.page.get_by_text("Grad-CAM", exact=True).click()
    visit.changed("second-overlay", overlay)
    visit.caption("second", "Grad-CAM")
    sync_api.expect(visit.page.locator("#second-heads")).to_be_hidden(timeout=PATIENCE)
    visit.page.get_by_label("Beside it").click()
    visit.page.get_by_role("option", name="nothing").click()
    sync_api.expect(visit.page.locator("#second-overlay")).to_be_hidden(timeout=PATIENCE)
    visit.page.locator("#save").click()
    link = visit.page.locator("#files a").first
    link.wait_for(timeout=PATIENCE)
    with visit.page.expect_download() as download:
        link.click()
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")


def test_a_click_a_second_image_and_colours(visit: Visit, tmp_path: Path) -> None:
    visit.page.get_by_role("tab", name="Similarity").click()
    here, there = visit.picture("likeness-second-here"), visit.picture("likeness-second-there")
    colors = visit.picture("likeness-second-colors-here")
    visit.page.locator("#click img").click(position={"x": 60, "y": 60})
    here = visit.changed("likeness-second-here", here)
    upload(visit, "second", photograph(tmp_path))
    there = visit.changed("likeness-second-there", there)
    visit.changed("likeness-second-colors-here", colors)  # those of both together
    visit.caption("likeness-second", r"cosine [01]\.\d\d")
    visit.page.locator("#click img").click(position={"x": 150, "y": 90})
    visit.changed("likeness-second-there", there)
    visit.page.get_by_role("tab", name="Image").click()


def test_neighbours_of_an_image_from_elsewhere_and_copies(visit: Visit, tmp_path: Path) -> None:
    visit.page.get_by_role("tab", name="Neighbours").click()
    before = visit.picture("neighbours-first-found")
    upload(visit, "neighbours-upload", photograph(tmp_path))
    visit.changed("neighbours-first-found", before)
    sync_api.expect(visit.page.locator("#neighbours-first-found img")).to_have_count(9, timeout=PATIENCE)
    visit.caption("neighbours-second", "240 images")
    visit.page.locator("#copies-find").focus()
    visit.page.keyboard.press("Enter")
    found = visit.page.locator("#copies-view")
    sync_api.expect(found).to_contain_text(re.compile("240 images|images: 240"), timeout=PATIENCE)


def test_results_are_asked_for_in_a_line(visit: Visit) -> None:
    visit.page.get_by_role("tab", name="Compare").click()
    expected = "start the page with dinoscope demo --results results"
    sync_api.expect(visit.page.locator("#compare-none")).to_contain_text(expected, timeout=PATIENCE)


def test_choices_are_reached_by_keyboard(visit: Visit) -> None:
    overlay = visit.picture("second-overlay")
    choice = visit.page.get_by_role("radio", name="Grad-CAM")
    choice.focus()
    visit.page.keyboard.press("Space")
    visit.changed("second-overlay", overlay)
    visit.caption("second", "Grad-CAM")


def test_bad_uploads_are_told_in_words(visit: Visit, tmp_path: Path) -> None:
    large, junk, empty = (tmp_path / f"{name}.png" for name in ("large", "junk", "empty"))
    cv2.imwrite(str(large), draw_picture(1, (2000, 2100)))
    junk.write_bytes(b"this is no image")
    empty.write_bytes(b"")
    told = {large: "2100 × 2000 px", junk: "not an image that can be read", empty: "empty"}
    for file, words in told.items():
        upload(visit, "upload", file)
        sync_api.expect(visit.page.get_by_test_id("toast-body").last).to_contain_text(words, timeout=PATIENCE)
        # The words come before the field is emptied, which would take the next image with it
        sync_api.expect(visit.page.locator("#upload img")).to_have_count(0, timeout=PATIENCE)
    upload(visit, "upload", photograph(tmp_path))  # and it goes on
    visit.caption("second", r"Mask: \d+%")
    assert "Traceback" not in visit.page.content()


@pytest.mark.slow
def test_the_camera(visit: Visit) -> None:
    overlay = visit.picture("first-overlay")
    visit.page.locator("#upload").get_by_label("Remove Image").or_(
        visit.page.locator("#upload").get_by_label("Clear")
    ).first.click()
    sync_api.expect(visit.page.locator("#first-overlay img")).to_have_count(0, timeout=PATIENCE)
    visit.page.locator("#upload").get_by_label("Capture from camera").first.click()
    visit.page.locator("#upload").get_by_title("grant webcam access").or_(
        visit.page.locator("#upload .access-wrap button")
    ).first.click()
    playing = "document.querySelector('#upload video')?.readyState >= 3"
    visit.page.wait_for_function(playing, timeout=PATIENCE)
    visit.page.locator("#upload").get_by_label("capture photo").first.click()
    visit.changed("first-overlay", overlay)
    # Gradio's own camera field asks for the progress of an upload that has no name yet
    assert all("upload_progress" in fault or fault.startswith("console") for fault in visit.faults)
    visit.faults.clear()


@pytest.mark.parametrize("visit", [{"locale": "es-MX"}], indirect=True)
def test_spanish(visit: Visit, tmp_path: Path) -> None:
    visit.caption("second", "Máscara: ")
    for tab in ("Imagen", "Semejanza", "Vecinos", "Vídeo", "Comparar"):
        assert visit.page.get_by_role("tab", name=tab).is_visible()
    assert visit.page.locator("#first-overlay").get_by_title("Pantalla completa").count() == 1  # Gradio's own words
    assert visit.page.get_by_text("¿Qué mira un modelo de visión?").is_visible()
    junk = tmp_path / "junk.png"
    junk.write_bytes(b"nada")
    upload(visit, "upload", junk)
    toast = visit.page.get_by_test_id("toast-body").last
    sync_api.expect(toast).to_contain_text("no es una imagen legible", timeout=PATIENCE)


@pytest.mark.parametrize("visit", [{"viewport": {"width": 420, "height": 900}}], indirect=True)
def test_a_narrow_screen_does_not_scroll_sideways(visit: Visit) -> None:
    for tab in visit.page.get_by_role("tab").all():
        tab.click()
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 420
