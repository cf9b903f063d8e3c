"""Rows of a comparison: what is one row, in which order, and what is marked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dinoscope.config import difference, flat
from dinoscope.evaluation.base import Context
from dinoscope.evaluation.compare import (
    METHOD_NAMES,
    PUBLISHED,
    Entry,
    compare,
    deciding_settings,
    gather,
    interval_words,
    usual_protocol,
)
from dinoscope.evaluation.fewshot import FewshotConfig
from dinoscope.evaluation.knn import KNNConfig
from dinoscope.methods import METHODS, shown_name
from dinoscope.model_names import load_model
from dinoscope.models.backbone import BACKBONES, network_title
from dinoscope.recipes import run_config
from dinoscope.training.config import RunConfig, SavingConfig
from dinoscope.types import Metric, Result


def knn(top1: float, gallery: str = "/d/train", **changes: Any) -> Result:
    protocol = {"weights": "w", "weights_hash": str(top1), "gallery": gallery, "gallery_images": 90, "image_size": 32}
    return Result(
        "knn",
        protocol | changes,
        tuple(Metric("knn_top1", each, parameters={"k": k}) for k, each in ((10, 0.0), (20, top1))),
    )


def entry(method: str = "dino", backbone: str = "vit_micro_conv8", *, top1: float = 50.0, **changes: Any) -> Entry:
    settings = {"data": "/d", "epochs": 10, "batch_size": 8, "views.num_local": 2, "views.hue": 0.1}
    seed = changes.pop("seed", 0)
    measured = {"knn": changes.pop("knn", knn(top1))}
    settings |= changes.pop("settings", {})
    run = changes.pop("run", f"{method}-{seed}")
    return Entry(method, backbone, 1.0, run, seed, settings, measured, **changes)


# What is one row


def test_runs_that_differ_in_the_seed_are_one_row_with_mean_and_sample_deviation() -> None:
    comparison = compare([entry(seed=seed, top1=top1) for seed, top1 in enumerate((50.0, 53.0, 56.0))])
    (row,) = comparison.rows
    cell = row.cell("knn")
    assert cell is not None
    assert (cell.mean, cell.deviation, cell.values) == (53.0, 3.0, (50.0, 53.0, 56.0))
    assert row.cell("linear") is None
    assert comparison.notes == ()


def test_one_run_has_no_deviation() -> None:
    cell = compare([entry()]).rows[0].cell("knn")
    assert cell is not None
    assert cell.deviation is None


def test_runs_of_other_settings_or_networks_are_rows_of_their_own() -> None:
    entries = [entry(), entry(settings={"lr": 2}), entry("byol"), entry(backbone="resnet18")]
    assert len(compare(entries).rows) == 4


def test_seeds_measured_on_other_images_are_never_averaged() -> None:
    comparison = compare([entry(seed=0), entry(seed=1, knn=knn(90.0, "/other/train")), entry("byol", seed=0)])
    dinos = [row for row in comparison.rows if row.method == "DINO"]
    assert sorted(row.cell("knn").mean for row in dinos) == [50.0, 90.0]  # pyright: ignore[reportOptionalMemberAccess]
    marked = next(row for row in dinos if row.cell("knn").mean == 90.0)  # pyright: ignore[reportOptionalMemberAccess]
    assert [comparison.notes[mark - 1] for mark in marked.marks] == [
        "k-NN measured with gallery /other/train (most rows: /d/train)"
    ]


def test_folders_of_a_protocol_are_the_same_however_they_are_written(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    comparison = compare([entry(seed=0, knn=knn(1.0, "d/train")), entry(seed=1, knn=knn(2.0, f"{tmp_path}/d/train"))])
    assert len(comparison.rows) == 1


def test_a_seed_that_lacks_a_figure_stays_in_its_row() -> None:
    without = replace(entry(seed=1), measurements={})
    (row,) = compare([entry(seed=0), without]).rows
    assert len(row.entries) == 2
    assert row.cell("knn").values == (50.0,)  # pyright: ignore[reportOptionalMemberAccess]


def test_the_same_seed_twice_is_said() -> None:
    comparison = compare([entry(run="a"), entry(run="b")])
    assert "same seed" in comparison.notes[0]


# Order


def test_resnets_before_transformers_small_before_large_and_methods_as_the_field_has_them() -> None:
    methods = ["dino", "swav", "byol", "moco", "simclr", "supervised", "random", "something_new"]
    entries = [entry(method, "vit_micro_conv8") for method in methods]
    entries += [entry("dino", "resnet50"), replace(entry("dino", "resnet18"), parameters=0.5)]
    entries.append(Entry("pixels", "", None, "raw pixels"))
    rows = compare(entries).rows
    names = ["Random", "Supervised", "SimCLR", "MoCo v2", "BYOL", "SwAV", "DINO", "something_new"]
    assert [(row.architecture, row.method) for row in rows] == [
        ("–", "Raw pixels"),
        ("RN18", "DINO"),
        ("RN50", "DINO"),
        *(("ViT-micro/8", name) for name in names),
    ]


def test_every_method_and_network_has_a_name() -> None:
    assert set(METHODS) <= set(METHOD_NAMES)
    assert {row.method for row in PUBLISHED} <= set(METHOD_NAMES)
    assert {row.architecture for row in PUBLISHED} <= {network_title(name) for name in BACKBONES}


# Marks


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"epochs": 20}, "epochs 20 (most rows: 10)"),
        ({"batch_size": 16}, "batch size 16 (most rows: 8)"),
        ({"fraction": 0.5}, "fraction of the images 0.5 (most rows: none)"),
        ({"data": "/e"}, "data /e (most rows: /d)"),
        ({"views.num_local": 0, "views.hue": 0.5}, "views: hue 0.5 (most rows: 0.1), num_local 0 (most rows: 2)"),
    ],
)
def test_a_row_that_differs_from_most_is_marked_with_the_difference(changes: dict[str, Any], note: str) -> None:
    comparison = compare([entry("simclr"), entry("byol"), entry("dino", settings=changes)])
    marks = {row.method: [comparison.notes[mark - 1] for mark in row.marks] for row in comparison.rows}
    assert marks == {"SimCLR": [], "BYOL": [], "DINO": [note]}


def test_where_no_value_is_that_of_most_rows_all_are_marked_with_their_own() -> None:
    comparison = compare([entry("simclr", settings={"epochs": 20}), entry("byol", settings={"epochs": 10})])
    assert {row.method: [comparison.notes[mark - 1] for mark in row.marks] for row in comparison.rows} == {
        "SimCLR": ["epochs 20 (rows differ)"],
        "BYOL": ["epochs 10 (rows differ)"],
    }


def test_baselines_were_not_trained_and_are_not_marked_for_it() -> None:
    random = Entry("random", "vit_micro_conv8", 1.0, "random", 0, {}, {"knn": knn(20.0)})
    assert compare([random, entry()]).notes == ()


def test_rows_of_one_method_say_what_tells_them_apart() -> None:
    comparison = compare([entry(settings={"method.out_dim": 64}), entry(settings={"method.out_dim": 128})])
    assert set(comparison.notes) == {
        "of several DINO on ViT-micro/8, this one has method.out_dim 64",
        "of several DINO on ViT-micro/8, this one has method.out_dim 128",
    }


def test_a_row_that_is_not_the_plain_method_says_so() -> None:
    plain, other = (
        {"method.koleo": 0.0, "method.centering": "center"},
        {"method.koleo": 0.5, "method.centering": "sinkhorn"},
    )
    assert compare([entry(settings=plain)]).notes == ()
    assert set(compare([entry(settings=other)]).notes) == {
        "with the KoLeo loss, which its paper does not have (0.5)",
        "its teacher is centred otherwise than by the paper's moving mean (sinkhorn)",
    }


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"method.loss": "mse"}, "trained with another loss than its paper's (mse)"),
        ({"method.teacher": "frozen"}, "its teacher is not a moving average (frozen)"),
        ({"method.predictor": "mlp"}, "with a predictor, which its paper does not have (mlp)"),
        ({"method.head_l2": False}, "its bottleneck is not scaled to length 1 (False)"),
    ],
)
def test_a_row_of_an_ablation_says_so(changes: dict[str, Any], note: str) -> None:
    assert compare([entry(settings=changes)]).notes == (note,)


@pytest.mark.parametrize(
    ("method", "changes", "note"),
    [
        ("moco", {"method.symmetric": True}, "each view is query and key in turn, as in MoCo v3 (True)"),
        ("moco", {"method.head_batch_norm": True}, "with batch norm in its head, as in MoCo v3 (True)"),
        ("moco_v3", {"method.prediction_head": False}, "without the prediction head of its paper (False)"),
        ("byol", {"method.head_batch_norm": False}, "without the batch norm in its head that its code has (False)"),
    ],
)
def test_a_rival_that_is_not_the_plain_method_says_so(method: str, changes: dict[str, Any], note: str) -> None:
    assert compare([entry(method, settings=changes)]).notes == (note,)


@pytest.mark.parametrize("recipe", ["simclr_resnet50", "moco_v2_resnet50", "moco_v3_deit_small", "byol_resnet50",
    "swav_resnet50", "dino_deit_small_100ep"])  # fmt: skip
def test_a_recipe_of_the_paper_is_the_plain_method(recipe: str) -> None:
    config = run_config(recipe, Path("d"), Path("o"))
    run = entry(shown_name(config.method), config.backbone, settings=deciding_settings(config))
    assert compare([run]).notes == ()


def test_equal_notes_have_one_number_and_remarks_are_notes() -> None:
    entries = [entry("simclr"), entry("moco"), entry("swav"), entry("byol", settings={"epochs": 20})]
    entries.append(replace(entry("dino", settings={"epochs": 20}), remarks=("d: stopped at step 3 of 9",)))
    comparison = compare(entries)
    assert comparison.notes == ("epochs 20 (most rows: 10)", "d: stopped at step 3 of 9")
    assert [row.marks for row in comparison.rows] == [(), (), (1,), (), (1, 2)]


# The records beneath


def test_the_settings_that_decide_leave_out_seed_place_and_machine(tmp_path: Path) -> None:
    config = RunConfig(data=tmp_path / "d", out=tmp_path / "o")
    same = replace(
        config,
        out=tmp_path / "p",
        seed=3,
        device="cpu",
        workers=2,
        threads=1,
        saving=SavingConfig(keep=9),
        log_every=1,
        evaluate_every=7,
    )
    assert deciding_settings(config) == deciding_settings(same)
    assert deciding_settings(config) != deciding_settings(replace(config, drop_path=0.0))
    assert deciding_settings(config)["method.name"] == "dino"


def test_the_figure_is_that_of_20_neighbours_or_of_all_of_a_small_gallery() -> None:
    assert entry(top1=40.0).value("knn") == 40.0
    few = Result("knn", {"gallery_images": 12}, (Metric("knn_leave_one_out_top1", 30.0, parameters={"k": 11}),))
    assert entry(knn=few).value("knn") == 30.0
    assert compare([entry(knn=few)]).title("knn") == "k-NN (k = 11)"
    assert compare([entry()]).title("knn") == "k-NN (k = 20)"
    others = Result("knn", {"gallery_images": 90}, (Metric("knn_top1", 30.0, parameters={"k": 10}),))
    assert entry(knn=others).value("knn") is None
    probe = replace(entry(), measurements={"linear": Result("linear", {}, (Metric("linear_top1", 60.0),))})
    assert probe.value("linear") == 60.0
    assert probe.value("throughput") is None


def test_the_conditions_of_most_rows() -> None:
    comparison = compare([entry("byol"), entry("dino"), entry("swav", knn=knn(1.0, image_size=64))])
    usual = usual_protocol(comparison.rows, "knn")
    assert usual is not None
    assert usual["image_size"] == 32
    assert "weights_hash" not in usual
    assert usual_protocol(comparison.rows, "linear") is None


def test_differences_name_the_first_few() -> None:
    own = dict.fromkeys("abcdefgh", 1)
    other = dict.fromkeys("abcdefgh", 2)
    text = difference(own, [own, other, other])
    assert text.startswith("a 1 (most rows: 2), b 1")
    assert text.endswith(" and 2 more")
    assert difference(other, [own, other, other]) == ""
    assert flat({"a": {"b": (1, 2)}, "c": None}) == {"a.b": [1, 2], "c": None}


def test_models_are_compared_without_neighbours_of_the_same_group(tmp_path: Path, picture_folder) -> None:
    data, pattern = picture_folder(40, classes=2), r"(\d)\.png"
    context = Context(workers=0, cached=False, group=pattern, split=0.6)
    wanted = {"knn": (None, KNNConfig(ks=(5,)))}
    comparison = gather([load_model("pixels"), load_model("patches")], data, wanted, context=context)
    protocols = [entry.measurements["knn"].protocol for row in comparison.rows for entry in row.entries]
    assert [(own["group"], own["split"]) for own in protocols] == [(pattern, 0.6)] * 2
    train = protocols[0]["gallery_images"]
    assert any(f"from {train} training images" in remark for row in comparison.rows for remark in row.first.remarks)
    assert interval_words(comparison) == "for the number of images or groups alone"


def test_intervals_over_draws_of_the_labels_are_called_so(picture_folder) -> None:
    data, context = picture_folder(40, classes=2), Context(workers=0, cached=False, split=0.6)
    for draws, words in (
        (2, "for the number of images, and with few labels for the draws of the labels, too"),
        (1, "for the number of images alone (Wilson)"),
    ):
        wanted = {"fewshot": (None, FewshotConfig(counts=(), percents=(1.0,), draws=draws))}
        assert interval_words(gather([load_model("pixels")], data, wanted, context=context)) == words
