"""The report's sections of VOC and DAVIS: what runs keep of them, tables, best and worst examples."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch

from dinoscope import checkpoint, cli
from dinoscope.data.benchmarks import find_masked_images
from dinoscope.errors import UserError
from dinoscope.evaluation.results import from_json, keep_as, kept, kept_names, to_json
from dinoscope.measurement.davis_frames import keep_frames, kept_frames, kept_places
from dinoscope.measurement.voc_record import VocProtocol
from dinoscope.model_names import Model, random_backbone
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.report.page import Block, Bullets, Document, Figure, Folded, Group, Notice, Section, render
from dinoscope.report.runs import Material
from dinoscope.report.sections import davis, voc
from dinoscope.report.sections.kept import best_first, kept_groups
from dinoscope.scenes import ScenesConfig, write_scenes
from dinoscope.study.published import PUBLISHED_DAVIS, PUBLISHED_JACCARD
from dinoscope.tables import Table
from dinoscope.types import Items, Metric, Result

T = TypeVar("T")


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
    """Two run folders, as far as `voc` and `davis` look into them, that keep what was measured of them."""
    root = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        backbone = build_backbone(BackboneConfig("vit_micro_conv8", image_size=32))
        checkpoint.export_backbone(root / name / "exported", backbone)
        (root / name / "config.json").write_text("{}")
    models = ["--model", str(root / "one"), str(root / "two"), "--device", "cpu"]
    small = ["--size", "64", "--square", "64", "--resamples", "50"]
    assert cli.main(["voc", *models, "--data", str(drawn), *small]) == 0
    assert cli.main(["davis", *models, "--data", str(drawn / "DAVIS"), "--size", "64"]) == 0
    return root


@pytest.fixture
def runs(measured: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(measured, tmp_path / "runs"))


def material(models: Sequence[Model]) -> Material:
    return Material(models=tuple(models))


def subjects(runs: Path) -> list[Model]:
    found: list[Model] = []
    for name in ("one", "two"):
        backbone = checkpoint.load_backbone(runs / name)
        found.append(Model(name, name, backbone, runs / name, method="dino", run=runs / name))
    return found


def every(blocks: tuple[Block, ...]) -> Iterator[Block]:
    for block in blocks:
        yield block
        if isinstance(block, Group | Folded):
            yield from every(block.blocks)


def of_kind(section: Section | None, kind: type[T]) -> list[T]:
    assert section is not None
    render(Document("page", (section,)))
    return [block for block in every(section.blocks) if isinstance(block, kind)]


def test_records_keep_what_each_image_and_each_video_scored(runs: Path) -> None:
    for name, figures in (("voc", ("voc_jaccard_published", "voc_jaccard_strict_mean")), ("davis-2017", ("jf_mean",))):
        found = kept(runs / "one", name)
        assert found is not None
        assert found.items is not None
        metrics = {metric.name: metric.value for metric in found.metrics}
        for figure in figures:
            values = found.items.figures[figure]
            assert len(values) == len(found.items.names) > 1
            if name == "voc":
                assert np.mean(values) == pytest.approx(metrics[figure], abs=0.01)
    text = (runs / "one" / "evaluations" / "voc.json").read_text()
    assert sum("items" in line for line in text.splitlines()) == 1  # one line, not one for each value


def test_records_without_examples_read_and_write_as_before() -> None:
    plain = Result("knn", {"a": 1}, (Metric("m", 2.0),))
    assert "items" not in to_json(plain)
    assert from_json(to_json(plain), "file") == plain
    full = replace(plain, items=Items(("x", "y"), {"m": (1.234567, 2.0)}, {"z": "unreadable"}))
    assert from_json(to_json(full), "file") == replace(
        full, items=Items(("x", "y"), {"m": (1.23, 2.0)}, {"z": "unreadable"})
    )


def test_variants_are_found_by_name(tmp_path: Path) -> None:
    for name in ("voc", "voc-rollout", "voc-100", "vocal", "davis-2017"):
        keep_as(tmp_path, name, Result("voc", {}, ()))
    assert kept_names(tmp_path, "voc") == ["voc", "voc-100", "voc-rollout"]
    assert kept_names(tmp_path / "nowhere", "voc") == []


def test_voc_draws_the_best_and_the_worst_images_with_the_figures_that_are_kept(runs: Path) -> None:
    section = voc.section(material(subjects(runs)))
    (table,) = of_kind(section, Table)
    shown = [row.cells[0] for each in table.sections for row in each.rows]
    assert sorted(shown) == ["one", "two"]  # at 64 px nothing published stands beside
    at = [column.title for column in table.columns].index("strict: mean over the heads")
    means = [float(row.cells[at].partition(" ")[0]) for row in table.sections[0].rows]
    assert means == sorted(means, reverse=True)
    assert table.sections[0].rows[0].best
    assert "[" in table.sections[0].rows[0].cells[1]
    (figure,) = of_kind(section, Figure)
    assert "3 of 8 images" in figure.caption
    assert of_kind(section, Notice) == []


def test_the_masks_that_are_drawn_score_what_was_measured(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    monkeypatch.setattr(voc, "mask_sheet", lambda found, *_: rows.extend(found) or np.zeros((4, 4, 3), np.uint8))
    voc.section(material(subjects(runs)))
    one, two = (kept(runs / name, "voc") for name in ("one", "two"))
    assert one is not None
    assert two is not None
    assert one.items is not None
    assert two.items is not None
    first, second = (
        dict(zip(x.names, x.figures["voc_jaccard_strict_mean"], strict=True)) for x in (one.items, two.items)
    )
    for row in rows:
        assert [100 * each.jaccard for each in row.models] == pytest.approx(
            [first[row.name], second[row.name]], abs=0.01
        )
    means = [first[row.name] + second[row.name] for row in rows]
    assert means == sorted(means, reverse=True)
    others = [first[name] + second[name] for name in first if name not in {row.name for row in rows}]
    assert min(means[:3]) >= max(others) >= min(others) >= max(means[3:])


def test_published_figures_stand_beside_those_of_their_protocol(runs: Path) -> None:
    for name in ("one", "two"):
        found = kept(runs / name, "voc")
        assert found is not None
        square = {**found.protocol["published"], "square": 512}
        keep_as(runs / name, "voc", Result("voc", {**found.protocol, "published": square}, found.metrics))
        video = kept(runs / name, "davis-2017")
        assert video is not None
        keep_as(runs / name, "davis-2017", Result("davis", {**video.protocol, "size": 480}, video.metrics))
    (table,) = of_kind(voc.section(material(subjects(runs))), Table)
    cells = {row.cells[0]: row.cells for each in table.sections for row in each.rows}
    assert cells["DINO, ViT-S/16"][1] == f"{PUBLISHED_JACCARD[0].dino:.1f}"
    assert "these of 8" in table.remarks[-1]
    (table,) = of_kind(davis.section(material(subjects(runs))), Table)
    cells = {row.cells[0]: row.cells for each in table.sections for row in each.rows}
    assert cells["DINO ViT-S/16"][1] == f"{PUBLISHED_DAVIS[0].jf_mean:.1f}"
    assert "these of 2" in table.remarks[-1]


def test_where_the_images_are_gone_they_are_named(runs: Path) -> None:
    for name in ("one", "two"):
        found = kept(runs / name, "voc")
        assert found is not None
        keep_as(runs / name, "voc", replace(found, protocol={**found.protocol, "data": str(runs / "gone")}))
        video = kept(runs / name, "davis-2017")
        assert video is not None
        gone = replace(video, protocol={**video.protocol, "data": str(runs / "gone")})
        frames = kept_frames(runs / name, "davis-2017", video)
        keep_as(runs / name, "davis-2017", gone)
        keep_frames(runs / name, "davis-2017", frames, gone)
    section = voc.section(material(subjects(runs)))
    assert of_kind(section, Figure) == []
    (named,) = of_kind(section, Bullets)
    assert len(named.items) == 6
    assert "not drawn" in of_kind(section, Notice)[0].text
    section = davis.section(material(subjects(runs)))
    assert of_kind(section, Figure) == []
    assert len(of_kind(section, Table)) == 2
    assert "not drawn" in of_kind(section, Notice)[0].text


def test_a_folder_of_masks_is_not_drawn_since_its_place_is_not_kept(runs: Path) -> None:
    for name in ("one", "two"):
        found = kept(runs / name, "voc")
        assert found is not None
        keep_as(runs / name, "voc", replace(found, protocol={**found.protocol, "data_name": "mine"}))
    section = voc.section(material(subjects(runs)))
    assert of_kind(section, Figure) == []
    assert "is not kept" in of_kind(section, Notice)[0].text


def test_davis_draws_the_best_and_the_worst_sequence(runs: Path) -> None:
    section = davis.section(material(subjects(runs)))
    scores, sequences = of_kind(section, Table)
    assert [row.cells[0] for row in scores.sections[0].rows] == ["one", "two"]
    rows = [row.cells for row in sequences.sections[0].rows]
    assert len(rows) == 2
    means = [sum(map(float, cells[1:])) / 2 for cells in rows]
    assert means == sorted(means, reverse=True)
    best, worst = of_kind(section, Figure)
    assert best.caption.startswith(f"The best sequence, {rows[0][0]}: J&F {means[0]:.0f}"[:-1])
    assert worst.caption.startswith(f"The worst sequence, {rows[1][0]}")


def test_kept_frames_are_those_of_the_measurement(runs: Path, drawn: Path) -> None:
    found = kept(runs / "one", "davis-2017")
    assert found is not None
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
def test_damaged_frames_are_said_and_the_tables_stay(runs: Path, damage: bytes | None) -> None:
    file = runs / "one" / "evaluations" / "davis-2017.frames.npz"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    section = davis.section(material(subjects(runs)))
    assert len(of_kind(section, Table)) == 2
    assert "damaged" in of_kind(section, Notice)[0].text


def test_masks_that_are_no_masks_are_refused(runs: Path) -> None:
    found = kept(runs / "one", "davis-2017")
    assert found is not None
    file = runs / "one" / "evaluations" / "davis-2017.frames.npz"
    with np.load(file) as there:
        np.savez_compressed(file, **{"protocol": there["protocol"], "a/1": np.zeros(3, np.uint8)})
    with pytest.raises(UserError, match="a/1 is no mask"):
        kept_frames(runs / "one", "davis-2017", found)


def test_results_of_other_weights_are_left_out_and_said(runs: Path) -> None:
    one, two = subjects(runs)
    section = voc.section(material([one, replace(two, backbone=random_backbone(two.backbone.config, seed=5))]))
    (table,) = of_kind(section, Table)
    assert [row.cells[0] for row in table.sections[0].rows] == ["one"]
    assert "other weights" in of_kind(section, Notice)[0].text


def test_damaged_records_are_said(runs: Path) -> None:
    (runs / "one" / "evaluations" / "voc.json").write_text("{")
    section = voc.section(material(subjects(runs)))
    assert len(of_kind(section, Table)) == 1
    assert "damaged" in of_kind(section, Notice)[0].text


def test_records_that_say_too_little_are_left_out_and_said(runs: Path) -> None:
    for name in ("voc", "davis-2017"):
        keep_as(runs / "one", name, Result(name, {"data": "x"}, ()))
    for section in (voc.section(material(subjects(runs))), davis.section(material(subjects(runs)))):
        assert "does not say its" in of_kind(section, Notice)[0].text
        assert [row.cells[0] for row in of_kind(section, Table)[0].sections[0].rows] == ["two"]


def test_only_what_was_measured_alike_shares_a_table(runs: Path) -> None:
    found = kept(runs / "two", "voc")
    assert found is not None
    keep_as(runs / "two", "voc", replace(found, protocol={**found.protocol, "mass": 0.5}))
    section = voc.section(material(subjects(runs)))
    assert section is not None
    assert [type(block) for block in section.blocks] == [Group, Group]
    assert [len(table.sections[0].rows) for table in of_kind(section, Table)] == [1, 1]
    groups, _ = kept_groups(material(subjects(runs)).titled, "voc", VocProtocol)
    assert [len(group) for group in groups] == [1, 1]


def test_old_records_without_examples_have_a_table_and_no_examples(runs: Path) -> None:
    for name in ("one", "two"):
        for file in (runs / name / "evaluations").glob("*.json"):
            values = json.loads(file.read_text())
            del values["items"]
            file.write_text(json.dumps(values))
    for section in (voc.section(material(subjects(runs))), davis.section(material(subjects(runs)))):
        assert len(of_kind(section, Table)) == 1
        assert of_kind(section, Figure) == []
    groups, _ = kept_groups(material(subjects(runs)).titled, "voc", VocProtocol)
    assert best_first(groups[0], "voc_jaccard_strict_mean") is None


def test_no_section_without_results(tmp_path: Path, runs: Path) -> None:
    bare = [replace(each, keeps_results=False) for each in subjects(runs)]
    assert voc.section(material(bare)) is None
    assert davis.section(material(bare)) is None
    assert voc.section(material([replace(bare[0], run=tmp_path, keeps_results=True)])) is None


def test_images_by_name(drawn: Path) -> None:
    images = find_masked_images(drawn)
    chosen = images.named([images.names[3], images.names[1]])
    assert chosen.images == (images.images[3], images.images[1])
    with pytest.raises(UserError, match="no image nowhere"):
        images.named(["nowhere"])
