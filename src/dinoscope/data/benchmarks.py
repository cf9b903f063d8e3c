"""Data whose objects are known pixel by pixel: masks as PNG files, PASCAL VOC 2012, folders of masks, and DAVIS.

In a VOC mask 0 is background, 255 void (not counted), every other value a class. In a folder of masks whose values are
only 0 and 255 (as drawing programs write them, with soft edges or without), 255 is the object.

    DAVIS/JPEGImages/480p/SEQUENCE/00000.jpg    DAVIS/Annotations/480p/SEQUENCE/00000.png
    DAVIS/ImageSets/{2016,2017}/val.txt

DAVIS 2017: a pixel of an annotation is the number of its object; 0 is background and so, as in the official scorer, is
the void value 255. DAVIS 2016: every sequence has one object, which is whatever is not 0.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path, PurePath
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Int, UInt8
from numpy import ndarray
from PIL import Image

from dinoscope.data import pillow
from dinoscope.data.grey_range import Window
from dinoscope.data.images import UnreadableImage, decode, format_of, opened, pixel_limit, read_size
from dinoscope.data.sources import as_stored, comparable, evenly, images_in_folder, images_within
from dinoscope.errors import UserError, lookup
from dinoscope.places import require_local

BACKGROUND, VOID = 0, 255

# Masks

_BIT_DEPTH = 24  # place of the bits of a pixel in a file (PNG 1.2, 4.1.1)
_HALF = 128
_WHITE = 224
"""What is painted in white is at least so bright: 255, or a little less after a compression that loses detail."""
_GREY = 32
"""Edges are grey; numbers of objects and classes next to a void of 255 are mostly smaller."""
_MAX_FLAT = 0.1
"""Share of the pixels between black and white that may lie amidst equal ones: few in a soft edge, most in an object."""
_MAX_THIN = 8
"""Values that no area has, from which on they are edges rather than objects, if they are most of the values."""


def read_indices(path: Path) -> UInt8[ndarray, "h w"]:
    """Return the values of a palette or grey PNG as they stand in the file: the palette is not looked up.

    With one bit and no palette the object is 255, as drawing programs write it. Programs that draw leave soft edges,
    grey between the 0 outside of an object and its 255: if a grey mask has them, it is cut at one half, to 0 and 255.

    Raises UserError, with the file's name, for what is missing, damaged, too large, has colours instead of indices, or
    soft edges of something that is not white.
    """
    limit = pixel_limit()
    try:
        with opened(path, limit) as file:
            content = file.read()
            if format_of(BytesIO(content), path.name) != "PNG":
                raise UnreadableImage("the content is of another format")
            image, _, _ = pillow.open_bare("PNG", BytesIO(content), limit)
            indexed = image.mode in ("1", "L", "P")
            values = np.array(image.convert("L") if image.mode == "1" else image, np.uint8) if indexed else None
    except UnreadableImage as error:
        raise UserError(f"{path}: not a readable PNG: {error}") from error
    if values is None:
        raise UserError(
            f"{path} is a PNG of mode {image.mode}, and a mask needs one index a pixel: "
            "save it with a palette, or as 8-bit grey"
        )
    if image.mode != "L":
        return values
    cut, bits = _cut(values, path), content[_BIT_DEPTH]
    # Pillow stretches grey of 2 and 4 bits to 255
    return cut if bits == 8 or cut is not values else values // np.uint8(255 // (2**bits - 1))


def _cut(values: UInt8[ndarray, "h w"], path: Path) -> UInt8[ndarray, "h w"]:
    """Return the values of a grey mask as they are, or 0 and 255 if it shows something in white with soft edges.

    Grey pixels of an edge lie next to other values, since an edge is a slope; those of an object, or of a class, lie
    amidst equal ones. Raises UserError for edges without white.
    """
    present = _levels(values)
    if len(present) < 2 or present[-1] < _GREY:
        return values
    square = cv2.getStructuringElement(cv2.MORPH_RECT, (3, 3))
    flat = cv2.dilate(values, square) == cv2.erode(values, square)
    areas, between = _levels(values[flat]), (values > 0) & (values < _WHITE)
    white, grey = areas[-1:] >= _WHITE, (present >= _GREY) & (present < 255)
    if white.any() and grey.any() and (flat & between).sum() <= _MAX_FLAT * between.sum():
        return np.where(values < _HALF, np.uint8(0), np.uint8(255))
    thin = len(np.setdiff1d(present[present >= _GREY], areas))
    if thin >= _MAX_THIN and thin > len(areas):
        raise UserError(
            f"{path} has soft edges: {thin} of its {len(present)} values lie along edges alone. A mask needs one value "
            "for each object: cut it at one half, or, if they are numbers of objects, save it with a palette"
        )
    return values


def _levels(values: UInt8[ndarray, "*n"]) -> Int[ndarray, " levels"]:
    """Return the different values but 0, in order."""
    return np.flatnonzero(np.bincount(values.ravel(), minlength=256)[1:]) + 1


def encode_indices(indices: UInt8[ndarray, "h w"]) -> bytes:
    """Return a palette PNG with VOC's colours whose pixel values are the indices."""
    image = Image.fromarray(indices, mode="P")
    image.putpalette(voc_palette())
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def voc_palette() -> list[int]:
    """Return the 256 colours of PASCAL VOC, flat RGB: bits of the index dealt to the channels, highest bit first."""
    indices = np.arange(256)
    colors = np.zeros((256, 3), np.int64)
    for level in range(8):
        for channel in range(3):
            colors[:, channel] |= ((indices >> (3 * level + channel)) & 1) << (7 - level)
    return colors.flatten().tolist()


