"""Correspondence: the share of regions of a view whose most similar region in another view is the true one.

EsViT's measure (Li et al. 2021, section 4.2, and `accuracy_correspondence` in its code), here over all regions too and
for two kinds of pairs, each of the whole image and a changed one:

- photometric: every region of the whole image looks for itself in its mirror image, whose colours are changed and
  dropped, as in EsViT;
- geometric: every region of a random crop, resized and perhaps mirrored, looks for the region of the whole image in
  which its centre lies. Colours stay.

The whole image is its centre square. Regions are compared by the cosine of the network's patch features. A network
that cannot tell regions apart finds as many as chance does: one in as many as there are regions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from numpy import ndarray
from torch import Tensor

from dinoscope.data.augment import apply_view
from dinoscope.data.images import UnreadableImage
from dinoscope.data.sources import ImageSource, evenly
from dinoscope.data.views import ViewParameters, ViewsConfig, for_channels, sample_view, view_generator
from dinoscope.errors import UserError
from dinoscope.evaluation.base import Column, Context, Data, Evaluation, made_of, shown_entries, shown_images
from dinoscope.evaluation.results import new_result
from dinoscope.evaluation.statistics import estimate_metric, mean_intervals
from dinoscope.features import evaluation_view
from dinoscope.losses.esvit import cosines
from dinoscope.model_names import Model
from dinoscope.models.network import Backbone, require_patches
from dinoscope.system import autocast
from dinoscope.types import Items, Metric, Result

Pair = Literal["photometric", "geometric"]
PAIRS: dict[Pair, tuple[ViewsConfig, str]] = {
    "photometric": (
        ViewsConfig(
            num_local=0,
            horizontal_flip=1.0,
            grayscale=1.0,
            blur_probability=(0, 0, 0),
            solarize_probability=(0, 0, 0),
        ),
        "whole image to its mirror image, jitter 0.4 0.4 0.2 0.1 with probability 0.8, grey",
    ),
    "geometric": (
        ViewsConfig(
            num_local=0,
            jitter_probability=0.0,
            grayscale=0.0,
            blur_probability=(0, 0, 0),
            solarize_probability=(0, 0, 0),
        ),
        "crop of 40 to 100 % of the image, aspect 3/4 to 4/3, mirrored with probability 0.5, to the whole image",
    ),
}
"""How the changed view is drawn, and what the protocol says of the pair."""
MOST_SIMILAR = 10
"""Regions of EsViT's own figure: those with the highest cosine."""
BATCH = 32


@dataclass(frozen=True)
class CorrespondenceConfig:
    """Settings of the measurement of correspondence."""

    limit: int = 1000
    """At most so many images, evenly spaced."""

    tolerance: int = 0
    """Rows and columns by which a match may miss the true region. 0 is EsViT's."""

    seed: int = 0
    """Seed of the crops and colour changes, which are the same for every model."""

    def __post_init__(self) -> None:
        if self.limit < 1 or self.tolerance < 0:
            raise UserError("--limit must be at least 1 and --tolerance at least 0")


def pair_of_views(
    kind: Pair, height: int, width: int, size: int, seed: int, index: int, channels: int = 3
) -> tuple[ViewParameters, ...]:
    """Return the view whose regions look for their match, and the view in which they do.

    A pure function of its arguments. height, width, channels: of the image, in pixels. size: side of the views. index:
    the image's position in its source.
    """
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    whole = ViewParameters(top, left, side, side, size)
    config = for_channels(PAIRS[kind][0], channels)
    drawn = sample_view(config, 1, side, side, view_generator(seed, 0, index, 1))
    if kind == "photometric":
        return whole, replace(drawn, top=top, left=left, height=side, width=side, size=size)
    return replace(drawn, top=drawn.top + top, left=drawn.left + left, size=size), whole


