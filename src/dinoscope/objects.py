"""Objects of masks by their numbers: the colours they have in every picture, and how masks and marks are drawn."""

from __future__ import annotations

from collections.abc import Collection

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray

Color = tuple[int, int, int]

COLORS: tuple[Color, ...] = (
    (204, 34, 0),
    (34, 255, 170),
    (136, 0, 238),
    (204, 238, 0),
    (0, 102, 102),
    (255, 136, 255),
)
"""RGB of objects 1, 2, ...; from the seventh on they repeat, and the numbers tell objects apart.

Chosen by a search for the largest smallest distance in CIE Lab, to eyes of all three cones and to those that lack one
(Machado et al. 2009, full severity): 46, of which VOC's first six colours have 4. tests/test_objects.py measures it.
"""

_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_LUMA = (0.2126, 0.7152, 0.0722)  # of linear red, green and blue (ITU-R BT.709)
_EVEN_CONTRAST = 0.179  # luminance at which black and white stand out equally (WCAG 2: sqrt(1.05 * 0.05) - 0.05)
_LINE = 1 / 300  # width of a contour, and of the line around it, as a share of the picture's short side
_BADGE = 1 / 36  # radius of the field behind a number, as a share of the short side
_SMALLEST_BADGE = 7  # pixels: a digit in a smaller one cannot be read
_DIGIT = 0.048  # scale of OpenCV's font that makes a digit as high as a field of radius 1
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def object_color(number: int) -> Color:
    """Return the RGB of an object, from 1."""
    return COLORS[(number - 1) % len(COLORS)]


def opposite(color: Color) -> Color:
    """Return black for a light colour and white for a dark one: one of the two shows on any picture."""
    linear = np.where((value := np.array(color) / 255) <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return _WHITE if linear @ _LUMA < _EVEN_CONTRAST else _BLACK


def objects_overlay(
    frame: UInt8[ndarray, "h w 3"], ids: UInt8[ndarray, "h w"], without_number: Collection[int] = ()
) -> UInt8[ndarray, "h w 3"]:
    """Lay each object in its colour over the frame, half transparent, with a contour and its number. 0 is none.

    The contour has the full colour, with a line of the opposite brightness outside. The number stands in the middle of
    the object, or next to one that is smaller than the number.
    """
    present = [int(number) for number in np.flatnonzero(np.bincount(ids.ravel(), minlength=256)) if number]
    table = np.array([_BLACK, *map(object_color, range(1, 256))], np.uint8)
    around = np.array([_BLACK, *(opposite(object_color(number)) for number in range(1, 256))], np.uint8)
    colors = table[ids]
    result = np.where(ids[..., None] > 0, cv2.addWeighted(frame, 0.5, colors, 0.5, 0), frame)
    reach = 2 * max(1, round(min(ids.shape) * _LINE)) + 1
    near = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    highest = cv2.dilate(ids, near).astype(np.uint8)
    changes = highest != cv2.erode(ids, near)  # close to a pixel with another id
    inner, outer = changes & (ids > 0), changes & (ids == 0)
    result[outer], result[inner] = around[highest[outer]], colors[inner]
    radius = _badge_radius(result)
    for number in present:
        if number not in without_number:
            draw_number(result, _number_place(ids == number, radius), number)
    return result


def draw_number(picture: UInt8[ndarray, "h w 3"], place: tuple[int, int], number: int, *, adds: bool = True) -> None:
    """Draw an object's number in its colour at a place (x, y), into the picture itself, and never beyond its edge.

    adds: on a disc; else, for a mark that takes away from the object, on a square and with a minus.
    """
    color, radius = object_color(number), _badge_radius(picture)
    contrast = opposite(color)
    x, y = (
        int(np.clip(at, min(radius, side // 2), max(side - 1 - radius, side // 2)))
        for at, side in zip(place, picture.shape[1::-1], strict=True)
    )
    for size, fill in ((radius, contrast), (radius - max(1, radius // 6), color)):
        if adds:
            cv2.circle(picture, (x, y), size, fill, -1, cv2.LINE_AA)
        else:
            cv2.rectangle(picture, (x - size, y - size), (x + size, y + size), fill, -1)
    text = str(number) if adds else f"-{number}"
    thickness = max(1, round(radius / 6))
    (width, _), _ = cv2.getTextSize(text, _FONT, 1, thickness)
    scale = min(_DIGIT * radius, 1.6 * radius / width)
    (width, height), _ = cv2.getTextSize(text, _FONT, scale, thickness)
    cv2.putText(picture, text, (x - width // 2, y + height // 2), _FONT, scale, contrast, thickness, cv2.LINE_AA)


def _badge_radius(picture: UInt8[ndarray, "h w 3"]) -> int:
    return max(_SMALLEST_BADGE, round(min(picture.shape[:2]) * _BADGE))


def _number_place(mask: Bool[ndarray, "h w"], radius: int) -> tuple[int, int]:
    """Return where the number of an object stands, (x, y): deep inside, close to the middle; else next to it.

    Of all places that are at least half as deep as the deepest, the closest to the centroid: the deepest itself would
    jump from frame to frame.
    """
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    part = np.pad(mask[top : top + height, left : left + width], 1)
    depth = cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, 3)
    if depth.max() < radius:  # it would be covered
        right = left + width + radius + 1
        fits = right + radius < mask.shape[1]
        return (right if fits else left - radius - 2), top + height // 2
    rows, columns = np.nonzero(part)
    deep_rows, deep_columns = np.nonzero(depth >= depth.max() / 2)
    nearest = ((deep_rows - rows.mean()) ** 2 + (deep_columns - columns.mean()) ** 2).argmin()
    return int(left + deep_columns[nearest] - 1), int(top + deep_rows[nearest] - 1)
