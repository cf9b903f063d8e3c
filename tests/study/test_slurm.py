"""`dinoscope.study.slurm`: submitit's local executor, and the SLURM one against commands that stand in for SLURM's."""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dinoscope.errors import UserError
from dinoscope.study.run import execute
from dinoscope.study.slurm import SlurmConfig, SlurmRunner
from dinoscope.study.state import run_state
from dinoscope.training.config import RunConfig, SavingConfig
from dinoscope.training.loop import train
from tests.study.test_state import assert_equal_weights, settings
from tests.study.test_worker import PATIENCE, logged, script, wait_for

pytest.importorskip("submitit")

WORKER = script(
    "import json, sys, pathlib, os\n"
    "out = pathlib.Path(json.loads(pathlib.Path(sys.argv[1]).read_text())['out'])\n"
    "out.with_name(out.name + '.done').write_text(os.environ['OMP_NUM_THREADS'])\n"
    "sys.exit('no labels here' if out.name == 'bad' else 0)\n"
)
"""Leaves a file and ends; the run called "bad" fails."""

STAND_INS = {
    "sbatch": """
cp "$1" "$FAKE/job.sh"; echo "$1" >> "$FAKE/submitted"
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
for task in $(seq 0 "${last:-0}"); do
    env SLURM_JOB_ID=9$task SLURM_ARRAY_JOB_ID=77 SLURM_ARRAY_TASK_ID=$task bash "$1" > "$FAKE/$task.out" 2>&1 &
done
echo "Submitted batch job 77"
""",
    "srun": """
while true; do case "$1" in --unbuffered) shift;; --output|--error) shift 2;; *) break;; esac; done
exec "$@"
""",
    "sacct": """
echo "JobID|State|NodeList"
cat "$FAKE/states" 2>/dev/null
""",
    "scancel": 'echo "$@" >> "$FAKE/cancelled"',
}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of commands that look like SLURM's to submitit; what they were told is in it."""
    folder = tmp_path / "fake"
    folder.mkdir()
    for name, text in STAND_INS.items():
        file = folder / name
        file.write_text(f"#!/bin/bash\n{text}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(folder))
    return folder


def runner(tmp_path: Path, command: Sequence[str] = WORKER, cluster: str = "slurm", **asked: object) -> SlurmRunner:
    return SlurmRunner(command, SlurmConfig(**asked), 2, tmp_path / "out" / "slurm", cluster, every=0.2)


def runs(tmp_path: Path, *names: str) -> list[RunConfig]:
    return [settings(tmp_path, tmp_path / "out" / "runs" / name, threads=0) for name in names]


@pytest.mark.slow
def test_one_array_for_all_runs(fake, tmp_path) -> None:
    asked = runner(tmp_path, timeout_minutes=90, gpus=1, cpus=3, partition="gpu", account="vision")
    result = execute(runs(tmp_path, "good", "bad", "fine"), asked)
    assert [run.state for run in result.runs] == ["finished", "failed", "finished"]
    assert result.runs[1].diagnosis == "no labels here"
    assert (tmp_path / "out" / "runs" / "good.done").read_text() == "3"
    lines = (fake / "job.sh").read_text().splitlines()
    for option in ("array=0-2%2", "time=90", "gpus-per-node=1", "cpus-per-task=3", "partition=gpu", "account=vision"):
        assert f"#SBATCH --{option}" in lines
    assert "#SBATCH --signal=USR2@120" in lines
    assert not any("qos" in line for line in lines)


def test_a_job_that_is_still_queued_is_taken_over(fake, tmp_path) -> None:
    (fake / "srun").write_text("#!/bin/bash\n")  # the jobs never begin
    configs = runs(tmp_path, "a", "b")
    first = runner(tmp_path).start(configs)
    assert [handle.job.job_id for handle in first] == ["77_0", "77_1"]
    assert (fake / "submitted").read_text().count("\n") == 1
    (fake / "states").write_text("77_0|RUNNING|n1\n77_1|PENDING|None\n")
    again = runner(tmp_path).start(configs)
    assert [handle.job.job_id for handle in again] == ["77_0", "77_1"]
    assert (fake / "submitted").read_text().count("\n") == 1
    (fake / "states").write_text("77_0|RUNNING|n1\n77_1|NODE_FAIL|None\n")
    runner(tmp_path).start(configs)
    assert (fake / "submitted").read_text().count("\n") == 2  # only for the one that died
    assert "array" not in (fake / "job.sh").read_text()


def test_stopping_cancels(fake, tmp_path) -> None:
    (fake / "srun").write_text("#!/bin/bash\n")
    (handle,) = runner(tmp_path).start(runs(tmp_path, "a"))
    assert handle.poll() is None
    handle.stop()
    assert handle.poll() == 130
    assert (fake / "cancelled").read_text() == "77\n"


def test_a_cluster_that_refuses_is_one_line(fake, tmp_path) -> None:
    (fake / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: invalid partition: gpuu' >&2; exit 1\n")
    with pytest.raises(UserError, match=r"SLURM did not take the jobs: .*invalid partition"):
        runner(tmp_path, partition="gpuu").start(runs(tmp_path, "a", "b"))


def test_what_is_missing_is_said(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no SLURM here"):
        runner(tmp_path)
    with pytest.raises(UserError, match="--gpus must be 0 or 1"):
        runner(tmp_path, cluster="local", gpus=2)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"needs submitit: pip install 'dinoscope\[slurm\]'"):
        runner(tmp_path)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_a_preempted_run_is_queued_again_and_goes_on(picture_folder, tmp_path) -> None:
    """submitit's local executor answers USR2, SLURM's warning, as it does on a cluster."""
    from dinoscope.study.run import WORKER as COMMAND

    config = settings(picture_folder(12), tmp_path / "out" / "runs" / "a", epochs=40, precision="fp32")
    config = replace(config, saving=SavingConfig(every_steps=0))
    sent: list[int] = []

    def interrupt() -> None:
        if not sent and logged(config) >= 5:
            (task,) = children(int(handles[0].job.job_id))
            os.kill(task, signal.SIGUSR2)
            sent.append(logged(config))

    asked = runner(tmp_path, COMMAND, "local", gpus=0, cpus=1)
    handles = asked.start([config])
    deadline = time.monotonic() + PATIENCE
    while handles[0].poll() is None:
        assert time.monotonic() < deadline
        interrupt()
        time.sleep(0.01)
    assert handles[0].job.result() == 0
    assert sent
    assert sent[0] < 40
    wait_for(lambda: run_state(config).name == "finished", "the end of the run")
    assert "resumed: at step" in (tmp_path / "out" / "runs" / "a.log").read_text()
    whole = replace(config, out=tmp_path / "whole")
    train(whole)
    assert_equal_weights(config.out, whole.out)
