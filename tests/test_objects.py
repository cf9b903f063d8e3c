"""Objects keep apart for every colour vision and on every picture, and each has its number."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from dinoscope.objects import COLORS, Color, draw_number, object_color, objects_overlay, opposite

FLOOR = 40.0
"""Smallest distance of two colours in CIE Lab (Delta E 1976), as seen by anybody. VOC's first six have 4."""
NORMAL = np.eye(3)
# Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency" (2009),
# severity 1.0; they map linear RGB
DEFICIENCIES = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
# IEC 61966-2-1: linear sRGB to XYZ, and its white (D65)
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
VOC = [(128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)]


def linear(color: Color) -> np.ndarray:
    values = np.array(color) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def seen(color: Color, vision: np.ndarray) -> np.ndarray:
    """CIE Lab of a colour to eyes of a kind."""
    x, y, z = (XYZ @ (vision @ linear(color)).clip(0, 1)) / XYZ.sum(axis=1)
    x, y, z = (each ** (1 / 3) if each > (6 / 29) ** 3 else each / (3 * (6 / 29) ** 2) + 4 / 29 for each in (x, y, z))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def smallest_distance(colors: tuple[Color, ...] | list[Color], vision: np.ndarray) -> float:
    pairs = itertools.combinations([seen(color, vision) for color in colors], 2)
    return min(float(np.linalg.norm(one - other)) for one, other in pairs)


def luminance(color: Color) -> float:
    return float(XYZ[1] @ linear(color))


def contrast(one: Color, other: Color) -> float:
    """Contrast ratio of WCAG 2."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("vision", [NORMAL, *map(np.array, DEFICIENCIES.values())], ids=["normal", *DEFICIENCIES])
def test_all_pairs_of_colours_are_told_apart_by_every_colour_vision(vision: np.ndarray) -> None:
    assert smallest_distance(COLORS, vision) >= FLOOR


def test_the_measure_finds_colours_that_are_confused() -> None:
    assert seen((255, 255, 255), NORMAL) == pytest.approx([100, 0, 0], abs=0.05)
    assert seen((255, 0, 0), NORMAL) == pytest.approx([53.24, 80.09, 67.20], abs=0.1)  # known values of sRGB's red
    assert smallest_distance(VOC, NORMAL) > 30
    assert smallest_distance(VOC, np.array(DEFICIENCIES["protanopia"])) < 5


def test_on_any_grey_the_colour_or_its_outline_stands_out() -> None:
    for color in COLORS:
        assert contrast(color, opposite(color)) >= 4.5  # the number can be read: WCAG 2, 1.4.3
        for grey in range(256):
            ground = (grey, grey, grey)
            assert max(contrast(color, ground), contrast(opposite(color), ground)) >= 2.1, (color, grey)


@pytest.mark.parametrize("grey", [0, 100, 255])
def test_a_mask_has_its_colour_a_contour_and_a_line_of_the_opposite_brightness(grey: int) -> None:
    frame, ids = np.full((60, 90, 3), grey, np.uint8), np.zeros((60, 90), np.uint8)
    ids[6:54, 4:44], ids[6:54, 44:84] = 1, 8  # 8 has the colour of 2
    picture = objects_overlay(frame, ids)
    assert (picture[58:] == grey).all()
    for number, left, right in ((1, 4, 43), (8, 44, 83)):
        color = object_color(number)
        assert picture[10, left + 3] == pytest.approx((np.array(color) + grey) / 2, abs=1)
        assert tuple(picture[10, left]) == tuple(picture[10, right]) == color  # also between the two
    assert tuple(picture[10, 3]) == opposite(object_color(1)) == (255, 255, 255)
    assert tuple(picture[10, 84]) == opposite(object_color(8)) == (0, 0, 0)
    assert (objects_overlay(frame, np.zeros_like(ids)) == frame).all()


def changed(picture: np.ndarray, before: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, width and height of what differs."""
    left, top, width, height = cv2.boundingRect((picture != before).any(axis=2).astype(np.uint8))
    return left, top, width, height


def test_each_mask_has_its_own_number_inside_or_next_to_a_small_one() -> None:
    frame, ids = np.full((200, 300, 3), 90, np.uint8), np.zeros((200, 300), np.uint8)
    ids[40:160, 20:120], ids[100:104, 200:204], ids[20:24, 296:300] = 1, 2, 3
    bare = objects_overlay(frame, ids, without_number={1, 2, 3})
    left, top, width, height = changed(objects_overlay(frame, ids, {2, 3}), bare)
    assert (left + width / 2, top + height / 2) == pytest.approx((70, 100), abs=2)
    left, top, width, height = changed(objects_overlay(frame, ids, {1, 3}), bare)
    assert 204 <= left < 208  # next to it, and not over it
    assert abs(top + height / 2 - 102) < 3
    left, _, width, _ = changed(objects_overlay(frame, ids, {1, 2}), bare)
    assert left + width <= 296  # on the other side at the edge of the picture
    one, seven = (objects_overlay(frame, (ids == 1) * np.uint8(number)) for number in (1, 7))
    assert object_color(1) == object_color(7)
    assert (one != seven).any()  # told apart by the number


def test_the_number_lies_within_an_object_whose_middle_is_elsewhere() -> None:
    ids = np.zeros((200, 200), np.uint8)
    cv2.circle(ids, (100, 100), 90, 1, -1)
    cv2.circle(ids, (100, 100), 50, 0, -1)
    frame = np.zeros((200, 200, 3), np.uint8)
    left, top, width, height = changed(objects_overlay(frame, ids), objects_overlay(frame, ids, {1}))
    assert ids[top + height // 2, left + width // 2] == 1


@pytest.mark.parametrize("place", [(0, 0), (59, 39), (-5, 100)])
def test_a_mark_is_drawn_whole_at_the_edge_and_says_if_it_takes_away(place: tuple[int, int]) -> None:
    blank = np.full((40, 60, 3), 128, np.uint8)
    pictures = [blank.copy() for _ in range(3)]
    draw_number(pictures[0], place, 3)
    draw_number(pictures[1], place, 4)
    draw_number(pictures[2], place, 3, adds=False)
    sizes = [changed(picture, blank)[2:] for picture in pictures]
    assert all(width >= 14 and height >= 14 for width, height in sizes)
    assert (pictures[0] != pictures[2]).any()
    assert (pictures[0] == object_color(3)).all(axis=2).any()
    draw_number(tiny := np.zeros((3, 4, 3), np.uint8), (1, 1), 12)
    assert tiny.any()
