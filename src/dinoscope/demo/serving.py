"""Serving the page: on this machine alone, behind a guard, with a folder of its own that is gone afterwards.

Nothing here needs Gradio until the page is built, nor a network until it is served.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import queue
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from filelock import FileLock

from dinoscope.demo.pictures import MB, SAMPLES, Limits, Refused, find_samples
from dinoscope.demo.waiting import LOOPBACK
from dinoscope.errors import UserError
from dinoscope.files import environment
from dinoscope.scenes import ScenesConfig, write_scenes

if TYPE_CHECKING:
    from dinoscope.demo.languages import Language
    from dinoscope.evaluation.evidence import Verdict
    from dinoscope.model_names import Model

T = TypeVar("T")

_DECODING = 2  # files that are read at the same time
_START_SECONDS = 120.0  # for a process to import what it needs, on a machine that is busy
_DRAWN = ScenesConfig(train_per_class=0, val_per_class=0, voc_images=SAMPLES, davis_sequences=0, davis_frames=0)


@contextlib.contextmanager
def page_served(
    models: Sequence[Model],
    data: Path | None = None,
    masks: Path | None = None,
    host: str = LOOPBACK[0],
    port: int | None = None,
    language: Language | None = None,
    limits: Limits | None = None,
    results: Mapping[str, Verdict] | None = None,
    runs: Sequence[Path] = (),
    before: Callable[[], None] = lambda: None,
) -> Iterator[str]:
    """Serve the page while the context lasts, and give its address.

    Args:
        models: To choose from; the first two are shown at first.
        data: Folder of images to offer as samples, and to search for neighbours; None: drawn scenes.
        masks: Masks of the images in `data`.
        host: Address to listen on.
        port: To listen on; None is the first free one from 7860 on.
        language: Language of the page; None is the browser's.
        limits: None takes the usual ones.
        results: Stored verdicts to show, by name.
        runs: Run folders, and folders of them, to show the training of.
        before: Called when all is ready, just before the port is used.

    Raises UserError if the port is taken, or the samples cannot be read.
    """
    limits = limits or Limits()
    with own_folder() as folder, contextlib.closing(DecodingProcesses(_DECODING, limits.decode_seconds)) as decoding:
        # only now: Gradio reads its switches, which the folder has set, when it is imported
        from dinoscope.demo import page
        from dinoscope.demo.engine import Engine
        from dinoscope.demo.site import Site, Words

        uploads = folder / "gradio"
        (uploads / "made").mkdir(parents=True)
        if data is None:
            drawn = write_scenes(folder / "drawn", _DRAWN) / "VOCdevkit"
            samples = find_samples(drawn / "VOC2012" / "JPEGImages", drawn, limits)
        else:
            samples = find_samples(data, masks, limits)
        site = Site(Engine(models, limits, decoding.run), Words(language), samples, uploads / "made")
        demo = page.build_page(site, data, results, runs)
        try:
            before()
            guard = _middleware(host, uploads, int(limits.uploads_mb * MB))
            address = page.launch(demo, site, host, port, guard)
        except OSError as error:
            raise UserError(f"no port can be used on {host}: {error}") from error
        try:
            yield address
        finally:
            demo.close(verbose=False)


def wait_for_the_end() -> None:
    """Wait until Ctrl-C or SIGTERM."""
    ended = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with contextlib.suppress(KeyboardInterrupt):
        while not ended.wait(0.5):
            pass
    signal.signal(signal.SIGTERM, before)


# Guard: what the server refuses and adds, around Gradio.

_FILES = ("/file=", "/file/", "/stream/", "/proxy=")  # paths under which Gradio serves files
_SMALLEST_FILE = 4096  # bytes that a file takes on most disks, however small it is

_SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; media-src 'self'"
"""A file that is opened by itself runs no script, belongs to no origin and fetches nothing."""

_PAGE = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
"""The page requests from its own server alone, whatever text ends up in it. Gradio's scripts are inline."""


def _middleware(host: str, uploads: Path, max_bytes: int) -> list[Any]:
    """The guard; and if only this machine may reach the page, a check that it is called by its own name.

    Otherwise any site that a person has open could give its name this machine's address (DNS rebinding) and read it.
    """
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    guard = Middleware(Guard, folder=uploads, max_bytes=max_bytes)
    if host not in LOOPBACK:
        return [guard]
    # only some versions of Starlette separate "[::1]" from its port; all others see "["
    return [Middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, "[::1]", "["], www_redirect=False), guard]


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
        from starlette.datastructures import Headers
        from starlette.responses import PlainTextResponse

        headers, path = Headers(scope=scope), scope["path"].lower()
        changes = scope["method"] not in ("GET", "HEAD", "OPTIONS")
        size, refusal = 0, None
        if changes and _is_foreign(headers):
            refusal = 403, "Requests from the pages of other sites are refused."
        elif "/proxy=" in path or "/file=http:" in path or "/file=https:" in path:
            refusal = 403, "This page fetches nothing from the net."
        elif changes and path.endswith("/upload"):
            length = headers.get("content-length", "")
            if not length.isdigit():
                refusal = 411, "An upload must say its length."
            else:
                size = max(int(length), _SMALLEST_FILE)
        with self._lock:
            if size and _bytes_in(self.folder) + self._coming + size > self.max_bytes:
                size, refusal = 0, (413, "The page holds as many uploads as it may. Try again in an hour.")
            self._coming += size
        try:
            if refusal is None:
                await self.app(scope, receive, _with_headers(send, is_file=any(part in path for part in _FILES)))
            else:
                status, reason = refusal
                response = PlainTextResponse(reason, status, {"x-content-type-options": "nosniff"})
                await response(scope, receive, send)
        finally:
            with self._lock:
                self._coming -= size


