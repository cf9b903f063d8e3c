"""`dinoscope report` on runs and records that are not as they should be, and where names meet."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from dinoscope.cli import main
from dinoscope.evaluation.base import best_first
from dinoscope.evaluation.compare import Entry, compare, label
from dinoscope.evaluation.statistics import share_metric
from dinoscope.report.maps import thumbnail
from dinoscope.report.page import Document, render
from dinoscope.report.runs import Material, RunRecord, read_runs
from dinoscope.report.sections import embedding, summary
from dinoscope.report.sections.health import findings, is_wrong, verdict
from dinoscope.training.run_folder import MACHINE
from dinoscope.types import Items, Result
from tests.html_checks import Page
from tests.report_runs import HOSTILE, trained


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def runs(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(original / HOSTILE, tmp_path / "dino")
    monkeypatch.setattr(embedding, "best_method", lambda: "pca")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reported(*arguments: object) -> Page:
    assert main(["report", *map(str, arguments), "--out", "report.html", "--device", "cpu", "--workers", "0"]) == 0
    return Page(Path("report.html").read_text())


def files(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def lasting(record: RunRecord, **values: float) -> RunRecord:
    """As if it had run for long enough to be judged, with these values at every step."""
    lines = [{**record.metrics[0], **values, "step": step} for step in range(0, 1000, 10)]
    return replace(record, metrics=tuple(lines), total_steps=1000, steps=1000, warnings=(), unreadable={})


def test_without_data_nothing_is_written_into_a_run(runs):
    before = files(runs / "dino")
    reported("dino")
    assert files(runs / "dino") == before


def test_values_that_are_no_numbers_are_said_and_do_not_pass_for_health(runs):
    file = runs / "dino" / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    broken = [{key: value if key in ("step", "epoch") else math.nan for key, value in line.items()} for line in lines]
    file.write_text("".join(json.dumps(line) + "\n" for line in broken))
    (runs / "dino" / MACHINE).unlink()  # so that its time is estimated from the speeds
    (run,) = read_runs([Path("dino")])
    assert is_wrong(run)
    assert [each.kind for each in findings(run)] == ["warning"]
    read = reported("dino", "--no-pictures")
    assert "training diverged" in read.text
    assert "healthy: no sign" not in read.text


def test_the_last_line_of_a_run_in_training_may_be_cut_off(runs):
    whole = read_runs([Path("dino")])[0].metrics
    file = runs / "dino" / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    assert read_runs([Path("dino")])[0].metrics == whole[:-1]


def test_steps_of_a_run_without_checkpoints_are_those_of_its_last_evaluation_or_not_known(runs):
    shutil.rmtree("dino/checkpoints")
    (runs / "dino" / MACHINE).unlink()
    assert read_runs([Path("dino")])[0].steps == 2
    (runs / "dino" / "metrics.jsonl").unlink()
    assert read_runs([Path("dino")])[0].steps is None


def test_features_that_only_guess_are_not_called_healthy(runs):
    (record,) = read_runs([Path("dino")])  # of three classes
    most = math.log(record.config.method.out_dim)  # pyright: ignore[reportAttributeAccessIssue]
    healthy = {
        "teacher_entropy": most / 2,
        "teacher_marginal_entropy": most,
        "kl_teacher_student": 0.5,
        "feature_spread": 0.5,
        "rank_me": 3.0,
    }
    guessing = lasting(record, knn_top1=34.0, **healthy)
    assert verdict(guessing) == "no better than guessing"
    assert "no better than guessing among 3 classes" in findings(guessing)[0].text
    assert verdict(lasting(record, knn_top1=60.0, **healthy)) == "healthy"
    assert verdict(replace(guessing, classes=0)) == "healthy"  # without labels nothing can be said of them


def test_a_run_that_may_be_in_training_is_not_called_stopped(runs):
    (record,) = read_runs([Path("dino")])
    stopped = replace(record, state="stopped", steps=1, path=Path("my runs/dino"))
    going_on = replace(stopped, sessions=(replace(record.sessions[0], seconds=None),))
    texts = [Page(render(Document("t", (summary.section(Material((run,))),)))).text for run in (stopped, going_on)]
    assert "State stopped" in texts[0]
    assert "State unfinished" in texts[1]
    assert "--out 'my runs/dino' --resume" in texts[0]


def test_one_name_for_a_model_wherever_it_is_shown(runs, original):
    shutil.copytree(original / "simclr", runs / "dino" / "simclr")
    shutil.copytree("dino/exported", "elsewhere/simclr")
    read = reported("dino/simclr", "elsewhere/simclr")
    titles = ("dino/simclr", "elsewhere/simclr")
    assert read.text.startswith(" and ".join(titles))
    assert all(f"{title}: 6 of the 6 images" in read.text for title in titles)  # on the maps
    assert "dino/simclr SimCLR RN-micro" in read.text  # in the summary
    assert "Settings How each run was made, and the command that makes it again. dino/simclr" in read.text


def test_a_run_may_be_named_by_a_dot(runs, monkeypatch):
    monkeypatch.chdir(runs / "dino")
    assert "dino: 6 of the 6 images" in reported(".").text


def entry(run: str, knn: float, **settings: float) -> Entry:
    found = Result("knn", {"gallery_images": 100}, (share_metric("knn_top1", knn, 100, {"k": 20}),))
    return Entry("dino", "vit_micro_conv8", 0.3, run, 0, settings, {"knn": found})


def test_rows_of_one_method_are_told_apart_by_their_runs(runs):
    rows = compare([entry("a/dino", 40.0, rate=1.0), entry("b/dino", 50.0, rate=2.0)])
    assert [label(row, rows) for row in rows.rows] == ["DINO a/dino", "DINO b/dino"]
    read = Page(render(Document("t", (summary.section(Material(comparison=rows)),))))
    assert (
        "k-NN on 100 images: DINO b/dino is ahead with 50.0 % [40.4, 59.6]; "
        "last is DINO a/dino with 40.0 % [30.9, 49.8]." in read.text
    )
    same = compare([entry("a/dino", 40.0, rate=1.0), entry("b/dino", 40.0, rate=2.0)])
    read = Page(render(Document("t", (summary.section(Material(comparison=same)),))))
    assert "k-NN on 100 images: the accuracy is the same everywhere, 40.0 %." in read.text


def test_results_without_a_common_example_have_no_best_one(runs):
    results = [Result("davis", {}, (), Items((name,), {"jf_mean": (50.0,)})) for name in ("camel", "cow")]
    assert dict(best_first(results[:1], "jf_mean")) == {"camel": (50.0,)}
    assert dict(best_first(results, "jf_mean")) == {}


@pytest.mark.parametrize("size", [(3000, 2000), (40, 90), (1, 1)])
def test_a_thumbnail_is_small_however_large_the_image(size):
    image = np.zeros((*size, 3), np.uint8)
    image[: size[0] // 2] = 200
    small = thumbnail(image)
    assert small.shape == (min(*size, 192), min(*size, 192), 3)
    assert len(np.unique(small)) == len(np.unique(image))


def test_images_of_all_kinds_are_drawn(runs, original):
    """Grey, 16 bits and transparent ones, and one alone."""
    data = runs / "images"
    data.mkdir()
    cv2.imwrite(str(data / "grey.png"), np.full((40, 30), 90, np.uint8))
    cv2.imwrite(str(data / "deep.png"), np.full((40, 30), 9000, np.uint16))
    cv2.imwrite(str(data / "clear.png"), np.full((30, 40, 4), 90, np.uint8))
    values = json.loads(Path("dino/config.json").read_text())
    values["run"]["data"] = str(data)
    Path("dino/config.json").write_text(json.dumps(values))
    assert "3 of the 3 images" in reported("dino").text
    for name in ("grey.png", "deep.png"):
        (data / name).unlink()
    assert "a map needs at least two images" in reported("dino", "--overwrite").text
