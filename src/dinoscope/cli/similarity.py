"""`dinoscope similarity`: which patches are like a chosen one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from dinoscope.cli.build import parse
from dinoscope.cli.model_option import Model
from dinoscope.cli.pictures import PictureOptions, claim_each, find_files, look, say_drawn, write_picture
from dinoscope.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray
    from torch import Tensor

    from dinoscope.report.pages import SimilarPatches


@dataclass(frozen=True)
class Options:
    """Draw how similar each patch is to a chosen one, in the first image and in any others.

    One page with a row for each point: the first image with the point, then the cosines in every image.
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")]
    """The image in which the points lie, then other images or folders of images."""

    model: Model

    at: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="X,Y")]
    """A point of the first image in its own pixels, from 0,0 at the upper left; may be given several times."""

    out: Path = Path("similarity")
    """Folder for the picture, NAME_similarity.png after the first image."""

    pictures: tyro.conf.OmitArgPrefixes[PictureOptions] = field(default_factory=PictureOptions)


def main(argv: list[str]) -> int:
    """Draw, say where the picture is and which images could not be read. Raises UserError."""
    options = parse(Options, args=argv, prog="dinoscope similarity", config=(tyro.conf.FlagCreatePairsOff,))
    faults = draw(options)
    say_drawn(1, faults, options.out)
    return 0


def draw(options: Options) -> list[str]:
    """Write the page; return what was wrong with each image that is not on it.

    Raises UserError where the first image cannot be read, a point is not in it, and as the other commands do.
    """
    from dinoscope.pictures import PAGE_WIDTH, fitted
    from dinoscope.report.pages import Heading, similarity_page

    points = [parse_point(text) for text in options.at]
    if not points:
        raise UserError("no point: give --at X,Y in pixels of the first image, such as --at 120,80")
    if options.images and options.images[0].is_dir():
        raise UserError(f"{options.images[0]} is a folder: the first image is the one in which the points lie")
    files = find_files(options.images, options.pictures.limit)
    viewer = options.pictures.viewers([options.model])[0]
    target = claim_each(options.out, files[:1], ["similarity"], overwrite=options.pictures.overwrite)[0][0]
    faults, names, images, features = list[str](), list[str](), list["ndarray"](), list["Tensor"]()
    size = (0, 0)
    for seen in look(files, [viewer], faults, "looking at images"):
        if seen.index == 0:
            size = (seen.image.shape[0], seen.image.shape[1])
        elif not images:
            break
        names.append(seen.file.name)
        images.append(fitted(seen.image, PAGE_WIDTH // 2))  # all of them are held: no larger than they are shown
        features.append(viewer.patches(seen.inputs[0]))
    if not images:
        raise UserError("the first image must be readable: " + "; ".join(faults))
    rows = compare_patches(points, size, features)
    heading = Heading(f"patches of {files[0].name}", viewer.note)
    write_picture(target, similarity_page(images, names, rows, size, heading))
    return faults


def parse_point(text: str) -> tuple[int, int]:
    """(x, y) of "X,Y". Raises UserError for anything else."""
    try:
        x, y = (int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--at {text}: give X,Y in whole pixels, such as --at 120,80") from None
    return x, y


def compare_patches(
    points: Sequence[tuple[int, int]], size: tuple[int, int], features: Sequence[Float[Tensor, "_ _ d"]]
) -> list[SimilarPatches]:
    """The cosines with the patch at each point of the first image, whose size is (height, width).

    Raises UserError for a point outside of it.
    """
    import torch

    from dinoscope.explain.patches import patch_at, patch_box, similarity_maps
    from dinoscope.report.pages import SimilarPatches

    grid = (features[0].shape[0], features[0].shape[1])
    patches = [patch_at(point, size, grid) for point in points]
    queries = torch.stack([features[0][patch] for patch in patches])
    maps = [similarity_maps(queries, each) for each in features]
    return [
        SimilarPatches(point, patch_box(patch, size, grid), [each[number].numpy() for each in maps])
        for number, (point, patch) in enumerate(zip(points, patches, strict=True))
    ]
