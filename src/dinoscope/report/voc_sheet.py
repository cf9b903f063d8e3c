"""Which images of a result on VOC are shown, best to worst, and the lines of the sheet about them."""

from __future__ import annotations

from collections.abc import Sequence

from dinoscope.data.images import decode
from dinoscope.data.sources import first_to_last
from dinoscope.measurement.voc import VocResult
from dinoscope.report.mask_sheet import Masked, SheetRow
from dinoscope.report.voc_tables import as_percent


def spread(scores: Sequence[float], count: int) -> list[int]:
    """Places of `count` images: the best, the worst, and evenly between by rank, best first."""
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    return [order[place] for place in first_to_last(len(order), count)]


def shown_figure(protocols: Sequence[str]) -> str:
    """The figure that the masks on a sheet have: of the strict protocol where it was measured."""
    return "strict_mean" if "strict" in protocols else "published"


def shown_scores(result: VocResult) -> list[float]:
    """Each image's Jaccard of the masks that are kept, the mean over the models."""
    name = shown_figure(result.config.protocols)
    every = [scores.figures[name][:, result.config.at] for scores in result.models]
    return (sum(every[1:], every[0]) / len(every)).tolist()


def sheet_row(result: VocResult, place: int) -> SheetRow:
    """The image at a place of `used`, its truth, and the mask of each model; masks must have been kept."""
    index, name = result.used[place], shown_figure(result.config.protocols)
    models = tuple(
        Masked(each.model.label, each.masks[place], float(each.figures[name][place, result.config.at]))
        for each in result.models
    )
    images, window = result.images, result.models[0].model.backbone.config.window
    return SheetRow(images.names[index], decode(images.images[index], window=window), images.classes(index), models)


def sheet_note(result: VocResult) -> str:
    """How the masks and their figures came about."""
    mass = f"masks hold {as_percent(result.config.mass)}"
    if shown_figure(result.config.protocols) == "published":
        return f"published, {mass}: the truth chose the head of each class, shown together; mean over classes"
    return f"strict, {mass}: mean over the heads; Jaccard with all objects; light grey: void, not counted"
