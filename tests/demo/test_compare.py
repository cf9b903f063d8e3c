"""Stored verdicts: read as they were written or refused in a line, shown as text, and served as nothing but the tab."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the tabs need Gradio")
pytest.importorskip("httpx")

import gradio as gr
import httpx

from dinoscope.cli import main
from dinoscope.demo.compare import CompareTab
from dinoscope.demo.engine import Engine
from dinoscope.demo.serving import page_served
from dinoscope.demo.site import Site, Words, literal
from dinoscope.evaluation.base import Context
from dinoscope.evaluation.evidence import Check, Verdict
from dinoscope.report.verdict import few_labels_chart, read_verdict, read_verdicts, verdict_tables, write_verdict
from tests.demo.conftest import named
from tests.demo.test_serving import PATIENCE, Person
from tests.pictures import write_pictures

REQUEST: Any = gr.Request(headers={"accept-language": "es"})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Verdict]:
    """A folder with a verdict on 16 images without a val split, and that verdict."""
    root = tmp_path_factory.mktemp("written")
    data, out = write_pictures(root / "data", 16, classes=2), root / "result"
    context = Context(workers=0, cached=False, split=0.5)
    skipped = ("linear", "throughput", "lidar")
    verdict, _, _ = write_verdict(
        [named("vit_micro_conv8", "tiny"), "pixels"], data, out, skip=skipped, context=context
    )
    return out, verdict


def drawn(engine: Engine, folder: Path, verdict: Verdict) -> str:
    with gr.Blocks(), gr.Tab("Compare") as tab:
        return CompareTab(Site(engine, Words(), [], folder), {"one": verdict}, tab).draw(0, REQUEST)


def test_a_verdict_is_read_as_it_was_written(written: tuple[Path, Verdict]) -> None:
    out, verdict = written
    read = read_verdict(out)
    assert (read.sentence, read.decision, read.checks) == (verdict.sentence, verdict.decision, verdict.checks)
    assert verdict_tables(read) == verdict_tables(verdict)
    assert few_labels_chart(read) == few_labels_chart(verdict)
    assert list(read_verdicts([out, out])) == ["result", "result-2"]


def without_amounts(values: dict[str, Any]) -> None:
    for result in (result for model in values["models"] for result in model["results"]):
        result["protocol"].pop("largest_class", None)


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "a field too many": lambda values: values.update(more=1),
    "a field too few": lambda values: values.pop("data"),
    "text for a number": lambda values: values.update(train_images=str(values["train_images"])),
    "text for a truth": lambda values: values.update(trusted="no"),
    "two truths": lambda values: values.update(trusted=not values["trusted"]),
    "no kind of decision": lambda values: values["decision"].update(kind="best"),
    "no accuracies": lambda values: values["decision"].update(accuracies={}),
    "no models": lambda values: values.update(models=[], decision=None, take=None),
    "no list of models": lambda values: values.update(models=3),
    "one model twice": lambda values: values.update(models=values["models"] * 2),
    "a result without its protocol": without_amounts,
    "of another command": lambda values: values.pop("sentence"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_not_exactly_a_verdict_costs_one_line(
    written: tuple[Path, Verdict], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    values = json.loads((written[0] / "verdict.json").read_text())
    BROKEN[name](values)
    (tmp_path / "verdict.json").write_text(json.dumps(values))
    refused(tmp_path, capsys)


@pytest.mark.parametrize("content", [b"", b"no JSON", b"\xff\xfe", b"[]", b"3", b"[" * 100_000, None])
def test_foreign_files_cost_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "verdict.json").write_bytes(content)
    refused(tmp_path, capsys)


def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--no-browser", "--results", str(folder)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("dinoscope demo: ")
    assert str(folder) in line


def test_sentence_tables_curves_and_checks_are_shown(
    engine: Engine, tmp_path: Path, written: tuple[Path, Verdict]
) -> None:
    verdict = replace(written[1], checks=(Check("note", "first"), Check("warning", "second")))
    html = drawn(engine, tmp_path, verdict)
    assert literal(verdict.sentence) in html
    for table in verdict_tables(verdict):
        for cell in (cell for section in table.sections for row in section.rows for cell in row.cells):
            assert literal(cell) in html
    chart = few_labels_chart(verdict)
    assert chart is not None
    assert html.count('<img src="data:image/svg') == len(chart.panels) == 3
    assert html.index("Atención:") < html.index("second") < html.index("Nota:") < html.index("first")
    assert str(written[0].parent) not in html  # the name of the images, and not where they lie


def test_what_is_stored_is_text_and_no_markup(engine: Engine, tmp_path: Path, written: tuple[Path, Verdict]) -> None:
    attack = "<img src=x onerror=alert(1)>${alert(1)}{{x}}\"'"
    verdict, plain = written[1], drawn(engine, tmp_path, written[1])
    entries = {f"{label}{attack}": entry for label, entry in verdict.entries.items()}
    changed = replace(
        verdict, sentence=attack, data=attack, decision=None, entries=entries, checks=(Check("note", attack),)
    )
    html = drawn(engine, tmp_path, changed)
    assert html.count("<img") == plain.count("<img")
    assert "${" not in html
    assert "{{" not in html
    assert html.count(literal(attack)) >= 4


@pytest.fixture(scope="module")
def address(written: tuple[Path, Verdict]) -> Iterator[str]:
    results = {"first": written[1], "second": replace(written[1], sentence="Take the other one.")}
    with page_served([named("vit_micro_conv8", "tiny")], results=results) as address:
        yield address


def choosing(person: Person) -> dict[str, Any]:
    (which,) = (each["id"] for each in person.config["components"] if each["props"].get("elem_id") == "compare-which")
    (event,) = (each for each in person.config["dependencies"] if [which, "input"] in each["targets"])
    return event


def test_a_visitor_chooses_by_number_among_what_was_given(address: str, written: tuple[Path, Verdict]) -> None:
    person = Person(address)
    assert literal(written[1].sentence) in person.call(choosing(person), [0])[0]
    assert literal("Take the other one.") in person.call(choosing(person), [1])[0]
    for other in (2, -1, str(written[0]), "../verdict.json", "/etc"):
        with pytest.raises(AssertionError, match="process_completed"):
            person.call(choosing(person), [other])


def test_the_files_of_results_are_not_served(address: str, written: tuple[Path, Verdict]) -> None:
    for name in ("verdict.json", "verdict.html", "labels.png"):
        reply = httpx.get(f"{address}gradio_api/file={written[0] / name}", trust_env=False, timeout=PATIENCE)
        assert reply.status_code in (403, 404)


def test_without_results_a_line_says_how_to_make_them() -> None:
    with page_served([named("vit_micro_conv8", "tiny")]) as address:
        components = Person(address).config["components"]
    ids = {each["props"].get("elem_id") for each in components}
    assert "compare-none" in ids
    assert not ids & {"compare-which", "compare-view"}
    for language in ("en", "es"):
        assert "dinoscope verdict --data" in Words().texts[language]["compare_none"]
