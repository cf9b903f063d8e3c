"""How training went: a drawing for each value, with the lines of all runs in it. Plain values in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dinoscope.pictures import QUIET
from dinoscope.report.comparison_figure import OTHER_COLORS, STYLE, STYLES, color_of, dress
from dinoscope.report.html import Stroke

MOST_POINTS = 240
"""Of a line: longer ones become means of neighbours, which is also what makes them legible."""
_FEW = 12
"""Points up to which each is marked; of more, marks would hide the strokes that tell lines apart."""
_SIZE = (3.1, 2.2)  # in inches: on paper three stand in a row, at three quarters of it


@dataclass(frozen=True)
class Line:
    """A value over training. x: epochs."""

    look: Stroke
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Panel:
    """Lines below one title.

    levels: names and heights of lines across, such as what a value can be at most. from_zero: where the axis begins.
    """

    title: str
    y_title: str
    lines: tuple[Line, ...]
    levels: tuple[tuple[str, float], ...] = ()
    from_zero: bool = False


def looks(runs: Sequence[tuple[str, str]]) -> list[Stroke]:
    """One for each run (label, method as the field writes it): a colour for each method, a stroke for its namesakes.

    Where a method has more runs than there are strokes, colours tell all runs apart instead, as far as they go.
    """
    methods = [method for _, method in runs]
    by_method = max(map(methods.count, methods), default=0) <= len(STYLES)
    found: list[Stroke] = []
    for place, (label, method) in enumerate(runs):
        before = methods[:place].count(method)
        palette = [color_of("DINO"), color_of("MoCo v2"), color_of("BYOL"), color_of("SwAV"), *OTHER_COLORS]
        color = color_of(method) if by_method else palette[place % len(palette)]
        number = before if by_method else place // len(palette)
        found.append(Stroke(label, color, STYLES[number % len(STYLES)]))
    return found


def training_panel(panel: Panel) -> Figure:
    """A drawing of one value; what its lines stand for is said beside it."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(_SIZE, dpi=150, facecolor="white")
        figure.set_layout_engine("tight", pad=0.5)
        FigureCanvasAgg(figure)
        axis = figure.subplots()
        dress(axis, panel.title, "epoch", panel.y_title)
        for line in panel.lines:
            _draw(axis, line)
        for name, height in panel.levels:
            axis.axhline(height, color=QUIET, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
            axis.annotate(
                name,
                (1, height),
                xycoords=("axes fraction", "data"),
                xytext=(-2, 2),
                textcoords="offset points",
                horizontalalignment="right",
                verticalalignment="bottom",
                color=QUIET,
                fontsize=8,
                parse_math=False,
            )
        axis.margins(y=0.12)
        if panel.from_zero:
            _, high = axis.get_ylim()
            axis.set_ylim(0, 1.12 * high)  # with room for the name of a line at the top
        axis.yaxis.set_major_locator(MaxNLocator(5))
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


def _draw(axis: Axes, line: Line) -> None:
    x, y = _thinned(line.x), _thinned(line.y)
    few = len(x) <= _FEW
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
    return list(sums / np.diff(starts, append=len(values)))
