"""Charts: lines with bands, accuracy against cost, bars and effects of an ablation. Plain values in, matplotlib out.

No pyplot, no display, no global state; the same values give the same file.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import Bbox, BboxBase

from dinoscope.methods import DISPLAY
from dinoscope.pictures import FONT, INK, QUIET
from dinoscope.tables import Line, LineChart, LinePanel

# Okabe and Ito's palette: told apart with any colour vision, and in print.
COLORS = {
    "Raw pixels": "#9a9a9a",
    "Random": "#6e6e6e",
    **{display.title: display.color for display in DISPLAY.values() if display.color},
}
OTHER_COLORS = ("#0072b2", "#b8a600", "#7a5195", "#8c564b")
LINE_COLORS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#0072b2")
"""The palette without black, which is the baseline's, and yellow, which is too light for a line."""
BASELINE, BAR, MARKED = "#000000", "#0072b2", "#d55e00"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLES = ("-", "--", ":", "-.")

STYLE: Any = {
    "font.family": FONT,
    "font.size": 9.5,
    "svg.hashsalt": "dinoscope",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3
}
COLUMN, PAGE = 3.5, 7.2
"""Widths of a column and of a page of a paper, in inches."""
MAX_POINTS = 240
"""Points of a line; longer ones become means of neighbours, which is also what makes them legible."""

_GRID = "#e4e4e4"
_PANELS = 3  # in a row
_SMALL = 7.5  # points of the text in charts for a paper
_LETTERS, _HEADING_LETTERS = 26, 44  # on one line: of a name, of a title
_FREE_ROWS, _FREE_LETTERS = 13, 30  # of a legend in the place of a panel


# --- lines ------------------------------------------------------------------------------------------------------------


