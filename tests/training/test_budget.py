"""`--minutes`: the chosen length by hand and with a clock of our own, and the run that it makes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dinoscope import api, checkpoint
from dinoscope.config import leaves
from dinoscope.data.finding import find_images
from dinoscope.errors import UserError
from dinoscope.methods.dino import DINOConfig
from dinoscope.methods.swav import SwAVConfig
from dinoscope.schedules import epoch_warmup
from dinoscope.training import budget
from dinoscope.training.budget import Budget, Costs, chosen_length, fit, settled
from dinoscope.training.config import RunConfig, SavingConfig, check_settings, fitted_warm_up
from dinoscope.training.listeners import Listener
from dinoscope.training.loop import train
from dinoscope.training.plan import plan
from dinoscope.training.run_folder import read_config, read_metrics, read_sessions
from dinoscope.training.trainer import Trainer
from tests.conformance import cases
from tests.pictures import write_pictures
from tests.training.test_loop import Stop, Watched, results, weights

STEP = 5.0
"""Seconds of a step on the clock of the tests."""


class Clock:
    """Moves when a step is made, and at nothing else."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A step takes `STEP` seconds; the first one of each trainer, as those of a GPU do, a step more."""
    clock, make_step = Clock(), Trainer.make_step

    def step(trainer: Trainer, batch: Any) -> Any:
        clock.seconds += STEP * (2 if trainer.next_step == 0 else 1)
        return make_step(trainer, batch)

    monkeypatch.setattr(Trainer, "make_step", step)
    monkeypatch.setattr(budget, "now", clock)
    return clock


def settings(data: Path, out: Path, **changes: object) -> RunConfig:
    return cases.run_config("dino", data, out, **{"drop_path": 0.2, **changes})


# The arithmetic


def test_a_run_takes_its_start_its_steps_evaluations_and_checkpoints(tmp_path: Path) -> None:
    config = settings(tmp_path, tmp_path, evaluate_every=2, saving=SavingConfig(every_minutes=1))
    costs = Costs(step=2.0, start=10.0, evaluation=7.0, checkpoint=3.0)
    # 100 steps of 2 s after 10 s, 3 times a full minute, 2 checkpoints at the end, 100 / (2 * 15) evaluations
    assert costs.of_run(100, 15, config) == 10 + 200 + 3 * 3 + 2 * 3 + 4 * 7
    assert costs.of_run(100, 15, replace(config, evaluate_every=0)) == 10 + 200 + 3 * 3 + 2 * 3
    by_steps = replace(config, saving=SavingConfig(every_minutes=60, every_steps=30))
    assert costs.of_run(100, 15, by_steps) == 10 + 200 + 3 * 3 + 2 * 3 + 4 * 7


@pytest.mark.parametrize("seconds", [5.0, 27.0, 100.0, 1000.0])
def test_the_steps_are_the_most_that_fit(seconds: float, tmp_path: Path) -> None:
    config = settings(tmp_path, tmp_path, evaluate_every=1, saving=SavingConfig(every_minutes=1))
    costs = Costs(step=0.7, start=4.0, evaluation=2.0, checkpoint=1.0)
    steps = costs.steps_within(seconds, 15, config)
    assert steps == 0 or costs.of_run(steps, 15, config) <= seconds
    assert costs.of_run(steps + 1, 15, config) > seconds


def test_the_epochs_can_be_given_again_and_leave_time_for_evaluations(tmp_path: Path) -> None:
    config, limit = settings(tmp_path, tmp_path, evaluate_every=1), Budget(10)
    assert chosen_length(config, 390, Costs(step=1.0), 500.0, limit) == (1.282, 1)  # 500 of 390 steps
    # An evaluation of 60 s may follow 60 / 0.05 = 1200 steps of 1 s: 3.08 epochs.
    costs = Costs(step=1.0, evaluation=60.0)
    assert chosen_length(config, 390, costs, 500.0, limit) == (1.128, 4)  # 440 steps and the last evaluation
    own = Budget(10, ("evaluate_every",))
    assert chosen_length(config, 390, costs, 500.0, own) == (1.0, 1)  # another step would bring a second evaluation


