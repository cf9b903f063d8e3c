"""The embedded data set: drawn scenes of ten kinds of object, written in the public layouts.

First steps, tests and demos use these, since no download can be relied on. The class of an object is its outline and
its texture, as in photographs. Everything else is random and independent of the class: position, scale, tilt (up to 46
degrees), mirroring, proportions, both colours and which of them is lighter, phase and fineness of the texture, the
light, the background (colours, horizon, soft noise), clutter (blurred discs), and grain.

A folder written by `write_scenes`:

    folder/{train,val}/CLASS/00000.jpg            one object an image, ten classes (ImageFolder)
    folder-masks/val/CLASS/00000.png              where that object is: 0 or 255, same size
    VOCdevkit/VOC2012/...                         several objects, class masks (PASCAL VOC 2012)
    DAVIS/...                                     moving, turning, occluding objects (DAVIS 2017)
    scenes.json                                   the config and the version of the drawing

Every image depends on (seed, part, class, index) alone: a larger set begins with the images of a smaller one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dinoscope.data.benchmarks import VOID, encode_indices
from dinoscope.errors import UserError
from dinoscope.files import write_folder

VERSION = 3
"""Raise it whenever a drawn pixel changes: folders of another version are not reused."""

SUPERSAMPLING = 2

_PARTS = {"train": 0, "val": 1, "voc": 2, "davis": 3}
_VOC_SIZES = ((192, 256), (256, 192), (200, 200), (180, 280))

Plane = NDArray[np.floating]
Pixels = NDArray[np.uint8]
Color = tuple[float, float, float]
Files = Iterator[tuple[str, bytes]]


# Kinds of object


@dataclass(frozen=True)
class Frame:
    """Coordinates of pixels in an object's own frame, in which its radius is 1.

    u, v: right and down. r, angle: the same in polar form, the angle in radians from u towards v.
    """

    u: Plane
    v: Plane
    r: Plane
    angle: Plane


@dataclass(frozen=True)
class Kind:
    """A class of objects.

    outline: distance from the centre to the edge by angle (every kind is star-shaped).
    texture: share of the second colour at each point, by frame, a frequency factor near 1 and a phase in [0, 1).
    hole: radius of the hole in the middle, 0 for none.
    """

    outline: Callable[[Plane], Plane]
    texture: Callable[[Frame, float, float], Plane]
    hole: float = 0.0


def _two_tone(wave: Plane, sharpness: float = 2.5) -> Plane:
    # A wave in [-1, 1] to two flat tones with soft edges.
    return np.clip(0.5 + sharpness * wave, 0, 1)


def _stripes(frame: Frame, frequency: float, phase: float) -> Plane:
    return _two_tone(np.sin(math.tau * (1.9 * frequency * frame.u + phase)))


def _checks(frame: Frame, frequency: float, phase: float) -> Plane:
    shift = 0.5 * phase
    across = np.sin(math.pi * (2.7 * frequency * frame.u + shift))
    return _two_tone(across * np.sin(math.pi * (2.7 * frequency * frame.v + shift)), 6)


def _dots(frame: Frame, frequency: float, phase: float) -> Plane:
    # Discs on a hexagonal grid: the sum of three plane waves at 60 degrees.
    along, across = math.tau * 1.7 * frequency * frame.u, math.tau * 1.7 * frequency * frame.v
    shift = math.tau * phase
    waves = np.cos(along + shift)
    waves += np.cos(0.5 * along + math.sqrt(0.75) * across)
    waves += np.cos(math.sqrt(0.75) * across - 0.5 * along - shift)
    return np.clip(1.6 * (waves - 0.55), 0, 1)


def _rings(frame: Frame, frequency: float, phase: float) -> Plane:
    return _two_tone(np.sin(math.tau * (2.6 * frequency * frame.r + phase)))


def _veins(frame: Frame, frequency: float, phase: float) -> Plane:
    # Side veins that lean towards the tip, and the midrib.
    side = np.sin(math.tau * (1.9 * frequency * (frame.u - 1.1 * np.abs(frame.v)) + phase))
    midrib = np.clip(1.5 - 16 * np.abs(frame.v), 0, 1)
    return np.maximum(np.clip(2.2 * (side - 0.35), 0, 1), midrib)


def _scales(frame: Frame, frequency: float, phase: float) -> Plane:
    # Rows of overlapping arcs, every other row shifted by half a scale.
    rows = 3.0 * frequency * frame.u + phase
    row = np.floor(rows)
    across = 2.2 * frequency * frame.v + 0.5 * (row % 2)
    arc = np.hypot(rows - row, 1.3 * (across - np.floor(across) - 0.5))
    return np.clip(6 * (np.abs(arc - 0.72) - 0.09), 0, 1)


def _petals(frame: Frame, frequency: float, phase: float) -> Plane:
    # A round heart, and dark lines between and along the petals.
    lines = np.clip(2.0 * (np.cos(12 * frame.angle) - 0.1), 0, 1)
    heart = np.clip(12 * (0.36 * frequency + 0.06 * phase - frame.r), 0, 1)
    return np.maximum(lines * np.clip(3 * (1.0 - frame.r), 0, 1), heart)


def _facets(frame: Frame, frequency: float, phase: float) -> Plane:
    # Flat sectors of different brightness and a table in the middle, as in a cut stone.
    sector = np.floor((frame.angle / math.tau + 1) * 6) % 6
    table = (_hexagon(frame.angle) * 0.52 * frequency > frame.r).astype(np.float32)
    steps = np.asarray([0.0, 0.75, 0.25, 1.0, 0.4, 0.6], np.float32)
    sectors = np.roll(steps, int(6 * phase))[sector.astype(int)]
    return (1 - table) * sectors + 0.9 * table * (1 - sectors)


def _sprinkles(frame: Frame, frequency: float, phase: float) -> Plane:
    # Short strokes in changing directions, one in each cell of a grid.
    x, y = 2.6 * frequency * frame.u + phase, 2.6 * frequency * frame.v + 1 - phase
    column, row = np.floor(x), np.floor(y)
    turn = 2.4 * column + 1.7 * row + 1.1 * column * row
    x, y = x - column - 0.5, y - row - 0.5
    along, across = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    return np.clip(8 * (0.2 - np.hypot(np.maximum(np.abs(along) - 0.28, 0), across)), 0, 1)


def _waves(frame: Frame, frequency: float, phase: float) -> Plane:
    # Horizontal lines that swing up and down.
    swing = 0.16 * np.sin(math.tau * 1.5 * frame.u)
    return _two_tone(np.sin(math.tau * (2.0 * frequency * (frame.v + swing) + phase)))


def _square(angle: Plane) -> Plane:
    # Superellipse |u|^6 + |v|^6 = 0.85^6, as cos^6 + sin^6 = 1 - 3/4 sin^2(2 angle).
    return 0.85 * (1 - 0.75 * np.sin(2 * angle) ** 2) ** (-1 / 6)


def _oval(angle: Plane) -> Plane:
    # Ellipse with a small head on the right.
    body = 0.75 / np.sqrt((0.75 * np.cos(angle)) ** 2 + np.sin(angle) ** 2) * 0.9
    return body + 0.16 * np.clip(1.4 - 4 * np.abs(_wrapped(angle)), 0, 1)


def _star(angle: Plane) -> Plane:
    return 0.72 + 0.3 * np.cos(5 * angle) * (1 + 0.25 * np.cos(5 * angle))


def _lens(angle: Plane) -> Plane:
    # The overlap of two discs of radius 1.1; both ends are pointed and lie at distance 1.
    radius, offset = 1.1, math.sqrt(1.1**2 - 1)
    side = offset * np.abs(np.sin(angle))
    return np.sqrt(side**2 + radius**2 - offset**2) - side


def _fish(angle: Plane) -> Plane:
    # Ellipse with a notched tail on the left.
    body = 0.7 / np.sqrt((0.7 * np.cos(angle)) ** 2 + np.sin(angle) ** 2) * 0.88
    from_tail = np.abs(_wrapped(angle - math.pi))
    tail = 0.4 * np.exp(-(((from_tail - 0.45) / 0.18) ** 2)) - 0.25 * np.exp(-((from_tail / 0.2) ** 2))
    return body + tail


def _heart(angle: Plane) -> Plane:
    # A notch above (angle -pi/2), a point below.
    above, below = np.abs(_wrapped(angle + math.pi / 2)), np.abs(_wrapped(angle - math.pi / 2))
    return 0.84 - 0.42 * np.exp(-((above / 0.38) ** 2)) + 0.2 * np.exp(-((below / 0.3) ** 2))


def _hexagon(angle: Plane) -> Plane:
    # Corners at distance 1, one of them at angle 0.
    half = math.pi / 6
    return math.cos(half) / np.cos((angle % (2 * half)) - half)


def _wrapped(angle: Plane) -> Plane:
    # The same angle in [-pi, pi).
    return (angle + math.pi) % math.tau - math.pi


KINDS: dict[str, Kind] = {
    "ball": Kind(np.ones_like, _stripes),
    "cushion": Kind(_square, _checks),
    "doughnut": Kind(np.ones_like, _sprinkles, hole=0.3),
    "fish": Kind(_fish, _scales),
    "flower": Kind(lambda angle: 0.8 + 0.2 * np.cos(6 * angle), _petals),
    "gem": Kind(_hexagon, _facets),
    "heart": Kind(_heart, _waves),
    "ladybird": Kind(_oval, _dots),
    "leaf": Kind(_lens, _veins),
    "starfish": Kind(_star, _rings),
}

CLASSES = tuple(KINDS)


# Drawing: a function of its parameters; randomness enters only through the generators.


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
    """angle: of its source, in radians. strength: of the shading, 0 to 1. tint: RGB factor near 1."""

    angle: float
    strength: float
    tint: Color


def sample_item(rng: np.random.Generator, kind: str, center: tuple[float, float], radius: float) -> Item:
    """Sample an object's colours, proportions, tilt and texture."""
    tilt, squash = rng.uniform(-0.8, 0.8), rng.uniform(0.85, 1.0)
    # A light and a dark colour of any hues, in either order: the texture is visible, the hue is uninformative.
    hue = rng.uniform()
    light = _rgb(hue, rng.uniform(0.1, 0.6), rng.uniform(0.88, 1.0))
    dark = _rgb(hue + rng.uniform(-0.5, 0.5), rng.uniform(0.55, 0.95), rng.uniform(0.3, 0.55))
    colors = (light, dark) if rng.uniform() < 0.5 else (dark, light)
    return Item(kind, center, radius, tilt, squash, colors, frequency=rng.uniform(0.9, 1.1), phase=rng.uniform())


