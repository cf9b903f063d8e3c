"""A list of image files: a text file with one path a line, or a CSV file with the columns path, label and group.

A column named group, patient, study, slide or video tells which images belong together (`dinoscope.data.groups`).

Paths are relative to the folder of the list, or absolute. The images are in the order of their paths' bytes, not of the
list, as everywhere.
"""

from __future__ import annotations

import csv
import os
from itertools import pairwise
from pathlib import Path, PurePath

from dinoscope.data.groups import COLUMNS, group_numbers
from dinoscope.data.reader import split_key
from dinoscope.data.samples import samples_in
from dinoscope.data.sources import ImageFolder
from dinoscope.errors import UserError

ENDINGS = (".txt", ".csv", ".tsv")
_PATHS = ("path", "file", "filename", "file_name", "image")
_LABELS = ("label", "class", "category")
_MAX_CELL = 1 << 16


def is_listing(place: Path) -> bool:
    """Whether a place is a list of files."""
    return place.suffix.lower() in ENDINGS and place.is_file()


def images_of(place: Path) -> ImageFolder:
    """Return the images of a list, with labels and groups if it has a column of them.

    Raises UserError if it cannot be read, has no column of paths, names no image or one twice, or has labels or groups
    for some images only.
    """
    try:
        with place.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows, grouping = _rows(place, file.read())
    except OSError as error:
        raise UserError(f"{place} cannot be read: {error.strerror}") from error
    if not rows:
        raise UserError(f"{place}: the list names no image")
    rows.sort(key=lambda row: os.fsencode(row[0]))
    double = next((one[0] for one, other in pairwise(rows) if one[0] == other[0]), None)
    if double is not None:
        raise UserError(f"{place}: {double} is named twice")
    row_of = {row[0]: row for row in rows}
    paths = tuple(sorted(samples_in(place.parent, row_of), key=os.fsencode))
    found = [row_of.get(path) or row_of[split_key(path)[0]] for path in paths]
    labels, groups = (tuple(row[column] for row in found) for column in (1, 2))
    for what, values in (("label", labels), ("group", groups)):
        if any(values) and not all(values):
            raise UserError(f"{place}: {paths[values.index('')]} has no {what}, and others have one")
    folder = ImageFolder(place.parent, paths)
    if any(labels):
        folder = folder.labelled_by(labels)
    return folder.with_groups(group_numbers(groups), grouping) if any(groups) else folder


def _rows(place: Path, text: str) -> tuple[list[tuple[str, str, str]], str]:
    """Return path, label and group of each line, "" without; and which column tells the groups."""
    if place.suffix.lower() == ".txt":
        lines = (line.strip() for line in text.splitlines())
        return [(_clean(line), "", "") for line in lines if line and not line.startswith("#")], ""
    csv.field_size_limit(_MAX_CELL)
    try:
        table = csv.DictReader(text.splitlines(), delimiter="\t" if place.suffix.lower() == ".tsv" else ",")
        names = {name.strip().lower(): name for name in table.fieldnames or () if name}
        path = next((names[name] for name in _PATHS if name in names), None)
        label = next((names[name] for name in _LABELS if name in names), None)
        group = next((name for name in COLUMNS if name in names), None)
        if path is None:
            raise UserError(f"{place}: no column of paths. The first line must name one: {', '.join(_PATHS)}")
        columns = (path, label, names[group] if group else None)
        cells = ([(row[column] or "").strip() if column else "" for column in columns] for row in table)
        rows = [(_clean(name), text, owner) for name, text, owner in cells if name]
        return rows, f"column {group}" if group else ""
    except csv.Error as error:
        raise UserError(f"{place} is no table that can be read ({error})") from error


def _clean(path: str) -> str:
    return PurePath(path).as_posix()
