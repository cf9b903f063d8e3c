"""The tab for trainings: runs of the folders that were named, finished, running and damaged, and nothing else."""

from __future__ import annotations

import ast
import inspect
import json
import os
import shutil
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

pytest.importorskip("gradio", reason="the tabs need Gradio")
pytest.importorskip("httpx")

import gradio as gr

from dinoscope import api
from dinoscope import text as text_module
from dinoscope.cli import main
from dinoscope.demo.engine import Engine
from dinoscope.demo.serving import page_served
from dinoscope.demo.site import NOTHING, Site, Words, literal
from dinoscope.demo.training import Runs, TrainingTab, attention_picture, catalogue
from dinoscope.explain.history import read_history
from dinoscope.methods import METHODS, dino, esvit, ibot
from dinoscope.methods import health as method_health
from dinoscope.methods.method import FEATURES, TEACHER_AND_STUDENT
from dinoscope.report.charts import Line, LineChart, LinePanel, line_chart
from dinoscope.report.runs import read_runs
from dinoscope.report.sections import curves, health
from dinoscope.report.sections.health import findings
from dinoscope.training.run_folder import is_in_training, run_lock
from tests.conformance import cases
from tests.demo.conftest import named
from tests.demo.test_serving import Person
from tests.report_runs import labelled