# Images with masks

_LOOKED_AT = 10
"""Masks of a folder that tell what 255 means: all would cost a decoding each, and programs write all masks alike."""


class SizesDisagree(UserError):
    """A mask is not as large as its image."""


def object_pixels(mask: UInt8[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """Return which pixels of a mask (0 background, 255 void, else a class) belong to any object."""
    return (mask != BACKGROUND) & (mask != VOID)


@dataclass(frozen=True)
class MaskedImages:
    """Image files and the mask file of each.

    name: of the data, for tables. names: of the images, unique, with forward slashes.
    binary: in these masks 255 is the object and nothing is void.
    without_mask: names of images that are left out since they have no mask.
    """

    root: Path
    name: str
    names: tuple[str, ...]
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    binary: bool
    without_mask: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def classes(self, index: int) -> UInt8[ndarray, "h w"]:
        """Return a mask: 0 background, 255 void, else a class. Raises UserError as `read_indices` does."""
        values = read_indices(self.masks[index])
        return (values > 0).astype(np.uint8) if self.binary else values

    def ground_truth(self, index: int, size: tuple[int, int]) -> UInt8[ndarray, "h w"]:
        """Return `classes` of an image whose (height, width) is `size`.

        Raises UserError as `classes` does, and SizesDisagree if the mask is of another size.
        """
        mask = self.classes(index)
        if mask.shape != size:
            raise SizesDisagree(
                f"{self.masks[index]} is {mask.shape[1]} x {mask.shape[0]} px, its image {size[1]} x {size[0]} px"
            )
        return mask

    def subset(self, limit: int | None) -> MaskedImages:
        """Return at most `limit` of the images, evenly spaced. Raises UserError if the limit is below 1."""
        return self._at(evenly(len(self), limit))

    def named(self, names: Sequence[str]) -> MaskedImages:
        """Return the images of these names, in this order. Raises UserError for one that is not there."""
        place = {comparable(name): index for index, name in enumerate(self.names)}
        absent = next((name for name in names if comparable(name) not in place), None)
        if absent is not None:
            raise UserError(f"{self.root}: there is no image {absent} with a mask")
        return self._at([place[comparable(name)] for name in names])

    def _at(self, chosen: Sequence[int]) -> MaskedImages:
        names, images, masks = (tuple(each[i] for i in chosen) for each in (self.names, self.images, self.masks))
        return replace(self, names=names, images=images, masks=masks)


def find_masked_images(data: Path, masks: Path | None = None, split: str = "val") -> MaskedImages:
    """Find a VOC layout, or with `masks` a folder of images whose masks have the same relative names, ending in .png.

    data: without masks, a folder VOCdevkit, VOC2012, or one that holds either.

    Raises UserError if nothing fits.
    """
    masked = _find_voc(data, split) if masks is None else _find_parallel(data, masks)
    if not masked.names:
        first = f", such as {masked.without_mask[0]}" if masked.without_mask else ""
        raise UserError(f"{data}: none of {len(masked.without_mask)} images has a mask{first}")
    return masked


def find_masks(files: Sequence[Path], masks: Path) -> MaskedImages:
    """Find the masks of image files, for those that have one; their names are the files' paths.

    masks: a folder of PNG files, or a VOC layout, whose SegmentationClass is then taken. A mask is named like its
    image, and may lie in folders of the same names: of several that fit, the one that shares most of the path.

    Raises UserError if it is not a folder, or no image has a mask.
    """
    folder = _mask_folder(masks)
    candidates: dict[str, tuple[Path, Path | None]] = {}
    for file in files:
        parts = file.absolute().with_suffix(".png").parts[1:]
        places = (as_stored(folder, str(PurePath(*parts[begin:]))) for begin in range(len(parts)))
        candidates[str(file)] = file, next((path for path in places if path.is_file()), None)
    masked = _paired(folder, masks.name, candidates, voc=voc_root(masks) is not None)
    if not masked.names:
        raise UserError(f"--masks {masks}: there is no mask of any image; looked for {files[0].stem}.png and the like")
    return masked


def _mask_folder(masks: Path) -> Path:
    voc = voc_root(masks)
    folder = masks if voc is None else voc / "SegmentationClass"
    if not folder.is_dir():
        raise UserError(f"--masks {masks} is not a folder")
    return folder


def voc_root(data: Path) -> Path | None:
    """Return the folder that holds SegmentationClass: DATA, or VOC2012 in it or in its VOCdevkit; or None."""
    candidates = (data, data / "VOC2012", data / "VOCdevkit" / "VOC2012")
    return next((path for path in candidates if (path / "SegmentationClass").is_dir()), None)


def _find_voc(data: Path, split: str) -> MaskedImages:
    """Find the images that ImageSets/Segmentation/SPLIT.txt lists."""
    require_local(data)
    root = voc_root(data)
    if root is None and not data.is_dir():
        raise UserError(f"{data}: no such folder. Give the folder VOC2012, or VOCdevkit above it")
    if root is None:
        raise UserError(
            f"{data} is not laid out like PASCAL VOC 2012: there is no SegmentationClass in it, in VOC2012 or in "
            "VOCdevkit/VOC2012. For a folder of images with a folder of masks, give the latter with --masks"
        )
    file = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    candidates = {
        name: (as_stored(root / "JPEGImages", f"{name}.jpg"), as_stored(root / "SegmentationClass", f"{name}.png"))
        for name in _listed(file)
    }
    if not candidates:
        raise UserError(f"{file} lists no images")
    return _paired(root, f"VOC 2012 {split}", candidates, voc=True)


def _find_parallel(data: Path, masks: Path) -> MaskedImages:
    """Find the images below `data`, each with the PNG of the same relative name below `masks` or a VOC layout there."""
    folder, candidates, first = _mask_folder(masks), dict[str, tuple[Path, Path | None]](), dict[str, Path]()
    for path in images_in_folder(data, labelled=False).paths:
        name, file = path.rpartition(".")[0], data / path
        candidates[name] = file, as_stored(folder, f"{name}.png")
        other = first.setdefault(comparable(name), file)
        if other != file:
            raise UserError(
                f"{data}: {other.name} and {file.name} would share one mask. Give every image a name of its own, "
                "and keep masks in a folder apart from the images"
            )
    return _paired(data, data.name, candidates, voc=voc_root(masks) is not None)


def _paired(root: Path, name: str, candidates: Mapping[str, tuple[Path, Path | None]], *, voc: bool) -> MaskedImages:
    """Separate the images that have a mask from the others.

    candidates: name -> image and mask, which may be missing. In a folder that is not VOC's, 255 is the object if the
    first masks that can be read hold nothing but 0 and 255.
    """
    pairs = {key: (image, mask) for key, (image, mask) in candidates.items() if mask is not None and mask.is_file()}
    images, masks = (tuple(pair[place] for pair in pairs.values()) for place in (0, 1))
    values: set[int] = set()
    for mask in () if voc else masks[:_LOOKED_AT]:
        with contextlib.suppress(UserError):  # whoever asks for this mask gets the error
            values.update(np.unique(read_indices(mask)).tolist())
    binary = not voc and values <= {BACKGROUND, VOID}
    return MaskedImages(
        root, name, tuple(pairs), images, masks, binary, tuple(key for key in candidates if key not in pairs)
    )


def _listed(file: Path) -> list[str]:
    """Return the names in a list of images or videos, each once. Raises UserError for any other file."""
    try:
        names = list(dict.fromkeys(file.read_text(encoding="utf-8").split()))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not a list of names: it is not text") from error
    outside = next((name for name in names if Path(name).name != name or name in (".", "..") or "\\" in name), None)
    if outside is not None:
        raise UserError(f"{file} lists {outside!r}, and a name cannot lead out of the folder")
    return names


# Videos with masks

RESOLUTIONS = ("480p", "Full-Resolution", "1080p")
"""Folders of frames, the one that figures are published for first."""
FEWEST_FRAMES = 3
"""The first frame is given, and first and last are not scored."""

Year = Literal[2017, 2016]


@dataclass(frozen=True)
class DavisSequence:
    """The frames of a video in their order, and the annotation of each, or None if a frame has none.

    binary: what is not 0 is one object, number 1. size: height and width of all frames and annotations, in pixels.
    """

    name: str
    frames: tuple[Path, ...]
    annotations: tuple[Path | None, ...]
    binary: bool
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.frames)

    def image(self, index: int, window: Window | None = None) -> UInt8[ndarray, "h w 3"]:
        """Return a frame in RGB. window: the model's grey range. Raises UserError if it cannot be read."""
        try:
            return decode(self.frames[index], window=window)
        except UnreadableImage as error:
            raise UserError(f"{self.frames[index]}: {error}") from error

    def mask(self, index: int) -> UInt8[ndarray, "h w"] | None:
        """Return the number of the object at each pixel, 0 for none; None without annotation.

        Raises UserError as `read_indices` does.
        """
        file = self.annotations[index]
        return None if file is None else object_ids(read_indices(file), binary=self.binary)

    def fingerprint(self) -> str:
        """Return 32 hex digits of what decides how its objects are followed: the frames and the first annotation.

        Raises UserError if a file cannot be read.
        """
        digest = hashlib.blake2b(digest_size=16)
        try:
            for frame in self.frames:
                digest.update(b"%s\0%d\0" % (os.fsencode(frame.name), frame.stat().st_size))
            digest.update(b"" if self.annotations[0] is None else self.annotations[0].read_bytes())
        except OSError as error:
            raise UserError(f"{error.filename}: {error.strerror}") from error
        digest.update(b"\0%d" % self.binary)
        return digest.hexdigest()

    def limited(self, frames: int) -> DavisSequence:
        """Return the first frames alone. Raises UserError for fewer than three."""
        if frames < FEWEST_FRAMES:
            raise UserError(
                f"{frames} frames are too few: first and last are not scored, so take {FEWEST_FRAMES} or more"
            )
        return replace(self, frames=self.frames[:frames], annotations=self.annotations[:frames])


@dataclass(frozen=True)
class Davis:
    """Sequences to be measured. complete: whether they are all that the year's list names, and nothing else."""

    root: Path
    year: Year
    resolution: str
    sequences: tuple[DavisSequence, ...]
    complete: bool

    @property
    def frames(self) -> int:
        """Number of frames of all sequences."""
        return sum(map(len, self.sequences))


def object_ids(values: UInt8[ndarray, "h w"], *, binary: bool) -> UInt8[ndarray, "h w"]:
    """Return the number of the object at each pixel from what a file of annotations or results holds."""
    if binary:
        return (values != 0).astype(np.uint8)
    return np.where(values == VOID, np.uint8(0), values)


def read_objects(path: Path) -> UInt8[ndarray, "h w"]:
    """Return the object at each pixel of a mask file, 0 for none.

    255 is the object if the mask `is_binary`, and void otherwise. Raises UserError as `read_indices` does.
    """
    values = read_indices(path)
    return object_ids(values, binary=is_binary(values))


def is_binary(values: UInt8[ndarray, "h w"]) -> bool:
    """Return whether a mask has no values but 0 and 255, so that 255 is its object and not void."""
    return bool(np.isin(values, (BACKGROUND, VOID)).all())


def find_davis(data: Path, year: Year = 2017, names: Sequence[str] = ()) -> Davis:
    """Find the sequences of a year's list (ImageSets/YEAR/val.txt), or those named, which need not be in it.

    data: the folder DAVIS, or one that holds it.

    Raises UserError if the layout, the list, a sequence, its frames or its first annotation is missing, frames and
    annotations differ in size, or a name leads out of the folder.
    """
    root, resolution = _layout(data)
    file = root / "ImageSets" / str(year) / "val.txt"
    if not file.is_file() and not names:
        raise UserError(f"{file} is missing: it lists the sequences of {year}. Add it, or name some with --sequences")
    listed = _listed(file) if file.is_file() else []
    if not listed and not names:
        raise UserError(f"{file} lists no sequences")
    present, annotated = (
        sorted(path.name for path in (root / kind / resolution).iterdir() if path.is_dir() and path.name[0] != ".")
        for kind in ("JPEGImages", "Annotations")
    )
    complete = {comparable(name) for name in present} & {comparable(name) for name in annotated}
    missing = [name for name in listed if comparable(name) not in complete]
    if names:
        known = {comparable(name): name for name in (*listed, *present)}
        chosen = [lookup(f"sequence of {root}", name, known) for name in dict.fromkeys(map(comparable, names))]
    elif missing:  # figures of a part would pass for those of the whole
        there = " ".join(name for name in listed if name not in missing)
        raise UserError(
            f"{root}: {len(missing)} of the {len(listed)} sequences of {year} lack frames or annotations at "
            f"{resolution}, such as {missing[0]}. "
            + (f"Name those that are there: --sequences {there}" if there else "None of them is there")
        )
    else:
        chosen = listed
    sequences = tuple(_sequence(root, resolution, name, binary=year == 2016) for name in chosen)
    return Davis(root, year, resolution, sequences, sorted(chosen) == sorted(listed))


def _layout(data: Path) -> tuple[Path, str]:
    """Return the folder DAVIS, and the resolution."""
    require_local(data)
    if not data.is_dir():
        raise UserError(f"{data}: no such folder. Give the folder DAVIS, with JPEGImages and Annotations in it")
    kinds = ("JPEGImages", "Annotations")
    roots = (data, data / "DAVIS")
    root = next((root for root in roots if all((root / kind).is_dir() for kind in kinds)), None)
    if root is None:
        raise UserError(
            f"{data} is not laid out like DAVIS: there are no folders JPEGImages and Annotations in it or in DAVIS"
        )
    for resolution in RESOLUTIONS:
        if all((root / kind / resolution).is_dir() for kind in kinds):
            return root, resolution
    raise UserError(
        f"{root}: JPEGImages and Annotations have no resolution in common; looked in both for {', '.join(RESOLUTIONS)}"
    )


def _sequence(root: Path, resolution: str, name: str, *, binary: bool) -> DavisSequence:
    images, masks = (as_stored(root / kind / resolution, name) for kind in ("JPEGImages", "Annotations"))
    for folder in (images, masks):
        if not folder.is_dir():
            raise UserError(f"{folder} is missing, so {name} cannot be measured")
    frames = images_within(images)
    if len(frames) < FEWEST_FRAMES:
        raise UserError(f"{images}: {len(frames)} frames; at least {FEWEST_FRAMES} are needed")
    by_name: dict[str, Path] = {}
    for frame in frames:
        other = by_name.setdefault(comparable(frame.stem), frame)
        if other != frame:
            raise UserError(
                f"{other} is there with another ending too, or in another Unicode form ({frame.name}): of each frame, "
                "one image is needed"
            )
    files = {comparable(path.stem): path for path in sorted(masks.glob("*.png")) if path.name[0] != "."}
    annotations = tuple(files.pop(stem, None) for stem in by_name)
    if files:
        raise UserError(
            f"{masks}: annotations without a frame of their name in {images}: {len(files)}, such as {min(files)}"
        )
    if annotations[0] is None:
        raise UserError(f"{masks / frames[0].stem}.png is missing: without the first annotation no object is known")
    sizes: dict[Path, tuple[int, int]] = {}
    for file in (file for file in (*frames, *annotations) if file is not None):
        try:
            height, width = sizes[file] = read_size(file)
        except UnreadableImage as error:
            raise UserError(f"{file}: {error}") from error
        if sizes[file] != (first := sizes[frames[0]]):
            raise UserError(f"{file} is {width} x {height} px, and {frames[0]} is {first[1]} x {first[0]}")
    return DavisSequence(name, tuple(frames), annotations, binary, sizes[frames[0]])