def sample_light(rng: np.random.Generator) -> Light:
    """Sample a light from anywhere above, weak to strong, cold to warm."""
    warmth = rng.uniform(-0.1, 0.1)
    gain = rng.uniform(0.85, 1.05)
    tint = (gain * (1 + warmth), gain, gain * (1 - warmth))
    return Light(rng.uniform(-np.pi, 0), rng.uniform(0.15, 0.5), tint)


def _rgb(hue: float, saturation: float, value: float) -> Color:
    # HSV in [0, 1] (hue in turns, any real) to RGB.
    sector = (hue % 1.0) * 6 + np.asarray([5.0, 3.0, 1.0])
    fall = np.clip(np.minimum(sector % 6, 4 - sector % 6), 0, 1)
    red, green, blue = value * (1 - saturation * fall)
    return float(red), float(green), float(blue)


def sample_backdrop(rng: np.random.Generator, size: tuple[int, int], clutter: int) -> Plane:
    """Sample soft ground and sky with weak noise and `clutter` blurred discs: RGB [h, w, 3] near [0, 1].

    Its contrast is low, like that of a background out of focus, and it is independent of the objects.
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
    # Discs of a colour near the background's, like lights and leaves out of focus.
    layer, cover = canvas.copy(), np.zeros((height, width), np.float32)
    for _ in range(clutter):
        center = int(rng.uniform(0, width)), int(rng.uniform(0, height))
        radius = int(rng.uniform(0.04, 0.14) * min(height, width))
        near = canvas[min(center[1], height - 1), min(center[0], width - 1)]
        shade = near * rng.uniform(0.8, 1.2, 3).astype(np.float32)
        cv2.circle(layer, center, radius, shade.tolist(), -1)
        cv2.circle(cover, center, radius, float(rng.uniform(0.3, 0.6)), -1)
    sigma = 0.012 * min(height, width)
    cover = cv2.GaussianBlur(cover, (0, 0), sigma)[..., None]
    return canvas + cover * (cv2.GaussianBlur(layer, (0, 0), sigma) - canvas)


def draw(backdrop: Plane, items: list[Item], light: Light, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Draw `items` in order onto a copy of `backdrop`, in float32 at twice the size, then average down.

    Returns RGB [h, w, 3], and the position in `items`, from 1, of what each pixel shows [h, w], 0 for background.
    """
    height, width = backdrop.shape[:2]
    canvas: Plane = cv2.resize(backdrop, (SUPERSAMPLING * width, SUPERSAMPLING * height)).astype(np.float32, copy=False)
    shown = np.zeros(canvas.shape[:2], np.uint8)
    for number, item in enumerate(items, start=1):
        _paint(canvas, shown, item, light, number)
    image = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA) * np.asarray(light.tint, np.float32)
    image += rng.normal(0, 0.008, (height, width, 1)).astype(np.float32)  # grain of the sensor
    ids = np.ascontiguousarray(shown[::SUPERSAMPLING, ::SUPERSAMPLING])
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8), ids


