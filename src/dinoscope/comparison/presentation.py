"""A comparison as it is shown: the rows of a table, of a file of values, and the points and curves of figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dinoscope import __version__
from dinoscope.comparison.ranking import ACCURACIES, baseline_lines, best, bold_line, interval, measured
from dinoscope.config import to_dict
from dinoscope.evaluation.statistics import OverSeeds
from dinoscope.model_names import distinct
from dinoscope.study.compare import BASELINES, Comparison, Row, usual_conditions
from dinoscope.study.names import METHOD_NAMES
from dinoscope.study.published import LABEL, PUBLISHED, SOURCE, Published
from dinoscope.tables import Column, Section, Table, TableRow
from dinoscope.text import ABSENT

CSV_HEADER = (
    "source",
    "method",
    "architecture",
    "backbone",
    "runs",
    "parameters_millions",
    "images_per_second",
    "linear_top1_mean",
    "linear_top1_deviation",
    "knn_top1_mean",
    "knn_top1_deviation",
    "knn_k",
    "seeds",
    "folders",
    "notes",
    "linear_image_size",
    "linear_images",
    "knn_image_size",
    "knn_images",
)


def display_table(comparison: Comparison, published: bool, intervals: bool = False) -> Table:
    """The table of the field, with published figures as a section of their own if asked for.

    intervals: beside each accuracy of a single run; else how wide they are at most is said below.
    """
    columns = (
        Column("Method"),
        Column("Arch."),
        Column("Param. (M)", "right"),
        Column("im/s", "right"),
        Column("Linear", "right"),
        Column(f"k-NN (k = {comparison.k})", "right"),
    )
    sections = [Section(tuple(_display_row(row, comparison, intervals) for row in comparison.rows))]
    notes = comparison.notes
    if published:
        notes = (*notes, *dict.fromkeys(row.note for row in PUBLISHED if row.note))
        rows = tuple(_published_row(row, notes) for row in PUBLISHED)
        sections = [Section(sections[0].rows, "Measured here"), Section(rows, LABEL)]
    remarks = _remarks(comparison, intervals) + ([SOURCE] if published else [])
    return Table(columns, tuple(sections), "Top-1 accuracy in %, size and speed", notes, tuple(remarks))


def _display_row(row: Row, comparison: Comparison, intervals: bool) -> TableRow:
    runs, speed = len(row.entries), row.cell("throughput")
    cells = (
        label(row, comparison) + (f" (n = {runs})" if runs > 1 else ""),
        row.architecture,
        ABSENT if row.first.parameters is None else _size(row.first.parameters),
        ABSENT if speed is None else f"{speed.mean:.{0 if speed.mean >= 10 else 1}f}",
        *(_accuracy(row.cell(name), runs) + (_ends(row, name) if intervals else "") for name in ACCURACIES),
    )
    leading = (at for at, name in enumerate(ACCURACIES, len(cells) - len(ACCURACIES)) if row in best(comparison, name))
    return TableRow(cells, row.marks, tuple(leading))


def _ends(row: Row, name: str) -> str:
    """The ends of the interval."""
    found = interval(row, name)
    return "" if found is None else f" [{found.low:.1f}, {found.high:.1f}]"


def label(row: Row, comparison: Comparison) -> str:
    """The method, and where several rows have it on one architecture, the name of the row's (first) run."""
    same = [each for each in comparison.rows if (each.method, each.architecture) == (row.method, row.architecture)]
    if len(same) == 1 or row.first.method in BASELINES:
        return row.method
    runs = [Path(each.first.run) for each in same]
    names = distinct([(run.resolve().name, run) for run in runs])
    return f"{row.method} {names[runs.index(Path(row.first.run))]}"


def _published_row(row: Published, notes: Sequence[str]) -> TableRow:
    figures = (_size(row.parameters), f"{row.images_per_second:.0f}", f"{row.linear:.1f}", f"{row.knn:.1f}")
    marks = (notes.index(row.note) + 1,) if row.note else ()
    return TableRow((METHOD_NAMES[row.method], row.architecture, *figures), marks)


def _accuracy(cell: OverSeeds | None, runs: int) -> str:
    """Mean and deviation; how many runs, where some lack the figure."""
    if cell is None:
        return ABSENT
    deviation = "" if cell.deviation is None else f" ± {cell.deviation:.1f}"
    return f"{cell.mean:.1f}{deviation}" + (f" (n = {len(cell.values)})" if len(cell.values) < runs else "")


def _size(millions: float) -> str:
    return f"{millions:.0f}" if millions >= 10 else f"{millions:.2g}"


