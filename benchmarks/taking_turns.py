"""What the benchmarks share: sides that take turns, medians of their times, and a process's peak memory (Linux)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path


def timed(side: Callable[[], object]) -> tuple[float, float]:
    """Return the wall and the CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    side()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, dict[str, float]]:
    """Return each side's median wall and CPU seconds; the sides take turns."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            times[name].append(timed(side))
    return {
        name: {
            "wall_s": statistics.median(wall for wall, _ in rows),
            "cpu_s": statistics.median(cpu for _, cpu in rows),
        }
        for name, rows in times.items()
    }


def peak_bytes(side: Callable[[], object]) -> int:
    """Return how far the resident memory rises above its present level during the call."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at the present level: man 5 proc
    before = status_bytes("VmHWM")
    side()
    return status_bytes("VmHWM") - before


def status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
