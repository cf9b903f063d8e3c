"""`dinoscope.study.run` and the worker: real processes, killed at will."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dinoscope.data.views import ViewsConfig
from dinoscope.errors import UserError
from dinoscope.study.run import LocalRunner, WorkerProcess, execute, last_lines, read_settings, write_settings
from dinoscope.study.state import run_state
from dinoscope.system import available_cores
from dinoscope.training.config import RunConfig, SavingConfig
from dinoscope.training.loop import train
from tests.study.test_state import assert_equal_weights, contents, settings

PATIENCE = 120
"""Seconds until a process must have come so far: importing torch on a busy machine takes a while."""


def script(text: str) -> tuple[str, ...]:
    """A worker that imports nothing heavy; sys.argv[1] is the settings file."""
    return (sys.executable, "-S", "-c", text)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE} s for {what}"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether the process is there, and no zombie."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_settings_arrive_exactly(tmp_path) -> None:
    config = settings(
        tmp_path / "späce and \udcff",
        tmp_path / "runs" / "a.b",
        views=ViewsConfig(global_scale=(0.1 + 0.2, 1 / 3 + 0.6)),
    )
    assert read_settings(write_settings(config)) == config


@pytest.mark.parametrize("text", ["{", "{}", '{"unknown": 1}'])
def test_damaged_settings_are_refused(text, tmp_path) -> None:
    (tmp_path / "a.settings.json").write_text(text)
    with pytest.raises(UserError, match=r"a\.settings\.json"):
        read_settings(tmp_path / "a.settings.json")


def test_threads_are_pinned_and_gpus_shared_out(tmp_path) -> None:
    command = script("import os; print(os.environ['OMP_NUM_THREADS'], os.environ.get('CUDA_VISIBLE_DEVICES')); input()")
    configs = [settings(tmp_path, tmp_path / f"r{number}", threads=number) for number in range(3)]
    processes = LocalRunner(command, 1, gpus=("4", "GPU-b")).start(configs)
    wait_for(lambda: all(last_lines(process.log) for process in processes), "what they print")
    assert [last_lines(process.log) for process in processes] == [f"{available_cores()} 4", "1 GPU-b", "2 4"]
    for process in processes:
        process.kill()
        assert process.process.wait() == -signal.SIGKILL


def test_a_failed_run_shows_its_last_lines_and_the_others_finish(tmp_path) -> None:
    text = (
        "import json, sys, pathlib\n"
        "out = pathlib.Path(json.loads(pathlib.Path(sys.argv[1]).read_text())['out'])\n"
        "[print('line', number) for number in range(50)]\n"
        "sys.exit('no space left' if out.name == 'b' else 0)\n"
    )
    configs = [settings(tmp_path, tmp_path / name) for name in "abc"]
    (tmp_path / "b.log").write_text("of an earlier try\n")
    result = execute(configs, LocalRunner(script(text), 2))
    assert [run.state for run in result.runs] == ["finished", "failed", "finished"]
    diagnosis = result.runs[1].diagnosis.splitlines()
    assert diagnosis[-2:] == ["line 49", "no space left"]
    assert len(diagnosis) == 12
    assert (tmp_path / "b.log").read_text().startswith("of an earlier try\nline 0\n")


def test_a_killed_run_says_so(tmp_path) -> None:
    process = WorkerProcess(script("input()"), settings(tmp_path, tmp_path / "a"), {})
    process.kill()
    process.process.wait()
    assert process.diagnosis() == "killed by signal 9 (the machine may be out of memory)"


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Callable[[Sequence[RunConfig]], subprocess.Popen[bytes]]]:
    """Start a study of real workers in a process of its own; its workers' ids go to `pids`."""
    program = """
import pathlib, sys
from dinoscope.study.run import WORKER as COMMAND
from dinoscope.study.run import execute
from dinoscope.study.run import LocalRunner, read_settings

class Telling(LocalRunner):
    def start(self, configs):
        processes = super().start(configs)
        with open(sys.argv[1], "a") as file:
            for config, process in zip(configs, processes):
                file.write(f"{config.out.name} {process.process.pid}\\n")
        return processes

result = execute([read_settings(pathlib.Path(file)) for file in sys.argv[2:]], Telling(COMMAND, 1))
print([(run.name, run.state, run.before, run.diagnosis) for run in result.runs])
sys.exit(130 if result.interrupted else len(result.named("failed", "stopped")))
"""
    started: list[subprocess.Popen[bytes]] = []

    def start(configs: Sequence[RunConfig]) -> subprocess.Popen[bytes]:
        (tmp_path / "pids").unlink(missing_ok=True)
        files = [str(write_settings(config)) for config in configs]
        with (tmp_path / "study.log").open("wb") as log:
            command = [sys.executable, "-c", program, str(tmp_path / "pids"), *files]
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def pids(tmp_path: Path) -> dict[str, int]:
    """Of the workers that the study has started."""
    try:
        lines = (tmp_path / "pids").read_text().splitlines()
    except FileNotFoundError:
        return {}
    return {line.split()[0]: int(line.split()[1]) for line in lines if len(line.split()) == 2}


def logged(config: RunConfig) -> int:
    """Lines of metrics.jsonl."""
    try:
        return (config.out / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["study and worker", "study", "stopped"])
def test_a_study_killed_in_the_middle_ends_in_the_same_result(killed, driver, picture_folder, tmp_path) -> None:
    data = picture_folder(12)
    short = settings(data, tmp_path / "runs" / "short", epochs=1, precision="fp32")
    long = replace(short, out=tmp_path / "runs" / "long", epochs=40, saving=SavingConfig(every_steps=3))
    last = replace(short, out=tmp_path / "runs" / "last", seed=7)
    configs = [short, long, last]

    study = driver(configs)
    wait_for(lambda: logged(long) >= 5, "the middle of the study")
    assert run_state(short).name == "finished"
    worker = pids(tmp_path)["long"]
    if killed == "stopped":
        study.send_signal(signal.SIGINT)
        assert study.wait(PATIENCE) == 130
    else:
        study.kill()
    if killed == "study and worker":
        os.kill(worker, signal.SIGKILL)
    wait_for(lambda: not alive(worker), "the end of the worker")
    assert run_state(long).name == "running"
    if killed != "study and worker":  # it saved every step that it made, not only each third
        assert run_state(long).steps == logged(long)
    before = contents(short.out)

    study = driver(configs)
    assert study.wait(PATIENCE) == 0, (tmp_path / "study.log").read_text()
    assert contents(short.out) == before  # finished runs are not repeated
    assert [run_state(config).name for config in configs] == ["finished"] * 3
    for config in configs:
        whole = replace(config, out=tmp_path / "whole" / config.out.name)
        train(whole)
        assert_equal_weights(config.out, whole.out)


@pytest.mark.slow
def test_the_worker_trains_watches_and_fails_in_one_line(picture_folder, tmp_path) -> None:
    from dinoscope.study.run import WORKER as COMMAND

    data = picture_folder(24, classes=2)
    good = settings(data, tmp_path / "runs" / "good", epochs=1, evaluate_every=1)
    bad = replace(good, out=tmp_path / "runs" / "bad", batch_size=100)
    result = execute([bad, good], LocalRunner(COMMAND, 2))
    assert [run.state for run in result.runs] == ["failed", "finished"]
    last = result.runs[0].diagnosis.splitlines()[-1]  # after the progress of the scan
    assert last == "--batch-size 100 is more than the 24 readable images: lower it"
    values = [json.loads(line) for line in (good.out / "metrics.jsonl").read_text().splitlines()]
    assert "knn_top1" in values[-1]
