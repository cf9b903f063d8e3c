"""The section with attention masks against the objects of PASCAL VOC, as runs keep it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dinoscope.data.benchmarks import MaskedImages, find_masked_images
from dinoscope.errors import UserError
from dinoscope.explain.maps import TITLES
from dinoscope.measurement.voc import PUBLISHED_SIDE, VocConfig, measure_voc
from dinoscope.measurement.voc_record import VocProtocol
from dinoscope.model_names import Watch
from dinoscope.pictures import webp
from dinoscope.report.mask_sheet import mask_sheet
from dinoscope.report.page import Block, Bullets, Figure, Folded, Group, Notice, Paragraph, Section
from dinoscope.report.runs import Material, told_apart
from dinoscope.report.sections.kept import Best, Kept, best_first, kept_groups
from dinoscope.report.voc_kept_table import kept_table
from dinoscope.report.voc_sheet import sheet_note, sheet_row, shown_figure
from dinoscope.study.published import JACCARD_SOURCE, PUBLISHED_JACCARD
from dinoscope.tables import Table

DATA_NAME = "VOC 2012 "
"""Before the split, the name of data in VOC's layout."""
ALL_VAL = 1449
EACH_END = 3
"""So many of the best, and of the worst."""
_ABREAST = 4  # models on one sheet


@dataclass(frozen=True)
class _Drawing:
    """Where masks are made anew, and who hears of it."""

    device: torch.device
    watch: Watch


def section(material: Material) -> Section | None:
    """Tables of what was measured alike, published figures, and the best and worst images; None without results."""
    if not material.pictures:
        return None
    device, watch = material.measuring.device, material.measuring.watch
    groups, notices = kept_groups(material.titled, "voc", VocProtocol)
    if not (groups or notices):
        return None
    draw = _Drawing(device, watch)
    blocks = [block for group in groups for block in _group(group, len(groups) > 1, draw)]
    lead = "Do masks made of attention lie on the objects? Nothing was trained for it. Jaccard: overlap over union."
    return Section("Objects in attention: VOC", "voc", lead, (*blocks, *notices))


def _group(group: Sequence[Kept], titled: bool, draw: _Drawing) -> list[Block]:
    blocks: list[Block] = [_table(group)]
    best = best_first(group, "voc_jaccard_" + shown_figure(_protocols(group[0].measurement.protocol)))
    if best is not None:
        blocks += _examples(group, best, draw)
    elif all(each.measurement.items is None for each in group):
        blocks.append(Paragraph("What single images scored was not kept, so that no best and worst can be shown."))
    if not titled:
        return blocks
    protocol = group[0].measurement.protocol
    kind = str(TITLES.get(protocol["map"], protocol["map"]))
    names = " and ".join(_protocols(protocol))
    title = f"{kind[:1].upper()}{kind[1:]} on {protocol['images']} images in {protocol['data']} ({names} protocol)"
    return [Group(title, tuple(blocks))]


def _table(group: Sequence[Kept]) -> Table:
    protocol = group[0].measurement.protocol
    square = protocol["published"] and protocol["published"]["square"]
    beside = (protocol["map"], protocol["data_name"], square) == ("attention", _VAL, PUBLISHED_SIDE)
    rows = [row for each in PUBLISHED_JACCARD for row in each.rows()] if beside else []
    source = JACCARD_SOURCE
    if protocol["images"] != ALL_VAL:
        source += (
            f". Those are of all {ALL_VAL:,} images, these of {protocol['images']}: for orientation, no comparison."
        )
    return kept_table([(each.title, each.measurement) for each in group], rows, source)


_VAL = f"{DATA_NAME}val"


def _protocols(protocol: Mapping[str, Any]) -> list[str]:
    return [name for name in ("published", "strict") if protocol[name]]


def _examples(group: Sequence[Kept], best: Best, draw: _Drawing) -> list[Block]:
    """The best and the worst images: drawn where they are still there, else named."""
    count = len(best.names)
    places = list(range(count)) if count <= 2 * EACH_END else [*range(EACH_END), *range(count - EACH_END, count)]
    names = [best.names[place] for place in places]
    having = [each for each in group if each.measurement.items is not None]
    try:
        return _drawn(having, names, draw)
    except UserError as error:
        listed = tuple(f"{best.names[place]}: {best.means[place]:.1f} %" for place in places)
        said = f"The images are named and not drawn: {error}"
        return [Group("Best to worst", (Bullets(listed), Notice(said)))]


def _drawn(group: Sequence[Kept], names: Sequence[str], draw: _Drawing) -> list[Block]:
    """Raises UserError where the images are not there any more, or cannot be shown to the models."""
    protocol = group[0].measurement.protocol
    images, config = _find(protocol).named(names), _config(protocol, draw.device)
    figures: list[Block] = []
    titled = list(zip(group, told_apart([each.title for each in group]), strict=True))
    for begin in range(0, len(group), _ABREAST):
        abreast = titled[begin : begin + _ABREAST]
        models = [replace(each.subject, label=title) for each, title in abreast]
        with draw.watch("masks of the best and worst images") as progress:
            result = measure_voc(models, images, config, progress, keep_masks=True)
        rows = [sheet_row(result, place) for place in range(len(result.used))]
        shown = f"best and the worst {EACH_END}" if protocol["images"] > len(names) else "best to the worst"
        caption = (
            f"The {shown} of {protocol['images']} images of {protocol['data_name']}, by the mean of the models: "
            f"{sheet_note(result)}."
        )
        sheet = mask_sheet(rows, "", "")
        figures.append(Figure(webp(sheet), caption, f"Masks of {', '.join(each.title for each, _ in abreast)}"))
    further = [Folded("The same images, further models", tuple(figures[1:]))] if figures[1:] else []
    return [Group("Best to worst", (figures[0], *further))]


def _find(protocol: Mapping[str, Any]) -> MaskedImages:
    """Raises UserError where the images or their masks are not where they were."""
    if not protocol["data_name"].startswith(DATA_NAME):
        raise UserError(f"where the masks of {protocol['data']} are is not kept")
    return find_masked_images(Path(protocol["data"]), split=protocol["data_name"].removeprefix(DATA_NAME))


def _config(protocol: Mapping[str, Any], device: torch.device) -> VocConfig:
    """As it was measured; only what the shown masks need."""
    name = "strict" if protocol["strict"] else "published"
    config = VocConfig(
        protocols=(name,),
        mass=protocol["mass"],
        masses=(),
        map=protocol["map"],
        block=protocol["block"],
        device=device,
        precision=protocol["precision"],
    )
    if name == "strict":
        return replace(config, short_side=protocol["strict"]["short_side"])
    return replace(config, square=protocol["published"]["square"])
