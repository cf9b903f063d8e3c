"""What a new section, and a new evaluation, cost the report: one function and one entry of a list."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation.base import Column, Evaluation
from dinoscope.evaluation.compare import compare
from dinoscope.evaluation.results import keep_as
from dinoscope.model_names import Model
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.pictures import Sheet, Tile
from dinoscope.report import build
from dinoscope.report.page import Document, Figure, Folded, Notice, Paragraph, Section, render
from dinoscope.report.runs import Material
from dinoscope.report.sections import SECTIONS, comparison, evaluations
from dinoscope.tables import Line, LineChart, LinePanel, Table
from dinoscope.types import Items, Metric, Result
from tests.html_checks import Page


def models(root: Path, *names: str) -> tuple[Model, ...]:
    backbone = build_backbone(BackboneConfig("vit_micro_conv8", 32)).eval()
    return tuple(Model(name, name, backbone, root / name, method="dino", run=root / name) for name in names)


def test_a_new_section_is_a_function_and_an_entry_of_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def section(material: Material) -> Section:
        return Section("Throw-away", "throw-away", "", (Paragraph(f"{len(material.models)} models"),))

    monkeypatch.setattr(build, "SECTIONS", (section, *SECTIONS))
    monkeypatch.setattr(build, "gather", lambda *_, **__: compare([]))
    monkeypatch.setattr(build, "load_models", lambda names, _: models(tmp_path, *names))
    written = build.write_report(("a", "b"), tmp_path / "out.html", pictures=False)
    assert written.sections[0] == "Throw-away"
    page = Page(written.path.read_text())
    assert "2 models" in page.text
    assert {"href": "#throw-away"} in [values for name, values in page.elements if name == "a"]


@dataclass(frozen=True)
class WidthConfig:
    """No settings."""


def width(**more: object) -> Evaluation:
    """The letters of a name: an evaluation of one function."""
    return Evaluation(
        "width",
        "Width",
        "Count the letters of the name.",
        "nothing",
        WidthConfig,
        lambda chosen, *_: tuple(
            Result("width", {"image_size": 32}, (Metric("width", float(len(model.label)), ""),)) for model in chosen
        ),
        (Column("width", "Width", "width", unit=""),),
        lambda protocol: f"Width at {protocol['image_size']} px",
        lambda *_: {},
        **more,  # type: ignore[arg-type]
    )


def page(*sections: Section) -> Page:
    return Page(render(Document("t", sections)))


def kept(root: Path, evaluation: Evaluation, *names: str) -> Material:
    chosen = models(root, *names)
    for model, result in zip(chosen, evaluation.run(chosen, None, WidthConfig(), None), strict=True):  # type: ignore
        assert model.home is not None
        items = Items(("x", "y", "z"), {"width": (3.0, 1.0, 2.0)})
        keep_as(model.home, "width", replace(result, items=items))
    return Material(models=chosen)


def test_a_new_evaluation_shows_without_an_edit_of_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.full((8, 8, 3), 99, np.uint8)
    chart = LineChart("c", "A curve", (LinePanel("p", (Line("a", (0, 1), (1, 2)),)),))
    evaluation = width(
        charts=lambda _: [chart],
        examples=lambda results, chosen, *_: [Sheet("s", ((Tile(pixels, chosen[0].label),),), "three squares")],
    )
    monkeypatch.setitem(EVALUATIONS, "width", evaluation)
    (section,) = [each for each in evaluations.section(kept(tmp_path, evaluation, "a", "b")) if each.anchor == "width"]
    read = page(section)
    assert all(text in read.text for text in ("Width", "Count the letters", "A curve", "three squares"))
    assert "Width of each item, best first Item a b x 3.0 3.0 z 2.0 2.0 y 1.0 1.0" in read.text
    assert "Width at 32 px" in read.text
    assert len(read.images()) == 2


def test_what_cannot_be_drawn_or_does_not_fit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> list[Sheet]:
        raise UserError("the data are gone")

    evaluation = width(examples=gone)
    monkeypatch.setitem(EVALUATIONS, "width", evaluation)
    material = kept(tmp_path, evaluation, "a")
    model = material.models[0]
    assert model.home is not None
    keep_as(model.home, "width-old", Result("width", {}, ()))
    keep_as(model.home, "width-other", Result("width", {"image_size": 1, "weights_hash": "0"}, ()))
    (section,) = [each for each in evaluations.section(material) if each.anchor == "width"]
    notices = [block.text for block in section.blocks if isinstance(block, Notice)]
    assert any("the data are gone" in text and "x (3.0); z (2.0); y (1.0)" in text for text in notices)
    assert any("does not state its image_size" in text for text in notices)
    assert any("other weights" in text for text in notices)
    assert not any(isinstance(block, Figure) for block in section.blocks)


def test_results_on_other_data_than_the_comparison_shows_are_told(tmp_path: Path) -> None:
    (model,) = models(tmp_path, "a")
    assert model.home is not None
    protocol = {"gallery": "here", "queries": None, "gallery_images": 9, "query_images": 9, "temperature": 0.07}
    protocol |= {"classes": 3, "image_size": 32, "precision": "fp32", "label_fraction": 1.0, "weights_hash": ""}
    protocol["weights_hash"] = model.weights_hash
    keep_as(model.home, "knn", Result("knn", protocol, (Metric("knn_top1", 50.0, parameters={"k": 20}),)))
    section = comparison.section(Material(models=(model,), comparison=compare([])))
    assert section is not None
    (folded,) = [block for block in section.blocks if isinstance(block, Folded)]
    assert "k-NN on other data or otherwise" in folded.title
    assert isinstance(folded.blocks[0], Table)