def line_chart(
    chart: LineChart, size: tuple[float, float] = (4.6, 4.0), *, small: bool = False, legend: bool = True
) -> Figure:
    """Draw lines and their bands, one panel next to the other, with one legend in the order of the lines.

    size: of a panel, in inches. small: with the smaller letters of a chart for a paper.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _new_figure(len(chart.panels), *size)
        looks = _looks_of(chart)
        marks = 12 if size[1] < 2.6 else 30  # more of them would hide the strokes that tell lines apart
        for axis, panel in zip(axes, chart.panels, strict=True):
            _line_panel(axis, panel, looks, marks, small=small)
        if chart.same_scale:
            limits = [axis.get_ylim() for axis in axes]
            for axis in axes:
                axis.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
        handles = [
            Line2D([], [], color=color, linestyle=style, linewidth=1.8 if baseline else 1.5, label=label)
            for (label, baseline), (color, style) in looks.items()
        ]
        if legend:
            _name_lines(figure, axes, handles, chart.note)
        else:
            figure.tight_layout(pad=0.5)
    return figure


def looks(runs: Sequence[tuple[str, str]]) -> list[Line]:
    """Return an empty line with label, colour and style for each run, given as (label, method as the field writes it).

    Each method has a colour, and its runs have styles. If a method has more runs than there are styles, colours tell
    all runs apart instead, as far as they go.
    """
    methods = [method for _, method in runs]
    by_method = max(map(methods.count, methods), default=0) <= len(STYLES)
    palette = [color_of("DINO"), color_of("MoCo v2"), color_of("BYOL"), color_of("SwAV"), *OTHER_COLORS]
    found: list[Line] = []
    for place, (label, method) in enumerate(runs):
        number = methods[:place].count(method) if by_method else place // len(palette)
        color = color_of(method) if by_method else palette[place % len(palette)]
        found.append(Line(label, (), (), color=color, style=STYLES[number % len(STYLES)]))
    return found


@dataclass(frozen=True)
class Curve:
    """Accuracy in % of one run after so many epochs. label: in the legend, once for all seeds."""

    method: str
    architecture: str
    label: str
    epochs: tuple[float, ...]
    values: tuple[float, ...]


def curves(every: Sequence[Curve], title: str, note: str = "") -> Figure:
    """Draw accuracy over the epochs, one panel per architecture; runs with one label share their look."""
    runs = list(dict.fromkeys((curve.label, curve.method) for curve in every))
    look = {line.label: line for line in looks(runs)}
    panels = [
        LinePanel(
            architecture,
            tuple(
                replace(look[curve.label], x=curve.epochs, y=curve.values)
                for curve in every
                if curve.architecture == architecture
            ),
            "epoch",
            title,
        )
        for architecture in dict.fromkeys(curve.architecture for curve in every)
    ]
    return line_chart(LineChart("curves", title, tuple(panels), note), (5.2, 4.2))


_Key = tuple[str, bool]  # label of a line, and whether it is the baseline: a variant may be called like that


def _looks_of(chart: LineChart) -> dict[_Key, tuple[str, Any]]:
    """Colour and style of each label, in the order of the lines: its own, else from the palette."""
    lines: dict[_Key, Line] = {}
    for line in (line for panel in chart.panels for line in panel.lines):
        lines.setdefault((line.label, line.baseline), line)
    free = [key for key, line in lines.items() if not (line.color or line.baseline)]
    if chart.ordered:
        # cividis is the same to all colour vision; its light end hardly shows on white
        shades = np.linspace(0.1, 0.82, max(len(free), 1))
        palette = [(to_hex(matplotlib.colormaps["cividis"](shade)), STYLES[at % 2]) for at, shade in enumerate(shades)]
    else:
        palette = [(color, style) for style in STYLES for color in LINE_COLORS]
    own = {key: palette[at % len(palette)] for at, key in enumerate(free)}
    return {
        key: (BASELINE, "-") if line.baseline else (line.color, line.style or "-") if line.color else own[key]
        for key, line in lines.items()
    }


def _line_panel(axis: Axes, panel: LinePanel, looks: dict[_Key, tuple[str, Any]], marks: int, *, small: bool) -> None:
    _dress(axis, panel.title, panel.x_title, panel.y_title, small=small)
    for line in sorted(panel.lines, key=lambda line: line.baseline):  # the baseline is drawn over the others
        color, style = looks[line.label, line.baseline]
        x, y = _thinned(line.x), _thinned(line.y)
        axis.plot(
            x,
            y,
            color=color,
            linestyle=style,
            linewidth=1.3 if small else 1.5,
            marker="o" if len(x) <= marks else "",
            markersize=2.2 if small else 3.2,
            alpha=1 if small else 0.9,
        )
        if line.low:
            axis.fill_between(x, _thinned(line.low), _thinned(line.high), color=color, alpha=0.15, linewidth=0)
    if panel.at is not None:
        axis.axvline(panel.at, color=QUIET, linewidth=1, linestyle="--", zorder=1)
    axis.margins(y=0.12)
    for name, height in panel.levels:
        _level(axis, name, height, small=small)
    low, high = (
        given if given is not None else drawn for given, drawn in zip(panel.limits, axis.get_ylim(), strict=True)
    )
    if panel.levels and panel.limits[1] is None:
        high += 0.1 * (high - low)  # room for the name of a level at the top
    axis.set_ylim(low, high)
    whole = all(float(value).is_integer() for line in panel.lines for value in line.x[-1:])
    axis.xaxis.set_major_locator(MaxNLocator(4 if small else 6, integer=whole))
    axis.yaxis.set_major_locator(MaxNLocator(5))


def _level(axis: Axes, name: str, height: float, *, small: bool) -> None:
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
        fontsize=7 if small else 8,
        parse_math=False,
    )


def _thinned(values: Sequence[float]) -> list[float]:
    """Means of so many neighbours that at most `MAX_POINTS` are left."""
    block = math.ceil(len(values) / MAX_POINTS)
    if block <= 1:
        return list(values)
    starts = np.arange(0, len(values), block)
    sums = np.add.reduceat(np.asarray(values, dtype=np.float64), starts)
    return list(sums / np.diff(starts, append=len(values)))


def _name_lines(figure: Figure, axes: Sequence[Axes], handles: Sequence[Line2D], note: str) -> None:
    """Lay out, with the legend in the place that the panels leave free, or below them if it does not fit there."""
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    beside = len(axes) % _PANELS == 2 and len(axes) > _PANELS
    if beside and len(handles) <= _FREE_ROWS and longest <= _FREE_LETTERS:
        _finish(figure, [], note)
        left, top = axes[2].get_position().x0 - 0.01, axes[-1].get_position().y1
        place = {"loc": "upper left", "bbox_to_anchor": (left, top), "fontsize": _SMALL, "labelspacing": 0.35}
        _plain(figure.legend(handles=list(handles), frameon=False, **place).get_texts())
        return
    columns = max(1, min(int(figure.get_figwidth() / (0.066 * longest + 0.55)), 5))  # inches of a letter, of a line
    figure.set_figheight(figure.get_figheight() + 0.2 * max(math.ceil(len(handles) / columns) - 1, 0))
    _finish(figure, handles, note, columns)


# --- accuracy against cost --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """A row of a comparison.

    method: chooses the colour. label: is written next to the point.
    deviation: half the length of the bar. ends: of the bar, if there is no deviation. Without both there is no bar.
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
        """How far the bar reaches down and up, as matplotlib has it."""
        if self.deviation is not None:
            return [[self.deviation], [self.deviation]]
        return None if self.ends is None else [[self.y - self.ends[0]], [self.ends[1] - self.y]]


