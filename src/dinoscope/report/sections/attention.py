"""The section with what models attend to: the same images through training, and across the models."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dinoscope.data.grey_range import Window
from dinoscope.data.images import RawImage, UnreadableImage, read
from dinoscope.data.sources import find_images, first_to_last, resolve_split
from dinoscope.errors import UserError
from dinoscope.evaluation.online import MAX_ASPECT, evenly_spaced, mean_map
from dinoscope.explain.history import AttentionHistory, Snapshot, read_history
from dinoscope.explain.maps import map_title
from dinoscope.features import without_ends
from dinoscope.model_names import Model
from dinoscope.pictures import webp
from dinoscope.report.page import Block, Figure, Group, Notice, Section, folded_rest
from dinoscope.report.pages import MapColumn, maps_page
from dinoscope.report.runs import Material, told_apart
from dinoscope.text import listed

MAX_STEPS = 6
"""Snapshots of a run that are shown: the first, the last, and evenly between."""
_COUNT = 6
_OPEN = 2


@dataclass(frozen=True)
class _Images:
    """What the models are shown. said: where the images are from."""

    images: tuple[RawImage, ...]
    said: str


def section(material: Material) -> Section | None:
    """Show attention through training, if runs kept it, and of all models now; None without images or pictures."""
    if not (material.models and material.pictures):
        return None
    notices = list[Block]()
    histories: dict[str, AttentionHistory] = {}
    for model, title in material.titled:
        if model.path is None:
            continue
        try:
            found = read_history(model.path)
        except UserError as error:
            notices.append(Notice(f"{title}: {error}", "warning"))
            continue
        if found is not None and len(found.snapshots) > 1:
            histories[title] = found
    shown = _images(material.models, list(histories.values()))
    if shown is None:
        return None
    blocks: list[Block] = []
    if histories:
        drawn = [_through_training(title, history) for title, history in histories.items()]
        blocks.append(Group("Through training", folded_rest("Further runs", drawn, _OPEN)))
    columns, broken = _columns(material, shown.images)
    if columns:
        window = material.models[0].backbone.config.window
        blocks.append(Group("The models next to each other", (_across(columns, shown, window),)))
    lead = (
        "Colour rises with attention from the average patch upwards; what is attended to evenly stays as it is. "
        "A transformer shows the mean over the heads of the class token's attention in the last block, a ResNet where "
        "its features are strong."
    )
    return Section("What the models look at", "attention", lead, (*blocks, *notices, *broken))


def _through_training(title: str, history: AttentionHistory) -> Figure:
    chosen = [history.snapshots[place] for place in first_to_last(len(history.snapshots), MAX_STEPS)]
    columns = [MapColumn(_when(each), f"step {each.steps}" if each.steps else "", each.maps) for each in chosen]
    text = f"{chosen[-1].what}, mean over the heads" if chosen[-1].what == "attention" else chosen[-1].what
    caption = (
        f"{title}: {chosen[-1].what} of the same {len(history.pictures)} training images, after "
        f"{len(chosen)} of the {len(history.snapshots)} evaluations that were kept."
    )
    return Figure(
        webp(maps_page(history.pictures, columns, text)), caption, f"{chosen[-1].what} of {title} in training"
    )


def _when(snapshot: Snapshot) -> str:
    return f"epoch {snapshot.epoch:.3g}" if snapshot.steps else "before training"


def _columns(material: Material, images: Sequence[RawImage]) -> tuple[list[MapColumn], list[Notice]]:
    """The maps of every model, and a warning for each whose maps are not finite."""
    columns: list[MapColumn] = []
    notices: list[Notice] = []
    with material.measuring.watch("attention of the models") as progress:
        for done, (model, title) in enumerate(material.titled):
            progress(done, len(material.models))
            backbone = model.backbone.to(material.measuring.device).eval()
            maps = [mean_map(backbone, image.rgb(backbone.config.window))[1] for image in images]
            if all(np.isfinite(values).all() for values in maps):
                columns.append(MapColumn(title, map_title("attention", backbone), maps))
            else:
                text = f"{title}: its attention is not finite; its weights are broken (did its training diverge?)"
                notices.append(Notice(text, "warning"))
    return columns, notices


def _across(columns: Sequence[MapColumn], chosen: _Images, window: Window | None) -> Figure:
    titles = ", ".join(column.title for column in columns)
    kinds = list(dict.fromkeys(column.detail for column in columns))
    caption = f"{chosen.said}, each seen by every model at its own image size: {titles}."
    if len(kinds) > 1:
        of_kind = [(kind, [each.title for each in columns if each.detail == kind]) for kind in kinds]
        caption += " " + " ".join(f"{kind[:1].upper()}{kind[1:]}: {listed(names)}." for kind, names in of_kind)
    # what a map shows is said below, for above the columns there is hardly room for the titles
    short = told_apart([each.title for each in columns])
    images = [image.rgb(window) for image in chosen.images]
    columns = [replace(each, title=title, detail="") for each, title in zip(columns, short, strict=True)]
    return Figure(webp(maps_page(images, columns, " or ".join(kinds))), caption, f"Attention of {titles}")


def _images(subjects: Sequence[Model], histories: Sequence[AttentionHistory]) -> _Images | None:
    """Those of the first run whose images are still there; else the small ones that a run has kept, if any."""
    for subject in subjects:
        if subject.settings is not None and (found := _own_images(Path(subject.settings["data"]))):
            return _Images(found, f"{len(found)} training images of {subject.settings['data']}")
    if histories:
        pictures = tuple(map(RawImage, histories[0].pictures))
        return _Images(pictures, f"{len(pictures)} training images, as small as the run kept them")
    return None


def _own_images(data: Path) -> tuple[RawImage, ...]:
    """The images that snapshots are made of; empty if they cannot be found."""
    found: list[RawImage] = []
    with contextlib.suppress(UserError):
        folder = evenly_spaced(find_images(resolve_split(data, "train")), _COUNT)
        for place in range(len(folder)):
            with contextlib.suppress(UnreadableImage):
                image = read(folder.path(place))
                alpha = None if image.alpha is None else without_ends(image.alpha, MAX_ASPECT)
                found.append(replace(image, values=without_ends(image.values, MAX_ASPECT), alpha=alpha))
    return tuple(found)
