"""`dinoscope report` end to end, on runs of two steps; and its sections where something is missing or wrong."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dinoscope import checkpoint
from dinoscope.cli import main
from dinoscope.evaluation.results import kept
from dinoscope.report.charts import MAX_POINTS, line_chart, looks
from dinoscope.report.page import Document, Section, render
from dinoscope.report.runs import Material, RunRecord, read_runs
from dinoscope.report.sections import curves, embedding, settings
from dinoscope.report.sections.health import findings, verdict
from dinoscope.tables import LineChart, LinePanel, Table
from dinoscope.text import duration, listed
from dinoscope.training.run_folder import MACHINE
from tests.html_checks import Page
from tests.report_runs import HOSTILE, trained

FAST = ["--skip", "throughput", "linear", "--device", "cpu", "--workers", "0"]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def runs(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies of the runs, in the current folder; their images stay where they were."""
    for name in (HOSTILE, "simclr", "supervised"):
        shutil.copytree(original / name, tmp_path / name)
    monkeypatch.setattr(embedding, "best_method", lambda: "pca")  # UMAP takes seconds to be loaded
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reported(*arguments: object) -> Page:
    """Run the command; the page."""
    assert main(["report", *map(str, arguments), "--out", "report.html", *FAST]) == 0
    return Page(Path("report.html").read_text())


def page(*sections: Section) -> Page:
    return Page(render(Document("t", sections)))


