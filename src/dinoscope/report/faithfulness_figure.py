"""Curves of deletion and insertion, one panel per model, with the random control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy import ndarray

from dinoscope.measurement.explain import ExplainResult, ModelResult
from dinoscope.measurement.explain_scores import mean_fall
from dinoscope.pictures import QUIET
from dinoscope.report.charts import line_chart
from dinoscope.tables import Line, LineChart, LinePanel

_SHARES = np.linspace(0, 1, 51)
_DELETION, _INSERTION = "#d55e00", "#0072b2"  # Okabe and Ito


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
    """Draw one panel per model; None where no model has curves."""
    scale = result.gallery is None
    every = [curves for row in result.rows if (curves := mean_curves(row, scale=scale)) is not None]
    return draw_curves(every, "similarity, scaled" if scale else "share of the vote") if every else None


def draw_curves(every: Sequence[MeanCurves], y_title: str) -> Figure:
    """Deletion falls and insertion rises; dashed in grey the same in random orders, seen from either side."""
    x = tuple(_SHARES.tolist())
    panels = tuple(
        LinePanel(
            curves.title,
            (
                Line("deletion (share replaced)", x, tuple(curves.deletion), color=_DELETION),
                Line("insertion (share revealed)", x, tuple(curves.insertion), color=_INSERTION),
                Line("random order", x, tuple(curves.random), color=QUIET, style="--"),
                Line("random order", x, tuple(curves.random[::-1]), color=QUIET, style="--"),
            ),
            "share of the patches",
            y_title,
        )
        for curves in every
    )
    return line_chart(LineChart("faithfulness", "Deletion and insertion", panels), (4.4, 3.6))
