"""Processes that train together, as torchrun starts them: when one ends, all of them end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dinoscope import checkpoint

pytestmark = pytest.mark.slow

LIMIT = 300
"""Seconds for what takes a few on a quiet machine, and would take half an hour if a process waited for a dead one."""

PROGRAM = """
import os, signal, sys, time
import torch
torch.set_num_threads(1)
from dinoscope.cli import main
from dinoscope.training.trainer import Trainer
make_step = Trainer.make_step
how = sys.argv[1]
def step(trainer, views):
    if trainer.next_step == 2:
        if how == "deaf" and os.environ["RANK"] == "0":  # as a thread that waits for a GPU
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
            time.sleep(3600)
        if how == f"killed {os.environ['RANK']}" or how == "deaf":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == f"failed {os.environ['RANK']}":
            raise ZeroDivisionError("a fault of the program")
        if how == "asked to stop" and os.environ["RANK"] == "0":
            os.kill(os.getppid(), signal.SIGTERM)
    return make_step(trainer, views)
Trainer.make_step = step
code = main(sys.argv[2:])
sys.exit(code)
"""

OPTIONS = ["--recipe", "quickstart", "--epochs", "2", "--batch-size", "8", "--device", "cpu", "--workers", "1"]


def together(how: str, folder: Path, data: Path) -> tuple[subprocess.CompletedProcess[str], float]:
    """Train in two processes of which one behaves so; the output, and seconds from the third step to the end."""
    (folder / "program.py").write_text(PROGRAM)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    train = ["train", "--data", str(data), "--out", str(folder / "run"), *OPTIONS]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [*torchrun, str(folder / "program.py"), how, *train]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=environment, check=False)
    return done, time.time() - (folder / "run" / "metrics.jsonl").stat().st_mtime


@pytest.mark.parametrize("how", ["killed 0", "killed 1", "failed 0", "deaf"])
def test_when_a_process_of_the_group_dies_all_end(how, picture_folder, tmp_path: Path) -> None:
    done, seconds = together(how, tmp_path, picture_folder(24))
    assert done.returncode != 0
    assert seconds < 25, done.stderr  # torchrun kills after 30; on a quiet machine it takes two, of the deaf one six
    newest = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert (newest is None) == (how in ("killed 0", "deaf"))
    if newest is not None:
        assert checkpoint.load(newest).metadata["step"] == 2
        assert f"{newest} is whole: --resume continues from it" in done.stderr
    if how != "killed 0":
        assert "another process of the group has ended" in done.stderr


def test_a_group_that_is_asked_to_stop_stops_after_the_same_step(picture_folder, tmp_path: Path) -> None:
    done, _ = together("asked to stop", tmp_path, picture_folder(24))
    assert "continue: dinoscope train" in done.stdout, done.stderr
    newest = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert newest is not None
    assert checkpoint.load(newest).metadata["step"] >= 3
