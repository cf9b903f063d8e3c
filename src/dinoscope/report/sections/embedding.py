"""The section with maps of images by their features."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from dinoscope.data.finding import find_images, find_split
from dinoscope.data.sources import ImageSource, balanced
from dinoscope.errors import UserError
from dinoscope.explain.embedding import NEIGHBOURS, TITLES, EmbeddingMap, best_method, described, embedding_map
from dinoscope.model_names import Model
from dinoscope.pictures import webp
from dinoscope.places import parse_place
from dinoscope.report.maps import labelling_of, points_page, thumbnail, thumbnails_page
from dinoscope.report.page import Block, Figure, Notice, Section, folded_rest
from dinoscope.report.runs import Material
from dinoscope.text import listed
from dinoscope.types import FeatureBank

MAX_IMAGES = 600
MAX_MODELS = 8
"""Whose maps are drawn: each takes seconds, and a fifth of a megabyte."""
_OPEN = 2  # maps of thumbnails that are seen at once; those of further models open at a click
_LEAD = (
    "Images whose features are alike lie near each other. A map in two dimensions cannot keep all distances, and those "
    "between far groups mean little."
)


def section(material: Material) -> Section | None:
    """Show every model's map of the same images, by UMAP if it is installed, else by t-SNE.

    The images are those of the first run whose data are there; None without them, or without pictures.
    """
    images = _images(material.models) if material.pictures else None
    if images is None:
        return None
    chosen, method, context = balanced(images, MAX_IMAGES), best_method(), material.context
    notices: list[Block] = []
    if left := material.models[MAX_MODELS:]:
        names = listed([model.label for model in left])
        text = f"The first {MAX_MODELS} models are shown, in the order given. `dinoscope embed` draws: {names}."
        notices.append(Notice(text))
    maps: list[tuple[str, FeatureBank, EmbeddingMap]] = []
    for model in material.models[:MAX_MODELS]:
        try:
            bank = context.features(model.backbone, chosen, f"{model.label}: features for its map")
            with context.watch(f"{model.label}: placing images") as progress:  # UMAP takes seconds to be loaded
                progress(0, 1)
                maps.append((model.label, bank, embedding_map(bank.features, method, 0)))
        except UserError as error:
            notices.append(Notice(f"{model.label}: {error}", "warning"))
    figures = _figures(maps, f"{len(chosen)} of the {len(images)} images in {images.name}", chosen, material)
    return Section("Map of the features", "embedding", _LEAD, (*figures, *notices))


def _images(models: Sequence[Model]) -> ImageSource | None:
    """The val images, or else the train images, of the first run whose data are still there."""
    for model in models:
        if model.settings is not None:
            data = parse_place(model.settings["data"])
            with contextlib.suppress(UserError):
                return find_images(find_split(data, "val") or find_split(data, "train") or data)
    return None


def _figures(
    maps: Sequence[tuple[str, FeatureBank, EmbeddingMap]], data: str, images: ImageSource, material: Material
) -> list[Block]:
    if not maps:
        return []
    labelling = labelling_of(maps[0][1])
    colours = ""
    if labelling is not None:
        number = len(labelling.colors)
        colours = " Colours: the " + ("classes." if labelling.can_be_named else f"{number} classes, too many to name.")
    panels = [
        (title, "" if placed.kept is None else f"{placed.kept:.0%} kept", placed.points) for title, _, placed in maps
    ]
    share = (
        f" At the right of a title: how many of an image's {maps[0][2].neighbours or NEIGHBOURS} nearest neighbours by "
        "features are among as many on the map."
    )
    points = Figure(
        webp(points_page(panels, labelling).pixels(), lossless=True),
        f"{' and '.join(dict.fromkeys(TITLES[placed.method] for *_, placed in maps))}, {data}, one point an image; the "
        f"same images for each model.{colours}{share * any(place for _, place, _ in panels)}",
        f"Maps of image features of {', '.join(title for title, *_ in maps)}",
    )
    # each image is read once, and the large ones are never all in memory
    window, pictures = material.models[0].backbone.config.window, {}
    wanted = {path for _, bank, _ in maps for path in bank.paths}
    places = [(place, key) for place, key in enumerate(images.keys) if key in wanted]
    with material.context.watch("reading images for the maps") as progress:
        for done, (place, key) in enumerate(places):
            progress(done, len(places))
            pictures[key] = thumbnail(images.read(place).rgb(window))
    figures: list[Figure] = []
    for title, bank, placed in maps:
        drawn = [pictures[path] for path in bank.paths]
        page, shown = thumbnails_page(placed.points, drawn, labelling_of(bank), title, TITLES[placed.method])
        room = "" if shown == len(drawn) else f" {shown} of them found room near their place."
        caption = f"{title}: {data}.{room} {described(placed)}."
        figures.append(Figure(webp(page.pixels()), caption, f"Thumbnails on the map of {title}"))
    return [points, *folded_rest("Thumbnails of further models", figures, _OPEN)]
