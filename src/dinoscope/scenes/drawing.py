"""Drawing of the scenes: ten kinds of object, backdrop, objects with shadow and shading, light.

Kinds are told apart by outline and texture, never by colour. Everything is a function of the parameters it is given;
chance enters only through the generators. Objects are drawn back to front in float32 at twice the size, then averaged
down.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.floating]
Color = tuple[float, float, float]

SUPERSAMPLING = 2


# Kinds of object


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
    texture: share of the second colour at each point, of the frame, a frequency factor near 1 and a phase in [0, 1).
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
    "gem": Kind(lambda angle: _polygon(angle, 6), _facets),
    "heart": Kind(_heart, _waves),
    "ladybird": Kind(_oval, _dots),
    "leaf": Kind(_lens, _veins),
    "starfish": Kind(_star, _rings),
}


# Scenes


@dataclass(frozen=True)
class Item:
    """One object in a scene.

    kind: a key of `KINDS`. center, radius: pixels of the final image.
    tilt: radians. squash: height over width.
    colors: RGB in [0, 1] of the two parts of the texture. frequency, phase: see `Kind.texture`.
    """

    kind: str
    center: tuple[float, float]
    radius: float
    tilt: float
    squash: float
    colors: tuple[Color, Color]
    frequency: float
    phase: float


@dataclass(frozen=True)
class Light:
    """angle: where it comes from, radians. strength: of the shading, 0 to 1. tint: RGB factor near 1."""

    angle: float
    strength: float
    tint: Color


def sample_item(rng: np.random.Generator, kind: str, center: tuple[float, float], radius: float) -> Item:
    """Draw an object's own colours, proportions, tilt and texture."""
    return Item(
        kind=kind,
        center=center,
        radius=radius,
        tilt=rng.uniform(-0.8, 0.8),
        squash=rng.uniform(0.85, 1.0),
        colors=_sample_color_pair(rng),
        frequency=rng.uniform(0.9, 1.1),
        phase=rng.uniform(),
    )


def sample_light(rng: np.random.Generator) -> Light:
    """Draw a light from anywhere above, weak to strong, cold to warm."""
    warmth = rng.uniform(-0.1, 0.1)
    gain = rng.uniform(0.85, 1.05)
    tint = (gain * (1 + warmth), gain, gain * (1 - warmth))
    return Light(rng.uniform(-np.pi, 0), rng.uniform(0.15, 0.5), tint)


def _sample_color_pair(rng: np.random.Generator) -> tuple[Color, Color]:
    """A light and a dark colour of free hues, in either order: texture is visible, hue says nothing."""
    hue = rng.uniform()
    light = _rgb(hue, rng.uniform(0.1, 0.6), rng.uniform(0.88, 1.0))
    dark = _rgb(hue + rng.uniform(-0.5, 0.5), rng.uniform(0.55, 0.95), rng.uniform(0.3, 0.55))
    return (light, dark) if rng.uniform() < 0.5 else (dark, light)


def _rgb(hue: float, saturation: float, value: float) -> Color:
    """HSV in [0, 1] (hue in turns, any real) to RGB."""
    sector = (hue % 1.0) * 6 + np.asarray([5.0, 3.0, 1.0])
    fall = np.clip(np.minimum(sector % 6, 4 - sector % 6), 0, 1)
    red, green, blue = value * (1 - saturation * fall)
    return float(red), float(green), float(blue)


def sample_backdrop(rng: np.random.Generator, size: tuple[int, int], clutter: int) -> Plane:
    """A soft ground and sky with weak noise and `clutter` blurred blobs: RGB (H, W, 3) near [0, 1] at `size`.

    Low contrast and smooth on purpose, as a background out of focus; drawn apart from the objects, so that
    it says nothing about them.
    """
    height, width = size
    hue, value = rng.uniform(), rng.uniform(0.58, 0.74)
    sky = np.asarray(_rgb(hue, rng.uniform(0.1, 0.32), value), np.float32)
    ground = np.asarray(_rgb(hue + rng.uniform(-0.2, 0.2), rng.uniform(0.15, 0.4), value * rng.uniform(0.75, 0.95)))
    slope, horizon, blur = rng.uniform(-0.3, 0.3), rng.uniform(0.3, 0.8), rng.uniform(0.05, 0.35)
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None]
    mix = np.clip(0.5 + (rows + slope * columns - horizon) / blur, 0, 1)[..., None]
    canvas = sky + mix * (ground.astype(np.float32) - sky)
    cells = max(3, round(5 * height / width)), 5
    noise = rng.normal(0, 0.03, (*cells, 1)).astype(np.float32)
    canvas += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    return _with_blobs(rng, canvas, clutter)


