"""Device, precision, time, peak memory, machine and commit of a computation, and signals that ask it to stop."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

import dinoscope
from dinoscope import distributed
from dinoscope.errors import UserError
from dinoscope.types import Metric

try:
    import resource
except ImportError:  # not on Windows
    resource = None

T = TypeVar("T")

WARM_UP_CALLS = 2
"""Made before the clock starts: libraries choose their kernels and the allocator grows in the first calls."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_LEAST_SECONDS = (
    0.2  # of one repeat: short calls are repeated within it, so that the clock's resolution does not matter
)
_GIT_SECONDS = 10  # git may work on a network drive


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, once for each repeat; a repeat is the mean over `calls` calls."""

    seconds: tuple[float, ...]
    calls: int

    def metrics(self, name: str, images: int) -> list[Metric]:
        """Return images per second for calls of `images` each: median over the repeats, slowest and fastest."""
        return [
            Metric(name, images / statistics.median(self.seconds), "images/s"),
            Metric(f"{name}_slowest", images / max(self.seconds), "images/s"),
            Metric(f"{name}_fastest", images / min(self.seconds), "images/s"),
        ]


@dataclass(frozen=True)
class Memory:
    """Peak memory in bytes, or None if it is unknown; `meaning` tells what was counted, or why it is unknown."""

    peak: int | None
    meaning: str

    def metrics(self, name: str) -> list[Metric]:
        """Return the peak in MiB, or nothing."""
        return [] if self.peak is None else [Metric(name, self.peak / 2**20, "MiB", higher_is_better=False)]


@dataclass(frozen=True)
class Machine:
    """What a speed was measured on.

    device: cpu, cuda or mps. name: of the GPU, or of the CPU if that is the device. threads: CPU threads of torch.
    """

    device: str
    name: str
    threads: int
    torch: str

    def line(self) -> str:
        """Return it in words."""
        return f"{self.name}, {self.threads} CPU thread{'s' * (self.threads != 1)}, torch {self.torch}"


def time_calls(
    call: Callable[[], object],
    device: torch.device,
    repeats: int,
    progress: Callable[[int, int], None] | None = None,
) -> Timing:
    """Warm up, then time `repeats` repeats; the device has finished its work when the clock is read.

    progress: called with (repeats done, of all) before the warm-up and after every repeat.

    Raises UserError if `repeats` is below 1.
    """
    if repeats < 1:
        raise UserError(f"--repeats must be at least 1, not {repeats}")
    progress = progress or (lambda done, total: None)
    progress(0, repeats)
    for _ in range(WARM_UP_CALLS):
        once = _seconds(call, device, 1)
    calls = max(1, math.ceil(_LEAST_SECONDS / max(once, 1e-6)))
    seconds: list[float] = []
    for done in range(1, repeats + 1):
        seconds.append(_seconds(call, device, calls) / calls)
        progress(done, repeats)
    return Timing(tuple(seconds), calls)


def _seconds(call: Callable[[], object], device: torch.device, calls: int) -> float:
    synchronize = (lambda: None) if device.type == "cpu" else lambda: torch.accelerator.synchronize(device)
    synchronize()
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    synchronize()
    return time.perf_counter() - begin


class MemoryWatch:
    """Watches memory from its construction on.

    On CUDA it reports the peak of what torch has allocated, networks included. On a CPU only the growth of the process
    is known, and only if this is the process's highest peak: the system keeps one peak for its lifetime.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.resident, self.peak = _resident_bytes(), _peak_resident_bytes()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def read(self) -> Memory:
        """Return the peak since construction."""
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
    with contextlib.suppress(OSError, StopIteration):  # Linux, whose ru_maxrss may be that of the starting program
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _resident_bytes() -> int | None:
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:  # not Linux
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next step instead of returning it to the system.

    By default glibc asks the system for new memory for every large tensor, and the system clears it each time
    (benchmarks/README.md has the figures). Does nothing if there is no glibc.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD: the most it takes
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def device_memory(device: torch.device, *, free: bool = False) -> int | None:
    """Return the bytes of the device's memory; free: of a GPU, those that are free now. None if they are not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0 if free else 1]
    is_known = device.type == "cpu" and hasattr(os, "sysconf")  # not on Windows
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if is_known else None


def available_cores() -> int:
    """Return the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine(device: torch.device) -> Machine:
    """Return the machine that `device` belongs to."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        lines = list[str]()
        with contextlib.suppress(OSError):
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        name = next(names, "") or platform.processor() or platform.machine() or "unknown CPU"
    return Machine(device.type, name, torch.get_num_threads(), torch.__version__)


def pick_device(name: str) -> torch.device:
    """Return the named device; auto is CUDA (this process's GPU), else MPS, else the CPU.

    Raises UserError if there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {name}: torch sees no CUDA device; use --device cpu or auto")
    if name == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: torch sees no Apple GPU; use --device cpu or auto")
    if name == "cuda":
        name = f"cuda:{distributed.local_rank() % torch.cuda.device_count()}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name} is not a device: use auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """Return the named precision; auto is bf16 if the hardware multiplies it, fp16 on older GPUs, else fp32."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type != "cpu":
        return "fp32"
    # Without bf16 dot products oneDNN falls back to loops hundreds of times slower.
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # pyright: ignore
    return "bf16" if has_bf16 else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which matrix products run in `precision`."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, DTYPES[precision])


@contextlib.contextmanager
def exact_cuda(device: torch.device) -> Iterator[str]:
    """Keep products of float32 exact on CUDA, and let cuDNN time its convolutions; yield a line on it for the log.

    Torch rounds the inputs of float32 convolutions to TF32 (10 bits) unless it is told not to. What runs in bf16 or
    fp16 is not affected. On other devices nothing changes, and the line is empty.
    """
    if device.type != "cuda":
        yield ""
        return
    matmul, cudnn = torch.backends.cuda.matmul, cast(Any, torch.backends.cudnn)  # its settings have no types
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = False, False, True
    try:
        yield f"float32 products are exact (no TF32); cuDNN {cudnn.version()} times its convolutions at their first use"
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


def commit() -> str | None:
    """Return the commit of the running sources: of the git folder that holds them, else the one that pip installed."""
    folder = Path(dinoscope.__file__).parent
    # A package within a user's project (a virtual environment) is not part of that project's commit.
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return _installed_commit()
    head = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".")
    return head and head + ("-changed" if changed else "")


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _installed_commit() -> str | None:
    # What pip records for a package installed from git (PEP 610).
    try:
        record = json.loads(importlib.metadata.distribution("dinoscope").read_text("direct_url.json") or "{}")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None
    return record.get("vcs_info", {}).get("commit_id")


