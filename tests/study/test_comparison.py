"""`dinoscope.study.comparison`: which runs a comparison has, its files, and runs of equal time."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from dinoscope.errors import UserError
from dinoscope.methods import METHODS
from dinoscope.models.backbone import network
from dinoscope.recipes import CPU_BACKBONES
from dinoscope.study import comparison as module
from dinoscope.study.comparison import LENGTHS, comparison, of_equal_time
from dinoscope.training.config import RunConfig
from tests.study.test_state import settings


def runs(**changes) -> list[RunConfig]:
    epochs = changes.pop("epochs", None)
    chosen = comparison("small-comparison", **{"methods": ("byol", "dino"), **changes})
    return chosen.configs(Path("d"), Path("o"), epochs)


def test_the_small_comparison_is_of_every_method_with_the_networks_for_a_cpu() -> None:
    every = runs(methods=())
    assert [run.out.name for run in every] == [
        f"{method}-{backbone}-s0"
        for backbone in CPU_BACKBONES
        for method, entry in METHODS.items()
        if not entry.from_model and (network(backbone).transformer or not entry.transformers_only)
    ]


def test_the_study_of_esvit_differs_in_the_loss_of_regions_alone() -> None:
    every = comparison("esvit").configs(Path("d"), Path("o"))
    assert [run.out.name for run in every] == [
        f"{method}-{backbone}-s{seed}"
        for seed in (0, 1, 2)
        for backbone in ("swin_micro", "vit_micro_conv8")
        for method in ("dino", "esvit")
    ]
    assert {run.epochs for run in every} == {12}
    dino, esvit = (asdict(run.method) for run in every[:2])
    assert {name: value for name, value in esvit.items() if value != dino.get(name)} == {
        "view_weight": 0.5,
        "region_weight": 0.5,
    }
    assert replace(every[1], out=every[0].out, method=every[0].method) == every[0]


def test_all_methods_come_before_the_next_backbone_and_seed() -> None:
    every = runs(seeds=(3, 5), backbones=("resnet18", "vit_micro_conv8"))
    assert [str(run.out) for run in every] == [
        f"o/runs/{method}-{backbone}-s{seed}"
        for seed in (3, 5)
        for backbone in ("resnet18", "vit_micro_conv8")
        for method in ("byol", "dino")
    ]
    assert [run.seed for run in every] == [3] * 4 + [5] * 4
    assert {run.epochs for run in every if run.backbone == "vit_micro_conv8"} == {12}


def test_a_shorter_run_warms_up_and_holds_prototypes_for_the_same_share() -> None:
    usual, short, long = (
        runs(methods=("swav",), backbones=("vit_micro_conv8",), epochs=epochs)[0] for epochs in (None, 3, 500)
    )
    assert (short.epochs, short.optimizer.warmup_epochs) == (3, usual.optimizer.warmup_epochs / 4)
    assert short.method.freeze_prototypes_steps == usual.method.freeze_prototypes_steps / 4
    assert (long.epochs, long.optimizer, long.method) == (500, usual.optimizer, usual.method)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": ("byoll",)}, "no method 'byoll'; did you mean byol"),
        ({"backbones": ("vit_micro",)}, "no backbone 'vit_micro'; did you mean vit_micro_conv8"),
        ({"methods": ("dino", "dino")}, "--methods names dino twice"),
        ({"seeds": (1, 1)}, "--seeds names 1 twice"),
    ],
)
def test_wrong_names(changes, words) -> None:
    with pytest.raises(UserError, match=words):
        runs(**changes)


# Files

FILE = """
title = "two methods"
methods = ["emp", "dino"]
backbones = ["airbench_micro", "vit_micro_conv8"]
seeds = [3]

[[changes]]
set = { batch_size = 96, optimizer = { learning_rate = 1e-3 } }

[[changes]]
backbones = ["airbench_micro"]
set = { views = { global_size = 24 } }

