"""`dinoscope map`: the images of a folder on a map of their features, model beside model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from dinoscope.cli.build import parse
from dinoscope.cli.extraction import ExtractionOptions
from dinoscope.cli.model_option import Models
from dinoscope.errors import UserError

if TYPE_CHECKING:
    from dinoscope.data.sources import ImageFolder
    from dinoscope.explain.embedding import EmbeddingMap
    from dinoscope.model_names import Model
    from dinoscope.pictures import Pixels
    from dinoscope.types import FeatureBank


@dataclass(frozen=True)
class Options:
    """Draw the images of a folder so that those with like features lie near each other.

    One model: a map of thumbnails. Several: a point for each image, on one map for each model. Frames and points have
    the colours of the classes, where there are labels. Of each map is said how many neighbours it keeps.
    """

    model: Models

    data: Path
    """Folder of images, at any depth. If each lies in a folder of its class, that is its label: CLASS/..., or
    train/CLASS/... and val/CLASS/..."""

    out: Path = Path("map.png")
    """Picture to write, a PNG."""

    method: Literal["tsne", "umap", "pca"] = "tsne"
    """tsne, umap (needs umap-learn: pip install 'dinoscope[umap]'), or pca."""

    limit: int = 600
    """At most so many images, spread evenly, the classes alike."""

    seed: int = 0
    """Of t-SNE and UMAP."""

    points: bool = False
    """One model: points too instead of thumbnails."""

    overwrite: bool = False
    """Replace the file where there is one."""

    extraction: tyro.conf.OmitArgPrefixes[ExtractionOptions] = field(default_factory=ExtractionOptions)


def main(argv: list[str]) -> int:
    """Draw, write, say how far the maps can be trusted. Raises UserError."""
    from dinoscope.cli.console import Console

    options = parse(
        Options, args=argv, prog="dinoscope map", config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
    )
    console = Console()
    for line in draw(options):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def draw(options: Options) -> list[str]:
    """Write the picture, whole or not at all; return what is to be said of it.

    Raises UserError where there is no model or are no images, no map can be made, or the file cannot be written.
    """
    from dinoscope.cli.console import progress_bar
    from dinoscope.data.sources import balanced, find_images_of_splits
    from dinoscope.explain.embedding import described, embedding_map
    from dinoscope.files import mark
    from dinoscope.model_names import load_models
    from dinoscope.pictures import write_png

    _check(options)
    found = find_images_of_splits(options.data)
    folder = balanced(found, options.limit)
    models = load_models(options.model, progress_bar)
    context = options.extraction.context()
    banks = [context.features(model.backbone, folder, f"features of {model.label}") for model in models]
    maps: list[EmbeddingMap] = []
    with progress_bar("placing images") as progress:
        for done, (model, bank) in enumerate(zip(models, banks, strict=True)):
            progress(done, len(models))
            try:
                maps.append(embedding_map(bank.features, options.method, options.seed))
            except UserError as error:
                raise UserError(f"{model.label}: {error}") from error
    picture, shown = _picture(options, folder, models, banks, maps)
    try:
        mark(options.out.parent, [options.out.name])
        write_png(options.out, picture)
    except OSError as error:
        raise UserError(f"{options.out} could not be written: {error}") from error
    count = len(banks[0].paths)
    lines = [f"{options.out}: {count} of {len(found)} images{shown}"]
    return lines + [f"{model.label}: {described(made)}" for model, made in zip(models, maps, strict=True)]


def _check(options: Options) -> None:
    if options.limit < 2:
        raise UserError(f"--limit must be at least 2, not {options.limit}")
    if options.out.suffix.lower() != ".png":
        raise UserError(f"--out {options.out}: the picture is a PNG, so the name must end in .png")
    if options.out.is_dir():
        raise UserError(f"{options.out} is a folder; --out names the file to write")
    if options.out.exists() and not options.overwrite:
        raise UserError(f"{options.out} exists already; choose another --out, or --overwrite to replace it")


def _picture(
    options: Options,
    folder: ImageFolder,
    models: Sequence[Model],
    banks: Sequence[FeatureBank],
    maps: Sequence[EmbeddingMap],
) -> tuple[Pixels, str]:
    """The picture, and how many of the images found room on it, in words, where not all did."""
    from dinoscope.data.images import decode
    from dinoscope.explain.embedding import TITLES
    from dinoscope.report.maps import ModelPoints, labelling_of, points_page, thumbnail, thumbnails_page

    labelling = labelling_of(banks[0])
    if len(models) > 1 or options.points:
        panels = [
            ModelPoints(model.label, "" if made.kept is None else f"{made.kept:.0%} of neighbours kept", made.points)
            for model, made in zip(models, maps, strict=True)
        ]
        return points_page(panels, labelling), ""
    window = models[0].backbone.config.window
    images = [thumbnail(decode(folder.root / path, window=window)) for path in banks[0].paths]
    heading = (f"{models[0].label}, {options.data.resolve().name}", TITLES[maps[0].method])
    picture, shown = thumbnails_page(maps[0].points, images, labelling, *heading)
    return picture, "" if shown == len(images) else f", {shown} of them with room for a thumbnail"
