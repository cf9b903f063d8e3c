"""The same images through training and across models: a row for each image. Pixels in, pixels out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from dinoscope.report.figures import TILES_PER_ROW, color_scale, fitted, overlay, per_band
from dinoscope.report.layout import Legend, Pixels, Row, Tile, page, page_width

_NARROWEST, _WIDEST = 150, 190  # pixels of a column
_ROOM = 1130  # for the columns of a page


@dataclass(frozen=True)
class MapColumn:
    """The map of each image: a title above, and quieter what they show, or how they came about."""

    title: str
    detail: str
    maps: Sequence[Float[ndarray, "_ _"]]


def maps_page(images: Sequence[UInt8[ndarray, "_ _ 3"]], columns: Sequence[MapColumn], text: str) -> Pixels:
    """Each image beside its maps, in bands of at most six columns. text: at the right of the legend."""
    per_row = per_band(len(columns), TILES_PER_ROW)
    width = int(np.clip(_ROOM // (1 + per_row) - 12, _NARROWEST, _WIDEST))
    grounds = [fitted(image, width) for image in images]
    rows: list[Row] = []
    for begin in range(0, len(columns), per_row):
        band = columns[begin : begin + per_row]
        for place, ground in enumerate(grounds):
            first = place == 0
            tiles = [Tile(ground, "image" if first else "")]
            tiles += [
                Tile(overlay(ground, each.maps[place]), *((each.title, each.detail) if first else ())) for each in band
            ]
            rows.append(Row(tiles, width))
    legend = Legend(color_scale(), "average patch", "strongest", text)
    return page(rows, page_width(1 + per_row, width), legend=legend)
