"""The quickstart on tiny drawn data: figures with intervals, pictures as the network sees them, and refusals."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinoscope import cli, quickstart
from dinoscope.data.images import decode
from dinoscope.data.sources import images_in_folder
from dinoscope.mammograms import MammogramsConfig, write_mammograms
from dinoscope.model_names import random_backbone
from dinoscope.models.backbone import BackboneConfig
from dinoscope.pictures import fitted
from dinoscope.quickstart import DRAWN, SHOWN, TRAINED, attention_on_objects, draw, evaluate
from dinoscope.recipes import RECIPES
from dinoscope.report.build import write_report
from tests.conformance import cases

HEADER = (2047.5, -4095.0)
"""Each file's own window, as a run has it."""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pydicom", reason="pydicom writes DICOM: pip install 'dinoscope[medical]'")
    config = MammogramsConfig(size=48, train_per_class=4, val_per_class=2)
    return write_mammograms(tmp_path_factory.mktemp("mammograms") / "out", config)


@pytest.fixture(scope="module")
def backbone():
    return random_backbone(BackboneConfig("vit_micro_conv8", 48, 0.0, (0.5,), (0.2,), window=HEADER), 0)


def test_rows_have_intervals_and_chance(drawn: Path, backbone, tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    (row,), results = evaluate({"random weights": backbone}, drawn, tmp_path, lambda *done: reports.append(done))
    assert (row.name, row.image_size, row.knn.n) == ("random weights", 48, 12)
    for metric in (row.knn, row.jaccard, row.chance):
        assert metric is not None
        assert metric.low is not None
        assert metric.low <= metric.value <= (metric.high or 0)
    assert reports == [(0, 1), (1, 1)]
    assert results["random weights"].metric("knn_top1") == row.knn


def test_chance_is_what_random_places_give(drawn: Path, backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention to random patches overlaps objects by chance, up to the finite number of draws."""
    images, rng = images_in_folder(drawn / "folder" / "val"), np.random.default_rng(0)
    real, figures = quickstart.map_masks, list[tuple[float, float]]()

    def anywhere(mean, mass):
        mask = real(mean, mass).repeat_interleave(8, 0).repeat_interleave(8, 1)  # pixels, of which any may be taken
        return mask.flatten()[rng.permutation(mask.numel())].reshape(mask.shape)

    monkeypatch.setattr(quickstart, "map_masks", anywhere)
    for _ in range(20):
        jaccard, chance = attention_on_objects(backbone, images, drawn / "folder-masks" / "val")
        figures.append((jaccard.value, chance.value))
    own, expected = np.mean(figures, axis=0)
    assert own == pytest.approx(expected, abs=0.3)
    assert 5 < expected < 60


def test_pictures_show_what_the_network_is_given(drawn: Path, backbone, monkeypatch, tmp_path: Path) -> None:
    given: list[np.ndarray] = []
    overlay = quickstart.overlay
    monkeypatch.setattr(quickstart, "overlay", lambda image, values: (given.append(image), overlay(image, values))[1])
    images = images_in_folder(drawn / "folder" / "val")
    draw({TRAINED: backbone}, images, tmp_path / "attention")
    assert len(given) == SHOWN
    for position, shown in zip(np.linspace(2, len(images) - 3, SHOWN), given, strict=True):
        own = decode(images.path(round(position)), window=HEADER)
        np.testing.assert_array_equal(shown, fitted(own, quickstart.TILE))
    with Image.open(tmp_path / "attention" / "overview.png") as page:
        assert page.width > 2 * quickstart.TILE
    assert len(list((tmp_path / "attention").glob("panel-*.png"))) == SHOWN


def test_recipes_are_those_of_the_data(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert all(recipe in RECIPES for data in DRAWN.values() for recipe in data.recipes)
    for data, recipe in (("medical", "quickstart_long"), ("scenes", "quickstart_medical")):
        line = f"quickstart --data {data} --recipe {recipe} --out {tmp_path}/run"
        assert cli.main(line.split()) == 2
        assert f"--recipe {recipe} is not for --data {data}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_report_has_the_baselines_of_the_table(drawn: Path, monkeypatch, tmp_path: Path) -> None:
    """Raw pixels, whitened patches and random weights, with the figures of the terminal."""
    config = replace(cases.run_config("dino", drawn / "folder", tmp_path / "run", epochs=1), window=HEADER)
    data = replace(DRAWN["medical"], shipped=False)
    rows, baselines = quickstart.quickstart(config, data, drawn, [], lambda *_: None)
    assert [row.name for row in rows] == ["raw pixels", "whitened patches", "random weights", TRAINED]
    report = write_report([str(config.out)], tmp_path / "report.html", entries=baselines, pictures=False)
    section = report.path.read_text().partition('<section id="comparison">')[2].partition("</section>")[0]
    shown = dict(re.findall(r'<th scope="row">([^<]+)(?:<sup>[^<]*</sup>)?</th>(.*?)</tr>', section, re.DOTALL))
    names = ("Raw pixels", "Whitened patches", "Random", "DINO")
    assert shown.keys() == set(names)
    for name, row in zip(names, rows, strict=True):
        assert f"{row.knn.value:.1f} [" in shown[name], name
