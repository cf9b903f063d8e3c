"""Figures of an ablation study, to the width of a paper: bars, curves with bands, largest effects. Plain values in."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dinoscope.pictures import INK, QUIET
from dinoscope.report.comparison_figure import STYLE, STYLES, dress, finish, new_figure

BASE, BAR, MARKED = "#000000", "#0072b2", "#d55e00"
LINES = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#0072b2")
"""Okabe and Ito's palette without black, which is the base's, and yellow, which is too light for a line."""

COLUMN, PAGE = 3.5, 7.2
"""Widths of a column and of a page of a paper, in inches."""

_SMALL = 7.5
_LETTERS, _HEADING_LETTERS = 26, 44  # on one line: of a name, of a title
_FREE_ROWS, _FREE_LETTERS = 13, 30  # of a legend in the place of a panel


@dataclass(frozen=True)
class Bar:
    """A mean with its sample deviation (None for one value) and the values. mark: a word behind it, "collapsed"."""

    label: str
    value: float | None
    deviation: float | None = None
    values: tuple[float, ...] = ()
    mark: str = ""


@dataclass(frozen=True)
class Line:
    """Values over steps with the ends of a band; `counts` is how many runs each mean is of: the line breaks where that
    changes. base: drawn in black, over the others.
    """

    label: str
    steps: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    counts: tuple[int, ...]
    base: bool = False


@dataclass(frozen=True)
class LinePanel:
    """Lines below one title. level: name and height of a line across."""

    title: str
    lines: tuple[Line, ...]
    level: tuple[str, float] | None = None


@dataclass(frozen=True)
class Effect:
    """A signed difference with the ends of its interval (None: none). mark: a word behind it."""

    label: str
    value: float
    low: float | None
    high: float | None
    mark: str = ""


def bars(every: Sequence[Bar], base: Bar | None, title: str, x_title: str, note: str = "", *, place: int = 0) -> Figure:
    """Horizontal bars from 0 with whiskers of one deviation and a dot for each seed; the base is a line across them.

    place: how many bars stand above the base's.
    """
    with matplotlib.rc_context(STYLE):
        rows = [*every[:place], *([base] if base else []), *every[place:]]
        figure, axis = _rows([bar.label for bar in rows], title, x_title)
        ends = [bar.value + (bar.deviation or 0) for bar in rows if bar.value is not None]
        ends += [value for bar in rows for value in bar.values]
        limit = max([*ends, 0]) or 1
        axis.set_xlim(min([*ends, 0]), limit * 1.6)  # the figures stand at the right
        for row, bar in enumerate(rows):
            color = BASE if bar is base else MARKED if bar.mark else BAR
            _bar(axis, row, bar, limit * 1.06, color)
        if base is not None and base.value is not None:
            axis.axvline(base.value, color=BASE, linewidth=0.9, linestyle="--", zorder=1)
        finish(figure, [], note)
    return figure


def bands(panels: Sequence[LinePanel], *, ordered: bool, note: str = "") -> Figure:
    """Means over steps with their bands, one panel beside the other, one legend for all, in the order of the lines.

    ordered: the lines other than the base's have an order, and so have their colours.
    """
    with matplotlib.rc_context(STYLE):
        width = COLUMN if len(panels) == 1 else PAGE / min(max(len(panels), 1), 3)
        figure, axes = new_figure(len(panels), width, height=2.2)
        every = dict.fromkeys((line.label, line.base) for panel in panels for line in panel.lines)
        labels = [label for label, is_base in every if not is_base]
        looks = dict(zip(labels, _looks(len(labels), ordered=ordered), strict=True))
        for axis, panel in zip(axes, panels, strict=True):
            _line_panel(axis, panel, looks)
        handles = [
            Line2D([], [], color=BASE, linewidth=1.8, label=label)
            if is_base
            else Line2D([], [], color=looks[label][0], linestyle=looks[label][1], linewidth=1.5, label=label)
            for label, is_base in every
        ]
        _name_lines(figure, axes, handles, note)
    return figure


def effects(every: Sequence[Effect], title: str, x_title: str, note: str = "") -> Figure:
    """Differences from the base with their intervals, in the order given; hollow where 0 is not excluded."""
    with matplotlib.rc_context(STYLE):
        figure, axis = _rows([effect.label for effect in every], title, x_title, pitch=0.36)
        ends = [end for one in every for end in (one.value, one.low, one.high, 0) if end is not None]
        room = 0.2 * (max(ends, default=1) - min(ends, default=0) or 1)
        axis.set_xlim(min(ends, default=0) - room, max(ends, default=1) + room)
        axis.axvline(0, color=BASE, linewidth=0.9, linestyle="--", zorder=1)
        axis.set_ylim(len(every) - 0.5, -0.9)
        for place, effect in enumerate(every):
            _effect(axis, place, effect)
        finish(figure, [], note)
    return figure


def _name_lines(figure: Figure, axes: Sequence[Axes], handles: Sequence[Line2D], note: str) -> None:
    """Lay out, with the legend in the place that the panels leave free, or below them if it does not fit there."""
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    if len(axes) % 3 == 2 and len(axes) > 3 and len(handles) <= _FREE_ROWS and longest <= _FREE_LETTERS:
        finish(figure, [], note)
        beside, above = axes[-1].get_position(), axes[2].get_position()
        legend = figure.legend(
            handles=list(handles),
            loc="upper left",
            bbox_to_anchor=(above.x0 - 0.01, beside.y1),
            frameon=False,
            fontsize=_SMALL,
            labelspacing=0.35,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
        return
    columns = max(1, min(int(figure.get_figwidth() / (0.066 * longest + 0.55)), 5))  # inches of a letter, of a line
    figure.set_figheight(figure.get_figheight() + 0.2 * (math.ceil(len(handles) / columns) - 1))
    finish(figure, handles, note, columns)


def _rows(labels: Sequence[str], title: str, x_title: str, pitch: float = 0.28) -> tuple[Figure, Axes]:
    """A figure as wide as a column, with one row for each label, the first at the top."""
    texts = ["\n".join(textwrap.wrap(label, _LETTERS, max_lines=2, placeholder=" …")) for label in labels]
    heading = "\n".join(textwrap.wrap(title, _HEADING_LETTERS, max_lines=3, placeholder=" …"))
    figure, (axis,) = new_figure(1, COLUMN, pitch * len(texts) + 0.16 * heading.count("\n") + 0.95)
    dress(axis, "", x_title, "")
    figure.suptitle(heading, x=0.01, horizontalalignment="left", fontsize=9.5, color=INK, parse_math=False)
    axis.set_yticks(range(len(texts)), texts, fontsize=_SMALL, color=INK, parse_math=False)
    axis.set_ylim(len(texts) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")
    return figure, axis


def _bar(axis: Axes, place: int, bar: Bar, right: float, color: str) -> None:
    """One row: the bar, its whisker, the seeds, the figures."""
    text = f"{bar.mark}" if bar.value is None else f"{bar.value:.1f}"
    if bar.value is not None:
        axis.barh(place, bar.value, 0.62, color=color, alpha=0.55, zorder=2)
        axis.plot(
            bar.values,
            [place + 0.18] * len(bar.values),
            "o",
            color=color,
            markersize=3,
            markeredgecolor="white",
            markeredgewidth=0.4,
            zorder=4,
        )
        if bar.deviation is not None:
            axis.errorbar(bar.value, place, xerr=bar.deviation, color=INK, capsize=2.5, linewidth=1, zorder=3)
            text += f" ± {bar.deviation:.1f}"
    axis.text(right, place, text, fontsize=_SMALL, color=INK, verticalalignment="center", parse_math=False)
    if bar.mark and bar.value is not None:
        end = max(bar.value + (bar.deviation or 0), *bar.values, 0)
        inside = end > 0.48 * right  # behind a long bar it would run into the figures
        axis.text(
            right * 0.03 + (0 if inside else end),
            place,
            bar.mark,
            fontsize=_SMALL,
            color=INK if inside else MARKED,
            verticalalignment="center",
            parse_math=False,
        )


def _line_panel(axis: Axes, panel: LinePanel, looks: Mapping[str, tuple[str, Any]]) -> None:
    """The base is drawn last, over the others."""
    dress(axis, "", "step", "")
    axis.set_title(panel.title, loc="left", fontsize=8.5, color=INK, parse_math=False)
    axis.tick_params(labelsize=_SMALL)
    axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.xaxis.label.set_fontsize(8)
    for line in sorted(panel.lines, key=lambda line: line.base):
        color, style = (BASE, "-") if line.base else looks[line.label]
        for begin, end in _stretches(line.counts):
            steps, mean = line.steps[begin:end], line.mean[begin:end]
            few = end - begin < 25
            axis.plot(
                steps, mean, color=color, linestyle=style, linewidth=1.3, marker="o" if few else "", markersize=2.2
            )
            if line.counts[begin] > 1:
                axis.fill_between(
                    steps, line.low[begin:end], line.high[begin:end], color=color, alpha=0.15, linewidth=0
                )
    if panel.level is not None:
        name, height = panel.level
        axis.axhline(height, color=QUIET, linewidth=0.9, linestyle=":", zorder=1)
        axis.set_ylim(min(0, axis.get_ylim()[0]), max(1.14 * height, axis.get_ylim()[1]))
        axis.annotate(
            name,
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(0, 1.5),
            textcoords="offset points",
            horizontalalignment="right",
            fontsize=7,
            color=QUIET,
            parse_math=False,
        )


def _stretches(counts: Sequence[int]) -> list[tuple[int, int]]:
    """Begin and end of the stretches in which the count stays the same."""
    begins = [at for at in range(len(counts)) if at == 0 or counts[at] != counts[at - 1]]
    return list(zip(begins, [*begins[1:], len(counts)], strict=True))


def _looks(count: int, *, ordered: bool) -> list[tuple[str, Any]]:
    """Colour and style of each line: from dark to light where they have an order, else all told apart."""
    if ordered:
        # cividis is the same to all colour vision; its light end hardly shows on white
        shades = np.linspace(0.1, 0.82, max(count, 1))
        return [
            (to_hex(matplotlib.colormaps["cividis"](shade)), STYLES[at % 2]) for at, shade in enumerate(shades[:count])
        ]
    return [(LINES[at % len(LINES)], STYLES[at // len(LINES) % len(STYLES)]) for at in range(count)]


def _effect(axis: Axes, place: int, effect: Effect) -> None:
    """A dot with its interval; hollow where that holds 0 or is missing."""
    sure = effect.low is not None and effect.high is not None and (effect.low > 0 or effect.high < 0)
    color = MARKED if effect.mark else LINES[5]
    if effect.low is not None and effect.high is not None:
        axis.plot([effect.low, effect.high], [place, place], color=color, linewidth=1.6, zorder=3)
    axis.plot(effect.value, place, "o", color=color, markerfacecolor=color if sure else "white", markersize=6, zorder=4)
    figure = f"{effect.value:+.1f}".replace("-", "\u2212")
    figure = "0.0" if figure.strip("+\u2212") == "0.0" else figure
    text = figure + (f" {effect.mark}" if effect.mark else "")
    low, high = axis.get_xlim()
    share = (effect.value - low) / (high - low)  # a text at an edge grows inwards
    axis.annotate(
        text,
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
