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

try:
    import fcntl
except ImportError:  # not on Windows: there, what a killed page leaves behind stays
    fcntl = None

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
    if fcntl is None:
        return
    for lock in temporary.glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            found = lock.parent.lstat()
            if found.st_uid != os.getuid() or time.time() - found.st_ctime < _NEW:
                continue
            with lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:  # in use, or gone meanwhile
            continue


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """While the context lasts, and the process with it, the folder counts as in use."""
    with (folder / _LOCK).open("wb") as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove(folder: Path) -> None:
    """Remove the folder, though work that was under way may still write into it for a moment."""
    deadline = time.monotonic() + _PATIENCE
    shutil.rmtree(folder, ignore_errors=True)
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
        shutil.rmtree(folder, ignore_errors=True)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # of work that took longer: its threads are over then
