"""The page in a real browser: upload, controls, clicks, two models, bad uploads, Spanish; no request leaves."""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("gradio", reason="needs gradio: pip install 'dinoscope[demo]'")
pytest.importorskip("playwright", reason="needs playwright")

from playwright import sync_api

from dinoscope import api
from dinoscope.demo.pictures import Limits
from dinoscope.demo.serving import page_served
from dinoscope.evaluation.base import Context
from dinoscope.model_names import load_models, shipped_model
from dinoscope.report.verdict import read_verdicts, write_verdict
from tests.conformance import cases
from tests.conftest import draw_picture
from tests.demo.keyboard import choose_file, go_to
from tests.report_runs import labelled

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
PATIENCE = 120_000  # ms; these wait for what happens, and not for time


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models, root = load_models([f"random:{shipped_model()}", str(shipped_model())]), tmp_path_factory.mktemp("trained")
    data = labelled(root / "data")
    for name, every in (("plain", 0), ("mine", 1)):
        api.train(cases.run_config("dino", data, root / "runs" / name, epochs=2, evaluate_every=every))
    skipped, context = ("linear", "throughput", "lidar"), Context(workers=0, cached=False)
    write_verdict([*models, "pixels"], data, root / "verdict", skip=skipped, context=context)
    results = read_verdicts([root / "verdict"])
    with page_served(models, limits=Limits(megapixels=4), runs=[root / "runs"], results=results) as address:
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
    visit.page.locator("#block input[type=number]").fill("0")
    visit.page.locator("#block input[type=number]").press("Enter")
    overlay = visit.changed("first-overlay", overlay)
    visit.caption("first", r"layer 0 \(0 to 2\)")
    visit.page.locator("#opacity input[type=number]").fill("30")
    visit.page.locator("#opacity input[type=number]").press("Enter")
    overlay = visit.changed("first-overlay", overlay)
    visit.page.locator("#first-heads button").nth(2).click()
    visit.changed("first-overlay", overlay)
    visit.caption("first", r"head 2 \(0 to 2\)")


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
    assert download.value.suggested_filename.endswith("-maps.zip")
    with zipfile.ZipFile(download.value.path()) as archive:
        assert any(name.endswith("-gradcam-mask.png") for name in archive.namelist())
    with visit.page.expect_download() as download:
        visit.page.locator("#first-overlay").get_by_role("link").first.click()
    assert re.fullmatch(r"\w+-random-.*-gradcam\.png", download.value.suggested_filename)
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")


def test_a_click_a_second_image_and_colours(visit: Visit, tmp_path: Path) -> None:
    visit.page.get_by_role("tab", name="Similarity").click()
    here, there = visit.picture("likeness-second-here"), visit.picture("likeness-second-there")
    colors = visit.picture("likeness-second-colors-here")
    visit.page.locator("#click img").click(position={"x": 60, "y": 60})
    here = visit.changed("likeness-second-here", here)
    upload(visit, "similarity-second", photograph(tmp_path))
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


def test_two_trainings_by_keyboard(visit: Visit) -> None:
    page, name = visit.page, "training-first-run-attention"
    go_to(page, page.get_by_role("tab", name="Training"))
    page.keyboard.press("Enter")
    newest = visit.picture(name)
    visit.caption("training-first-run", "mine.*epoch 2,")
    go_to(page, page.locator("#training-place input[type=range]"))
    page.keyboard.press("Home")
    visit.changed(name, newest)
    visit.caption("training-first-run", "before training")
    assert page.locator(f"#{name} img").get_attribute("alt") == "Attention in training: mine, before training"
    go_to(page, page.get_by_label("Next to it"), "Shift+Tab")
    page.keyboard.press("ArrowDown")
    for _ in range(4):
        if "plain" in page.locator("[role=option].active").last.inner_text():
            break
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    visit.caption("training-second-run", "plain.*--evaluate-every")
    charts = page.locator("#training-curves img")
    sync_api.expect(charts.first).to_have_attribute("alt", "Loss over the epochs: mine, plain", timeout=PATIENCE)
    assert page.locator("#training-state section").count() == 2


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
        sync_api.expect(visit.page.locator("#upload-complaint")).to_contain_text(words, timeout=PATIENCE)
        # The words may come before the field is emptied, which would take the next image with it
        sync_api.expect(visit.page.locator("#upload img")).to_have_count(0, timeout=PATIENCE)
        assert visit.page.locator("#upload-complaint [role=alert]").is_visible()  # until the next try
    upload(visit, "upload", photograph(tmp_path))  # and it goes on
    visit.caption("second", r"Mask: \d+%")
    sync_api.expect(visit.page.locator("#upload-complaint")).to_be_hidden(timeout=PATIENCE)
    assert "Traceback" not in visit.page.content()