@dataclass(frozen=True)
class Panel:
    """Points under one title; y is in %. level: name and height of a horizontal line, for what has no x."""

    title: str
    points: tuple[Point, ...]
    level: tuple[str, float] | None = None


def scatter(panels: Sequence[Panel], x_title: str, note: str = "", size: tuple[float, float] = (5.4, 5.2)) -> Figure:
    """Draw accuracy against x, one panel for each kind of accuracy.

    A method has a colour, an architecture a marker, a point a label and a bar for its interval. size: of a panel, in
    inches.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _new_figure(len(panels), *size)
        architectures = list(dict.fromkeys(point.architecture for panel in panels for point in panel.points))
        for axis, panel in zip(axes, panels, strict=True):
            _dress(axis, panel.title, x_title, "top-1 (%)")
            _scale([point.x for panel in panels for point in panel.points], axis)
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
                _level_beside(axis, *panel.level)
            axis.margins(x=0.25, y=0.12)
            low, high = axis.get_ylim()
            axis.set_ylim(max(low, -4), min(high, 106))  # a bar may leave the range of percentages, the axis not
        handles = [
            Line2D([], [], color=QUIET, marker=MARKERS[number % len(MARKERS)], linestyle="none", label=name)
            for number, name in enumerate(architectures)
        ]
        _finish(figure, handles, note)
        for axis, panel in zip(axes, panels, strict=True):
            _label_points(figure, axis, panel.points)
    return figure


def _scale(values: Sequence[float], axis: Axes) -> None:
    """Make the axis logarithmic if the values differ by more than a factor of four."""
    if values and min(values) > 0 and max(values) / min(values) > 4:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def _level_beside(axis: Axes, name: str, height: float) -> None:
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


_RADIUS, _GAP = 8, 7  # of a point, and between it and its label, in pixels


def _label_points(figure: Figure, axis: Axes, points: Sequence[Point]) -> None:
    """Write each point's label next to it, where it covers neither a point nor another label; call it last of all.

    Points higher up choose first. A label that had to move further away is joined to its point by a thin line.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    places = [axis.transData.transform((point.x, point.y)) for point in points]
    taken: list[BboxBase] = [Bbox.from_extents(x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS) for x, y in places]
    frame, dots_per_point = axis.get_window_extent(), figure.dpi / 72
    for point, (x, y) in sorted(zip(points, places, strict=True), key=lambda pair: -pair[1][1]):
        color = color_of(point.method)
        look: Any = {"color": color, "fontsize": 9, "parse_math": False, "zorder": 4}
        text = axis.annotate(point.label, (x, y), xycoords="figure pixels", annotation_clip=False, **look)
        width, height = text.get_window_extent(canvas.get_renderer()).size
        text.remove()
        left, low = _free_corner((x, y), (width, height), taken, frame)
        taken.append(Bbox.from_bounds(left, low, width, height))
        far = abs(low + height / 2 - y) > height
        axis.annotate(
            point.label,
            (point.x, point.y),
            xytext=((left - x) / dots_per_point, (low - y) / dots_per_point),
            textcoords="offset points",
            arrowprops=_leader(color, (left - x) / width) if far else None,
            **look,
        )


def _leader(color: str, side: float) -> dict[str, Any]:
    """A thin line from the point to the near end of its label. side: where the label begins, in its own widths."""
    end = (0.0 if side > 0 else 1.0 if side < -1 else 0.5, 0.5)
    look = {"arrowstyle": "-", "color": color, "linewidth": 0.7, "alpha": 0.7}
    return {**look, "relpos": end, "shrinkA": 1, "shrinkB": 3}