def test_a_time_too_short_is_refused_with_one_that_is_not(tmp_path: Path) -> None:
    config = settings(tmp_path, tmp_path)
    with pytest.raises(UserError, match=r"--minutes 2 leaves time for 6 steps of 10 s.*: give 3 minutes or more"):
        chosen_length(config, 5, Costs(step=10.0), 60.0, Budget(2))


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("inf"), float("nan")])
def test_minutes_are_above_0(minutes: float) -> None:
    with pytest.raises(UserError, match="--minutes must be above 0"):
        Budget(minutes)


# What counts epochs


def test_a_warm_up_that_does_not_fit_is_shortened_and_reported(tmp_path: Path) -> None:
    method = DINOConfig(warmup_teacher_temperature_epochs=30, freeze_last_layer_epochs=2)
    usual = RunConfig(tmp_path, tmp_path, method=method)  # of 100 epochs, 10 of them warm-up
    short, words = fitted_warm_up(replace(usual, epochs=5), usual, ["epochs"])
    assert (short.epochs, short.optimizer.warmup_epochs) == (5, 0.5)
    assert leaves(short)["method.warmup_teacher_temperature_epochs"] == pytest.approx(1.5)
    assert "optimizer.warmup_epochs 10 -> 0.5" in words
    check_settings(short)
    given = ["epochs", "method.freeze_last_layer_epochs"]
    assert leaves(fitted_warm_up(replace(usual, epochs=5), usual, given)[0])["method.freeze_last_layer_epochs"] == 2


@pytest.mark.parametrize(
    ("epochs", "given"),
    [
        (11, ["epochs"]),  # the warm-up fits: nothing else may change
        (5, ["epochs", "optimizer.warmup_epochs"]),
        (5, ["seed"]),  # a recipe that contradicts itself
        (-1, ["epochs"]),
    ],
)
def test_other_runs_keep_their_warm_up(tmp_path: Path, epochs: float, given: list[str]) -> None:
    usual = RunConfig(tmp_path, tmp_path)
    assert fitted_warm_up(replace(usual, epochs=epochs), usual, given) == (replace(usual, epochs=epochs), "")


def test_what_counts_epochs_shrinks_with_the_run_unless_it_was_given(tmp_path: Path) -> None:
    method = DINOConfig(warmup_teacher_temperature_epochs=30, freeze_last_layer_epochs=2)
    config = RunConfig(tmp_path, tmp_path, method=method)  # of 100 epochs, 10 of them warm-up
    short = leaves(settled(config, 0.5, 1, given=()))
    assert (short["epochs"], short["optimizer.warmup_epochs"]) == (0.5, 0.05)
    assert short["method.warmup_teacher_temperature_epochs"] == pytest.approx(0.15)
    assert short["method.freeze_last_layer_epochs"] == pytest.approx(0.01)
    given = ("optimizer.warmup_epochs", "backbone", "method.freeze_last_layer_epochs")
    kept = leaves(settled(config, 0.5, 1, given))
    assert (kept["optimizer.warmup_epochs"], kept["method.freeze_last_layer_epochs"]) == (10, 2)
    assert kept["method.warmup_teacher_temperature_epochs"] == pytest.approx(0.15)
    longer = settled(config, 200.0, 1, ())
    assert longer == replace(config, epochs=200.0)
    swav = replace(config, method=SwAVConfig())
    assert settled(swav, 50.0, 1, ()).method == SwAVConfig(freeze_prototypes_steps=156)


def test_a_warm_up_of_a_fraction_moves_with_every_step() -> None:
    """0.15 epochs of 100 steps: from step 0 to step 15."""
    assert [epoch_warmup(step / 100, 0.15, 0.04, 0.07) for step in (0, 5, 15, 60)] == pytest.approx(
        [0.04, 0.05, 0.07, 0.07]
    )
    assert [epoch_warmup(step / 100, 3, 0.04, 0.08) for step in (0, 99, 100, 199, 200)] == pytest.approx(
        [0.04, 0.04, 0.06, 0.06, 0.08]
    )


