"""The section with what models attend to: the same images through training, and across the models."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from dinoscope.data.decode import RawImage, UnreadableImage, read
from dinoscope.data.folder import find_images, first_to_last, resolve_split
from dinoscope.data.grey_range import Window
from dinoscope.errors import UserError
from dinoscope.explain.history import AttentionHistory, Snapshot, read_history
from dinoscope.explain.maps import map_title
from dinoscope.features.images import without_ends
from dinoscope.measurement import Watch
from dinoscope.model_names import Model, unwatched
from dinoscope.observers import LONGEST, mean_map, spread
from dinoscope.pictures import webp
from dinoscope.report.page import Block, Figure, Folded, Group, Notice, Section
from dinoscope.report.pages import MapColumn, maps_page
from dinoscope.report.titles import titles_of, told_apart
from dinoscope.text import listed

MOST_STEPS = 6
"""Snapshots of a run that are shown: the first, the last, and evenly between."""
_COUNT = 6
_OPEN = 2


@dataclass(frozen=True)
class _Images:
    """What the models are shown. said: where the images are from."""

    images: tuple[RawImage, ...]
    said: str


def section(subjects: Sequence[Model], device: torch.device | None = None, watch: Watch = unwatched) -> Section | None:
    """Attention through training, where runs kept it, and of all models now; None where there are no images.

    device: where the networks run; None leaves them where they are. watch: hears of the progress.
    """
    titles, notices = titles_of(subjects), list[Block]()
    histories: dict[str, AttentionHistory] = {}
    for subject, title in zip(subjects, titles, strict=True):
        if subject.path is None:
            continue
        try:
            found = read_history(subject.path)
        except UserError as error:
            notices.append(Notice(f"{title}: {error}", "warning"))
            continue
        if found is not None and len(found.snapshots) > 1:
            histories[title] = found
    chosen = _images(subjects, list(histories.values()))
    if chosen is None:
        return None
    columns, broken = _columns(subjects, chosen.images, device, watch)
    notices += broken
    blocks = (
        [Group("The models beside each other", (_across(columns, chosen, subjects[0].backbone.config.window),))]
        if columns
        else []
    )
    if histories:
        drawn = [_through_training(title, history) for title, history in histories.items()]
        further = [Folded(f"Further runs ({len(drawn) - _OPEN})", tuple(drawn[_OPEN:]))] if drawn[_OPEN:] else []
        blocks.insert(0, Group("Through training", (*drawn[:_OPEN], *further)))
    lead = (
        "Colour rises with attention from the average patch upwards; what is attended to evenly stays as it is. "
        "A transformer shows the mean over the heads of the class token's attention in the last block, a ResNet where "
        "its features are strong."
    )
    return Section("What the models look at", "attention", lead, (*blocks, *notices))


def _through_training(title: str, history: AttentionHistory) -> Figure:
    chosen = [history.snapshots[place] for place in first_to_last(len(history.snapshots), MOST_STEPS)]
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


def _columns(
    subjects: Sequence[Model], images: Sequence[RawImage], device: torch.device | None, watch: Watch
) -> tuple[list[MapColumn], list[Notice]]:
    """The maps of every model, and a warning of each whose maps are no numbers."""
    columns: list[MapColumn] = []
    notices: list[Notice] = []
    with watch("attention of the models") as progress:
        for done, (subject, title) in enumerate(zip(subjects, titles_of(subjects), strict=True)):
            progress(done, len(subjects))
            backbone = subject.backbone if device is None else subject.backbone.to(device)
            backbone.eval()
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
    """The images that snapshots are made of; empty where they cannot be found."""
    found: list[RawImage] = []
    with contextlib.suppress(UserError):
        folder = spread(find_images(resolve_split(data, "train")), _COUNT)
        for place in range(len(folder)):
            with contextlib.suppress(UnreadableImage):
                image = read(folder.path(place))
                alpha = None if image.alpha is None else without_ends(image.alpha, LONGEST)
                found.append(replace(image, values=without_ends(image.values, LONGEST), alpha=alpha))
    return tuple(found)
