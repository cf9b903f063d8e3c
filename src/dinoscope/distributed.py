"""Rank, world size and the few collectives that training needs. On one process each is the identity."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


def is_initialized() -> bool:
    """Whether this process belongs to a group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process in the group, from 0."""
    return dist.get_rank() if is_initialized() else 0


def world_size() -> int:
    """Number of processes in the group."""
    return dist.get_world_size() if is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes files and speaks."""
    return rank() == 0


def local_rank() -> int:
    """Number of this process on its machine: picks the GPU. Set by torchrun, else by SLURM, else 0."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))


def sum_reduce(value: Tensor) -> Tensor:
    """Sum of `value` over all processes; every process gets it."""
    return _reduced(value, dist.ReduceOp.SUM)


def max_reduce(value: Tensor) -> Tensor:
    """Largest `value` of all processes, element by element; every process gets it."""
    return _reduced(value, dist.ReduceOp.MAX)


def mean_reduce(value: Tensor) -> Tensor:
    """Mean of `value` over all processes; every process gets it."""
    return sum_reduce(value) / world_size()


def _reduced(value: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    if world_size() == 1:
        return value
    result = value.clone()
    dist.all_reduce(result, op=operation)
    return result


def gather(value: Tensor) -> Tensor:
    """The rows of all processes, in rank order; gradients flow back to the process that each row came from.

    A loss of the gathered rows that every process computes in full has, after the usual averaging of gradients,
    the gradient of the whole batch.
    """
    if world_size() == 1:
        return value
    from torch.distributed.nn.functional import all_gather

    return torch.cat(list(all_gather(value)))


def sum_with_gradient(value: Tensor) -> Tensor:
    """`sum_reduce` through which gradients flow back to every process."""
    if world_size() == 1:
        return value
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(value)


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is set on at least one process, so that all of them stop at the same step."""
    return bool(max_reduce(torch.tensor(float(flag), device=device)).item())


def agree(value: Tensor) -> bool:
    """Whether every process holds the same integers."""
    return torch.equal(max_reduce(value), -max_reduce(-value))


def barrier() -> None:
    """Wait for every process."""
    if world_size() > 1:
        dist.barrier()


def launched_with_many() -> bool:
    """Whether torchrun, or srun with several tasks, started this process as one of a group."""
    if "WORLD_SIZE" in os.environ and "RANK" in os.environ:
        return True
    return int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the group that torchrun or SLURM describes in the environment, and leave it at the end.

    A process that was started alone runs without a group. SLURM's variables are translated into torchrun's;
    MASTER_ADDR must then be exported by the job script (submitit does).
    """
    if is_initialized() or not launched_with_many():
        yield
        return
    os.environ.setdefault("RANK", os.environ.get("SLURM_PROCID", "0"))
    os.environ.setdefault("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1"))
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29500")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()
