"""`dinoscope.study.plan` and the paper's studies: which runs a study needs, and where each is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import pytest

from dinoscope.errors import UserError
from dinoscope.methods.dino import Centering, DINOConfig, Loss, Predictor, TeacherRule
from dinoscope.recipes import RECIPES, run_config
from dinoscope.study import run as engine
from dinoscope.study.definition import (
    Axis,
    StudyDefinition,
    Variant,
    named_studies,
    named_study,
    parse_study,
    resolve,
    setting_names,
    to_toml,
)
from dinoscope.study.effects import AblationResult, AblationRun, arrange
from dinoscope.study.plan import plan_study
from dinoscope.study.run import MedianRule, execute
from dinoscope.training.config import OptimizerConfig, RunConfig, check
from tests.study.test_run import FakeRunner

DATA, OUT = Path("data"), Path("out")
SMALL_RECIPES = ("quickstart", "quickstart_long", "dino_small_images_cpu", "dino_small_images", "dino_folder")
PAPER_RECIPES = ("dino_deit_small_100ep", "dino_deit_small_300ep")


def axis(name: str, setting: str, *values: object) -> Axis:
    return Axis(name, name, tuple(Variant(name, str(value), {setting: value}) for value in values))


def study(*axes: Axis, **more) -> StudyDefinition:
    return StudyDefinition("s", "s", axes=axes, **more)


def test_the_base_is_trained_once_for_all_axes_and_comes_first() -> None:
    sizes, outputs = axis("batch", "batch_size", 64, 128), axis("K", "method.out_dim", 512, 64)
    plan = plan_study(study(sizes, outputs, seeds=(5, 0)), DATA, OUT)
    assert [config.out.name for config in plan.configs] == [
        f"{name}-s{seed}" for seed in (5, 0) for name in ("baseline", "batch-64", "k-64")
    ]
    assert [config.seed for config in plan.configs] == [5, 5, 5, 0, 0, 0]
    assert len(plan.runs) == 6
    base = run_config("quickstart", DATA, OUT)
    assert (base.batch_size, base.method.out_dim) == (128, 512)
    assert [variant.label for variant, config in plan.runs if config.seed == 0] == ["baseline", "64", "64"]
    assert plan.baseline_runs == {"baseline-s5", "baseline-s0"}


def test_the_base_is_called_after_its_value_where_that_is_clear() -> None:
    plan = plan_study(study(axis("batch", "batch_size", 64, 128)), DATA, OUT)
    assert [(variant.axis, variant.label) for variant, _ in plan.runs] == [("", "128"), ("batch", "64")]
    assert plan.baseline == plan.runs[0][0]
    assert plan.configs[0].out.name == "baseline-s0"
    other = plan_study(study(axis("batch", "batch_size", 64)), DATA, OUT)
    assert other.baseline.label == "baseline"


def test_two_axes_share_the_variant_that_they_have_in_common() -> None:
    plan = plan_study(study(axis("one", "batch_size", 64), axis("two", "batch_size", 32, 64)), DATA, OUT)
    assert [config.out.name for config in plan.configs] == ["baseline-s0", "one-64-s0", "two-32-s0"]
    assert [config.out.name for _, config in plan.runs] == ["baseline-s0", "one-64-s0", "two-32-s0", "one-64-s0"]


def test_different_runs_never_share_a_folder() -> None:
    first = Axis("a", "a", (Variant("a", "b c", {"batch_size": 64}),))
    second = Axis("a b", "a b", (Variant("a b", "c", {"batch_size": 32}),))
    with pytest.raises(UserError, match="two variants would share the folder a-b-c-s0"):
        plan_study(study(first, second), DATA, OUT)


def test_other_epochs_shorten_the_warm_up_and_are_refused_where_they_are_varied() -> None:
    plan = plan_study(study(axis("batch", "batch_size", 64)), DATA, OUT, epochs=3)
    assert {(config.epochs, config.optimizer.warmup_epochs) for config in plan.configs} == {(3, 0.25)}
    with pytest.raises(UserError, match="varies the epochs"):
        plan_study(study(axis("length", "epochs", 6)), DATA, OUT, epochs=3)


@pytest.mark.parametrize("recipe", SMALL_RECIPES + PAPER_RECIPES)
@pytest.mark.parametrize("name", named_studies())
def test_a_study_of_the_paper_can_be_run_and_written(name, recipe) -> None:
    if name == "patch-size" and recipe in ("dino_folder", "dino_small_images"):
        with pytest.raises(UserError, match="write the networks into a file of your own"):
            named_study(name, recipe)
        return
    found = named_study(name, recipe)
    plan = plan_study(found, DATA, OUT)
    assert len(plan.configs) >= (2 if name == "patch-size" else 3)
    for config in plan.configs:
        check(config, 1_300_000, processes=1, classes=10)
    assert parse_study(to_toml(found), name, "") == found
    largest = max(config.batch_size for config in plan.configs)
    assert largest >= run_config(recipe, DATA, OUT).batch_size
    assert largest < 1024 or recipe in PAPER_RECIPES


def test_switches_that_the_base_has_already_are_left_out() -> None:
    labels = {
        recipe: [v.label for v in named_study("components", recipe).axes[0].variants]
        for recipe in RECIPES
        if "dino" in recipe or "quick" in recipe
    }
    assert "centring, not Sinkhorn" in labels["quickstart"]
    assert "Sinkhorn, not centring" not in labels["quickstart"]
    assert "Sinkhorn, not centring" in labels["dino_deit_small_100ep"]
    assert "no multi-crop" in labels["dino_folder"]
    assert "no multi-crop" not in labels["quickstart"]
    assert "no KoLeo" in labels["quickstart"]
    assert "no KoLeo" not in labels["dino_folder"]


def test_the_small_collapse_study_changes_one_thing_at_a_time() -> None:
    """Its base holds by centring and sharpening alone; only "neither", the fourth corner of the figure, lacks two."""
    plan = plan_study(named_study("collapse"), DATA, OUT)
    base = setting_names(plan.configs[0])
    assert (base["method.centering"], base["method.koleo"]) == ("center", 0.0)
    assert base["method.teacher_temperature"] < base["method.student_temperature"]
    sharpening = {"method.teacher_temperature", "method.warmup_teacher_temperature"}
    assert {variant.label: changed(config, base) for variant, config in plan.runs[1:]} == {
        "centring only": sharpening,
        "sharpening only": {"method.centering"},
        "neither": {"method.centering", *sharpening},
        "Sinkhorn for centring": {"method.centering"},
        "softmax for centring": {"method.centering"},
        "KoLeo too": {"method.koleo"},
    }
    assert plan.baseline_values["balance"].label == "both"
    paper = plan_study(named_study("collapse", "dino_deit_small_100ep"), DATA, OUT)
    assert list(paper.axes) == ["balance"]


def changed(config: RunConfig, base: Mapping[str, object]) -> set[str]:
    return {name for name, value in setting_names(config).items() if value != base[name]}


def test_the_page_lists_every_named_study() -> None:
    page = (Path(__file__).parents[2] / "docs" / "ablation.md").read_text()
    assert len(named_studies()) == 14
    assert [name for name in named_studies() if f"| `{name}` |" not in page] == []
    for name in named_studies():  # at either scale they parse, and resolve against the settings
        for recipe in ("quickstart", "dino_deit_small_100ep"):
            assert len(resolve(named_study(name, recipe), DATA, OUT)) > 1


def test_every_switch_of_dino_is_in_a_named_study_and_on_the_page() -> None:
    taken: dict[str, set[object]] = {}
    for name in named_studies():
        for recipe in ("quickstart", "dino_deit_small_100ep"):
            plan = plan_study(named_study(name, recipe), DATA, OUT)
            base, *variants = (setting_names(config) for _, config in plan.runs)
            for variant in variants:
                for setting in (setting for setting, value in variant.items() if value != base[setting]):
                    taken.setdefault(setting, set()).update((variant[setting], base[setting]))
    switches = {f"method.{field.name}" for field in fields(DINOConfig)}
    switches |= {"batch_size", "backbone", "drop_path", "fraction", "views.num_local"}
    switches |= {f"views.{name}_scale" for name in ("global", "local")}
    switches |= {f"views.{name}" for name in ("horizontal_flip", "jitter_probability", "grayscale")}
    switches |= {f"views.{name}_probability" for name in ("blur", "solarize")}
    switches |= {f"optimizer.{field.name}" for field in fields(OptimizerConfig)}
    switches -= {"optimizer.min_learning_rate", "optimizer.trust", "optimizer.layer_decay"}  # of LARS, and fine-tuning
    page = (Path(__file__).parents[2] / "docs" / "ablation.md").read_text()
    assert sorted(switches - taken.keys()) == []
    assert [name for name in sorted(switches) if f"`{name}`" not in page] == []
    for kind, setting in ((Loss, "loss"), (Centering, "centering"), (TeacherRule, "teacher"), (Predictor, "predictor")):
        assert taken[f"method.{setting}"] == set(get_args(kind))
    assert taken["optimizer.name"] == {"adamw", "sgd", "lars"}
    assert taken["optimizer.scaling"] == {"linear", "sqrt", "none"}
    assert {0, 2, 4, 6, 8, 10} <= taken["views.num_local"]


def test_the_base_is_a_value_of_every_axis() -> None:
    both = Axis("both", "both", (Variant("both", "x", {"batch_size": 64, "drop_path": 0.1}),))
    flip = axis("flip", "views.horizontal_flip", 0.0)
    scale = Axis("scale", "s", (Variant("scale", "all of it", {"views.global_scale": [0.3, 1.0]}),))
    begin = axis("init", "init", "somewhere")
    plan = plan_study(study(axis("batch", "batch_size", 32, 256), both, flip, scale, begin), DATA, OUT)
    labels = {name: own.label for name, own in plan.baseline_values.items()}
    assert labels == {"batch": "128", "both": "", "flip": "0.5", "scale": "all of it", "init": ""}
    assert plan.baseline_values["both"].settings == {"batch_size": 128, "drop_path": 0.0}


def test_the_base_is_the_value_that_the_study_has_though_epochs_shortens_it() -> None:
    warm_up = axis("warm-up", "optimizer.warmup_epochs", 40.0, 5.0, 10.0)
    begun = replace(study(warm_up), changes={"epochs": 100.0, "optimizer.warmup_epochs": 10.0})
    plan = plan_study(begun, DATA, OUT, epochs=2)
    assert plan.configs[0].optimizer.warmup_epochs == pytest.approx(0.2)
    own = plan.baseline_values["warm-up"]
    assert (own.label, own.settings) == ("10.0", {"optimizer.warmup_epochs": 10.0})
    runs = tuple(AblationRun(variant, 0, "finished") for variant, _ in plan.runs)
    (found,) = arrange(AblationResult("s", "", plan.baseline, {}, runs, baseline_values=plan.baseline_values)).axes
    assert [label for label, _ in found.rows] == ["5.0", "10.0 (baseline)", "40.0"]


def test_an_axis_that_varies_nothing_is_named_and_a_study_refused() -> None:
    plan = plan_study(study(axis("batch", "batch_size", 128), axis("K", "method.out_dim", 64)), DATA, OUT)
    assert plan.idle_axes == ("batch",)
    assert [config.out.name for config in plan.configs] == ["baseline-s0", "k-64-s0"]
    with pytest.raises(UserError, match=r"study s: every value is the baseline's own \(128\), so there is nothing"):
        plan_study(replace(study(axis("batch", "batch_size", 128)), seeds=(0, 1, 2)), DATA, OUT)


def test_a_recipe_of_another_method_has_no_such_settings() -> None:
    with pytest.raises(UserError, match=r"axis teacher, value 'momentum': there is no setting 'method.teacher'"):
        plan_study(named_study("teacher", "simclr_small_images"), DATA, OUT)
    with pytest.raises(UserError, match="no ablation study 'colapse'; did you mean collapse"):
        named_study("colapse")


def test_two_hundred_instant_runs_are_not_waited_for(tmp_path, monkeypatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr(engine.time, "sleep", naps.append)
    many = study(axis("batch", "batch_size", *range(2, 202)))
    plan = plan_study(many, DATA, tmp_path)
    assert len(plan.configs) == 200
    result = execute(plan.configs, FakeRunner(), MedianRule(plan.baseline_runs))
    assert len(result.named("finished")) == 200
    assert naps == []
