"""What is told of a run that is too short: both sides of the rule, and the recipes whose results are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dinoscope.recipes import run_config
from dinoscope.scenes import ScenesConfig
from dinoscope.training.config import RunConfig, total_steps
from dinoscope.training.enough import SEEN, STEPS, too_short
from tests.conformance import cases


def _config(epochs: float, batch: int = 100, recipe: str = "dino_small_images_cpu") -> RunConfig:
    return replace(run_config(recipe, Path("data"), Path("run")), epochs=epochs, batch_size=batch)


def test_either_side_of_the_images_seen() -> None:
    enough = _config(SEEN / 1000)
    assert total_steps(enough, 1000) > STEPS
    assert too_short(enough, 1000) == {}
    short = too_short(_config(SEEN / 1000 - 0.01), 1000)
    assert short["short"].startswith(f"{SEEN - 10:,} images seen in 220 steps")
    assert short["instead"].startswith("--epochs 22 or more")
    assert "--init" in short["instead"]
    assert "dinoscope models" in short["instead"]


def test_either_side_of_the_steps() -> None:
    images = 100 * STEPS
    assert too_short(_config(2, batch=200), images) == {}
    assert "instead" in too_short(_config(2, batch=202), images)
    epochs = int(too_short(_config(2, batch=1000), images)["instead"].split()[1])
    assert too_short(_config(epochs, batch=1000), images) == {}
    assert too_short(_config(epochs - 1, batch=1000), images)


def test_runs_that_are_never_too_short() -> None:
    assert too_short(_config(1), 1000)
    assert too_short(replace(_config(1), init="dino_vits16"), 1000) == {}
    assert too_short(cases.run_config("supervised", Path("data"), Path("run")), 1000) == {}


@pytest.mark.parametrize("recipe", ["quickstart", "quickstart_medical", "quickstart_long"])
def test_the_recipes_of_the_quickstart_are_long_enough(recipe: str) -> None:
    config = run_config(recipe, Path("data"), Path("run"))
    assert too_short(config, 10 * ScenesConfig().train_per_class if "medical" not in recipe else 4800) == {}
