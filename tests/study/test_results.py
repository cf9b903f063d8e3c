"""`dinoscope.study.results`, `evaluations` and `gathering`: what is read from run folders, and measured of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dinoscope.checkpoint import BACKBONE_SETTINGS, BACKBONE_WEIGHTS
from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS, voc
from dinoscope.evaluation.base import Column, Context, Evaluation
from dinoscope.evaluation.results import new_result
from dinoscope.methods import build_method
from dinoscope.study.definition import Axis, StudyDefinition, Variant, read_study
from dinoscope.study.effects import LOGGED, arrange, columns
from dinoscope.study.evaluations import Evaluating, attention_on_objects, evaluate
from dinoscope.study.plan import plan_study
from dinoscope.study.reading import axis_table, csv_table
from dinoscope.study.results import (
    MAX_POINTS,
    collapse,
    cost,
    curves_of,
    end_means,
    from_json,
    gather,
    outcome,
    read_result,
    to_json,
)
from dinoscope.training.loop import train
from dinoscope.training.run_folder import read_config, read_metrics
from dinoscope.types import Metric, Result
from tests.conformance import cases
from tests.study.test_state import contents, settings, train_and_stop

EARLIER = Path(__file__).parents[1] / "data" / "earlier_study"


def lines(count: int, **values: float) -> list[dict[str, float]]:
    return [{"step": step, "epoch": 0, "loss": 1.0, **values} for step in range(count)]


def test_values_at_the_end_are_means_of_the_last_tenth() -> None:
    steps = [{"step": step, "epoch": 0, "loss": 0.0, "kl_teacher_student": float(step)} for step in range(100)]
    steps.append({"step": 99, "epoch": 0, "knn_top1": 50.0})  # an evaluation
    assert end_means(steps)["kl_teacher_student"] == sum(range(90, 100)) / 10
    assert "knn_top1" not in end_means(steps)
    assert end_means(steps[:1])["kl_teacher_student"] == 0
    assert end_means([]) == {}
    rarely = [{"step": step, "epoch": 0, "loss": float(step)} for step in (0, 50)]  # log_every is 50, 80 steps in all
    assert end_means(rarely)["loss"] == 50


def test_curves_are_thinned_from_the_end() -> None:
    curves = curves_of(lines(3 * MAX_POINTS + 1, teacher_entropy=2.0, waiting_for_data=0.5))
    assert set(curves) == {"loss", "teacher_entropy"}
    steps = [step for step, _ in curves["loss"]]
    assert len(steps) <= MAX_POINTS
    assert steps[-1] == 3 * MAX_POINTS + 1
    assert steps == sorted(steps)


def test_cost_is_of_the_steps_that_count(tmp_path) -> None:
    config = settings(tmp_path, tmp_path / "run", batch_size=10)
    slow, fast = lines(100, images_per_second=10.0)[50:], lines(150, images_per_second=30.0)[100:]
    found = cost(config, [*lines(50, images_per_second=0.5), *slow, *fast])  # in the first 50 is the start
    assert found["images_per_second"] == pytest.approx(15)  # 500 images took 50 s, 500 took 16.7 s
    assert found["seconds"] == pytest.approx(1500 / 15)
    assert cost(config, lines(20, images_per_second=4.0))["images_per_second"] == 4.0
    assert cost(config, []) == {}


def test_a_method_judges_the_end_of_its_run(tmp_path) -> None:
    config = settings(tmp_path, tmp_path / "run")
    healthy = {"cross_entropy": 2.0, "teacher_entropy": 1.0, "teacher_marginal_entropy": 3.9, "kl_teacher_student": 1.0}
    one_output = {**healthy, "teacher_marginal_entropy": 0.001}
    uniform = {**healthy, "cross_entropy": 4.158, "teacher_entropy": 4.158}
    assert collapse(config, lines(400, **healthy)) == ""
    assert "collapsed to one output" in collapse(config, lines(400, **one_output))
    assert collapse(config, [*lines(300, **one_output), *lines(400, **healthy)[300:]]) == ""  # it came back
    assert "stuck at the uniform output" in collapse(config, lines(400, **uniform))
    assert "only 20 steps" in collapse(config, lines(20, **uniform))
    assert "only 20 steps" not in collapse(config, lines(20, **one_output))
    assert collapse(config, lines(400)) == ""  # of a version that did not log this


@pytest.mark.parametrize("method", cases.SETTINGS)
def test_every_method_can_be_asked(method, picture_folder, tmp_path) -> None:
    """With what it logged itself: none of its judgement needs a value that is not in the file."""
    config = cases.run_config(method, picture_folder(32, classes=2), tmp_path / "run", epochs=1)
    train(config)
    assert isinstance(collapse(config, read_metrics(config.out)), str)
    means = end_means(read_metrics(config.out))
    with torch.device("meta"):
        build_method(config.method, config.backbone_config, classes=2).diagnose(means)  # raises KeyError else


def test_outcomes_of_every_kind(picture_folder, tmp_path) -> None:
    config = settings(picture_folder(12), tmp_path / "run")
    assert outcome(config).state == "unfinished"
    failed = outcome(config, "no space left")
    assert (failed.state, failed.diagnosis, failed.metrics) == ("failed", "no space left", {})
    train_and_stop(config, resume=False)
    assert outcome(config).state == "unfinished"
    assert outcome(config, "no space left").state == "failed"
    train(config, resume=True)
    done = outcome(config, "of an earlier try")
    assert done.state in ("finished", "collapsed")
    assert {"images_per_second", "seconds", "teacher_entropy", "kl_teacher_student"} <= done.metrics.keys()
    with pytest.raises(UserError, match="begun with other settings"):
        outcome(replace(config, seed=9))


def test_entropies_of_a_loss_without_probabilities_are_no_result(picture_folder, tmp_path) -> None:
    config = settings(picture_folder(12), tmp_path / "run", epochs=1)
    config = replace(config, method=replace(config.method, loss="mse"))
    train(config)
    assert "teacher_entropy" in read_metrics(config.out)[-1]
    done = outcome(config)
    assert done.state in ("finished", "collapsed")  # by the spread of its outputs
    assert "loss" in done.curves
    assert not {"teacher_entropy", "teacher_marginal_entropy", "cross_entropy"} & done.curves.keys()
    assert "teacher_entropy" not in done.metrics


@pytest.fixture
def data(picture_folder) -> Path:
    """24 training and 12 validation images of two classes, with masks of the latter in masks/val."""
    root = picture_folder(24, classes=2, split="train")
    picture_folder(12, classes=2, split="val")
    for image in (root / "val").rglob("*.png"):
        mask = np.zeros((32, 40), np.uint8)
        mask[8:24, 10:30] = 255
        file = root.parent / "masks" / image.relative_to(root)
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), mask)
    return root


def evaluating(data: Path, **more) -> Evaluating:
    return Evaluating(data, context=Context(workers=0, cached=False), **more)


def test_everything_is_measured_once(data, tmp_path, monkeypatch) -> None:
    config = settings(data, tmp_path / "run", epochs=1)
    train(config)
    given = attention_on_objects(data, tmp_path / "masks")
    images, settings_of_masks = given["voc"]
    assert (images, settings_of_masks.size) == (data / "val", 32)
    values, remarks = evaluate(config.out, evaluating(data, given=given))
    assert remarks == []
    assert set(values) == {"knn", "linear", "rank", "voc"}
    assert all(0 <= values[name] <= 100 for name in ("knn", "linear", "voc"))
    assert 1 <= values["rank"] <= 12
    before = contents(config.out)

    def not_again(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr(voc, "measure_voc", not_again)
    monkeypatch.setattr(Context, "features", not_again)
    again, _ = evaluate(config.out, evaluating(data, given=given))
    assert again == values
    assert contents(config.out) == before
    fewer = evaluating(data, given={"voc": (images, replace(settings_of_masks, limit=5))})
    with pytest.raises(AssertionError, match="measured again"):  # other images
        evaluate(config.out, fewer)


@dataclass(frozen=True)
class ParityConfig:
    """Settings of the evaluation below."""

    odd: bool = True
    """Whether an odd number of parameters counts."""


def parity(models, data, config, context) -> tuple[Result, ...]:
    return tuple(new_result("parity", {"odd": config.odd}, [Metric("parity_share", 12.34)]) for _ in models)


def test_a_new_evaluation_is_in_the_result_without_an_edit(picture_folder, tmp_path, monkeypatch) -> None:
    entry = Evaluation(
        "parity",
        "Parity",
        "Count parameters.",
        "nothing",
        ParityConfig,
        parity,
        (Column("parity", "Parity", "parity_share", digits=2),),
        lambda protocol: "odd",
        lambda model, data, config, context: {"odd": config.odd},
        default=True,
    )
    monkeypatch.setitem(EVALUATIONS, "parity", entry)
    data = picture_folder(14)
    small = {"batch_size": 12, "epochs": 1, "method.out_dim": 64, "method.hidden_dim": 32, "method.bottleneck_dim": 16}
    small |= {"optimizer.warmup_epochs": 0, "views.global_size": 32, "evaluate_every": 0}
    values = (Variant("outputs", "32", {"method.out_dim": 32}),)
    study = StudyDefinition("k", "Outputs", changes=small, axes=(Axis("outputs", "K", values),))
    plan = plan_study(study, data, tmp_path / "study", placed=lambda config: replace(config, device="cpu", workers=0))
    for config in plan.configs:
        train(config)
    result, _ = gather(plan, evaluating(data), {}, {})
    assert [run.metrics["parity"] for run in result.runs] == [12.34, 12.34]
    arranged = arrange(from_json(to_json(result), "file"))
    for brief in (True, False):
        table = axis_table(arranged.axes[0], brief=brief)
        place = [column.title for column in table.columns].index("Parity")
        assert [row.cells[place] for row in table.sections[0].rows] == ["12.34", "12.34"]
    header, first, *_ = csv_table(result)
    assert first[header.index("parity")] == "12.34"


def test_images_without_labels_give_no_accuracy(picture_folder, tmp_path) -> None:
    data = picture_folder(14)
    config = settings(data, tmp_path / "run", epochs=1)
    train(config)
    values, remarks = evaluate(config.out, evaluating(data))
    assert (set(values), remarks) == ({"rank"}, [])


def test_masks_that_cannot_be_used_are_a_remark(data, tmp_path) -> None:
    config = settings(data, tmp_path / "run", epochs=1)
    train(config)
    given = attention_on_objects(data, tmp_path / "masks")
    for mask in (tmp_path / "masks").rglob("*.png"):
        cv2.imwrite(str(mask), np.zeros((5, 5), np.uint8))
    values, remarks = evaluate(config.out, evaluating(data, given=given))
    assert "voc" not in values
    assert len(remarks) == 1
    assert remarks[0].startswith("run: VOC was not measured: none of the 12 images")
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="none of 12 images has a mask"):
        attention_on_objects(data, tmp_path / "other")


def test_runs_become_one_result(data, tmp_path) -> None:
    small = {"batch_size": 12, "epochs": 2, "method.out_dim": 64, "method.hidden_dim": 32, "method.bottleneck_dim": 16}
    small |= {"optimizer.warmup_epochs": 0, "views.global_size": 32, "log_every": 1, "evaluate_every": 0}
    values = tuple(Variant("outputs", str(k), {"method.out_dim": k}) for k in (32, 64, 128))
    study = StudyDefinition("k", "Outputs", changes=small, axes=(Axis("outputs", "K (appendix C)", values),))
    plan = plan_study(study, data, tmp_path / "study", placed=lambda config: replace(config, device="cpu", workers=0))
    assert [config.out.name for config in plan.configs] == ["baseline-s0", "outputs-32-s0", "outputs-128-s0"]
    with pytest.raises(UserError, match="baseline-s0 has not come to its end"):
        gather(plan, evaluating(data), {}, {})
    for config in plan.configs[:2]:
        train(config)
    failures = {"outputs-128-s0": "out of memory"}
    measured: list[str] = []
    result, _ = gather(
        plan,
        evaluating(data),
        failures,
        {"command": "dinoscope ablate k"},
        lambda name, number, total: measured.append(name),
    )
    assert [(run.variant.axis, run.variant.label, Path(run.folder).name) for run in result.runs] == [
        ("", "64", "baseline-s0"),
        ("outputs", "32", "outputs-32-s0"),
        ("outputs", "128", "outputs-128-s0"),
    ]
    assert result.runs[0].metrics.keys() <= {*columns(), *LOGGED}
    assert {"knn", "linear", "rank", "images_per_second"} <= result.runs[1].metrics.keys()
    assert (result.runs[2].state, result.runs[2].diagnosis) == ("failed", "out of memory")
    assert [len(run.curves["loss"]) for run in result.runs[:2]] == [4, 4]
    assert (result.outputs, dict(result.axes)) == (64, {"outputs": "K (appendix C)"})
    assert [group.outputs for group in arrange(result).trainings] == [64, 32, 128]  # ln K of each is its own
    assert measured == ["baseline-s0", "outputs-32-s0"]  # of the failed one there is nothing to measure
    assert result.facts["command"] == "dinoscope ablate k"
    assert "quickstart with batch_size = 12" in result.facts["recipe"]
    assert "mix" not in result.facts["code"]
    file = plan.configs[0].out / "circumstances.json"
    file.write_text(json.dumps({"code": ["0.1"]}))
    assert "mix versions" in gather(plan, evaluating(data), failures, {})[0].facts["code"]


def test_runs_of_an_earlier_version_come_to_the_same(tmp_path) -> None:
    before = {Path(run.folder).name: run for run in read_result(EARLIER).runs}
    for name in ("base-s0", "outputs-32-s0"):
        run = shutil.copytree(EARLIER / "runs" / name, tmp_path / name)
        config = replace(read_config(run), out=run)
        (run / "exported").mkdir()
        for file in (BACKBONE_WEIGHTS, BACKBONE_SETTINGS):
            (run / "exported" / file).touch()
        found = outcome(config)
        assert found.state == before[name].state
        assert found.metrics.items() <= before[name].metrics.items()
        assert found.curves == before[name].curves


def test_a_study_of_an_earlier_version_goes_on_in_its_folders(tmp_path) -> None:
    study = read_study(EARLIER / "study.toml")
    fresh = plan_study(study, tmp_path, tmp_path / "new")
    assert fresh.configs[0].out.name == "baseline-s0"
    (tmp_path / "old" / "runs" / "base-s0").mkdir(parents=True)
    assert plan_study(study, tmp_path, tmp_path / "old").configs[0].out.name == "base-s0"
