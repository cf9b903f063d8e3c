"""One process at a time: locks on files, on every system. A lock goes with its process, however that dies."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger("dinoscope")


@contextlib.contextmanager
def locked(file: Path, busy: Callable[[], object]) -> Iterator[None]:
    """Hold the lock `file`, which stays as an empty file.

    A thread that holds it already may take it again. Processes that are forked meanwhile (loader processes, which may
    outlive a killed parent for seconds) do not hold it. It works across the machines of a shared file system that
    supports locks; without such support, a warning is logged and the block runs unprotected.

    busy: called when another process holds the lock, before waiting for it; what it raises ends the wait.
    """
    # A soft lock (a file that exists) would outlive a killed process: rather none.
    lock = FileLock(file, is_singleton=True, fallback_to_soft=False, preserve_lock_file=True)
    with contextlib.ExitStack() as held:
        try:
            try:
                held.enter_context(lock.acquire(blocking=False))
            except Timeout:
                busy()
                held.enter_context(lock.acquire())
        except OSError as error:
            logger.warning("%s cannot be locked (%s): make sure that no other process works there", file, error)
        yield
