"""Jaccard figures on VOC as tables: models, differences, the sweep over the mass, classes; with remarks below."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dinoscope.evaluation.statistics import Estimate, interval_line
from dinoscope.explain.maps import TITLES
from dinoscope.measurement.voc import PUBLISHED_MASS, PUBLISHED_SIDE, VocResult
from dinoscope.measurement.voc_record import FIGURES, PUBLISHED, STRICT_MEAN, VocSummary, by_class
from dinoscope.tables import Column, Section, Table, TableRow
from dinoscope.text import ABSENT

WHOLE_IMAGE = "(the whole image as the mask)"

CSV_HEADER = ("image", "model", "classes", "mass", *FIGURES)


def models_table(summary: VocSummary, published: Sequence[tuple[str, float]] = (), source: str = "") -> Table:
    """One row for each model, in % with intervals. published: name and figure of rows that were not measured here."""
    result = summary.result
    names = _names(result)
    columns = (Column("Model"), *(Column(FIGURES[name], "right") for name in names))
    rows = []
    for scores, intervals in zip(result.models, summary.intervals, strict=True):
        cells = (with_ends(intervals[name][result.config.at]) if name in intervals else ABSENT for name in names)
        rows.append(TableRow((scores.model.label, *cells)))
    whole = {PUBLISHED: "published", STRICT_MEAN: "strict"}
    shares = (result.whole_image.get(whole.get(name, "")) for name in names)
    cells = (ABSENT if share is None else f"{100 * share:.1f}" for share in shares)
    rows.append(TableRow((WHOLE_IMAGE, *cells)))
    sections = [Section(tuple(rows), "Measured here" if published else "")]
    if published:
        others = [
            TableRow((name, *(f"{value:.1f}" if n == PUBLISHED else ABSENT for n in names)))
            for name, value in published
        ]
        sections.append(Section(tuple(others), "Published, VOC 2012 val"))
    caption = (
        f"Jaccard of {TITLES[result.config.map]} masks in % [{_confidence(result)} interval]: {_conditions(result)}"
    )
    news = _beaten_by_the_whole_image(summary, names)
    return Table(columns, tuple(sections), caption, remarks=(*news, *remarks(result), *([source] if published else [])))


def _beaten_by_the_whole_image(summary: VocSummary, names: Sequence[str]) -> list[str]:
    """The news, for each figure, that no model's masks are better than taking the whole image."""
    found: list[str] = []
    for name in names:
        share = summary.result.whole_image.get({PUBLISHED: "published", STRICT_MEAN: "strict"}.get(name, ""))
        means = [each[name][summary.result.config.at].mean for each in summary.intervals if name in each]
        if share is not None and means and share >= max(means):
            found.append(
                f"{FIGURES[name]}: no model's masks are better than the whole image, {100 * share:.1f} % against "
                f"{100 * max(means):.1f} % of the best"
            )
    return found


def differences_table(summary: VocSummary) -> Table:
    """One row for each pair of models: the second less the first, in points of %."""
    found = summary.differences
    names = _names(summary.result)
    columns = (Column("Models"), *(Column(FIGURES[name], "right") for name in names))
    pairs = list(dict.fromkeys((each.first, each.second) for each in found))
    cells = {(each.first, each.second, each.figure): with_ends(each.interval, sign=True) for each in found}
    rows = [TableRow((f"{b} − {a}", *(cells.get((a, b, name), ABSENT) for name in names))) for a, b in pairs]
    caption = (
        f"Differences in points of % [{_confidence(summary.result)} interval], paired: the models saw the same images"
    )
    return Table(columns, (Section(tuple(rows)),), caption)


def sweep_table(result: VocResult) -> Table:
    """Each figure at every mass that was asked for; the models' table is at one of them, not at the best."""
    columns = (Column("Model"), *(Column(as_percent(mass), "right") for mass in result.config.all_masses))
    sections = [
        Section(
            tuple(
                TableRow(
                    (each.model.label, *(f"{100 * value:.1f}" for value in each.figures[name].mean(dim=0).tolist()))
                )
                for each in result.models
                if name in each.figures
            ),
            FIGURES[name],
        )
        for name in _names(result)
    ]
    caption = f"Jaccard in % by the mass that a mask holds; the figures above are at {as_percent(result.config.mass)}"
    remark = "The best mass was not chosen: choosing it by these figures would be choosing by the truth."
    return Table(columns, tuple(sections), caption, remarks=(remark,))


