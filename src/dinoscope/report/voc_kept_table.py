"""Jaccard figures on VOC as a table, from what run folders keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dinoscope.evaluation.results import settled
from dinoscope.evaluation.statistics import BootstrapConfig, interval_line
from dinoscope.explain.maps import TITLES
from dinoscope.measurement.voc_record import FIGURES, PUBLISHED, STRICT_MEAN
from dinoscope.report.voc_tables import as_percent
from dinoscope.tables import BOLD, Column, Section, Table, TableRow, best_marked
from dinoscope.text import ABSENT
from dinoscope.types import Metric, Result

_RANKING = (STRICT_MEAN, PUBLISHED)
"""Figures by which rows are sorted: first the one that no truth was used for."""


def kept_table(
    rows: Sequence[tuple[str, Result]],
    published: Sequence[tuple[str, float]] = (),
    source: str = "",
) -> Table:
    """One row for each (model, what was measured of it), best first, under one protocol; in % with intervals.

    published: name and figure of rows that were not measured here. source: of these.
    """
    protocol = rows[0][1].protocol
    found = [{metric.name: metric for metric in each.metrics} for _, each in rows]
    names = [name for name in FIGURES if any(f"voc_jaccard_{name}" in each for each in found)]
    columns = (Column("Model"), *(Column(FIGURES[name], "right") for name in names))
    keys = [f"voc_jaccard_{name}" for name in names]
    first = next((f"voc_jaccard_{name}" for name in _RANKING if name in names), "")
    order = sorted(
        range(len(rows)), key=lambda place: found[place][first].value if first in found[place] else 0, reverse=True
    )
    lines = best_marked(
        [TableRow((rows[place][0], *(_cell(found[place], name) for name in names))) for place in order],
        [[None, *(found[p][key].value if key in found[p] else None for key in keys)] for p in order],
        lambda column, top, row: settled(rows[order[top]][1], rows[order[row]][1], keys[column - 1]),
    )
    sections = [Section(lines, "Measured here" if published else "")]
    if published:
        others = [
            TableRow((name, *(f"{value:.1f}" if n == PUBLISHED else ABSENT for n in names)))
            for name, value in published
        ]
        sections.append(Section(tuple(others), "Published, VOC 2012 val"))
    title = TITLES.get(protocol["map"], protocol["map"])
    caption = (
        f"Jaccard of {title} masks in % [{100 * protocol['confidence']:g} % interval]: {protocol['data_name']}, "
        f"{protocol['images']} images, masks hold {as_percent(protocol['mass'])} of the {title}"
    )
    remarks = [
        *protocol_lines(protocol),
        *([BOLD] if any(line.best for line in lines) else []),
        *([source] if published else []),
    ]
    return Table(columns, tuple(sections), caption, remarks=tuple(remarks))


def protocol_lines(protocol: Mapping[str, Any]) -> list[str]:
    """The protocol for a person."""
    lines = [f"Images and masks: {protocol['data']}."]
    for name, size in (("published", "square"), ("strict", "short_side")):
        if setting := protocol[name]:
            words = "; ".join(f"{key}: {setting[key]}" for key in ("images", "head", "void", "mean"))
            side = f"square of {setting[size]} px" if size == "square" else f"short side {setting[size]} px"
            lines.append(f"{name.capitalize()} protocol: {side}; {words}.")
    if protocol["limit"] is not None:
        lines.append(f"Only {protocol['images']} of the images, spread evenly: not comparable with figures on all.")
    if protocol["left_out"]:
        counted = ", ".join(f"{count} {kind}" for kind, count in protocol["left_out"].items())
        lines.append(f"Left out: {counted}.")
    bootstrap = BootstrapConfig(protocol["resamples"], protocol["confidence"])
    return [*lines, interval_line(protocol["images"], "image", bootstrap)]


def _cell(figures: Mapping[str, Metric], name: str) -> str:
    metric = figures.get(f"voc_jaccard_{name}")
    return ABSENT if metric is None else metric.text()
