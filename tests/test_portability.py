"""What Windows lacks: every module is imported without it, and what depends on it has another way."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dinoscope import checkpoint
from dinoscope.cli import worker
from dinoscope.files import write_text
from dinoscope.study.run import WorkerProcess
from tests.plain_process import PlainProcess
from tests.study.test_worker import script, settings

IMPORT_ALL = """
import builtins, importlib, os, pkgutil, signal, sys
import dinoscope

def names():
    found = [module.name for module in pkgutil.walk_packages(dinoscope.__path__, "dinoscope.")]
    return [name for name in found if not name.startswith(left_out)]

def answer(question):
    global left_out
    left_out = tuple(question["left_out"])
    for name in names():  # what they need of others is there before anything is taken away
        importlib.import_module(name)
    ours = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "dinoscope"}
    absent = {(module, name): getattr(module, name) for module, name in
              [(os, each) for each in question["os"]] + [(signal, each) for each in question["signal"]]}
    platform, load, failed = sys.platform, builtins.__import__, []

    def without(name, globals=None, *rest):
        if name in question["modules"] and (globals or {}).get("__name__", "").startswith("dinoscope"):
            raise ImportError(f"no module named {name}")
        return load(name, globals, *rest)

    try:
        for module, name in absent:
            delattr(module, name)
        sys.platform, builtins.__import__ = "win32", without
        for name in names():
            try:
                importlib.import_module(name)
            except Exception as error:
                failed.append(f"{name}: {error!r}")
    finally:
        sys.platform, builtins.__import__ = platform, load
        for (module, name), value in absent.items():
            setattr(module, name, value)
        for name in [name for name in sys.modules if name.split(".")[0] == "dinoscope"]:
            del sys.modules[name]
        sys.modules.update(ours)
    return failed
"""

ABSENT = {
    "modules": ["fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"],
    "os": ["fork", "geteuid", "getuid", "killpg", "mkfifo", "setsid", "sync", "sysconf", "uname"],
    "signal": ["SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2"],
}


@pytest.mark.skipif(sys.platform == "win32", reason="nothing need be taken away")
@pytest.mark.parametrize("left_out", [["dinoscope.demo"], pytest.param([], marks=pytest.mark.slow)])
def test_every_module_is_imported_without_what_windows_lacks(
    left_out: list[str], plain_process: PlainProcess, tmp_path: Path
) -> None:
    question = {**ABSENT, "left_out": ["dinoscope.__main__", *left_out]}
    assert plain_process.ask(IMPORT_ALL, question, tmp_path) == []


def test_a_folder_that_cannot_be_opened_does_not_stop_a_checkpoint(tmp_path: Path, monkeypatch) -> None:
    opened = os.open

    def windows(path: Path, flags: int, *rest: int) -> int:
        if Path(path).is_dir() or not flags & (os.O_RDWR | os.O_WRONLY):
            raise PermissionError(13, "Permission denied")
        return opened(path, flags, *rest)

    monkeypatch.setattr(os, "open", windows)
    monkeypatch.setattr(sys, "platform", "win32")
    write_text(tmp_path / "a.json", "{}")
    assert (tmp_path / "a.json").read_text() == "{}"


def test_a_checkpoint_that_somebody_reads_is_pruned_later(tmp_path: Path, monkeypatch) -> None:
    for step in (1, 2, 3):
        checkpoint.step_path(tmp_path, step).touch()
    with monkeypatch.context() as patches:
        patches.setattr(Path, "unlink", lambda path: (_ for _ in ()).throw(PermissionError(13, "in use")))
        checkpoint.prune(tmp_path, keep=1)
    assert len(list(tmp_path.iterdir())) == 3
    checkpoint.prune(tmp_path, keep=1)
    assert list(tmp_path.iterdir()) == [checkpoint.step_path(tmp_path, 3)]


@pytest.fixture
def stops() -> Iterator[list[int]]:
    """SIGTERMs that this process got."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    yield received
    signal.signal(signal.SIGTERM, before)


def test_where_to_terminate_is_to_kill_a_worker_is_asked_through_its_standard_input(
    tmp_path: Path, monkeypatch, stops: list[int]
) -> None:
    asked = WorkerProcess(script("import sys; sys.stdin.read(); sys.exit(130)"), settings(tmp_path, tmp_path / "a"), {})
    monkeypatch.setattr(sys, "platform", "win32")
    asked.stop()
    assert asked.process.wait(timeout=60) == 130

    monkeypatch.setattr(os, "read", lambda descriptor, size: b"")
    monkeypatch.setattr(os, "kill", None)
    worker._stop_with_stdin()
    assert stops == [signal.SIGTERM]
