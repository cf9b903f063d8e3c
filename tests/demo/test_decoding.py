"""Files of strangers are read in processes of their own: one that takes too long or crashes harms nobody else."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dinoscope.demo.pictures import Limits, Refused, read_picture
from dinoscope.demo.serving import DecodingProcesses
from dinoscope.errors import UserError

SECONDS = 60.0  # for what is quick, on a machine that is busy


@pytest.fixture(scope="module")
def processes() -> Iterator[DecodingProcesses]:
    processes = DecodingProcesses(1, SECONDS)
    yield processes
    processes.close()


def test_a_picture_is_the_same_as_when_it_is_read_here(processes: DecodingProcesses, picture_file: Path) -> None:
    apart, here = processes.run(read_picture, picture_file, Limits()), read_picture(picture_file, Limits())
    assert apart.digest == here.digest
    assert np.array_equal(apart.pixels, here.pixels)


def test_refusals_and_errors_come_back_as_they_were(processes: DecodingProcesses, tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    with pytest.raises(Refused) as refused:
        processes.run(read_picture, tmp_path / "empty.png", Limits())
    assert (refused.value.key, refused.value.values) == ("picture_empty", {})
    with pytest.raises(UserError, match="what is wrong"):
        processes.run(_fail)


def test_a_process_that_dies_is_replaced(processes: DecodingProcesses, picture_file: Path) -> None:
    with pytest.raises(Refused) as refused:
        processes.run(os._exit, 1)
    assert refused.value.key == "picture_damaged"
    assert processes.run(read_picture, picture_file, Limits()).size == (48, 64)


@pytest.mark.slow
def test_whatever_takes_too_long_is_ended_and_blocks_others_no_longer(picture_file: Path) -> None:
    processes = DecodingProcesses(1, seconds=1.0)
    reasons: list[str] = []
    pids: list[int] = [processes.run(os.getpid)]

    def hang() -> None:
        with pytest.raises(Refused) as refused:
            processes.run(time.sleep, 3600)
        reasons.append(refused.value.key)

    threads = [threading.Thread(target=hang) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert set(reasons) <= {"picture_slow", "page_busy"}
    assert "picture_slow" in reasons
    assert processes.run(os.getpid) != pids[0]
    processes.close()
    with pytest.raises(OSError):
        os.kill(pids[0], signal.SIGTERM)


def _fail() -> None:
    raise UserError("what is wrong")
