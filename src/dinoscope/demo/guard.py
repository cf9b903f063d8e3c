"""What the page's server refuses and adds, around Gradio: no foreign sites, no flood of uploads, no active content."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_FILES = ("/file=", "/file/", "/stream/", "/proxy=")
"""Paths under which Gradio gives out files."""

_SMALLEST_FILE = 4096
"""Bytes that a file takes on most disks, however small it is."""

_SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; media-src 'self'"
"""A file that is opened by itself runs no script, belongs to no origin and fetches nothing."""

_PAGE = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
"""The page asks its own server alone, whatever text ends up in it. Gradio's scripts are inline."""


class Guard:
    """ASGI middleware (https://asgi.readthedocs.io/en/latest/specs/www.html).

    - Requests that change something and come from another site's page get 403 (a form or script elsewhere can send
      them without reading the answer).
    - Uploads that would make all files in `folder` exceed `max_bytes` together get 413.
    - Addresses on the net are not fetched for anybody (Gradio's `file=https://...`): 403.
    - Each answer has `X-Content-Type-Options: nosniff`, and files and pages a content security policy.
    """

    def __init__(self, app: Any, folder: Path, max_bytes: int) -> None:
        self.app, self.folder, self.max_bytes = app, folder, max_bytes
        self._coming, self._lock = 0, threading.Lock()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        path, changes = scope["path"].lower(), scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if changes and _foreign(headers):
            await _refuse(send, 403, "Requests from the pages of other sites are refused.")
        elif "/proxy=" in path or "/file=http:" in path or "/file=https:" in path:
            await _refuse(send, 403, "This page fetches nothing from the net.")
        elif changes and path.endswith("/upload"):
            await self._upload(scope, receive, send, headers.get("content-length", ""))
        else:
            await self.app(scope, receive, _with_headers(send, file=any(part in path for part in _FILES)))

    async def _upload(self, scope: Any, receive: Any, send: Any, length: str) -> None:
        if not length.isdigit():
            await _refuse(send, 411, "An upload must say its length.")
            return
        size = max(int(length), _SMALLEST_FILE)
        with self._lock:
            full = _bytes_in(self.folder) + self._coming + size > self.max_bytes
            if not full:
                self._coming += size
        if full:
            await _refuse(send, 413, "The page holds as many uploads as it may. Try again in an hour.")
            return
        try:
            await self.app(scope, receive, _with_headers(send, file=False))
        finally:
            with self._lock:
                self._coming -= size


def _foreign(headers: dict[str, str]) -> bool:
    """Whether a browser says that the request comes from the page of another site."""
    if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        return True
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower()


def _bytes_in(folder: Path) -> int:
    sizes: dict[tuple[int, int], int] = {}  # by inode, since clips are linked
    for file in folder.rglob("*"):
        try:
            stat = file.stat()
        except OSError:  # removed meanwhile
            continue
        sizes[stat.st_dev, stat.st_ino] = max(stat.st_size, _SMALLEST_FILE)
    return sum(sizes.values())


def _with_headers(send: Any, *, file: bool) -> Any:
    async def send_guarded(message: Any) -> None:
        if message["type"] == "http.response.start":
            headers = [pair for pair in message.get("headers", []) if pair[0].lower() != b"x-content-type-options"]
            headers.append((b"x-content-type-options", b"nosniff"))
            kind = next((value for name, value in headers if name.lower() == b"content-type"), b"")
            if file:
                headers.append((b"content-security-policy", _SANDBOX.encode()))
            elif kind.startswith(b"text/html"):
                headers.append((b"content-security-policy", _PAGE.encode()))
            message = {**message, "headers": headers}
        await send(message)

    return send_guarded


async def _refuse(send: Any, status: int, reason: str) -> None:
    body = reason.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"x-content-type-options", b"nosniff"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
