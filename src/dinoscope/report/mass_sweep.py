"""Jaccard by the share of the attention that a mask holds, as a chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from dinoscope.report.charts import line_chart
from dinoscope.tables import Line, LineChart, LinePanel


@dataclass(frozen=True)
class Band:
    """One model's figure at each mass, and its interval, in %."""

    label: str
    means: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]


def mass_sweep(
    masses: Sequence[float],
    panels: Sequence[tuple[str, Sequence[Band]]],
    at: float,
    note: str = "",
    what: str = "attention",
) -> Figure:
    """Draw one panel for each (title, bands), with a line and its band for each model.

    at: the mass of the table, marked. what: the masks hold.
    """
    percent = tuple(100 * mass for mass in masses)
    drawn = tuple(
        LinePanel(
            title,
            tuple(Line(band.label, percent, band.means, band.lows, band.highs) for band in bands),
            f"share of the {what} in the mask (%)",
            "Jaccard (%)",
            at=100 * at,
            limits=(0, None),
        )
        for title, bands in panels
    )
    return line_chart(LineChart("sweep", "Jaccard by the mass of the mask", drawn, note, same_scale=True))
