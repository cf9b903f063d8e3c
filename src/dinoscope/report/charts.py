"""Charts: lines with bands, accuracy against cost, bars and effects of an ablation. Plain values in, matplotlib out.

No pyplot, no display, no global state; the same values give the same file.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator, StrMethodFormatter
from matplotlib.transforms import Bbox, BboxBase

from dinoscope.methods import DISPLAY
from dinoscope.pictures import FONT, INK, QUIET
from dinoscope.tables import Line, LineChart, LinePanel
from dinoscope.text import ABSENT

# Okabe and Ito's palette: told apart with any colour vision, and in print.
COLORS = {
    "Raw pixels": "#9a9a9a",
    "Whitened patches": "#8a6d3b",
    "Random": "#6e6e6e",
    "EsViT": "#0072b2",
    "MoBY": "#7a5195",
    "MoCo v3": "#8c564b",
    **{display.title: display.color for display in DISPLAY.values() if display.color},
}
OTHER_COLORS = ("#0072b2", "#b8a600", "#7a5195", "#8c564b")
LINE_COLORS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#0072b2")
"""The palette without black, which is the baseline's, and yellow, which is too light for a line."""
BASELINE, BAR, MARKED = "#000000", "#0072b2", "#d55e00"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLES = ("-", "--", ":", "-.")
_SHADES = (0.0, -0.4, 0.35, -0.7)
"""Shifts of a method's colour for its first, second, ... run: towards black if negative, towards white if positive."""

STYLE: Any = {
    "font.family": FONT,
    "font.size": 9.5,
    "text.parse_math": False,  # a $ in a name is a dollar
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    **{f"axes.spines.{side}": False for side in ("left", "top", "right")},
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "lines.linewidth": 1.5,
    "lines.markersize": 3.2,
    **{f"{axis}.{ticks}.size": 0 for axis in ("xtick", "ytick") for ticks in ("major", "minor")},
    **{f"{axis}.color": QUIET for axis in ("xtick", "ytick")},
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.dpi": 150,
    "svg.hashsalt": "dinoscope",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3
}
SMALL_STYLE: Any = STYLE | {
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "lines.linewidth": 1.3,
    "lines.markersize": 2.2,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
}
"""Style of charts for a paper."""
COLUMN, PAGE = 3.5, 7.2
"""Widths of a column and of a page of a paper, in inches."""
MAX_POINTS = 240
"""Points of a line; longer ones become means of neighbours, which is also what makes them legible."""

_PANELS = 3  # in a row
_LABEL_LETTERS, _TITLE_LETTERS = 26, 44  # on one line
_FREE_ROWS, _FREE_LETTERS = 13, 30  # of a legend in the place of a panel
_MARKED_POINTS = 7  # on a line with a marker of its own


# --- lines ------------------------------------------------------------------------------------------------------------


def line_chart(
    chart: LineChart, size: tuple[float, float] = (4.6, 4.0), *, small: bool = False, legend: bool = True
) -> Figure:
    """Draw lines and their bands, one panel next to the other, with one legend in the order of the lines.

    size: of a panel, in inches. small: with the smaller letters of a chart for a paper.
    """
    with matplotlib.rc_context(SMALL_STYLE if small else STYLE):
        figure, axes = _new_figure(len(chart.panels), *size)
        looks = _line_looks(chart)
        for axis, panel in zip(axes, chart.panels, strict=True):
            # more markers would hide the strokes that tell lines apart
            _draw_panel(axis, panel, looks, max_markers=12 if size[1] < 2.6 else 30)
            is_whole = all(float(value).is_integer() for line in panel.lines for value in line.x[-1:])
            if panel.log_x:
                axis.set_xscale("log")
                axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                axis.xaxis.set_minor_locator(NullLocator())
            else:
                axis.xaxis.set_major_locator(MaxNLocator(4 if small else 6, integer=is_whole))
            axis.yaxis.set_major_locator(MaxNLocator(5))
        handles = [
            Line2D([], [], color=color, linestyle=style, marker=marker, linewidth=1.8 if baseline else 1.5, label=label)
            for (label, baseline), (color, style, marker) in looks.items()
        ]
        if legend:
            _finish_lines(figure, axes, handles, chart.note)
        else:
            figure.tight_layout(pad=0.5)
    return figure


