"""The embedded data set: drawn scenes of ten kinds of object, written in the public layouts.

No download can be relied on, so first steps, tests and demos use these. The class of an object is its outline
and texture, as in photographs. Everything else is free and says nothing about it: position, scale, tilt (up to
46 degrees), mirroring, proportions, both colours and which of them is the lighter, phase and fineness of the
texture, direction, strength and warmth of the light, the background (colours, horizon, soft noise), clutter
(blurred discs), and grain.

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
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dinoscope.data.benchmarks import VOID, encode_indices
from dinoscope.errors import UserError
from dinoscope.scenes.drawing import KINDS, Item, draw, sample_backdrop, sample_item, sample_light

# Raise it whenever a drawn pixel changes: folders of another version are not reused.
VERSION = 3

CLASSES = tuple(KINDS)

_PARTS = {"train": 0, "val": 1, "voc": 2, "davis": 3}
_VOC_SIZES = ((192, 256), (256, 192), (200, 200), (180, 280))

Pixels = NDArray[np.uint8]
Files = Iterator[tuple[str, bytes]]


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
    out = Path(out)
    if _is_written(out, config):
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    building.chmod(0o755)  # mkdtemp lets only the owner in
    try:
        total = _file_count(config)
        for done, (name, content) in enumerate(_files(config), start=1):
            path = building / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            if progress is not None:
                progress(done, total)
        (building / "scenes.json").write_text(json.dumps(_identity(config), indent=2) + "\n")
        if out.exists():
            out.rmdir()
        building.rename(out)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return out


def _is_written(out: Path, config: ScenesConfig) -> bool:
    """Return True for a finished folder of this config, False for a free place; refuse all else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    record = out / "scenes.json"
    try:
        found = json.loads(record.read_text())
    except (OSError, ValueError):
        raise UserError(f"{out} exists and holds no drawn scenes; choose another folder or empty it") from None
    if found != _identity(config):
        raise UserError(f"{out} holds scenes of another config or version (see {record}); choose another folder")
    return True


def _identity(config: ScenesConfig) -> dict[str, object]:
    """Return what `scenes.json` says, as JSON gives it back."""
    return json.loads(json.dumps({"version": VERSION, "classes": CLASSES, "config": asdict(config)}))


def _file_count(config: ScenesConfig) -> int:
    folder = len(CLASSES) * (config.train_per_class + 2 * config.val_per_class)
    return folder + 2 * config.voc_images + 1 + 2 * config.davis_sequences * config.davis_frames + 1


def _files(config: ScenesConfig) -> Files:
    """Yield every file of the data set as (path below the folder, content)."""
    yield from _folder_files(config)
    yield from _voc_files(config)
    yield from _davis_files(config)


def _generator(config: ScenesConfig, part: str, *indices: int) -> np.random.Generator:
    return np.random.default_rng([config.seed, _PARTS[part], *indices])


