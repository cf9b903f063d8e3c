"""The loader's processes: they end with the main one, and it does not wait for them for ever."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from dinoscope.data.loader import WINDOW, Batches, block_permutation
from dinoscope.errors import UserError

LIMIT = 120
"""Seconds that a busy machine may take for what should take a few."""


class Numbers(Dataset[int]):
    """Item i is i; at item `hangs` the process sleeps."""

    def __init__(self, hangs: int = -1) -> None:
        self.hangs = hangs

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> int:
        if index == self.hangs:
            time.sleep(3600)
        return index


def test_batches_come_in_order_and_the_workers_end_with_the_last() -> None:
    batches = Batches(Numbers(), 2, batch_size=4)
    assert torch.cat(list(batches)).tolist() == list(range(40))
    batches.close()
    assert multiprocessing.active_children() == []


def test_workers_end_at_once_when_they_are_deleted_in_the_middle_of_an_image() -> None:
    batches = Batches(Numbers(hangs=4), 1, batch_size=4)
    assert next(batches).tolist() == [0, 1, 2, 3]
    (worker,) = batches.workers
    del batches
    worker.join(LIMIT)
    assert worker.exitcode == 0


def test_a_worker_that_is_stopped_is_killed_at_the_end(monkeypatch) -> None:
    from dinoscope.data import loader

    monkeypatch.setattr(loader, "LEAVING", 0.1)
    batches = Batches(Numbers(), 1, batch_size=4)
    (worker,) = batches.workers
    os.kill(worker.pid, signal.SIGSTOP)
    batches.close()
    worker.join(LIMIT)
    assert worker.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("cut", [ConnectionResetError, EOFError, RuntimeError])
def test_a_worker_that_dies_as_it_hands_over_a_batch_is_told_in_one_line(cut, monkeypatch) -> None:
    """What torch raises depends on how far the worker had come."""
    batches = Batches(Numbers(hangs=4), 1, batch_size=4)

    def die(iterator: object) -> None:
        batches.workers[0].kill()
        raise cut

    monkeypatch.setattr(type(batches.iterator), "__next__", die)
    with pytest.raises(UserError, match=r"a loader process was killed \(signal 9\)"):
        list(batches)


@pytest.mark.slow
def test_a_batch_that_does_not_come_is_not_waited_for_without_limit() -> None:
    batches = Batches(Numbers(hangs=4), 1, patience=0.5, batch_size=4)
    assert next(batches).tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match=r"no batch of images came for \d+ s"):
        next(batches)
    assert multiprocessing.active_children() == []


def test_a_dead_worker_is_told_when_a_batch_is_asked_for_and_not_before() -> None:
    """Torch raises as soon as it dies, in the middle of an update or of writing a checkpoint."""
    batches = Batches(Numbers(), 1, batch_size=4)
    next(batches)
    (worker,) = batches.workers
    worker.kill()
    worker.join(LIMIT)
    assert sum(range(10)) == 45  # signals are handled between instructions
    with pytest.raises(UserError, match=r"killed \(signal 9\): the machine may be out of memory"):
        next(batches)
    batches.close()


def test_workers_end_when_the_main_process_is_killed() -> None:
    """In the middle of an image, too. All of them hold the pipe: it ends with the last one."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        next(Batches(Numbers(hangs=4), 2, batch_size=4))
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(writing)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert select.select([reading], [], [], LIMIT)[0] == [reading]
    assert os.read(reading, 1) == b""
    os.close(reading)


UNCAUGHT = """
import sys, time
from dinoscope.cli import main
from dinoscope.training.trainer import Trainer
make_step = Trainer.make_step
def fail(trainer, views):
    if trainer.next_step == 1:
        raise ZeroDivisionError("a fault of the program")
    return make_step(trainer, views)
Trainer.make_step = fail
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_an_uncaught_exception_ends_the_command_in_one_line(picture_folder, tmp_path: Path) -> None:
    """Python waits at its exit for workers, which ignored what it sends them: the command never ended."""
    out = tmp_path / "run"
    options = ["--recipe", "quickstart", "--epochs", "3", "--batch-size", "4", "--device", "cpu", "--workers", "2"]
    command = [sys.executable, "-c", UNCAUGHT, "train", "--data", str(picture_folder(24)), "--out", str(out), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=environment, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("dinoscope train: ZeroDivisionError: a fault of the program. ")
    assert "step-000000001.safetensors is whole: --resume continues from it" in done.stderr
    assert "Traceback" not in done.stderr
    assert "ZeroDivisionError: a fault" in (out / "train.log").read_text()


BESIDE_THREADS = """
import sys, cv2, numpy as np
from pathlib import Path
from dinoscope.data.finding import find_images
from dinoscope.data.loader import StepSampler, ViewsDataset, view_loader
from dinoscope.data.views import VIEWS

cv2.setNumThreads(4)
cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (31, 31), 5)
folder = find_images(Path(sys.argv[1]))
sampler = StepSampler(len(folder), 4, 0, range(2), rank=0, processes=1)
for views in view_loader(ViewsDataset(folder, VIEWS["small_32"], 0), sampler, workers=1, pin=False):
    print(tuple(views.global_views.shape))
"""


def test_workers_start_beside_opencv_threads(picture_folder) -> None:
    command = [sys.executable, "-c", BESIDE_THREADS, str(picture_folder(8))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.splitlines() == ["(2, 4, 3, 32, 32)"] * 2


@given(st.integers(1, 400), st.integers(1, 50), st.integers(0, 3))
def test_a_block_shuffle_takes_each_image_once_and_stays_near(images: int, block: int, epoch: int) -> None:
    order = np.random.default_rng(7).permutation(images)
    shuffled = block_permutation(order, block, 5, epoch)
    assert sorted(shuffled) == list(range(images))
    np.testing.assert_array_equal(shuffled, block_permutation(order, block, 5, epoch))
    blocks = np.argsort(order)[shuffled] // block  # of each image; a window may begin within one, and one is shorter
    for start in range(0, images, WINDOW * block):
        assert len(set(blocks[start : start + WINDOW * block])) <= WINDOW + 2


def test_a_block_shuffle_differs_between_epochs_and_mixes() -> None:
    orders = [block_permutation(np.arange(1000), 10, 0, epoch) for epoch in range(2)]
    assert (orders[0] != orders[1]).mean() > 0.9
    assert (np.abs(np.diff(orders[0])) == 1).mean() < 0.1
