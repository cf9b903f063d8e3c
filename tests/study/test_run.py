"""`dinoscope.study.run`: order, room, failures and signals, with runs that take no time or as long as told."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dinoscope.errors import UserError
from dinoscope.study import run as engine
from dinoscope.study.run import POLL_SECONDS, RunStatus, execute
from dinoscope.training.config import RunConfig
from tests.study.test_state import settings


class Fake:
    """A run that takes `looks` polls; how it obeys is noted."""

    def __init__(self, code: int, looks: int, on_end: Callable[[], None]) -> None:
        self.code, self.looks, self.on_end = code, looks, on_end
        self.received: list[str] = []

    def poll(self) -> int | None:
        self.looks -= 1
        if self.looks > 0:
            return None
        self.on_end()
        return self.code

    def stop(self) -> None:
        self.received.append("stop")

    def kill(self) -> None:
        self.received.append("kill")
        self.code, self.looks = -signal.SIGKILL, 0

    def diagnosis(self) -> str:
        return "CUDA out of memory"


class FakeRunner:
    """Starts `Fake`s: codes and lengths by name, else 0 and one look."""

    def __init__(self, at_once: int = 1, codes: dict[str, int] | None = None, looks: int = 1) -> None:
        self.at_once, self.codes, self.looks = at_once, codes or {}, looks
        self.started: list[str] = []
        self.running = self.most = 0
        self.handles: dict[str, Fake] = {}

    def start(self, configs: Sequence[RunConfig]) -> list[Fake]:
        return [self._start(config.out.name) for config in configs]

    def _start(self, name: str) -> Fake:
        self.started.append(name)
        self.running += 1
        self.most = max(self.most, self.running)
        self.handles[name] = Fake(self.codes.get(name, 0), self.looks, self._ended)
        return self.handles[name]

    def _ended(self) -> None:
        self.running -= 1


def configs(tmp_path: Path, count: int) -> list[RunConfig]:
    return [settings(tmp_path, tmp_path / "runs" / f"r{number}") for number in range(count)]


def test_in_order_and_never_more_than_there_is_room_for(tmp_path) -> None:
    runner = FakeRunner(at_once=3, looks=2)
    result = execute(configs(tmp_path, 8), runner)
    assert runner.started == [f"r{number}" for number in range(8)]
    assert runner.most == 3
    assert [run.state for run in result.runs] == ["finished"] * 8
    assert not result.interrupted


def test_a_failure_is_a_result_and_the_others_go_on(tmp_path) -> None:
    runner = FakeRunner(at_once=2, codes={"r1": 1, "r3": 130})
    result = execute(configs(tmp_path, 5), runner)
    assert [run.state for run in result.runs] == ["finished", "failed", "finished", "stopped", "finished"]
    assert result.runs[1].diagnosis == "CUDA out of memory"
    assert [run.name for run in result.named("failed", "stopped")] == ["r1", "r3"]
    assert not result.interrupted


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the engine wanted to sleep, which it does not: how long a test takes says nothing of the engine."""
    slept: list[float] = []
    monkeypatch.setattr(engine.time, "sleep", slept.append)
    return slept


def test_the_engine_adds_little_to_instant_runs(tmp_path, naps) -> None:
    runs = configs(tmp_path, 200)
    looks = 0

    def watch(runs: Sequence[RunStatus]) -> None:
        nonlocal looks
        looks += 1

    assert len(execute(runs, FakeRunner(), watch).named("finished")) == 200
    assert naps == []  # no sleep between runs
    assert looks <= 200 + 2  # one ends and the next begins in the same look


def test_it_is_idle_while_nothing_happens(tmp_path, naps) -> None:
    execute(configs(tmp_path, 1), FakeRunner(looks=6))
    assert naps == [POLL_SECONDS] * 5
    assert POLL_SECONDS >= 0.1


def test_the_first_signal_asks_and_starts_no_more(tmp_path) -> None:
    runner = FakeRunner(at_once=2, codes={"r0": 130, "r1": 0}, looks=4)
    sent: list[int] = []

    def watch(runs: Sequence[RunStatus]) -> None:
        if runner.started and not sent:
            sent.append(1)
            os.kill(os.getpid(), signal.SIGINT)

    result = execute(configs(tmp_path, 4), runner, watch)
    assert result.interrupted
    assert runner.started == ["r0", "r1"]
    assert [runner.handles[name].received for name in ("r0", "r1")] == [["stop"], ["stop"]]
    # The second one came to its end before it could be stopped.
    assert [run.state for run in result.runs] == ["stopped", "finished", "new", "new"]


def test_the_second_signal_kills(tmp_path) -> None:
    runner = FakeRunner(looks=10_000)

    def watch(runs: Sequence[RunStatus]) -> None:
        if runner.started:
            os.kill(os.getpid(), signal.SIGTERM)

    result = execute(configs(tmp_path, 2), runner, watch)
    assert runner.handles["r0"].received[:2] == ["stop", "kill"]
    assert [run.state for run in result.runs] == ["stopped", "new"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # as before


def test_a_runner_that_breaks_leaves_nothing_running(tmp_path) -> None:
    class Breaking(FakeRunner):
        def _start(self, name: str) -> Fake:
            if name == "r2":
                raise UserError("the disk is full")
            handle = super()._start(name)
            handle.looks = 1000 if name == "r0" else 1
            return handle

    runner = Breaking(at_once=2)
    with pytest.raises(UserError, match="disk is full"):
        execute(configs(tmp_path, 4), runner)
    assert runner.handles["r0"].received == ["stop"]


def test_two_runs_in_one_folder_are_refused(tmp_path) -> None:
    runner = FakeRunner()
    with pytest.raises(UserError, match="two runs of the study would write to"):
        execute(configs(tmp_path, 1) * 2, runner)
    assert runner.started == []


def test_nothing_starts_where_a_folder_holds_something_else(tmp_path) -> None:
    runs, runner = configs(tmp_path, 3), FakeRunner()
    runs[2].out.mkdir(parents=True)
    (runs[2].out / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="r2 is in the way"):
        execute(runs, runner)
    assert runner.started == []
