"""Measurements: kept with their protocol, read back strictly; k-NN through one function for all callers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import dinoscope
from dinoscope import checkpoint
from dinoscope.checkpoint import load_backbone
from dinoscope.errors import UserError
from dinoscope.evaluation import knn
from dinoscope.evaluation.base import Context
from dinoscope.evaluation.knn import KNNConfig
from dinoscope.evaluation.online import OnlineKNN
from dinoscope.evaluation.results import keep, kept, kept_name, kept_names
from dinoscope.model_names import load_model, shipped_model
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.recipes import run_config
from dinoscope.training.config import RunConfig, check
from dinoscope.training.listeners import RunStart
from dinoscope.types import Metric, Result, Step
from tests.conformance import cases

MakeFolder = Callable[..., Path]
CPU = Context(torch.device("cpu"), workers=0)
RESULT = Result(
    "knn",
    {"weights": "a/b", "image_size": 32, "crop_fraction": 0.875, "queries": None},
    (Metric("top1", 12.345678901234567), Metric("loss", 0.1, "nats", higher_is_better=False)),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    checkpoint.export_backbone(folder, build_backbone(BackboneConfig("vit_micro_conv8", image_size=32)))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text('{"run": {}}')
    return folder


def test_what_is_kept_is_read_back_equal(run: Path) -> None:
    keep(run, "knn", RESULT)
    assert kept(run, "knn") == RESULT
    assert kept(run, "linear") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"protocol": {}, "metr', "damaged: it is not JSON"),
        ("[]", "no result"),
        ('{"protocol": {}, "metrics": {}}', "no result"),
        ('{"protocol": 3, "metrics": []}', "not a valid Result"),
        ('{"metrics": []}', "not a valid Result"),
        ('{"protocol": {}, "metrics": [], "more": 1}', "not a valid Result"),
        ('{"protocol": {}, "metrics": [{"name": "top1"}]}', "not a valid Result"),
        ('{"protocol": {}, "metrics": [{"name": "top1", "value": "high"}]}', "not a valid Result"),
        ('{"protocol": {}, "metrics": [3]}', "not a valid Result"),
    ],
)
def test_a_damaged_result_is_refused_and_named(run: Path, text: str, reason: str) -> None:
    keep(run, "knn", RESULT)
    file = run / "evaluations" / "knn.json"
    file.write_text(text)
    with pytest.raises(UserError, match=reason) as refusal:
        kept(run, "knn")
    assert str(file) in str(refusal.value)


def test_a_fraction_of_the_labels_has_a_name_of_its_own() -> None:
    assert [kept_name("knn", fraction) for fraction in (1.0, 0.1, 0.01, 0.005)] == ["knn", "knn-10", "knn-1", "knn-0.5"]


def test_python_and_the_measurement_give_the_same_knn(model: Path, picture_folder: MakeFolder) -> None:
    picture_folder(12, classes=3, split="train")
    data = picture_folder(9, classes=3, split="val")
    models, config = [load_model(str(model))], KNNConfig(ks=(1, 3))
    (measured,) = knn.run(models, data, config, CPU)
    assert dinoscope.knn(model, data, KNNConfig(ks=(1, 3)), device="cpu") == list(measured.metrics)
    assert measured.protocol["gallery_images"] == 12
    unsplit = dinoscope.knn(model, data / "train", KNNConfig(ks=(1, 3)), device="cpu")
    assert unsplit == list(next(knn.run(models, data / "train", config, CPU)).metrics)
    (fewer,) = knn.run(models, data, KNNConfig(ks=(1,), label_fraction=0.25), CPU)
    assert (fewer.protocol["gallery_images"], fewer.protocol["label_fraction"]) == (3, 0.25)


def test_online_knn_never_asks_of_images_that_are_in_its_gallery(tmp_path: Path, picture_folder: MakeFolder) -> None:
    """Without a train folder, training reads DATA itself, and so what lies in its val folder too."""
    network = build_backbone(BackboneConfig("vit_micro_conv8", image_size=32))

    def started(data: Path) -> OnlineKNN:
        listener = OnlineKNN()
        listener.started(RunStart(RunConfig(data, tmp_path / "run"), Step(0, 1, 1), 1, 1, {}, network))
        return listener

    picture_folder(4, classes=2)
    data = picture_folder(4, classes=2, split="val")
    assert started(data).gallery is None
    split = picture_folder(6, classes=2, split="train")
    listener = started(split)
    assert listener.gallery is not None
    assert len(listener.gallery) == 6
    assert listener.queries is not None
    assert len(listener.queries) == 4


def test_each_protocol_and_data_set_has_a_file_of_its_own(run: Path) -> None:
    def measured(top1: float, **changes: object) -> Result:
        return Result(
            "knn",
            {**RESULT.protocol, "queries": "/d/val", **changes},
            (Metric("knn_top1", top1, parameters={"k": 20}),),
        )

    assert keep(run, "knn", measured(1.0)) == "knn"
    names = [keep(run, "knn", measured(2.0, image_size=64)), keep(run, "knn", measured(3.0, queries="/e/val"))]
    assert keep(run, "knn", measured(4.0, weights="moved")) == "knn"  # the same again, of other weights: replaced
    assert keep(run, "knn", measured(5.0, image_size=64)) == names[0]
    assert set(kept_names(run, "knn")) == {"knn", *names}
    found = [kept(run, str(name)) for name in ("knn", *names)]
    assert [each.metrics[0].value for each in found if each] == [4.0, 5.0, 3.0]
    (run / "evaluations" / "knn.json").write_text("{")
    assert keep(run, "knn", measured(6.0, queries="/f/val")) == "knn"  # what was damaged is replaced


def test_a_result_is_replaced_from_any_folder_and_with_or_without_an_interval(run: Path, tmp_path: Path, monkeypatch):
    middle = Metric("voc_jaccard_strict", 2.0)
    sure = replace(middle, low=1.0, high=3.0, n=9)
    assert keep(run, "voc", Result("voc", {"data": str(tmp_path / "VOC2012")}, (sure,))) == "voc"
    monkeypatch.chdir(tmp_path)
    assert keep(run, "voc", Result("voc", {"data": "VOC2012"}, (middle,))) == "voc"
    assert keep(run, "voc", Result("voc", {"data": "other/VOC2012"}, (middle,))) != "voc"


def test_a_run_is_evaluated_at_the_size_that_it_stores(tmp_path: Path) -> None:
    config = run_config("quickstart", tmp_path / "data", tmp_path / "run")
    assert (config.views.global_size, config.backbone_config.image_size) == (32, 64)
    torch.manual_seed(0)
    network = build_backbone(config.backbone_config)
    torch.manual_seed(0)
    same = build_backbone(replace(config, image_size=None).backbone_config)  # trained alike: layout and weights
    assert all(torch.equal(one, other) for one, other in zip(network.parameters(), same.parameters(), strict=True))
    assert load_backbone(shipped_model()).config.image_size == 64


def test_the_image_size_of_evaluations_does_not_change_the_training(tmp_path: Path, picture_folder: MakeFolder) -> None:
    picture_folder(12, classes=2, split="train")
    data = picture_folder(4, classes=2, split="val")
    for name, size in (("own", None), ("larger", 64)):
        config = cases.run_config("dino", data, tmp_path / name, epochs=1, evaluate_every=1)
        dinoscope.train(replace(config, image_size=size))
    own, larger = (load_backbone(tmp_path / name) for name in ("own", "larger"))
    assert all(torch.equal(one, other) for one, other in zip(own.parameters(), larger.parameters(), strict=True))
    assert (own.config.image_size, larger.config.image_size, larger.config.layout_size) == (32, 64, 32)


def test_an_image_size_below_a_patch_is_refused_before_training(tmp_path: Path) -> None:
    config = run_config("quickstart", tmp_path / "data", tmp_path / "run")
    with pytest.raises(UserError, match="--image-size must be at least one patch of vit_micro_conv8, 8 px; not 7"):
        check(replace(config, image_size=7), 1000, 1)
