"""Ten kinds of object, told apart by outline and texture, never by colour: pure functions of coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.floating]


@dataclass(frozen=True)
class Frame:
    """Coordinates of pixels in an object's own frame; its radius is 1, `v` points down.

    u, v: right and down. r, angle: the same in polar form, angle in radians from u towards v.
    """

    u: Plane
    v: Plane
    r: Plane
    angle: Plane


@dataclass(frozen=True)
class Kind:
    """A class of objects.

    outline: distance from the centre to the edge, by angle (every kind is star-shaped).
    texture: how much of the second colour, 0 to 1, at each point; takes the frame, a frequency factor near 1
        and a phase in [0, 1).
    hole: radius of the hole in the middle, 0 for none.
    """

    outline: Callable[[Plane], Plane]
    texture: Callable[[Frame, float, float], Plane]
    hole: float = 0.0


def _two_tone(wave: Plane, sharpness: float = 2.5) -> Plane:
    """A wave in [-1, 1] to two flat tones with soft edges."""
    return np.clip(0.5 + sharpness * wave, 0, 1)


def _stripes(frame: Frame, frequency: float, phase: float) -> Plane:
    return _two_tone(np.sin(2 * math.pi * (1.9 * frequency * frame.u + phase)))


def _checks(frame: Frame, frequency: float, phase: float) -> Plane:
    shift = 0.5 * phase
    across = np.sin(math.pi * (2.7 * frequency * frame.u + shift))
    return _two_tone(across * np.sin(math.pi * (2.7 * frequency * frame.v + shift)), 6)


def _dots(frame: Frame, frequency: float, phase: float) -> Plane:
    """Discs on a hexagonal grid: the sum of three plane waves at 60 degrees."""
    along, across = 2 * math.pi * 1.7 * frequency * frame.u, 2 * math.pi * 1.7 * frequency * frame.v
    shift = 2 * math.pi * phase
    waves = np.cos(along + shift)
    waves += np.cos(0.5 * along + math.sqrt(0.75) * across)
    waves += np.cos(math.sqrt(0.75) * across - 0.5 * along - shift)
    return np.clip(1.6 * (waves - 0.55), 0, 1)


def _rings(frame: Frame, frequency: float, phase: float) -> Plane:
    return _two_tone(np.sin(2 * math.pi * (2.6 * frequency * frame.r + phase)))


def _veins(frame: Frame, frequency: float, phase: float) -> Plane:
    """Side veins leaning towards the tip, and the midrib."""
    side = np.sin(2 * math.pi * (1.9 * frequency * (frame.u - 1.1 * np.abs(frame.v)) + phase))
    midrib = np.clip(1.5 - 16 * np.abs(frame.v), 0, 1)
    return np.maximum(np.clip(2.2 * (side - 0.35), 0, 1), midrib)


def _scales(frame: Frame, frequency: float, phase: float) -> Plane:
    """Rows of overlapping arcs, every other row moved by half a scale."""
    rows = 3.0 * frequency * frame.u + phase
    row = np.floor(rows)
    across = 2.2 * frequency * frame.v + 0.5 * (row % 2)
    arc = np.hypot(rows - row, 1.3 * (across - np.floor(across) - 0.5))
    return np.clip(6 * (np.abs(arc - 0.72) - 0.09), 0, 1)


def _petals(frame: Frame, frequency: float, phase: float) -> Plane:
    """A round heart and dark lines that run between and along the petals."""
    lines = np.clip(2.0 * (np.cos(12 * frame.angle) - 0.1), 0, 1)
    heart = np.clip(12 * (0.36 * frequency + 0.06 * phase - frame.r), 0, 1)
    return np.maximum(lines * np.clip(3 * (1.0 - frame.r), 0, 1), heart)


def _facets(frame: Frame, frequency: float, phase: float) -> Plane:
    """Flat sectors of differing brightness, and a table in the middle, as in a cut stone."""
    sector = np.floor((frame.angle / (2 * math.pi) + 1) * 6) % 6
    table = (_polygon(frame.angle, 6) * 0.52 * frequency > frame.r).astype(np.float32)
    steps = np.asarray([0.0, 0.75, 0.25, 1.0, 0.4, 0.6], np.float32)
    sectors = np.roll(steps, int(6 * phase))[sector.astype(int)]
    return (1 - table) * sectors + 0.9 * table * (1 - sectors)


def _sprinkles(frame: Frame, frequency: float, phase: float) -> Plane:
    """Short strokes in changing directions, one in each cell of a grid."""
    x, y = 2.6 * frequency * frame.u + phase, 2.6 * frequency * frame.v + 1 - phase
    column, row = np.floor(x), np.floor(y)
    turn = 2.4 * column + 1.7 * row + 1.1 * column * row
    x, y = x - column - 0.5, y - row - 0.5
    along, across = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    return np.clip(8 * (0.2 - np.hypot(np.maximum(np.abs(along) - 0.28, 0), across)), 0, 1)


def _waves(frame: Frame, frequency: float, phase: float) -> Plane:
    """Horizontal lines that swing up and down."""
    swing = 0.16 * np.sin(2 * math.pi * 1.5 * frame.u)
    return _two_tone(np.sin(2 * math.pi * (2.0 * frequency * (frame.v + swing) + phase)))


def _round(angle: Plane) -> Plane:
    return np.ones_like(angle)


def _square(angle: Plane) -> Plane:
    """Superellipse |u|^6 + |v|^6 = 0.85^6."""
    # cos^6 + sin^6 = 1 - 3/4 sin^2(2 angle)
    return 0.85 * (1 - 0.75 * np.sin(2 * angle) ** 2) ** (-1 / 6)


def _oval(angle: Plane) -> Plane:
    """Ellipse with a small head on the right."""
    body = 0.75 / np.sqrt((0.75 * np.cos(angle)) ** 2 + np.sin(angle) ** 2) * 0.9
    return body + 0.16 * np.clip(1.4 - 4 * np.abs(_wrapped(angle)), 0, 1)


def _star(angle: Plane) -> Plane:
    return 0.72 + 0.3 * np.cos(5 * angle) * (1 + 0.25 * np.cos(5 * angle))


def _lens(angle: Plane) -> Plane:
    """Where two discs of radius 1.1 overlap; pointed at both ends, which lie at distance 1."""
    radius, offset = 1.1, math.sqrt(1.1**2 - 1)
    side = offset * np.abs(np.sin(angle))
    return np.sqrt(side**2 + radius**2 - offset**2) - side


def _fish(angle: Plane) -> Plane:
    """An ellipse with a tail on the left that is notched in the middle."""
    body = 0.7 / np.sqrt((0.7 * np.cos(angle)) ** 2 + np.sin(angle) ** 2) * 0.88
    from_tail = np.abs(_wrapped(angle - math.pi))
    tail = 0.4 * np.exp(-(((from_tail - 0.45) / 0.18) ** 2)) - 0.25 * np.exp(-((from_tail / 0.2) ** 2))
    return body + tail


def _flower(angle: Plane) -> Plane:
    return 0.8 + 0.2 * np.cos(6 * angle)


def _hexagon(angle: Plane) -> Plane:
    return _polygon(angle, 6)


def _heart(angle: Plane) -> Plane:
    """A notch above (angle -pi/2), a point below."""
    above, below = np.abs(_wrapped(angle + math.pi / 2)), np.abs(_wrapped(angle - math.pi / 2))
    return 0.84 - 0.42 * np.exp(-((above / 0.38) ** 2)) + 0.2 * np.exp(-((below / 0.3) ** 2))


def _polygon(angle: Plane, sides: int) -> Plane:
    """Regular polygon with corners at distance 1, one of them at angle 0."""
    half = math.pi / sides
    return math.cos(half) / np.cos((angle % (2 * half)) - half)


def _wrapped(angle: Plane) -> Plane:
    """The same angle in [-pi, pi)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


KINDS: dict[str, Kind] = {
    "ball": Kind(_round, _stripes),
    "cushion": Kind(_square, _checks),
    "doughnut": Kind(_round, _sprinkles, hole=0.3),
    "fish": Kind(_fish, _scales),
    "flower": Kind(_flower, _petals),
    "gem": Kind(_hexagon, _facets),
    "heart": Kind(_heart, _waves),
    "ladybird": Kind(_oval, _dots),
    "leaf": Kind(_lens, _veins),
    "starfish": Kind(_star, _rings),
}