def _paint(canvas: Plane, shown: Pixels, item: Item, light: Light, number: int) -> None:
    # Shadow, texture, shading and rim of one object, in place, within the window that they can touch.
    kind, unit = KINDS[item.kind], item.radius * SUPERSAMPLING
    reach = 1.35 * item.radius * SUPERSAMPLING
    x, y = (SUPERSAMPLING * c for c in item.center)
    top, bottom = max(0, int(y - reach)), min(shown.shape[0], int(y + reach) + 1)
    left, right = max(0, int(x - reach)), min(shown.shape[1], int(x + reach) + 1)
    if top >= bottom or left >= right:
        return
    canvas, shown = canvas[top:bottom, left:right], shown[top:bottom, left:right]
    rows = np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5 - y
    columns = np.arange(left, right, dtype=np.float32)[None] + 0.5 - x
    cos, sin = math.cos(item.tilt) / unit, math.sin(item.tilt) / unit
    u, v = cos * columns + sin * rows, (cos * rows - sin * columns) / item.squash
    frame = Frame(u, v, np.hypot(u, v), np.arctan2(v, u))
    inside = kind.outline(frame.angle) - frame.r
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
    shown[cover > 0.5] = number


# The data set


@dataclass(frozen=True)
class ScenesConfig:
    """How much is drawn.

    seed: seed of every image: another number, other scenes.
    size: side of the ImageFolder images, in pixels.
    train_per_class, val_per_class: images of each of the ten classes.
    voc_images: images of the VOC part, about 192 x 256 px, one to four objects each.
    davis_sequences, davis_frames: videos of the DAVIS part and frames in each.
    davis_size: height and width of a frame.
    """

    seed: int = 0
    size: int = 64
    train_per_class: int = 500
    val_per_class: int = 50
    voc_images: int = 60
    davis_sequences: int = 3
    davis_frames: int = 24
    davis_size: tuple[int, int] = (240, 427)

    def __post_init__(self) -> None:
        if self.size < 16:
            raise UserError(f"scenes are drawn at 16 px and more; size is {self.size}")
        counts = (self.train_per_class, self.val_per_class, self.voc_images, self.davis_sequences, self.davis_frames)
        if min(counts) < 0 or self.seed < 0:
            raise UserError(f"the seed and the numbers of images cannot be negative: {self}")