def looks(runs: Sequence[tuple[str, str]]) -> list[Line]:
    """Return an empty line with label, colour and style for each run, given as (label, method as the field writes it).

    Each method has a colour; several runs of it have their own shade, style and marker. If a method has more runs than
    there are styles, colours tell all runs apart instead, as far as they go.
    """
    methods = [method for _, method in runs]
    by_method = max(map(methods.count, methods), default=0) <= len(STYLES)
    palette = [*map(color_of, ("DINO", "MoCo v2", "BYOL", "SwAV")), *OTHER_COLORS]
    lines: list[Line] = []
    for place, (label, method) in enumerate(runs):
        number = methods[:place].count(method) if by_method else place // len(palette)
        color = _shade(color_of(method), number) if by_method else palette[place % len(palette)]
        is_alone = methods.count(method) == 1 if by_method else len(runs) <= len(palette)
        at = number % len(STYLES)
        lines.append(Line(label, (), (), color=color, style=STYLES[at], marker="" if is_alone else MARKERS[at]))
    return lines


def _shade(color: str, number: int) -> str:
    """Return the colour of a method's run with this number, from 0."""
    share = _SHADES[number % len(_SHADES)]
    red, green, blue = ((1 - abs(share)) * part + max(share, 0) for part in to_rgb(color))
    return to_hex((red, green, blue))


@dataclass(frozen=True)
class Curve:
    """Accuracy in % of one run after so many epochs. label: in the legend, once for all seeds."""

    method: str
    architecture: str
    label: str
    epochs: tuple[float, ...]
    values: tuple[float, ...]


def curves(lines: Sequence[Curve], title: str, note: str = "") -> Figure:
    """Draw accuracy over the epochs, one panel per architecture; runs with one label share their look."""
    look = {line.label: line for line in looks(list(dict.fromkeys((curve.label, curve.method) for curve in lines)))}
    panels: dict[str, list[Line]] = {}
    for curve in lines:
        line = replace(look[curve.label], x=curve.epochs, y=curve.values)
        panels.setdefault(curve.architecture, []).append(line)
    drawn = tuple(LinePanel(name, tuple(lines), "epoch", title) for name, lines in panels.items())
    return line_chart(LineChart("curves", title, drawn, note), (5.2, 4.2))


_Looks = dict[tuple[str, bool], tuple[str, Any, str]]
"""Label of a line, and whether it is the baseline (a variant may have the same label) -> colour, style and marker."""


def _line_looks(chart: LineChart) -> _Looks:
    lines: dict[tuple[str, bool], Line] = {}
    for line in (line for panel in chart.panels for line in panel.lines):
        lines.setdefault((line.label, line.baseline), line)
    free = [key for key, line in lines.items() if not (line.color or line.baseline)]
    if chart.ordered:
        # cividis is the same to all colour vision; its light end hardly shows on white
        shades = matplotlib.colormaps["cividis"](np.linspace(0.1, 0.82, max(len(free), 1)))
        palette = [(to_hex(shade), STYLES[at % 2], "") for at, shade in enumerate(shades)]
    else:
        palette = [(color, style, "") for style in STYLES for color in LINE_COLORS]
    own = {key: palette[at % len(palette)] for at, key in enumerate(free)}
    return {
        key: (BASELINE, "-", "")
        if line.baseline
        else (line.color, line.style or "-", line.marker)
        if line.color
        else own[key]
        for key, line in lines.items()
    }


