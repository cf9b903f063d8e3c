"""Every named recipe fits itself: its settings do not contradict each other on the data that it is meant for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dinoscope.config import from_dict, to_dict
from dinoscope.data.grey_range import WINDOWS, parse_window
from dinoscope.data.views import VIEWS
from dinoscope.errors import UserError
from dinoscope.methods import METHODS, method_name
from dinoscope.models.backbone import BACKBONES, network
from dinoscope.recipes import CPU_BACKBONES, GPU_BACKBONES, RECIPES, run_config, small_run
from dinoscope.training.config import RunConfig, check, fitted_channels

IMAGENET, SMALL, FOLDER = (1_281_167, 1000), (50_000, 10), (500, 0)
"""Images and classes."""


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_recipe_fits_its_data(name) -> None:
    config = run_config(name, Path("data"), Path("out"))
    meant_for = FOLDER if name == "dino_folder" else IMAGENET if config.views.global_size == 224 else SMALL
    check(config, images=meant_for[0], processes=1, classes=meant_for[1])
    assert RECIPES[name].about


def test_recipes_have_the_settings_of_the_runs_whose_figures_they_quote() -> None:
    """Read at facebookresearch/dino 7c446df, moco, moco-v3 c349e6e, swav 06b1b7c and deit."""

    def recipe(name: str) -> RunConfig:
        return run_config(name, Path("data"), Path("out"))

    plain, strong = recipe("dino_deit_small_100ep"), recipe("dino_deit_small_300ep")
    assert (plain.batch_size, plain.method.norm_last_layer) == (512, True)
    assert (strong.batch_size, strong.method.norm_last_layer) == (1024, False)

    moco, third = recipe("moco_v2_resnet50"), recipe("moco_v3_deit_small")
    assert (moco.views.interpolation, moco.optimizer.decayed) == ("bilinear", "all")
    assert (third.views.interpolation, third.optimizer.decayed) == ("bilinear", "all")
    assert BACKBONES[third.backbone].heads == 12
    assert third.method.v3_initialization

    swav = recipe("swav_resnet50")
    assert (swav.views.interpolation, swav.optimizer.decayed) == ("bilinear", "all")
    assert (swav.optimizer.start_learning_rate, swav.optimizer.min_learning_rate) == (0.3, 0.0048)
    assert swav.optimizer.peak(swav.batch_size) == pytest.approx(4.8)
    assert swav.std == swav.backbone_config.std == (0.228, 0.224, 0.225)

    deit = recipe("supervised_deit_small").optimizer
    assert (deit.clip, deit.decayed, deit.start_learning_rate) == (0, "not_tokens", 1e-6)


def test_every_method_has_a_recipe_for_imagenet_and_for_small_images() -> None:
    found = {
        (method_name(config.method), config.views.global_size == 224)
        for config in (run_config(name, Path("data"), Path("out")) for name in RECIPES)
    }
    assert found >= {(name, large) for name in METHODS for large in (True, False)}


def test_residual_branches_start_from_0_where_the_authors_code_has_it_so() -> None:
    """SimCLR's resnet.py (init_zero), BYOL's blocks in Haiku (scale_init), main_moco.py of MoCo v3, main_vicreg.py, and
    main.py of Barlow Twins."""
    zeroed = {name for name in RECIPES if run_config(name, Path("data"), Path("out")).zero_init_residual}
    of_resnet50 = {f"{name}_resnet50" for name in ("simclr", "byol", "vicreg", "barlow")}
    assert zeroed == {*of_resnet50, "moco_v3_deit_small"}


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("backbone", [*CPU_BACKBONES, *GPU_BACKBONES])
def test_a_row_of_the_small_comparison_fits_and_survives_its_file(method, backbone) -> None:
    if METHODS[method].transformers_only and not network(backbone).transformer:
        pytest.skip("works on patch tokens")
    config = small_run(method, backbone, "scenes", Path("data"), Path("out"))
    check(config, images=5000, processes=1, classes=10)
    assert from_dict(RunConfig, to_dict(config), "a file") == config
    assert to_dict(config)["method"]["kind"] == type(config.method).__name__


def test_rows_share_all_but_the_method() -> None:
    """Supervised training and MAE apart, whose one view is their own."""
    rows = [
        small_run(name, "vit_micro_conv8", "scenes", Path("data"), Path("out"))
        for name in METHODS
        if name not in ("mae", "supervised")
    ]
    assert len({(row.views, row.optimizer, row.epochs, row.batch_size, row.backbone) for row in rows}) == 1


def test_a_settings_file_with_an_unknown_method_names_the_known_ones() -> None:
    values = to_dict(small_run("moco", "vit_micro_conv8", "scenes", Path("data"), Path("out")))
    values["method"]["kind"] = "MocoConfig"
    with pytest.raises(UserError, match="kind is 'MocoConfig'; allowed: DINOConfig, SimCLRConfig"):
        from_dict(RunConfig, values, "config.json")


def test_a_settings_file_from_before_there_was_a_choice_is_dinos() -> None:
    config = run_config("quickstart", Path("data"), Path("out"))
    values = to_dict(config)
    del values["method"]["kind"]
    assert from_dict(RunConfig, values, "config.json") == config


def test_unknown_names_are_offered_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean simclr"):
        small_run("simclrr", "vit_micro_conv8", "scenes", Path("data"), Path("out"))
    with pytest.raises(UserError, match="did you mean scenes"):
        small_run("simclr", "vit_micro_conv8", "scene", Path("data"), Path("out"))
    assert "scenes" in VIEWS


def test_windows_and_slices_that_are_given_replace_the_channels_of_a_recipe() -> None:
    grey = run_config("dino_ct", Path("data"), Path("out"))
    assert (grey.channels, grey.window) == (1, WINDOWS["soft"])
    assert fitted_channels(grey, {"epochs"}) == grey
    three = replace(grey, window=parse_window("lung+soft+bone"))
    assert fitted_channels(three, {"window"}).fixed_channels == 3
    check(fitted_channels(three, {"window"}), images=500, processes=1, classes=0)
    check(fitted_channels(replace(grey, slices=5), {"slices"}), images=500, processes=1, classes=0)
    with pytest.raises(UserError, match="--channels is 1"):
        check(fitted_channels(three, {"window", "channels"}), images=500, processes=1, classes=0)
    agreeing = replace(three, channels=3)
    assert fitted_channels(agreeing, set()) == agreeing, "as a run that is resumed has them"