def write_scenes(
    out: Path, config: ScenesConfig = ScenesConfig(), progress: Callable[[int, int], None] | None = None
) -> Path:
    """Draw the data set into the folder `out`, or reuse it if it is already there.

    The folder appears whole or not at all: it is written next to `out` and renamed at the end.

    out: a folder that does not exist, is empty, or was written with the same config.
    progress: called with (files written, files in all).

    Raises UserError if `out` holds something else.
    """
    identity = json.dumps({"version": VERSION, "classes": CLASSES, "config": asdict(config)}, indent=2) + "\n"
    folder = len(CLASSES) * (config.train_per_class + 2 * config.val_per_class)
    total = folder + 2 * config.voc_images + 1 + 2 * config.davis_sequences * config.davis_frames + 1
    return write_folder(Path(out), "scenes.json", identity, _files(config), total, progress)


def _files(config: ScenesConfig) -> Files:
    # Every file of the data set as (path below the folder, content).
    for split, count in (("train", config.train_per_class), ("val", config.val_per_class)):
        for class_index, name in enumerate(CLASSES):
            for index in range(count):
                image, mask = draw_single(config, split, class_index, index)
                yield f"folder/{split}/{name}/{index:05d}.jpg", _jpeg(image)
                if split == "val":
                    yield f"folder-masks/val/{name}/{index:05d}.png", cv2.imencode(".png", mask)[1].tobytes()

    names = [f"2012_{index:06d}" for index in range(config.voc_images)]
    for index, name in enumerate(names):
        image, classes = _draw_several(config, index)
        yield f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg", _jpeg(image)
        yield f"VOCdevkit/VOC2012/SegmentationClass/{name}.png", encode_indices(classes)
    yield "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", "".join(f"{name}\n" for name in names).encode()

    names = [f"scene-{index:02d}" for index in range(config.davis_sequences)]
    for index, name in enumerate(names):
        for frame, (image, shown) in enumerate(_draw_video(config, index)):
            yield f"DAVIS/JPEGImages/480p/{name}/{frame:05d}.jpg", _jpeg(image)
            yield f"DAVIS/Annotations/480p/{name}/{frame:05d}.png", encode_indices(shown)
    yield "DAVIS/ImageSets/2017/val.txt", "".join(f"{name}\n" for name in names).encode()