def _draw_panel(axis: Axes, panel: LinePanel, looks: _Looks, max_markers: int) -> None:
    axis.set(xlabel=panel.x_title, ylabel=panel.y_title)
    title = axis.set_title(panel.title)
    if (share := axis.bbox.width / max(title.get_window_extent().width, 1)) < 1:
        title.set_text("\n".join(textwrap.wrap(panel.title, int(share * len(panel.title)), break_long_words=False)))
    labels = list(looks)
    for line in sorted(panel.lines, key=lambda line: line.baseline):  # the baseline is drawn over the others
        color, style, marker = looks[key := (line.label, line.baseline)]
        x, y, low, high = map(_thinned, (line.x, line.y, line.low, line.high))
        if marker:
            step = math.ceil(len(x) / _MARKED_POINTS)
            # markers of different lines begin at different points, so that lines close together show them all
            marks: Any = {"marker": marker, "markersize": 4.5, "markevery": (labels.index(key) % step, step)}
        else:
            marks = {"marker": "o" if len(x) <= max_markers else ""}
        axis.plot(x, y, color=color, linestyle=style, **marks)
        if low:
            axis.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    if panel.at is not None:
        axis.axvline(panel.at, color=QUIET, linewidth=1, linestyle="--", zorder=1)
    axis.margins(y=0.12)
    for name, height in panel.levels:
        above: Any = {"xytext": (-2, 2), "horizontalalignment": "right", "verticalalignment": "bottom"}
        _draw_level(axis, name, height, QUIET, fontsize="small", **above)
    pairs = zip(panel.limits, axis.get_ylim(), strict=True)
    low, high = (drawn if given is None else given for given, drawn in pairs)
    if panel.levels and panel.limits[1] is None:
        high += 0.1 * (high - low)  # room for the name of a level at the top
    axis.set_ylim(low, high)


def _draw_level(axis: Axes, name: str, height: float, color: str, **look: Any) -> None:
    axis.axhline(height, color=color, linewidth=1, linestyle="--", zorder=1)
    place: Any = {"xy": (1, height), "xycoords": axis.get_yaxis_transform(), "textcoords": "offset points"}
    axis.annotate(name, **place, color=color, **look)


def _thinned(values: Sequence[float]) -> list[float]:
    """Means of so many neighbours that at most `MAX_POINTS` are left."""
    block = math.ceil(len(values) / MAX_POINTS)
    if block <= 1:
        return list(values)
    return [float(np.mean(values[at : at + block])) for at in range(0, len(values), block)]


def _finish_lines(figure: Figure, axes: Sequence[Axes], handles: Sequence[Line2D], note: str) -> None:
    """Lay out, with the legend in the place that the panels leave free, or below them if it does not fit there."""
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    is_free = len(axes) % _PANELS == 2 and len(axes) > _PANELS
    if is_free and len(handles) <= _FREE_ROWS and longest <= _FREE_LETTERS:
        _finish(figure, [], note)
        corner = axes[2].get_position().x0 - 0.01, axes[-1].get_position().y1
        place: Any = {"loc": "upper left", "bbox_to_anchor": corner, "fontsize": 7.5, "labelspacing": 0.35}
        figure.legend(handles=list(handles), **place)
        return
    _finish(figure, handles, note)


