"""Figures of a study: every value where it is, nothing over anything else, all names to be read."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from dinoscope.report.ablation import every_figure, mean_lines
from dinoscope.report.charts import BASELINE, COLUMN, PAGE, Bar, Effect, bars, effects, line_chart, pdf, svg
from dinoscope.study.effects import arrange
from dinoscope.tables import Line, LineChart, LinePanel
from tests.study.studies import realistic, study

SMALL = (2.4, 2.2)
LONG = "no weight normalisation of the last layer"


def boxes(figure: Figure, texts: list[Text]):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return [text.get_window_extent(canvas.get_renderer()) for text in texts if text.get_text()]


def nothing_overlaps(figure: Figure, texts: list[Text]) -> bool:
    found = boxes(figure, texts)
    return not any(one.shrunk(0.95, 0.9).overlaps(other) for one, other in itertools.combinations(found, 2))


def inside(figure: Figure, texts: list[Text]) -> bool:
    page = figure.bbox
    return all(
        page.x0 - 1 <= box.x0 and box.x1 <= page.x1 + 1 and box.y0 >= page.y0 - 1 for box in boxes(figure, texts)
    )


@pytest.mark.parametrize("count", [1, 12])
def test_bars_with_their_names_and_figures(count: int) -> None:
    every = [Bar(f"{LONG} {number}", 30.0 + number, 0.5, (29.5 + number, 30.5 + number)) for number in range(count)]
    figure = bars(
        [*every, Bar("gone", None, mark="failed")], Bar("DINO (base)", 34.0, 0.8, (34.0,)), "Components", "k-NN"
    )
    (axis,) = figure.axes
    assert [patch.get_width() for patch in axis.patches] == [34.0, *(30.0 + number for number in range(count))]
    texts = [*axis.get_yticklabels(), *axis.texts, *axis.get_xticklabels(), axis.xaxis.label]
    assert inside(figure, [*axis.get_yticklabels(), *axis.texts, axis.xaxis.label])
    assert nothing_overlaps(figure, [*axis.get_yticklabels(), *axis.texts, axis.xaxis.label, figure._suptitle])
    assert {"34.0 ± 0.8", "failed"} <= {text.get_text() for text in texts}
    assert any(set(line.get_xdata()) == {34.0} and line.get_linestyle() == "--" for line in axis.lines)


@pytest.mark.parametrize("value", [1.0, 15.0, 16.5, 18.0, 22.0, 29.0])
def test_a_mark_does_not_run_into_the_figures(value: float) -> None:
    every = [Bar(LONG, value, 1.0, (value - 1, value + 1), "collapsed"), Bar("good", 29.0, 1.0, (28.0, 30.0))]
    figure = bars(every, Bar("base", 25.0), "Title", "k-NN")
    (axis,) = figure.axes
    assert "collapsed" in [text.get_text() for text in axis.texts]
    assert nothing_overlaps(figure, axis.texts)


def test_a_line_breaks_where_its_mean_is_of_other_runs() -> None:
    curves = [((0, 1.0), (1, 2.0), (2, 9.0), (3, 8.0)), ((0, 2.0), (1, 3.0))]
    base = [((0, 1.0), (3, 1.0))]
    lines = (*mean_lines("b", base, baseline=True), *mean_lines("a", curves, baseline=False))
    panel = LinePanel("entropy", lines, levels=(("ln K", 5.5),), limits=(0, None))
    figure = line_chart(LineChart("c", "", (panel,)), SMALL, small=True)
    (axis,) = figure.axes
    drawn = [line.get_xdata() for line in axis.lines[:3]]
    assert [list(x) for x in drawn] == [[0, 1], [2, 3], [0, 3]]  # the baseline last, over the others
    assert axis.lines[2].get_color() == BASELINE
    assert len(axis.collections) == 1  # a band only of more than one run
    assert axis.get_ylim()[0] <= 0 < 5.5 < axis.get_ylim()[1]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["b", "a"]


@pytest.mark.parametrize("panels", [1, 3, 5])
@pytest.mark.parametrize("name", ["{}", LONG + " {}"])
def test_twelve_lines_are_told_apart_and_named(panels: int, name: str) -> None:
    lines = tuple(Line(name.format(n), (0, 1), (n, n)) for n in range(12))
    size = (COLUMN if panels == 1 else PAGE / 3, 2.2)
    figure = line_chart(LineChart("c", "", (LinePanel("loss", lines),) * panels, "a note"), size, small=True)
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [line.label for line in lines]
    looks = {(line.get_color(), line.get_linestyle()) for line in legend.get_lines()}
    assert len(looks) == 12
    frame = boxes(figure, legend.get_texts())
    axes = [axis.get_window_extent() for axis in figure.axes]
    assert inside(figure, legend.get_texts())
    assert not any(box.overlaps(axis) for box in frame for axis in axes)


def test_an_order_is_seen_in_the_colours() -> None:
    lines = tuple(Line(str(n), (0, 1), (n, n)) for n in range(5))
    chart = LineChart("c", "", (LinePanel("loss", lines),), ordered=True)
    drawn = line_chart(chart, SMALL, small=True).axes[0].lines
    light = [sum(int(line.get_color()[at : at + 2], 16) for at in (1, 3, 5)) for line in drawn]
    assert light == sorted(light)
    assert len(set(light)) == 5


def test_effects_are_hollow_where_nothing_is_proven() -> None:
    every = [Effect("a", -20.0, -21.0, -19.0, "collapsed"), Effect("b", 2.0, -1.0, 5.0), Effect("c", -1.0, None, None)]
    figure = effects(every, "Largest effects", "points")
    (axis,) = figure.axes
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert [float(np.ravel(dot.get_xdata())[0]) for dot in dots] == [-20.0, 2.0, -1.0]
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [False, True, True]
    assert [text.get_text() for text in axis.texts] == ["−20.0 collapsed", "+2.0", "−1.0"]
    assert inside(figure, [*axis.texts, *axis.get_yticklabels()])
    assert nothing_overlaps(figure, [*axis.texts, *axis.get_yticklabels()])


def test_a_study_has_a_figure_of_bars_and_of_curves_for_each_axis() -> None:
    arranged = arrange(realistic())
    found = every_figure(arranged, {axis.name: axis.name for axis in arranged.axes})
    assert len(found) == 1 + 2 * 3
    titles = [axis.get_title(loc="left") for axis in found["curves-collapse"].axes]
    assert titles[:3] == ["online k-NN top-1 (%)", "teacher entropy (nats)", "marginal entropy (nats)"]
    nothing = arrange(study([None], {("x", "y"): [None]}))
    assert every_figure(nothing, {"x": "x"}) == {}


def test_the_same_figure_gives_the_same_files() -> None:
    make = lambda: effects([Effect("$a_", 1.0, 0.5, 1.5)], "$t", "$x", "$n")
    assert svg(make()) == svg(make())
    assert pdf(make()) == pdf(make())
    assert pdf(make()).startswith(b"%PDF")


def test_no_effect_has_no_sign() -> None:
    (axis,) = effects([Effect("a", 0.0, -1.0, 1.0), Effect("b", -0.04, None, None)], "Effects", "points").axes
    assert [text.get_text() for text in axis.texts] == ["0.0", "0.0"]
