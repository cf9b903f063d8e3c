"""The figure of a sweep: Jaccard by the share of the attention that a mask holds. Plain values in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import LineStyleType

from dinoscope.pictures import QUIET
from dinoscope.report.comparison_figure import COLORS, OTHER_COLORS, STYLE, STYLES, dress, finish, new_figure

_LINE_COLORS = (*(color for name, color in COLORS.items() if name not in ("Raw pixels", "Random")), *OTHER_COLORS)


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
    """One panel for each (title, bands); a line and its band for each model.

    at: the mass of the table, marked. what: the masks hold.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(len(panels), width=4.6, height=4.0)
        labels = list(dict.fromkeys(band.label for _, bands in panels for band in bands))
        highest = max(max(band.highs) for _, bands in panels for band in bands)
        percent = [100 * mass for mass in masses]
        for axis, (title, bands) in zip(axes, panels, strict=True):
            dress(axis, title, f"share of the {what} in the mask (%)", "Jaccard (%)")
            axis.axvline(100 * at, color=QUIET, linewidth=1, linestyle="--", zorder=1)
            for band in bands:
                color, style = _look(labels.index(band.label))
                axis.fill_between(percent, band.lows, band.highs, color=color, alpha=0.14, linewidth=0)
                axis.plot(percent, band.means, color=color, linestyle=style, marker="o", markersize=3.5, linewidth=1.6)
            axis.set_ylim(0, min(100, 1.06 * highest))  # one scale: the panels are there to be compared
        handles = [
            Line2D([], [], color=color, linestyle=style, marker="o", markersize=3.5, label=label)
            for label, (color, style) in ((label, _look(place)) for place, label in enumerate(labels))
        ]
        finish(figure, handles, note)
    return figure


def _look(place: int) -> tuple[str, LineStyleType]:
    """Colour and style of a line: all colours first, then the next style."""
    row, column = divmod(place, len(_LINE_COLORS))
    return _LINE_COLORS[column], STYLES[row % len(STYLES)]
