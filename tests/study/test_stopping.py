"""`dinoscope.study.state` and `run`: marks, the median rule, and runs that collapse."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dinoscope.errors import UserError
from dinoscope.methods.health import Verdict
from dinoscope.study import run as engine
from dinoscope.study.results import outcome
from dinoscope.study.run import MedianRule, RunStatus, behind, execute
from dinoscope.study.state import (
    STOPPED,
    StopOnCollapse,
    Stopped,
    mark_stopped,
    stopped_early,
)
from dinoscope.training import listeners
from dinoscope.training.listeners import Listener, StepRecord
from dinoscope.training.loop import train
from dinoscope.training.run_folder import Circumstances, read_circumstances
from tests.study.test_run import FakeRunner
from tests.study.test_state import settings

GOOD = [{0: 10.0, 1: 20.0, 2: 30.0}, {0: 12.0, 1: 22.0, 2: 32.0}, {0: 8.0, 1: 18.0, 2: 28.0}]
"""Means until epoch 1 (from 0): 15, 17, 13; their median is 15."""


def test_the_best_so_far_against_the_median_of_the_means_so_far() -> None:
    verdict = behind({0: 14.9, 1: 3.0}, GOOD, warm_up=2)
    assert verdict is not None
    assert "until epoch 2 is 14.9 %, below 15.0 %" in verdict
    assert "3 other runs" in verdict
    assert behind({0: 3.0, 1: 15.0}, GOOD, warm_up=2) is None  # strictly below
    assert behind({0: 14.9, 1: 3.0}, GOOD, warm_up=2.1) is None  # still warming up
    assert behind({0: 14.9, 1: 3.0}, GOOD[:2], warm_up=2) is None  # two others are no median
    assert behind({0: 1.0, 3: 1.0}, GOOD, warm_up=2) is None  # none has come as far
    assert behind({}, GOOD, warm_up=0) is None


def write_curve(run: Path, curve: Mapping[int, float]) -> None:
    """Ten steps an epoch."""
    run.mkdir(exist_ok=True)
    lines = [{"step": 10 * epoch + 9, "epoch": epoch, "knn_top1": value} for epoch, value in curve.items()]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_rule_stops_the_straggler_and_spares_the_base(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(engine, "LOOK_SECONDS", 0.0)
    earlier = [tmp_path / f"good{number}" for number in range(3)]
    for run, curve in zip(earlier, GOOD, strict=True):
        write_curve(run, curve)
    bad, base = (settings(tmp_path, tmp_path / name, epochs=4) for name in ("bad", "base"))
    runner = FakeRunner(at_once=2, looks=3)
    rule = MedianRule({"base"}, earlier)

    def watch(runs: Sequence[RunStatus]) -> None:
        if runner.handles:
            write_curve(bad.out, {0: 1.0, 1: 1.0})
            write_curve(base.out, {0: 0.0, 1: 0.0})
        rule(runs)

    execute([bad, base], runner, watch)
    received = {name: handle.received for name, handle in runner.handles.items()}
    assert received == {"bad": ["stop"], "base": []}
    mark = stopped_early(bad)
    assert mark is not None
    assert (mark.rule, mark.steps) == ("stop-median", 20)
    assert "is 1.0 %, below 14.0 %" in mark.diagnosis  # of 15, 17, 13, and the base's 0
    assert stopped_early(base) is None


def test_a_mark_holds_for_the_settings_that_it_was_made_with(picture_folder, tmp_path) -> None:
    config = settings(picture_folder(12), tmp_path / "run", epochs=1)
    assert stopped_early(config) is None
    train(config)
    mark_stopped(config.out, Stopped("stop-median", 7, "it fell behind"))
    found = stopped_early(config)
    assert found is not None
    assert found.diagnosis == "stopped early after 7 steps: it fell behind"
    with pytest.raises(UserError, match="begun with other settings: seed: 0 -> 1"):
        stopped_early(replace(config, seed=1))
    (config.out / STOPPED).write_text("{")
    with pytest.raises(UserError, match="Delete it to continue"):
        stopped_early(config)


class Judging(Listener):
    """Passes a verdict on to another listener, as the loop does."""

    def __init__(self, other: Listener, at: int) -> None:
        self.other, self.at = other, at

    def started(self, start) -> None:
        self.other.started(start)

    def stepped(self, record: StepRecord) -> None:
        if record.step.index == self.at:
            self.other.diagnosed(record.step, Verdict("one point", "collapsed to one point"))


def test_a_collapsed_run_stops_after_its_step_and_is_a_result(picture_folder, tmp_path) -> None:
    config = settings(picture_folder(12), tmp_path / "run")
    result = train(config, listeners=[Judging(StopOnCollapse(), 1)])
    assert (result.steps, result.interrupted) == (2, True)
    found = outcome(config)
    assert (found.state, found.diagnosis) == ("stopped", "stopped early after 2 steps: collapsed to one point")
    assert len(found.curves["loss"]) == 2
    assert "seconds" not in found.metrics


def test_the_loop_tells_of_a_collapse_once(picture_folder, tmp_path, monkeypatch) -> None:
    _always_collapsed(monkeypatch, patience=2)
    hearing = Hearing()
    train(settings(picture_folder(12), tmp_path / "run"), listeners=[hearing])
    assert hearing.heard == [(1, "one output")]


def test_patience_counts_the_steps_before_a_stop(picture_folder, tmp_path, monkeypatch) -> None:
    """Steps 0 and 1 were made by an earlier process; the verdict is due after the third one."""
    _always_collapsed(monkeypatch, patience=3)
    config, hearing = settings(picture_folder(12), tmp_path / "run"), Hearing()
    train(config, listeners=[Judging(StopOnCollapse(), 1)])
    (config.out / STOPPED).unlink()
    train(config, resume=True, listeners=[hearing, StopOnCollapse()])
    assert hearing.heard == [(2, "one output")]
    assert (mark := stopped_early(config)) is not None
    assert mark.steps == 3


class Hearing(Listener):
    """Keeps the verdicts with the index of their step."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, str]] = []

    def diagnosed(self, step, verdict) -> None:
        self.heard.append((step.index, verdict.kind))


