"""Serving the page: a folder of its own that is gone afterwards, a free port, and nothing that leaves the machine."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoscope.demo.decoding import DecodingProcesses
from dinoscope.demo.guard import Guard
from dinoscope.demo.limits import Limits
from dinoscope.demo.own_folder import own_folder
from dinoscope.errors import UserError
from dinoscope.model_names import Model

if TYPE_CHECKING:
    from dinoscope.demo.words import Language

PORT = 7860
_TRIED = 100
_DECODING = 2  # files that are read at the same time
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Serving:
    """What is served and where.

    data, masks: folder of images to offer as samples, and of their masks; None: drawn scenes.
    port: None is the first free one from `PORT` on. language: None is the browser's.
    """

    models: Sequence[Model]
    data: Path | None = None
    masks: Path | None = None
    host: str = LOOPBACK[0]
    port: int | None = None
    language: Language | None = None
    limits: Limits = field(default_factory=Limits)


@contextlib.contextmanager
def page_served(serving: Serving) -> Iterator[str]:
    """Serve the page while the context lasts, and give its address.

    Raises UserError where Gradio is missing, the port is taken, or the samples cannot be read.
    """
    seconds = serving.limits.decode_seconds
    with own_folder() as folder, contextlib.closing(DecodingProcesses(_DECODING, seconds)) as decoding:
        demo, words = _build(serving, folder, decoding)
        address = _launched(demo, words, serving, folder)
        try:
            yield address
        finally:
            demo.close(verbose=False)


def _launched(demo: Any, words: Any, serving: Serving, folder: Path) -> str:
    """Begin to listen, and give the address. The port is chosen now, for others may have begun while ours was built.

    Raises UserError as `free_port` does.
    """
    from dinoscope.demo.appearance import CSS, head, theme

    for port in _free_ports(serving.host, serving.port):
        try:
            _, address, _ = demo.queue(max_size=serving.limits.queue).launch(
                server_name=serving.host,
                server_port=port,
                prevent_thread_lock=True,
                share=False,
                quiet=True,
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                ssr_mode=False,
                max_file_size=max(serving.limits.upload_bytes, serving.limits.video_bytes),
                app_kwargs={"middleware": _middleware(serving, folder / "gradio")},
                theme=theme(),
                css=CSS,
                head=head(serving.language),
                i18n=words.translations(),
            )
        except OSError:  # somebody took it between the two lines
            continue
        return address
    raise AssertionError("the ports end with an error of their own")


def wait_for_the_end() -> None:
    """Wait until Ctrl-C or SIGTERM."""
    ended = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        while not ended.wait(0.5):
            pass
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


def free_port(host: str, port: int | None) -> int:
    """The port, or the first free one from `PORT` on. Raises UserError where the port is taken, or the host is none."""
    return next(_free_ports(host, port))


def _free_ports(host: str, port: int | None) -> Iterator[int]:
    """The port, or each free one from `PORT` on. Raises UserError, as `free_port` does, where there are no more."""
    wanted = range(PORT, PORT + _TRIED) if port is None else [port]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    reason = ""
    for each in wanted:
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was left just now is free
            try:
                trial.bind((host, each))
            except socket.gaierror as error:
                raise UserError(f"--host {host} is not an address of this machine: {error.strerror}") from error
            except (OSError, OverflowError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                continue
        yield each
        reason = "something else took it meanwhile"
    if port is None:
        raise UserError(f"no port from {PORT} to {PORT + _TRIED - 1} can be used on {host}: {reason}")
    raise UserError(f"--port {port} cannot be used on {host}: {reason}; leave --port out for the next free one")


def _middleware(serving: Serving, uploads: Path) -> list[Any]:
    """The guard; and if only this machine may reach the page, a check that it is called by its own name.

    Otherwise any site that a person has open could give its name this machine's address (DNS rebinding) and read it.
    """
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    guard = Middleware(Guard, folder=uploads, max_bytes=serving.limits.uploads_bytes)
    if serving.host not in LOOPBACK:
        return [guard]
    # with a port, "[::1]" is told apart from it by some versions of Starlette alone; all others see "["
    return [Middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, "[::1]", "["], www_redirect=False), guard]


def _build(serving: Serving, folder: Path, decoding: DecodingProcesses) -> tuple[Any, Any]:
    """The page and its texts."""
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError("the page needs Gradio: pip install 'dinoscope[demo]'") from error
    from dinoscope.demo.engine import Engine
    from dinoscope.demo.page import all_words, build_page
    from dinoscope.demo.samples import draw_samples, find_samples, readable
    from dinoscope.demo.site import Site

    made, drawn = folder / "gradio" / "made", folder / "drawn"
    made.mkdir(parents=True)
    drawn.mkdir()
    if serving.data is None:
        samples = draw_samples(drawn)
    else:
        samples = readable(find_samples(serving.data, serving.masks), serving.limits)
    words = all_words(serving.language)
    site = Site(Engine(serving.models, serving.limits, decoding.run), words, serving.limits, samples, made)
    return build_page(site, serving.data), words
