"""`dinoscope attention`: pictures of what a model attends to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from dinoscope.cli.pictures import claim, find_files, say_drawn, unique_names, write_picture
from dinoscope.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8
    from numpy import ndarray
    from torch import Tensor

    from dinoscope.models.backbone import Backbone


@dataclass(frozen=True)
class Options:
    """Draw one page for each image: the mean over the heads, its mask, and every head with its mask.

    The attention is that of the class token in one block. A ResNet has none: it shows where its features are
    strong.
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")]
    """Image files, or folders of images."""

    model: str
    """Run folder, exported folder, weights file (also others'), released weights (`dinoscope models`), or
    random:NETWORK."""

    out: Path = Path("attention")
    """Folder for the pictures, NAME_attention.png for each image."""

    size: int | None = None
    """Short side at which the network sees an image, in pixels; by default the one it was trained at. More
    pixels give a finer map."""

    block: int = -1
    """Block of the transformer: from 0, or from the end with -1 the last."""

    mass: float = 0.6
    """Share of the attention that a mask holds, above 0 and at most 1."""

    limit: int = 16
    """Images taken from each folder, spread evenly over it."""

    separate: bool = False
    """Also write each overlay and mask as a PNG of its own, as large as the image."""

    overwrite: bool = False
    """Replace pictures that are already there."""

    device: str = "auto"
    """cpu, cuda, cuda:N or mps; auto takes the best there is."""


def main(argv: list[str]) -> int:
    """Draw, say where the pictures are and which images could not be read. Raises UserError."""
    options = tyro.cli(Options, args=argv, prog="dinoscope attention", config=(tyro.conf.FlagCreatePairsOff,))
    drawn, faults = draw(options)
    say_drawn(drawn, faults, options.out)
    return 0


def draw(options: Options) -> tuple[int, list[str]]:
    """Write the pictures; return the number of images drawn, and what was wrong with each of the others.

    Raises UserError where there is no model or no image, an option is out of range, or pictures are there
    already or cannot be written.
    """
    from dinoscope.cli.console import progress_bar
    from dinoscope.data.decode import UnreadableImage, decode
    from dinoscope.explain.attention import prepare
    from dinoscope.model_names import load_model
    from dinoscope.training.device import pick_device

    files = find_files(options.images, options.limit)
    backbone = load_model(options.model, progress_bar).backbone.to(pick_device(options.device))
    size, kinds = _size(options, backbone), _kinds(backbone, options)
    targets = [[options.out / f"{name}_{kind}.png" for kind in kinds] for name in unique_names(files)]
    claim(options.out, chain.from_iterable(targets), overwrite=options.overwrite)
    faults: list[str] = []
    with progress_bar("drawing attention") as progress:
        for done, (file, paths) in enumerate(zip(files, targets, strict=True)):
            progress(done, len(files))
            try:
                image = decode(file)
                pixels = prepare(image, size, backbone.patch_size)
            except (UnreadableImage, UserError) as error:
                faults.append(f"{file}: {error}")
                continue
            maps = _maps(backbone, pixels, options.block)
            pictures = _pictures(image, maps, options, file.name, _note(options, backbone))
            for path, picture in zip(paths, pictures, strict=True):
                write_picture(path, picture)
    return len(files) - len(faults), faults


def _kinds(backbone: Backbone, options: Options) -> list[str]:
    """What the pictures of one image are called after its name."""
    from dinoscope.explain.attention import count_heads

    if not options.separate:
        return ["attention"]
    heads = [f"head{head}" for head in range(count_heads(backbone))]
    return ["attention", *(kind for each in ["mean", *heads] for kind in (each, f"{each}_mask"))]


def _size(options: Options, backbone: Backbone) -> int:
    """The short side the network is to see."""
    if options.size is None:
        return backbone.config.image_size
    if options.size < backbone.patch_size:
        raise UserError(f"--size must be at least one patch of {backbone.patch_size} px, not {options.size}")
    return options.size


def _maps(backbone: Backbone, pixels: UInt8[Tensor, "3 h w"], block: int) -> Float[Tensor, "heads rows columns"]:
    """The maps of one image, on the CPU. Raises UserError where the network gives no numbers."""
    from dinoscope.explain.attention import attention_maps

    images = backbone.normalize(pixels[None].to(backbone.mean.device))
    maps = attention_maps(backbone, images, block)[0].cpu()
    if not maps.isfinite().all():
        raise UserError("the attention is not finite: the weights of this model are broken (did its training diverge?)")
    return maps


def _pictures(
    image: UInt8[ndarray, "h w 3"],
    maps: Float[Tensor, "heads rows columns"],
    options: Options,
    title: str,
    note: str,
) -> Iterator[UInt8[ndarray, "_ _ 3"]]:
    """The pictures of one image, in the order of `_kinds`."""
    from dinoscope.explain.attention import map_masks, mean_and_heads
    from dinoscope.report.figures import attention_panel, mask_overlay, overlay

    yield attention_panel(image, maps, options.mass, title, note)
    if options.separate:
        every = mean_and_heads(maps[None])[0]
        for each, mask in zip(every.numpy(), map_masks(every, options.mass).numpy(), strict=True):
            yield overlay(image, each)
            yield mask_overlay(image, mask)


def _note(options: Options, backbone: Backbone) -> str:
    """What was asked of which model, in a few words."""
    block = "" if options.block == -1 else f", block {options.block}"
    return f"{Path(options.model).resolve().name}: {backbone.config.name}{block}"
