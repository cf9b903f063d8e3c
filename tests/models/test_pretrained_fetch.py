"""Fetching released weights: from a server on this machine that can cut, change and refuse."""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from dinoscope.errors import UserError
from dinoscope.models.backbone import BACKBONES
from dinoscope.models.pretrained import CATALOGUE, Release, fetch, is_cached
from dinoscope.models.pretrained.released import TRIES, cached_file

BYTES = bytes(range(256)) * 8192  # 2 MB


@dataclass
class Site:
    """What the server has and how it behaves.

    cut: bytes after which each answer ends. span, length: what Content-Range and Content-Length say instead of the
    truth. seen: ranges asked for.
    """

    content: bytes = BYTES
    tag: str = '"one"'
    cut: int | None = None
    status: int = 200
    location: str = ""
    span: str | None = None
    length: str = ""
    address: str = ""
    seen: list[str | None] = field(default_factory=list)

    def release(self, digest: str = "") -> Release:
        return Release("resnet18", "DINO", "", "", f"{self.address}/weights.pth", "", digest=digest, hub="timm/x")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "*")
    state = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers["Range"]
            state.seen.append(asked)
            if state.status != 200:
                self.send_response(state.status)
                if state.location:
                    self.send_header("Location", state.location)
                self.end_headers()
                return
            begin = 0
            if asked and self.headers["If-Range"] == state.tag:
                begin = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])  # pyright: ignore
                if begin >= len(state.content):
                    self.send_error(416)
                    return
            self.send_response(206 if begin else 200)
            if begin:
                truth = f"bytes {begin}-{len(state.content) - 1}/{len(state.content)}"
                self.send_header("Content-Range", truth if state.span is None else state.span)
            self.send_header("Content-Length", state.length or str(len(state.content) - begin))
            if state.tag:
                self.send_header("ETag", state.tag)
            self.end_headers()
            self.wfile.write(state.content[begin:][: state.cut])

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.address = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()


def leftovers(release: Release) -> list[str]:
    return sorted(path.name for path in cached_file(release).parent.iterdir() if not path.name.startswith("."))


def test_a_file_is_fetched_once_with_progress(site: Site) -> None:
    release, heard = site.release("sha256:" + hashlib.sha256(BYTES).hexdigest()[:8]), list[tuple[int, int]]()
    assert not is_cached(release)
    file = fetch("x", release, lambda done, total: heard.append((done, total)))
    assert file.read_bytes() == BYTES
    assert heard[-1] == (2, 2)
    assert leftovers(release) == ["weights.pth", "weights.pth.sha256"]
    assert fetch("x", release) == file
    assert len(site.seen) == 1
    assert is_cached(release)


def test_a_cut_connection_is_taken_up_again(site: Site) -> None:
    site.cut = 800_000
    assert fetch("x", site.release()).read_bytes() == BYTES
    assert site.seen == [None, "bytes=800000-", "bytes=1600000-"]


def test_what_has_come_is_kept_for_the_next_try(site: Site) -> None:
    site.cut = 400_000
    release = site.release()
    with pytest.raises(UserError, match=r"x is not here, and the connection was lost after 2 of 2 MB; 2 MB are kept"):
        fetch("x", release)
    assert len(site.seen) == TRIES
    assert leftovers(release) == ["weights.pth.partial", "weights.pth.partial.etag"]
    site.cut = None
    assert fetch("x", release).read_bytes() == BYTES
    assert site.seen[-1] == "bytes=1600000-"


def test_halves_of_two_versions_are_never_joined(site: Site) -> None:
    site.cut = 400_000
    release = site.release()
    with pytest.raises(UserError):
        fetch("x", release)
    site.content, site.tag, site.cut = BYTES[::-1], '"two"', None
    assert fetch("x", release).read_bytes() == BYTES[::-1]


def test_without_a_mark_of_the_version_it_starts_anew(site: Site) -> None:
    site.cut, site.tag = 400_000, ""
    release = site.release()
    with pytest.raises(UserError, match="was lost"):
        fetch("x", release)
    assert site.seen == [None] * TRIES


def test_a_part_that_is_too_long_is_thrown_away(site: Site) -> None:
    release = site.release()
    partial = cached_file(release).with_name("weights.pth.partial")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(BYTES + b"more")
    partial.with_name("weights.pth.partial.etag").write_text(site.tag)
    assert fetch("x", release).read_bytes() == BYTES


def test_a_web_page_is_not_put_in_the_place_of_weights(site: Site) -> None:
    """As the page of a login or a proxy, which answers with 200."""
    site.content = b"<!DOCTYPE html><html>please log in</html>"
    with pytest.raises(
        UserError, match=r"x is not here, and what came is no file of weights: it is a web page.*Put the"
    ):
        fetch("x", site.release())
    assert leftovers(site.release()) == []


@pytest.mark.parametrize("digest", ["sha256:00000000", "md5:00000000"])
def test_another_file_than_promised_is_not_kept(digest: str, site: Site) -> None:
    release = site.release(digest)
    with pytest.raises(UserError, match=f"another file than its name promises: its digest is not {digest}"):
        fetch("x", release)
    assert leftovers(release) == []
    cached_file(release).write_bytes(b"put there by hand")
    with pytest.raises(UserError, match="is not the file it should be"):
        fetch("x", release)


