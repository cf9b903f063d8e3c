"""Images to begin with: those of a folder, or drawn scenes where there is none."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dinoscope.data.folder import evenly, find_images
from dinoscope.data.grey_range import Window
from dinoscope.data.masked_images import find_masks
from dinoscope.data.scenes import ScenesConfig, write_scenes
from dinoscope.demo.limits import Limits
from dinoscope.errors import UserError

COUNT = 8


@dataclass(frozen=True)
class Sample:
    """An image file. mask: of its objects, or None. binary: what 255 means there, see `pictures.read_truth`."""

    path: Path
    mask: Path | None = None
    binary: bool | None = None


def find_samples(data: Path, masks: Path | None, count: int = COUNT) -> list[Sample]:
    """Images spread evenly over a folder, those that have masks where masks are given.

    Raises UserError where there are no images, or none has a mask.
    """
    folder = find_images(data, labelled=False)
    if masks is None:
        return [Sample(folder.path(index)) for index in evenly(len(folder), count)]
    found = find_masks([folder.path(index) for index in range(len(folder))], masks).subset(count)
    return [Sample(image, mask, found.binary) for image, mask in zip(found.images, found.masks, strict=True)]


def draw_samples(folder: Path, count: int = COUNT) -> list[Sample]:
    """Draw scenes of one to four objects, and their masks, into a folder that is there."""
    config = ScenesConfig(train_per_class=0, val_per_class=0, voc_images=count, davis_sequences=0, davis_frames=0)
    voc = write_scenes(folder / "scenes", config) / "VOCdevkit"
    return find_samples(voc / "VOC2012" / "JPEGImages", voc, count)


def readable(samples: Sequence[Sample], limits: Limits) -> list[Sample]:
    """Those that the page can show: the first of them is what everybody meets.

    Raises UserError where none is left.
    """
    from dinoscope.demo.pictures import Refused, read_picture

    found: list[Sample] = []
    for sample in samples:
        with contextlib.suppress(Refused):
            read_picture(sample.path, limits)
            found.append(sample)
    if samples and not found:
        raise UserError(
            f"none of the {len(samples)} images in {samples[0].path.parent} that were to be samples can be shown: each "
            "is damaged or beyond the --limits"
        )
    return found


def thumbnails(samples: Sequence[Sample], folder: Path, window: Window | None = None) -> list[Path]:
    """Small pictures of readable samples, written into a folder. window: grey range by which they are shown."""
    from dinoscope.data.decode import decode
    from dinoscope.demo.image_view import THUMBNAIL, shrunk
    from dinoscope.pictures import write_png

    paths: list[Path] = []
    for number, sample in enumerate(samples):
        paths.append(folder / f"thumbnail-{number}.png")
        write_png(paths[-1], shrunk(decode(sample.path, window=window), THUMBNAIL, THUMBNAIL))
    return paths
