"""Rank, world size and the few collectives that training needs. On one process each is the identity."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

GRACE = 4.0
"""Seconds that a process has to end by itself after another one of its group has died."""


def is_initialized() -> bool:
    """Return whether a process group exists."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return the number of this process in the group; 0 without a group."""
    return dist.get_rank() if is_initialized() else 0


def world_size() -> int:
    """Return how many processes train together; 1 without a group."""
    return dist.get_world_size() if is_initialized() else 1


def is_main() -> bool:
    """Return whether this process writes files and reports."""
    return rank() == 0


def local_rank() -> int:
    """Return the number of this process on its machine, for its GPU: set by torchrun, else by SLURM, else 0."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))


def sum_reduce(value: Tensor) -> Tensor:
    """Return the sum of `value` over all processes, element by element."""
    return _reduced(value, dist.ReduceOp.SUM)


def max_reduce(value: Tensor) -> Tensor:
    """Return the largest `value` of all processes, element by element."""
    return _reduced(value, dist.ReduceOp.MAX)


def mean_reduce(value: Tensor) -> Tensor:
    """Return the mean of `value` over all processes, element by element."""
    return sum_reduce(value) / world_size()


def _reduced(value: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    if world_size() == 1:
        return value
    result = value.clone()
    dist.all_reduce(result, op=operation)
    return result


def gather(value: Tensor) -> Tensor:
    """Return the rows of all processes, in rank order; gradients flow back to the process that each row came from.

    A loss of the gathered rows that every process computes in full has, after the usual averaging of gradients,
    the gradient of the whole batch.
    """
    if world_size() == 1:
        return value
    return _Gather.apply(value)


class _Gather(torch.autograd.Function):
    """Rows of all processes; backward, each process gets the parts of its rows from all, and adds them by rank."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows = [torch.empty_like(value, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(rows, value.contiguous())
        return torch.cat(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        # The exchange goes by memory: a gradient that is a transposed view would arrive scrambled.
        own = gradient.contiguous()
        parts = torch.empty_like(own)
        dist.all_to_all_single(parts, own)
        return parts.view(world_size(), -1, *own.shape[1:]).sum(dim=0)


def gather_views(value: Float[Tensor, "v b *d"]) -> Float[Tensor, "v n *d"]:
    """Return the rows [views, batch, ...] of all processes, in the order of `gather`, with its gradients."""
    return gather(value.transpose(0, 1)).transpose(0, 1)


def own_share(count: int) -> range:
    """Return which of `count` pieces of work this process does: every n-th of n processes."""
    return range(rank(), count, world_size())


def gather_uneven(rows: Tensor) -> Tensor:
    """Return the rows of all processes, of which each may have another number, in rank order; without gradients."""
    if world_size() == 1:
        return rows
    counts = torch.zeros(world_size(), dtype=torch.int64, device=rows.device)
    counts[rank()] = len(rows)
    counts = sum_reduce(counts).tolist()
    before = sum(counts[: rank()])
    whole = rows.new_zeros(sum(counts), *rows.shape[1:])
    whole[before : before + len(rows)] = rows
    return sum_reduce(whole)


def gather_texts(text: str) -> list[str]:
    """Return the text of every process, in rank order."""
    if world_size() == 1:
        return [text]
    encoded = text.encode("utf-8", "surrogateescape")
    letters = torch.tensor(list(encoded), dtype=torch.uint8)
    lengths = gather_uneven(torch.tensor([len(letters)])).tolist()
    parts = gather_uneven(letters).split(lengths)
    return [bytes(part.tolist()).decode("utf-8", "surrogateescape") for part in parts]


def sum_with_gradient(value: Tensor) -> Tensor:
    """Return `sum_reduce` of the value; gradients flow back to every process."""
    if world_size() == 1:
        return value
    return _Sum.apply(value)


class _Sum(torch.autograd.Function):
    """Sum over all processes, forward and backward."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return sum_reduce(value.contiguous())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return sum_reduce(gradient.contiguous())


def totals(*values: float, device: torch.device) -> list[float]:
    """Return the sum of each value over all processes. One process does not wait for its device."""
    if world_size() == 1:
        return [float(value) for value in values]
    return sum_reduce(torch.tensor(values, dtype=torch.float32, device=device)).tolist()


def agree(value: Tensor) -> bool:
    """Return whether every process holds the same integers."""
    return torch.equal(max_reduce(value), -max_reduce(-value))


def from_main(text: str, device: torch.device) -> str:
    """Return the main process's text. What it takes long for must be done before a `barrier`, which waits longer."""
    if world_size() == 1:
        return text
    own = text.encode() if is_main() else b""
    length = int(sum_reduce(torch.tensor([len(own)], device=device))[0])
    letters = torch.zeros(length, dtype=torch.uint8, device=device)
    letters[: len(own)] = torch.frombuffer(bytearray(own) or bytearray(1), dtype=torch.uint8)[: len(own)].to(device)
    dist.broadcast(letters, src=0)
    return bytes(letters.tolist()).decode()


def barrier() -> None:
    """Wait for every process, for as long as it works, or until one dies."""
    if world_size() > 1:
        dist.barrier(group=_watch.group if _watch else None)


def leave() -> None:
    """Announce that this process ends by itself, because of an error; the others notice when it is gone."""
    if _watch:
        _watch.leaving.set()


def is_broken() -> bool:
    """Return whether another process of the group has died."""
    return _watch is not None and _watch.broken.wait(1.0)  # its thread may be a moment later than this one


class _Watch:
    """Ends this process when another one of the group has died, even if the main thread waits for a GPU.

    torchrun sends SIGTERM to the others at once, but a thread that waits for a collective of NCCL does not hear it, and
    SIGKILL follows only after 30 s, which no option shortens. A connection of gloo breaks as soon as the process at its
    other end is gone: the main process holds one to each of the others, and informs them.
    """

    def __init__(self) -> None:
        # No time limit: one process may work while all others wait, for as long as it is alive.
        self.group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timedelta(days=365)))
        self.leaving, self.broken = threading.Event(), threading.Event()
        self.rank, self.peers = rank(), range(1, world_size()) if is_main() else range(1)
        self.threads = [threading.Thread(target=self._wait, args=(peer,), daemon=True) for peer in self.peers]
        for thread in self.threads:
            thread.start()

    def end(self) -> None:
        """Part from all others, which do the same."""
        self.leaving.set()
        self._tell(0)
        for thread in self.threads:
            thread.join()

    def _tell(self, broken: int) -> None:
        for peer in self.peers:
            with contextlib.suppress(RuntimeError):  # that one may be gone
                dist.send(torch.tensor([broken]), dst=peer, group=self.group)

    def _wait(self, peer: int) -> None:
        broken = torch.tensor([1])
        with contextlib.suppress(RuntimeError):  # the connection is gone
            dist.recv(broken, src=peer, group=self.group)
        if not broken.item():  # that one has parted from this one
            return
        self.broken.set()
        if self.rank == 0:
            self._tell(1)
        if not self.leaving.wait(GRACE):
            # Not to the log: only the main process has one, and the person waits at the terminal.
            sys.stderr.write("dinoscope: another process of the group has ended, so this one ends too\n")
            os._exit(1)


_watch: _Watch | None = None


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the group that torchrun or SLURM describes in the environment, and leave it at the end.

    A process that was started alone runs without a group. SLURM's variables (of srun with several tasks) are translated
    into torchrun's; MASTER_ADDR must then be exported by the job script (submitit does).
    """
    environment = os.environ
    by_slurm = int(environment.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in environment
    if is_initialized() or not (by_slurm or ("WORLD_SIZE" in environment and "RANK" in environment)):
        yield
        return
    environment.setdefault("RANK", environment.get("SLURM_PROCID", "0"))
    environment.setdefault("WORLD_SIZE", environment.get("SLURM_NTASKS", "1"))
    environment.setdefault("MASTER_ADDR", "127.0.0.1")
    environment.setdefault("MASTER_PORT", "29500")
    global _watch
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    # Between machines gloo needs a network that NCCL may not: there torchrun and NCCL alone notice a death.
    if environment.get("LOCAL_WORLD_SIZE") == environment["WORLD_SIZE"]:
        _watch = _Watch()
    try:
        yield
    except BaseException:
        leave()  # and no more: to destroy a group waits for processes that may be dead
        raise
    if _watch:
        _watch.end()
        _watch = None
    dist.destroy_process_group()
