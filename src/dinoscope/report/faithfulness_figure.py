"""Curves of deletion and insertion, one panel per model, with the random control."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy import ndarray

from dinoscope.measurement.explain import ExplainResult, ModelResult
from dinoscope.measurement.explain_scores import mean_fall
from dinoscope.pictures import FONT, INK, QUIET

_STYLE: Any = {"font.family": FONT, "font.size": 9.5}
_SHARES = np.linspace(0, 1, 51)
_DELETION, _INSERTION = "#d55e00", "#0072b2"  # Okabe and Ito
_COLUMNS = 3


@dataclass(frozen=True)
class MeanCurves:
    """Mean over images at even shares from 0 to 1; random: deletion in random orders."""

    title: str
    deletion: Float[ndarray, " s"]
    insertion: Float[ndarray, " s"]
    random: Float[ndarray, " s"]


def mean_curves(row: ModelResult, *, scale: bool) -> MeanCurves | None:
    """Over all images; None where there are no curves, or their fall is too small to scale by."""
    found = [score.curves for score in row.scores if score.curves is not None]
    if scale:
        fall = mean_fall(row.scores)
        found = [scaled for curves in found if (scaled := curves.scaled(fall)) is not None]
    if not found:
        return None
    deletion, insertion, random = (
        np.mean([np.interp(_SHARES, curves.share.numpy(), values.numpy()) for curves, values in pairs], axis=0)
        for pairs in (
            [(curves, curves.deletion) for curves in found],
            [(curves, curves.insertion) for curves in found],
            [(curves, curves.random.mean(dim=0)) for curves in found],
        )
    )
    return MeanCurves(f"{row.label}: {row.map}", deletion, insertion, random)


def faithfulness_figure(result: ExplainResult) -> Figure | None:
    """One panel per model; None where no model has curves."""
    scale = result.gallery is None
    every = [curves for row in result.rows if (curves := mean_curves(row, scale=scale)) is not None]
    return draw_curves(every, "similarity, scaled" if scale else "share of the vote") if every else None


def draw_curves(every: Sequence[MeanCurves], y_title: str) -> Figure:
    """Deletion falls and insertion rises; dashed in grey the same in random orders, seen from either side."""
    columns, rows = min(len(every), _COLUMNS), math.ceil(len(every) / _COLUMNS)
    with matplotlib.rc_context(_STYLE):
        figure = Figure((4.4 * columns, 3.6 * rows + 0.5), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
        for unused in axes[len(every) :]:
            unused.remove()
        for axis, curves in zip(axes, every, strict=False):
            _panel(axis, curves, y_title)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False)
        figure.tight_layout(rect=(0, 0.5 / figure.get_figheight(), 1, 1))
    return figure


def _panel(axis: Axes, curves: MeanCurves, y_title: str) -> None:
    axis.plot(_SHARES, curves.deletion, color=_DELETION, label="deletion (share replaced)")
    axis.plot(_SHARES, curves.insertion, color=_INSERTION, label="insertion (share revealed)")
    axis.plot(_SHARES, curves.random, color=QUIET, linestyle="--", linewidth=1, label="random order")
    axis.plot(_SHARES, curves.random[::-1], color=QUIET, linestyle="--", linewidth=1)
    axis.set_title(curves.title, loc="left", fontsize=10, color=INK, parse_math=False)
    axis.set_xlim(0, 1)
    low, high = axis.get_ylim()
    axis.set_ylim(min(low, -0.04), max(high, 1.04))
    axis.set_xlabel("share of the patches", color=INK)
    axis.set_ylabel(y_title, color=INK)
    axis.set_axisbelow(True)
    axis.grid(color="#e4e4e4", linewidth=0.8)
    axis.tick_params(colors=QUIET, length=0)
    for side in ("top", "right", "left", "bottom"):
        axis.spines[side].set_visible(side == "bottom")
