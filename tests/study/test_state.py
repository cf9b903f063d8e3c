"""`dinoscope.study.state`: what a run folder says, and bringing it to its end from wherever it stands."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dinoscope import checkpoint
from dinoscope.errors import UserError
from dinoscope.study.state import RunState, bring_to_end, run_state
from dinoscope.training.config import RunConfig
from dinoscope.training.listeners import Listener, StepRecord
from dinoscope.training.loop import RunResult, train
from tests.conformance import cases


def settings(data: Path, out: Path, **changes: object) -> RunConfig:
    """Three epochs of one step on twelve pictures."""
    return cases.run_config("dino", data, out, **{"batch_size": 12, "threads": 1, **changes})


class StopAfterOne(Listener):
    """The person presses Ctrl-C during the first step."""

    def stepped(self, record: StepRecord) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def train_and_stop(config: RunConfig, *, resume: bool) -> RunResult:
    """`train`, stopped after one step."""
    return train(config, resume=resume, listeners=[StopAfterOne()])


def not_to_be_called(config: RunConfig, *, resume: bool) -> RunResult:
    """For runs at which there is nothing to do."""
    raise AssertionError(f"{config.out} was trained again")


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file with its bytes and its time of change."""
    return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.rglob("*") if file.is_file()}


def weights(out: Path) -> dict[str, torch.Tensor]:
    """All tensors of the newest checkpoint."""
    newest = checkpoint.latest(out / "checkpoints")
    assert newest is not None
    return checkpoint.load(newest).tensors


def assert_equal_weights(first: Path, second: Path) -> None:
    """Bit for bit, optimiser and all."""
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_new_begun_finished(picture_folder, tmp_path) -> None:
    config = settings(picture_folder(12), tmp_path / "runs" / "a")
    assert run_state(config) == RunState("new")
    assert not bring_to_end(config, train_and_stop)
    begun = run_state(config)
    assert (begun.name, begun.steps) == ("running", 1)
    assert bring_to_end(config, train)
    assert (run_state(config).name, run_state(config).steps) == ("finished", 3)
    before = contents(config.out)
    assert bring_to_end(config, not_to_be_called)
    assert contents(config.out) == before

    whole = replace(config, out=tmp_path / "whole")
    train(whole)
    assert_equal_weights(config.out, whole.out)


def test_a_kill_between_the_last_checkpoint_and_the_export(picture_folder, tmp_path) -> None:
    config = settings(picture_folder(12), tmp_path / "a")
    train(config)
    (config.out / "exported" / "backbone.json").unlink()
    (config.out / "exported" / ".backbone.json.partial-1").mkdir()
    assert run_state(config).name == "running"
    assert bring_to_end(config, train)
    assert run_state(config).name == "finished"
    assert sorted(file.name for file in (config.out / "exported").iterdir()) == [
        "backbone.json",
        "backbone.safetensors",
    ]


def test_a_finished_run_whose_checkpoints_were_deleted_stays_finished(picture_folder, tmp_path) -> None:
    config = settings(picture_folder(12), tmp_path / "a")
    train(config)
    shutil.rmtree(config.out / "checkpoints")
    assert run_state(config) == RunState("finished")
    assert bring_to_end(config, not_to_be_called)


@pytest.mark.parametrize("left", ["nothing", "empty", "before settings", "before a checkpoint", "half deleted"])
def test_what_a_kill_can_leave_before_the_first_checkpoint(left, picture_folder, tmp_path) -> None:
    config = settings(picture_folder(12), tmp_path / "a[1]", epochs=1)
    out = config.out
    if left != "nothing":
        out.mkdir()
    if left == "before settings":
        (out / "checkpoints").mkdir()
        (out / ".config.json.partial-12").mkdir()
        (out / ".config.json.partial-12" / "config.json").write_text("{")
    if left == "before a checkpoint":
        train(config)
        for folder in ("exported", "checkpoints"):
            shutil.rmtree(out / folder)
        (out / "checkpoints" / ".step-000000001.safetensors.partial-12").mkdir(parents=True)
    if left == "half deleted":  # killed while an unusable run was being removed
        (tmp_path / ".a[1].discarded-12").mkdir()
    assert run_state(config) == RunState("new")
    assert bring_to_end(config, train)
    assert run_state(config).name == "finished"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a[1].lock", "a[1]", "pictures"]


def test_other_settings_are_named(picture_folder, tmp_path) -> None:
    config = settings(picture_folder(12), tmp_path / "a", epochs=1)
    train(config)
    other = replace(config, seed=3, method=replace(config.method, teacher_momentum=0.5))
    before = contents(config.out)
    with pytest.raises(
        UserError, match=r"begun with other settings: method.teacher_momentum: 0.9 -> 0.5; seed: 0 -> 3"
    ):
        bring_to_end(other, not_to_be_called)
    assert contents(config.out) == before
    assert run_state(replace(config, workers=2, device="auto")).name == "finished"  # these decide nothing


@pytest.mark.parametrize("content", ["holiday.txt", "config.json", "checkpoints/step-1.safetensors"])
def test_what_is_not_a_run_is_left_alone(content, picture_folder, tmp_path) -> None:
    config = settings(picture_folder(12), tmp_path / "a")
    file = config.out / content
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"mine": 1}))
    with pytest.raises(UserError, match=r"is not a run folder|does not hold the settings of a run"):
        bring_to_end(config, not_to_be_called)
    assert file.read_text() == json.dumps({"mine": 1})


def test_a_file_in_the_way(picture_folder, tmp_path) -> None:
    config = settings(picture_folder(12), tmp_path / "a")
    config.out.write_text("mine")
    with pytest.raises(UserError, match="in the way"):
        run_state(config)


HOLD = "import filelock, sys; held = filelock.FileLock(sys.argv[1]).acquire(); print('held', flush=True); input()"


def test_a_run_that_another_process_is_at_is_waited_for(picture_folder, tmp_path) -> None:
    config = settings(picture_folder(12), tmp_path / "a", epochs=1)
    command = [sys.executable, "-c", HOLD, str(tmp_path / ".a.lock")]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    begun: list[Path] = []

    def note(config: RunConfig, *, resume: bool) -> RunResult:
        begun.append(config.out)
        return RunResult(config.out, 1, interrupted=False)

    waiting = threading.Thread(target=bring_to_end, args=(config, note))
    waiting.start()
    time.sleep(0.2)  # time enough for it to begin, if it were to begin at all
    assert begun == []
    holder.kill()  # the lock goes with the process
    holder.wait()
    waiting.join(timeout=120)  # far more than it takes: the lock is free
    assert len(begun) == 1
