"""The page's one temporary folder: removed when it ends, and by the next page where its own could not (kill -9)."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

_PREFIX = "dinoscope-demo-"
_LOCK = "in-use"
_NEW = 60.0  # seconds; a folder younger than that may not be locked yet
_PATIENCE = 5.0  # seconds

_SWITCHED_OFF = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
_TEMPORARY = "GRADIO_TEMP_DIR"


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """A folder for all that the page writes, uploads too; removed at the end. Gradio's switches are set meanwhile.

    What pages that were killed have left is removed first.
    """
    sweep(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    changed = {**_SWITCHED_OFF, _TEMPORARY: str(folder / "gradio")}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        with _locked(folder):
            yield folder
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _remove(folder)


def sweep(temporary: Path) -> None:
    """Remove this person's folders of pages whose process is gone: the system has let go of their locks."""
    for file in temporary.glob(f"{_PREFIX}*/{_LOCK}"):
        with contextlib.suppress(OSError):  # in use, or gone meanwhile
            found = file.parent.lstat()
            is_ours = (
                not hasattr(os, "getuid") or found.st_uid == os.getuid()
            )  # on Windows the folder is a person's own
            if is_ours and time.time() - found.st_ctime >= _NEW:
                with _lock_on(file).acquire(blocking=False):
                    shutil.rmtree(file.parent, ignore_errors=True)
                shutil.rmtree(file.parent, ignore_errors=True)  # on Windows, a file that is open stays


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """While the context lasts, and the process with it, the folder counts as in use."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # a file system without locks
            held.enter_context(_lock_on(folder / _LOCK))
        yield


def _lock_on(file: Path) -> FileLock:
    """Not `locks.locked`: without the lock, nothing may be removed."""
    return FileLock(file, fallback_to_soft=False, preserve_lock_file=True)


def _remove(folder: Path) -> None:
    """Remove the folder, though work that was under way may still write into it for a moment."""
    deadline = time.monotonic() + _PATIENCE
    shutil.rmtree(folder, ignore_errors=True)
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
        shutil.rmtree(folder, ignore_errors=True)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # of work that took longer: its threads are over then