# The trial and the run


def test_the_trial_tells_a_step_from_the_start(clock: Clock, picture_folder: Callable[..., Path]) -> None:
    data = picture_folder(24)
    costs = budget.measured(settings(data, data / "never"), find_images(data), torch.device("cpu"), limit=40.0)
    assert (costs.step, costs.start) == (STEP, STEP)
    assert clock.seconds == 40  # 3 steps and 4 in the halves of 20 s
    assert not (data / "never").exists()


class Evaluating(Listener):
    """Says that it shows so many images."""

    def __init__(self, images: int) -> None:
        self.images, self.times = images, list[float]()

    def evaluated(self, config: RunConfig, images: object) -> int:
        return self.images

    def tried(self, seconds: float, limit: float) -> None:
        self.times.append(seconds)


def test_evaluations_are_foreseen_by_the_images_that_they_show(
    clock: Clock, picture_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, extract = picture_folder(24), budget.extract

    def slow(backbone: Any, images: Any, config: Any) -> Any:
        clock.seconds += 0.5 * len(images)
        return extract(backbone, images, config)

    monkeypatch.setattr(budget, "extract", slow)
    config, listener = settings(data, data / "never", evaluate_every=1), Evaluating(1000)
    length = fit(config, find_images(data), torch.device("cpu"), Budget(60), [listener])
    assert length.costs.evaluation == pytest.approx(500)
    assert length.config.evaluate_every == 667  # 500 s are 0.05 of 667 epochs of three steps of 5 s
    assert listener.times[0] == 2 * STEP
    assert "evaluate_every 1 -> 667" in length.facts["fitted to it"]


def test_evaluations_that_stay_at_the_end_alone_are_not_told(tmp_path: Path) -> None:
    before = replace(settings(tmp_path, tmp_path, epochs=5), evaluate_every=8)
    costs = Costs(step=2.0, start=10.0, evaluation=7.0, checkpoint=3.0)
    for after, is_told in ((9, False), (4, True)):
        told = budget.facts(before, replace(before, evaluate_every=after), costs, Budget(20), 24)
        assert ("evaluate_every" in told.get("fitted to it", "")) == is_told


def test_the_run_is_that_of_its_epochs_and_resumes_as_such(
    clock: Clock, picture_folder: Callable[..., Path], tmp_path: Path
) -> None:
    data, watched = picture_folder(24), Watched()
    timed = train(settings(data, tmp_path / "timed"), limit=Budget(2), listeners=[watched])
    # 25 s for the trial and 5 s for the first step: 90 s are left for 18 steps, 6 epochs of 3.
    assert (timed.steps, timed.config.epochs) == (18, 6.0)
    assert clock.seconds == 120
    assert watched.facts["2 minutes"] == "18 steps of 5 s by a trial, the same as --epochs 6"
    plain = train(settings(data, tmp_path / "plain", epochs=6.0))
    assert plain.config == replace(timed.config, out=plain.out)
    stopped = tmp_path / "stopped"
    clock.seconds = 0.0
    assert train(settings(data, stopped), limit=Budget(2), listeners=[Stop(7, 2)]).interrupted
    assert train(read_config(stopped), resume=True).steps == 18
    for other in (plain.out, stopped):
        assert results(other) == results(timed.out)
        assert all(torch.equal(value, weights(other)[name]) for name, value in weights(timed.out).items())


def test_a_run_shorter_than_an_epoch_has_all_of_its_schedules(
    clock: Clock, picture_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """Frozen, warmed up and sharpened for shares of it, as the settings have them for 3 epochs."""
    method = replace(
        cases.SETTINGS["dino"],
        freeze_last_layer_epochs=1,
        warmup_teacher_temperature_epochs=2,
        teacher_temperature=0.08,
    )
    config = settings(picture_folder(200), tmp_path / "run", method=method)
    optimizer = replace(config.optimizer, warmup_epochs=1)
    result = train(replace(config, optimizer=optimizer), limit=Budget(1.75))
    assert (result.steps, result.config.epochs) == (15, 0.6)  # of 25 steps an epoch
    lines = read_metrics(result.out)
    assert [line["learning_rate"] for line in lines].index(max(line["learning_rate"] for line in lines)) == 4
    temperatures = [line["teacher_temperature"] for line in lines]
    assert temperatures[:3] == pytest.approx([0.04, 0.044, 0.048])
    assert temperatures[10:] == pytest.approx([0.08] * 5)


def test_the_plan_names_what_the_run_would_choose(
    clock: Clock, picture_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = picture_folder(24)
    monkeypatch.setattr("dinoscope.training.plan.TRIAL_SECONDS", 0.0)
    planned = plan(settings(data, tmp_path / "run"), limit=Budget(2))
    assert (planned.epochs, planned.steps, planned.seconds_per_step) == (6.0, 18, STEP)
    assert planned.length["2 minutes"] == "18 steps of 5 s by a trial, the same as --epochs 6"
    assert not (tmp_path / "run").exists()


def test_a_time_excludes_epochs_and_a_run_that_has_begun(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--minutes and --epochs exclude each other"):
        api.train(picture_folder(24), out=tmp_path / "run", minutes=1, epochs=2)
    with pytest.raises(UserError, match="--minutes and --resume exclude each other"):
        train(settings(tmp_path, tmp_path / "run"), resume=True, limit=Budget(1))
    assert not (tmp_path / "run").exists()


# With the clock on the wall

TRAIN = ["train", "--recipe", "dino_small_images_cpu", "--data", "pictures", "--out", "run", "--device", "cpu"]
TRAIN += ["--batch-size", "16"]

PROGRAM = """
import sys, time
import dinoscope.cli.train
from dinoscope.cli import main
from dinoscope.training.trainer import Trainer
make_step = Trainer.make_step
def padded(trainer, batch):
    end = time.monotonic() + 0.25
    scalars = make_step(trainer, batch)
    time.sleep(max(end - time.monotonic(), 0))
    return scalars
Trainer.make_step = padded
began = time.monotonic()
code = main(sys.argv[1:])
print("took", time.monotonic() - began)
sys.exit(code)
"""


def command(folder: Path, *launcher: str) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, *launcher, "program.py", *TRAIN, "--minutes", "0.5"]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_half_a_minute_is_half_a_minute(tmp_path: Path) -> None:
    """From the command, after the imports, to its end: the check of the images, the trial, real steps with a loader
    process, k-NN, checkpoints and the export, all by the clock on the wall.

    A step is filled up to 0.25 s by waiting, so that other work on the machine does not change its speed between the
    trial and the run, which no choice of a length can make up for.
    """
    write_pictures(tmp_path / "pictures", 1000, classes=3, size=(32, 32))
    done = command(tmp_path)
    took = float(done.stdout.split("took ")[1])
    config, (session,) = read_config(tmp_path / "run"), read_sessions(tmp_path / "run")
    assert session.total_steps == read_metrics(tmp_path / "run")[-1]["step"] + 1
    assert config.optimizer.warmup_epochs == pytest.approx(min(config.epochs / 6, 1))
    assert f"the same as --epochs {config.epochs:g}" in done.stderr
    assert 27 < took < 33, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_processes_choose_one_length(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", 300)
    done = command(tmp_path, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    newest, config = checkpoint.latest(tmp_path / "run" / "checkpoints"), read_config(tmp_path / "run")
    assert newest is not None
    metadata = checkpoint.load(newest).metadata
    assert metadata["step"] == metadata["total"] == round(config.epochs * 18)
    assert metadata["run"]["epochs"] == config.epochs
    assert done.stderr.count("30 s") + done.stderr.count("0.5 minutes: ") >= 1, done.stderr
