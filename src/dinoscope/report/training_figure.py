"""Figures of how training went: one panel for each value, all runs in it. Plain values in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dinoscope.report.comparison_figure import OTHER_COLORS, STYLE, STYLES, color_of, dress, finish, new_figure
from dinoscope.report.layout import QUIET

MOST_POINTS = 240
"""Of a line: longer ones become means of neighbours, which is also what makes them legible."""
_LONGEST = 44  # letters of a name in the legend
_WIDTH, _HEIGHT = 3.85, 2.55  # of a panel, in inches: two in a row are as wide as a sheet of A4 within its margins


@dataclass(frozen=True)
class Look:
    """How a run is drawn in every panel."""

    label: str
    color: str
    style: str


@dataclass(frozen=True)
class Line:
    """A value over training. x: epochs."""

    look: Look
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Panel:
    """Lines below one title. levels: names and heights of lines across, for what a value can be at most."""

    title: str
    y_title: str
    lines: tuple[Line, ...]
    levels: tuple[tuple[str, float], ...] = ()


def looks(runs: Sequence[tuple[str, str]]) -> list[Look]:
    """One for each run (label, method as the field writes it): a colour for each method, a stroke for its namesakes.

    Where a method has more runs than there are strokes, colours tell all runs apart instead, as far as they go.
    """
    methods = [method for _, method in runs]
    by_method = max(map(methods.count, methods), default=0) <= len(STYLES)
    found: list[Look] = []
    for place, (label, method) in enumerate(runs):
        before = methods[:place].count(method)
        palette = [color_of("DINO"), color_of("MoCo v2"), color_of("BYOL"), color_of("SwAV"), *OTHER_COLORS]
        color = color_of(method) if by_method else palette[place % len(palette)]
        number = before if by_method else place // len(palette)
        found.append(Look(_shortened(label), color, STYLES[number % len(STYLES)]))
    return found


def training_curves(panels: Sequence[Panel]) -> Figure:
    """All panels, two in a row, over one legend; none where there is but one run."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(len(panels), _WIDTH, _HEIGHT, most=2)
        for axis, panel in zip(axes, panels, strict=True):
            dress(axis, panel.title, "epoch", panel.y_title)
            for line in panel.lines:
                _draw(axis, line)
            for name, height in panel.levels:
                axis.axhline(height, color=QUIET, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
                axis.annotate(
                    name,
                    (0, height),
                    xycoords=("axes fraction", "data"),
                    xytext=(3, 2),
                    textcoords="offset points",
                    color=QUIET,
                    fontsize=8,
                    parse_math=False,
                )
            axis.margins(y=0.12)
        shown = list(dict.fromkeys(line.look for panel in panels for line in panel.lines))
        handles = [
            Line2D([], [], color=look.color, linestyle=look.style, linewidth=2, label=look.label) for look in shown
        ]
        longest = max((len(look.label) for look in shown), default=0)
        columns = max(1, int(figure.get_figwidth() / (0.55 + 0.08 * longest)))
        finish(figure, handles if len(handles) > 1 else [], "", columns)
    return figure


def _draw(axis: Axes, line: Line) -> None:
    x, y = _thinned(line.x), _thinned(line.y)
    few = len(x) < 30
    axis.plot(
        x,
        y,
        color=line.look.color,
        linestyle=line.look.style,
        linewidth=1.5,
        marker="o" if few else "",
        markersize=3,
        alpha=0.9,
    )


def _thinned(values: Sequence[float]) -> list[float]:
    """Means of so many neighbours that at most `MOST_POINTS` are left."""
    block = math.ceil(len(values) / MOST_POINTS)
    if block <= 1:
        return list(values)
    starts = np.arange(0, len(values), block)
    sums = np.add.reduceat(np.asarray(values, dtype=np.float64), starts)
    return list(sums / np.diff([*starts, len(values)]))


def _shortened(label: str) -> str:
    """A name that leaves its middle out where it is very long."""
    half = _LONGEST // 2
    return label if len(label) <= _LONGEST else f"{label[:half]}…{label[-half:]}"
