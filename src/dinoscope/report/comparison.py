"""From models to a folder with the table and the figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dinoscope.comparison.baselines import pixels_entry, random_entries
from dinoscope.comparison.presentation import CSV_HEADER, csv_rows, display_table, json_values, label, speed_line
from dinoscope.comparison.ranking import ACCURACIES, interval
from dinoscope.errors import UserError
from dinoscope.files import claim, write_all
from dinoscope.model_names import load_models
from dinoscope.report.charts import Curve, Panel, Point, curves, png, scatter, svg
from dinoscope.report.tables import csv_text, latex, markdown
from dinoscope.study.compare import BASELINES, Comparison, compare
from dinoscope.study.gather import Gatherer, Measuring
from dinoscope.study.names import METHOD_NAMES
from dinoscope.tables import Table
from dinoscope.training.run_folder import read_metrics

CURVES_TITLE = "online k-NN top-1 (%)"
CURVES_NOTE = (
    "Measured during training on the images of each run itself, at the run's image size, k = 20: to see how a run "
    "went, not to compare."
)


@dataclass(frozen=True)
class Request:
    """What is compared.

    runs: run folders, or other models as `load_model` takes them.
    baselines: add raw pixels, and each network with random weights.
    """

    runs: tuple[str | Path, ...]
    out: Path
    measuring: Measuring = field(default_factory=Measuring)
    baselines: bool = False
    published: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Compared:
    """What came of it, and the files that were written."""

    comparison: Comparison
    table: Table
    files: tuple[Path, ...]


def compare_runs(request: Request) -> Compared:
    """Measure what is missing, make the table and the figures, write them.

    Raises UserError where a model is none, was given twice or has no weights, the data cannot be used or is missing
    (models other than runs need it), or `out` holds a comparison already and is not to be overwritten.
    """
    _check(request)
    subjects = load_models([str(run) for run in request.runs], request.measuring.watch)
    gatherer = Gatherer(request.measuring, subjects)
    entries = [gatherer.entry(each) for each in subjects]
    if request.baselines:
        entries += random_entries(gatherer, subjects)
        entries += [pixels for pixels in [pixels_entry(gatherer)] if pixels is not None]
    return _write(request, compare(entries))


def _check(request: Request) -> None:
    """Refuse before anything is measured."""
    if not request.runs:
        raise UserError("give at least one run folder or model")
    if not 0 < request.measuring.fraction <= 1:
        raise UserError(f"--label-fraction must be above 0 and at most 1, not {request.measuring.fraction:g}")
    places = [Path(run).resolve() for run in request.runs]
    twice = [str(run) for run, place in zip(request.runs, places, strict=True) if places.count(place) > 1]
    if twice:
        raise UserError(f"the same model was given twice: {' and '.join(twice)}")
    claim(request.out, FILES, overwrite=request.overwrite)


def _write(request: Request, comparison: Comparison) -> Compared:
    """All files; those of an earlier comparison that have no successor go."""
    table = display_table(comparison, request.published)
    contents = {name: make(comparison, table, request.published) for name, make in FILES.items()}
    return Compared(comparison, table, tuple(write_all(request.out, contents.items())))


def _markdown(comparison: Comparison, table: Table, _: bool) -> bytes:
    pictures = "".join(
        f"\n![{title}]({name})\n"
        for name, title, there in (
            ("comparison.png", "Accuracy against speed or size", bool(panels(comparison)[0])),
            ("curves.png", "Online k-NN over the epochs", bool(online_curves(comparison))),
        )
        if there
    )
    return _text("# Comparison\n\n" + markdown(table) + pictures)


def _csv(comparison: Comparison, _: Table, published: bool) -> bytes:
    return _text(csv_text(CSV_HEADER, csv_rows(comparison, published)))


def _latex(_: Comparison, table: Table, __: bool) -> bytes:
    return _text(latex(table))


def _json(comparison: Comparison, _: Table, published: bool) -> bytes:
    return _text(json.dumps(json_values(comparison, published), indent=2) + "\n")


def _picture(kind: Callable[..., bytes]) -> Callable[[Comparison, Table, bool], bytes | None]:
    def make(comparison: Comparison, _: Table, __: bool) -> bytes | None:
        found, x_title = panels(comparison)
        note = ". ".join(filter(None, (bars_line(comparison), speed_line(comparison))))
        return kind(scatter(found, x_title, note)) if found else None

    return make


def _curves(kind: Callable[..., bytes]) -> Callable[[Comparison, Table, bool], bytes | None]:
    def make(comparison: Comparison, _: Table, __: bool) -> bytes | None:
        found = online_curves(comparison)
        return kind(curves(found, CURVES_TITLE, CURVES_NOTE)) if found else None

    return make


def _text(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogateescape")


def panels(comparison: Comparison) -> tuple[list[Panel], str]:
    """Accuracy against speed, or against size where a row has no speed; and the title of that axis."""
    titles = {"knn": f"k-NN (k = {comparison.k})", "linear": "Linear"}
    networks = [row for row in comparison.rows if row.first.parameters is not None]
    speeds = [row.cell("throughput") for row in networks]
    by_speed = all(speed is not None for speed in speeds)
    found: list[Panel] = []
    of_seeds = has_seeds(comparison)
    for name, title in titles.items():
        points = tuple(
            Point(
                row.method,
                row.architecture,
                label(row, comparison),
                speed.mean if by_speed and speed is not None else row.first.parameters or 0.0,
                cell.mean,
                cell.deviation,
                None if of_seeds or (sure := interval(row, name)) is None else (sure.low, sure.high),
            )
            for row, speed in zip(networks, speeds, strict=True)
            if (cell := row.cell(name))
        )
        pixels = [cell.mean for row in comparison.rows if row.first.method == "pixels" and (cell := row.cell(name))]
        if points:
            found.append(Panel(title, points, (METHOD_NAMES["pixels"], pixels[0]) if pixels else None))
    return found, "throughput (images/s)" if by_speed else "parameters of the backbone (M)"


def has_seeds(comparison: Comparison) -> bool:
    """Whether any accuracy is of several runs: then bars show their deviation, and no other kind stands beside."""
    cells = [row.cell(name) for row in comparison.rows for name in ACCURACIES]
    return any(cell is not None and cell.deviation is not None for cell in cells)


def bars_line(comparison: Comparison) -> str:
    """What the bars of the figure are."""
    if has_seeds(comparison):
        return "Bars: one standard deviation over the seeds each way, where there are several"
    return "Bars: 95 % intervals for the number of images alone (Wilson)"


def online_curves(comparison: Comparison) -> list[Curve]:
    """Online k-NN of each run over its epochs, from its metrics.jsonl, where it was measured."""
    found: list[Curve] = []
    for row in comparison.rows:
        if row.first.method in BASELINES:
            continue
        for entry in row.entries:
            lines = [line for line in read_metrics(Path(entry.run)) if "knn_top1" in line]
            epochs, values = tuple(line["epoch"] + 1 for line in lines), tuple(line["knn_top1"] for line in lines)
            if lines:
                found.append(Curve(row.method, row.architecture, label(row, comparison), epochs, values))
    return found


FILES: dict[str, Callable[[Comparison, Table, bool], bytes | None]] = {
    "comparison.md": _markdown,
    "comparison.csv": _csv,
    "comparison.tex": _latex,
    "comparison.json": _json,
    "comparison.png": _picture(png),
    "comparison.svg": _picture(svg),
    "curves.png": _curves(png),
    "curves.svg": _curves(svg),
}
"""name -> what makes its content from the comparison, the table and whether published figures belong to it."""
