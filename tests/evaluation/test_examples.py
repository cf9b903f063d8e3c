"""VOC and DAVIS as run folders keep them: items, tables with published figures, the best and the worst examples."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dinoscope import checkpoint
from dinoscope.data.benchmarks import find_masked_images
from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS, davis, voc
from dinoscope.evaluation.base import Context, best_first, measure
from dinoscope.evaluation.davis import keep_frames, kept_frames, kept_places
from dinoscope.evaluation.results import from_json, keep_as, kept, kept_names, to_json
from dinoscope.model_names import Model
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.scenes import ScenesConfig, write_scenes
from dinoscope.types import Items, Metric, Result

CPU = Context(torch.device("cpu"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ScenesConfig(
        size=16,
        train_per_class=0,
        val_per_class=1,
        voc_images=8,
        davis_sequences=2,
        davis_frames=5,
        davis_size=(60, 100),
    )
    return write_scenes(tmp_path_factory.mktemp("scenes") / "drawn", config)


@pytest.fixture(scope="module")
def measured(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two run folders, as far as evaluations look into them, that keep what was measured of them."""
    root = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        backbone = build_backbone(BackboneConfig("vit_micro_conv8", image_size=32))
        checkpoint.export_backbone(root / name / "exported", backbone)
        (root / name / "config.json").write_text('{"run": {}}')
    config = voc.VocConfig(size=64, square=64, resamples=50)
    measure(EVALUATIONS["voc"], models(root), drawn, config, CPU)
    measure(EVALUATIONS["davis"], models(root), drawn / "DAVIS", davis.DavisConfig(size=64), CPU)
    return root


@pytest.fixture
def runs(measured: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(measured, tmp_path / "runs"))


def models(runs: Path) -> list[Model]:
    names = ("one", "two")
    return [
        Model(name, name, checkpoint.load_backbone(runs / name), runs / name, method="dino", run=runs / name)
        for name in names
    ]


def results(runs: Path, name: str) -> list[Result]:
    found = [kept(runs / run, name) for run in ("one", "two")]
    return [result for result in found if result is not None]


def labelled(runs: Path, name: str) -> list[tuple[str, Result]]:
    return list(zip(("one", "two"), results(runs, name), strict=True))


@pytest.mark.parametrize(
    ("name", "figures"),
    [("voc", ("voc_jaccard_published", "voc_jaccard_strict_mean")), ("davis-2017", ("jf_mean",))],
)
def test_results_keep_what_each_image_and_each_video_scored(runs: Path, name: str, figures: tuple[str, ...]) -> None:
    result = results(runs, name)[0]
    assert result.items is not None
    for figure in figures:
        values = result.items.figures[figure]
        assert len(values) == len(result.items.names) > 1
        metric = result.metric(figure)
        assert metric is not None
        if name == "voc":
            assert np.mean(values) == pytest.approx(metric.value, abs=0.01)
    text = (runs / "one" / "evaluations" / f"{name}.json").read_text()
    assert sum('"items"' in line for line in text.splitlines()) == 1  # one line, not one for each value


def test_results_without_items_and_with_them_are_read_as_they_were_written() -> None:
    plain = Result("knn", {"a": 1}, (Metric("m", 2.0),))
    assert "items" not in to_json(plain)
    assert from_json(to_json(plain), "file") == plain
    items = Items(("x", "y"), {"m": (1.234567, 2.0)}, {"z": "unreadable"}, {"classes": ("1", "2 3")})
    rounded = replace(items, figures={"m": (1.23, 2.0)})
    assert from_json(to_json(replace(plain, items=items)), "file") == replace(plain, items=rounded)


def test_variants_are_found_by_name(tmp_path: Path) -> None:
    for name in ("voc", "voc-rollout", "voc-100", "vocal", "davis-2017"):
        keep_as(tmp_path, name, Result("voc", {}, ()))
    assert kept_names(tmp_path, "voc") == ["voc", "voc-100", "voc-rollout"]
    assert kept_names(tmp_path / "nowhere", "voc") == []


def test_tables_of_masks_are_best_first_with_intervals(runs: Path) -> None:
    table, pairs, sweep, classes = voc.tables(labelled(runs, "voc"))
    assert sorted(row.cells[0] for row in table.sections[0].rows[:2]) == ["one", "two"]
    at = [column.title for column in table.columns].index("strict: mean over the heads")
    means = [float(row.cells[at].partition(" ")[0]) for row in table.sections[0].rows[:2]]
    assert means == sorted(means, reverse=True)
    assert table.sections[0].rows[0].best
    assert "[" in table.sections[0].rows[0].cells[1]
    assert pairs.sections[0].rows[0].cells[0] == "two − one"
    assert len(sweep.columns) == 1 + len(voc.VocConfig.masses)
    assert len(classes.sections[0].rows) > 1
    (chart,) = voc.charts(labelled(runs, "voc"))
    assert [len(panel.lines) for panel in chart.panels] == [2, 2, 2]
    assert chart.panels[0].at == 60