# --- accuracy against cost --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """A row of a comparison.

    method: chooses the colour. label: is written next to the point.
    deviation: half the length of the bar. ends: of the bar, if there is no deviation. Without both there is no bar.
    diameter: of the marker, in points; None for that of all others.
    """

    method: str
    architecture: str
    label: str
    x: float
    y: float
    deviation: float | None = None
    ends: tuple[float, float] | None = None
    diameter: float | None = None


@dataclass(frozen=True)
class Panel:
    """Points under one title; y is in %. level: name and height of a horizontal line, for what has no x."""

    title: str
    points: tuple[Point, ...]
    level: tuple[str, float] | None = None


_DIAMETER = 7.5
_DOT: Any = {
    "markeredgecolor": "white",
    "markeredgewidth": 0.8,
    "alpha": 0.9,
    "capsize": 3,
    "ls": "none",
}


def scatter(
    panels: Sequence[Panel],
    x_title: str,
    note: str = "",
    size: tuple[float, float] = (5.4, 5.2),
    diameters: Sequence[tuple[str, float]] = (),
    *,
    by_run: bool = True,
) -> Figure:
    """Draw accuracy against x, one panel for each kind of accuracy.

    Points look as `_point_looks` says, with a label and a bar for their interval. x is logarithmic if the values differ
    by more than a factor of four. size: of a panel, in inches. diameters: further entries of the legend, if markers
    differ in size: name and diameter in points. by_run: as of `_point_looks`.
    """
    points = [point for panel in panels for point in panel.points]
    looks, handles = _point_looks(points, by_run=by_run)
    smallest, largest = (limit((point.x for point in points), default=0) for limit in (min, max))
    with matplotlib.rc_context(STYLE):
        figure, axes = _new_figure(len(panels), *size)
        for axis, panel in zip(axes, panels, strict=True):
            axis.set(title=panel.title, xlabel=x_title, ylabel="top-1 (%)")
            if 0 < 4 * smallest < largest:
                axis.set_xscale("log")
                axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.xaxis.set_major_formatter("{x:g}")
                axis.xaxis.set_minor_formatter(NullFormatter())
            for point in panel.points:
                ends = None if point.ends is None else [[point.y - point.ends[0]], [point.ends[1] - point.y]]
                look: Any = looks[_identity(point)] | {"zorder": 3}
                look["markersize"] = _DIAMETER if point.diameter is None else point.diameter
                axis.errorbar(point.x, point.y, ends if point.deviation is None else point.deviation, **look, **_DOT)
            if panel.level:
                outside: Any = {"xytext": (3, 0), "verticalalignment": "center", "fontsize": 8.5}
                _draw_level(axis, *panel.level, color_of(panel.level[0]), **outside)
            axis.margins(x=0.25, y=0.12)
            low, high = axis.get_ylim()
            axis.set_ylim(max(low, -4), min(high, 106))  # a bar may leave the range of percentages, the axis not
        handles += [
            Line2D([], [], color=QUIET, marker="o", markersize=diameter, linestyle="none", label=name, alpha=0.6)
            for name, diameter in diameters
        ]
        _finish(figure, handles, note)
        for axis, panel in zip(axes, panels, strict=True):
            _label_points(figure, axis, panel.points, looks)
    return figure


_Identity = tuple[str, str, str]
"""Method, architecture and label of a point: the same in all panels."""


def _identity(point: Point) -> _Identity:
    return point.method, point.architecture, point.label


def _point_looks(
    points: Sequence[Point], *, by_run: bool = True
) -> tuple[dict[_Identity, dict[str, Any]], list[Line2D]]:
    """Return the colour and the marker of each point, and the entries of the legend.

    A method has a colour, and an architecture a marker, which the legend names. If a method has several points of one
    architecture, each has a shade and a marker of its own, and the legend names them all; not without `by_run`.
    """
    every = list(dict.fromkeys(map(_identity, points)))
    numbers = [by_run * [each[:2] for each in every[:place]].count(one[:2]) for place, one in enumerate(every)]
    kinds = list(dict.fromkeys((one[1], number) for one, number in zip(every, numbers, strict=True)))
    looks = {
        one: {
            "color": _shade(color_of(one[0]), number),
            "marker": MARKERS[kinds.index((one[1], number)) % len(MARKERS)],
        }
        for one, number in zip(every, numbers, strict=True)
    }
    if any(numbers):
        named: dict[str, dict[str, Any]] = {
            name: looks[one] for one, name in zip(every, _unique_names(every), strict=True)
        }
    else:
        titles = ("no network" if architecture == ABSENT else architecture for _, architecture, _ in every)
        named = {
            title: {"color": QUIET, "marker": looks[one]["marker"]} for title, one in zip(titles, every, strict=True)
        }
    entry: Any = {"markersize": 6, "linestyle": "none"}
    return looks, [Line2D([], [], **(look | entry), label=name) for name, look in named.items()]


def _unique_names(points: Sequence[_Identity]) -> list[str]:
    """Return the labels, with the architecture if that tells two points of one label apart, else with a number."""
    labels = [label for *_, label in points]
    names = [
        f"{label}, {architecture}" if architecture and labels.count(label) > 1 else label
        for _, architecture, label in points
    ]
    return [
        name if (number := names[: place + 1].count(name)) == 1 else f"{name} ({number})"
        for place, name in enumerate(names)
    ]


ALIKE = 1.1
"""Largest x over smallest up to which points are drawn as rows: an axis of values so close would be invented."""


def are_alike(panels: Sequence[Panel]) -> bool:
    """Return whether x tells the points apart by no more than a factor of `ALIKE`, or by how it was measured alone.

    Points of one architecture have one size and one speed: that the latter differ is the noise of the machine.
    """
    points = [point for panel in panels for point in panel.points]
    values, architectures = [point.x for point in points], {point.architecture for point in points}
    is_same_network = len(architectures) == 1 and "" not in architectures
    return bool(values) and (is_same_network or max(values) <= ALIKE * min(values))


def accuracy(panels: Sequence[Panel], x_title: str, note: str = "", size: tuple[float, float] = (5.4, 5.2)) -> Figure:
    """Draw `dots` if all points have about the same x, else `scatter`. size: of a panel of the latter, in inches."""
    return dots(panels, note, size[0]) if are_alike(panels) else scatter(panels, x_title, note, size)


def dots(panels: Sequence[Panel], note: str = "", width: float = 5.4) -> Figure:
    """Draw accuracy along x, a row for each point, best on top; the level of a panel is a row without an interval.

    Points look as `_point_looks` says, and each row has a name of its own. width: of a panel, in inches.
    """
    looks, handles = _point_looks([point for panel in panels for point in panel.points])
    every: list[list[Point]] = []
    for panel in panels:
        level = [Point(panel.level[0], "", panel.level[0], 0.0, panel.level[1])] if panel.level else []
        every.append(sorted([*panel.points, *level], key=lambda point: -point.y))
    names = [_row_names(rows) for rows in every]
    with matplotlib.rc_context(STYLE):
        longest = max(map(len, every), default=0)
        lines = max((name.count("\n") + 1 for own in names for name in own), default=1)
        figure, axes = _new_figure(len(panels), width, max(0.42, 0.17 * lines + 0.06) * longest + 1.0)
        for axis, panel, rows, own_names in zip(axes, panels, every, names, strict=True):
            axis.set(title=panel.title, xlabel="top-1 (%)")
            axis.set_yticks(range(len(rows)), own_names, color=INK)
            axis.set_ylim(longest - 0.5, -0.7)
            axis.grid(visible=False, axis="y")
            for row, point in enumerate(rows):
                ends = None if point.ends is None else [[point.y - point.ends[0]], [point.ends[1] - point.y]]
                own_look = looks.get(_identity(point))
                look: Any = own_look or {"color": color_of(point.method), "marker": "|"}
                look = look | {"zorder": 3, "markersize": _DIAMETER, **_DOT}
                if own_look is None:  # the level: a stroke has no face, and a white edge would hide it
                    look |= {"markeredgecolor": look["color"], "markeredgewidth": 2}
                axis.errorbar(point.y, row, xerr=ends if point.deviation is None else point.deviation, **look)
                above: Any = {"xytext": (0, 6), "textcoords": "offset points", "horizontalalignment": "center"}
                axis.annotate(f"{point.y:.1f}", (point.y, row), **above, fontsize=7.5, color=INK)
            axis.margins(x=0.1)
            low, high = axis.get_xlim()
            axis.set_xlim(max(low, -4), min(high, 106))
            axis.xaxis.set_major_locator(MaxNLocator(6))
        _finish(figure, handles, note)
    return figure


def _row_names(rows: Sequence[Point]) -> list[str]:
    """Return a name for each row, cut to two lines if that leaves them different."""
    full = [name.replace(" = ", "\u00a0=\u00a0") for name in _unique_names([*map(_identity, rows)])]
    short = [*map(_wrapped, full)]
    return [_wrapped(name, lines=99) if short.count(cut) > 1 else cut for name, cut in zip(full, short, strict=True)]


_GAP = 7  # between a point and its label, in pixels


def _label_points(
    figure: Figure, axis: Axes, points: Sequence[Point], looks: Mapping[_Identity, Mapping[str, Any]]
) -> None:
    """Write each point's label next to it, where it covers neither a point nor another label; call it last of all.

    Points higher up choose first. A label that had to move further away is joined to its point by a thin line.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    places = [axis.transData.transform((point.x, point.y)) for point in points]
    radii = [(point.diameter or _DIAMETER) * figure.dpi / 144 for point in points]
    taken: list[BboxBase] = [
        Bbox.from_extents(x - radius, y - radius, x + radius, y + radius)
        for (x, y), radius in zip(places, radii, strict=True)
    ]
    for point, (x, y), radius in sorted(zip(points, places, radii, strict=True), key=lambda each: -each[1][1]):
        text = figure.text(0, 0, point.label, fontsize=9)
        width, height = text.get_window_extent(canvas.get_renderer()).size
        text.remove()
        box = _free_box(x, y, radius + _GAP, width, height, taken, axis.get_window_extent())
        taken.append(box)
        color = looks[_identity(point)]["color"]
        line = {"arrowstyle": "-", "color": color, "linewidth": 0.7, "alpha": 0.7, "shrinkA": 1, "shrinkB": 3}
        axis.annotate(
            point.label,
            (point.x, point.y),
            ((box.x0 - x) * 72 / figure.dpi, (box.y0 - y) * 72 / figure.dpi),
            textcoords="offset points",
            color=color,
            fontsize=9,
            zorder=4,
            arrowprops=line if abs(box.y0 + height / 2 - y) > max(height, radius) else None,  # pyright: ignore[reportArgumentType]
        )