class StopRequests(list[int]):
    """Signals that ask this process to end: after the work under way, or at once if it only waits."""

    def __init__(self, *, twice_ends: bool) -> None:
        super().__init__()
        self.twice_ends, self.waiting = twice_ends, False

    def receive(self, number: int, frame: object) -> None:
        """Remember a signal."""
        if self.twice_ends and number == signal.SIGINT and number in self:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.append(number)
        if self.waiting:
            self.waiting = False
            raise _Stopped

    def wait(self, call: Callable[[], T]) -> T | None:
        """Return what `call` returns, or None if a signal came first."""
        try:
            self.waiting = True
            return None if self else call()
        except _Stopped:
            return None
        finally:
            self.waiting = False


class _Stopped(BaseException):
    """A signal came during `StopRequests.wait`."""


@contextlib.contextmanager
def stop_signals(*, twice_ends: bool = False) -> Iterator[StopRequests]:
    """Collect SIGINT, SIGTERM and SIGHUP, so that the work under way ends in order.

    twice_ends: a second SIGINT (Ctrl-C by a person who will not wait) ends the process at once. SIGTERM never does:
        launchers and queues may send it twice within one step, and the checkpoint must not be lost for that.

    SIGHUP means that the terminal was closed; if it is ignored, as by `nohup`, it stays so. In a thread other than the
    main one, signals are left alone.
    """
    requests = StopRequests(twice_ends=twice_ends)
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # none on Windows
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, requests.receive) for number in numbers}
    try:
        yield requests
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
