"""Images whose objects are known pixel by pixel: PASCAL VOC 2012, or any folder with a folder of masks beside it.

In a VOC mask 0 is background, 255 void (not to be counted), every other value a class. In a folder of masks
whose values are only 0 and 255 (as drawing programs write them, with soft edges or without), 255 is the object.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray

from dinoscope.data.folder import as_stored, comparable, evenly, find_images
from dinoscope.data.index_png import read_indices
from dinoscope.errors import UserError

BACKGROUND, VOID = 0, 255
_LOOKED_AT = 10
"""Masks of a folder that tell what 255 means: looking at all would cost a decoding each, and drawing programs write
every mask alike."""


class SizesDisagree(UserError):
    """A mask is not as large as its image."""


def object_pixels(mask: UInt8[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """Which pixels of a mask (0 background, 255 void, else a class) belong to any object."""
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
        """The mask of an image: 0 background, 255 void, else a class. Raises UserError as `read_indices` does."""
        values = read_indices(self.masks[index])
        return (values > 0).astype(np.uint8) if self.binary else values

    def truth(self, index: int, size: tuple[int, int]) -> UInt8[ndarray, "h w"]:
        """`classes` of an image whose (height, width) is `size`.

        Raises UserError as `classes` does, and SizesDisagree where the mask is of another size.
        """
        mask = self.classes(index)
        if mask.shape != size:
            raise SizesDisagree(
                f"{self.masks[index]} is {mask.shape[1]} x {mask.shape[0]} px, its image {size[1]} x {size[0]} px"
            )
        return mask

    def subset(self, limit: int | None) -> MaskedImages:
        """At most `limit` of the images, spread evenly. Raises UserError where the limit is below 1."""
        return self._at(evenly(len(self), limit))

    def named(self, names: Sequence[str]) -> MaskedImages:
        """The images of these names, in this order. Raises UserError for one that is not there."""
        place = {comparable(name): index for index, name in enumerate(self.names)}
        absent = next((name for name in names if comparable(name) not in place), None)
        if absent is not None:
            raise UserError(f"{self.root}: there is no image {absent} with a mask")
        return self._at([place[comparable(name)] for name in names])

    def _at(self, chosen: Sequence[int]) -> MaskedImages:
        return replace(
            self,
            names=tuple(self.names[i] for i in chosen),
            images=tuple(self.images[i] for i in chosen),
            masks=tuple(self.masks[i] for i in chosen),
        )


def find_masked_images(data: Path, masks: Path | None = None, split: str = "val") -> MaskedImages:
    """A VOC layout, or with `masks` a folder of images whose masks have the same relative names, ending in .png.

    data: without masks, a folder VOCdevkit, VOC2012, or one that holds either.

    Raises UserError where nothing fits.
    """
    found = _find_voc(data, split) if masks is None else _find_parallel(data, masks)
    if not found.names:
        first = f", such as {found.without_mask[0]}" if found.without_mask else ""
        raise UserError(f"{data}: none of {len(found.without_mask)} images has a mask{first}")
    return found


def find_masks(files: Sequence[Path], masks: Path) -> MaskedImages:
    """The masks of some image files: of those that have one; their names are the files' paths.

    masks: a folder of PNG files, or a VOC layout, whose SegmentationClass is then taken. A mask is named like its
    image, and may lie in folders of the same names: of several that fit, the one that shares most of the path.

    Raises UserError where it is not a folder, or no image has a mask.
    """
    voc = voc_root(masks)
    folder = masks if voc is None else voc / "SegmentationClass"
    if not folder.is_dir():
        raise UserError(f"--masks {masks} is not a folder")
    pairs = {file: mask for file in files if (mask := _mask_of(file, folder)) is not None}
    missing = tuple(str(file) for file in files if file not in pairs)
    if not pairs:
        raise UserError(f"--masks {masks}: there is no mask of any image; looked for {files[0].stem}.png and the like")
    names = tuple(map(str, pairs))
    found = MaskedImages(folder, masks.name, names, tuple(pairs), tuple(pairs.values()), False, missing)
    return _with_meaning(found) if voc is None else found


def _mask_of(image: Path, folder: Path) -> Path | None:
    parts = image.absolute().with_suffix(".png").parts[1:]
    candidates = (as_stored(folder, str(PurePath(*parts[begin:]))) for begin in range(len(parts)))
    return next((path for path in candidates if path.is_file()), None)


def voc_root(data: Path) -> Path | None:
    """The folder that holds SegmentationClass: DATA, or VOC2012 in it or in its VOCdevkit; or None."""
    candidates = (data, data / "VOC2012", data / "VOCdevkit" / "VOC2012")
    return next((path for path in candidates if (path / "SegmentationClass").is_dir()), None)


def _find_voc(data: Path, split: str) -> MaskedImages:
    """The images that ImageSets/Segmentation/SPLIT.txt lists."""
    root = voc_root(data)
    if root is None and not data.is_dir():
        raise UserError(f"{data}: no such folder. Give the folder VOC2012, or VOCdevkit above it")
    if root is None:
        raise UserError(
            f"{data} is not laid out like PASCAL VOC 2012: there is no SegmentationClass in it, in VOC2012 or in "
            "VOCdevkit/VOC2012. For a folder of images with a folder of masks, give the latter with --masks"
        )
    list_file = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    try:
        names = list_file.read_text(encoding="utf-8").split()
    except OSError as error:
        raise UserError(f"{list_file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{list_file} is not a list of names: it is not text") from error
    if not names:
        raise UserError(f"{list_file} lists no images")
    outside = next((name for name in names if Path(name).name != name), None)
    if outside is not None:
        raise UserError(f"{list_file} lists {outside!r}, and a name cannot lead out of the folder")
    images = {name: as_stored(root / "JPEGImages", f"{name}.jpg") for name in names}
    return _paired(root, f"VOC 2012 {split}", images, root / "SegmentationClass", binary=False)


def _find_parallel(data: Path, masks: Path) -> MaskedImages:
    """The images below `data`, each with the PNG of the same relative name below `masks`, or in a VOC layout there."""
    voc = voc_root(masks)
    masks = masks if voc is None else voc / "SegmentationClass"
    if not masks.is_dir():
        raise UserError(f"--masks {masks} is not a folder")
    folder = find_images(data, labelled=False)
    images: dict[str, Path] = {}
    first: dict[str, Path] = {}
    for index, path in enumerate(folder.paths):
        name = path.rpartition(".")[0]
        images[name] = folder.path(index)
        other = first.setdefault(comparable(name), folder.path(index))
        if other != folder.path(index):
            raise UserError(
                f"{data}: {other.name} and {Path(path).name} would share one mask. Give every image a name of its own, "
                "and keep masks in a folder apart from the images"
            )
    found = _paired(data, data.name, images, masks, binary=False)
    return found if voc is not None else _with_meaning(found)


def _with_meaning(found: MaskedImages) -> MaskedImages:
    """Take 255 for the object where the first masks that can be read hold nothing but 0 and 255."""
    values: set[int] = set()
    for mask in found.masks[:_LOOKED_AT]:
        with contextlib.suppress(UserError):  # whoever asks for this mask hears of it
            values.update(np.unique(read_indices(mask)).tolist())
    return replace(found, binary=values <= {BACKGROUND, VOID})


def _paired(root: Path, name: str, images: dict[str, Path], masks: Path, *, binary: bool) -> MaskedImages:
    files = {image: as_stored(masks, f"{image}.png") for image in images}
    having = tuple(image for image, file in files.items() if file.is_file())
    there = set(having)
    return MaskedImages(
        root,
        name,
        having,
        tuple(images[image] for image in having),
        tuple(files[image] for image in having),
        binary,
        tuple(image for image in images if image not in there),
    )
