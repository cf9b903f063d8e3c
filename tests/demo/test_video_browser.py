"""The video tab in a real browser: a clip goes in, an object is clicked and followed, the work is stopped."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinoscope.model_names import shipped_model
from tests.demo.clips import write_clip
from tests.demo.keyboard import choose_file, go_to
from tests.demo.test_browser import fills_the_screen

pytest.importorskip("gradio", reason="the page needs Gradio")
playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("needs Chromium", allow_module_level=True)

TIMEOUT = 120_000  # ms; far more than it takes, for machines that are busy

SERVER = """
import sys, time
from contextlib import closing
from pathlib import Path
from dinoscope.cli import main
from dinoscope.demo import clip

follow, held = clip.follow, Path(sys.argv[1])

def waiting(*args):
    with closing(follow(*args)) as steps:
        for step in steps:
            yield step
            while held.exists():
                time.sleep(0.01)

clip.follow = waiting
sys.exit(main(sys.argv[2:]))
"""
"""`dinoscope demo`, whose following waits after each frame while a file is there: so nothing ends before a click."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server keeps its temporary files."""
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """While this file is there, the following of objects stands still."""
    return tmp_path_factory.mktemp("held") / "held"


@pytest.fixture(scope="module")
def page(folder: Path, held: Path) -> Iterator[Any]:
    """The tab in a browser. The page is served by another process, as people do, without these tests' type checks."""
    command = [sys.executable, "-c", SERVER, str(held), "demo", "--no-browser", "--language", "en", "--device", "cpu"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        command += ["--port", str(free.getsockname()[1])]
    command += ["--model", str(shipped_model()), "--limits.video-seconds", "5", "--limits.most-size", "128"]
    environment = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        try:
            line = server.stdout.readline()
            assert line.startswith("http://"), f"the server ended with {server.wait()}"  # it has said why on stderr
            address = line.split()[0]
            with playwright.sync_playwright() as driver:
                browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=TIMEOUT)
                tab = browser.new_page(viewport={"width": 1366, "height": 768})
                tab.set_default_timeout(TIMEOUT)
                tab.set_default_navigation_timeout(TIMEOUT)
                tab.goto(address)
                tab.get_by_role("tab", name="Video").click()
                says(tab, "status", "Drawn sample")
                yield tab
                browser.close()
        finally:
            server.terminate()
    assert list(folder.iterdir()) == []  # all that anybody sent or made is gone with the page


def send(page: Any, file: Path, button: str = "upload") -> None:
    with page.expect_file_chooser() as chooser:
        page.click(f"#video-{button}")
    chooser.value.set_files(str(file))


def says(page: Any, part: str, text: str) -> None:
    playwright.expect(page.locator(f"#video-{part}")).to_contain_text(re.compile(text), timeout=TIMEOUT)


def written(folder: Path) -> list[str]:
    followed = [each for each in os.walk(folder) if Path(each[0]).name.startswith("followed")]  # passes over what goes
    return sorted(name for _, folders, files in followed for name in (*folders, *files))


@pytest.mark.slow
def test_a_clip_is_marked_followed_and_played(page: Any, folder: Path, tmp_path: Path) -> None:
    send(page, write_clip(tmp_path / "mine.mp4", 6, (96, 128)))
    says(page, "status", "mine.mp4: 6 frames, 0.5 s")
    image = page.locator("#video-frame img")
    before = image.get_attribute("src")
    box = image.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    playwright.expect(image).not_to_have_attribute("src", before, timeout=TIMEOUT)
    page.click("#video-follow")
    says(page, "progress", r"6 frames in .* s")
    video = page.locator("#video-overlay video")
    video.wait_for()
    page.wait_for_function("document.querySelector('#video-overlay video').readyState >= 1")
    assert video.evaluate("each => each.duration") == pytest.approx(0.5, abs=0.05)
    assert video.evaluate("each => each.videoWidth") == 128
    page.wait_for_function(
        "document.querySelector('#video-overlay video').getVideoPlaybackQuality().totalVideoFrames > 6"
    )
    video.hover()
    page.locator("#video-overlay").get_by_label("full-screen").click()
    page.wait_for_function(
        """() => {
            const film = document.querySelector('#video-overlay video'), box = film.getBoundingClientRect();
            return document.fullscreenElement?.contains(film) && box.width === innerWidth && box.height === innerHeight;
        }"""
    )
    page.evaluate("document.exitFullscreen()")
    with page.expect_download() as download:
        page.click("#video-save-masks")
    assert download.value.suggested_filename == "masks.zip"
    assert written(folder) == ["masks.zip", "overlay.webm"]


