"""How long a computation takes, how much memory it takes, and on which machine: no speed is said without these."""

from __future__ import annotations

import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from dinoscope.errors import UserError
from dinoscope.types import Metric

try:
    import resource
except ImportError:  # not on Windows
    resource = None

WARM_UP_CALLS = 2
"""Made before the clock starts: libraries choose their kernels and the allocator grows in the first calls."""

_LEAST_SECONDS = 0.2  # of one repeat: short calls are repeated within it, so that the clock's grain does not matter


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, once for each repeat; a repeat is the mean over `calls` calls."""

    seconds: tuple[float, ...]
    calls: int

    def metrics(self, name: str, images: int) -> list[Metric]:
        """Images per second where a call handles `images`: the median over the repeats, the slowest, the fastest."""
        return [
            Metric(name, images / statistics.median(self.seconds), "images/s"),
            Metric(f"{name}_slowest", images / max(self.seconds), "images/s"),
            Metric(f"{name}_fastest", images / min(self.seconds), "images/s"),
        ]


@dataclass(frozen=True)
class Memory:
    """Peak memory in bytes, or None where it cannot be known; `meaning` says what it is, or why not."""

    peak: int | None
    meaning: str

    def metrics(self, name: str) -> list[Metric]:
        """The peak in MiB, or nothing."""
        return [] if self.peak is None else [Metric(name, self.peak / 2**20, "MiB", higher_is_better=False)]


@dataclass(frozen=True)
class Machine:
    """What a speed was measured on.

    device: cpu, cuda or mps.
    name: of the GPU, or of the CPU where that is the device.
    threads: CPU threads that torch works with.
    """

    device: str
    name: str
    threads: int
    torch: str

    def line(self) -> str:
        """In words."""
        return f"{self.name}, {self.threads} CPU thread{'s' * (self.threads != 1)}, torch {self.torch}"


def time_calls(
    call: Callable[[], object],
    device: torch.device,
    repeats: int,
    progress: Callable[[int, int], None] | None = None,
) -> Timing:
    """Warm up, then time `repeats` repeats; the device has finished its work when the clock is read.

    progress: told (repeats done, of all) before the warm-up and after every repeat.

    Raises UserError where `repeats` is below 1.
    """
    if repeats < 1:
        raise UserError(f"--repeats must be at least 1, not {repeats}")
    tell = progress or (lambda done, total: None)
    tell(0, repeats)
    for _ in range(WARM_UP_CALLS):
        once = _seconds(call, device, 1)
    calls = max(1, math.ceil(_LEAST_SECONDS / max(once, 1e-6)))
    seconds: list[float] = []
    for done in range(1, repeats + 1):
        seconds.append(_seconds(call, device, calls) / calls)
        tell(done, repeats)
    return Timing(tuple(seconds), calls)


def _seconds(call: Callable[[], object], device: torch.device, calls: int) -> float:
    _finish(device)
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    _finish(device)
    return time.perf_counter() - begin


def _finish(device: torch.device) -> None:
    """Wait for what was queued on an accelerator."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class MemoryWatch:
    """Watches memory from its construction on.

    On CUDA it counts what torch holds at the worst moment, networks included. On a CPU only the growth of the
    process can be known, and only where this is the process's own peak: the system keeps one peak for its lifetime.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.resident, self.peak = _resident_bytes(), _peak_resident_bytes()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def read(self) -> Memory:
        """The peak since construction."""
        if self.device.type == "cuda":
            return Memory(torch.cuda.max_memory_allocated(self.device), "peak of what torch had allocated on the GPU")
        if self.device.type != "cpu":
            return Memory(None, f"torch keeps no peak of the memory on {self.device.type}")
        peak = _peak_resident_bytes()
        if peak is None or self.peak is None or self.resident is None:
            return Memory(None, "this system does not say how much memory a process holds")
        if peak <= self.peak:
            return Memory(None, "the process had held more before, so that its peak says nothing of this")
        return Memory(peak - self.resident, "growth of the process's resident memory, at its peak")


def _peak_resident_bytes() -> int | None:
    """Most memory that the process ever held."""
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _resident_bytes() -> int | None:
    """Memory that the process holds now (Linux)."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def machine(device: torch.device) -> Machine:
    """The machine that `device` belongs to."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return Machine(device.type, name, torch.get_num_threads(), torch.__version__)


def _cpu_name() -> str:
    """Model of the CPU as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), "") or platform.processor() or platform.machine() or "unknown CPU"
