"""Ten `kill -9` at random moments, of a run on a tar, and it ends as one on the folder to which nothing happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dinoscope import checkpoint
from dinoscope.training.run_folder import read_metrics
from tests.containers import write_tar

KILLS, STEPS = 10, 120
PATIENCE = 300
"""Seconds until a process must have made its next step: importing torch on a busy machine takes a while."""

OPTIONS = [
    "--recipe",
    "quickstart",
    "--epochs",
    "20",
    "--batch-size",
    "4",
    "--device",
    "cpu",
    "--precision",
    "fp32",
    "--drop-path",
    "0.1",
    "--method.out-dim",
    "64",
    "--method.hidden-dim",
    "32",
    "--method.bottleneck-dim",
    "16",
    "--optimizer.learning-rate",
    "2e-2",
    "--saving.every-steps",
    "1",
    "--log-every",
    "1",
    "--evaluate-every",
    "0",
]


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that do not outlive a test that fails."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def start(data: Path, out: Path, *, resume: bool, workers: int) -> subprocess.Popen[bytes]:
    """A real `dinoscope train`, on one thread."""
    how = ["--resume", "--workers", f"{workers}"] if resume else ["--data", str(data), *OPTIONS]
    command = [sys.executable, "-m", "dinoscope", "train", "--out", str(out), *how]
    # A file, not a pipe: loader processes whose parent was killed hold a pipe open for seconds.
    with errors(out).open("wb") as file:
        return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=file, stderr=file)


def errors(out: Path) -> Path:
    """What the last process of a run has printed."""
    return out.with_suffix(".txt")


def finish(process: subprocess.Popen[bytes], out: Path) -> None:
    """Wait for the end, which must be a good one."""
    assert process.wait(timeout=PATIENCE) == 0, errors(out).read_text()


def kill_after(process: subprocess.Popen[bytes], out: Path, step: int, delay: float) -> None:
    """Kill -9 this many seconds after the process has logged the step: anywhere in what follows."""
    deadline = time.monotonic() + PATIENCE
    while logged(out) < step:
        assert process.poll() is None, f"it ended before step {step}: {errors(out).read_text()}"
        assert time.monotonic() < deadline, f"no step {step} in {PATIENCE} s"
        time.sleep(0.002)
    time.sleep(delay)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def logged(out: Path) -> int:
    """Lines of metrics.jsonl."""
    try:
        return (out / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def saved(out: Path) -> int:
    """Step of the newest checkpoint; each one there is must be whole."""
    paths = sorted((out / "checkpoints").glob("step-*.safetensors"))
    return max((checkpoint.load(path).metadata["step"] for path in paths), default=0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_kills_change_nothing(started, picture_folder, tmp_path) -> None:
    chance = random.Random(0)
    data, whole, killed = picture_folder(24), tmp_path / "whole", tmp_path / "killed"
    uninterrupted = start(data, whole, resume=False, workers=0)
    process = start(write_tar(data, tmp_path / "pictures"), killed, resume=False, workers=0)
    started += [uninterrupted, process]
    step = 0
    for number in range(KILLS):
        kill_after(process, killed, step + chance.randint(1, 5), chance.uniform(0, 0.06))
        before, step = step, saved(killed)
        assert before <= step < STEPS
        process = start(data, killed, resume=True, workers=number % 2)
        started.append(process)
    finish(process, killed)
    finish(uninterrupted, whole)

    expected, actual = (checkpoint.load(checkpoint.step_path(run / "checkpoints", STEPS)) for run in (whole, killed))
    assert expected.tensors.keys() == actual.tensors.keys()
    assert [name for name in expected.tensors if not torch.equal(expected.tensors[name], actual.tensors[name])] == []
    losses = [[(line["step"], line["loss"]) for line in read_metrics(run)] for run in (whole, killed)]
    assert len(losses[0]) == STEPS
    assert losses[0] == losses[1]
    kept = sorted(path.name for path in (killed / "checkpoints").iterdir())
    assert kept == [checkpoint.step_path(killed, step).name for step in (STEPS - 1, STEPS)]  # nothing half written
