"""A comparison of models as files: the table as Markdown, LaTeX, CSV and JSON, and two figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dinoscope.errors import UserError
from dinoscope.evaluation.compare import (
    BASELINES,
    METHOD_NAMES,
    Comparison,
    Gatherer,
    Measuring,
    compare,
    csv_header,
    csv_rows,
    display_table,
    interval,
    json_values,
    label,
    pixels_entry,
    random_entries,
    speed_line,
)
from dinoscope.files import claim, write_all
from dinoscope.model_names import Model, load_models
from dinoscope.report.charts import Curve, Panel, Point, curves, png, scatter, svg
from dinoscope.report.tables import csv_text, latex, markdown
from dinoscope.tables import Table
from dinoscope.training.run_folder import read_metrics

CURVES_TITLE = "online k-NN top-1 (%)"
CURVES_NOTE = (
    "Measured during training on the images of each run itself, at the run's image size, k = 20: to see how a run "
    "went, not to compare."
)


_FIGURES = tuple(f"{name}.{kind}" for name in ("comparison", "curves") for kind in ("png", "svg"))
FILES = ("comparison.md", "comparison.csv", "comparison.tex", "comparison.json", *_FIGURES)
"""Those of an earlier comparison that have no successor are deleted."""


@dataclass(frozen=True)
class Compared:
    """What came of it, and the files that were written."""

    comparison: Comparison
    table: Table
    files: tuple[Path, ...]


def compare_runs(
    runs: Sequence[str | Path | Model],
    out: Path,
    measuring: Measuring | None = None,
    *,
    baselines: bool = False,
    published: bool = False,
    overwrite: bool = False,
) -> Compared:
    """Measure what is missing, make the table and the figures, and write them.

    Args:
        runs: run folders, or other models as `load_models` takes them.
        out: the folder to write to.
        measuring: what is measured, and on which images.
        baselines: add raw pixels, and each network with random weights.
        published: add published figures, in a section of their own.
        overwrite: replace the comparison in `out`.

    Raises UserError if a model is none, was given twice or has no weights, if the data cannot be used or are missing
    (models other than runs need them), or if `out` holds a comparison and is not to be overwritten.
    """
    measuring = measuring or Measuring()
    if not runs:
        raise UserError("give at least one run folder or model")
    if not 0 < measuring.fraction <= 1:
        raise UserError(f"--label-fraction must be above 0 and at most 1, not {measuring.fraction:g}")
    require_different(runs)
    claim(out, FILES, overwrite=overwrite)
    comparison = gathered(load_models(runs, measuring.watch), measuring, baselines=baselines)
    table = display_table(comparison, published)
    return Compared(comparison, table, tuple(write_all(out, _contents(comparison, table, published))))


def require_different(models: Sequence[str | Path | Model]) -> None:
    """Raise UserError if a model was given twice."""
    names = [model.name if isinstance(model, Model) else model for model in models]
    places = [Path(name).resolve() for name in names]
    twice = [str(model) for model, place in zip(names, places, strict=True) if places.count(place) > 1]
    if twice:
        raise UserError(f"the same model was given twice: {' and '.join(twice)}")


def gathered(models: Sequence[Model], measuring: Measuring, *, baselines: bool) -> Comparison:
    """Return the rows of a comparison, after measuring what is missing.

    baselines: raw pixels, and each network with random weights.

    Raises UserError if the data cannot be used.
    """
    gatherer = Gatherer(measuring, models)
    entries = [gatherer.entry(model) for model in models]
    if baselines:
        entries += random_entries(gatherer, models)
        entries += [pixels for pixels in [pixels_entry(gatherer)] if pixels is not None]
    return compare(entries, measuring.shown)


def _contents(comparison: Comparison, table: Table, published: bool) -> Iterator[tuple[str, bytes | None]]:
    """Name and content of each of `FILES`; None for a figure of which there is nothing to draw."""
    points, x_title = panels(comparison)
    online = online_curves(comparison)
    pictures = ["\n![Accuracy against speed or size](comparison.png)\n"] if points else []
    pictures += ["\n![Online k-NN over the epochs](curves.png)\n"] if online else []
    yield "comparison.md", _bytes("# Comparison\n\n" + markdown(table) + "".join(pictures))
    yield "comparison.csv", _bytes(csv_text(csv_header(comparison), csv_rows(comparison, published)))
    yield "comparison.tex", _bytes(latex(table))
    yield "comparison.json", _bytes(json.dumps(json_values(comparison, published), indent=2) + "\n")
    note = ". ".join(filter(None, (bars_line(comparison), speed_line(comparison))))
    drawn = scatter(points, x_title, note) if points else None
    yield from (("comparison.png", drawn and png(drawn)), ("comparison.svg", drawn and svg(drawn)))
    drawn = curves(online, CURVES_TITLE, CURVES_NOTE) if online else None
    yield from (("curves.png", drawn and png(drawn)), ("curves.svg", drawn and svg(drawn)))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogateescape")


def panels(comparison: Comparison) -> tuple[list[Panel], str]:
    """Return accuracy against speed, or against size if a row has no speed, and the title of that axis."""
    titles = {name: comparison.title(name) for name in reversed(comparison.accuracies)}
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
                None if of_seeds or (sure := interval(row, name)) is None else (sure.low or 0, sure.high or 0),
            )
            for row, speed in zip(networks, speeds, strict=True)
            if (cell := row.cell(name))
        )
        pixels = [cell.mean for row in comparison.rows if row.first.method == "pixels" and (cell := row.cell(name))]
        if points:
            found.append(Panel(title, points, (METHOD_NAMES["pixels"], pixels[0]) if pixels else None))
    return found, "throughput (images/s)" if by_speed else "parameters of the backbone (M)"


def has_seeds(comparison: Comparison) -> bool:
    """Return whether any accuracy is of several runs: then all bars show their deviation."""
    cells = [row.cell(name) for row in comparison.rows for name in comparison.accuracies]
    return any(cell is not None and cell.deviation is not None for cell in cells)


def bars_line(comparison: Comparison) -> str:
    """Return what the bars of the figure are."""
    if has_seeds(comparison):
        return "Bars: one standard deviation over the seeds each way, where there are several"
    return "Bars: 95 % intervals for the number of images alone (Wilson)"


def online_curves(comparison: Comparison) -> list[Curve]:
    """Return online k-NN of each run over its epochs, from its metrics.jsonl, if it was measured."""
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