def rewrite(run: str, change) -> None:
    """Change the lines of metrics.jsonl."""
    file = Path(run) / "metrics.jsonl"
    lines = [change(json.loads(line)) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_everything_is_in_the_file_and_what_is_missing_is_measured_and_kept(runs, original, capsys):
    read = reported(HOSTILE, "simclr", "supervised", "--data", original / "data")
    shown = capsys.readouterr()
    titles = ("Summary", "Curves", "Comparison", "Map of the features", "What the models look at", "Health", "Settings")
    assert all(title in read.text for title in titles)
    assert HOSTILE in read.text
    assert read.count("script") == 1  # of the page, not of the run's name
    assert all(name in read.text for name in ("DINO", "SimCLR", "Supervised", "Raw pixels", "ViT-micro/8", "RN-micro"))
    assert re.search(r"SimCLR RN-micro \(\S+ M\) 12 3 2 2 ", read.text)  # images, classes, epochs, steps
    for run in (HOSTILE, "simclr", "supervised"):
        assert kept(runs / run, "knn") is not None
    assert "dinoscope train --recipe" in read.text
    assert "Not logged by SimCLR and Supervised: Entropy of the targets" in read.text
    assert "Not logged by SimCLR and Supervised: Teacher momentum" in read.text
    assert "torch " in read.text  # versions
    assert "report.html" in shown.out
    assert "drawing curves" in shown.err


def test_without_data_only_what_is_kept_is_shown_and_nothing_is_measured(runs):
    read = reported("simclr")
    assert "give --data FOLDER" in read.text
    assert kept(runs / "simclr", "knn") is None
    assert "Where the runs differ" not in read.text


def test_no_sentence_refers_to_what_is_left_out(runs, original, monkeypatch):
    assert main(["report", HOSTILE, "simclr", "--no-pictures", "--out", "nothing.html"]) == 0
    nothing = Page(Path("nothing.html").read_text())
    assert "Nothing is kept of k-NN" in nothing.text
    for words in ("in the comparison below", "the comparison shows", "Accuracy of frozen features", "At the right of"):
        assert words not in nothing.text
    everything = reported(HOSTILE, "simclr", "--data", original / "data")
    assert "in the comparison below" in everything.text
    assert "Accuracy of frozen features" in everything.text
    assert "At the right of" in everything.text
    monkeypatch.setattr(embedding, "MAX_IMAGES", 4)  # so few have no share of neighbours
    few = reported("simclr", "--data", original / "data", "--overwrite")
    assert "Map of the features" in few.text
    assert "At the right of" not in few.text


def test_a_folder_of_runs_stands_for_them_in_their_order(runs, capsys):
    Path("empty/inner").mkdir(parents=True)
    Path("study/runs").mkdir(parents=True)
    for name in ("supervised", "simclr"):
        shutil.move(name, f"study/runs/{name}")
    for folder in ("study", "study/runs"):
        assert main(["report", folder, "--out", "report.html", "--overwrite", "--no-pictures", *FAST]) == 0
        assert "the models of this report: study/runs/simclr, study/runs/supervised\n" in capsys.readouterr().err
        assert "2 runs of SimCLR and Supervised" in Page(Path("report.html").read_text()).text
    assert main(["report", "empty", "--out", "new.html"]) == 2
    assert capsys.readouterr().err == (
        "dinoscope report: empty is no run or model, and no folder in it is a run: name a run folder (train --out)\n"
    )
    assert not Path("new.html").exists()


def test_an_existing_file_and_other_mistakes_are_refused_before_anything_is_done(runs, capsys):
    Path("report.html").write_text("mine")
    assert main(["report", "simclr", "--out", "report.html", "--no-pictures"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert Path("report.html").read_text() == "mine"
    for arguments, said in (
        (["simclr", "--out", "."], "is a folder"),
        (["simclr", "./simclr", "--out", "new.html"], "twice"),
        (["nowhere", "--out", "new.html"], "nowhere"),
        (["--out", "new.html"], "run"),
        (["simclr", "--out", "report.html/new.html"], "is a file"),
        (["simclr", "--out", "new.html", "--label-fraction", "2"], "--label-fraction"),
        (["simclr", "--out", "new.html", "--data", "nowhere"], "nowhere"),
    ):
        assert main(["report", *arguments]) == 2
        assert said in capsys.readouterr().err
        assert not Path("new.html").exists()
    assert main(["report", "simclr", "--out", "report.html", "--no-pictures", "--overwrite", *FAST]) == 0
    assert "simclr" in Page(Path("report.html").read_text()).text
    assert not list(Path().glob(".report.html*"))


def test_exports_stand_beside_runs(runs, original):
    shutil.copytree("simclr/exported", "exported-elsewhere")
    read = reported("supervised", "exported-elsewhere", "--data", original / "data", "--no-baselines", "--no-pictures")
    assert "models whose training is not known here: exported-elsewhere" in read.text
    assert "Raw pixels" not in read.text


def test_a_run_from_before_machine_and_momentum_were_recorded(runs):
    (runs / "supervised" / MACHINE).unlink()
    (runs / HOSTILE / MACHINE).unlink()
    rewrite(HOSTILE, lambda line: {name: value for name, value in line.items() if name != "teacher_momentum"})
    first, second = read_runs([Path(HOSTILE), Path("supervised")])
    assert (first.images, first.classes) == (12, 3)
    assert first.estimated
    assert first.seconds is not None
    read = page(settings.section(Material((first,))), curves.section(Material((first, second))))
    assert "not recorded" in read.text
    assert "Not logged: Teacher momentum" in read.text


def test_a_run_without_images_checkpoints_or_log(runs):
    for name in ("checkpoints", "train.log", "metrics.jsonl", "unreadable.json", MACHINE):
        path = runs / "supervised" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    config = json.loads((runs / "supervised/config.json").read_text())
    config["run"]["data"] = "/nowhere"
    (runs / "supervised/config.json").write_text(json.dumps(config))
    read = reported("supervised")
    assert "finished" in read.text  # it has its export
    assert "Nothing was logged" in read.text
    assert "there is no verdict" in read.text


def test_a_run_that_was_stopped_and_one_that_has_saved_nothing(runs):
    newest = checkpoint.latest(runs / "simclr/checkpoints")
    assert newest is not None
    saved = checkpoint.load(newest)
    checkpoint.save(newest, saved.tensors, {**saved.metadata, "step": 1, "total": 40})
    shutil.rmtree(runs / "simclr/exported")
    shutil.rmtree(runs / "supervised/checkpoints")
    shutil.rmtree(runs / "supervised/exported")
    stopped, begun = read_runs([Path("simclr"), Path("supervised")])
    assert (stopped.state, begun.state) == ("stopped", "begun")
    read = reported("simclr", "supervised", "--no-pictures")
    assert "saved up to step 1 of 40" in read.text
    assert "dinoscope train --out simclr --resume" in read.text
    assert "nothing is saved yet" in read.text


def test_damaged_files_are_named(runs, capsys):
    for name, text in (
        ("metrics.jsonl", "{\n"),
        ("metrics.jsonl", '{"loss": 1}\n'),
        ("metrics.jsonl", '{"step": 1, "loss": null}\n'),
        (MACHINE, "{"),
        ("config.json", "{}"),
    ):
        file = runs / "simclr" / name
        before = file.read_text()
        file.write_text(text)
        assert main(["report", "simclr", "--out", "new.html", "--no-pictures"]) == 2
        assert name in capsys.readouterr().err
        file.write_text(before)


@pytest.fixture
def record(runs: Path) -> RunRecord:
    """DINO, as if it had run for long enough to be judged."""
    (run,) = read_runs([Path(HOSTILE)])
    lines = [{**run.metrics[0], "step": step, "gradient_norm": 1.0} for step in range(0, 1000, 10)]
    return replace(
        run, metrics=tuple(lines), total_steps=1000, steps=1000, state="finished", warnings=(), unreadable={}
    )


def with_values(record: RunRecord, **values: float) -> RunRecord:
    return replace(record, metrics=tuple({**line, **values} for line in record.metrics))


def test_collapse_is_told_in_words_with_what_to_do(record):
    most = math.log(record.config.method.out_dim)
    healthy = with_values(record, cross_entropy=1.0, teacher_entropy=0.5, teacher_marginal_entropy=0.9 * most)
    assert verdict(healthy) == "healthy"
    assert [each.kind for each in findings(healthy)] == ["good"]
    stuck = with_values(record, cross_entropy=most, teacher_entropy=most, teacher_marginal_entropy=most)
    assert verdict(stuck) == "uniform collapse"
    assert "teacher-temperature" in findings(stuck)[0].text
    one = with_values(record, cross_entropy=0.1, teacher_entropy=0.0, teacher_marginal_entropy=0.0)
    assert verdict(one) == "one-hot collapse"
    assert findings(one)[0].kind == "warning"
    early = replace(stuck, metrics=stuck.metrics[:5])
    assert verdict(early) == "too short a run to judge"


def test_features_data_and_what_training_said(record):
    most = math.log(record.config.method.out_dim)
    healthy = with_values(record, cross_entropy=1.0, teacher_entropy=0.5, teacher_marginal_entropy=0.9 * most)
    flat = replace(healthy, metrics=(*healthy.metrics, {"step": 999, "epoch": 1, "feature_spread": 0.001}))
    assert verdict(flat) == "collapsed: features"
    fell = [{"step": at, "epoch": 0, "rank_me": rank, "knn_top1": top} for at, rank, top in ((9, 50, 60), (99, 20, 30))]
    (found,) = [each for each in findings(replace(healthy, metrics=(*healthy.metrics, *fell))) if "RankMe" in each.text]
    assert found.kind == "warning"
    waiting = with_values(healthy, waiting_for_data=0.6)
    assert any("60 % of the time" in each.text and "--workers" in each.text for each in findings(waiting))
    said = replace(healthy, warnings=((400, "checkpoint not written"),), unreadable={"a.png": "cut off"})
    texts = [each.text for each in findings(said)]
    assert any("at step 400" in text for text in texts)
    assert any("1 images could not be read" in text for text in texts)


def test_runs_that_differ_are_set_beside_each_other_and_many_are_folded(runs):
    records = read_runs([Path(HOSTILE), Path("simclr"), Path("supervised")])
    section = settings.section(Material(tuple(records)))
    assert isinstance(section.blocks[0], Table)
    names = [row.cells[0] for part in section.blocks[0].sections for row in part.rows]
    assert "backbone" in names
    assert "out" not in names
    assert page(section).count("details") == 6  # each run, and in it all of its settings


def test_twelve_runs_and_equal_names(runs):
    folders = [runs / f"group{number}" / "run" for number in range(12)]
    for folder in folders:
        shutil.copytree(runs / "simclr", folder)
    records = read_runs(folders)
    assert len({record.label for record in records}) == 12
    styles = looks([(record.label, record.method) for record in records])
    assert len({(each.color, each.style) for each in styles}) == 12
    read = page(curves.section(Material(tuple(records))))
    assert read.text.count("group7/run") >= 1


def test_long_lines_become_means_of_neighbours_and_short_ones_stay():
    (look,) = looks([("a", "DINO")])
    x = tuple(float(value) for value in range(10 * MAX_POINTS + 3))
    lines = (replace(look, x=x, y=x), replace(look, x=(1.0, 2.0), y=(5.0, 6.0)))
    axis = line_chart(LineChart("c", "", (LinePanel("t", lines),))).axes[0]
    long, short = (line.get_xydata() for line in axis.lines)
    assert len(long) <= MAX_POINTS
    assert long[0].tolist() == [5.0, 5.0]  # the mean of 0 to 10
    assert long[:, 0].mean() == pytest.approx(sum(x) / len(x), rel=0.01)
    assert short.tolist() == [[1.0, 5.0], [2.0, 6.0]]


def test_words():
    assert [duration(seconds) for seconds in (None, 5, 65, 601, 3600, 2 * 86400 + 3600)] == [
        "not recorded",
        "5 s",
        "1 min 5 s",
        "10 min",
        "1 h 00 min",
        "2 d 1 h",
    ]
    assert [duration(seconds, coarse=True) for seconds in (41.6, 59.7, 170, 7500)] == [
        "42 s",
        "1 min",
        "3 min",
        "2 h 05 min",
    ]
    assert [listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
