"""Texts beside the points of a plot, kept apart from each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox, BboxBase

_RADIUS, _GAP = 8, 7  # of a point, and between it and its text, in pixels


@dataclass(frozen=True)
class Labelled:
    """A point in the coordinates of the data, and its text."""

    text: str
    x: float
    y: float
    color: str


def label_points(figure: Figure, axis: Axes, points: Sequence[Labelled]) -> None:
    """Write each point's text beside it, where it covers neither a point nor another text; call it last of all.

    Points higher up choose first. A text that had to go further is joined to its point by a thin line.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    places = [axis.transData.transform((point.x, point.y)) for point in points]
    taken: list[BboxBase] = [Bbox.from_extents(x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS) for x, y in places]
    frame = axis.get_window_extent()
    for point, (x, y) in sorted(zip(points, places, strict=True), key=lambda pair: -pair[1][1]):
        text = axis.annotate(
            point.text,
            (x, y),
            xycoords="figure pixels",
            annotation_clip=False,
            color=point.color,
            fontsize=9,
            parse_math=False,
            zorder=4,
        )
        width, height = text.get_window_extent(canvas.get_renderer()).size
        corner = _free_corner((x, y), (width, height), taken, frame)
        text.remove()
        taken.append(Bbox.from_bounds(*corner, width, height))
        far = abs(corner[1] + height / 2 - y) > height
        dots_per_point = figure.dpi / 72
        axis.annotate(
            point.text,
            (point.x, point.y),
            xytext=((corner[0] - x) / dots_per_point, (corner[1] - y) / dots_per_point),
            textcoords="offset points",
            color=point.color,
            fontsize=9,
            parse_math=False,
            zorder=4,
            arrowprops=_leader(point.color, (corner[0] - x) / width) if far else None,
        )


def _leader(color: str, side: float) -> dict[str, object]:
    """A thin line from the point to the near end of its label. side: where the label begins, in its own widths."""
    end = (0.0 if side > 0 else 1.0 if side < -1 else 0.5, 0.5)
    return {
        "arrowstyle": "-",
        "color": color,
        "linewidth": 0.7,
        "alpha": 0.7,
        "relpos": end,
        "shrinkA": 1,
        "shrinkB": 3,
    }


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
