"""The files of a curation: the list of the training set, a table of what became of each image, and a page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from dinoscope import __version__
from dinoscope.curation import Curation
from dinoscope.data.listing import list_text
from dinoscope.data.reader import UnreadableImage
from dinoscope.files import claim, write_all
from dinoscope.pictures import webp
from dinoscope.report.maps import thumbnail
from dinoscope.report.page import Block, Document, Figure, Gallery, Group, KeyValues, Notice, Section, render
from dinoscope.report.tables import csv_text
from dinoscope.tables import Column, Table, TableRow
from dinoscope.tables import Section as Rows
from dinoscope.text import count, figure, percent, printable

SHOWN = 8
"""Clusters, and groups of copies, of each kind on the page, and thumbnails of each at most."""
MAX_CLASSES = 40
"""Classes in the table on the page."""
LARGE_GROUP = 0.1
"""Share of all images in one group of copies from which the page warns that the threshold may be too low."""

_THUMBNAIL = 88  # CSS pixels

Progress = Callable[[int, int], None]


def files_of(out: Path) -> tuple[str, str, str]:
    """Return the names of the three files next to each other: the list, the table and the page."""
    return out.name, f"{out.stem}-images.csv", f"{out.stem}.html"


def claim_files(out: Path, *, overwrite: bool) -> None:
    """Raise UserError, before the work, if a file is there already or cannot be written."""
    claim(out.parent, files_of(out), overwrite=overwrite)


def write_files(curation: Curation, out: Path, progress: Progress) -> list[Path]:
    """Write the list `out`, and next to it the table and the page; return the files.

    progress: called with (thumbnails read, thumbnails of this cluster).

    Raises UserError if the images cannot be listed (`listing.list_text`), or a file cannot be written.
    """
    texts = (list_text(out, curation.chosen), table_text(curation), page_text(curation, progress))
    contents = (text.encode("utf-8", errors="surrogateescape") for text in texts)
    return write_all(out.parent, list(zip(files_of(out), contents, strict=True)))


# The table


def table_text(curation: Curation) -> str:
    """Return a CSV file with a row for each image: what became of it and why, and where it is in the clusters."""
    choice, keys = curation.choice, curation.images.keys
    levels = [f"cluster_{number}" for number in range(1, len(choice.clusters) + 1)]
    header = ("path", "chosen", "reason", "copy_of", "outlier", "distance", *levels)

    def rows() -> Iterator[tuple[str, ...]]:
        for index, fate in enumerate(choice.fates()):
            original = int(choice.copy_of[index])
            yield (
                keys[index],
                _yes(fate == "chosen"),
                "" if fate == "chosen" else fate,
                keys[original] if original != index else "",
                _yes(bool(choice.outlier[index])),
                "" if np.isnan(choice.distances[index]) else f"{choice.distances[index]:.4f}",
                *("" if column[index] < 0 else str(column[index]) for column in choice.clusters),
            )
        for key in curation.unreadable:
            yield (key, _yes(False), "unreadable", "", _yes(False), "", *("" for _ in levels))

    return csv_text(header, rows())


def _yes(value: bool) -> str:
    return "yes" if value else "no"


# The page


def page_text(curation: Curation, progress: Progress) -> str:
    """Return the page as HTML: counts, the largest and the smallest clusters, copies and outliers, with thumbnails."""
    page = _Page(curation, progress)
    sections = (page.counts(), page.clusters(), page.copies(), page.outliers())
    lead = f"{count(int(curation.choice.chosen.sum()))} of {count(len(curation.choice.chosen))} images"
    foot = f"Written by dinoscope {__version__}."
    return render(Document("A curated training set", tuple(filter(None, sections)), lead, foot))


class _Page:
    def __init__(self, curation: Curation, progress: Progress) -> None:
        self.curation, self.choice, self.fates = curation, curation.choice, curation.choice.fates()
        self.progress, self.drawn = progress, 0

    def counts(self) -> Section:
        choice, total = self.choice, len(self.choice.chosen)
        copies = int(choice.is_copy.sum())
        far = int((choice.outlier & ~choice.is_copy).sum())
        kept = int(((choice.clusters[0] >= 0) & ~choice.is_copy).sum())
        what = ", left out" if self.curation.config.leave_out_outliers else ", not left out"
        config, other = self.curation.config, self.curation.copies_model
        pairs = [
            ("data", self.curation.images.name),
            ("features", f"{self.curation.model.label}, less their mean, of length 1"),
            *([("features that find copies", other.label)] if other is not self.curation.model else []),
            ("seed, rounds of resampling", f"{config.seed}, {config.rounds}"),
            ("images", count(total)),
            *([("not readable", count(len(self.curation.unreadable)))] if self.curation.unreadable else []),
            ("copies of others, left out", f"{count(copies)}, {percent(copies / total)} (cosine {self._threshold})"),
            (
                "outliers",
                f"{count(far)}{what if far else ''} (nearest other image farther than {figure(choice.fence, 2)})",
            ),
            ("clustered", f"{count(kept)}, in {' and '.join(count(_number(column)) for column in choice.clusters)}"),
            ("chosen", f"{count(int(choice.chosen.sum()))}, {percent(choice.chosen.sum() / total)}"),
        ]
        blocks: list[Block] = [KeyValues(tuple((name, printable(value)) for name, value in pairs)), self._balance()]
        wanted = self.curation.config.wanted(total)
        if wanted > choice.chosen.sum():
            text = f"{count(wanted)} images were wanted. Fewer are left without copies and outliers: all are chosen."
            blocks.insert(0, Notice(text, "warning"))
        labels = self.curation.images.labels
        if labels is not None:
            blocks.append(self._classes(np.asarray(labels)))
        lead = "Clusters give equally many images, as far as they have them. Labels, if there are any, were not used."
        return Section("What was chosen", "chosen", lead, tuple(blocks))

    @property
    def _threshold(self) -> str:
        config = self.curation.config
        return "not looked for" if config.keep_copies else f"at least {config.copies_above:g}"

    def _balance(self) -> Table:
        rows: list[TableRow] = []
        for number, column in enumerate(self.choice.clusters, 1):
            for name, sizes in zip(("before", "after"), self._sizes(column), strict=True):
                ordered = np.sort(sizes)[::-1]
                largest = ordered[: max(1, len(ordered) // 10)].sum() / max(1, sizes.sum())
                low, middle, high = np.quantile(sizes, [0, 0.5, 1])
                cells = (
                    f"level {number}, {name}",
                    count(len(sizes)),
                    *map(count, (low, middle, high)),
                    percent(largest),
                )
                rows.append(TableRow(cells))
        titles = ("Clusters", "Number", "Smallest", "Median", "Largest", "In the largest tenth")
        columns = tuple(Column(title, "right" if place else "left") for place, title in enumerate(titles))
        caption = "Images in a cluster: all of them with their copies, and those that were chosen"
        return Table(columns, (Rows(tuple(rows)),), caption)

    def _sizes(self, column: Int64[np.ndarray, " n"]) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " k"]]:
        number, inside = _number(column), column >= 0
        before = np.bincount(column[inside], minlength=number)
        return before, np.bincount(column[inside & self.choice.chosen], minlength=number)

    def _classes(self, labels: Int64[np.ndarray, " n"]) -> Table:
        names, chosen = self.curation.images.classes, self.choice.chosen
        before, after = (np.bincount(own, minlength=len(names)) for own in (labels, labels[chosen]))
        order = np.argsort(-before, kind="stable")
        shown = order if len(order) <= MAX_CLASSES else np.r_[order[: MAX_CLASSES // 2], order[-MAX_CLASSES // 2 :]]
        rows = tuple(
            TableRow(
                (
                    printable(names[place]),
                    *(count(int(own[place])) for own in (before, after)),
                    *(f"{100 * own[place] / max(1, own.sum()):.1f} %" for own in (before, after)),
                )
            )
            for place in shown.tolist()
        )
        titles = ("Class", "Before", "After", "Share before", "Share after")
        columns = tuple(Column(title, "right" if place else "left") for place, title in enumerate(titles))
        left_out = "" if len(shown) == len(order) else f", the largest and the smallest of {len(order)}"
        return Table(columns, (Rows(rows),), f"Images of each class{left_out}")

    def clusters(self) -> Section:
        column = self.choice.clusters[-1]
        before, after = self._sizes(column)
        order = np.argsort(-before, kind="stable").tolist()
        largest = order[:SHOWN]
        smallest = [number for number in order[-SHOWN:] if number not in largest]
        blocks: list[Block] = []
        for numbers in (largest, smallest):
            for number in numbers:
                title = f"Cluster {number}: {count(int(before[number]))} images, {count(int(after[number]))} chosen"
                blocks.append(Group(title, (self._gallery(np.flatnonzero(column == number)),)))
        lead = f"The {SHOWN} largest and the {len(smallest)} smallest of the coarsest level."
        lead = lead if smallest else "Those of the coarsest level, the largest first."
        return Section("Clusters", "clusters", lead, tuple(blocks))

    def copies(self) -> Section | None:
        originals, sizes = np.unique(self.choice.copy_of, return_counts=True)
        order = np.argsort(-sizes, kind="stable")[:SHOWN]
        groups = [(int(originals[place]), int(sizes[place])) for place in order if sizes[place] > 1]
        if not groups:
            return None
        blocks: list[Block] = []
        share = groups[0][1] / len(self.choice.copy_of)
        if share >= LARGE_GROUP and groups[0][1] > SHOWN:
            text = (
                f"The largest group has {percent(share)} of all images. If they are no copies of each other, the "
                "threshold is too low for this model: give a higher --copies-above."
            )
            blocks.append(Notice(text, "warning"))
        for original, size in groups:
            members = np.flatnonzero(self.choice.copy_of == original)
            blocks.append(Group(f"{count(size)} images, of which one is kept", (self._gallery(members),)))
        many = int((sizes > 1).sum())
        lead = f"The largest of {count(many)} groups. The first image of a group, by name, is kept."
        return Section("Copies", "copies", lead, tuple(blocks))

    def outliers(self) -> Section | None:
        places = np.flatnonzero(self.choice.outlier & ~self.choice.is_copy)
        if not len(places):
            return None
        places = places[np.argsort(-self.choice.distances[places], kind="stable")]
        lead = f"The farthest of {count(len(places))}, with the distance to the nearest other image."
        return Section("Outliers", "outliers", lead, (self._gallery(places[: 2 * SHOWN], distances=True),))

    def _gallery(self, places: Int64[np.ndarray, " m"], *, distances: bool = False) -> Block:
        """Show up to `SHOWN` images, evenly spaced, or all with their distances."""
        limit = len(places) if distances else min(SHOWN, len(places))
        figures, window = list[Figure](), self.curation.model.backbone.config.window
        for number in range(limit):
            index = int(places[number * len(places) // limit])
            key = printable(self.curation.images.keys[index])
            self.progress(self.drawn, self.drawn + limit - number)
            self.drawn += 1
            try:
                picture = webp(thumbnail(self.curation.images.read(index).rgb(window)))
            except UnreadableImage:
                continue
            caption = figure(float(self.choice.distances[index]), 2) if distances else self.fates[index]
            figures.append(Figure(picture, caption, key, _THUMBNAIL))
        if not figures:
            return Notice("These images cannot be read any more.", "warning")
        return Gallery(tuple(figures), "", _THUMBNAIL, SHOWN)


def _number(column: Int64[np.ndarray, " n"]) -> int:
    return int(column.max()) + 1
