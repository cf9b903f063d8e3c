"""The page is served on this machine alone, to several people at once, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dinoscope.cli import main
from dinoscope.demo.engine import Engine, Input
from dinoscope.demo.pictures import Limits
from dinoscope.demo.serving import page_served
from dinoscope.demo.waiting import check_port
from dinoscope.errors import UserError
from tests.demo.conftest import named

gradio = pytest.importorskip("gradio")

httpx = pytest.importorskip("httpx")

PEOPLE = 10
PATIENCE = 240  # seconds; far more than it takes, for machines that are busy


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    models = [named("vit_micro_conv8", "first"), named("vit_micro_conv8", "second", 1)]
    with page_served(models, limits=Limits(queue=2 * PEOPLE)) as address:
        yield address


class Person:
    """Somebody at the page: calls what its events call, by the queue that the browser uses."""

    def __init__(self, address: str) -> None:
        self.address, self.session = address + "gradio_api/", uuid.uuid4().hex
        self.client = httpx.Client(trust_env=False, timeout=PATIENCE)
        self.config = self.client.get(address + "config").json()
        self.messages: list[dict[str, Any]] = []
        self.joined = threading.Semaphore(0)  # released each time that this person waits in the queue

    def call(self, dependency: dict[str, Any], data: list[Any] | None = None) -> Any:
        """Join the queue with values, by default those that the components begin with, and wait for the result."""
        props = {component["id"]: component["props"] for component in self.config["components"]}
        if data is None:
            data = [props[each].get("value") for each in dependency["inputs"]]
        body = {"data": data, "fn_index": dependency["id"], "session_hash": self.session}
        self.client.post(self.address + "queue/join", json=body).raise_for_status()
        self.joined.release()
        with self.client.stream("GET", f"{self.address}queue/data?session_hash={self.session}") as stream:
            for line in stream.iter_lines():
                if not line.startswith("data:"):
                    continue
                message = json.loads(line[5:])
                self.messages.append(message)
                if message["msg"] == "process_completed":
                    assert message["success"], message
                    return message["output"]["data"]
        raise AssertionError("no result")

    def begin(self) -> list[Any]:
        """What happens when the page is opened: the first sample is picked, then drawn."""
        loads = [each for each in self.config["dependencies"] if any(event == "load" for _, event in each["targets"])]
        picks = [each for each in loads if len(each["outputs"]) == 3]
        self.call(picks[0])
        changed = [picks[0]["outputs"][0], "change"]
        draws = [
            each for each in self.config["dependencies"] if changed in each["targets"] and len(each["outputs"]) > 1
        ]
        return self.call(draws[0])


def test_ten_people_at_once_get_their_pictures(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    people, results, all_wait = [Person(address) for _ in range(PEOPLE)], list[list[Any]](), threading.Event()
    run = Engine.run

    def run_when_all_wait(engine: Engine, given: Input) -> Any:
        assert all_wait.wait(PATIENCE)
        return run(engine, given)

    monkeypatch.setattr(Engine, "run", run_when_all_wait)

    def visit(person: Person) -> None:
        results.append(person.begin())

    threads = [threading.Thread(target=visit, args=(person,)) for person in people]
    for thread in threads:
        thread.start()
    for person in people:  # twice: to pick the sample, and to have it drawn
        assert person.joined.acquire(timeout=PATIENCE)
        assert person.joined.acquire(timeout=PATIENCE)
    all_wait.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(results) == PEOPLE
    for result in results:
        values = [each.get("value") for each in result if isinstance(each, dict)]
        overlays = [value for value in values if isinstance(value, dict) and "path" in value]
        assert len(overlays) == 4  # overlay and mask of two models
        first = people[0].client.get(f"{people[0].address}file={overlays[0]['path']}")
        assert first.content.startswith(b"\x89PNG")
        assert overlays[0]["orig_name"].endswith("-mean.png")
        mask = people[0].client.get(f"{people[0].address}file={overlays[1]['path']}")
        assert mask.content.startswith(b"\xff\xd8\xff")
    waiting = [message for person in people for message in person.messages if message["msg"] == "estimation"]
    assert max(message["rank"] for message in waiting) > 0  # told how many are before them


def test_files_of_the_machine_are_not_served(address: str) -> None:
    for path in ("/etc/passwd", str(Path(__file__).resolve())):
        response = httpx.get(f"{address}gradio_api/file={path}", trust_env=False, timeout=PATIENCE)
        assert response.status_code in (403, 404)


def test_names_of_other_sites_are_not_answered_to(address: str) -> None:
    for host, status in (("evil.example", 400), ("127.0.0.1:1", 200), ("localhost", 200), ("[::1]:7860", 200)):
        assert httpx.get(address, headers={"host": host}, trust_env=False, timeout=PATIENCE).status_code == status, host
    with page_served([named("vit_micro_conv8", "first")], host="0.0.0.0") as everywhere:
        port = everywhere.rstrip("/").rpartition(":")[2]
        reply = httpx.get(
            f"http://127.0.0.1:{port}/", headers={"host": "class.example"}, trust_env=False, timeout=PATIENCE
        )
        assert reply.status_code == 200


def test_uploads_above_the_limits_are_refused() -> None:
    models = [named("vit_micro_conv8", "first")]
    with page_served(models, limits=Limits(upload_mb=0.3, video_mb=0.3, uploads_mb=2)) as address:
        assert _upload(address, "large.png", b"\0" * 400_000).status_code == 413
        sent = [_upload(address, f"{number}.png", bytes([number]) * 290_000).status_code for number in range(9)]
        assert sent[0] == 200
        assert sent[-1] == 413  # each alone is below its limit
        assert sent == sorted(sent)


def test_uploads_are_no_active_content(address: str) -> None:
    for name in ("page.html", "drawing.svg", "script.js", "page.xhtml"):
        path = _upload(address, name, b"<script>alert(1)</script>").json()[0]
        reply = httpx.get(f"{address}gradio_api/file={path}", trust_env=False, timeout=PATIENCE)
        assert reply.headers["content-type"] == "application/octet-stream"
        assert reply.headers["content-disposition"].startswith("attachment")
    path = _upload(address, "picture.png", b"<script>alert(1)</script>").json()[0]
    reply = httpx.get(f"{address}gradio_api/file={path}", trust_env=False, timeout=PATIENCE)
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["content-security-policy"].startswith("sandbox; default-src 'none'")


def test_the_page_may_ask_its_own_server_alone(address: str) -> None:
    policy = httpx.get(address, trust_env=False, timeout=PATIENCE).headers["content-security-policy"]
    assert "http" not in policy
    assert policy.startswith("default-src 'self' ")


@pytest.mark.parametrize(
    "headers", [{"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}]
)
def test_uploads_and_calls_from_other_sites_are_refused(address: str, headers: dict[str, str]) -> None:
    assert _upload(address, "x.png", b"1", headers).status_code == 403
    call = httpx.post(f"{address}gradio_api/queue/join", json={}, headers=headers, trust_env=False, timeout=PATIENCE)
    assert call.status_code == 403
    assert _upload(address, "x.png", b"1", {"origin": address.rstrip("/")}).status_code == 200


def test_nothing_is_fetched_from_the_net_for_anybody(address: str) -> None:
    for what in ("file=http://203.0.113.1/x.png", "file=HTTPS://203.0.113.1/x.png", "proxy=https://x.hf.space/y"):
        assert httpx.get(f"{address}gradio_api/{what}", trust_env=False, timeout=PATIENCE).status_code == 403


def _upload(address: str, name: str, content: bytes, headers: dict[str, str] | None = None) -> Any:
    files = {"files": (name, content)}
    return httpx.post(f"{address}gradio_api/upload", files=files, headers=headers, trust_env=False, timeout=PATIENCE)


def test_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = dict(os.environ)
    with page_served([named("vit_micro_conv8", "first")]) as address:
        Person(address).begin()
        (folder,) = tmp_path.glob("dinoscope-demo-*")
        assert any(file.is_file() for file in (folder / "gradio").rglob("*"))
    assert not list(tmp_path.glob("dinoscope-demo-*"))
    assert dict(os.environ) == before


def test_a_port_that_is_taken_is_refused_or_passed_over() -> None:
    from gradio import http_server

    with socket.socket() as busy:
        busy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for port in range(http_server.INITIAL_PORT_VALUE, http_server.INITIAL_PORT_VALUE + 100):
            with contextlib.suppress(OSError):
                busy.bind(("127.0.0.1", port))
                break
        busy.listen()
        with pytest.raises(UserError, match=f"--port {port} cannot be used"):
            check_port("127.0.0.1", port)
        check_port("127.0.0.1", None)
        with page_served([named("vit_micro_conv8", "first")]) as address:
            assert int(address.rstrip("/").rpartition(":")[2]) > port
            assert httpx.get(address, trust_env=False, timeout=PATIENCE).status_code == 200
        with pytest.raises(UserError, match="no port"), page_served([named("vit_micro_conv8", "first")], port=port):
            pass
    check_port("127.0.0.1", port)


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments, expected in (
        (["--port", "99999"], "--port 99999"),
        (["--host", "nowhere.invalid"], "--host nowhere.invalid"),
        (["--masks", str(tmp_path)], "--data"),
        (["--model", str(tmp_path / "none")], "none"),
        (["--model", "random:vit_micro_conv8", "--data", str(tmp_path)], "no images"),
        (["--limits.megapixels", "0"], "megapixels"),
    ):
        assert main(["demo", "--no-browser", *arguments]) == 2
        error = capsys.readouterr().err.strip()
        assert expected in error
        assert len(error.splitlines()) == 1


def test_without_gradio_one_line_says_what_to_install() -> None:
    code = (
        "import sys, importlib.util as util; find = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'gradio' else find(name, *rest)\n"
        "from dinoscope.cli import main; sys.exit(main(['demo']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.strip() == "dinoscope demo: the page needs Gradio: pip install 'dinoscope[demo]'"
