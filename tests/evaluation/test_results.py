"""Results that the commit before `Result` kept are read: same figures, with values out of names in fields."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dinoscope.evaluation.results import from_json, keep, kept, kept_names, to_json
from dinoscope.evaluation.statistics import wilson
from dinoscope.types import Result

EARLIER = Path(__file__).parent.parent / "data" / "earlier"
EVALUATIONS = {
    "knn": "knn",
    "knn-b986eba3": "knn",
    "knn-50": "knn",
    "linear": "linear",
    "linear-reference": "linear",
    "voc": "voc",
    "voc-5": "voc",
    "davis-2017": "davis",
    "explain-12": "explain",
    "throughput": "throughput",
}


def read(name: str) -> tuple[dict[str, float], Result]:
    """The file's own names and values, and the result."""
    text = (EARLIER / f"{name}.json").read_text()
    values = {metric["name"]: metric["value"] for metric in json.loads(text)["metrics"]}
    return values, from_json(text, name)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_every_figure_is_the_same_and_named_without_values(name: str) -> None:
    before, result = read(name)
    assert result.evaluation == EVALUATIONS[name]
    again: dict[str, float] = {}
    for metric in result.metrics:
        k = f"_k{metric.parameters['k']:g}" if "k" in metric.parameters else ""
        again[metric.name + k] = metric.value
        if metric.low is not None and f"{metric.name}_low" in before:
            again |= {f"{metric.name}_low": metric.low, f"{metric.name}_high": metric.high or 0.0}
    assert again == before
    assert from_json(to_json(result), name) == result


def test_accuracies_get_the_interval_of_their_images() -> None:
    before, result = read("knn")
    metric = result.metric("knn_top1", k=20)
    assert metric is not None
    expected = wilson(before["knn_top1_k20"] / 100, 20)
    assert (metric.low, metric.high, metric.n) == (100 * expected[0], 100 * expected[1], 20)
    left_out = read("knn-b986eba3")[1].metric("knn_leave_one_out_top1", k=29)
    assert left_out is not None
    assert left_out.n == 30
    assert all(metric.low is None for metric in read("throughput")[1].metrics)


def test_masks_have_their_mass_and_items_the_names_of_their_metrics() -> None:
    _, result = read("voc")
    metric = result.metric("voc_jaccard_strict_mean", mass=0.6)
    assert metric is not None
    assert metric.n == 12
    assert result.items is not None
    assert len(result.items.figures["voc_jaccard_strict_mean"]) == len(result.items.names) == 12
    assert read("davis-2017")[1].items is not None


def test_another_mass_of_a_reproduction_is_a_parameter() -> None:
    values = json.loads((EARLIER / "voc.json").read_text())
    values["metrics"].append({"name": "voc_jaccard_published_90", "value": 12.5})
    result = from_json(json.dumps(values), "file")
    metric = result.metric("voc_jaccard_published", mass=0.9)
    assert metric is not None
    assert metric.value == 12.5


def test_intervals_that_were_too_narrow_are_dropped() -> None:
    """Before Student's interval, a protocol named no kind, and two sequences had the bootstrap's."""
    values = json.loads((EARLIER / "davis-2017.json").read_text())
    del values["protocol"]["interval"]
    result = from_json(json.dumps(values), "file")
    assert all(metric.low is None for metric in result.metrics)


@pytest.mark.parametrize("name", ["knn", "knn-b986eba3", "linear", "voc", "davis-2017", "explain-12"])
def test_a_result_replaces_an_earlier_one_of_the_same_conditions(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "evaluations"
    folder.mkdir()
    for file in EARLIER.glob("*.json"):
        shutil.copy(file, folder)
    result = kept(tmp_path, name)
    assert result is not None
    base = name.removesuffix("-b986eba3")
    before = kept_names(tmp_path, base)
    assert keep(tmp_path, base, result) == name
    assert kept_names(tmp_path, base) == before
