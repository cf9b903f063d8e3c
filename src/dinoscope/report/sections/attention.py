"""The section on attention: the same images through a run's training, and across the models."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8

from dinoscope.data.finding import find_images, resolve_split
from dinoscope.data.images import RawImage, UnreadableImage
from dinoscope.data.neighbours import repeated
from dinoscope.data.sources import ImageSource, first_to_last
from dinoscope.errors import UserError
from dinoscope.evaluation.online import MAX_ASPECT, evenly_spaced, mean_map
from dinoscope.explain.history import AttentionHistory, read_history
from dinoscope.explain.maps import map_title
from dinoscope.features import without_ends
from dinoscope.models.backbone import BackboneConfig
from dinoscope.pictures import webp
from dinoscope.places import parse_place
from dinoscope.report.page import Block, Figure, Group, Notice, Section, folded_rest
from dinoscope.report.pages import MapColumn, maps_page
from dinoscope.report.runs import Material, told_apart
from dinoscope.text import listed

MAX_STEPS = 6
"""Snapshots of a run that are shown: the first, the last, and evenly between."""
_MAX_IMAGES = 6
_OPEN = 2  # runs
_LEAD = (
    "Colour rises with attention from the average patch upwards; what is attended to evenly stays as it is. A "
    "transformer shows the mean over the heads of the class token's attention in the last block, a ResNet where its "
    "features are strong."
)


def section(material: Material) -> Section | None:
    """Show attention through training, if runs kept it, and of all models now; None without images or pictures."""
    if not (material.models and material.pictures):
        return None
    notices: list[Block] = []
    histories: dict[str, AttentionHistory] = {}
    for model in material.models:
        try:
            history = None if model.path is None else read_history(model.path)
        except UserError as error:
            notices.append(Notice(f"{model.label}: {error}", "warning"))
            continue
        if history is not None and len(history.snapshots) > 1:
            histories[model.label] = history
    images, about = training_images(material)
    if not images and histories:
        images = [TrainingImage(RawImage(picture)) for picture in next(iter(histories.values())).pictures]
        about = f"{len(images)} training images, as small as the run kept them"
    if not images:
        return None
    blocks: list[Block] = []
    if histories:
        drawn = [_through_training(title, history) for title, history in histories.items()]
        blocks.append(Group("Through training", folded_rest("Further runs", drawn, _OPEN)))
    columns, broken = _columns(material, images)
    if columns:
        window = material.models[0].backbone.config.window
        figure = _across(columns, [image.raw.rgb(window) for image in images], about)
        blocks.append(Group("The models next to each other", (figure,)))
    return Section("What the models look at", "attention", _LEAD, (*blocks, *notices, *broken))


def _through_training(title: str, history: AttentionHistory) -> Figure:
    snapshots = [history.snapshots[place] for place in first_to_last(len(history.snapshots), MAX_STEPS)]
    columns = [
        MapColumn(
            *((f"epoch {one.epoch:.3g}", f"step {one.steps}") if one.steps else ("before training", "")), one.maps
        )
        for one in snapshots
    ]
    what = snapshots[-1].what
    page = maps_page(history.pictures, columns, f"{what}, mean over the heads" if what == "attention" else what)
    caption = (
        f"{title}: {what} of the same {len(history.pictures)} training images, after {len(snapshots)} of the "
        f"{len(history.snapshots)} evaluations that were kept."
    )
    return Figure(webp(page.pixels()), caption, f"{what} of {title} in training")


def _columns(material: Material, images: Sequence[TrainingImage]) -> tuple[list[MapColumn], list[Notice]]:
    columns: list[MapColumn] = []
    notices: list[Notice] = []
    with material.context.watch("attention of the models") as progress:
        for done, model in enumerate(material.models):
            progress(done, len(material.models))
            backbone = model.backbone.to(material.context.device or "cpu").eval()
            try:
                maps = [mean_map(backbone, image.given_to(backbone.config))[1] for image in images]
            except UnreadableImage as error:
                notices.append(Notice(f"{model.label}: an image {error}", "warning"))
                continue
            if all(np.isfinite(values).all() for values in maps):
                columns.append(MapColumn(model.label, map_title("attention", backbone), maps))
            else:
                text = "its attention is not finite; its weights are broken (did its training diverge?)"
                notices.append(Notice(f"{model.label}: {text}", "warning"))
    return columns, notices


def _across(columns: Sequence[MapColumn], images: Sequence[np.ndarray], about: str) -> Figure:
    titles = [column.title for column in columns]
    kinds: dict[str, list[str]] = {}
    for column in columns:
        kinds.setdefault(column.detail, []).append(column.title)
    caption = f"{about}, each seen by every model at its own image size: {', '.join(titles)}."
    if len(kinds) > 1:
        caption += "".join(f" {kind[:1].upper()}{kind[1:]}: {listed(names)}." for kind, names in kinds.items())
    # the caption tells what a map shows, for above the columns there is hardly room for the titles
    short = [replace(column, title=title, detail="") for column, title in zip(columns, told_apart(titles), strict=True)]
    return Figure(
        webp(maps_page(images, short, " or ".join(kinds)).pixels()), caption, f"Attention of {', '.join(titles)}"
    )


@dataclass(frozen=True)
class TrainingImage:
    """An image as it is shown, and the source and the place in which it lies; a picture that a run kept has none."""

    raw: RawImage
    source: ImageSource | None = None
    place: int = 0

    def given_to(self, config: BackboneConfig) -> UInt8[np.ndarray, "h w c"]:
        """Return what a network is given. Raises UnreadableImage if it cannot be."""
        if config.slices == 1:
            image = self.raw
        elif self.source is None:
            image = repeated(self.raw, config.slices)
        else:
            image = self.source.with_slices(config.slices).read(self.place)
        return without_ends(image.pixels(config.channels, config.window), MAX_ASPECT)


def training_images(material: Material) -> tuple[list[TrainingImage], str]:
    """Return those of the snapshots, of the first run whose images are still there, and where they are from."""
    for model in material.models:
        images: list[TrainingImage] = []
        if model.settings is None:
            continue
        with contextlib.suppress(UserError):
            data = parse_place(model.settings["data"])
            folder = evenly_spaced(find_images(resolve_split(data, "train")), _MAX_IMAGES)
            for place in range(len(folder)):
                with contextlib.suppress(UnreadableImage):
                    image = folder.read(place)
                    alpha = None if image.alpha is None else without_ends(image.alpha, MAX_ASPECT)
                    raw = replace(image, values=without_ends(image.values, MAX_ASPECT), alpha=alpha)
                    images.append(TrainingImage(raw, folder, place))
        if images:
            return images, f"{len(images)} training images of {model.settings['data']}"
    return [], ""
