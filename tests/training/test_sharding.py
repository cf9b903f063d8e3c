"""`--sharding fsdp`: two processes (gloo) that hold half of everything train as two that hold all of it."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from dinoscope import checkpoint
from dinoscope.distributed import process_group
from dinoscope.errors import UserError
from dinoscope.training.config import OptimizerConfig
from dinoscope.training.loop import train
from dinoscope.training.run_folder import read_metrics
from tests.conformance import cases
from tests.conformance.test_methods import states_differ
from tests.training.test_loop import Stop, settings, steps_kept, weights

CASES: dict[str, dict[str, object]] = {
    "dino": {"drop_path": 0.2},
    "swav-queue": {"accumulate": 2},
    "byol": {"backbone": "resnet_micro", "optimizer": OptimizerConfig("sgd", learning_rate=1.0, warmup_epochs=0)},
}


RUN: dict[str, object] = {"epochs": 2, "evaluate_every": 1, "drop_path": 0.0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.pictures import write_pictures

    out = tmp_path_factory.mktemp("sharded")
    write_pictures(out / "pictures", 16, classes=2)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    mp.spawn(_train, (out, store.port), nprocs=2)
    return out


def _train(rank: int, out: Path, port: int) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    torch.set_num_threads(1)
    with process_group(torch.device("cpu")):
        for name, changes in CASES.items():
            for sharding in ("none", "fsdp"):
                config = cases.run_config(name, out / "pictures", out, sharding=sharding, **changes)
                trainer = cases.trainer(config, double=True)
                figures = [trainer.make_step(views) for views in trainer.batches()]
                tensors, metadata = trainer.snapshot()
                if rank == 0:
                    checkpoint.save(out / f"{name}.{sharding}", tensors, metadata | {"figures": figures})
        config = settings(out / "pictures", out / "run", **RUN, sharding="fsdp")
        assert train(config, listeners=[Stop(1, signal.SIGTERM)]).steps == 2
        assert train(config, resume=True, listeners=[Stop(2, signal.SIGTERM)]).steps == 3
        train(replace(config, out=out / "whole"))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_sharded_run_equals_one_that_is_not(case, trained) -> None:
    plain, sharded = (checkpoint.load(trained / f"{case}.{name}") for name in ("none", "fsdp"))
    assert states_differ(plain.tensors, sharded.tensors, tolerance=1e-9) == []
    for one, other in zip(plain.metadata["figures"], sharded.metadata["figures"], strict=True):
        assert other == pytest.approx(one, rel=1e-7, abs=1e-9)


@pytest.mark.slow
def test_one_process_continues_a_sharded_run(trained) -> None:
    assert steps_kept(trained / "run") == [2, 3]
    assert train(settings(trained / "pictures", trained / "run", **RUN), resume=True).steps == 4
    assert states_differ(weights(trained / "run"), weights(trained / "whole"), tolerance=1e-4) == []
    lines, whole = read_metrics(trained / "run"), read_metrics(trained / "whole")
    assert [line["rank_me"] for line in lines if "rank_me" in line] == pytest.approx(
        [line["rank_me"] for line in whole if "rank_me" in line], rel=1e-3
    )
    exported, other = (checkpoint.load_backbone(trained / name / "exported").state_dict() for name in ("run", "whole"))
    assert states_differ(exported, other, tolerance=1e-4) == []


@pytest.mark.parametrize(
    "changes", [{}, {"precision": "fp16"}, {"optimizer": OptimizerConfig("lars")}, {"compile": True}]
)
def test_what_cannot_be_sharded_is_refused(changes, picture_folder, tmp_path) -> None:
    with pytest.raises(UserError, match="--sharding fsdp"):
        train(replace(settings(picture_folder(8), tmp_path / "run", sharding="fsdp"), **changes))