def _free_corner(
    point: tuple[float, float], size: tuple[float, float], taken: Sequence[BboxBase], frame: BboxBase
) -> tuple[float, float]:
    """Lower left corner of the label, in pixels: the nearest place around the point that is free and in the frame."""
    (x, y), (width, height) = point, size
    candidates = [
        (left, y - height / 2 + rise)
        for step in range(24)
        for rise in dict.fromkeys((step * height / 2, -step * height / 2))
        for left in (x + _RADIUS + _GAP, x - width - _RADIUS - _GAP, x - width / 2)
    ]
    for left, low in candidates:
        box = Bbox.from_bounds(left, low, width, height)
        inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        if inside and not any(box.overlaps(other) for other in taken):
            return left, low
    return candidates[0]


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
    every: Sequence[Bar], baseline: Bar | None, title: str, x_title: str, note: str = "", *, place: int = 0
) -> Figure:
    """Draw horizontal bars from 0 with whiskers of one deviation and a dot for each seed; a line marks the baseline.

    place: how many bars stand above the baseline's.
    """
    with matplotlib.rc_context(STYLE):
        rows = [*every[:place], *([baseline] if baseline else []), *every[place:]]
        figure, axis = _rows([bar.label for bar in rows], title, x_title)
        ends = [bar.value + (bar.deviation or 0) for bar in rows if bar.value is not None]
        ends += [value for bar in rows for value in bar.values]
        limit = max([*ends, 0]) or 1
        axis.set_xlim(min([*ends, 0]), limit * 1.6)  # the figures stand at the right
        for row, bar in enumerate(rows):
            color = BASELINE if bar is baseline else MARKED if bar.mark else BAR
            _bar(axis, row, bar, limit * 1.06, color)
        if baseline is not None and baseline.value is not None:
            axis.axvline(baseline.value, color=BASELINE, linewidth=0.9, linestyle="--", zorder=1)
        _finish(figure, [], note)
    return figure


def effects(every: Sequence[Effect], title: str, x_title: str, note: str = "") -> Figure:
    """Draw differences from the baseline with their intervals, in the order given; hollow if 0 is not excluded."""
    with matplotlib.rc_context(STYLE):
        figure, axis = _rows([effect.label for effect in every], title, x_title, pitch=0.36)
        ends = [end for one in every for end in (one.value, one.low, one.high, 0) if end is not None]
        room = 0.2 * (max(ends, default=1) - min(ends, default=0) or 1)
        axis.set_xlim(min(ends, default=0) - room, max(ends, default=1) + room)
        axis.axvline(0, color=BASELINE, linewidth=0.9, linestyle="--", zorder=1)
        axis.set_ylim(len(every) - 0.5, -0.9)
        for place, effect in enumerate(every):
            _effect(axis, place, effect)
        _finish(figure, [], note)
    return figure


def _rows(labels: Sequence[str], title: str, x_title: str, pitch: float = 0.28) -> tuple[Figure, Axes]:
    """A figure as wide as a column, with one row for each label, the first at the top."""
    texts = ["\n".join(textwrap.wrap(label, _LETTERS, max_lines=2, placeholder=" …")) for label in labels]
    heading = "\n".join(textwrap.wrap(title, _HEADING_LETTERS, max_lines=3, placeholder=" …"))
    figure, (axis,) = _new_figure(1, COLUMN, pitch * len(texts) + 0.16 * heading.count("\n") + 0.95)
    _dress(axis, "", x_title, "")
    figure.suptitle(heading, x=0.01, horizontalalignment="left", fontsize=9.5, color=INK, parse_math=False)
    axis.set_yticks(range(len(texts)), texts, fontsize=_SMALL, color=INK, parse_math=False)
    axis.set_ylim(len(texts) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")
    return figure, axis


def _bar(axis: Axes, place: int, bar: Bar, right: float, color: str) -> None:
    """One row: the bar, its whisker, the seeds, the figures."""
    look: Any = {"fontsize": _SMALL, "verticalalignment": "center", "parse_math": False}
    text = bar.mark if bar.value is None else f"{bar.value:.1f}"
    if bar.value is not None:
        axis.barh(place, bar.value, 0.62, color=color, alpha=0.55, zorder=2)
        dots: Any = {"markersize": 3, "markeredgecolor": "white", "markeredgewidth": 0.4}
        axis.plot(bar.values, [place + 0.18] * len(bar.values), "o", color=color, zorder=4, **dots)
        if bar.deviation is not None:
            axis.errorbar(bar.value, place, xerr=bar.deviation, color=INK, capsize=2.5, linewidth=1, zorder=3)
            text += f" ± {bar.deviation:.1f}"
    axis.text(right, place, text, color=INK, **look)
    if bar.mark and bar.value is not None:
        end = max(bar.value + (bar.deviation or 0), *bar.values, 0)
        inside = end > 0.48 * right  # behind a long bar it would run into the figures
        left = right * 0.03 + (0 if inside else end)
        axis.text(left, place, bar.mark, color=INK if inside else MARKED, **look)


def _effect(axis: Axes, place: int, effect: Effect) -> None:
    """A dot with its interval; hollow if that holds 0 or is missing."""
    sure = effect.low is not None and effect.high is not None and (effect.low > 0 or effect.high < 0)
    color = MARKED if effect.mark else BAR
    if effect.low is not None and effect.high is not None:
        axis.plot([effect.low, effect.high], [place, place], color=color, linewidth=1.6, zorder=3)
    axis.plot(effect.value, place, "o", color=color, markerfacecolor=color if sure else "white", markersize=6, zorder=4)
    figure = f"{effect.value:+.1f}".replace("-", "\u2212")
    figure = "0.0" if figure.strip("+\u2212") == "0.0" else figure
    low, high = axis.get_xlim()
    share = (effect.value - low) / (high - low)  # a text at an edge grows inwards
    axis.annotate(
        figure + (f" {effect.mark}" if effect.mark else ""),
        (effect.value, place),
        xytext=(-4 if share < 0.3 else 4 if share > 0.7 else 0, 5.5),
        textcoords="offset points",
        horizontalalignment="left" if share < 0.3 else "right" if share > 0.7 else "center",
        fontsize=7,
        color=color,
        parse_math=False,
        zorder=5,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},  # the line at 0 does not strike it out
    )


