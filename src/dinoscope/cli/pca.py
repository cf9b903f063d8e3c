"""`dinoscope pca`: principal components of patch features as colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from dinoscope.cli.build import parse
from dinoscope.cli.model_option import Model
from dinoscope.cli.pictures import (
    PictureOptions,
    Viewer,
    claim,
    claim_each,
    find_files,
    look,
    say_drawn,
    write_picture,
)
from dinoscope.errors import UserError

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import Tensor


@dataclass(frozen=True)
class Options:
    """Colour each patch by the first three principal components of its features: like parts, like colours.

    Works for transformers and ResNets. Each image is analysed on its own, or all of them jointly.
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")]
    """Image files, or folders of images."""

    model: Model

    out: Path = Path("pca")
    """Folder for the pictures: NAME_pca.png for each image, or joint_pca.png."""

    joint: bool = False
    """Analyse all images jointly, so that a colour means the same in each; one page for all."""

    foreground: bool = False
    """Colour the foreground only: patches whose first component is on the far side from the border's."""

    pictures: tyro.conf.OmitArgPrefixes[PictureOptions] = field(default_factory=PictureOptions)


def main(argv: list[str]) -> int:
    """Draw, say where the pictures are and which images could not be read. Raises UserError."""
    options = parse(Options, args=argv, prog="dinoscope pca", config=(tyro.conf.FlagCreatePairsOff,))
    files = find_files(options.images, options.pictures.limit)
    viewer = options.pictures.viewers([options.model])[0]
    drawn, faults = _draw_jointly(options, files, viewer) if options.joint else _draw_each(options, files, viewer)
    say_drawn(drawn, faults, options.out)
    return 0


def _draw_each(options: Options, files: Sequence[Path], viewer: Viewer) -> tuple[int, list[str]]:
    """A page for each image; the number of pages, and what was wrong with the other images."""
    from dinoscope.explain.patches import patch_colors
    from dinoscope.report.pages import ColoredImage, Heading, colors_page

    targets, faults = claim_each(options.out, files, ["pca"], overwrite=options.pictures.overwrite), list[str]()
    for seen in look(files, [viewer], faults, "drawing components"):
        colors = patch_colors([viewer.patches(seen.inputs[0])], foreground=options.foreground)[0]
        foreground = colors.foreground.numpy() if options.foreground else None
        shown = ColoredImage("image", seen.image, colors.colors.numpy(), foreground)
        page = colors_page([shown], Heading(seen.file.name, viewer.note), colors.share)
        write_picture(targets[seen.index][0], page)
    return len(files) - len(faults), faults


def _draw_jointly(options: Options, files: Sequence[Path], viewer: Viewer) -> tuple[int, list[str]]:
    """One page for all images. Raises UserError where fewer than two could be read."""
    from dinoscope.explain.patches import patch_colors
    from dinoscope.pictures import PAGE_WIDTH, fitted
    from dinoscope.report.pages import ColoredImage, Heading, colors_page

    target, faults = options.out / "joint_pca.png", list[str]()
    claim(options.out, [target], overwrite=options.pictures.overwrite)
    names, images, features = list[str](), list["ndarray"](), list["Tensor"]()
    for seen in look(files, [viewer], faults, "looking at images"):
        names.append(seen.file.name)
        images.append(fitted(seen.image, PAGE_WIDTH // 2))  # all of them are held: no larger than they are shown
        features.append(viewer.patches(seen.inputs[0]))
    if len(images) < 2:
        raise UserError("--joint needs at least two images that can be read" + "".join(f"; {each}" for each in faults))
    colors = patch_colors(features, foreground=options.foreground)
    shown = [
        ColoredImage(name, image, each.colors.numpy(), each.foreground.numpy() if options.foreground else None)
        for name, image, each in zip(names, images, colors, strict=True)
    ]
    heading = Heading(f"{len(images)} images, analysed jointly", viewer.note)
    write_picture(target, colors_page(shown, heading, colors[0].share))
    return 1, faults
