"""Every evaluation through one suite; and a new one, which is one object and one line, appears in a comparison."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dinoscope import checkpoint
from dinoscope.cli.compare import MeasuringOptions
from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation.base import (
    Column,
    Context,
    Data,
    Evaluation,
    items_csv,
    labelled_images,
    measure,
    metrics_table,
)
from dinoscope.evaluation.compare import columns, csv_table, default_settings, display_table, gather, json_values
from dinoscope.evaluation.results import OF_THE_MODEL, conditions, from_json, keep_as, kept, kept_names, to_json
from dinoscope.model_names import Model, load_model
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.report.page import Document, render
from dinoscope.report.runs import Material
from dinoscope.report.sections import evaluations
from dinoscope.scenes import ScenesConfig, write_scenes
from dinoscope.types import Metric, Result
from tests.evaluation.test_copies import write_copydays
from tests.html_checks import Page

CPU = Context(torch.device("cpu"), workers=0, cached=False)
SMALL: dict[str, dict[str, Any]] = {
    "throughput": {"image_size": 32, "batch_size": 2, "repeats": 1},
    "linear": {"epochs": 2},
    "knn": {"ks": (5, 20)},
    "fewshot": {"counts": (1, 2), "draws": 3},
    "finetune": {"epochs": 1, "batch_size": 8},
    "voc": {"size": 64, "square": 64, "resamples": 20, "masses": (0.3, 0.6)},
    "davis": {"size": 64},
    "explain": {"size": 32, "steps": 3, "random_orders": 1, "limit": 3},
    "correspondence": {"limit": 3},
    "rank": {},
    "retrieval": {},
    "copies": {},
    "lidar": {"views": 3},
}
"""Settings with which an evaluation takes a moment."""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ScenesConfig(
        size=32,
        train_per_class=3,
        val_per_class=2,
        voc_images=4,
        davis_sequences=1,
        davis_frames=4,
        davis_size=(60, 100),
    )
    drawn = write_scenes(tmp_path_factory.mktemp("scenes") / "drawn", config)
    write_copydays(drawn / "copydays")
    return drawn


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Model]:
    """Two run folders, as far as evaluations look into them."""
    root, found = tmp_path_factory.mktemp("runs"), []
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        checkpoint.export_backbone(root / name, build_backbone(BackboneConfig("vit_micro_conv8", image_size=32)))
        (root / name / "config.json").write_text('{"run": {}}')
        found.append(load_model(str(root / name)))
    return found


def data_for(evaluation: Evaluation, scenes: Path) -> Path | None:
    if evaluation.name == "copies":
        return scenes / "copydays"
    places = {"labels": scenes / "folder", "videos": scenes / "DAVIS", "nothing": None}
    return places.get(evaluation.needs, scenes)


@pytest.fixture(scope="module")
def measured(scenes: Path, models: list[Model]) -> dict[str, list[Result]]:
    found = {}
    for name, evaluation in EVALUATIONS.items():
        config = evaluation.config(**SMALL[name])
        found[name] = measure(evaluation, models, data_for(evaluation, scenes), config, CPU)
    return found


every = pytest.mark.parametrize("name", EVALUATIONS)


@every
def test_its_key_its_columns_and_its_settings_are_described(name: str) -> None:
    evaluation = EVALUATIONS[name]
    assert evaluation.name == name
    assert evaluation.title
    assert evaluation.summary.endswith((".", ".)"))
    assert is_dataclass(evaluation.config)
    assert {column.name for column in evaluation.columns} <= set(columns())
    for kind in inspect.getmro(evaluation.config)[:-1]:
        source = inspect.getsource(kind)
        for field in fields(kind):
            if field.name in kind.__annotations__ and not field.metadata:
                assert f"    {field.name}: " in source
                after = source.split(f"    {field.name}: ", 1)[1].split("\n", 1)[1]
                assert after.lstrip().startswith('"""'), f"{kind.__name__}.{field.name} is not described"


def test_names_of_columns_are_unique() -> None:
    names = [column.name for evaluation in EVALUATIONS.values() for column in evaluation.columns]
    assert len(names) == len(set(names))


@every
def test_results_are_in_the_order_of_the_models_with_headline_figures(
    name: str, measured: dict[str, list[Result]], models: list[Model]
) -> None:
    results = measured[name]
    assert len(results) >= len(models)
    for model, result in zip(models, results, strict=False):
        assert result.evaluation == name
        assert result.protocol.get("weights_hash", model.weights_hash) == model.weights_hash
        for column in EVALUATIONS[name].columns:
            metric = column.metric_of(result)
            assert metric is not None, column.name
            assert metric.unit == column.unit
    assert len({json.dumps(conditions(result), sort_keys=True) for result in results[: len(models)]}) == 1


@every
def test_results_are_kept_and_read_back(name: str, measured: dict[str, list[Result]], models: list[Model]) -> None:
    evaluation = EVALUATIONS[name]
    for model, result in zip(models, measured[name], strict=False):
        assert model.path is not None
        names = kept_names(model.path, evaluation.prefix or name)
        assert names
        assert result.metrics in [found.metrics for each in names if (found := kept(model.path, each))]
        assert from_json(to_json(result), "file").metrics == result.metrics


@every
def test_what_is_expected_is_what_is_measured(
    name: str, measured: dict[str, list[Result]], models: list[Model], scenes: Path
) -> None:
    evaluation, config = EVALUATIONS[name], EVALUATIONS[name].config(**SMALL[name])
    for data in (data_for(evaluation, scenes), None):
        wanted = evaluation.expected(models[0], data, config, CPU)
        found = json.loads(json.dumps({key: measured[name][0].protocol.get(key) for key in wanted}))
        assert found == json.loads(json.dumps(dict(wanted)))