@pytest.mark.slow
def test_a_mask_file_is_followed_and_a_new_mark_clears_the_result(page: Any, folder: Path, tmp_path: Path) -> None:
    send(page, write_clip(tmp_path / "masked.mp4", 4, (96, 128)))
    says(page, "status", "masked.mp4: 4 frames")
    image = page.locator("#video-frame img")
    ids = np.zeros((96, 128), np.uint8)
    ids[20:60, 30:50], ids[20:60, 80:110] = 2, 4
    Image.fromarray(ids[1:]).save(tmp_path / "wrong.png")
    Image.fromarray(ids).save(tmp_path / "mask.png")
    before = image.get_attribute("src")
    page.evaluate("document.activeElement.blur()")
    assert page.get_by_role("button", name="Mask from a file").get_attribute("id") == "video-mask"
    choose_file(page, page.locator("#video-mask"), tmp_path / "wrong.png")
    says(page, "mask-complaint", "The mask has 128 × 95 px, and the clip 128 × 96 px")
    assert page.locator("#video-mask-complaint [role=alert]").is_visible()
    assert image.get_attribute("src") == before
    choose_file(page, page.locator("#video-mask"), tmp_path / "mask.png")
    playwright.expect(image).not_to_have_attribute("src", before, timeout=TIMEOUT)
    playwright.expect(page.locator("#video-mask-complaint")).to_be_hidden(timeout=TIMEOUT)
    page.click("#video-follow")
    says(page, "progress", r"4 frames in .* s")
    page.locator("#video-overlay video").wait_for()
    with page.expect_download() as download:
        page.click("#video-save-masks")
    with zipfile.ZipFile(download.value.path()) as masks, masks.open("00000.png") as file:
        assert np.array_equal(np.asarray(Image.open(file)), ids)
    box = image.bounding_box()
    page.mouse.click(box["x"] + 10, box["y"] + 10)
    says(page, "progress", "Mark an object")
    playwright.expect(page.locator("#video-overlay video")).to_have_count(0, timeout=TIMEOUT)
    for name in ("overlay", "masks"):
        playwright.expect(page.locator(f"#video-save-{name}")).to_be_disabled(timeout=TIMEOUT)


def test_too_long_a_video_is_refused_and_the_clip_stays(page: Any, tmp_path: Path) -> None:
    before = page.locator("#video-status").inner_text()
    send(page, write_clip(tmp_path / "film.mp4", 15, fps=1 / 500))
    says(page, "upload-complaint", "film.mp4 plays 2:05:00 .* at most 5 s are taken")
    assert page.locator("#video-frame img").count() == 1
    assert page.locator("#video-status").inner_text() == before


def test_cancel_stops_the_work_and_leaves_nothing(page: Any, folder: Path, held: Path) -> None:
    held.touch()
    image = page.locator("#video-frame img")
    before = image.get_attribute("src")
    page.click("#video-sample")
    playwright.expect(image).not_to_have_attribute("src", before, timeout=TIMEOUT)
    says(page, "status", "Drawn sample: 36 frames")
    box = image.bounding_box()
    page.mouse.click(box["x"] + 0.7 * box["width"], box["y"] + 0.5 * box["height"])
    page.click("#video-follow")
    says(page, "progress", "Frame .* of 36")
    moving = page.locator("#video-moving")
    moving.get_by_title("Fullscreen").click()
    fills_the_screen(page, "#video-moving img")
    moving.get_by_title("Exit fullscreen mode").click()
    page.click("#video-cancel")
    says(page, "progress", "Cancelled")
    playwright.expect(page.locator("#video-follow")).to_be_enabled(timeout=TIMEOUT)
    held.unlink()
    # the frame that was being worked on is finished first
    deadline = time.monotonic() + TIMEOUT / 1000
    while written(folder) and time.monotonic() < deadline:
        page.wait_for_timeout(100)
    assert written(folder) == []
    says(page, "progress", "Cancelled")
    held.touch()
    page.click("#video-follow")  # after a cancel, following works as before
    says(page, "progress", "Frame .* of 36")
    page.click("#video-cancel")
    says(page, "progress", "Cancelled")
    held.unlink()


def test_the_video_tab_by_keyboard_alone(page: Any, tmp_path: Path) -> None:
    image = page.locator("#video-frame img")
    page.evaluate("document.activeElement.blur()")
    choose_file(page, page.locator("#video-upload"), write_clip(tmp_path / "mine.mp4", 3, (96, 128)))
    says(page, "status", "mine.mp4: 3 frames")
    go_to(page, page.get_by_role("button", name="Mark without a mouse"))
    page.keyboard.press("Enter")
    go_to(page, page.locator("#video-object").get_by_role("radio", checked=True))
    page.keyboard.press("ArrowRight")  # object 2
    for name, place in (("across", "60"), ("down", "40")):
        go_to(page, page.locator(f"#video-{name} input[type=number]"))
        page.keyboard.press("Control+a")
        page.keyboard.type(place)
    for name in ("mark", "undo", "mark"):
        before = image.get_attribute("src")
        go_to(page, page.locator(f"#video-{name}"))
        page.keyboard.press("Enter")
        playwright.expect(image).not_to_have_attribute("src", before, timeout=TIMEOUT)
    go_to(page, page.locator("#video-follow"))
    page.keyboard.press("Enter")
    says(page, "progress", "3 frames in")
    go_to(page, page.locator("#video-save-masks"))
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    with zipfile.ZipFile(download.value.path()) as masks, masks.open("00000.png") as file:
        ids = np.asarray(Image.open(file))
    assert ids.shape == (96, 128)
    assert set(np.unique(ids)) == {0, 2}
    assert ids[round(0.4 * 96), round(0.6 * 128)] == 2
