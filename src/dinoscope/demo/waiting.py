"""A server at the page's address until the page is ready: it reports what is being prepared, and then closes.

It needs the standard library alone, so that it listens before torch and Gradio are imported.
"""

from __future__ import annotations

import contextlib
import html
import importlib.util
import socket
import string
import sys
import threading
import tomllib
import webbrowser
from collections.abc import Iterator
from contextvars import ContextVar
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from dinoscope.demo.languages import LANGUAGES, data_file, preferred
from dinoscope.errors import UserError

if TYPE_CHECKING:
    from dinoscope.cli.options import Given

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PORTS = range(7860, 7960)
"""Tried in turn without --port: the same as Gradio's."""
STATE = "/dinoscope-state"
"""Path of the state as text. The page itself has no such path."""

_HEADERS = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_WAITING: ContextVar[Waiting] = ContextVar("waiting")


class Waiting:
    """A server that shows what is being prepared, in the browser's language, until `close`.

    language: forced, or "auto". Raises UserError as `check_port` does, or if no port of `PORTS` is free.
    """

    def __init__(self, host: str, port: int | None, language: str = "auto") -> None:
        check_port(host, port)
        texts = {each: tomllib.loads(data_file(f"{each}.toml")) for each in LANGUAGES}
        self._texts = {each: texts[each if language == "auto" else language] for each in texts}
        self._state: tuple[str, dict[str, str]] = "waiting_libraries", {}
        self._server = self._bound(host, port)
        self.host, self.port = host, int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """The address to open."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/"

    def show(self, key: str, **values: str) -> None:
        """Show another state. key: of a text of the page. values: for its placeholders."""
        self._state = key, values

    def close(self) -> None:
        """Stop listening. May be called again."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def _bound(self, host: str, port: int | None) -> ThreadingHTTPServer:
        waiting = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = host_name(self.headers.get("Host", ""))
                if host in LOOPBACK and name not in LOOPBACK:  # another site's name for this machine (DNS rebinding)
                    self.send_error(403)
                    return
                kind, text = waiting.answer(self.path, self.headers.get("Accept-Language", ""))
                self.send_response(200)
                for header, value in {**_HEADERS, "Content-Type": f"{kind}; charset=utf-8"}.items():
                    self.send_header(header, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:  # the terminal belongs to the command
                pass

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        for candidate in PORTS if port is None else [port]:
            with contextlib.suppress(OSError):
                return Server((host, candidate), Handler)
        raise UserError(f"no port from {PORTS[0]} to {PORTS[-1]} is free on {host}: give one with --port")

    def answer(self, path: str, accepted: str) -> tuple[str, str]:
        """Return the content type and the text at a path. accepted: an Accept-Language header."""
        language = preferred(accepted)
        texts, (key, values) = self._texts[language], self._state
        state = texts[key].format(**values)
        if path == STATE:
            return "text/plain", state
        shown = {name: html.escape(texts[name]) for name in ("waiting_title", "waiting_ended")}
        page = string.Template(data_file("waiting.html"))
        return "text/html", page.substitute(shown, language=language, state=html.escape(state), path=STATE)


def host_name(header: str) -> str:
    """Return the name in a Host header, without its port and brackets."""
    return header.partition("]")[0].lstrip("[") if header.startswith("[") else header.partition(":")[0]


@contextlib.contextmanager
def begin(given: Given) -> Iterator[None]:
    """Listen, print where, and open the browser, before the command `demo` is imported; stop listening at the end.

    Raises UserError if Gradio is missing, and as `Waiting` does.
    """
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the page needs Gradio: pip install 'dinoscope[demo]'")
    port = given.word("port")
    waiting = Waiting(
        given.word("host") or LOOPBACK[0], None if port is None else int(port), given.word("language") or "auto"
    )
    token = _WAITING.set(waiting)
    try:
        sys.stdout.write(f"{waiting.address}   (being prepared; Ctrl-C ends it)\n")
        sys.stdout.flush()  # also into a pipe
        if not any(option.name == "no-browser" for option, _, _ in given.entries):
            webbrowser.open(waiting.address)
        yield
    finally:
        waiting.close()
        _WAITING.reset(token)


def waiting_page() -> Waiting:
    """Return the server that `begin` made. Raises LookupError outside of it."""
    return _WAITING.get()


def check_port(host: str, port: int | None) -> None:
    """Raise UserError if `host` is not an address of this machine, or the port is taken. None: any port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was left just now is free
        try:
            trial.bind((host, port or 0))
        except socket.gaierror as error:
            raise UserError(f"--host {host} is not an address of this machine: {error.strerror}") from error
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            if port is None:
                raise UserError(f"--host {host} cannot be used: {reason}") from error
            raise UserError(
                f"--port {port} cannot be used on {host}: {reason}; leave --port out for the next free one"
            ) from error