def _with_blobs(rng: np.random.Generator, canvas: Plane, count: int) -> Plane:
    """Blurred discs of a colour near the background's, as lights and leaves out of focus."""
    height, width = canvas.shape[:2]
    layer, cover = canvas.copy(), np.zeros((height, width), np.float32)
    for _ in range(count):
        center = int(rng.uniform(0, width)), int(rng.uniform(0, height))
        radius = int(rng.uniform(0.04, 0.14) * min(height, width))
        near = canvas[min(center[1], height - 1), min(center[0], width - 1)]
        shade = near * rng.uniform(0.8, 1.2, 3).astype(np.float32)
        cv2.circle(layer, center, radius, shade.tolist(), -1)
        cv2.circle(cover, center, radius, float(rng.uniform(0.3, 0.6)), -1)
    sigma = 0.012 * min(height, width)
    cover = cv2.GaussianBlur(cover, (0, 0), sigma)[..., None]
    return canvas + cover * (cv2.GaussianBlur(layer, (0, 0), sigma) - canvas)


def draw(
    backdrop: Plane, items: list[Item], light: Light, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw `items` in order onto a copy of `backdrop`.

    Returns RGB [h, w, 3], and the place in `items`, from 1, of what each pixel shows [h, w], 0 for background.
    """
    height, width = backdrop.shape[:2]
    canvas: Plane = cv2.resize(backdrop, (SUPERSAMPLING * width, SUPERSAMPLING * height)).astype(np.float32, copy=False)
    shown = np.zeros(canvas.shape[:2], np.uint8)
    for place, item in enumerate(items, start=1):
        window = _window(item, shown.shape)
        if window is not None:
            _paint(canvas[window], shown[window], item, light, _frame(item, window), place)
    image = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA) * np.asarray(light.tint, np.float32)
    image += rng.normal(0, 0.008, (height, width, 1)).astype(np.float32)  # grain of the sensor
    ids = np.ascontiguousarray(shown[::SUPERSAMPLING, ::SUPERSAMPLING])
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8), ids


def _window(item: Item, shape: tuple[int, ...]) -> tuple[slice, slice] | None:
    """Rows and columns of the enlarged canvas that the object and its shadow can touch; None if outside."""
    reach = 1.35 * item.radius * SUPERSAMPLING
    x, y = (SUPERSAMPLING * c for c in item.center)
    top, bottom = max(0, int(y - reach)), min(shape[0], int(y + reach) + 1)
    left, right = max(0, int(x - reach)), min(shape[1], int(x + reach) + 1)
    return (slice(top, bottom), slice(left, right)) if top < bottom and left < right else None


def _frame(item: Item, window: tuple[slice, slice]) -> Frame:
    """The window's pixel centres in the object's frame."""
    unit = item.radius * SUPERSAMPLING
    y = np.arange(window[0].start, window[0].stop, dtype=np.float32)[:, None] + 0.5 - SUPERSAMPLING * item.center[1]
    x = np.arange(window[1].start, window[1].stop, dtype=np.float32)[None] + 0.5 - SUPERSAMPLING * item.center[0]
    cos, sin = math.cos(item.tilt) / unit, math.sin(item.tilt) / unit
    u, v = cos * x + sin * y, (cos * y - sin * x) / item.squash
    return Frame(u, v, np.hypot(u, v), np.arctan2(v, u))


def _paint(canvas: Plane, shown: NDArray[np.uint8], item: Item, light: Light, frame: Frame, place: int) -> None:
    """Shadow, texture, shading and rim of one object, in place."""
    kind, unit = KINDS[item.kind], item.radius * SUPERSAMPLING
    edge = kind.outline(frame.angle)
    inside = edge - frame.r
    if kind.hole:
        inside = np.minimum(inside, frame.r - kind.hole)
    cover = np.clip(inside * unit + 0.5, 0, 1)

    fall = 0.12 * unit
    across, down = math.cos(light.angle), math.sin(light.angle)
    moved = np.asarray([[1, 0, -fall * across], [0, 1, -fall * down]], np.float32)
    shadow = cv2.warpAffine(cover, moved, cover.shape[::-1])
    canvas *= (1 - 0.45 * cv2.GaussianBlur(shadow, (0, 0), 0.07 * unit))[..., None]

    first, second = (np.asarray(color, np.float32) for color in item.colors)
    weight = kind.texture(frame, item.frequency, item.phase)[..., None].astype(np.float32)
    local = light.angle - item.tilt
    facing = math.cos(local) * frame.u + math.sin(local) * frame.v
    shade = 1 - light.strength * (0.35 - 0.6 * facing) - 0.3 * np.clip(1 - inside * 9, 0, 1)
    paint = (first + weight * (second - first)) * shade[..., None]
    canvas += cover[..., None] * (paint - canvas)
    shown[cover > 0.5] = place
