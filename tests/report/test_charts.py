"""The figures of a comparison: nothing lies on anything else, and every method is named."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import rgb_to_hsv, to_rgb
from matplotlib.text import Annotation, Text
from PIL import Image

from dinoscope.report.charts import (
    STYLES,
    Curve,
    Panel,
    Point,
    accuracy,
    curves,
    figure_files,
    file_names,
    looks,
    png,
    scatter,
    svg,
)


def points(count: int, spread: float = 6.0) -> tuple[Point, ...]:
    """One architecture: all at one speed, close together."""
    names = ("Random", "Supervised", "SimCLR", "MoCo v2", "BYOL", "SwAV", "DINO")[:count]
    return tuple(Point(name, "ViT-S/16", name, 1000.0, 60 + spread * n, 0.5) for n, name in enumerate(names))


def labels(figure) -> list[Annotation]:
    return [text for text in figure.axes[0].texts if isinstance(text, Annotation)]


@pytest.mark.parametrize("spread", [6.0, 1.0, 0.0])
def test_labels_cover_neither_each_other_nor_leave_the_frame(spread: float) -> None:
    figure = scatter([Panel("k-NN", points(7, spread))], "images/s")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # of the text alone: an annotation's own extent includes the line to its point
    boxes = [Text.get_window_extent(text, canvas.get_renderer()) for text in labels(figure)]
    frame = figure.axes[0].get_window_extent()
    assert {text.get_text() for text in labels(figure)} == {point.label for point in points(7)}
    assert all(frame.x0 - 1 <= box.x0 and box.x1 <= frame.x1 + 1 for box in boxes)
    assert len(boxes) == 7
    assert not any(one.shrunk(0.95, 0.95).overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_points_are_where_their_values_are() -> None:
    figure = scatter([Panel("k-NN", points(2)), Panel("Linear", points(3))], "images/s", "a note")
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["k-NN", "Linear"]
    drawn = [line.get_xydata().tolist() for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert drawn == [[[1000.0, 60.0]], [[1000.0, 66.0]]]
    assert figure.axes[0].get_xscale() == "linear"
    assert any(text.get_text() == "a note" for text in figure.texts)


def test_a_bar_may_leave_the_percentages_but_the_axis_does_not() -> None:
    figure = scatter(
        [Panel("k-NN", (Point("DINO", "RN50", "DINO", 1, 90, 40.0), Point("BYOL", "RN50", "b", 1, 5, 40)))], "x"
    )
    low, high = figure.axes[0].get_ylim()
    assert -5 < low < 0
    assert 100 < high < 107


def test_speeds_far_apart_are_on_a_logarithmic_axis() -> None:
    far = (Point("DINO", "RN50", "DINO", 10, 50), Point("DINO", "ViT-S/16", "DINO", 1000, 60))
    figure = scatter([Panel("k-NN", far)], "images/s")
    assert figure.axes[0].get_xscale() == "log"
    markers = {line.get_marker() for line in figure.axes[0].lines} - {"None", "_"}
    assert markers == {"o", "s"}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["RN50", "ViT-S/16"]


def test_a_model_without_a_network_is_called_so_in_the_legend() -> None:
    two = (Point("DINO", "RN50", "DINO", 10, 50), Point("patches", "–", "Whitened patches", 20, 40))
    figure = scatter([Panel("k-NN", two)], "images/s")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["RN50", "no network"]


def test_raw_pixels_are_a_line_across() -> None:
    figure = scatter([Panel("k-NN", points(1), ("Raw pixels", 30.0))], "images/s")
    assert any(set(line.get_ydata()) == {30.0} for line in figure.axes[0].lines)
    low, high = figure.axes[0].get_ylim()
    assert low < 30 < 60 < high  # the line and the point are both to be seen
    assert "Raw pixels" in {text.get_text() for text in figure.axes[0].texts}


def test_names_are_never_taken_for_formulas() -> None:
    figure = scatter([Panel("$x$", (Point("$\\bad$", "$a_", "$\\worse", 1, 2),))], "$y", "$z")
    assert Image.open(io.BytesIO(png(figure))).width > 100
    assert png(curves([Curve("$m", "$\\a", "$\\l", (1.0,), (2.0,))], "$t", "$n"))


def test_curves_have_a_panel_per_architecture_and_a_name_per_row() -> None:
    every = [
        Curve("DINO", "RN50", "DINO", (1, 2), (10, 20)),
        Curve("DINO", "RN50", "DINO", (1, 2), (11, 21)),
        Curve("BYOL", "RN50", "BYOL", (1, 2), (12, 22)),
        Curve("DINO", "ViT-S/16", "DINO a", (1, 2), (13, 23)),
        Curve("DINO", "ViT-S/16", "DINO b", (1, 2), (14, 24)),
    ]
    figure = curves(every, "online k-NN (%)")
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["RN50", "ViT-S/16"]
    first, second = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["DINO", "BYOL", "DINO a", "DINO b"]
    assert len(first.lines) == 3
    assert first.lines[0].get_color() == first.lines[1].get_color() != first.lines[2].get_color()
    hues = [rgb_to_hsv(to_rgb(line.get_color()))[0] for line in (first.lines[0], *second.lines)]
    assert hues == pytest.approx([hues[0]] * 3, abs=0.01)
    for look in ("get_color", "get_linestyle", "get_marker"):
        assert getattr(second.lines[0], look)() != getattr(second.lines[1], look)()
    assert np.array_equal(first.lines[1].get_ydata(), [11, 21])


def test_the_same_figure_gives_the_same_files() -> None:
    def make():
        return scatter([Panel("k-NN", points(3))], "images/s")

    assert svg(make()) == svg(make())
    assert b"<svg" in svg(make())
    assert b"MoCo" not in svg(make())
    assert b"SimCLR" in svg(make())  # text stays text
    assert png(make())[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_figure_is_written_as_png_svg_and_pdf_and_none_deletes_all_three() -> None:
    beginnings = {"speed.png": b"\x89PNG", "speed.svg": b"<?xml", "speed.pdf": b"%PDF"}
    written = dict(figure_files("speed", scatter([Panel("k-NN", points(2))], "images/s")))
    assert {name: (content or b"")[: len(beginnings[name])] for name, content in written.items()} == beginnings
    assert dict(figure_files("speed", None)) == dict.fromkeys(file_names("speed"))


def test_points_of_one_speed_are_rows_with_the_best_on_top() -> None:
    near = (
        Point("BYOL", "RN50", "BYOL", 100, 50, 2.0),
        Point("DINO", "RN50", "DINO", 110, 70, ends=(66.0, 73.0)),
        Point("SwAV", "RN50", "SwAV", 105, 60),
    )
    axis: Any = accuracy([Panel("k-NN", near, ("Raw pixels", 55.0))], "images/s").axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["DINO", "SwAV", "Raw pixels", "BYOL"]
    assert axis.get_ylim()[0] > axis.get_ylim()[1]  # row 0 is at the top
    places = {line.get_marker(): [] for line in axis.lines}
    for line in axis.lines:
        places[line.get_marker()] += line.get_xydata().tolist()
    assert places["o"] == [[70.0, 0.0], [60.0, 1.0], [50.0, 3.0]]
    bars = [segment[:, 0].tolist() for each in axis.collections for segment in each.get_segments()]
    assert bars == [[66.0, 73.0], [48.0, 52.0]]
    assert axis.get_xlabel() == "top-1 (%)"


def test_points_of_different_speeds_keep_the_axis_of_speed() -> None:
    far = (Point("BYOL", "RN50", "BYOL", 100, 50), Point("DINO", "ViT-S/16", "DINO", 112, 70))
    assert accuracy([Panel("k-NN", far)], "images/s").axes[0].get_xlabel() == "images/s"


def test_the_noise_of_the_speed_of_one_network_is_no_axis() -> None:
    same = (Point("BYOL", "RN50", "BYOL", 100, 50), Point("DINO", "RN50", "DINO", 170, 70))
    assert accuracy([Panel("k-NN", same)], "images/s").axes[0].get_xlabel() == "top-1 (%)"
    unknown = tuple(replace(point, architecture="") for point in same)
    assert accuracy([Panel("k-NN", unknown)], "images/s").axes[0].get_xlabel() == "images/s"


TWINS = tuple(Point("DINO", "ViT-S/16", f"DINO {'a long name of a run ' * 3}{end}", 100, 50) for end in ("one", "two"))


def shown(axis: Any) -> list[tuple[str, Any]]:
    """Marker and colour of each point."""
    return [(line.get_marker(), line.get_color()) for line in axis.lines if line.get_marker() not in ("None", "_", "|")]


def test_two_runs_of_one_method_have_names_markers_and_shades_of_their_own() -> None:
    other = Point("BYOL", "RN50", "BYOL", 105, 60)
    figure = accuracy([Panel("k-NN", (*TWINS, other)), Panel("Linear", TWINS[1:])], "images/s")
    first, second = figure.axes
    names = [text.get_text().replace("\n", " ") for text in first.get_yticklabels()]
    assert names == ["BYOL", *(point.label for point in TWINS)]
    looks_of = shown(first)
    assert len({marker for marker, _ in looks_of}) == len({color for _, color in looks_of}) == 3
    assert shown(second) == looks_of[2:]  # a run looks the same in every panel
    legend = {
        text.get_text(): (handle.get_marker(), handle.get_color())
        for text, handle in zip(figure.legends[0].get_texts(), figure.legends[0].legend_handles, strict=True)
    }
    assert legend == dict(zip(("BYOL", *(point.label for point in TWINS)), looks_of, strict=True))


def test_two_architectures_of_one_method_are_rows_of_different_names() -> None:
    pair = (Point("DINO", "RN50", "DINO", 100, 50), Point("DINO", "ViT-S/16", "DINO", 100, 40))
    axis = accuracy([Panel("k-NN", pair)], "images/s").axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["DINO, RN50", "DINO, ViT-S/16"]
    assert len({marker for marker, _ in shown(axis)}) == 2


def test_points_that_are_not_runs_keep_the_marker_of_their_kind() -> None:
    axis = scatter([Panel("k-NN", TWINS)], "images/s", by_run=False).axes[0]
    assert len(set(shown(axis))) == 1


def test_a_line_of_many_points_has_markers_if_its_method_has_several_runs() -> None:
    epochs = tuple(map(float, range(200)))
    names = ("a", "b", "c", "d")
    runs = [
        Curve(method, "RN50", name, epochs, epochs)
        for name, method in zip(names, ("DINO",) * 3 + ("BYOL",), strict=True)
    ]
    lines = curves(runs, "online k-NN (%)").axes[0].lines
    assert len({line.get_marker() for line in lines[:3]}) == 3
    every: list[Any] = [line.get_markevery() for line in lines[:3]]
    assert all(6 <= len(range(start, 200, step)) <= 8 for start, step in every)
    assert len({start for start, _ in every}) == 3  # lines on each other show the markers of all
    assert lines[3].get_marker() in ("", "None")


@pytest.mark.parametrize("runs", [4, 5, 9, 30])
def test_no_two_runs_of_one_method_look_alike(runs: int) -> None:
    lines = looks([(str(number), "DINO") for number in range(runs)])
    assert len({(line.color, line.style, line.marker) for line in lines}) == runs
    assert {line.style for line in lines} <= set(STYLES)
