"""A comparison of models as files: the table as Markdown, LaTeX, CSV and JSON, and two figures."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from dinoscope.errors import UserError
from dinoscope.evaluation import compare
from dinoscope.evaluation.base import DEFAULT_CONTEXT, Context
from dinoscope.evaluation.compare import Comparison, Wanted
from dinoscope.files import claim, write_all
from dinoscope.model_names import Model, load_models, with_runs_inside
from dinoscope.report.charts import Curve, Panel, Point, accuracy, are_alike, curves, figure_files, file_names
from dinoscope.report.tables import csv_text, latex, markdown
from dinoscope.tables import Table
from dinoscope.training.run_folder import read_metrics

CURVES_TITLE = "online k-NN top-1 (%)"
CURVES_NOTE = (
    "Measured during training on the images of each run itself, at the run's image size, k = 20: to see how a run "
    "went, not to compare."
)


_TEXTS = ("comparison.md", "comparison.csv", "comparison.tex", "comparison.json")
FILES = (*_TEXTS, *file_names("comparison"), *file_names("curves"))
"""Those of an earlier comparison that have no successor are deleted."""


def compare_runs(
    runs: Sequence[str | Path | Model],
    out: Path,
    data: Path | None = None,
    wanted: Wanted | None = None,
    *,
    skip: Collection[str] = (),
    context: Context = DEFAULT_CONTEXT,
    baselines: bool = False,
    published: bool = False,
    overwrite: bool = False,
) -> tuple[Comparison, Table, list[Path]]:
    """Measure what is missing, make the table and the figures, and write them; return the files, too.

    Args:
        runs: run folders, folders of runs, or other models as `load_models` takes them.
        out: the folder to write to.
        data, wanted, skip, context, baselines: as of `evaluation.compare.gather`.
        published: add published figures, in a section of their own.
        overwrite: replace the comparison in `out`.

    Raises UserError if a model is none, was given twice or has no weights, if the data cannot be used or are missing
    (models other than runs need them), or if `out` holds a comparison and is not to be overwritten.
    """
    if not runs:
        raise UserError("give at least one run folder or model")
    require_different(runs)
    claim(out, FILES, overwrite=overwrite)
    compare.check(data, wanted, skip, context)
    models = load_models(runs, context.watch)
    comparison = compare.gather(models, data, wanted, skip=skip, context=context, baselines=baselines)
    table = compare.display_table(comparison, published)
    return comparison, table, write_all(out, _contents(comparison, table, published))


def require_different(models: Sequence[str | Path | Model]) -> None:
    """Raise UserError if a model was given twice, on its own or in a folder of runs."""
    names = [model.name if isinstance(model, Model) else model for model in with_runs_inside(models)]
    places = [Path(name).resolve() for name in names]
    twice = [str(model) for model, place in zip(names, places, strict=True) if places.count(place) > 1]
    if twice:
        raise UserError(f"the same model was given twice: {' and '.join(twice)}")


def _contents(comparison: Comparison, table: Table, published: bool) -> Iterator[tuple[str, bytes | None]]:
    """Name and content of each of `FILES`; None for a figure if there is nothing to draw."""
    points, x_title = panels(comparison)
    online = online_curves(comparison)
    note = ". ".join(filter(None, (bars_line(comparison), "" if are_alike(points) else compare.speed_line(comparison))))
    drawings = {
        "comparison": accuracy(points, x_title, note) if points else None,
        "curves": curves(online, CURVES_TITLE, CURVES_NOTE) if online else None,
    }
    title = "Accuracy" if are_alike(points) else "Accuracy against speed or size"
    titles = {"comparison": title, "curves": "Online k-NN over the epochs"}
    pictures = [f"\n![{titles[name]}]({name}.png)\n" for name, drawing in drawings.items() if drawing]
    texts = {
        "comparison.md": "# Comparison\n\n" + markdown(table) + "".join(pictures),
        "comparison.csv": csv_text(*compare.csv_table(comparison, published)),
        "comparison.tex": latex(table, "comparison"),
        "comparison.json": json.dumps(compare.json_values(comparison, published), indent=2) + "\n",
    }
    for name, text in texts.items():
        yield name, text.encode("utf-8", errors="surrogateescape")
    for name, drawing in drawings.items():
        yield from figure_files(name, drawing)


def panels(comparison: Comparison) -> tuple[list[Panel], str]:
    """Return accuracy against speed, or against size if a row has no speed, and the title of that axis."""
    networks = [row for row in comparison.rows if row.first.parameters is not None]
    speeds = [row.cell("throughput") for row in networks]
    by_speed, of_seeds = None not in speeds, has_seeds(comparison)
    found: list[Panel] = []
    for name in reversed(comparison.accuracies):
        points = tuple(
            Point(
                row.method,
                row.architecture,
                compare.label(row, comparison),
                speed.mean if by_speed and speed is not None else row.first.parameters or 0.0,
                cell.mean,
                cell.deviation,
                None if of_seeds else compare.interval(row, name),
            )
            for row, speed in zip(networks, speeds, strict=True)
            if (cell := row.cell(name))
        )
        pixels = [cell.mean for row in comparison.rows if row.first.method == "pixels" and (cell := row.cell(name))]
        level = (compare.METHOD_NAMES["pixels"], pixels[0]) if pixels else None
        found += [Panel(comparison.title(name), points, level)] if points else []
    return found, "throughput (images/s)" if by_speed else "parameters of the backbone (M)"


def has_seeds(comparison: Comparison) -> bool:
    """Return whether any accuracy is of several runs: then all bars show their deviation."""
    cells = [row.cell(name) for row in comparison.rows for name in comparison.accuracies]
    return any(cell is not None and cell.deviation is not None for cell in cells)


def bars_line(comparison: Comparison) -> str:
    """Return what the bars of the figure are."""
    if has_seeds(comparison):
        return "Bars: one standard deviation over the seeds each way, if there are several"
    return f"Bars: 95 % intervals {compare.interval_words(comparison)}"


def online_curves(comparison: Comparison) -> list[Curve]:
    """Return online k-NN of each run over its epochs, from its metrics.jsonl, if it was measured."""
    found: list[Curve] = []
    for row in comparison.rows:
        for entry in row.entries if row.first.method not in compare.BASELINES else ():
            lines = [line for line in read_metrics(Path(entry.run)) if "knn_top1" in line]
            epochs, values = tuple(line["epoch"] + 1 for line in lines), tuple(line["knn_top1"] for line in lines)
            if lines:
                found.append(Curve(row.method, row.architecture, compare.label(row, comparison), epochs, values))
    return found
