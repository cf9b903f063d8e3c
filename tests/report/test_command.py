"""The command that the report gives for a run: read back, it gives the same settings."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dinoscope.config import from_dict, to_dict
from dinoscope.data.views import VIEWS
from dinoscope.methods import METHODS
from dinoscope.recipes import RECIPES, run_config
from dinoscope.report.sections.settings import command
from dinoscope.training.config import OptimizerConfig, RunConfig, SavingConfig
from tests.plain_process import PlainProcess

_BASE = run_config("dino_small_images_cpu", Path("some where/it's $HOME"), Path("out; rm -rf x"))

CASES: dict[str, RunConfig] = {
    **{
        f"recipe {name}": run_config(name, Path("data"), Path("runs/a"))
        for name in ("dino_deit_small_100ep", "moco_v3_deit_small", "quickstart")
    },
    **{
        f"method {name}": RunConfig(Path("data"), Path("out"), entry.config(), "resnet_micro", epochs=12)
        for name, entry in METHODS.items()
    },
    "all kinds of settings": replace(
        _BASE,
        views=replace(_BASE.views, global_scale=(0.123456789, 1.0), horizontal_flip=0.0, num_local=3),
        method=replace(_BASE.method, head_batch_norm=False, norm_last_layer=False, koleo=1e-7, centering="center"),
        optimizer=OptimizerConfig("lars", 0.3, 0.0, 0.1, 1e-6, 1e-6, 0),
        saving=SavingConfig(2.5, 7, 1),
        mean=(0.5, 0.25, 0.125),
        checkpoint_activations=True,
        workers=3,
        threads=0,
        precision="bf16",
        device="cpu",
        seed=12345,
        epochs=1 / 3,
    ),
    "a negative number": replace(run_config("quickstart", Path("d"), Path("o")), workers=-1, evaluate_every=0),
    "a grey range": replace(_BASE, window=(2047.5, 4095.0)),
    "a grey range of Hounsfield units": replace(_BASE, window=(-600.0, 1500.0)),
    "views of a preset": replace(_BASE, views=VIEWS["simclr"]),
}

READ = """
from dinoscope.cli.options import parse
from dinoscope.cli.train import settings
from dinoscope.config import to_dict

def answer(commands):
    return [to_dict(settings(parse("train", words))) for words in commands]
"""


@pytest.fixture(scope="module")
def read_back(plain_process: PlainProcess, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Settings of every case as `dinoscope train` reads the command that was written for them."""
    commands = [shlex.split(command(config).text.replace("\\\n", " ")) for config in CASES.values()]
    assert all(words[:2] == ["dinoscope", "train"] for words in commands)
    folder = tmp_path_factory.mktemp("read")
    for config in CASES.values():
        (folder / config.data).mkdir(parents=True, exist_ok=True)
    return dict(zip(CASES, plain_process.ask(READ, [words[2:] for words in commands], folder), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_the_command_gives_the_same_settings(name, read_back):
    config = CASES[name]
    assert read_back[name] == json.loads(json.dumps(to_dict(config)))
    # a run folder keeps its settings as JSON, and what the report sees comes from there
    kept = from_dict(RunConfig, json.loads(json.dumps(to_dict(config))), "test")
    assert command(kept).text == command(config).text


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_given_by_their_names_alone(name):
    found = command(run_config(name, Path("data"), Path("runs/a")))
    assert not found.differences
    assert found.text.replace("\\\n    ", "") == f"dinoscope train --recipe {found.recipe} --data data --out runs/a"


def test_views_of_a_preset_are_named_where_that_is_shorter():
    words = command(CASES["views of a preset"]).words
    assert words[words.index("--views") + 1] == "simclr"
    assert not any(word.startswith("--views.") for word in words)


def test_many_processes_are_started_by_torchrun():
    text = command(CASES["recipe dino_deit_small_100ep"], processes=8).text
    assert text.startswith("torchrun --nproc-per-node 8 -m dinoscope train --recipe dino_deit_small_100ep")
