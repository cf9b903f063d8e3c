"""The engine: many runs, some at once, each brought to its end. What is done is read from the run folders only."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from dinoscope.errors import UserError
from dinoscope.study.state import standing
from dinoscope.training.config import RunConfig

POLL_SECONDS = 0.1
"""Between looks at the processes, where nothing has happened."""

STOPPED = (130, -signal.SIGTERM)
"""Exit codes of a run that a signal stopped: after its checkpoint, or before there was anything to save."""

KILLED = 1 if sys.platform == "win32" else -signal.SIGKILL
"""Exit code of a process that `Handle.kill` ended."""


@runtime_checkable
class Handle(Protocol):
    """A run under way."""

    def poll(self) -> int | None:
        """Exit code (0: finished), or None while it runs."""
        ...

    def stop(self) -> None:
        """Ask it to write a checkpoint and end."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...

    def diagnosis(self) -> str:
        """For a person: why it failed."""
        ...


@runtime_checkable
class Runner(Protocol):
    """What starts runs: processes here, jobs of a cluster, functions in a test."""

    at_once: int
    """Most runs under way at the same time."""

    def start(self, configs: Sequence[RunConfig]) -> Sequence[Handle]:
        """Start these, at most `at_once` less those under way, each beginning or going on by itself."""
        ...


@dataclass
class RunStatus:
    """Where one run of the study stands.

    state: waiting, running, finished, failed, or stopped (by a signal, with what it did saved).
    before: whether it was finished already when the study began.
    began, ended: of time.monotonic(), while and after this study ran it.
    diagnosis: of a failure.
    """

    config: RunConfig
    state: Literal["waiting", "running", "finished", "failed", "stopped"] = "waiting"
    before: bool = False
    began: float | None = None
    ended: float | None = None
    diagnosis: str = ""

    @property
    def name(self) -> str:
        """Of the run folder."""
        return self.config.out.name

    @property
    def seconds(self) -> float | None:
        """Spent on it by this study, until now if it is under way; None where it was not started."""
        return None if self.began is None else (self.ended or time.monotonic()) - self.began


@dataclass(frozen=True)
class StudyResult:
    """Every run in the order given, and whether a signal to this process ended the study before its end."""

    runs: list[RunStatus]
    interrupted: bool

    def named(self, *states: str) -> list[RunStatus]:
        """The runs in one of these states."""
        return [run for run in self.runs if run.state in states]


Watch = Callable[[Sequence[RunStatus]], None]
"""Called at the start and after every look at the runs; it decides itself how often to show something."""


def execute(configs: Sequence[RunConfig], runner: Runner, watch: Watch = lambda _: None) -> StudyResult:
    """Bring every run to its end, at most `runner.at_once` at the same time, in the order given.

    Finished runs are left alone. A failure is noted and the others go on. SIGINT or SIGTERM stops the runs under
    way and starts no more; a second one kills them.
    Raises UserError where two runs share a folder, or a folder holds another run; nothing was started then.
    """
    runs = [RunStatus(config) for config in configs]
    _check_folders_differ(configs)
    for run in runs:
        if standing(run.config).state == "finished":
            run.state, run.before = "finished", True
    engine = _Engine(runner, runs)
    with stop_signals() as received:
        try:
            watch(runs)
            while engine.unfinished:
                engine.obey(len(received))
                changed = engine.collect() + (0 if received else engine.launch())
                watch(runs)
                if not changed:
                    time.sleep(POLL_SECONDS)
        finally:
            for handle in engine.handles.values():  # only after an exception
                handle.stop()
    return StudyResult(runs, interrupted=bool(received))


@dataclass
class _Engine:
    """Which runs wait, which are under way, and how many signals were passed on."""

    runner: Runner
    runs: list[RunStatus]
    handles: dict[int, Handle] = field(default_factory=dict)
    obeyed: int = 0

    def __post_init__(self) -> None:
        self.waiting = deque(number for number, run in enumerate(self.runs) if run.state == "waiting")

    @property
    def unfinished(self) -> bool:
        """Whether there is something to wait for."""
        return bool(self.handles) or (bool(self.waiting) and not self.obeyed)

    def launch(self) -> int:
        """Start as many as there is room for; returns how many."""
        room = min(self.runner.at_once - len(self.handles), len(self.waiting))
        if room <= 0:
            return 0
        numbers = [self.waiting.popleft() for _ in range(room)]
        handles = self.runner.start([self.runs[number].config for number in numbers])
        for number, handle in zip(numbers, handles, strict=True):
            self.handles[number] = handle
            self.runs[number].state, self.runs[number].began = "running", time.monotonic()
        return room

    def collect(self) -> int:
        """Take note of the runs that have ended; returns how many."""
        ended = [(number, code) for number, handle in self.handles.items() if (code := handle.poll()) is not None]
        for number, code in ended:
            run, handle = self.runs[number], self.handles.pop(number)
            run.ended = time.monotonic()
            if code == 0:
                run.state = "finished"
            elif code in STOPPED or (self.obeyed > 1 and code == KILLED):
                run.state = "stopped"
            else:
                run.state, run.diagnosis = "failed", handle.diagnosis() or f"exit code {code}, and it said nothing"
        return len(ended)

    def obey(self, signals: int) -> None:
        """Pass on the first signal as a request, later ones as an order."""
        if signals <= self.obeyed:
            return
        for handle in self.handles.values():
            (handle.kill if self.obeyed else handle.stop)()
        self.obeyed = signals


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; outside of the main thread they are left alone."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _check_folders_differ(configs: Sequence[RunConfig]) -> None:
    seen: set[Path] = set()
    for config in configs:
        folder = config.out.absolute()
        if folder in seen:
            raise UserError(f"two runs of the study would write to {folder}: each needs a folder of its own")
        seen.add(folder)