def _is_foreign(headers: Mapping[str, str]) -> bool:
    """Whether a browser reports that the request comes from the page of another site."""
    if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        return True
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower()


def _bytes_in(folder: Path) -> int:
    sizes: dict[tuple[int, int], int] = {}  # by inode, since clips are linked
    for parent, folders, files in os.walk(folder):  # passes over folders that are removed meanwhile
        for name in (*folders, *files):
            with contextlib.suppress(OSError):  # removed meanwhile
                stat = Path(parent, name).stat()
                sizes[stat.st_dev, stat.st_ino] = max(stat.st_size, _SMALLEST_FILE)
    return sum(sizes.values())


def _with_headers(send: Any, *, is_file: bool) -> Any:
    from starlette.datastructures import MutableHeaders

    async def send_guarded(message: Any) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message.get("headers", [])))
            headers["x-content-type-options"] = "nosniff"
            if is_file:
                headers.append("content-security-policy", _SANDBOX)
            elif headers.get("content-type", "").startswith("text/html"):
                headers.append("content-security-policy", _PAGE)
            message = {**message, "headers": headers.raw}
        await send(message)

    return send_guarded


class DecodingProcesses:
    """A few processes that read the files of strangers; one that takes too long is killed and replaced.

    So no file can block the page. Processes start when they are first needed. Safe to call from several threads.

    Args:
        count: Files that are read at the same time. More wait, up to two deadlines.
        seconds: Deadline for one file.
    """

    def __init__(self, count: int, seconds: float) -> None:
        self.count, self.seconds = count, seconds
        self._idle: queue.LifoQueue[_Process | None] = queue.LifoQueue()
        for _ in range(count):
            self._idle.put(None)

    def run(self, function: Callable[..., T], *arguments: Any, deadlines: int = 1) -> T:
        """Return `function(*arguments)`; function, arguments and result must be picklable.

        Raises what the function raises, and Refused if it takes longer than `deadlines` times the deadline, if its
        process dies, or if no process became free.
        """
        try:
            process = self._idle.get(timeout=2 * self.seconds)
        except queue.Empty:
            raise Refused("page_busy") from None
        try:
            process = process or _Process()
            result, error = process.ask((function, arguments), deadlines * self.seconds)
        finally:
            self._idle.put(process if process is not None and process.alive else None)
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """End all processes; those that still read a file are killed."""
        for _ in range(self.count):
            process = self._idle.get()
            if process is not None:
                process.end()


class _Process:
    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # fork would copy locks that other threads hold
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_answer_calls, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self.alive = True
        self.ask((int, ()), _START_SECONDS)

    def ask(self, call: tuple[Callable[..., Any], tuple[Any, ...]], seconds: float) -> tuple[Any, Exception | None]:
        """Return a call's result, or the error that it raised."""
        try:
            self._ours.send(call)
            if self._ours.poll(seconds):
                return self._ours.recv()
        except (EOFError, OSError):  # killed, for memory perhaps, or crashed in a library
            self.end()
            raise Refused("picture_damaged") from None
        self.end()
        raise Refused("picture_slow", seconds=f"{seconds:g}")

    def end(self) -> None:
        self.alive = False
        self._ours.close()
        self._process.kill()
        self._process.join(5)


def _answer_calls(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the page ends its processes
    with contextlib.suppress(EOFError, OSError):  # the page has ended
        while True:
            function, arguments = connection.recv()
            try:
                answer = function(*arguments), None
            except Exception as error:
                answer = None, error
            connection.send(answer)


# The page's one temporary folder: removed when it ends, and by the next page if its own could not (kill -9).

_PREFIX = "dinoscope-demo-"
_LOCK = "in-use"
_NEW = 60.0  # seconds; a folder younger than that may not be locked yet
_PATIENCE = 5.0  # seconds


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """Give a folder for all that the page writes, uploads too; removed at the end. Gradio's switches are set meanwhile.

    What pages that were killed have left is removed first.
    """
    for file in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        with contextlib.suppress(OSError):  # in use, or gone meanwhile
            stat = file.parent.lstat()
            is_ours = not hasattr(os, "getuid") or stat.st_uid == os.getuid()  # on Windows the folder is a person's own
            if is_ours and time.time() - stat.st_ctime >= _NEW:
                with _lock(file).acquire(blocking=False):  # its process is gone: the system has released the lock
                    shutil.rmtree(file.parent, ignore_errors=True)
                shutil.rmtree(file.parent, ignore_errors=True)  # on Windows, a file that is open stays
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    switches = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    switches["GRADIO_TEMP_DIR"] = str(folder / "gradio")
    try:
        with environment(switches), contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # a file system without locks
                stack.enter_context(_lock(folder / _LOCK))
            yield folder
    finally:
        # work that was under way may still write into it for a moment
        deadline = time.monotonic() + _PATIENCE
        shutil.rmtree(folder, ignore_errors=True)
        while folder.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
            shutil.rmtree(folder, ignore_errors=True)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)  # work that takes longer ends with its threads


def _lock(file: Path) -> FileLock:
    """Not `files.locked`: without the lock, nothing may be removed."""
    return FileLock(file, fallback_to_soft=False, preserve_lock_file=True)
