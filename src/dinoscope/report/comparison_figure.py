"""Figures of a comparison: accuracy against speed or size, and accuracy over the epochs. Plain values in."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dinoscope.methods import DISPLAY
from dinoscope.pictures import FONT, INK, QUIET
from dinoscope.report.point_labels import Labelled, label_points

# Okabe and Ito's palette: told apart with any colour vision, and in print.
COLORS = {
    "Raw pixels": "#9a9a9a",
    "Random": "#6e6e6e",
    **{display.title: display.color for display in DISPLAY.values() if display.color},
}
OTHER_COLORS = ("#0072b2", "#b8a600", "#7a5195", "#8c564b")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")

STYLE: Any = {
    "font.family": FONT,
    "font.size": 9.5,
    "svg.hashsalt": "dinoscope",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3
}
_GRID = "#e4e4e4"


@dataclass(frozen=True)
class Point:
    """A row of the table.

    method: chooses the colour.
    label: is written beside the point.
    deviation: half of the bar's length. ends: of the bar, where there is no deviation. None of both: no bar.
    """

    method: str
    architecture: str
    label: str
    x: float
    y: float
    deviation: float | None = None
    ends: tuple[float, float] | None = None

    @property
    def bar(self) -> list[list[float]] | None:
        """How far it reaches down and up, as matplotlib has it."""
        if self.deviation is not None:
            return [[self.deviation], [self.deviation]]
        return None if self.ends is None else [[self.y - self.ends[0]], [self.ends[1] - self.y]]


@dataclass(frozen=True)
class Panel:
    """Points above one title; y is in %. level: name and height of a line across, for what has no x."""

    title: str
    points: tuple[Point, ...]
    level: tuple[str, float] | None = None


@dataclass(frozen=True)
class Curve:
    """Accuracy in % of one run after so many epochs. label: names it in the legend, once for all seeds."""

    method: str
    architecture: str
    label: str
    epochs: tuple[float, ...]
    values: tuple[float, ...]


def scatter(panels: Sequence[Panel], x_title: str, note: str = "", size: tuple[float, float] = (5.4, 5.2)) -> Figure:
    """Accuracy against x, one panel for each kind of accuracy; a colour and a label per method, a marker per
    architecture, a bar for how sure it is. size: of a panel, in inches.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(len(panels), *size)
        architectures = list(dict.fromkeys(point.architecture for panel in panels for point in panel.points))
        for axis, panel in zip(axes, panels, strict=True):
            dress(axis, panel.title, x_title, "top-1 (%)")
            _spread([point.x for panel in panels for point in panel.points], axis)
            for point in panel.points:
                axis.errorbar(
                    point.x,
                    point.y,
                    yerr=point.bar,
                    color=color_of(point.method),
                    marker=MARKERS[architectures.index(point.architecture) % len(MARKERS)],
                    markersize=7.5,
                    alpha=0.9,
                    markeredgecolor="white",
                    markeredgewidth=0.8,
                    capsize=3,
                    linestyle="none",
                    zorder=3,
                )
            if panel.level:
                _line_across(axis, *panel.level)
            axis.margins(x=0.25, y=0.12)
            low, high = axis.get_ylim()
            axis.set_ylim(max(low, -4), min(high, 106))  # a bar may leave the range of percentages, the axis not
        handles = [
            Line2D([], [], color=QUIET, marker=MARKERS[number % len(MARKERS)], linestyle="none", label=name)
            for number, name in enumerate(architectures)
        ]
        finish(figure, handles, note)
        for axis, panel in zip(axes, panels, strict=True):
            label_points(figure, axis, [Labelled(p.label, p.x, p.y, color_of(p.method)) for p in panel.points])
    return figure