def _jpeg(image: Pixels) -> bytes:
    settings = [cv2.IMWRITE_JPEG_QUALITY, 92]
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)[1].tobytes()


def _generator(config: ScenesConfig, part: str, *indices: int) -> np.random.Generator:
    return np.random.default_rng([config.seed, _PARTS[part], *indices])


def draw_single(config: ScenesConfig, split: str, class_index: int, index: int) -> tuple[Pixels, Pixels]:
    """Draw one image of the ImageFolder part: RGB [size, size, 3], and the object's mask [size, size], 0 or 255.

    The object fills 50 to 92 % of the side, may leave the image by three tenths of its radius, and may be mirrored.
    """
    rng = _generator(config, split, class_index, index)
    size = config.size
    radius = size * rng.uniform(0.25, 0.46)
    reach = max(size / 2 - 0.7 * radius, 0.05 * size)
    center = size / 2 + rng.uniform(-reach, reach), size / 2 + rng.uniform(-reach, reach)
    item = sample_item(rng, CLASSES[class_index], center, radius)
    backdrop = sample_backdrop(rng, (size, size), clutter=int(rng.integers(2, 7)))
    image, shown = draw(backdrop, [item], sample_light(rng), rng)
    if rng.uniform() < 0.5:
        image, shown = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(shown[:, ::-1])
    return image, shown * np.uint8(255)


def _draw_several(config: ScenesConfig, index: int) -> tuple[Pixels, Pixels]:
    # One image of the VOC part: RGB, and classes from 1 with void borders.
    rng = _generator(config, "voc", index)
    size = _VOC_SIZES[index % len(_VOC_SIZES)]
    items = [
        sample_item(
            rng,
            CLASSES[int(rng.integers(len(CLASSES)))],
            (rng.uniform(0.12, 0.88) * size[1], rng.uniform(0.15, 0.85) * size[0]),
            min(size) * rng.uniform(0.15, 0.34),
        )
        for _ in range(int(rng.integers(1, 5)))
    ]
    image, shown = draw(sample_backdrop(rng, size, clutter=8), items, sample_light(rng), rng)
    class_ids = np.asarray([0, *(CLASSES.index(item.kind) + 1 for item in items)], np.uint8)
    return image, with_void_borders(shown, class_ids)


def with_void_borders(shown: Pixels, class_ids: Pixels, width: int = 5) -> Pixels:
    """Turn object ids [h, w] into class ids, with `VOID` where two objects, or an object and the background, meet.

    shown: 0 for background, objects from 1. class_ids: the class of each id. width: of the border in pixels, odd.
    """
    window = np.ones((width, width), np.uint8)
    border = cv2.dilate(shown, window) != cv2.erode(shown, window)
    return np.where(border, np.uint8(VOID), class_ids[shown])


def _draw_video(config: ScenesConfig, index: int) -> Iterator[tuple[Pixels, Pixels]]:
    # Frames and object ids: objects that swing, turn and pass in front of each other, and a slow pan.
    rng = _generator(config, "davis", index)
    height, width = size = config.davis_size
    count = 2 + index % 2
    paths = []
    for number in range(count):
        kind = CLASSES[int(rng.integers(len(CLASSES)))]
        item = sample_item(rng, kind, (0.0, 0.0), min(size) * rng.uniform(0.18, 0.26))
        middle = rng.uniform(0.42, 0.58), rng.uniform(0.42, 0.58)  # of its swing, as shares of the frame
        swing = rng.uniform(0.2, 0.32), rng.uniform(0.08, 0.24)
        start = number / count + rng.uniform(-0.1, 0.1)
        paths.append((item, middle, swing, start, rng.uniform(0.5, 1.5) * (1 if rng.uniform() < 0.5 else -1)))
    pan = round(0.12 * width)
    backdrop = sample_backdrop(rng, (height, width + pan), clutter=12)
    light = sample_light(rng)
    for frame in range(config.davis_frames):
        time = frame / max(config.davis_frames - 1, 1)
        items = list[Item]()
        for item, middle, swing, start, turn in paths:
            angle = math.tau * (0.55 * time + start)
            center = (
                width * (middle[0] + swing[0] * math.cos(angle)),
                height * (middle[1] + swing[1] * math.sin(angle)),
            )
            radius = item.radius * (1 + 0.15 * math.sin(angle))
            items.append(replace(item, center=center, tilt=item.tilt + turn * time, radius=radius))
        left = round(pan * time)
        yield draw(backdrop[:, left : left + width], items, light, rng)