# --- what all charts share --------------------------------------------------------------------------------------------


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG file of 150 dots an inch."""
    return _file(figure, "png")


def svg(figure: Figure) -> bytes:
    """Return the figure as an SVG file; the same figure gives the same file."""
    return _file(figure, "svg")


def pdf(figure: Figure) -> bytes:
    """Return the figure as a PDF file with its fonts inside; the same figure gives the same file."""
    return _file(figure, "pdf")


def color_of(method: str) -> str:
    """Return the method's own colour, else one that its name always gives."""
    return COLORS.get(method, OTHER_COLORS[sum(method.encode()) % len(OTHER_COLORS)])


def _file(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format=kind, dpi=150, metadata=undated)
    return buffer.getvalue()


def _new_figure(panels: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A white figure with so many panels of that size in inches, three in a row."""
    columns = min(max(panels, 1), _PANELS)
    rows = max(1, math.ceil(panels / columns))
    figure = Figure((width * columns, height * rows + 0.5), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for unused in axes[panels:]:
        unused.remove()
    return figure, axes[:panels]


def _dress(axis: Axes, title: str, x_title: str, y_title: str, *, small: bool = False) -> None:
    """Give a panel its titles and the look of all."""
    axis.set_title(title, loc="left", fontsize=8.5 if small else 11, color=INK, parse_math=False)
    axis.set_xlabel(x_title, color=INK, fontsize=8 if small else None, parse_math=False)
    axis.set_ylabel(y_title, color=INK, fontsize=8 if small else None, parse_math=False)
    axis.grid(color=_GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(which="both", colors=QUIET, length=0, labelsize=_SMALL if small else None)
    for side in ("top", "right", "left", "bottom"):
        axis.spines[side].set_visible(side == "bottom")
        axis.spines[side].set_color(QUIET)


def _finish(figure: Figure, handles: Sequence[Line2D], note: str, columns: int = 5) -> None:
    """Lay out, with the legend, in so many columns at most, and a line of text below the panels."""
    height = figure.get_figheight()
    bottom = 0.1 / height
    if note:
        lines = textwrap.wrap(note, round(figure.get_figwidth() * 14.5), break_long_words=False)
        look: Any = {"fontsize": 7.5, "color": QUIET, "verticalalignment": "bottom", "parse_math": False}
        figure.text(0.01, 0.08 / height, "\n".join(lines), **look)
        bottom += 0.16 * len(lines) / height
    if handles:
        place: Any = {"loc": "lower center", "bbox_to_anchor": (0.5, bottom), "ncols": min(len(handles), columns)}
        _plain(figure.legend(handles=list(handles), frameon=False, fontsize=9, **place).get_texts())
        bottom += (0.1 + 0.2 * math.ceil(len(handles) / columns)) / height
    figure.tight_layout(rect=(0, bottom, 1, 1), w_pad=2.5)


def _plain(texts: Iterable[Any]) -> None:
    """Take $ in names as they stand, not as mathematics."""
    for text in texts:
        text.set_parse_math(False)
