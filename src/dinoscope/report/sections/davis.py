"""The section with objects followed through the videos of DAVIS, as runs keep it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dinoscope.data.benchmarks import DavisSequence, find_davis
from dinoscope.data.grey_range import Window
from dinoscope.errors import UserError
from dinoscope.evaluation.video_scores import region_similarity
from dinoscope.measurement.davis import DavisProtocol
from dinoscope.measurement.davis_frames import Frames, kept_frames
from dinoscope.pictures import webp
from dinoscope.report.davis_sheet import Followed, FrameRow, frames_sheet
from dinoscope.report.davis_tables import measured_table
from dinoscope.report.page import Block, Figure, Folded, Group, Notice, Paragraph, Section
from dinoscope.report.runs import Material, told_apart
from dinoscope.report.sections.kept import Best, Kept, best_first, kept_groups
from dinoscope.study.published import DAVIS_LABEL, DAVIS_SOURCE, PUBLISHED_DAVIS
from dinoscope.tables import Column, Table, TableRow
from dinoscope.tables import Section as Rows

ALL_VAL = 30
"""Sequences of DAVIS 2017 val."""
PUBLISHED_SIZE = 480
"""Short side of the frames that published figures are of, in pixels; figures at others stand alone."""
_SHORT = 6  # sequences that are listed without a click
_ABREAST = 4  # models on one sheet


def section(material: Material) -> Section | None:
    """Tables of what was measured alike, published figures, and the best and worst video; None without results."""
    if not material.pictures:
        return None
    groups, notices = kept_groups(material.titled, "davis", DavisProtocol)
    if not (groups or notices):
        return None
    blocks: list[Block] = []
    for group in groups:
        inside, wrong = _group(group)
        notices += wrong
        protocol = group[0].measurement.protocol
        count = len(protocol["sequences"])
        title = f"DAVIS {protocol['year']}: {count} sequence{'s' if count > 1 else ''} in {protocol['data']}"
        blocks += [Group(title, tuple(inside))] if len(groups) > 1 else inside
    lead = (
        "Objects of the first frame are followed by the similarity of patch features; nothing was trained for it. "
        "J: overlap with the truth, F: how well contours meet, both over objects."
    )
    return Section("Objects through videos: DAVIS", "davis", lead, (*blocks, *notices))


def _group(group: Sequence[Kept]) -> tuple[list[Block], list[Notice]]:
    blocks: list[Block] = [_table(group)]
    best = best_first(group, "jf_mean")
    if best is None:
        unkept = all(each.measurement.items is None for each in group)
        text = "What single sequences scored was not kept, so that no best and worst can be shown."
        return [*blocks, *([Paragraph(text)] if unkept else [])], []
    having = [each for each in group if each.measurement.items is not None]
    blocks.append(_sequences(having, best))
    try:
        drawn = _drawn(having, best)
    except UserError as error:
        return blocks, [Notice(f"Videos of DAVIS are named and not drawn: {error}")]
    return [*blocks, *drawn], []


def _table(group: Sequence[Kept]) -> Table:
    protocol = group[0].measurement.protocol
    known = [
        (f"DINO {row.architecture}", {"jf_mean": row.jf_mean, "j_mean": row.j_mean, "f_mean": row.f_mean})
        for row in PUBLISHED_DAVIS
        if (protocol["year"], protocol["size"]) == (2017, PUBLISHED_SIZE)
    ]
    count, source = len(protocol["sequences"]), DAVIS_SOURCE
    if count != ALL_VAL or protocol["limit_frames"] is not None:
        source += f". Those are of all {ALL_VAL} sequences, these of {count}: for orientation, no comparison."
    return measured_table([(each.title, each.measurement) for each in group], known, DAVIS_LABEL, source)


def _sequences(group: Sequence[Kept], best: Best) -> Block:
    columns = (Column("Sequence"), *(Column(each.title, "right") for each in group))
    rows = tuple(
        TableRow((name, *(f"{value:.1f}" for value in values)))
        for name, values in zip(best.names, best.scores, strict=True)
    )
    table = Table(columns, (Rows(rows),), "J&F of each sequence in %, mean over its objects, best first")
    return table if len(rows) <= _SHORT else Folded(f"All {len(rows)} sequences, best first", (table,))


def _drawn(group: Sequence[Kept], best: Best) -> list[Block]:
    """The best and the worst sequence, from the masks that were kept; nothing where none were.

    Raises UserError where the videos are not there any more, or what was kept is damaged.
    """
    kept: list[tuple[str, Frames]] = []
    for each, title in zip(group, told_apart([each.title for each in group]), strict=True):
        if each.subject.home and (frames := kept_frames(each.subject.home, each.name, each.measurement)):
            kept.append((title, frames))
    if not kept:
        return []
    protocol, window = group[0].measurement.protocol, group[0].subject.backbone.config.window
    ends = list(dict.fromkeys((best.names[0], best.names[-1])))
    blocks: list[Block] = []
    for place, name in enumerate(ends):
        sequence = _find(protocol, name)
        rank = "The only sequence" if len(best.names) == 1 else "The worst sequence" if place else "The best sequence"
        mean = best.means[-1 if place else 0]
        said = "" if len(group) == 1 else ", mean of the models"
        figures: list[Block] = []
        for begin in range(0, len(kept), _ABREAST):
            rows = _rows(sequence, window, kept[begin : begin + _ABREAST])
            if rows:
                caption = f"{rank}, {name}: J&F {mean:.1f} %{said}. Frames a third in, two thirds in, and the last."
                figures.append(Figure(webp(frames_sheet(rows)), caption, f"Objects followed through {name}"))
        blocks += figures[:1]
        blocks += [Folded(f"{name}: further models", tuple(figures[1:]))] if figures[1:] else []
    return blocks


def _find(protocol: Mapping[str, Any], name: str) -> DavisSequence:
    return find_davis(Path(protocol["data"]), protocol["year"], (name,)).sequences[0]


def _rows(sequence: DavisSequence, window: Window | None, kept: Sequence[tuple[str, Frames]]) -> list[FrameRow]:
    """The frames that have a truth, and that all of these models have a mask of."""
    rows: list[FrameRow] = []
    for number in range(len(sequence)):
        found = [(title, frames.get((sequence.name, number))) for title, frames in kept]
        if any(mask is None for _, mask in found) or (truth := sequence.mask(number)) is None:
            continue
        first = sequence.mask(0)
        objects = 0 if first is None else int(first.max())
        followed: list[Followed] = []
        for title, mask in found:
            if mask is None or mask.shape != truth.shape:
                raise UserError(f"{sequence.name}: a mask of {title} is not as large as the frame")
            scores = [region_similarity(mask == each, truth == each) for each in range(1, objects + 1)]
            followed.append(Followed(title, mask, sum(scores) / len(scores)))
        rows.append(FrameRow(number, sequence.image(number, window), truth, tuple(followed)))
    return rows
