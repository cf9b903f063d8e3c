"""`dinoscope segment`: the foreground of images, without labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import tyro

from dinoscope.cli.build import parse
from dinoscope.cli.model_option import Model
from dinoscope.cli.pictures import PictureOptions, Viewer, claim_each, find_files, look, say_drawn, write_picture
from dinoscope.errors import lookup

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray
    from torch import Tensor

    from dinoscope.pictures import Legend, Tile


@dataclass(frozen=True)
class Options:
    """Write the foreground of each image as a mask of the image's own size: 255 inside, 0 outside.

    Beside it a page with the image, what the mask was made from, and the mask. A mask is as fine as the patches;
    a larger --size makes them finer.
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")]
    """Image files, or folders of images."""

    model: Model

    out: Path = Path("segments")
    """Folder for the pictures: NAME_mask.png, NAME_segment.png, and NAME_cutout.png with --cutout."""

    by: str = "attention"
    """attention (of a ResNet: feature energy), rollout, energy, gradcam or centre: the patches that hold --mass of it.
    pca: those whose first principal component is on the far side from the border's; it needs no class token."""

    block: int = -1
    """With a map: the block of the transformer, from 0, or from the end with -1 the last."""

    mass: float = 0.6
    """With a map: the share of it that the mask holds, above 0 and at most 1."""

    cutout: bool = False
    """Also write the image with a transparent background."""

    pictures: tyro.conf.OmitArgPrefixes[PictureOptions] = field(default_factory=PictureOptions)


class Found(NamedTuple):
    """The foreground of an image's patches, the picture it was made from, and that one's scale of colours."""

    mask: Bool[Tensor, "rows columns"]
    made_from: Tile
    legend: Legend | None


def main(argv: list[str]) -> int:
    """Draw, say where the pictures are and which images could not be read. Raises UserError."""
    options = parse(Options, args=argv, prog="dinoscope segment", config=(tyro.conf.FlagCreatePairsOff,))
    drawn, faults = draw(options)
    say_drawn(drawn, faults, options.out)
    return 0


def draw(options: Options) -> tuple[int, list[str]]:
    """Write the pictures; return the number of images drawn, and what was wrong with each of the others.

    Raises UserError where there is no model or no image, an option is out of range, or pictures are there
    already or cannot be written.
    """
    import numpy as np

    from dinoscope.explain.attention import upsample
    from dinoscope.explain.maps import MAPS
    from dinoscope.report.pages import Heading, segment_page

    lookup("way to segment", options.by, {**dict.fromkeys(MAPS), "pca": None})
    files = find_files(options.images, options.pictures.limit)
    viewer = options.pictures.viewers([options.model])[0]
    kinds = ["mask", "segment", *(["cutout"] if options.cutout else [])]
    targets = claim_each(options.out, files, kinds, overwrite=options.pictures.overwrite)
    faults: list[str] = []
    for seen in look(files, [viewer], faults, "segmenting"):
        ground = shown_image(seen.image)
        find = by_components if options.by == "pca" else by_map
        found = find(viewer, seen.inputs[0], ground, options)
        size = (seen.image.shape[0], seen.image.shape[1])
        inside = (255 * upsample(found.mask.float(), size, "nearest")).numpy().astype(np.uint8)
        write_picture(targets[seen.index][0], inside)
        heading = Heading(seen.file.name, viewer.note)
        page = segment_page(seen.image, found.made_from, found.mask.numpy(), heading, found.legend)
        write_picture(targets[seen.index][1], page)
        if options.cutout:
            write_picture(targets[seen.index][2], np.dstack([seen.image, inside]))
    return len(files) - len(faults), faults


def shown_image(image: ndarray) -> ndarray:
    """The image as large as a page shows it."""
    from dinoscope.pictures import PAGE_WIDTH, fitted, tile_width

    return fitted(image, tile_width(PAGE_WIDTH, 3))


def by_map(viewer: Viewer, images: Float[Tensor, "1 3 h w"], ground: ndarray, options: Options) -> Found:
    """The fewest patches that hold the mass of the mean map."""
    from dinoscope.explain.attention import map_masks
    from dinoscope.explain.maps import MAPS, map_title
    from dinoscope.pictures import Tile, mass_legend, overlay

    backbone = viewer.model.backbone
    title = map_title(options.by, backbone)
    mean = viewer.on_cpu(MAPS[options.by](backbone, images, options.block), title).mean(dim=0)
    grid = f"{mean.shape[1]} × {mean.shape[0]} patches"
    tile = Tile(overlay(ground, mean.numpy()), title, grid)
    return Found(map_masks(mean, options.mass), tile, mass_legend(options.mass, title))


def by_components(viewer: Viewer, images: Float[Tensor, "1 3 h w"], ground: ndarray, options: Options) -> Found:
    """Patches whose first principal component is on the far side from the border's."""
    from dinoscope.explain.patches import patch_colors
    from dinoscope.pictures import Tile, color_picture

    found = patch_colors([viewer.patches(images)], foreground=True)[0]
    rows, columns, _ = found.colors.shape
    picture = color_picture(found.colors.numpy(), (ground.shape[0], ground.shape[1]))
    tile = Tile(picture, "principal components", f"{columns} × {rows} patches")
    return Found(found.foreground, tile, None)