def test_the_masks_that_are_drawn_score_what_was_measured(runs: Path) -> None:
    (sheet,) = voc.examples(results(runs, "voc"), models(runs), 3, CPU)
    assert "best and the worst 3 of 8 images" in sheet.caption
    ranked = best_first(results(runs, "voc"), "voc_jaccard_strict_mean")
    assert [row[0].caption for row in sheet.rows] == [name for name, _ in (*ranked[:3], *ranked[-3:])]
    for row in sheet.rows:
        scores = dict(ranked)[row[0].caption]
        shown = [float(tile.detail.removesuffix(" %")) for tile in row[2:]]
        assert shown == pytest.approx(scores, abs=0.06)
    means = [sum(scores) for _, scores in ranked]
    assert means == sorted(means, reverse=True)


def test_published_figures_stand_next_to_those_of_their_protocol(runs: Path) -> None:
    one = results(runs, "voc")[0]
    square = {**one.protocol, "published": {**one.protocol["published"], "square": 512}}
    table = voc.tables([("one", replace(one, protocol=square))], published=True)[0]
    cells = {row.cells[0]: row.cells for each in table.sections for row in each.rows}
    assert cells["DINO, ViT-S/16"][1] == "45.9"
    assert "these of 8" in table.remarks[-1]
    video = results(runs, "davis-2017")[0]
    table = davis.tables([("one", replace(video, protocol={**video.protocol, "size": 480}))], published=True)[0]
    cells = {row.cells[0]: row.cells for each in table.sections for row in each.rows}
    assert cells["DINO ViT-S/16"][1] == "61.8"
    assert "these of 2" in table.remarks[-1]


def test_examples_of_data_that_are_gone_are_refused(runs: Path) -> None:
    for name, module in (("voc", voc), ("davis-2017", davis)):
        gone: list[Result] = []
        for run, result in zip(("one", "two"), results(runs, name), strict=True):
            moved = replace(result, protocol={**result.protocol, "data": str(runs / "gone")})
            if name != "voc":
                keep_frames(runs / run, name, kept_frames(runs / run, name, result), moved)
            gone.append(moved)
        with pytest.raises(UserError, match="gone"):
            module.examples(gone, models(runs), 3, CPU)
        assert module.tables([("one", gone[0])])


def test_a_folder_of_masks_is_not_drawn_since_its_place_is_not_kept(runs: Path) -> None:
    mine = [replace(each, protocol={**each.protocol, "data_name": "mine"}) for each in results(runs, "voc")]
    with pytest.raises(UserError, match="is not kept"):
        voc.examples(mine, models(runs), 3, CPU)


def test_davis_draws_the_best_and_the_worst_sequence(runs: Path) -> None:
    scores, objects = davis.tables(labelled(runs, "davis-2017"))
    assert {row.cells[0] for row in scores.sections[0].rows} == {"one", "two"}
    assert len(objects.sections[0].rows) == 2 * results(runs, "davis-2017")[0].protocol["objects"]
    ranked = best_first(results(runs, "davis-2017"), "jf_mean")
    best, worst = davis.examples(results(runs, "davis-2017"), models(runs), 3, CPU)
    mean = sum(ranked[0][1]) / 2
    assert best.caption.startswith(f"The best sequence, {ranked[0][0]}: J&F {mean:.1f} %")
    assert worst.caption.startswith(f"The worst sequence, {ranked[1][0]}")


def test_kept_frames_are_those_of_the_result(runs: Path) -> None:
    found = results(runs, "davis-2017")[0]
    frames = kept_frames(runs / "one", "davis-2017", found)
    assert sorted({number for _, number in frames}) == kept_places(5) == [1, 3, 4]
    assert {mask.shape for mask in frames.values()} == {(60, 100)}
    assert max(mask.max() for mask in frames.values()) > 0
    other = replace(found, protocol={**found.protocol, "top_k": 1})
    assert kept_frames(runs / "one", "davis-2017", other) == {}
    assert kept_frames(runs / "one", "davis-2016", found) == {}
    assert kept_places(3) == [1, 2]
    assert kept_places(100) == [33, 66, 99]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no archive", None])
def test_damaged_frames_are_named(runs: Path, damage: bytes | None) -> None:
    file = runs / "one" / "evaluations" / "davis-2017.frames.npz"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    with pytest.raises(UserError, match="damaged"):
        davis.examples(results(runs, "davis-2017"), models(runs), 3, CPU)


def test_masks_that_are_no_masks_are_refused(runs: Path) -> None:
    found = results(runs, "davis-2017")[0]
    file = runs / "one" / "evaluations" / "davis-2017.frames.npz"
    with np.load(file) as there:
        np.savez_compressed(file, **{"protocol": there["protocol"], "a/1": np.zeros(3, np.uint8)})
    with pytest.raises(UserError, match="a/1 is no mask"):
        kept_frames(runs / "one", "davis-2017", found)


def test_results_of_before_items_were_kept_have_tables_and_no_examples(runs: Path) -> None:
    for name, module in (("voc", voc), ("davis-2017", davis)):
        for run in ("one", "two"):
            file = runs / run / "evaluations" / f"{name}.json"
            values = json.loads(file.read_text())
            del values["items"]
            file.write_text(json.dumps(values))
        assert module.tables(labelled(runs, name))
        assert module.examples(results(runs, name), models(runs), 3, CPU) == []


def test_images_by_name(drawn: Path) -> None:
    images = find_masked_images(drawn)
    chosen = images.named([images.names[3], images.names[1]])
    assert chosen.images == (images.images[3], images.images[1])
    with pytest.raises(UserError, match="no image nowhere"):
        images.named(["nowhere"])