def true_regions(
    queries: ViewParameters, gallery: ViewParameters, grid: tuple[int, int]
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Return row and column of the region of `gallery` in which the centre of each region of `queries` lies.

    Both views are of one image and have `grid` = (rows, columns) of regions; their boxes may overlap in any way, and a
    centre outside of the gallery gives a row or column outside of the grid.
    """
    found = list[Tensor]()
    for count, vertical in zip(grid, (True, False), strict=True):
        shares = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        start, length, flipped = _side(queries, vertical=vertical)
        places = start + length * (1 - shares if flipped else shares)
        start, length, flipped = _side(gallery, vertical=vertical)
        shares = (places - start) / length
        shares = 1 - shares if flipped else shares
        found.append((shares * count + 1e-9).floor().long())  # a centre on an edge belongs to the next region
    rows, columns = torch.meshgrid(*found, indexing="ij")
    return rows.flatten(), columns.flatten()


def _side(view: ViewParameters, *, vertical: bool) -> tuple[int, int, bool]:
    if vertical:
        return view.top, view.height, view.vertical_flip
    return view.left, view.width, view.horizontal_flip


def hits(
    matches: Int[Tensor, " n"], true: tuple[Int[Tensor, " n"], Int[Tensor, " n"]], columns: int, tolerance: int
) -> Bool[Tensor, " n"]:
    """Return which matches, numbers of regions row by row, miss the true row and column by `tolerance` at most."""
    rows, places = true
    return ((matches // columns - rows).abs() <= tolerance) & ((matches % columns - places).abs() <= tolerance)


def chance(true: tuple[Int[Tensor, " n"], Int[Tensor, " n"]], grid: tuple[int, int], tolerance: int) -> float:
    """Return the share of hits if every region of the gallery is as likely a match as any other."""
    share = torch.ones(len(true[0]), dtype=torch.float64)
    for places, count in zip(true, grid, strict=True):
        first, last = (places - tolerance).clamp(min=0), (places + tolerance).clamp(max=count - 1)
        share = share * (last - first + 1).clamp(min=0) / count
    return share.mean().item()


# The evaluation


def run(models: Sequence[Model], data: Data, config: CorrespondenceConfig, context: Context) -> Iterator[Result]:
    """Measure the val images, or the training images if there is no val split.

    Entries of the protocol: those of `Context.network` but the crop; images (their folder), count, most (the limit),
    tolerance, seed, photometric, geometric (what the pairs are), grid.

    Raises UserError if there are no images, none can be read, or a network has no patches.
    """
    images = shown_images(data)
    for model in models:
        require_patches(model.backbone, "correspondence")
        with context.watch("views of images, matched") as progress:
            names, figures, grid = list[str](), list[dict[str, float]](), (0, 0)
            positions, unreadable = evenly(len(images), config.limit), dict[str, str]()
            batch = context.batch_size or BATCH
            for start in range(0, len(positions), batch):
                readable = list(_read(images, positions[start : start + batch], model.backbone, unreadable))
                if readable:
                    measured, grid = _measure(model.backbone, readable, config, context)
                    names += [images.keys[index] for index, _ in readable]
                    figures += measured
                progress(min(start + batch, len(positions)), len(positions))
        if not figures:
            raise UserError(f"none of the {len(positions)} images of {images.name} can be read")
        columns = {name: [each[name] for each in figures] for name in figures[0]}
        estimates = mean_intervals(
            torch.tensor(list(columns.values()), dtype=torch.float64).T, limits=[(0.0, 100.0)] * len(columns)
        )
        metrics = [
            Metric(name, estimate.mean)
            if name.endswith("chance")
            else estimate_metric(name, estimate, len(figures), scale=1)
            for name, estimate in zip(columns, estimates, strict=True)
        ]
        protocol = {**expected(model, (images, None), config, context), "grid": list(grid)}
        shares = {name: tuple(values) for name, values in columns.items() if not name.endswith("chance")}
        yield new_result("correspondence", protocol, metrics, Items(tuple(names), shares, unreadable))


def _read(
    images: ImageSource, part: Sequence[int], backbone: Backbone, unreadable: dict[str, str]
) -> Iterator[tuple[int, UInt8[ndarray, "_ _ c"]]]:
    images, config = images.with_slices(backbone.config.slices), backbone.config
    for index in part:
        try:
            yield index, images.read(index).pixels(config.channels, config.window)
        except UnreadableImage as error:
            unreadable[images.keys[index]] = str(error)


def _measure(
    backbone: Backbone,
    readable: Sequence[tuple[int, UInt8[ndarray, "_ _ c"]]],
    config: CorrespondenceConfig,
    context: Context,
) -> tuple[list[dict[str, float]], tuple[int, int]]:
    """Return the figures of each image, in %, and the grid of regions."""
    size, device = evaluation_view(backbone, context.extraction()).size, context.device
    figures, grid = [dict[str, float]() for _ in readable], (0, 0)
    if device is not None:
        backbone.to(device)
    backbone.eval()
    for kind in PAIRS:
        views = [
            pair_of_views(kind, image.shape[0], image.shape[1], size, config.seed, index, image.shape[2])
            for index, image in readable
        ]
        features = list[Tensor]()
        for number in range(2):
            pixels = [apply_view(image, pair[number]) for (_, image), pair in zip(readable, views, strict=True)]
            batch = torch.as_tensor(np.stack(pixels)).permute(0, 3, 1, 2).to(backbone.mean.device)
            with torch.inference_mode(), autocast(context.precision, backbone.mean.device):
                tokens = backbone(backbone.normalize(batch))
            grid = tokens.grid
            features.append(tokens.patches.float().cpu())
        similar, matches = cosines(*features).max(dim=-1)
        for own, pair, cosine, match in zip(figures, views, similar, matches, strict=True):
            true = true_regions(pair[0], pair[1], grid)
            found = hits(match, true, grid[1], config.tolerance).double()
            own[kind] = 100 * found.mean().item()
            if kind == "photometric":
                best = cosine.argsort(descending=True, stable=True)[:MOST_SIMILAR]
                own[f"{kind}_most_similar"] = 100 * found[best].mean().item()
            own[f"{kind}_chance"] = 100 * chance(true, grid, config.tolerance)
    return figures, grid


def expected(model: Model, data: Data, config: CorrespondenceConfig, context: Context) -> dict[str, Any]:
    protocol = {name: value for name, value in context.network(model).items() if name != "crop_fraction"}
    protocol |= {"most": config.limit, "tolerance": config.tolerance, "seed": config.seed}
    protocol |= {kind: text for kind, (_, text) in PAIRS.items()}
    return protocol | shown_entries(data)


def protocol_line(protocol: Mapping[str, Any]) -> str:
    weights = f", weights {protocol['weights']}" if "weights" in protocol else ""
    rows, columns = protocol["grid"]
    near = f"at most {protocol['tolerance']} rows and columns off" if protocol["tolerance"] else "exactly right"
    return (
        f"{min(protocol['count'], protocol['most'])} images of {protocol['images']}, {protocol['image_size']} px, "
        f"{rows} x {columns} regions, {near}; photometric: {protocol['photometric']}; geometric: "
        f"{protocol['geometric']}; seed {protocol['seed']}, {protocol['precision']}{weights}{made_of(protocol)}"
    )


EVALUATION = Evaluation(
    "correspondence",
    "Correspondence",
    "Measure the share of regions whose most similar region in another view of the image is the true one (EsViT).",
    "images",
    CorrespondenceConfig,
    run,
    (
        Column("correspondence", "Corr.", "photometric"),
        Column("correspondence_geometric", "Corr., crops", "geometric"),
    ),
    protocol_line,
    expected,
    lambda data, config, context: shown_images(data),
    uses=("device", "precision", "batch_size", "image_size"),
)