REQUEST: Any = gr.Request(headers={"accept-language": "en"})
NEW: Any = ((), 0)
STATE, CURVES, SLIDER, COLUMN, CAPTION, PICTURE, SECOND, CAPTION_2, PICTURE_2, TIMER, SHOWN = range(11)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of DINO, `dino`: two epochs, with attention after each."""
    root = tmp_path_factory.mktemp("trained")
    api.train(cases.run_config("dino", labelled(root / "data"), root / "runs" / "dino", epochs=2, evaluate_every=1))
    return root / "runs"


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """A copy of that folder, and below it `plain`, an older run without pictures of attention."""
    folder = shutil.copytree(trained, tmp_path / "runs")
    shutil.copytree(folder / "dino", folder / "plain")
    shutil.rmtree(folder / "plain" / "attention")
    os.utime(folder / "plain" / "config.json", (1, 1))
    return folder


@pytest.fixture
def tab(engine: Engine, runs: Path, tmp_path: Path) -> TrainingTab:
    made = tmp_path / "made"
    made.mkdir()
    with gr.Blocks(), gr.Tab("Training") as tab:
        return TrainingTab(Site(engine, Words(), [], made), Runs((runs,)), tab)


def metrics_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def write_metrics(run: Path, lines: list[dict[str, float]]) -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_newest_run_is_shown_first_with_state_health_curves_and_attention(tab: TrainingTab, runs: Path) -> None:
    first, second, *drawn = tab.open(None, NOTHING, 2, NEW, REQUEST)
    assert [value for _, value in first["choices"]] == ["dino", "plain"]
    assert (first["value"], second["value"]) == ("dino", NOTHING)
    assert "Finished" in drawn[STATE]
    (record,) = read_runs([runs / "dino"])
    for finding in findings(record):
        assert literal(finding.text) in drawn[STATE]
    for title in ("Loss", "Online k-NN", "Entropy of the targets", "RankMe"):
        assert f'alt="{literal(f"{title} over the epochs: dino")}"' in drawn[CURVES]
    assert "Learning rate" not in drawn[CURVES]
    history = read_history(runs / "dino")
    assert history is not None
    count = len(history.snapshots)
    assert count == 3
    assert (drawn[SLIDER]["value"], drawn[SLIDER]["maximum"], drawn[SLIDER]["visible"]) == (count, count, True)
    assert "epoch 2" in drawn[CAPTION]
    assert drawn[PICTURE]["alt_text"].startswith("Attention in training: dino, epoch 2")
    assert (drawn[COLUMN].visible, drawn[SECOND].visible, drawn[TIMER].active) == (True, False, False)


def test_curves_and_health_are_in_the_language_of_the_reader(tab: TrainingTab, runs: Path) -> None:
    spanish: Any = gr.Request(headers={"accept-language": "es"})
    drawn = tab.choose("dino", "plain", 3, NEW, spanish)
    for text in (
        "Pérdida por épocas: dino, plain",
        "Pérdida y exactitud. ",
        "El k-NN en línea (k = 20) se mide durante el entrenamiento con sus propias imágenes a ",
        "Los objetivos son las salidas del profesor en DINO",
        "Desviación típica de las proyecciones",
    ):
        assert literal(text) in drawn[CURVES]
    (record,) = read_runs([runs / "dino"])
    for finding in findings(record):
        assert literal(finding.text) not in drawn[STATE]
    assert "lang='en'" not in drawn[STATE] + drawn[CURVES] + drawn[CAPTION]
    assert literal("Pérdida") not in tab.choose("dino", "plain", 3, NEW, REQUEST)[CURVES]


def test_titles_of_curves_are_not_cut_off() -> None:
    titles = {value.title for figure in curves._FIGURES.values() for value in figure}
    titles |= {curve.title for entry in METHODS.values() for curve in entry.curves}
    for english in sorted(titles):
        for title in (english, catalogue("es").get(english, english)):
            panel = LinePanel(title, (Line("a", (1.0, 2.0), (0.3635, 0.3655)),), "epoch", "std. deviation")
            figure = line_chart(LineChart("", title, (panel,)), curves._SIZE, legend=False)
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            (axis,) = figure.axes
            box = axis._left_title.get_window_extent(canvas.get_renderer())
            assert box.width > 10, title
            assert box.x1 <= figure.bbox.width, title
            assert box.y1 <= figure.bbox.height, title


def english_sentences() -> set[str]:
    """All that the tab may say of a run: what the sources make phrases of, and the texts of methods and curves."""
    sources = [method_health, health, curves, dino, ibot, esvit, text_module]
    calls = [
        node
        for source in sources
        for node in ast.walk(ast.parse(inspect.getsource(source)))
        if isinstance(node, ast.Call)
    ]
    phrases = [
        call.args[0] for call in calls if isinstance(call.func, ast.Name) and call.func.id in ("Phrase", "advice")
    ]
    said = {phrase.value for phrase in phrases if isinstance(phrase, ast.Constant)}
    for title in (curves.LOSS, TEACHER_AND_STUDENT, FEATURES):
        for value in curves._FIGURES[title]:
            said |= {title, value.title, value.unit, *filter(None, [value.reading])}
    for entry in METHODS.values():
        for curve in entry.curves:
            if curve.figure in (TEACHER_AND_STUDENT, FEATURES):
                said |= {curve.title, curve.unit, *filter(None, [curve.reading])}
        said.add(getattr(entry.build, "advice", "Lower the learning rate."))
    return said


def test_all_sentences_of_the_report_have_a_translation_with_the_same_values() -> None:
    catalogue_of = catalogue("es")
    assert not english_sentences() - catalogue_of.keys()
    for english, spanish in catalogue_of.items():
        fields = [[part[1:3] for part in string.Formatter().parse(text) if part[1]] for text in (english, spanish)]
        assert sorted(fields[0]) == sorted(fields[1]), english


def test_the_slider_goes_from_before_training_to_the_newest(tab: TrainingTab, runs: Path) -> None:
    pictures = [tab.move("dino", NOTHING, place, NEW, REQUEST) for place in (1, 2, 3)]
    texts = [caption for _, caption, *_ in pictures]
    assert "before training" in texts[0]
    assert "epoch 1," in texts[1]
    assert "epoch 2," in texts[2]
    assert len({picture["value"] for _, _, picture, *_ in pictures}) == 3
    history = read_history(runs / "dino")
    assert history is not None
    drawn = [attention_picture(history, snapshot, ("low", "high")) for snapshot in history.snapshots]
    assert not np.array_equal(drawn[0], drawn[2])


def test_two_runs_share_the_panels_and_one_without_attention_says_how_to_get_it(tab: TrainingTab) -> None:
    drawn = tab.choose("dino", "plain", 3, NEW, REQUEST)
    assert literal("Loss over the epochs: dino, plain") in drawn[CURVES]
    assert "<ul class='legend'>" in drawn[CURVES]
    assert drawn[STATE].count("<section>") == 2
    assert "--evaluate-every" in drawn[CAPTION_2]
    assert drawn[PICTURE_2]["value"] is None
    assert drawn[PICTURE]["value"] is not None
    alone = tab.choose("plain", NOTHING, 3, NEW, REQUEST)
    assert alone[SLIDER]["visible"] is False


def test_a_run_in_training_is_read_again_and_tells_the_time_left(tab: TrainingTab, runs: Path) -> None:
    run = runs / "dino"
    lines = metrics_of(run)
    steps = int(lines[-1]["step"]) + 1
    for file in (run / "checkpoints").glob("*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    shutil.rmtree(run / "exported")
    (newest, *_) = sorted((run / "attention").glob("step-*"), reverse=True)
    later = newest.rename(run / "later")
    half = [line | {"images_per_second": 1.0} for line in lines if line["step"] < steps // 2]
    write_metrics(run, half)
    with run_lock(run, lambda: pytest.fail("the run is free")):
        drawn = tab.choose("dino", NOTHING, 9, NEW, REQUEST)
        assert drawn[TIMER].active
        batch = read_runs([run])[0].config.batch_size
        assert f"step {steps // 2} of {steps}" in drawn[STATE]
        assert f"about {(steps - steps // 2) * batch} s left" in drawn[STATE]
        assert "--resume" not in drawn[STATE]
        again = tab.refresh("dino", NOTHING, drawn[SLIDER]["value"], drawn[SHOWN], REQUEST)
        assert all(update == gr.skip() for update in again)  # nothing was written
        write_metrics(run, lines)
        later.rename(newest)
        after = tab.refresh("dino", NOTHING, drawn[SLIDER]["value"], drawn[SHOWN], REQUEST)
        assert f"step {steps} of {steps}" in after[STATE]
        assert after[CURVES] != drawn[CURVES]
        assert (after[SLIDER]["value"], after[SLIDER]["maximum"]) == (3, 3)  # the newest again
        back = tab.refresh("dino", NOTHING, 1, drawn[SHOWN], REQUEST)
        assert back[SLIDER]["value"] == 1  # whoever looked back still does
    ended = tab.refresh("dino", NOTHING, 3, after[SHOWN], REQUEST)
    assert not ended[TIMER].active
    assert "nothing is saved yet" in ended[STATE]


def test_the_lock_tells_whether_a_run_is_in_training(runs: Path) -> None:
    assert not is_in_training(runs / "dino")
    with run_lock(runs / "dino", lambda: pytest.fail("the run is free")):
        assert is_in_training(runs / "dino")
    assert not is_in_training(runs / "dino")
    assert not is_in_training(runs / "plain")
    assert not (runs / ".plain.lock").exists()


DAMAGE = {
    "half-written settings": ("config.json", b'{"version": "0", "run": {"da'),
    "deep settings": ("config.json", b"[" * 100_000),
    "foreign metrics": ("metrics.jsonl", b"\xff\xfe\n"),
    "metrics of no numbers": ("metrics.jsonl", b'{"step": "x"}\n'),
    "metrics without an epoch": ("metrics.jsonl", b"[]\n"),
    "damaged machine": ("machine.json", b"{"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_folder_that_cannot_be_read_is_one_line(tab: TrainingTab, runs: Path, name: str) -> None:
    file, content = DAMAGE[name]
    (runs / "dino" / file).write_bytes(content)
    drawn = tab.choose("dino", "plain", 3, NEW, REQUEST)
    broken, well = drawn[STATE].split("<section>")[1:]
    assert broken.count("<p>") == 1
    assert "cannot be read now" in broken
    assert str(runs) not in drawn[STATE]
    assert "Traceback" not in drawn[STATE]
    assert "Finished" in well


def test_damaged_attention_leaves_the_rest(tab: TrainingTab, runs: Path) -> None:
    for file in (runs / "dino" / "attention").glob("step-*"):
        file.write_bytes(b"no tensors")
    drawn = tab.choose("dino", NOTHING, 3, NEW, REQUEST)
    assert "cannot be read now" in drawn[CAPTION]
    assert str(runs) not in drawn[CAPTION]
    assert "Finished" in drawn[STATE]
    assert drawn[PICTURE]["value"] is None


def test_only_runs_below_the_named_folders_are_found(runs: Path, tmp_path: Path) -> None:
    hub = runs / "hub"
    hub.mkdir()
    (hub / "config.json").write_text("{}")
    shutil.copytree(runs / "dino", tmp_path / "elsewhere")
    shutil.copytree(runs / "dino", runs / "study" / "deeper")
    shutil.copytree(runs / "dino", tmp_path / "other" / "dino")
    assert set(Runs((runs, runs / "dino")).found()) == {"dino", "plain"}
    assert set(Runs((runs / "dino",)).found()) == {"dino"}
    twice = Runs((runs / "dino", tmp_path / "other")).found()
    assert set(twice.values()) == {(runs / "dino").resolve(), (tmp_path / "other" / "dino").resolve()}


@pytest.fixture(scope="module")
def address(trained: Path) -> Iterator[str]:
    with page_served([named("vit_micro_conv8", "tiny")], runs=[trained]) as address:
        yield address


def event(person: Person, name: str, kind: str) -> dict[str, Any]:
    (target,) = (each["id"] for each in person.config["components"] if each["props"].get("elem_id") == name)
    (found,) = (each for each in person.config["dependencies"] if [target, kind] in each["targets"])
    return found


def test_what_the_browser_sends_is_a_name_and_never_a_path(address: str, trained: Path) -> None:
    person = Person(address)
    choosing = event(person, "training-first", "input")
    assert "Finished" in person.call(choosing, ["dino", NOTHING, 2, None])[STATE]
    for other in (str(trained / "dino"), "../dino", "runs/dino", ["dino"], {"a": 1}, 3, None):
        drawn = person.call(choosing, [other, NOTHING, 2, None])
        assert "no runs" in drawn[STATE]
        assert "<img" not in drawn[CURVES]


def test_without_runs_a_line_says_how_to_make_them() -> None:
    with page_served([named("vit_micro_conv8", "tiny")]) as address:
        ids = {each["props"].get("elem_id") for each in Person(address).config["components"]}
    assert "training-none" in ids
    assert "training-first" not in ids


def test_a_missing_folder_is_refused_at_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--no-browser", "--runs", str(tmp_path / "none")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert str(tmp_path / "none") in line
