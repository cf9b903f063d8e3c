"""A study's folder: what is in it, that it is read back, and what is refused."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path

import pytest

from dinoscope.cli.console import Console
from dinoscope.cli.studies import show_ablation as show
from dinoscope.errors import UserError
from dinoscope.files import MARK
from dinoscope.report.ablation import claim, file_names, write_result
from dinoscope.report.tables import markdown_paragraph
from dinoscope.study.definition import Variant
from dinoscope.study.effects import AblationResult, arrange
from dinoscope.study.reading import axis_reading, study_reading
from dinoscope.study.results import from_json, read_result, to_json
from tests.html_checks import Page
from tests.study.studies import BASE, full_run, realistic, run, study

EARLIER = Path(__file__).parents[1] / "data" / "earlier_study"


def small(axis: str = "batch size") -> AblationResult:
    variants = [Variant(axis, "32", {"batch_size": 32}), Variant(axis, "<b>|64", {"views": [1, 2]})]
    runs = [full_run(variant, seed, 30.0) for variant in (BASE, *variants) for seed in range(2)]
    facts = {"command": "dinoscope ablate x", "machine": "a CPU"}
    return AblationResult("s", "Size & <shape>", BASE, {axis: "Batch size (Table 9)"}, tuple(runs), 256, facts)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "result"
    seen: list[tuple[int, int]] = []
    files = write_result(small(), out, overwrite=False, watch=lambda done, total: seen.append((done, total)))
    assert sorted(files) == sorted(path for path in out.rglob("*") if path.is_file() and path.name != MARK)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    return out


def test_every_file_is_there(written: Path) -> None:
    names = {str(path.relative_to(written)) for path in written.rglob("*") if path.is_file() and path.name != MARK}
    figures = {
        f"figures/{name}.{kind}"
        for name in ("ranking", "bars-batch-size", "curves-batch-size")
        for kind in ("svg", "pdf", "png")
    }
    assert names == {"ablation.md", "ablation.csv", "ablation.json", "ablation.tex", "ablation.html"} | figures


def test_the_result_is_read_back_as_it_was(written: Path) -> None:
    assert read_result(written) == small()
    assert read_result(written / "ablation.json") == small()
    values = json.loads((written / "ablation.json").read_text())
    assert [one["label"] for one in values["statistics"]["differences"]] == ["32", "<b>|64"]


def test_the_table_has_the_figures_and_what_is_said_of_them(written: Path) -> None:
    text = (written / "ablation.md").read_text()
    assert r"# Size \& \<shape\>" in text
    assert "## Batch size (Table 9)" in text
    head = next(line for line in text.splitlines() if line.startswith("| batch size |"))
    assert [cell.strip() for cell in head.strip("|").split("|")][1:4] == ["n", "k-NN", r"difference \[95 %\]"]
    measured = {cell.strip() for cell in head.split("|")}
    assert {"Linear", "RankMe", "entropy/ln K", "images/s"} <= measured
    assert head.endswith(" state |")
    assert r"\<b\>\|64" in text
    assert "![k-NN top-1: batch size](figures/bars-batch-size.png)" in text
    assert "- command: dinoscope ablate x" in text


def test_the_csv_has_every_run_unrounded(written: Path) -> None:
    rows = list(csv.DictReader((written / "ablation.csv").open(newline="")))
    assert len(rows) == 6
    for row, one in zip(rows, small().runs, strict=True):
        assert (row["axis"], row["value"], int(row["seed"])) == (one.variant.axis, one.variant.label, one.seed)
        assert float(row["rank"]) == one.metrics["rank"]
        assert row["peak_memory"] == ""
        assert json.loads(row["settings"]) == one.variant.settings


def test_the_page_stands_alone(written: Path) -> None:
    page = Page((written / "ablation.html").read_text())
    assert "2 variants on 1 axis next to the baseline; 2 seeds; 6 runs: 6 finished." in " ".join(page.shown)
    assert "Size & <shape>" in page.shown
    assert sum(image["src"].startswith("data:image/svg+xml") for image in page.images()) == 3


def test_nothing_is_overwritten_unless_asked(written: Path, tmp_path: Path) -> None:
    before = (written / "ablation.json").read_bytes()
    with pytest.raises(UserError, match=r"holds ablation\.json already"):
        write_result(small(), written, overwrite=False)
    assert (written / "ablation.json").read_bytes() == before
    (tmp_path / "figures").write_text("")
    with pytest.raises(UserError, match="is a file"):
        claim(tmp_path, overwrite=False)
    with pytest.raises(UserError, match="more than one run"):
        write_result(AblationResult("", "", BASE, {}, (run(BASE, 0, 1.0),) * 2), tmp_path / "new", overwrite=False)
    assert not (tmp_path / "new").exists()


def test_figures_of_an_earlier_study_go_and_those_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    for name in ("bars-old.svg", "curves-old-axis.pdf", "mine.svg", "bars-old.txt"):
        (tmp_path / "figures" / name).write_text("")
    write_result(study([None], {("x", "y"): [None]}), tmp_path, overwrite=True)
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["bars-old.txt", "mine.svg"]


def test_axes_have_different_file_names() -> None:
    names = file_names(["Batch size", "batch-size", "××", "", "a x b"])
    assert list(names.values()) == ["batch-size", "batch-size-2", "axis", "axis-2", "a-x-b"]


def test_numbers_that_json_lacks_are_kept() -> None:
    odd = run(BASE, 0, math.inf, curves={"loss": ((0, math.nan), (1, -math.inf))}, metrics={"rank": 1e-300})
    text = to_json(AblationResult("s", "", BASE, {}, (odd,)))
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    (back,) = from_json(text, "file").runs
    assert back.metrics == {"knn": math.inf, "rank": 1e-300}
    assert math.isnan(back.curves["loss"][0][1])
    assert back.curves["loss"][1] == (1, -math.inf)


def changed(*path: str | int, to: object) -> str:
    values = json.loads(to_json(small()))
    place = values
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return json.dumps(values)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        changed("format", to=4),
        changed("format", to=[]),
        changed("result", to=[]),
        changed("result", "runs", to=3),
        changed("result", "runs", 0, to="x"),
        changed("result", "runs", 0, "seed", to="1"),
        changed("result", "runs", 0, "seed", to=1.5),
        changed("result", "runs", 0, "state", to="lost"),
        changed("result", "runs", 0, "metrics", "rank", to="3"),
        changed("result", "runs", 0, "curves", "loss", to=[[1, 2, 3]]),
        changed("result", "runs", 0, "extra", to=1),
        changed("result", "runs", 1, "seed", to=0),
        changed("result", "baseline", to={"axis": ""}),
    ],
)
def test_what_is_not_exactly_a_result_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"place/ablation\.json|more than one run"):
        from_json(text, "place/ablation.json")


def test_results_of_earlier_formats_are_read() -> None:
    """The baseline was the base; in the first format it was no value of an axis."""
    values = json.loads(to_json(small()))
    result = values["result"]
    result["base"] = result.pop("baseline")
    result["base_values"] = result.pop("baseline_values")
    earlier = {"knn": "knn_top1", "linear": "linear_top1", "voc": "jaccard", "rank": "rankme"}
    for one in result["runs"]:
        one["metrics"] = {earlier.get(name, name): value for name, value in one["metrics"].items()}
    with pytest.raises(UserError, match="is not a valid"):
        from_json(json.dumps(values), "file")
    found = from_json(json.dumps(values | {"format": 2}), "file")
    assert found == from_json(to_json(small()), "file")
    del result["base_values"]
    with pytest.raises(UserError, match="is damaged"):
        from_json(json.dumps(values | {"format": 2}), "file")
    found = from_json(json.dumps(values | {"format": 1}), "file")
    assert found == from_json(to_json(small()), "file")


def test_the_result_of_an_earlier_version_reads_as_before() -> None:
    """Written by the version before 0.2, with its own reading next to it."""
    study = arrange(read_result(EARLIER))
    sentences = [*study_reading(study), *(text for axis in study.axes for text in axis_reading(axis))]
    before = (EARLIER / "ablation.md").read_text()
    words = {"next to the baseline": "beside the base", "Baseline": "Base", "the baseline": "the base"}
    words |= {"uniform over all classes": "even over all classes"}
    for sentence in sentences:
        for new, old in words.items():
            sentence = sentence.replace(new, old)
        assert markdown_paragraph(sentence) in before
    assert study.baseline.label == "baseline"
    assert study.axes[0].baseline_label == "64 (baseline)"


def test_a_missing_result_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no result of an ablation study at .*ablation\.json"):
        read_result(tmp_path)
    (tmp_path / "ablation.json").write_bytes(b"\xff")
    with pytest.raises(UserError, match="cannot be read"):
        read_result(tmp_path)


def test_a_setting_that_json_lacks_is_refused() -> None:
    odd = dataclasses.replace(small(), baseline=Variant("", "DINO", {"x": object()}))
    with pytest.raises(UserError, match="cannot be written as JSON"):
        to_json(odd)


def test_the_terminal_shows_it_in_80_columns() -> None:
    console = Console(width=80)
    with console.capture() as captured:
        show(realistic(), console)
    text = captured.get()
    assert max(map(len, text.splitlines())) <= 80
    assert "neither (collapsed)" in text
    assert "DINO (baseline)" in text
    assert "patches of 5 (failed)" in text
    assert "…" not in text