def seen(visit: Visit, name: str) -> str:
    """Wait until the browser has drawn the picture of a field; return its address."""
    drawn = (
        "(target) => { const each = document.querySelector(target); return each?.complete && each.naturalWidth > 0; }"
    )
    visit.page.wait_for_function(drawn, arg=f"#{name} img", timeout=PATIENCE)
    return visit.picture(name)


def test_a_tiff_of_16_bits_is_seen_in_its_field_and_sent_once(visit: Visit, tmp_path: Path) -> None:
    file = tmp_path / "slide.tif"
    cv2.imwrite(str(file), np.linspace(0, 65535, 300 * 400).reshape(300, 400).astype(np.uint16))
    sent: list[str] = []
    visit.page.on("request", lambda request: sent.append(request.url) if "/upload?" in request.url else None)
    overlay = visit.picture("second-overlay")
    fields = {"upload": "Image", "similarity-second": "Similarity", "neighbours-upload": "Neighbours"}
    for number, (name, tab) in enumerate(fields.items(), start=1):
        visit.page.get_by_role("tab", name=tab).click()
        before = visit.picture(name)
        upload(visit, name, file)
        visit.changed(name, before)
        sync_api.expect(visit.page.locator(f"#{name} img")).to_have_attribute(
            "src", re.compile(r"\.jpg$"), timeout=PATIENCE
        )
        seen(visit, name)
        assert len(sent) == number
    visit.page.get_by_role("tab", name="Image").click()
    visit.changed("second-overlay", overlay)
    visit.caption("second", r"Mask: \d+%")
    shown = visit.page.locator("#second-overlay img").get_attribute("alt")
    assert shown is not None
    assert shown.endswith("slide.tif")
    with visit.page.expect_download() as download:
        visit.page.locator("#second-overlay").get_by_role("link").first.click()
    assert download.value.suggested_filename.startswith("slide-")


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
    for tab in ("Imagen", "Semejanza", "Vecinos", "Vídeo", "Comparar", "Entrenamiento"):
        assert visit.page.get_by_role("tab", name=tab).is_visible()
    assert visit.page.locator("#first-overlay").get_by_title("Pantalla completa").count() == 1  # Gradio's own words
    assert visit.page.get_by_text("¿Qué mira un modelo de visión?").is_visible()
    junk = tmp_path / "junk.png"
    junk.write_bytes(b"nada")
    upload(visit, "upload", junk)
    complaint = visit.page.locator("#upload-complaint")
    sync_api.expect(complaint).to_contain_text("no es una imagen legible", timeout=PATIENCE)


IS_WHOLE = "each => each.scrollWidth <= each.clientWidth && each.scrollHeight <= each.clientHeight"
PHONE = {"viewport": {"width": 390, "height": 844}}


@pytest.mark.parametrize("visit", [PHONE, {**PHONE, "locale": "es-ES"}], indirect=True)
def test_a_telephone_shows_all_tabs_and_does_not_scroll_sideways(visit: Visit) -> None:
    tabs = visit.page.get_by_role("tab")
    assert [tab.get_attribute("data-tab-id") for tab in tabs.all()] == list(READY)
    for tab in tabs.all():
        box = tab.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    for _ in opened_tabs(visit):
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
        for hint in visit.page.locator(".prompt:visible").all():
            assert hint.evaluate(IS_WHOLE), hint.inner_text()


@pytest.mark.parametrize("visit", [{"locale": "es-ES"}, {"locale": "en-US"}], indirect=True)
def test_the_hint_of_the_true_mask_is_not_cut_off(visit: Visit) -> None:
    visit.page.locator("button.label-wrap:visible").last.click()
    assert visit.page.locator("#truth .prompt").evaluate(IS_WHOLE)


