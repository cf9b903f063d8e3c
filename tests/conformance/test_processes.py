"""Two processes (gloo) train exactly as one does."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from dinoscope.distributed import process_group

from . import cases
from .test_methods import states_differ

CUT = {"accumulate": 2}
"""Each process also cuts its half of the batch."""

TOGETHER = [name for name in cases.SETTINGS if name not in cases.ALONE]

BATCH_NORM = {
    "simclr": {"backbone": "resnet_micro"},
    "byol": {"method": replace(cases.SETTINGS["byol"], head_batch_norm=True)},
    "moco": {
        "method": replace(cases.SETTINGS["moco"], head_batch_norm=True, shuffle_groups=1),
        "backbone": "resnet_micro",
    },
    "swav": {"method": replace(cases.SETTINGS["swav-queue"], head_batch_norm=True)},
    "dino": {"method": replace(cases.SETTINGS["dino"], head_batch_norm=True), "backbone": "resnet_micro"},
}
"""Networks with batch norm, whose statistics are those of all processes; to them a cut batch is another batch.

MoCo's shuffled groups are drawn by each process for its own images, so with them the key network sees other groups.
"""


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        *(pytest.param(name, CUT, id=name) for name in TOGETHER),
        *(
            # the layer is one for all methods: one of them in the default tier
            pytest.param(name, changes, id=f"{name}-batch-norm", marks=[] if name == "dino" else pytest.mark.slow)
            for name, changes in BATCH_NORM.items()
        ),
    ],
)
def test_two_processes_equal_one(method, changes, picture_folder, tmp_path) -> None:
    data = picture_folder(16)
    whole = {name: value for name, value in changes.items() if name != "accumulate"}
    alone = cases.trainer(cases.run_config(method, data, tmp_path / "run", **whole), double=True)
    for views in alone.batches():
        alone.make_step(views)
    mp.spawn(_train, (method, data, tmp_path, _free_port(), changes), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert states_differ(first, second) == []
    assert states_differ(first, alone.method.state_dict(), tolerance=1e-8) == []


def _train(rank: int, method: str, data: Path, out: Path, port: int, changes: dict[str, object]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with process_group(torch.device("cpu")):
        trainer = cases.trainer(cases.run_config(method, data, out / "run", **changes), double=True)
        for views in trainer.batches():
            trainer.make_step(views)
        torch.save(trainer.method.state_dict(), out / f"{rank}.pt")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
