"""Two processes (gloo) train exactly as one does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from dinoscope.distributed import process_group
from dinoscope.methods.health import rank_me
from tests.pictures import write_pictures

from . import cases
from .test_methods import states_differ

CUT: dict[str, object] = {"accumulate": 2}
"""Each process also cuts its half of the batch."""

TOGETHER = [name for name in cases.SETTINGS if name not in cases.ALONE]

BATCH_NORM: dict[str, dict[str, object]] = {
    "simclr": {"backbone": "resnet_micro"},
    "byol": {"method": replace(cases.SETTINGS["byol"], head_batch_norm=True)},
    "moco": {
        "method": replace(cases.SETTINGS["moco"], head_batch_norm=True, shuffle_groups=1),
        "backbone": "resnet_micro",
    },
    "swav": {"method": replace(cases.SETTINGS["swav-queue"], head_batch_norm=True)},
    "emp": {"method": replace(cases.SETTINGS["emp"], head_batch_norm=True), "backbone": "resnet_micro"},
    "simdino": {"method": replace(cases.SETTINGS["simdino"], head_batch_norm=True)},
    "dino": {"method": replace(cases.SETTINGS["dino"], head_batch_norm=True), "backbone": "resnet_micro"},
}
"""Networks with batch norm, whose statistics are those of all processes; to them a cut batch is another batch.

MoCo's shuffled groups are drawn by each process for its own images, so with them the key network sees other groups.
"""


CASES: dict[str, tuple[str, dict[str, object]]] = {name: (name, CUT) for name in TOGETHER}
CASES |= {f"{name}-batch-norm": (name, changes) for name, changes in BATCH_NORM.items()}
"""case -> its method, and what differs from its settings."""

SLOW = {f"{name}-batch-norm" for name in BATCH_NORM if name != "dino"}
"""The layer is one for all methods: one of them in the default tier."""


@dataclass(frozen=True)
class Trained:
    """What two processes have left: two files for each case and rank; `failure` says why some are missing."""

    data: Path
    out: Path
    failure: str = ""

    def state(self, case: str, rank: int) -> dict[str, Tensor]:
        return self._read(f"{case}.{rank}.pt")

    def figures(self, case: str, rank: int) -> dict[str, float]:
        """What the last step logged."""
        return self._read(f"{case}.{rank}.figures.pt")

    def _read(self, name: str) -> Any:
        assert (self.out / name).exists(), self.failure
        return torch.load(self.out / name, weights_only=True)


@pytest.fixture(scope="module")
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The cases of all tests that are run, one after the other by the same two processes: to start them takes longest.

    The processes meet at a store of this one, which chooses its port itself, as torchrun's do.
    """
    functions = [item for item in request.session.items if isinstance(item, pytest.Function)]
    wanted = [each.callspec.params["case"] for each in functions if each.function is test_two_processes_equal_one]
    out = tmp_path_factory.mktemp("processes")
    data = write_pictures(out / "pictures", 16, classes=2)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    try:
        mp.spawn(_train, (wanted, data, out, store.port), nprocs=2)
    except mp.ProcessRaisedException as error:
        return Trained(data, out, str(error))
    return Trained(data, out)


@pytest.mark.parametrize("case", [pytest.param(each, marks=[pytest.mark.slow] * (each in SLOW)) for each in CASES])
def test_two_processes_equal_one(case, trained, tmp_path) -> None:
    first, second = trained.state(case, 0), trained.state(case, 1)
    method, changes = CASES[case]
    whole = {name: value for name, value in changes.items() if name != "accumulate"}
    alone = cases.trainer(cases.run_config(method, trained.data, tmp_path / "run", **whole), double=True)
    for views in alone.batches():
        figures = alone.make_step(views)
    assert states_differ(first, second) == []
    assert states_differ(first, alone.method.state_dict(), tolerance=1e-8) == []
    figures["rank_me"] = rank_me(alone.recent_features())
    assert trained.figures(case, 0) == trained.figures(case, 1) == pytest.approx(figures, rel=1e-4, abs=1e-6)


def _train(rank: int, wanted: Sequence[str], data: Path, out: Path, port: int) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    torch.set_num_threads(1)
    with process_group(torch.device("cpu")):
        for case in wanted:
            method, changes = CASES[case]
            trainer = cases.trainer(cases.run_config(method, data, out / case, **changes), double=True)
            for views in trainer.batches():
                figures = trainer.make_step(views)
            torch.save(trainer.method.state_dict(), out / f"{case}.{rank}.pt")
            torch.save(figures | {"rank_me": rank_me(trainer.recent_features())}, out / f"{case}.{rank}.figures.pt")