@pytest.mark.parametrize("visit", [PHONE], indirect=True)
@pytest.mark.parametrize(
    ("tab", "control", "picture"),
    [
        ("Image", "mass", "first-mask"),
        ("Image", "opacity", "first-overlay"),
        ("Similarity", "similarity-across", "click"),
        ("Video", "video-reach", "video-frame"),
        ("Training", "training-place", "training-first-run-attention"),
    ],
)
def test_on_a_telephone_a_slider_and_its_picture_are_seen_at_once(
    visit: Visit, tab: str, control: str, picture: str
) -> None:
    visit.page.get_by_role("tab", name=tab).click()
    visit.picture(picture)
    if tab == "Similarity":
        visit.page.get_by_role("button", name="Choose without a mouse").click()
    boxes = [visit.page.locator(f"#{name}").bounding_box() for name in (control, picture)]
    assert max(box["y"] + box["height"] for box in boxes) - min(box["y"] for box in boxes) <= 844


AXE = """async (script) => {
    if (!window.axe) (0, eval)(script);
    const { violations } = await axe.run();
    return violations.filter(each => ["serious", "critical"].includes(each.impact))
        .flatMap(each => each.nodes.map(node => `${each.id}: ${node.html.slice(0, 200)}`));
}"""
"""Faults of the page that shut people out, by axe-core."""

GRADIO = {
    # its sign for a place that has no picture yet: a name on an element without a role
    r'aria-prohibited-attr: <div aria-label="[^"]*" class="empty [^>]*>': 1
}
"""Findings in Gradio's own markup: patterns, and how many places of one tab may have them."""


READY = {
    "image": "second-overlay img",
    "similarity": "likeness-second-colors-here img",
    "neighbours": "neighbours-second-found img",
    "video": "video-frame img",
    "compare": "compare-view table",
    "training": "training-first-run-attention img",
}
"""What shows that a tab is complete."""


IS_OPAQUE = """(target) => {
    for (let at = document.querySelector(target); at; at = at.parentElement)
        if (getComputedStyle(at).opacity !== "1") return false;
    return true;
}"""
"""Gradio shows what is being worked on faintly."""


def opened_tabs(visit: Visit) -> Iterator[None]:
    """Go through all tabs, complete and with nothing folded in."""
    for tab in visit.page.get_by_role("tab").all():
        tab.click()
        visit.page.locator(f"#{READY[tab.get_attribute('data-tab-id')]}").first.wait_for(timeout=PATIENCE)
        folded = visit.page.locator("button.label-wrap:not(.open):visible")
        while folded.count():
            folded.first.click()
        if (find := visit.page.locator("#copies-find")).is_visible():
            find.click()
            visit.page.locator("#copies-view .stored").wait_for(timeout=PATIENCE)
            visit.page.wait_for_function(IS_OPAQUE, arg="#copies-view .stored", timeout=PATIENCE)
        yield


@pytest.mark.parametrize(
    "visit",
    [{"color_scheme": scheme, "locale": locale} for scheme in ("dark", "light") for locale in ("es-ES", "en-US")],
    indirect=True,
)
def test_no_serious_fault_by_axe(visit: Visit) -> None:
    axe = pytest.importorskip("axe_playwright_python", reason="needs axe-playwright-python")
    script = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    for _ in opened_tabs(visit):
        faults: list[str] = visit.page.evaluate(AXE, script)
        for pattern, limit in GRADIO.items():
            listed = [fault for fault in faults if re.match(pattern, fault)]
            assert len(listed) <= limit, listed
            faults = [fault for fault in faults if fault not in listed]
        assert faults == []


TARGETS = """() => {
    const all = document.querySelectorAll("button, input, textarea, a[href], [tabindex='0']");
    window.targets = [...all].filter(each => !each.disabled && each.tabIndex >= 0 && each.type !== "file"
        && each.checkVisibility({ visibilityProperty: true })
        && !(each.type === "radio" && each !== (document.querySelector(`input[name="${each.name}"]:checked`) || each)));
    return window.targets.map(each => each.outerHTML.slice(0, 160));
}"""
"""What a person may use: of the choices of one question, the chosen one."""

FOCUSED = """() => {
    const at = document.activeElement;
    const ringed = [at, at.closest("label")].filter(each => each && getComputedStyle(each).outlineStyle !== "none");
    return [at === document.body, window.targets.indexOf(at), at.outerHTML.slice(0, 160),
        ringed.some(each => parseFloat(getComputedStyle(each).outlineWidth) >= 2)];
}"""


