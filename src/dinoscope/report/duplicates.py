"""Duplicates as files: a list of all copies, and a page with small pictures of each group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np

from dinoscope import __version__
from dinoscope.data.reader import UnreadableImage
from dinoscope.data.sources import ImageSource
from dinoscope.features import without_ends
from dinoscope.files import write_all
from dinoscope.near_duplicates import KINDS, Duplicates, Member
from dinoscope.pictures import fitted, webp
from dinoscope.report.page import Bullets, Document, Figure, Gallery, Group, Notice, Section, render
from dinoscope.report.tables import csv_text
from dinoscope.text import listed

FILES = ("duplicates.csv", "duplicates.html")

_COLUMNS = ("group", "file", "kind", "cosine", "width", "height", "bytes")
_MAX_GROUPS = 200
"""Groups that have pictures: a page of all would not open."""
_MAX_IMAGES = 12
"""Pictures of one group."""
_WIDTH = 150
_LONGEST_STRIP = 4
"""Length over width beyond which the ends of an image are not shown."""
_GREY = 200


def write_duplicates(found: Duplicates, out: Path) -> list[Path]:
    """Write `FILES` into the folder. Raises UserError if that is not possible."""
    return write_all(out, ((name, text.encode("utf-8", "surrogateescape")) for name, text in _contents(found)))


def _contents(found: Duplicates) -> Iterator[tuple[str, str]]:
    yield FILES[0], list_of(found)
    yield FILES[1], render(page_of(found))


def list_of(found: Duplicates) -> str:
    """Return a CSV file with a row for each image of each group, the kept one first."""
    rows = [
        (str(number), own.key, own.kind, f"{own.cosine:.4f}", str(own.width), str(own.height), str(own.size))
        for number, group in enumerate(found.groups, 1)
        for own in group
    ]
    return csv_text(_COLUMNS, rows)


def page_of(found: Duplicates) -> Document:
    """Return the page."""
    copies = sum(map(len, found.groups)) - len(found.groups)
    lead = f"{copies:,} of {len(found.images):,} images are copies of others, in {len(found.groups):,} groups."
    sections = [Section("Summary", "summary", "", (found.table(), Bullets(tuple(KINDS.values()))))]
    if found.groups:
        blocks = [_group(found.images, number, group) for number, group in enumerate(found.groups[:_MAX_GROUPS], 1)]
        rest = len(found.groups) - len(blocks)
        notices = (Notice(f"{rest:,} further groups are in {FILES[0]} alone."),) if rest else ()
        sections.append(Section("Groups", "groups", "The kept image of each group comes first.", (*notices, *blocks)))
    foot = f"dinoscope {__version__}, {datetime.now().astimezone():%Y-%m-%d %H:%M}"
    return Document(f"Duplicates in {found.images.name}", tuple(sections), lead, foot)


def _group(images: ImageSource, number: int, group: tuple[Member, ...]) -> Group:
    figures = tuple(picture_of(images, own) for own in group[:_MAX_IMAGES])
    rest = len(group) - len(figures)
    counts = Counter(own.kind for own in group)
    kinds = [f"{counts[kind]:,} {kind}" for kind in KINDS if counts[kind] and kind != "kept"]
    caption = f"and {rest:,} more" if rest else ""
    return Group(f"Group {number}: {listed(kinds)}", (Gallery(figures, caption, min_width=_WIDTH, columns=6),))


def picture_of(images: ImageSource, own: Member) -> Figure:
    """Return a small picture of a member of a group; a grey one if it can no longer be read."""
    try:
        pixels = fitted(without_ends(images.read(own.index).rgb(), _LONGEST_STRIP), _WIDTH)
    except UnreadableImage:  # since it was compared, somebody has changed it
        pixels = np.full((_WIDTH, _WIDTH, 3), _GREY, np.uint8)
    what = "kept" if own.kind == "kept" else f"{own.kind}, {own.cosine:.3f}"
    return Figure(webp(pixels), f"{own.key}: {what}, {own.width} × {own.height} px", own.key, _WIDTH)