@every
def test_its_protocol_is_one_line_with_or_without_the_model(name: str, measured: dict[str, list[Result]]) -> None:
    protocol = measured[name][0].protocol
    line = EVALUATIONS[name].protocol_line(protocol)
    assert "\n" not in line
    assert EVALUATIONS[name].protocol_line({k: v for k, v in protocol.items() if k not in OF_THE_MODEL})


@every
def test_tables_curves_and_rows_name_every_model(name: str, measured: dict[str, list[Result]]) -> None:
    evaluation = EVALUATIONS[name]
    labelled = list(zip(("one", "two", "three"), measured[name], strict=False))
    tables = evaluation.tables(labelled, False) if evaluation.tables else metrics_table(labelled, evaluation.title)
    cells = [cell for table in tables for section in table.sections for row in section.rows for cell in row.cells]
    titles = [column.title for table in tables for column in table.columns]
    assert {"one", "two"} <= {*cells, *titles}
    for chart in evaluation.charts(labelled) if evaluation.charts else []:
        assert all(line.x and len(line.x) == len(line.y) for panel in chart.panels for line in panel.lines)
    header, rows = (evaluation.csv or items_csv)(labelled)
    assert all(len(row) == len(header) for row in rows)


@every
def test_examples_are_sheets(name: str, measured: dict[str, list[Result]], models: list[Model]) -> None:
    evaluation = EVALUATIONS[name]
    if evaluation.examples is not None:
        sheets = evaluation.examples(measured[name][: len(models)], models, 1, CPU)
        assert sheets
        assert all(sheet.rows and sheet.caption for sheet in sheets)


# A new evaluation: one object and one line


@dataclass(frozen=True)
class NormConfig:
    """Settings of the norm of features."""

    limit: int = 4
    """At most so many images."""


def run_norm(models: Sequence[Model], data: Data, config: NormConfig, context: Context) -> tuple[Result, ...]:
    images, _ = labelled_images(data)
    results = []
    for model in models:
        bank = context.features(model.backbone, images.subset(range(config.limit)), "features")
        protocol = expected_norm(model, data, config, context)
        mean = bank.features.norm(dim=1).mean().item()
        results.append(Result("norm", protocol, (Metric("norm", mean, "", low=mean - 1, high=mean + 1, n=4),)))
    return tuple(results)


def expected_norm(model: Model, data: Data, config: NormConfig, context: Context) -> dict[str, Any]:
    return {**context.network(model), "limit": config.limit}


NORM = Evaluation(
    "norm",
    "Norm",
    "Measure the mean norm of features.",
    "labels",
    NormConfig,
    run_norm,
    (Column("norm", "Norm", "norm", unit="", digits=2),),
    lambda protocol: f"{protocol['limit']} images",
    expected_norm,
)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Evaluation:
    monkeypatch.setitem(EVALUATIONS, "norm", NORM)
    return NORM


@pytest.mark.usefixtures("registered")
def test_a_new_evaluation_is_in_the_table_the_csv_and_the_json_of_a_comparison(
    scenes: Path, models: list[Model]
) -> None:
    models = [replace(model, keeps_results=False, run=None, method=model.label) for model in models]
    comparison = gather(models, scenes / "folder", default_settings(["norm"]), context=CPU)
    values = {row.first.run: row.cell("norm") for row in comparison.rows}
    assert all(cell is not None and cell.mean > 0 for cell in values.values())
    table = display_table(comparison, published=True, intervals=True)
    assert [column.title for column in table.columns] == ["Method", "Arch.", "Param. (M)", "Norm"]
    assert "[" in table.sections[0].rows[0].cells[3]
    assert any(remark.startswith("Norm: 4 images") for remark in table.remarks)
    header, rows = csv_table(comparison, published=False)
    assert [float(row[header.index("norm_mean")]) > 0 for row in rows] == [True, True]
    assert json_values(comparison, published=False)["rows"][0]["figures"]["norm"]["mean"] > 0


@pytest.mark.usefixtures("registered")
def test_a_new_evaluation_is_kept_and_not_measured_again(
    scenes: Path, models: list[Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, wanted = replace(models[0], run=None), default_settings(["norm"])
    first = gather([model], scenes / "folder", wanted, context=CPU).rows[0].cell("norm")

    def never(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(Context, "features", never)
    assert gather([model], scenes / "folder", wanted, context=CPU).rows[0].cell("norm") == first


def test_evaluations_are_named_on_the_command_line() -> None:
    wanted = MeasuringOptions(evaluations=("rank", "voc=there")).wanted()
    assert set(wanted) == {"knn", "linear", "throughput", "rank", "voc"}
    assert wanted["voc"][0] == Path("there")
    with pytest.raises(UserError, match="nothing"):
        MeasuringOptions(evaluations=("nothing",)).wanted()


@pytest.mark.usefixtures("registered")
def test_a_new_evaluation_is_in_a_report(scenes: Path, models: list[Model]) -> None:
    results = measure(NORM, models, scenes / "folder", NormConfig(), CPU)
    for model, result in zip(models, results, strict=True):
        assert model.home is not None
        keep_as(model.home, "norm", result)
    shown = {section.anchor: section for section in evaluations.section(Material(models=tuple(models)))}
    page = Page(render(Document("t", (shown["norm"],))))
    assert "Norm Measure the mean norm of features." in page.text
    assert all(model.label in page.text for model in models)
    metric = results[0].metric("norm")
    assert metric is not None
    assert metric.text(2) in page.text
    assert "4 images" in page.text