def curves(every: Sequence[Curve], title: str, note: str = "") -> Figure:
    """Accuracy over the epochs, one panel per architecture; runs with one label share their colour and line."""
    with matplotlib.rc_context(STYLE):
        architectures = list(dict.fromkeys(curve.architecture for curve in every))
        figure, axes = new_figure(len(architectures), width=5.2, height=4.2)
        for axis, architecture in zip(axes, architectures, strict=True):
            dress(axis, architecture, "epoch", title)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            here = [curve for curve in every if curve.architecture == architecture]
            seen: list[str] = []
            for curve in here:
                namesakes = list(dict.fromkeys(other.label for other in here if other.method == curve.method))
                axis.plot(
                    curve.epochs,
                    curve.values,
                    color=color_of(curve.method),
                    linestyle=STYLES[namesakes.index(curve.label) % len(STYLES)],
                    marker="o" if len(curve.epochs) < 30 else "",
                    markersize=3.5,
                    linewidth=1.6,
                    alpha=0.85,
                    label="_" if curve.label in seen else curve.label,
                )
                seen.append(curve.label)
            # Beside the panel: whatever corner it were put into, some curve may pass there.
            legend = axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8.5)
            for text in legend.get_texts():
                text.set_parse_math(False)
        finish(figure, [], note)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG file of 150 dots an inch."""
    return _file(figure, "png")


def svg(figure: Figure) -> bytes:
    """The figure as an SVG file; the same figure gives the same file."""
    return _file(figure, "svg")


def pdf(figure: Figure) -> bytes:
    """The figure as a PDF file with its fonts inside; the same figure gives the same file."""
    return _file(figure, "pdf")


def _file(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format=kind, dpi=150, metadata=undated)
    return buffer.getvalue()


def new_figure(panels: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A white figure with so many panels of that size in inches, three in a row."""
    columns = min(max(panels, 1), 3)
    rows = max(1, math.ceil(panels / columns))
    figure = Figure((width * columns, height * rows + 0.5), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for unused in axes[panels:]:
        unused.remove()
    return figure, axes[:panels]


def dress(axis: Axes, title: str, x_title: str, y_title: str) -> None:
    """Give a panel its titles and the look of all."""
    axis.set_title(title, loc="left", fontsize=11, color=INK, parse_math=False)
    axis.set_xlabel(x_title, color=INK, parse_math=False)
    axis.set_ylabel(y_title, color=INK, parse_math=False)
    axis.grid(color=_GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(which="both", colors=QUIET, length=0)
    for side in ("top", "right", "left", "bottom"):
        axis.spines[side].set_visible(side == "bottom")
        axis.spines[side].set_color(QUIET)


def _spread(values: Sequence[float], axis: Axes) -> None:
    """A logarithmic axis where the values differ by more than a factor of four."""
    if values and min(values) > 0 and max(values) / min(values) > 4:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def _line_across(axis: Axes, name: str, height: float) -> None:
    color = color_of(name)
    axis.axhline(height, color=color, linewidth=1, linestyle="--", zorder=1)
    axis.annotate(
        name,
        (1, height),
        xycoords=("axes fraction", "data"),
        xytext=(3, 0),
        textcoords="offset points",
        verticalalignment="center",
        color=color,
        fontsize=8.5,
        parse_math=False,
    )


def finish(figure: Figure, handles: Sequence[Line2D], note: str, columns: int = 5) -> None:
    """Lay out, with the legend, in so many columns at most, and a line of text below the panels."""
    height = figure.get_figheight()
    bottom = 0.1 / height
    if note:
        lines = _wrapped(note, round(figure.get_figwidth() * 14.5))
        bottom += 0.16 * len(lines) / height
        figure.text(
            0.01,
            0.08 / height,
            "\n".join(lines),
            fontsize=7.5,
            color=QUIET,
            verticalalignment="bottom",
            parse_math=False,
        )
    if handles:
        legend = figure.legend(
            handles=list(handles),
            loc="lower center",
            bbox_to_anchor=(0.5, bottom),
            ncols=min(len(handles), columns),
            frameon=False,
            fontsize=9,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
        bottom += (0.1 + 0.2 * math.ceil(len(handles) / columns)) / height
    figure.tight_layout(rect=(0, bottom, 1, 1), w_pad=2.5)


def color_of(method: str) -> str:
    """The method's own colour, else one that its name always gives."""
    return COLORS.get(method, OTHER_COLORS[sum(method.encode()) % len(OTHER_COLORS)])


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
