"""The panels of a report's curves are those that the methods of its runs describe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dinoscope.methods import METHODS
from dinoscope.methods.method import Curve, MethodConfig
from dinoscope.report.page import Gallery
from dinoscope.report.runs import Material, RunRecord
from dinoscope.report.sections import curves
from dinoscope.training.config import RunConfig
from tests.conformance import cases


def record(name: str, *values: str, config: MethodConfig | None = None) -> RunRecord:
    """A run of two steps that logged these values."""
    run = RunConfig(Path("data"), Path(name), method=config or cases.SETTINGS[name])
    lines = tuple({"step": step, "epoch": 0, "loss": 1.0} | dict.fromkeys(values, 1.0 + step) for step in (0, 1))
    title = METHODS[name].display.title
    return RunRecord(
        Path(name), name, run, title, name, 2, 2, "finished", 8, 0, 1.0, False, "", (), lines, (), {}
    )  # fmt: skip


def panels(*runs: RunRecord) -> tuple[dict[str, list[str]], str]:
    """Title of each figure -> its panels; and all captions."""
    section = curves.section(Material(runs))
    assert section is not None
    galleries = [block for block in section.blocks if isinstance(block, Gallery)]
    found = {
        each.caption.partition(".")[0]: [figure.alt.partition(" over ")[0] for figure in each.figures]
        for each in galleries
    }
    return found, " ".join(each.caption for each in galleries)


@pytest.mark.parametrize(
    ("name", "figure", "titles"),
    [
        ("vicreg", "Parts of the loss", ["Invariance", "Variance", "Covariance"]),
        ("barlow", "Parts of the loss", ["On the diagonal", "Off the diagonal", "Correlation of views"]),
        ("simdino", "Parts of the loss", ["Alignment", "Coding rate", "Share of the largest rate"]),
        ("mae", "Parts of the loss", ["Explained share"]),
        ("dino", "Teacher and student", ["Entropy of the targets", "Entropy of their mean", "KL(teacher, student)"]),
        ("simdino", "Schedules", ["Teacher momentum"]),
    ],
)
def test_a_method_describes_its_panels(name: str, figure: str, titles: Sequence[str]) -> None:
    logged = [curve.name for curve in METHODS[name].curves if not curve.optional]
    found, caption = panels(record(name, *logged))
    assert found[figure] == list(titles)
    for curve in METHODS[name].curves:
        assert curve.optional or curve.reading in caption
    assert not any(f"Not logged: {curve.title}" in caption for curve in METHODS[name].curves)


def test_curves_of_one_title_share_a_panel() -> None:
    """The targets of DINO and SwAV have other names in the log."""
    found, caption = panels(record("dino", "teacher_entropy"), record("swav", "code_entropy"), record("simclr"))
    assert found["Teacher and student"].count("Entropy of the targets") == 1
    assert "Not logged by SimCLR: Entropy of the targets" in caption


def test_what_a_run_may_do_without_is_not_missed() -> None:
    without, caption = panels(record("dino"))
    assert "KoLeo" not in caption
    assert "Parts of the loss" not in without
    found, _ = panels(record("dino", "koleo"))
    assert found["Parts of the loss"] == ["KoLeo"]


def test_a_new_curve_is_shown_without_an_edit_of_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = replace(METHODS["simclr"], curves=(Curve("Novelty", "bits", "novel", "Read it so.", figure="New figure"),))
    monkeypatch.setitem(METHODS, "simclr", entry)
    found, caption = panels(record("simclr", "novel"))
    assert found["New figure"] == ["Novelty"]
    assert "Read it so." in caption
