"""`dinoscope.files`: one holder at a time, and none after its process is gone."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock
import pytest

from dinoscope.errors import UserError
from dinoscope.files import locked

HOLD = """
import os, sys, time
from pathlib import Path
from dinoscope.files import locked

with locked(Path(sys.argv[1]), busy=lambda: None):
    child = os.fork() if hasattr(os, "fork") else -1
    if child == 0:
        time.sleep(60)
    print(child, flush=True)
    time.sleep(60)
"""


def refuse() -> None:
    raise UserError("busy")


def from_another_thread(file: Path) -> str:
    """What taking the lock in another thread comes to."""
    outcome: list[str] = []

    def take() -> None:
        try:
            with locked(file, refuse):
                outcome.append("taken")
        except UserError as error:
            outcome.append(str(error))

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return outcome[0]


def test_its_thread_may_take_it_again_and_no_other_one(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with locked(file, refuse):
        with locked(file, refuse):
            assert from_another_thread(file) == "busy"
        assert from_another_thread(file) == "busy"
    assert from_another_thread(file) == "taken"


def test_an_error_of_the_block_is_raised_and_the_lock_is_free(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"), locked(tmp_path / "lock", refuse):
        raise OSError(28, "full")
    assert from_another_thread(tmp_path / "lock") == "taken"


def test_it_goes_with_a_killed_process_though_a_forked_one_lives_on(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(file)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        assert from_another_thread(file) == "busy"
        holder.kill()
        holder.wait()
        deadline = time.monotonic() + 60  # for the forked process to begin, and close what it was given
        while (outcome := from_another_thread(file)) == "busy" and time.monotonic() < deadline:
            time.sleep(0.02)
        assert outcome == "taken"
    finally:
        if child > 0:
            os.kill(child, signal.SIGKILL)
        holder.stdout.close()


def test_without_locks_the_work_is_done_and_a_warning_given(tmp_path: Path, monkeypatch, caplog) -> None:
    def unsupported(lock: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(filelock.FileLock, "_acquire", unsupported)
    with caplog.at_level(logging.WARNING), locked(tmp_path / "lock", refuse):
        pass
    assert "cannot be locked" in caplog.text