def _free_box(
    x: float, y: float, gap: float, width: float, height: float, taken: Sequence[BboxBase], frame: BboxBase
) -> Bbox:
    """The nearest place around the point, in pixels, that is free and within the frame; else to its right."""
    boxes = [
        Bbox.from_bounds(left, y - height / 2 + rise, width, height)
        for step in range(24)
        for rise in (step * height / 2, -step * height / 2)
        for left in (x + gap, x - width - gap, x - width / 2)
    ]
    for box in boxes:
        is_inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        if is_inside and not any(box.overlaps(other) for other in taken):
            return box
    return boxes[0]


# --- ablations --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """A mean with its sample deviation (None for one value) and the values. mark: a word after it, "collapsed"."""

    label: str
    value: float | None
    deviation: float | None = None
    values: tuple[float, ...] = ()
    mark: str = ""


@dataclass(frozen=True)
class Effect:
    """A signed difference with the ends of its interval (None: none). mark: a word after it."""

    label: str
    value: float
    low: float | None
    high: float | None
    mark: str = ""


def bars(
    variants: Sequence[Bar], baseline: Bar | None, title: str, x_title: str, note: str = "", *, place: int = 0
) -> Figure:
    """Draw horizontal bars from 0 with whiskers of one deviation and a dot for each seed; a line marks the baseline.

    place: how many bars stand above the baseline's.
    """
    rows = [*variants[:place], *([baseline] if baseline else []), *variants[place:]]
    ends = [bar.value + (bar.deviation or 0) for bar in rows if bar.value is not None]
    ends += [value for bar in rows for value in bar.values]
    limit = max([*ends, 0]) or 1
    with matplotlib.rc_context(SMALL_STYLE):
        figure, axis = _rows([bar.label for bar in rows], title, x_title, 0.28)
        axis.set_xlim(min([*ends, 0]), limit * 1.6)  # the figures stand at the right
        axis.set_ylim(len(rows) - 0.4, -0.6)
        for row, bar in enumerate(rows):
            _draw_bar(axis, row, bar, limit * 1.06, BASELINE if bar is baseline else MARKED if bar.mark else BAR)
        if baseline is not None and baseline.value is not None:
            axis.axvline(baseline.value, color=BASELINE, linewidth=0.9, linestyle="--", zorder=1)
        _finish(figure, [], note)
    return figure