def test_the_first_download_s_digest_is_kept_and_compared(site: Site) -> None:
    release = site.release()
    file = fetch("x", release)
    record = file.with_name("weights.pth.sha256")
    assert record.read_text() == hashlib.sha256(BYTES).hexdigest() + "\n"
    file.write_bytes(BYTES[:-1] + b"!")
    with pytest.raises(UserError, match=r"weights.pth is not the file it was: its SHA-256 is .*if the change is meant"):
        fetch("x", release)
    file.unlink()
    site.content = BYTES[::-1]
    with pytest.raises(UserError, match=r"gave another file than the first time.*delete weights.pth.sha256"):
        fetch("x", release)
    assert leftovers(release) == ["weights.pth.sha256"]
    record.unlink()
    assert fetch("x", release).read_bytes() == BYTES[::-1]
    record.write_bytes(b"\xff\x00")
    with pytest.raises(UserError, match="is not the file it was"):
        fetch("x", release)


def test_a_file_put_there_by_hand_is_the_first(site: Site) -> None:
    release = site.release()
    cached_file(release).parent.mkdir(parents=True)
    cached_file(release).write_bytes(b"by hand")
    assert fetch("x", release).read_bytes() == b"by hand"
    cached_file(release).write_bytes(b"by foot")
    with pytest.raises(UserError, match="is not the file it was"):
        fetch("x", release)


@pytest.mark.parametrize(
    "span", ["", "bytes", "bytes 0-{end}/{size}", "bytes 800001-{end}/{size}", "bytes 800000-{end}/*", "bytes 9-1/5"]
)
def test_another_part_than_was_asked_for_is_never_joined(span: str, site: Site) -> None:
    """A proxy may answer 206 with a part of its own choice."""
    site.cut, site.span = 800_000, span.format(end=len(BYTES) - 1, size=len(BYTES))
    release = site.release()
    with pytest.raises(UserError, match=r"another part of the file \(Content-Range: '"):
        fetch("x", release)
    assert site.seen == [None, "bytes=800000-"] * (TRIES // 2)
    site.cut = None
    assert fetch("x", release).read_bytes() == BYTES


@pytest.mark.parametrize("length", ["many", "-5", "1e6", "9" * 5000])
def test_a_damaged_length_is_one_line(length: str, site: Site) -> None:
    site.length = length
    with pytest.raises(UserError, match=r"x is not here, and it cannot be fetched: .*Content-Length") as refusal:
        fetch("x", site.release())
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("mark", [b"\xff\xfe", b'"a"\r\nX-Evil: 1', b"two\nlines", '"\u2028"'.encode(), b'W/"weak"'])
def test_a_damaged_mark_of_the_version_starts_anew(mark: bytes, site: Site, caplog: pytest.LogCaptureFixture) -> None:
    release = site.release()
    partial = cached_file(release).with_name("weights.pth.partial")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * 1000)
    partial.with_name("weights.pth.partial.etag").write_bytes(mark)
    assert fetch("x", release).read_bytes() == BYTES
    assert site.seen == [None]
    assert "weights.pth.partial.etag is damaged: the download starts again" in caplog.text


def test_an_address_that_cannot_be_taken_apart_is_one_line(site: Site) -> None:
    site.status, site.location = 302, "https://[::1/weights.pth"
    with pytest.raises(UserError, match="it cannot be fetched"):
        fetch("x", site.release())


def test_offline_and_refusals_say_where_to_put_the_file(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    release = site.release()
    monkeypatch.setenv("DINOSCOPE_OFFLINE", "1")
    with pytest.raises(UserError, match="fetching is switched off") as refusal:
        fetch("x", release)
    assert str(cached_file(release)) in str(refusal.value)
    assert release.url in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not site.seen
    monkeypatch.setenv("DINOSCOPE_OFFLINE", "0")
    site.status = 404
    with pytest.raises(UserError, match="it cannot be fetched: HTTP Error 404"):
        fetch("x", release)
    with pytest.raises(UserError, match=r"it cannot be fetched:.*refused"):
        fetch("x", replace(release, url="http://127.0.0.1:9/weights.pth"))
    cached_file(release).write_bytes(b"by hand")
    monkeypatch.setenv("DINOSCOPE_OFFLINE", "1")
    assert fetch("x", release).read_bytes() == b"by hand"


def test_only_https_is_fetched_also_after_a_redirect(site: Site) -> None:
    with pytest.raises(UserError, match="only https is"):
        fetch("x", replace(site.release(), url="http://example.org/weights.pth"))
    site.status, site.location = 302, "http://example.org/weights.pth"
    with pytest.raises(UserError, match=r"http://example.org/weights.pth is not fetched"):
        fetch("x", site.release())


def test_a_folder_that_cannot_be_written(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DINOSCOPE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="could not be written"):
        fetch("x", site.release())


# The catalogue


def test_every_entry_can_be_built_and_fetched() -> None:
    for name, release in CATALOGUE.items():
        assert release.architecture in BACKBONES, name
        assert release.url.startswith("https://"), name
        assert release.licence, name
        assert release.data, name
        figures = [figure for figure in (release.knn, release.linear, release.own) if figure is not None]
        assert figures, name
        assert all(50 < figure < 100 for figure in figures), name
        assert (release.own is not None) == (release.method == "supervised"), name
    files = [release.file for release in CATALOGUE.values()]
    assert len(set(files)) == len(files)


def test_digests_are_those_in_the_file_names() -> None:
    for name, release in CATALOGUE.items():
        in_name = re.search(r"-([0-9a-f]{8})\.pth$", release.file)
        if in_name:
            assert release.digest == f"sha256:{in_name[1]}", name