def _always_collapsed(monkeypatch, *, patience: int) -> None:
    """Every window of one step looks collapsed, from so many steps on."""
    from dinoscope.methods.dino import DINO
    from dinoscope.training import loop
    from dinoscope.training.loop import CollapseMonitor

    def monitor(diagnose, _: int, steps: int) -> CollapseMonitor:
        return CollapseMonitor(diagnose, patience, window=1, steps=steps)

    monkeypatch.setattr(DINO, "diagnose", lambda self, recent: Verdict("one output", "collapsed"))
    monkeypatch.setattr(loop, "CollapseMonitor", monitor)


def test_circumstances_of_a_run_and_of_its_resumption(picture_folder, tmp_path, monkeypatch) -> None:
    from tests.study.test_state import StopAfterOne

    config = settings(picture_folder(12), tmp_path / "run")
    monkeypatch.setattr(listeners, "commit", lambda: None)
    monkeypatch.setattr(listeners, "__version__", "1.0")
    train(config, listeners=[StopAfterOne()])
    first = read_circumstances(config.out)
    assert first.code == ("1.0",)
    assert "torch" in first.machines[0]
    monkeypatch.setattr(listeners, "commit", lambda: "a1" * 20 + "-changed")
    train(config, resume=True)
    second = read_circumstances(config.out)
    assert second.code == ("1.0", "1.0, commit a1a1a1a1a1a1 with changes")
    assert second.machines == first.machines
    assert (second.peak_memory or 0) >= (first.peak_memory or 0)
    assert read_circumstances(tmp_path) == Circumstances()
    earlier = {"code": ["0.1"], "machines": ["a machine"], "peak_memory": 2**60, "memory": "all of it"}
    (config.out / "circumstances.json").write_text(json.dumps(earlier))
    both = read_circumstances(config.out)
    assert (both.code, both.peak_memory, both.memory) == (("0.1", *second.code), 2**60, "all of it")
    (config.out / "circumstances.json").write_text("[]")
    with pytest.raises(UserError, match=r"circumstances\.json"):
        read_circumstances(config.out)


def test_a_path_is_all_that_a_mark_needs(tmp_path: Path) -> None:
    mark_stopped(tmp_path, Stopped("stop-on-collapse", 3, "collapsed"))
    assert json.loads((tmp_path / STOPPED).read_text()) == {
        "rule": "stop-on-collapse",
        "steps": 3,
        "reason": "collapsed",
    }
