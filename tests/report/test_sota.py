"""Throughput against accuracy: published rows stay as published, speeds are of this machine, own models on top."""

from __future__ import annotations

import csv
import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation, Text
from PIL import Image

from dinoscope import api, cli, system
from dinoscope.errors import UserError
from dinoscope.evaluation.results import new_result
from dinoscope.evaluation.statistics import share_metric
from dinoscope.evaluation.throughput import ThroughputConfig
from dinoscope.files import cache_folder
from dinoscope.model_names import load_model
from dinoscope.models.backbone import IMAGENET_MEAN, BackboneConfig, build_backbone
from dinoscope.report import sota
from dinoscope.report.charts import scatter
from dinoscope.report.sota import ROWS, Own, Picture, write_sota
from dinoscope.types import Metric, Result
from tests.conformance import cases
from tests.report_runs import labelled

SPEEDS = {row.key: 10.0 + 7 * place for place, row in enumerate(ROWS) if row.network}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each network is measured as one of another size: the test is of what is done with speeds."""
    measured: list[str] = []

    def build(row: sota.Published) -> object:
        measured.append(row.key)
        return build_backbone(BackboneConfig("vit_micro_conv8", sota.IMAGE_SIZE))

    monkeypatch.setattr(sota.Published, "build", build)
    monkeypatch.setattr(system, "_LEAST_SECONDS", 0.001)
    return measured


def result(speed: float, size: int = 224) -> Result:
    protocol = {
        "backbone": "x",
        "image_size": size,
        "batch_size": 4,
        "precision": "fp32",
        "repeats": 3,
        "machine": {"device": "cpu", "name": "a CPU", "threads": 2, "torch": "2"},
    }
    return new_result("throughput", protocol, [Metric("images_per_second", speed, "images/s")])


def picture(metric: sota.AccuracyName, own: tuple[Own, ...] = ()) -> Picture:
    speeds = {(key, 224): result(speed) for key, speed in SPEEDS.items()}
    return Picture(metric, own, speeds | {(each.key, each.image_size): result(3000, each.image_size) for each in own})


def own_model(data: str = "cifar10", *, is_imagenet: bool = False) -> Own:
    metrics = {"knn": share_metric("knn_top1", 61.0, 10_000, {"k": 20})}
    return Own(load_model("random:vit_micro_conv8"), "DINO", 0.29, metrics, data, is_imagenet, 32)


def test_the_rows_are_those_of_the_paper() -> None:
    assert len(ROWS) == 19
    best = {row.architecture: (row.parameters, row.images_per_second, row.linear, row.knn) for row in ROWS[-5:]}
    assert best["Swin-B, window 14"] == (87, 254, 81.3, 79.3)
    assert best["Swin-T"] == (28, 808, 78.1, 75.7)
    assert {row.architecture for row in ROWS if row.estimated} == {"ViT-B-BN/7", "ViT-L-BN/7", "ViT-H-BN/16"}
    assert sum(row.parameters for row in ROWS if row.images_per_second is None) == 6801  # iGPT-XL alone


def test_each_network_is_built_or_has_a_reason() -> None:
    assert all(bool(row.network) != bool(row.reason) for row in ROWS)
    assert len({row.key for row in ROWS if row.network}) == 9


@pytest.mark.slow
def test_networks_have_the_published_number_of_parameters() -> None:
    for row in {row.key: row for row in ROWS if row.network}.values():
        backbone = row.build()
        assert sota.millions_of_parameters(backbone) == pytest.approx(row.parameters, rel=0.05), row.key
        assert backbone.config.mean == IMAGENET_MEAN


@pytest.mark.parametrize(("metric", "drawn"), [("knn", 9), ("linear", 11)])
def test_rows_without_network_or_figure_are_listed_below_the_figure(metric: sota.AccuracyName, drawn: int) -> None:
    panel, x_title, note = sota.drawing_parts(picture(metric))
    assert len(panel.points) == drawn
    assert "this machine" in x_title
    left_out = note.partition("In the table alone: ")[2]
    assert {"SwAV RN50w5", "iGPT iGPT-XL", "MoCo v3 ViT-H-BN/16"} <= {
        name for part in left_out.split("; ") for name in part.partition(" (")[0].split(", ")
    }
    assert "Masked patch prediction ViT-B/16" in left_out
    assert ("MoBY Swin-T" in left_out) == (metric == "knn")
    speeds = {point.x for point in panel.points}
    assert speeds <= set(SPEEDS.values())  # and none of the published ones
    assert not speeds & {row.images_per_second for row in ROWS}


def test_markers_have_areas_by_parameters_and_own_models_are_on_top() -> None:
    panel, _, note = sota.drawing_parts(picture("knn", (own_model(),)))
    *published, own = panel.points
    widths = {point.label: point.diameter or 0 for point in published}
    assert list(widths.values()) == sorted(widths.values(), reverse=True)
    assert (widths["DINO ViT-B/16"] / widths["DINO ViT-S/16"]) ** 2 == pytest.approx(85 / 21)
    assert own.architecture == "own, cifar10 (not ImageNet)"
    assert own.x == 3000
    assert own.ends is not None
    assert own.ends[0] < 61 < own.ends[1]
    assert "not comparable" in note
    assert "not comparable" not in sota.drawing_parts(picture("knn", (own_model("in1k", is_imagenet=True),)))[2]


def test_labels_cover_neither_each_other_nor_a_marker() -> None:
    panel, x_title, note = sota.drawing_parts(picture("linear", ()))
    figure = scatter([panel], x_title, note, (9.6, 6.6), [("25 M", 9.5)])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axis = figure.axes[0]
    texts = [text for text in axis.texts if isinstance(text, Annotation)]
    boxes = [Text.get_window_extent(text, canvas.get_renderer()) for text in texts]
    assert len(boxes) == len(panel.points)
    assert not any(one.shrunk(0.95, 0.95).overlaps(other) for one, other in itertools.combinations(boxes, 2))
    for point in panel.points:
        x, y = axis.transData.transform((point.x, point.y))
        assert not any(box.contains(x, y) for box in boxes)


def test_speeds_are_measured_once_for_each_machine(quick, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = ThroughputConfig(batch_size=1, repeats=1)
    table, files = write_sota((), tmp_path / "a", config=config)
    assert sorted(quick) == sorted(SPEEDS)
    assert [file.name for file in files] == list(sota.FILES)
    assert sum(len(section.rows) for section in table.sections) == 19
    write_sota((), tmp_path / "b", "linear", config)
    assert len(quick) == 9
    with pytest.raises(UserError, match="already: name another folder"):
        write_sota((), tmp_path / "a", config=config)
    (cache,) = {file.parent for file in cache_folder("throughput").rglob("*.json")}
    next(iter(cache.iterdir())).write_text("{")  # a damaged file is measured again
    write_sota((), tmp_path / "c", config=config)
    assert len(quick) == 10
    monkeypatch.setattr(sota, "machine", lambda device: replace(system.machine(device), name="another"))
    write_sota((), tmp_path / "d", config=config)
    assert len(quick) == 19


def test_a_run_is_drawn_with_its_kept_result(quick, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = labelled(tmp_path / "data"), tmp_path / "run"
    api.train(cases.run_config("dino", data, run, epochs=1))
    arguments = ["figure", "sota", "--out", str(tmp_path / "out"), "--ours", str(run), "--device", "cpu"]
    arguments += ["--throughput-batch-size", "1", "--repeats", "1"]
    assert cli.main(arguments) == 2
    assert f"dinoscope knn --model {run}" in capsys.readouterr().err
    assert cli.main(["knn", "--model", str(run), "--data", str(data), "--ks", "3", "--device", "cpu", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)["metrics"][0]["value"]
    assert cli.main(arguments) == 0
    with (tmp_path / "out/sota.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    assert rows[0]["model"] == str(run)
    assert float(rows[0]["knn"]) == value
    assert (rows[0]["data"], rows[0]["image_size"]) == ("data", "32")
    assert rows[0]["published_images_per_second"] == ""
    with Image.open(tmp_path / "out/sota.png") as image:
        assert min(image.size) > 900
    assert "own, data (not ImageNet)" in (tmp_path / "out/sota.svg").read_text(encoding="utf-8")
    assert "| Masked patch prediction" in (tmp_path / "out/sota.md").read_text(encoding="utf-8")


def test_another_figure_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["figure", "stoa", "--out", str(tmp_path / "x")]) == 2
    assert "did you mean sota?" in capsys.readouterr().err
