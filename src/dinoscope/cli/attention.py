"""`dinoscope attention`: pictures of what models attend to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import tyro

from dinoscope.cli.build import parse
from dinoscope.cli.model_option import Models
from dinoscope.cli.pictures import (
    PictureOptions,
    Seen,
    Viewer,
    claim_each,
    find_files,
    look,
    models_and_images,
    say_drawn,
    write_picture,
)
from dinoscope.errors import UserError, lookup

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8
    from numpy import ndarray
    from torch import Tensor

    from dinoscope.cli.truth import Truth


@dataclass(frozen=True)
class Options:
    """Draw what a model attends to, or compare several.

    One model: a page for each image with the mean over the heads, its mask, and every head with its mask. Several
    models, or with --masks: a page for each image with the mean map and the mask of each model, and the mask's
    Jaccard. The attention is that of the class token in one block. A ResNet has none: it shows where its features
    are strong.
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")]
    """Image files, or folders of images."""

    model: Models

    out: Path = Path("attention")
    """Folder for the pictures, one for each image: NAME_attention.png, or what --map is; NAME_compared.png of several
    models or with --masks; NAME_blocks.png."""

    map: str = "attention"
    """attention: of each head of one block (of a ResNet: feature energy). rollout: of all blocks up to that one, in
    one map. energy: length of the patches' features. gradcam: what speaks for the image's own feature. centre: a blob
    that looks at no image."""

    block: int | Literal["all"] = -1
    """Block of the transformer: from 0, or from the end with -1 the last; all draws the mean map of every block."""

    mass: float = 0.6
    """Share of a map that its mask holds, above 0 and at most 1."""

    masks: Path | None = None
    """The true masks: a folder of PNG files named like the images, or a VOC folder. 0 is background, 255 void,
    which is not counted; where a folder has only these two, 255 is the object."""

    separate: bool = False
    """One model: also write each overlay and mask as a PNG of its own, as large as the image."""

    pictures: tyro.conf.OmitArgPrefixes[PictureOptions] = field(default_factory=PictureOptions)


Pages = Callable[[Seen], "Iterator[UInt8[ndarray, '_ _ 3']]"]
"""Makes the pictures of one image, in the order of their kinds."""


def main(argv: list[str]) -> int:
    """Draw, say where the pictures are and which images could not be read. Raises UserError."""
    options = parse(Options, args=argv, prog="dinoscope attention", config=(tyro.conf.FlagCreatePairsOff,))
    drawn, faults = draw(options)
    say_drawn(drawn, faults, options.out)
    return 0


def draw(options: Options) -> tuple[int, list[str]]:
    """Write the pictures; return the number of images drawn, and what was wrong with each of the others.

    Raises UserError where there is no model or no image, an option is out of range, or pictures are there
    already or cannot be written.
    """
    from dinoscope.cli.truth import find_truth, say_scores
    from dinoscope.explain.maps import MAPS

    lookup("kind of map", options.map, MAPS)
    models, images = models_and_images(options.model, options.images)
    files = find_files(images, options.pictures.limit)
    viewers = options.pictures.viewers(models)
    truth = None if options.masks is None else find_truth(files, options.masks)
    kinds, pages = _choose(options, viewers, truth)
    targets = claim_each(options.out, files, kinds, overwrite=options.pictures.overwrite)
    drawn, faults = 0, list[str]()
    for seen in look(files, viewers, faults, "drawing attention"):
        fault = truth.fault(seen) if truth else None
        if fault:
            faults.append(fault)
            continue
        for path, picture in zip(targets[seen.index], pages(seen), strict=True):
            write_picture(path, picture)
        drawn += 1
    if truth and drawn:
        say_scores(truth, [viewer.model.label for viewer in viewers])
    return drawn, faults


def _choose(options: Options, viewers: Sequence[Viewer], truth: Truth | None) -> tuple[list[str], Pages]:
    """What the pictures of one image are called after its name, and what makes them."""
    from dinoscope.explain.maps import count_maps

    several = len(viewers) > 1 or truth is not None
    if options.separate and (several or options.block == "all"):
        raise UserError("--separate is for one model and one block, without --masks")
    if options.block == "all":
        if options.map != "attention" or truth is not None:
            raise UserError("--block all is for --map attention, without --masks")
        return ["blocks"], lambda seen: _blocks(seen, viewers)
    if several:
        return ["compared"], lambda seen: _comparison(seen, viewers, options, truth)
    kinds = [options.map]
    if options.separate:
        heads = [f"head{head}" for head in range(count_maps(options.map, viewers[0].model.backbone))]
        kinds += [kind for each in ["mean", *heads] for kind in (each, f"{each}_mask")]
    return kinds, lambda seen: _panel(seen, viewers[0], options)