def test_tab_reaches_every_control_which_has_a_name_and_a_ring(visit: Visit) -> None:
    tree = visit.page.context.new_cdp_session(visit.page)
    for _ in opened_tabs(visit):
        targets = visit.page.evaluate(TARGETS)
        reached = set[int]()
        for _ in range(len(targets) + 10):
            visit.page.keyboard.press("Tab")
            is_outside, place, html, is_ringed = visit.page.evaluate(FOCUSED)
            if is_outside:  # past the last, from where it begins with the first again
                continue
            focused = tree.send("Runtime.evaluate", {"expression": "document.activeElement"})["result"]["objectId"]
            tree_query = {"objectId": focused, "fetchRelatives": False}
            node = tree.send("Accessibility.getPartialAXTree", tree_query)["nodes"][0]
            assert node["name"]["value"].strip(), html
            assert is_ringed, html
            reached.add(place)
        assert [html for place, html in enumerate(targets) if place not in reached] == []


def test_the_image_tab_by_keyboard_alone(visit: Visit, tmp_path: Path) -> None:
    page, overlay = visit.page, visit.picture("second-overlay")
    go_to(page, page.get_by_role("radio", name="Attention", exact=True))
    page.keyboard.press("ArrowRight")
    overlay = visit.changed("second-overlay", overlay)
    visit.caption("second", "Rollout")
    page.keyboard.press("ArrowLeft")
    visit.changed("second-overlay", overlay)
    visit.caption("second", "mean of 3 heads")
    for name in ("block", "mass", "opacity"):
        shown = "second-mask" if name == "mass" else "second-overlay"
        before = visit.picture(shown)
        go_to(page, page.locator(f"#{name} input[type=range]"))
        page.keyboard.press("ArrowLeft")
        visit.changed(shown, before)
    go_to(page, page.get_by_role("button", name="Resolution and smoothing"))
    page.keyboard.press("Enter")
    before = visit.picture("second-overlay")
    go_to(page, page.get_by_role("checkbox", name="Smooth"))
    page.keyboard.press("Space")
    visit.changed("second-overlay", before)
    before = visit.picture("first-overlay")
    go_to(page, page.locator("#first-heads .thumbnail-item").nth(1))
    page.keyboard.press("Enter")
    visit.changed("first-overlay", before)
    visit.caption("first", r"head 1 \(0 to 2\)")
    alt = page.locator("#second-overlay img").get_attribute("alt")
    assert re.fullmatch(r"Attention: .+, .+\.(png|jpg)", alt)
    go_to(page, page.locator("#second-overlay").get_by_role("button", name="Fullscreen"))
    page.keyboard.press("Enter")
    fills_the_screen(page, "#second-overlay img")
    go_to(page, page.locator("#second-overlay").get_by_role("button", name="Exit fullscreen mode"))
    page.keyboard.press("Enter")
    page.locator("#second-overlay").get_by_role("button", name="Fullscreen", exact=True).wait_for(timeout=PATIENCE)
    go_to(page, page.get_by_label("Beside it"))
    page.keyboard.press("ArrowDown")
    active = page.locator("[role=option].active").last
    active.wait_for(timeout=PATIENCE)
    for _ in range(4):
        page.wait_for_timeout(500)  # the list follows a key in its own time
        if "nothing" in active.inner_text():
            break
        page.keyboard.press("ArrowUp")
    sync_api.expect(active).to_contain_text("nothing", timeout=PATIENCE)
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#second-overlay")).to_be_hidden(timeout=PATIENCE)
    go_to(page, page.get_by_role("button", name="Save all pictures"))
    page.keyboard.press("Enter")
    page.locator("#files a").first.wait_for(timeout=PATIENCE)
    before = visit.picture("first-overlay")
    go_to(page, page.locator("#samples .thumbnail-item").nth(2))
    page.keyboard.press("Enter")
    visit.changed("first-overlay", before)
    go_to(page, page.locator("#upload").get_by_role("button", name="Remove Image"))
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#upload img")).to_have_count(0, timeout=PATIENCE)
    choose_file(page, page.locator("#upload button").filter(has_text="Drop an image here"), photograph(tmp_path))
    visit.caption("first", r"Mask: \d+%.*37 × 28 patches")
    go_to(page, page.get_by_role("button", name="Ground truth"))
    page.keyboard.press("Enter")
    field = page.locator("#truth button").filter(has_text="A PNG as large as the image")
    for shape, shown in (((9, 12), "#truth-complaint"), ((90, 120), "#first-caption")):
        mask = np.zeros(shape, np.uint8)
        mask[: shape[0] // 2] = 255
        cv2.imwrite(str(tmp_path / "mask.png"), mask)
        choose_file(page, field, tmp_path / "mask.png")
        words = re.compile("they must be equal|overlap with the ground truth")
        sync_api.expect(page.locator(shown)).to_contain_text(words, timeout=PATIENCE)


def test_the_whole_similarity_tab_by_keyboard_alone(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    go_to(page, page.get_by_role("tab", name="Similarity"))
    page.keyboard.press("Enter")
    here, clicked = visit.picture("likeness-second-here"), visit.picture("click")
    go_to(page, page.get_by_role("button", name="Choose without a mouse"))
    page.keyboard.press("Enter")
    for name, place in (("across", "25"), ("down", "80")):
        go_to(page, page.locator(f"#similarity-{name} input[type=number]"))
        page.keyboard.press("Control+a")
        page.keyboard.type(place)
        page.keyboard.press("Enter")
        here, clicked = visit.changed("likeness-second-here", here), visit.changed("click", clicked)
    go_to(page, page.locator("#similarity-across input[type=range]"), "Shift+Tab")
    page.keyboard.press("Home")
    here = visit.changed("likeness-second-here", here)
    there, colors = visit.picture("likeness-second-there"), visit.picture("likeness-second-colors-there")
    go_to(page, page.locator("#similarity-samples .thumbnail-item").nth(2))
    page.keyboard.press("Enter")
    there, colors = visit.changed("likeness-second-there", there), visit.changed("likeness-second-colors-there", colors)
    for question, shown, before in (("Brightness", "there", there), ("Colours", "colors-there", colors)):
        choices = page.locator("fieldset:visible").filter(has_text=re.compile(f"^\\s*{question}"))
        go_to(page, choices.get_by_role("radio", checked=True))
        page.keyboard.press("ArrowRight")
        visit.changed(f"likeness-second-{shown}", before)
    sync_api.expect(page.locator("#likeness-second-scale")).to_contain_text("cosine 0 or less", timeout=PATIENCE)
    there = visit.picture("likeness-second-there")
    go_to(page, page.locator("#similarity-second").get_by_role("button", name="Remove Image"), "Shift+Tab")
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#similarity-second img")).to_have_count(0, timeout=PATIENCE)
    joint = page.get_by_role("radio", name="of both images together")
    sync_api.expect(joint).to_be_disabled(timeout=PATIENCE)  # of one image there is nothing to choose
    choose_file(
        page, page.locator("#similarity-second button").filter(has_text="Drop an image here"), photograph(tmp_path)
    )
    visit.picture("likeness-second-there")
    sync_api.expect(joint).to_be_enabled(timeout=PATIENCE)
    visit.caption("likeness-second", r"best match in the second image: cosine [01]\.\d\d")


def fills_the_screen(page: Any, target: str) -> None:
    """Assert that a picture reaches two opposite edges of the window, up to a border."""
    page.wait_for_function(
        """(target) => {
            const { width, height } = document.querySelector(target).getBoundingClientRect();
            return width <= innerWidth && height <= innerHeight && (width > innerWidth - 6 || height > innerHeight - 6);
        }""",
        arg=target,
        timeout=10_000,
    )


@pytest.mark.parametrize(
    ("tab", "name"),
    [("Image", "second-mask"), ("Similarity", "likeness-second-there"), ("Video", "video-frame")],
)
def test_full_screen_is_as_large_as_the_screen(visit: Visit, tab: str, name: str) -> None:
    visit.page.get_by_role("tab", name=tab).click()
    visit.picture(name)
    visit.page.locator(f"#{name}").get_by_title("Fullscreen").click()
    fills_the_screen(visit.page, f"#{name} img")


RATIO = """([one, other]) => {
    const light = (css) => css.match(/[\\d.]+/g).slice(0, 3).map(each => each / 255)
        .map(each => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
        .reduce((sum, each, at) => sum + each * [0.2126, 0.7152, 0.0722][at], 0);
    const [high, low] = [light(one), light(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
}"""
"""The contrast of two colours (WCAG 2.2, "contrast ratio")."""


@pytest.mark.parametrize("visit", [{"color_scheme": "dark"}, {"color_scheme": "light"}], indirect=True)
def test_the_chosen_pill_stands_out(visit: Visit) -> None:
    labels = visit.page.locator(".kinds label:visible")
    style = "each => { const { backgroundColor, color } = getComputedStyle(each); return [backgroundColor, color]; }"
    chosen, other = labels.nth(0).evaluate(style), labels.nth(1).evaluate(style)
    assert visit.page.evaluate(RATIO, [chosen[0], other[0]]) >= 3
    for pill in (chosen, other):
        assert visit.page.evaluate(RATIO, pill) >= 4.5