def draw_single(config: ScenesConfig, split: str, class_index: int, index: int) -> tuple[Pixels, Pixels]:
    """Draw one image of the ImageFolder part: RGB [size, size, 3], and the object's mask [size, size], 0 or 255.

    The object fills 50 to 92 % of the side, may leave the image by three tenths of its radius, and is mirrored or not.
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


def _folder_files(config: ScenesConfig) -> Files:
    for split, count in (("train", config.train_per_class), ("val", config.val_per_class)):
        for class_index, name in enumerate(CLASSES):
            for index in range(count):
                image, mask = draw_single(config, split, class_index, index)
                yield f"folder/{split}/{name}/{index:05d}.jpg", _jpeg(image)
                if split == "val":
                    yield f"folder-masks/val/{name}/{index:05d}.png", _png(mask)


def _voc_files(config: ScenesConfig) -> Files:
    names = [f"2012_{index:06d}" for index in range(config.voc_images)]
    for index, name in enumerate(names):
        image, classes = _draw_several(config, index)
        yield f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg", _jpeg(image)
        yield f"VOCdevkit/VOC2012/SegmentationClass/{name}.png", encode_indices(classes)
    yield "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", "".join(f"{name}\n" for name in names).encode()


def _draw_several(config: ScenesConfig, index: int) -> tuple[Pixels, Pixels]:
    """Draw one image of the VOC part: RGB, and classes from 1 with void borders."""
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
    """Turn object indices [h, w] into class ids, with `VOID` where two objects, or an object and the ground, meet.

    shown: 0 for background, else the object's place from 1. class_ids: class of each place, first the background's.
    width: of the border in pixels, odd.
    """
    window = np.ones((width, width), np.uint8)
    border = cv2.dilate(shown, window) != cv2.erode(shown, window)
    return np.where(border, np.uint8(VOID), class_ids[shown])


@dataclass(frozen=True)
class _Path:
    """How an object moves: a swing about a middle (fractions of the frame), turning and breathing."""

    item: Item
    middle: tuple[float, float]
    swing: tuple[float, float]
    start: float
    turn: float

    def at(self, time: float, size: tuple[int, int]) -> Item:
        """Return the object at `time` in [0, 1]."""
        angle = 2 * math.pi * (0.55 * time + self.start)
        height, width = size
        center = (
            width * (self.middle[0] + self.swing[0] * math.cos(angle)),
            height * (self.middle[1] + self.swing[1] * math.sin(angle)),
        )
        radius = self.item.radius * (1 + 0.15 * math.sin(angle))
        return replace(self.item, center=center, tilt=self.item.tilt + self.turn * time, radius=radius)


def _sample_path(rng: np.random.Generator, size: tuple[int, int], place: int, count: int) -> _Path:
    kind = CLASSES[int(rng.integers(len(CLASSES)))]
    return _Path(
        item=sample_item(rng, kind, (0.0, 0.0), min(size) * rng.uniform(0.18, 0.26)),
        middle=(rng.uniform(0.42, 0.58), rng.uniform(0.42, 0.58)),
        swing=(rng.uniform(0.2, 0.32), rng.uniform(0.08, 0.24)),
        start=place / count + rng.uniform(-0.1, 0.1),
        turn=rng.uniform(0.5, 1.5) * (1 if rng.uniform() < 0.5 else -1),
    )


def _davis_files(config: ScenesConfig) -> Files:
    names = [f"scene-{index:02d}" for index in range(config.davis_sequences)]
    for index, name in enumerate(names):
        for frame, (image, shown) in enumerate(_draw_video(config, index)):
            yield f"DAVIS/JPEGImages/480p/{name}/{frame:05d}.jpg", _jpeg(image)
            yield f"DAVIS/Annotations/480p/{name}/{frame:05d}.png", encode_indices(shown)
    yield "DAVIS/ImageSets/2017/val.txt", "".join(f"{name}\n" for name in names).encode()


def _draw_video(config: ScenesConfig, index: int) -> Iterator[tuple[Pixels, Pixels]]:
    """Yield frames and object ids of one video: objects that pass in front of each other, and a slow pan."""
    rng = _generator(config, "davis", index)
    height, width = config.davis_size
    count = 2 + index % 2
    paths = [_sample_path(rng, config.davis_size, place, count) for place in range(count)]
    pan = round(0.12 * width)
    backdrop = sample_backdrop(rng, (height, width + pan), clutter=12)
    light = sample_light(rng)
    for frame in range(config.davis_frames):
        time = frame / max(config.davis_frames - 1, 1)
        left = round(pan * time)
        items = [path.at(time, config.davis_size) for path in paths]
        yield draw(backdrop[:, left : left + width], items, light, rng)


def _jpeg(image: Pixels) -> bytes:
    settings = [cv2.IMWRITE_JPEG_QUALITY, 92]
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)[1].tobytes()


def _png(mask: Pixels) -> bytes:
    return cv2.imencode(".png", mask)[1].tobytes()
