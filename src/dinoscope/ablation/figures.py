"""The figures of a study: from its groups to the plain values that `report.charts` draws."""

from __future__ import annotations

import math
from collections.abc import Mapping

from matplotlib.figure import Figure

from dinoscope.ablation.collapse import collapses
from dinoscope.ablation.curves import CURVES, ENTROPIES, Band, band
from dinoscope.ablation.effects import KNN, importances
from dinoscope.ablation.grouping import Axis, Group, Study
from dinoscope.ablation.statistics import CONFIDENCE
from dinoscope.evaluation.statistics import over_seeds
from dinoscope.report.charts import COLUMN, PAGE, Bar, Effect, bars, effects, line_chart
from dinoscope.tables import Line, LineChart, LinePanel

KNN_TITLE = "k-NN top-1 (%)"


def axis_bars(axis: Axis, base: Group) -> Figure | None:
    """k-NN top-1 of an axis's variants beside the base; None where none was measured."""
    every = [_bar(group) for group in axis.groups]
    if all(bar.value is None for bar in every):
        return None
    own = _bar(base, axis.name_of(base, base))
    seeds = max(len(bar.values) for bar in every)
    note = (
        "Bars: mean, one standard deviation; dots: seeds. Dashed: the base."
        if seeds > 1
        else "One seed. Dashed: the base."
    )
    shown = None if own.value is None else own
    return bars(every, shown, axis.title, KNN_TITLE, note, place=axis.base_place)


def _bar(group: Group, label: str = "") -> Bar:
    found = over_seeds(list(group.values(KNN).values()))
    mark = "failed" if group.runs and not group.lasting else "collapsed" if collapses(group) else ""
    if found is None:
        return Bar(label or group.label, None, mark=mark or "not measured")
    return Bar(label or group.label, found.mean, found.deviation, found.values, mark)


def axis_curves(axis: Axis, base: Group) -> Figure | None:
    """What was logged of an axis's variants and the base; None where nothing was."""
    groups = axis.rows(base)
    panels = [_panel(name, axis, base) for name in CURVES]
    panels = [panel for panel in panels if any(not line.baseline for line in panel.lines)]
    if not panels:
        return None
    several = any(len(group.lasting) > 1 for group in groups)
    note = f"{axis.title}. " + ("Mean over seeds; band: one standard deviation." if several else "One seed.")
    ordered = axis.ordered and len(axis.groups) > 2
    chart = LineChart("curves", axis.title, tuple(panels), note, ordered)
    width = COLUMN if len(panels) == 1 else PAGE / min(len(panels), 3)
    return line_chart(chart, (width, 2.2), small=True)


def _panel(name: str, axis: Axis, base: Group) -> LinePanel:
    title, unit = CURVES[name]
    lines = [
        line
        for group in axis.rows(base)
        if (found := band(group.curves(name))) is not None
        for line in stretches(axis.name_of(group, base), found, baseline=group is base)
    ]
    outputs = {group.outputs for group in (base, *axis.groups)}
    shared = outputs.pop() if len(outputs) == 1 else None
    levels = (("ln K", math.log(shared)),) if name in ENTROPIES and shared else ()
    limits = (0, None) if levels else (None, None)
    return LinePanel(f"{title} ({unit})" if unit else title, tuple(lines), "step", levels=levels, limits=limits)


def stretches(label: str, curve: Band, *, baseline: bool) -> list[Line]:
    """Return the curve as lines that break where the mean is of other runs, with a band where it is of several."""
    counts = curve.runs
    begins = [at for at in range(len(counts)) if at == 0 or counts[at] != counts[at - 1]]
    lines: list[Line] = []
    for begin, end in zip(begins, [*begins[1:], len(counts)], strict=True):
        several = counts[begin] > 1
        low, high = (curve.low[begin:end], curve.high[begin:end]) if several else ((), ())
        lines.append(Line(label, curve.steps[begin:end], curve.mean[begin:end], low, high, baseline=baseline))
    return lines


def ranking(study: Study) -> Figure | None:
    """The largest effect of each axis; None where there is none."""
    every = [
        Effect(
            f"{one.axis.name}: {one.largest.group.label}",
            one.largest.difference.mean,
            one.largest.difference.low,
            one.largest.difference.high,
            "collapsed" if one.largest.collapsed else "",
        )
        for one in importances(study)
        if one.largest is not None
    ]
    if not every:
        return None
    note = f"Largest effect of each axis, {100 * CONFIDENCE:g} % interval over seeds. Hollow: 0 is not excluded."
    return effects(every, "Largest effects on k-NN top-1", "difference (points)", note)


def every_figure(study: Study, names: Mapping[str, str]) -> dict[str, Figure | None]:
    """Name of a file, without its ending -> figure, in the order of a reader. names: axis -> its part of the name."""
    found: dict[str, Figure | None] = {"ranking": ranking(study)}
    for axis in study.axes:
        found[f"bars-{names[axis.name]}"] = axis_bars(axis, study.base)
        found[f"curves-{names[axis.name]}"] = axis_curves(axis, study.base)
    return found