def _remarks(comparison: Comparison, intervals: bool = False) -> list[str]:
    """How the figures of most rows came about; those of others are in the notes."""
    remarks = _how_sure(comparison, intervals)
    knn, linear, speed = (usual_conditions(comparison.rows, name) for name in ("knn", "linear", "throughput"))
    if knn:
        asked = f"{knn['query_images']} queries of {knn['queries']}" if knn["queries"] else "each against all others"
        remarks.append(
            f"k-NN: k = {comparison.k}, temperature {knn['temperature']:g}, {knn['gallery_images']} labelled images of "
            f"{knn['gallery']}{_fraction(knn)}, {asked}, {knn['classes']} classes, {knn['image_size']} px, "
            f"{knn['precision']}"
        )
    if linear:
        remarks.append(
            f"Linear: {linear['protocol']} protocol, {linear['epochs']} epochs on {linear['train_images']} images of "
            f"{linear['train']}{_fraction(linear)}, measured on {linear['val_images']} of {linear['val']}, "
            f"{linear['image_size']} px, {linear['precision']}"
        )
    if speed:
        remarks.append(f"im/s: {speed_line(comparison)}")
    if any(len(row.entries) > 1 for row in comparison.rows):
        remarks.append("n: runs that differ in the seed alone; mean ± standard deviation of the sample")
    return remarks


def _how_sure(comparison: Comparison, intervals: bool) -> list[str]:
    """Return the lines on baselines that no model beats, on what is in bold, and on the intervals of single runs."""
    bold = bold_line(comparison)
    remarks = baseline_lines(comparison) + ([bold] if bold else [])
    found = [each for row in comparison.rows for name in ACCURACIES if (each := interval(row, name))]
    if intervals and found:
        remarks.append("[ ]: 95 % interval for the number of images alone (Wilson); another seed may differ by more")
    elif found:
        farthest = max(max(each.high - each.mean, each.mean - each.low) for each in found)
        remarks.append(
            f"Single runs: 95 % intervals for the number of images alone (Wilson) reach at most {farthest:.1f} to "
            "either side; another seed may differ by more"
        )
    return remarks


def _fraction(conditions: dict[str, Any]) -> str:
    fraction = conditions["label_fraction"]
    return "" if fraction == 1 else f" ({100 * fraction:g} % of the labels)"


def speed_line(comparison: Comparison) -> str:
    """What the figures of speed rest on, in words; "" where there are none."""
    speed = usual_conditions(comparison.rows, "throughput")
    if speed is None:
        return ""
    return (
        f"images per second of the forward pass, images in memory, batch {speed['batch_size']} of "
        f"{speed['image_size']} px, {speed['precision']}, median of {speed['repeats']} repeats; "
        f"{speed['machine.name']}, {speed['machine.threads']} CPU thread{'s' * (speed['machine.threads'] != 1)}, "
        f"torch {speed['machine.torch']}"
    )


def csv_rows(comparison: Comparison, published: bool) -> list[list[str]]:
    """One row per row of the table, under `CSV_HEADER`; figures unrounded, empty where there are none."""
    rows = []
    for row in comparison.rows:
        linear, knn, speed = row.cell("linear"), row.cell("knn"), row.cell("throughput")
        values = [
            "measured",
            row.method,
            row.architecture,
            row.first.backbone,
            len(row.entries),
            row.first.parameters,
            speed and speed.mean,
            linear and linear.mean,
            linear and linear.deviation,
            knn and knn.mean,
            knn and knn.deviation,
            comparison.k if knn else None,
            " ".join(str(entry.seed) for entry in row.entries if entry.seed is not None),
            "; ".join(entry.run for entry in row.entries),
            "; ".join(comparison.notes[mark - 1] for mark in row.marks),
            *_seen(row, "linear"),
            *_seen(row, "knn"),
        ]
        rows.append(["" if value is None else str(value) for value in values])
    return rows + ([_published_values(row) for row in PUBLISHED] if published else [])


def _seen(row: Row, name: str) -> tuple[int | None, str | None]:
    """Return the side in pixels of the images that were classified, and their folder."""
    found = next((each.protocol for each in measured(row, name)), {})
    return found.get("image_size"), found.get("queries") or found.get("val") or found.get("gallery")


def _published_values(row: Published) -> list[str]:
    values = {
        "source": LABEL,
        "method": METHOD_NAMES[row.method],
        "architecture": row.architecture,
        "parameters_millions": str(row.parameters),
        "images_per_second": str(row.images_per_second),
        "linear_top1_mean": str(row.linear),
        "knn_top1_mean": str(row.knn),
        "knn_k": "20",
        "notes": "; ".join(filter(None, ("Caron et al. 2021, Table 2", row.note))),
    }
    return [values.get(name, "") for name in CSV_HEADER]


def json_values(comparison: Comparison, published: bool) -> dict[str, Any]:
    """Everything: the value of each seed, protocols, settings, folders, notes."""
    rows = [
        {
            "method": row.method,
            "architecture": row.architecture,
            "backbone": row.first.backbone,
            "parameters_millions": row.first.parameters,
            "figures": {
                name: None if cell is None else {**asdict(cell), "n": len(cell.values)}
                for name, cell in ((name, row.cell(name)) for name in ("throughput", "linear", "knn"))
            },
            "notes": list(row.marks),
            "entries": [to_dict(entry) for entry in row.entries],
        }
        for row in comparison.rows
    ]
    values: dict[str, Any] = {
        "version": __version__,
        "units": {"throughput": "images/s", "linear": "top-1 %", "knn": "top-1 %", "deviation": "of a sample (n - 1)"},
        "k": comparison.k,
        "rows": rows,
        "notes": list(comparison.notes),
        "remarks": _remarks(comparison),
    }
    return values | ({"published": {"source": SOURCE, "rows": [asdict(row) for row in PUBLISHED]}} if published else {})