def _maps(viewer: Viewer, images: Float[Tensor, "1 3 h w"], options: Options) -> Float[Tensor, "maps rows columns"]:
    """The maps of one image, on the CPU."""
    from dinoscope.explain.maps import MAPS, map_title

    backbone, block = viewer.model.backbone, cast(int, options.block)  # "all" is drawn by _blocks
    return viewer.on_cpu(MAPS[options.map](backbone, images, block), map_title(options.map, backbone))


def _panel(seen: Seen, viewer: Viewer, options: Options) -> Iterator[UInt8[ndarray, "_ _ 3"]]:
    """One model: the page, and with --separate each picture of it."""
    from dinoscope.explain.attention import map_masks, mean_and_heads
    from dinoscope.explain.maps import map_title
    from dinoscope.pictures import mask_overlay, overlay
    from dinoscope.report.pages import attention_panel

    maps = _maps(viewer, seen.inputs[0], options)
    note = viewer.note + ("" if options.block == -1 else f", block {options.block}")
    what = map_title(options.map, viewer.model.backbone)
    yield attention_panel(seen.image, maps, options.mass, seen.file.name, note, what)
    if options.separate:
        every = mean_and_heads(maps[None])[0]
        for each, mask in zip(every.numpy(), map_masks(every, options.mass).numpy(), strict=True):
            yield overlay(seen.image, each)
            yield mask_overlay(seen.image, mask)


def _comparison(
    seen: Seen, viewers: Sequence[Viewer], options: Options, truth: Truth | None
) -> Iterator[UInt8[ndarray, "_ _ 3"]]:
    """Several models: the mean map and the mask of each, beside the truth where there is one."""
    from dinoscope.explain.attention import map_masks
    from dinoscope.explain.maps import map_title
    from dinoscope.report.pages import Heading, ModelMap, comparison_page

    shown: list[ModelMap] = []
    for viewer, images in zip(viewers, seen.inputs, strict=True):
        mean = _maps(viewer, images, options).mean(dim=0)
        mask = map_masks(mean, options.mass)
        jaccard = truth.measure(seen, viewer.model.label, mask) if truth else None
        what = map_title(options.map, viewer.model.backbone)
        shown.append(ModelMap(viewer.model.label, what, mean.numpy(), mask.numpy(), jaccard))
    block = "the last block" if options.block == -1 else f"block {options.block}"
    if options.map == "rollout":
        block = f"rollout to {block}"
    heading = Heading(seen.file.name, f"{block}, {_sizes(viewers)}")
    yield comparison_page(seen.image, shown, options.mass, heading, truth.objects(seen) if truth else None)


def _blocks(seen: Seen, viewers: Sequence[Viewer]) -> Iterator[UInt8[ndarray, "_ _ 3"]]:
    """The mean map of every block of each model."""
    import torch

    from dinoscope.explain.attention import attention_of_blocks
    from dinoscope.models.network import require_transformer
    from dinoscope.report.pages import Heading, blocks_page

    rows: list[tuple[str, list[ndarray]]] = []
    for viewer, images in zip(viewers, seen.inputs, strict=True):
        backbone = viewer.model.backbone
        transformer = require_transformer(backbone, "--block all")
        with torch.no_grad():
            maps = [viewer.on_cpu(each.mean(dim=1), "attention") for each in attention_of_blocks(transformer, images)]
        rows.append((viewer.model.label, [each.numpy() for each in maps]))
    note = viewers[0].note if len(viewers) == 1 else _sizes(viewers)
    yield blocks_page(seen.image, rows, Heading(seen.file.name, note))


def _sizes(viewers: Sequence[Viewer]) -> str:
    """The short sides at which models see an image, each once."""
    return " and ".join(map(str, sorted({viewer.size for viewer in viewers}))) + " px"