def _draw_bar(axis: Axes, row: int, bar: Bar, right: float, color: str) -> None:
    look: Any = {"fontsize": 7.5, "verticalalignment": "center"}
    if bar.value is None:
        axis.text(right, row, bar.mark, color=INK, **look)
        return
    axis.barh(row, bar.value, 0.62, color=color, alpha=0.55, zorder=2)
    dots: Any = {"markersize": 3, "markeredgecolor": "white", "markeredgewidth": 0.4}
    axis.plot(bar.values, [row + 0.18] * len(bar.values), "o", color=color, zorder=4, **dots)
    text = f"{bar.value:.1f}"
    if bar.deviation is not None:
        axis.errorbar(bar.value, row, xerr=bar.deviation, color=INK, capsize=2.5, linewidth=1, zorder=3)
        text += f" ± {bar.deviation:.1f}"
    axis.text(right, row, text, color=INK, **look)
    if bar.mark:
        end = max(bar.value + (bar.deviation or 0), *bar.values, 0)
        is_inside = end > 0.48 * right  # behind a long bar it would run into the figures
        left = right * 0.03 + (0 if is_inside else end)
        axis.text(left, row, bar.mark, color=INK if is_inside else MARKED, **look)


def effects(rows: Sequence[Effect], title: str, x_title: str, note: str = "") -> Figure:
    """Draw differences from the baseline with their intervals, in the order given; hollow if 0 is not excluded."""
    ends = [end for effect in rows for end in (effect.value, effect.low, effect.high, 0) if end is not None] or [0, 1]
    room = 0.2 * (max(ends) - min(ends) or 1)
    with matplotlib.rc_context(SMALL_STYLE):
        figure, axis = _rows([effect.label for effect in rows], title, x_title, 0.36)
        axis.set_xlim(min(ends) - room, max(ends) + room)
        axis.set_ylim(len(rows) - 0.5, -0.9)
        axis.axvline(0, color=BASELINE, linewidth=0.9, linestyle="--", zorder=1)
        for row, effect in enumerate(rows):
            color, fill = MARKED if effect.mark else BAR, "white"
            if effect.low is not None and effect.high is not None:
                axis.plot([effect.low, effect.high], [row, row], color=color, linewidth=1.6, zorder=3)
                fill = color if effect.low > 0 or effect.high < 0 else fill
            axis.plot(effect.value, row, "o", color=color, markerfacecolor=fill, markersize=6, zorder=4)
            figures = f"{effect.value:+z.1f}".replace("+0.0", "0.0").replace("-", "\u2212")
            share = axis.transLimits.transform((effect.value, 0))[0]  # a text at an edge grows inwards
            axis.annotate(
                f"{figures} {effect.mark}".rstrip(),
                (effect.value, row),
                xytext=(-4 if share < 0.3 else 4 if share > 0.7 else 0, 5.5),
                textcoords="offset points",
                horizontalalignment="left" if share < 0.3 else "right" if share > 0.7 else "center",
                fontsize=7,
                color=color,
                zorder=5,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},  # the line at 0 does not strike it out
            )
        _finish(figure, [], note)
    return figure