[[changes]]
methods = ["emp"]
backbones = ["airbench_micro"]
set = { batch_size = 48, views.num_global = 4, method.eps = 0.3 }
"""


def written(folder: Path, text: str) -> str:
    file = folder / "two.toml"
    file.write_text(text)
    return str(file)


def test_a_file_changes_all_runs_or_those_of_some_methods_and_networks(tmp_path) -> None:
    emp_air, dino_air, emp_vit, dino_vit = comparison(written(tmp_path, FILE)).configs(Path("d"), Path("o"))
    assert emp_air.out == Path("o/runs/emp-airbench_micro-s3")
    assert [run.batch_size for run in (emp_air, dino_air, emp_vit, dino_vit)] == [48, 96, 96, 96]
    assert [run.views.global_size for run in (emp_air, dino_air, emp_vit, dino_vit)] == [24, 24, 32, 32]
    assert [run.views.num_global for run in (emp_air, dino_air, emp_vit, dino_vit)] == [4, 2, 2, 2]
    assert [run.method.eps for run in (emp_air, emp_vit)] == [0.3, 0.2]  # pyright: ignore
    assert {run.optimizer.learning_rate for run in (emp_air, dino_vit)} == {1e-3}
    shorter = comparison(written(tmp_path, FILE), methods=("dino",), seeds=(0, 1), backbones=("resnet_micro",))
    assert [run.out.name for run in shorter.configs(Path("d"), Path("o"))] == [
        "dino-resnet_micro-s0",
        "dino-resnet_micro-s1",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("backbones = [", "two.toml is not valid TOML"),
        ("title = 'a'", "two.toml: backbones are missing"),
        ("backbones = ['resnet_micro']\nviewz = 'a'", "two.toml: there is no key 'viewz'; did you mean views"),
        ("backbones = 'resnet_micro'", "two.toml: backbones must be a list, not 'resnet_micro'"),
        ("backbones = [1]", "two.toml: each of backbones must be a text in quotes, not 1"),
        ("backbones = ['resnet81']", "two.toml: there is no backbone 'resnet81'; did you mean resnet18"),
        ("backbones = ['resnet_micro']\nmethods = 'dino'", "methods must be a list, not 'dino'"),
        ("backbones = ['resnet_micro']\nseeds = ['a']", "a seed is a whole number from 0 up, not 'a'"),
        ("backbones = ['resnet_micro']\nminutes = true", "minutes must be a number, not True"),
        ("backbones = ['resnet_micro']\n[[changes]]\nmethods = ['dino']", "change 1: `set` must be a table"),
        ("backbones = ['resnet_micro']\n[[changes]]\nmethods = ['dyno']\nset = {}", "no method 'dyno'; did you mean"),
        ("backbones = ['resnet_micro']\n[[changes]]\nset = { seed = 1 }", "seed cannot be set here: `seeds` lists"),
        ("backbones = ['resnet_micro']\n[[changes]]\nset = { backbone = 'x' }", "backbone cannot be set here"),
        ("backbones = ['resnet_micro']\n[[changes]]\nmethod = 'dino'\nset = {}", "change 1: there is no key 'method'"),
        ("backbones = ['resnet_micro']\n[[changes]]\nset = { bach_size = 2 }", "did you mean batch_size"),
        ("backbones = ['resnet_micro']\n[[changes]]\nset = { batch_size = 'a' }", "two.toml, changes: batch_size"),
    ],
)
def test_a_mistake_in_a_file_names_it(text, words, tmp_path) -> None:
    with pytest.raises(UserError) as error:
        comparison(written(tmp_path, text)).configs(Path("d"), Path("o"))
    assert words in str(error.value)


# Equal time


@pytest.fixture
def timed(monkeypatch) -> list[str]:
    """The runs that were tried, each with a step of half a second."""
    tried: list[str] = []

    def measured(config: RunConfig, *args: object) -> module.Costs:
        tried.append(config.out.name)
        return module.Costs(step=0.5)

    monkeypatch.setattr(module, "measured", measured)
    return tried


def ignored(done: int, total: int) -> None:
    pass


def test_runs_of_equal_time_have_the_epochs_of_a_trial_and_keep_them(picture_folder, tmp_path, timed) -> None:
    data, out = picture_folder(24), tmp_path / "study"
    wanted = [settings(data, out / "runs" / f"dino-vit-s{seed}", seed=seed, evaluate_every=2) for seed in (0, 1)]
    first = of_equal_time(wanted, 0.5, out, ignored)
    assert timed == ["dino-vit-s0"]  # the seed takes no other time
    assert [run.epochs for run in first] == [30.0, 30.0]  # two steps an epoch
    assert [replace(run, epochs=wanted[0].epochs) for run in first] == wanted
    assert of_equal_time(wanted, 0.5, out, ignored) == first
    assert len(timed) == 1
    other = replace(wanted[0], out=out / "runs" / "dino-vit-s5", batch_size=6)
    assert of_equal_time([*wanted, other], 0.5, out, ignored)[2].epochs == 15.0
    assert timed[1:] == ["dino-vit-s5"]
    with pytest.raises(UserError, match="begun with another --minutes"):
        of_equal_time(wanted, 1, out, ignored)


def test_a_trial_before_a_dry_run_writes_nothing(picture_folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "TRIAL", 0.0)  # a few steps
    config = settings(picture_folder(24), tmp_path / "study" / "runs" / "dino-vit-s0")
    (run,) = of_equal_time([config], 10, tmp_path / "study", ignored, keep=False)
    assert run.epochs > 5
    assert not (tmp_path / "study").exists()


def test_a_time_that_is_too_short_names_the_run(picture_folder, tmp_path, timed) -> None:
    config = settings(picture_folder(24), tmp_path / "study" / "runs" / "dino-vit-s0")
    with pytest.raises(UserError, match=r"run dino-vit-s0: --minutes 0\.01 leaves time for 1 step"):
        of_equal_time([config], 0.01, tmp_path / "study", ignored)
    assert not (tmp_path / "study" / LENGTHS).exists()


def test_no_minutes_at_all_are_refused(picture_folder, tmp_path) -> None:
    chosen = comparison("small-comparison", minutes=0.0)
    assert chosen.minutes == 0
    with pytest.raises(UserError, match="--minutes must be above 0, not 0"):
        of_equal_time([settings(picture_folder(24), tmp_path / "a")], 0.0, tmp_path / "study", ignored)
