"""The speed of a run, over its last steps."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator


class Clock:
    """Images per second and the share of time spent waiting for data, over the last steps."""

    def __init__(self, batch_size: int, window: int = 50) -> None:
        self.batch_size = batch_size
        self.laps: deque[tuple[float, float]] = deque(maxlen=window)
        self.waited = 0.0
        self.restart()

    def restart(self) -> None:
        """Leave out the time since the last lap (an evaluation)."""
        self.last = time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent in here counts as waiting."""
        begin = time.perf_counter()
        yield
        self.waited = time.perf_counter() - begin

    def lap(self) -> dict[str, float]:
        """End a step; give the rates."""
        now = time.perf_counter()
        self.laps.append((now - self.last, self.waited))
        self.last = now
        total = sum(lap for lap, _ in self.laps)
        return {
            "images_per_second": self.batch_size * len(self.laps) / total,
            "waiting_for_data": sum(waited for _, waited in self.laps) / total,
        }
