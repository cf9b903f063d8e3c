"""The section with maps of images by their features."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import UInt8
from numpy import ndarray

from dinoscope.data.grey_range import Window
from dinoscope.data.images import decode
from dinoscope.data.sources import ImageFolder, balanced, find_images, find_split
from dinoscope.errors import UserError
from dinoscope.explain.embedding import NEIGHBOURS, TITLES, EmbeddingMap, best_method, described, embedding_map
from dinoscope.model_names import Model, Watch
from dinoscope.pictures import webp
from dinoscope.report.maps import ModelPoints, labelling_of, points_page, thumbnail, thumbnails_page
from dinoscope.report.page import Block, Figure, Notice, Section, folded_rest
from dinoscope.report.runs import Material
from dinoscope.text import listed
from dinoscope.types import FeatureBank

MAX_IMAGES = 600
MAX_MODELS = 8
"""Whose maps are drawn: each takes seconds, and a fifth of a megabyte."""
_OPEN = 2
"""Maps of thumbnails that are seen at once; those of further models open at a click."""


def section(
    material: Material, images: ImageFolder | None = None, method: str | None = None, seed: int = 0
) -> Section | None:
    """Show every model's map of the same images; None without models or images, or without pictures.

    images: to be placed, at most `MAX_IMAGES` of them; None takes those of the first run whose data are there.
    method: key of `explain.embedding.METHODS`; None takes UMAP if it is installed, else t-SNE.

    Raises UserError if no image can be read, or the method is not known or not installed.
    """
    found = _own_images(material.models) if images is None else images
    if found is None or not (material.models and material.pictures):
        return None
    chosen, method, context = balanced(found, MAX_IMAGES), method or best_method(), material.measuring.context
    maps: list[_Placed] = []
    notices: list[Block] = []
    if left := material.titles[MAX_MODELS:]:
        text = f"The first {MAX_MODELS} models are shown, in the order given. `dinoscope embed` draws: {listed(left)}."
        notices.append(Notice(text))
    for model, title in material.titled[:MAX_MODELS]:
        bank = context.features(model.backbone, chosen, f"{title}: features for its map")
        try:
            with context.watch(f"{title}: placing images") as progress:  # UMAP takes seconds to be loaded
                progress(0, 1)
                maps.append(_Placed(title, bank, embedding_map(bank.features, method, seed)))
        except UserError as error:
            notices.append(Notice(f"{title}: {error}", "warning"))
    data = f"{len(chosen)} of the {len(found)} images in {found.root}"
    window = material.models[0].backbone.config.window
    figures = _figures(maps, _pictures(maps, chosen.root, window, context.watch), data) if maps else []
    lead = (
        "Images whose features are alike lie near each other. A map in two dimensions cannot keep all distances: "
        "each says what share of neighbours it keeps. Distances between far groups mean little."
    )
    return Section("Map of the features", "embedding", lead, (*figures, *notices))


@dataclass(frozen=True)
class _Placed:
    title: str
    bank: FeatureBank
    map: EmbeddingMap


def _pictures(
    maps: Sequence[_Placed], root: Path, window: Window | None, watch: Watch
) -> dict[str, UInt8[ndarray, "_ _ 3"]]:
    """Every image of a map, small, by its path: each is read once, and the large ones are never all in memory."""
    paths = list(dict.fromkeys(path for each in maps for path in each.bank.paths))
    found: dict[str, UInt8[ndarray, "_ _ 3"]] = {}
    with watch("reading images for the maps") as progress:
        for done, path in enumerate(paths):
            progress(done, len(paths))
            found[path] = thumbnail(decode(root / path, window=window))
    return found


def _figures(maps: Sequence[_Placed], pictures: Mapping[str, UInt8[ndarray, "_ _ 3"]], data: str) -> list[Block]:
    labelling = labelling_of(maps[0].bank)
    colours = (
        ""
        if labelling is None
        else " Colours: the classes."
        if labelling.can_be_named
        else f" Colours: the {len(labelling.present)} classes, too many to name."
    )
    methods = list(dict.fromkeys(TITLES[each.map.method] for each in maps))
    panels = [ModelPoints(each.title, _kept(each.map), each.map.points) for each in maps]
    blocks: list[Block] = [
        Figure(
            webp(points_page(panels, labelling), lossless=True),
            f"{' and '.join(methods)}, {data}, one point an image; the same images for each model.{colours} "
            f"At the right of each title: how many of an image's {maps[0].map.neighbours or NEIGHBOURS} nearest "
            "neighbours by features are among as many on the map.",
            f"Maps of image features of {', '.join(panel.title for panel in panels)}",
        )
    ]
    drawn = [_thumbnails(placed, pictures, data) for placed in maps]
    return [*blocks, *folded_rest("Thumbnails of further models", drawn, _OPEN)]


def _thumbnails(placed: _Placed, pictures: Mapping[str, UInt8[ndarray, "_ _ 3"]], data: str) -> Figure:
    bank, made = placed.bank, placed.map
    images = [pictures[path] for path in bank.paths]
    page, shown = thumbnails_page(made.points, images, labelling_of(bank), placed.title, TITLES[made.method])
    room = "" if shown == len(images) else f" {shown} of them found room near their place."
    caption = f"{placed.title}: {data}.{room} {described(made)}."
    return Figure(webp(page), caption, f"Thumbnails on the map of {placed.title}")


def _kept(made: EmbeddingMap) -> str:
    return "" if made.kept is None else f"{made.kept:.0%} kept"


def _own_images(subjects: Sequence[Model]) -> ImageFolder | None:
    """The val images, or else the train images, of the first run whose data are still there."""
    for subject in subjects:
        if subject.settings is None:
            continue
        with contextlib.suppress(UserError):
            data = Path(subject.settings["data"])
            return find_images(find_split(data, "val") or find_split(data, "train") or data)
    return None
