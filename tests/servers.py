"""Servers on this machine, for files that are read from one."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class WebServer:
    """The files of a folder. requests: method, path, and the range that was asked for, of each request.

    ranges: whether ranges are served; else a file is sent as a whole. faults: number of requests for a range that go
    wrong from now on: "cut" closes the connection in the middle, a number is a status.
    """

    folder: Path
    address: str = ""
    ranges: bool = True
    faults: list[str | int] = field(default_factory=list)
    requests: list[tuple[str, str, tuple[int, int] | None]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def sent(self) -> int:
        """Number of bytes that were asked for."""
        return sum(end - start for _, _, span in self.requests if span for start, end in [span])


@contextlib.contextmanager
def web_server(folder: Path, ranges: bool = True) -> Iterator[WebServer]:
    serving = WebServer(folder, ranges=ranges)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            file = serving.folder / self.path.lstrip("/")
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            span = (int(asked[1]), int(asked[2]) + 1) if asked else None
            serving.requests.append((self.command, self.path, span))
            serving.headers.append(dict(self.headers))
            fault = serving.faults.pop(0) if body and span and serving.faults else None
            if isinstance(fault, int) or not file.is_file():
                self.send_error(fault if isinstance(fault, int) else 404)
                return
            content = file.read_bytes()
            part = content[slice(*span)] if span and serving.ranges else content
            self.send_response(206 if span and serving.ranges else 200)
            if span and serving.ranges:
                self.send_header("Content-Range", f"bytes {span[0]}-{span[1] - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(part)))
            self.send_header("ETag", f'"{file.stat().st_mtime_ns}"')
            self.end_headers()
            if body:
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(part[: len(part) // 2] if fault == "cut" else part)
            if fault == "cut":
                self.close_connection = True

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A client that goes away is no fault."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        serving.address = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield serving
        finally:
            server.shutdown()
            thread.join()