def classes_table(result: VocResult) -> Table:
    """Every class that occurs, by its value in the masks."""
    labels = [each.model.label for each in result.models]
    found = by_class(result)
    columns = [Column("Class"), Column("Images", "right")]
    for name, there in (("published", found[0].published), ("strict mean", found[0].strict_mean)):
        columns += [Column(f"{label}, {name}", "right") for label in labels if there is not None]
    rows = [
        TableRow(
            (
                str(each.value),
                str(each.images),
                *(f"{100 * value:.1f}" for value in (*(each.published or ()), *(each.strict_mean or ()))),
            )
        )
        for each in found
    ]
    remark = (
        "published: the class itself, with its best head. strict mean: all objects of the images that show the class, "
        "with the mean over the heads."
    )
    return Table(
        tuple(columns), (Section(tuple(rows)),), "Jaccard in % by class (its value in the masks)", remarks=(remark,)
    )


def remarks(result: VocResult) -> list[str]:
    """How the figures came about, for a person."""
    config, said = result.config, []
    if "published" in config.protocols:
        said.append(
            f"Published protocol: image and mask at {config.square} x {config.square} px. The truth chooses the head: "
            "for each class of each image the head that fits it best counts, which nobody without the truth can do. "
            "Void pixels count as not belonging to the class, as in the public script."
        )
        if config.square != PUBLISHED_SIDE:
            said[-1] += (
                f" At {config.square} px instead of {PUBLISHED_SIDE} it does not compare with published figures."
            )
        if config.mass != PUBLISHED_MASS:
            said[-1] += (
                f" Masks hold {as_percent(config.mass)} of the attention; the paper's text says "
                f"{as_percent(PUBLISHED_MASS)}, the public script 90 %."
            )
    if "strict" in config.protocols:
        said.append(
            f"Strict protocol: short side {config.short_side} px, aspect kept, void pixels left out, one mask against "
            "all objects of an image together. The one head is chosen on one half of the images and reported on the "
            f"other, both ways (halves: seed {config.seed})."
        )
        if any(each.strict_head is None for each in result.models):
            said[-1] += " There are too few images to choose a head on."
    if config.map != "attention":
        said.insert(0, f"Maps: {TITLES[config.map]}, not attention, so that nothing compares with published figures.")
    elif single := [each.model.label for each in result.models if each.maps == 1]:
        said.append(
            f"Without heads, the one map (feature energy) is taken for the head and for the mean: {', '.join(single)}."
        )
    said.append(interval_line(len(result.used), "image", config.bootstrap))
    if len(result.used) > 1:
        said[-1] += " The choice of a head is not repeated within it."
    return said + _left_out(result)


def csv_rows(result: VocResult) -> list[tuple[str, ...]]:
    """One row for each image and model, shares in [0, 1], at the chosen mass; empty where there is no figure."""
    at, rows = result.config.at, []
    for place, index in enumerate(result.used):
        classes = " ".join(map(str, result.classes[place]))
        for each in result.models:
            values = (f"{each.figures[name][place, at]:.6f}" if name in each.figures else "" for name in FIGURES)
            rows.append((result.images.names[index], each.model.label, classes, f"{result.config.mass:g}", *values))
    return rows


def with_ends(interval: Estimate, *, sign: bool = False) -> str:
    """In %: the mean and the ends of its interval, if it has one."""
    form = "+.1f" if sign else ".1f"
    mean = f"{100 * interval.mean:{form}}"
    if interval.low is None or interval.high is None:
        return mean
    return f"{mean} [{100 * interval.low:{form}}, {100 * interval.high:{form}}]"


def as_percent(share: float) -> str:
    """A share as a person writes it."""
    return f"{round(100 * share, 4):g} %"


def _left_out(result: VocResult) -> list[str]:
    if not result.faults:
        return []
    total = len(result.used) + len(result.faults)
    kinds = Counter(fault.kind for fault in result.faults)
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    first = result.faults[0]
    return [f"{len(result.faults)} of {total} images are left out: {counted}. The first: {first.reason}."]


def _names(result: VocResult) -> list[str]:
    """The figures that any model has, in their order."""
    return [name for name in FIGURES if any(name in each.figures for each in result.models)]


def _conditions(result: VocResult) -> str:
    return (
        f"{result.images.name}, {len(result.used)} images, "
        f"masks hold {as_percent(result.config.mass)} of the {TITLES[result.config.map]}"
    )


def _confidence(result: VocResult) -> str:
    return f"{100 * result.config.bootstrap.confidence:g} %"