def _wrapped(text: str, letters: int = _LABEL_LETTERS, lines: int = 2) -> str:
    return "\n".join(textwrap.wrap(text, letters, max_lines=lines, placeholder=" …"))


def _rows(labels: Sequence[str], title: str, x_title: str, height: float) -> tuple[Figure, Axes]:
    title = _wrapped(title, _TITLE_LETTERS, lines=3)
    figure, (axis,) = _new_figure(1, COLUMN, height * len(labels) + 0.16 * title.count("\n") + 0.95)
    figure.suptitle(title, x=0.01, horizontalalignment="left", fontsize=9.5, color=INK)
    axis.set_yticks(range(len(labels)), [*map(_wrapped, labels)], color=INK)
    axis.set_xlabel(x_title)
    axis.grid(visible=False, axis="y")
    return figure, axis


# --- what all charts share --------------------------------------------------------------------------------------------


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG file of 150 dots an inch."""
    return _file(figure, "png")


def svg(figure: Figure) -> bytes:
    """Return the figure as an SVG file; the same figure gives the same file."""
    return _file(figure, "svg", Date=None)


def pdf(figure: Figure) -> bytes:
    """Return the figure as a PDF file with its fonts inside; the same figure gives the same file."""
    return _file(figure, "pdf", CreationDate=None)


FILES: dict[str, Callable[[Figure], bytes]] = {"png": png, "svg": svg, "pdf": pdf}
"""Ending -> writer of each kind of file that a command writes of a figure."""


def file_names(name: str) -> tuple[str, ...]:
    """Return the names of the files of a figure."""
    return tuple(f"{name}.{kind}" for kind in FILES)


def figure_files(name: str, figure: Figure | None) -> Iterator[tuple[str, bytes | None]]:
    """Give name and content of each file of a figure, as `files.write_all` takes them; None if there is no figure."""
    for kind, write in FILES.items():
        yield f"{name}.{kind}", None if figure is None else write(figure)


def _file(figure: Figure, kind: str, **metadata: None) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


def color_of(method: str) -> str:
    """Return the method's own colour, else one that its name always gives."""
    return COLORS.get(method, OTHER_COLORS[sum(method.encode()) % len(OTHER_COLORS)])


