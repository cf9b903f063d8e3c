"""Read the files of strangers in processes of their own, with a deadline, so that no file can block the page."""

from __future__ import annotations

import multiprocessing
import queue
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from dinoscope.demo.pictures import Refused

T = TypeVar("T")

Apart = Callable[..., Any]
"""Called as `apart(function, *arguments, deadlines=1)`; returns what the function returns."""


def in_this_process(function: Callable[..., T], *arguments: Any, deadlines: int = 1) -> T:
    """Call a function right here, without a deadline."""
    del deadlines
    return function(*arguments)


_START_SECONDS = 120.0
"""For a process to import what it needs, on a machine that is busy."""


class DecodingProcesses:
    """A few processes that run functions for the page; one that takes too long is killed and replaced.

    Processes start when they are first needed. Safe to call from several threads.

    Args:
        count: Files that are read at the same time. More wait, up to two deadlines.
        seconds: Deadline for one file.
    """

    def __init__(self, count: int, seconds: float) -> None:
        self.seconds = seconds
        self._idle: queue.LifoQueue[_Process | None] = queue.LifoQueue()
        for _ in range(count):
            self._idle.put(None)
        self._count = count

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
            return process.ask(function, arguments, deadlines * self.seconds)
        finally:
            self._idle.put(process if process is not None and process.alive else None)

    def close(self) -> None:
        """End all processes; those that still read a file are killed."""
        for _ in range(self._count):
            process = self._idle.get()
            if process is not None:
                process.end()


class _Process:
    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # fork would copy locks that other threads hold
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self.alive = True
        self._receive(_START_SECONDS)

    def ask(self, function: Callable[..., T], arguments: tuple[Any, ...], seconds: float) -> T:
        try:
            self._ours.send((function, arguments))
        except OSError:  # it died between two files
            self.end()
            raise Refused("picture_damaged") from None
        result, error = self._receive(seconds)
        if error is not None:
            raise error
        return result

    def _receive(self, seconds: float) -> tuple[Any, Exception | None]:
        try:
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


def _serve(connection: Connection) -> None:
    """Answer until the page is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the page ends its processes
    connection.send((None, None))
    while True:
        try:
            function, arguments = connection.recv()
        except (EOFError, OSError):
            return
        try:
            answer = function(*arguments), None
        except Exception as error:
            answer = None, error
        connection.send(answer)
