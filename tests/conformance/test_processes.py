"""Two processes (gloo) train exactly as one does."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from dinoscope.distributed import process_group

from . import cases
from .test_methods import states_differ


@pytest.mark.parametrize("method", list(cases.SETTINGS))
def test_two_processes_equal_one(method, picture_folder, tmp_path) -> None:
    data = picture_folder(16)
    alone = cases.trainer(cases.run_config(method, data, tmp_path / "run"), double=True)
    for views in alone.batches():
        alone.make_step(views)
    mp.spawn(_train, (method, data, tmp_path, _free_port()), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert states_differ(first, second) == []
    assert states_differ(first, alone.method.state_dict(), tolerance=1e-8) == []


def _train(rank: int, method: str, data: Path, out: Path, port: int) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with process_group(torch.device("cpu")):
        trainer = cases.trainer(cases.run_config(method, data, out / "run", accumulate=2), double=True)
        for views in trainer.batches():
            trainer.make_step(views)
        torch.save(trainer.method.state_dict(), out / f"{rank}.pt")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