def _new_figure(panels: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A white figure with so many panels of that size in inches, three in a row."""
    columns = min(max(panels, 1), _PANELS)
    rows = max(1, math.ceil(panels / columns))
    figure = Figure((width * columns, height * rows + 0.5))
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(panels)]


def _finish(figure: Figure, handles: Sequence[Line2D], note: str) -> None:
    """Lay out, with the legend, in at most five columns, and a line of text below the panels."""
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    columns = max(1, min(int(figure.get_figwidth() / (0.066 * longest + 0.55)), 5))  # inches of a letter, of a line
    height = figure.get_figheight() + 0.2 * max(math.ceil(len(handles) / columns) - 1, 0)
    figure.set_figheight(height)
    bottom = 0.1 / height
    if note:
        lines = textwrap.wrap(note, round(figure.get_figwidth() * 14.5), break_long_words=False)
        look: Any = {"fontsize": 7.5, "color": QUIET, "verticalalignment": "bottom"}
        figure.text(0.01, 0.08 / height, "\n".join(lines), **look)
        bottom += 0.16 * len(lines) / height
    if handles:
        place: Any = {"loc": "lower center", "bbox_to_anchor": (0.5, bottom), "ncols": min(len(handles), columns)}
        figure.legend(handles=list(handles), **place)
        bottom += (0.1 + 0.2 * math.ceil(len(handles) / columns)) / height
    figure.tight_layout(rect=(0, bottom, 1, 1), w_pad=2.5)
