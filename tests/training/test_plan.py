"""`train --plan`: what it says of a run, and that its memory is the memory which a process holds that trains."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dinoscope.cli import main
from dinoscope.errors import UserError
from dinoscope.methods.dino import DINOConfig
from dinoscope.recipes import run_config
from dinoscope.training import plan as planning
from dinoscope.training.config import RunConfig
from dinoscope.training.plan import plan
from tests.pictures import write_pictures

SMALL = ["--recipe", "quickstart", "--batch-size", "16", "--epochs", "2", "--device", "cpu", "--workers", "0"]


PAPER = DINOConfig(out_dim=2048, hidden_dim=64, freeze_last_layer_epochs=0)
"""Its loss needs no whole batch."""


def config(folder: Path, **changes: object) -> RunConfig:
    quick = run_config("quickstart", folder, folder / "never")
    optimizer = replace(quick.optimizer, warmup_epochs=1)
    return replace(quick, optimizer=optimizer, batch_size=16, epochs=2, device="cpu", workers=0, **changes)


@pytest.fixture
def folder(picture_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(planning, "TRIAL_SECONDS", 0.0)
    return picture_folder(70)


def test_what_is_known_without_a_trial(folder: Path) -> None:
    planned = plan(config(folder, accumulate=4))
    assert (planned.images, planned.steps, planned.micro_batch) == (70, 2 * 4, 4)
    assert planned.memory["weights"] == 4 * planned.parameters
    # AdamW: two values for each parameter, and the step of each tensor.
    assert planned.memory["optimizer"] == pytest.approx(8 * planned.parameters, rel=0.01)
    assert planned.memory["gradients"] == 4 * planned.parameters  # of the micro-batches before
    assert planned.memory["teacher"] == pytest.approx(4 * planned.other_parameters, rel=0.02)
    assert min(planned.memory.values()) >= 0


def test_the_arithmetic_of_linear_maps_is_that_of_their_sizes(folder: Path) -> None:
    """Supervised training of raw logits would be 6 n p; views, tokens and the teacher are the rest."""
    once = plan(config(folder))
    wide = plan(config(folder, method=replace(config(folder).method, out_dim=1024)))
    views, teacher_views = 2, 2
    # Forward, the gradient of the input and of the weights for the student, forward alone for the teacher.
    more = 2 * 512 * 64 * (3 * views + teacher_views)
    assert wide.flops_per_image - once.flops_per_image == pytest.approx(more, rel=0.02)


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2, "checkpoint_activations": True, "method": PAPER}])
def test_small_micro_batches_tell_the_memory_of_the_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    def tensors(step_seconds: float) -> tuple[int, int]:
        monkeypatch.setattr(planning, "STEP_SECONDS", step_seconds)
        planned = plan(config(folder, **changes))
        return planned.trial, sum(size for part, size in planned.memory.items() if part != "overhead")

    (whole, expected), (cut, estimate) = tensors(100.0), tensors(0.0)
    assert (whole, cut) == (16 // changes.get("accumulate", 1), 4)
    assert estimate == pytest.approx(expected, rel=0.01)


def test_the_command_prints_a_table_and_starts_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    assert main(["train", "--plan", "--data", str(folder), *SMALL]) == 0
    output = capsys.readouterr().out
    assert "weights that are trained" in output
    assert output.endswith("Nothing was started.\n")
    assert main(["train", "--plan", "--json", "--data", str(folder), "--out", str(tmp_path / "run"), *SMALL]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["peak"] == sum(values["memory"].values())
    assert values["seconds"] == pytest.approx(values["steps"] * values["seconds_per_step"])
    assert {path.name for path in tmp_path.iterdir()} == before


def test_mistakes_are_those_of_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--batch-size 400 is more than the 70 readable images"):
        plan(replace(config(folder), batch_size=400))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="one process"):
        plan(config(folder))


TRAINS = """
import sys
from dataclasses import replace
from pathlib import Path

import torch

from dinoscope.config import changed
from dinoscope.data.finding import find_images
from dinoscope.recipes import run_config
from dinoscope.system import MemoryWatch
from dinoscope.training import plan
from dinoscope.training.trainer import Trainer

what, recipe, data, changes = sys.argv[1], sys.argv[2], Path(sys.argv[3]), eval(sys.argv[4])
config = changed(run_config(recipe, data, Path("never")), changes)
if what == "plan":
    plan.STEP_SECONDS = 60  # the whole micro-batch is tried
    print(sum(plan.plan(config).memory.values()))
else:
    images = find_images(data)
    watch = MemoryWatch(torch.device("cpu"))
    trainer = Trainer(config, images, torch.device("cpu"))
    batches = trainer.batches()
    for _ in range(4):
        trainer.next_step = trainer.total - 1
        trainer.make_step(next(batches))
    print(watch.read().peak)
"""

VIT = {"backbone": "vit_tiny_patch16_224", "views.num_local": 4, "batch_size": 8, "precision": "fp32"}
SHORT = {"device": "cpu", "workers": 0, "epochs": 2, "optimizer.warmup_epochs": 1}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("dino_deit_small_100ep", VIT),
        ("dino_deit_small_100ep", VIT | {"accumulate": 4}),
        ("dino_deit_small_100ep", VIT | {"batch_size": 16, "checkpoint_activations": True}),
        ("dino_small_images", {"backbone": "resnet50_small", "batch_size": 16, "precision": "fp32"}),
        ("quickstart", {"batch_size": 64, "precision": "fp32"}),
    ],
)
def test_the_memory_is_that_of_a_process_that_trains(recipe: str, changes: dict[str, object], tmp_path: Path) -> None:
    images = write_pictures(tmp_path / "pictures", 150, size=(256, 256))

    def bytes_of(what: str) -> int:
        command = [sys.executable, "-c", TRAINS, what, recipe, str(images), repr(changes | SHORT)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        return int(done.stdout)

    # how much a process holds beyond its tensors varies: next to other work, one plan in six was 20 % too high
    planned = statistics.median(bytes_of("plan") for _ in range(3))
    assert planned == pytest.approx(bytes_of("train"), rel=0.15)
