"""Something answers at once at the page's address, says what is being prepared, and makes room for the page."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from dinoscope.cli import main, options
from dinoscope.demo import waiting as module
from dinoscope.demo.waiting import STATE, Waiting, check_port, waiting_page
from tests.demo.conftest import named

httpx = pytest.importorskip("httpx")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 120


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waiting]:
    first = 30_000 + 100 * (os.getpid() % 200)  # of this process alone
    monkeypatch.setattr(module, "PORTS", range(first, first + 100))
    waiting = Waiting("127.0.0.1", None)
    yield waiting
    waiting.close()


def ask(waiting: Waiting, path: str = "", **headers: str) -> Any:
    return httpx.get(waiting.address.rstrip("/") + path, headers=headers, trust_env=False, timeout=PATIENCE)


def test_it_tells_what_is_being_prepared_in_both_languages(waiting: Waiting) -> None:
    waiting.show("waiting_models", models="<b>mine</b>")
    assert ask(waiting, STATE).text == "Loading models: <b>mine</b> …"
    assert ask(waiting, STATE).headers["content-type"].startswith("text/plain")
    spanish = ask(waiting, "/", **{"accept-language": "es"})
    assert "Cargando modelos: &lt;b&gt;mine&lt;/b&gt; …" in spanish.text
    assert '<html lang="es">' in spanish.text
    assert "default-src 'self'" in spanish.headers["content-security-policy"]


def test_a_forced_language_holds(waiting: Waiting) -> None:
    forced = Waiting("127.0.0.1", None, "es")
    try:
        assert forced.port != waiting.port
        assert ask(forced, STATE, **{"accept-language": "en"}).text == "Cargando bibliotecas …"
    finally:
        forced.close()


def test_other_names_of_this_machine_are_refused(waiting: Waiting) -> None:
    assert ask(waiting, STATE, host="evil.example:7860").status_code == 403
    assert ask(waiting, STATE, host=f"localhost:{waiting.port}").status_code == 200
    assert ask(waiting, STATE, host=f"[::1]:{waiting.port}").status_code == 200


def test_a_closed_one_leaves_its_port(waiting: Waiting) -> None:
    assert ask(waiting, STATE).status_code == 200
    waiting.close()
    waiting.close()
    check_port("127.0.0.1", waiting.port)


def test_no_free_port_is_one_line(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "PORTS", range(waiting.port, waiting.port + 1))
    assert main(["demo", "--no-browser"]) == 2
    assert f"no port from {waiting.port} to {waiting.port} is free" in capsys.readouterr().err


def test_it_listens_before_torch_is_imported() -> None:
    code = (
        "import sys, urllib.request\n"
        "from dinoscope.cli import options\n"
        "from dinoscope.demo import waiting\n"
        "with waiting.begin(options.parse('demo', ['--no-browser', '--host', '127.0.0.1'])):\n"
        "    address = waiting.waiting_page().address + 'dinoscope-state'\n"
        "    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))\n"
        "    print(opener.open(address).read().decode())\n"
        "assert not {'torch', 'numpy', 'gradio'} & sys.modules.keys()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    address, state = result.stdout.splitlines()
    assert address.startswith("http://127.0.0.1:")
    assert state.startswith("Loading libraries")


def test_the_command_begins_with_it() -> None:
    assert options.commands()["demo"].first == module.__name__
    with pytest.raises(LookupError):
        waiting_page()


def test_a_mistake_later_ends_it(waiting: Waiting, tmp_path) -> None:
    waiting.close()
    assert main(["demo", "--no-browser", "--port", str(waiting.port), "--model", str(tmp_path / "none")]) == 2
    check_port("127.0.0.1", waiting.port)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_page_takes_its_place_in_the_browser(waiting: Waiting) -> None:
    pytest.importorskip("gradio")
    sync_api = pytest.importorskip("playwright.sync_api")
    from dinoscope.demo.serving import page_served

    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with contextlib.ExitStack() as stack:
        playwright = stack.enter_context(sync_api.sync_playwright())
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments, timeout=1000 * PATIENCE)
        page = browser.new_page()
        page.goto(waiting.address)
        waiting.show("waiting_page", models="first")
        page.get_by_text("The models are there: first").wait_for(timeout=1000 * PATIENCE)
        models = [named("vit_micro_conv8", "first")]
        stack.enter_context(page_served(models, port=waiting.port, before=waiting.close))
        page.locator("#page-title").wait_for(timeout=1000 * PATIENCE)
        browser.close()
