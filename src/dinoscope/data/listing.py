"""A list of image files: a text file with one path a line, or a CSV file with the columns path, label and group.

Paths are relative to the folder of the list, or absolute. The images are in the order of their paths' bytes, not of the
list, as everywhere.
"""

from __future__ import annotations

import csv
import os
from itertools import pairwise
from pathlib import Path, PurePath

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
    """Return the images of a list, with labels if it has a column of them.

    Raises UserError if it cannot be read, has no column of paths, names no image or one twice, or has labels for some
    images only.
    """
    try:
        with place.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = _rows(place, file.read())
    except OSError as error:
        raise UserError(f"{place} cannot be read: {error.strerror}") from error
    if not rows:
        raise UserError(f"{place}: the list names no image")
    rows.sort(key=lambda row: os.fsencode(row[0]))
    double = next((one[0] for one, other in pairwise(rows) if one[0] == other[0]), None)
    if double is not None:
        raise UserError(f"{place}: {double} is named twice")
    paths, labels = tuple(row[0] for row in rows), [row[1] for row in rows]
    folder = ImageFolder(place.parent, paths)
    if not any(labels):
        return folder
    if not all(labels):
        raise UserError(f"{place}: {paths[labels.index('')]} has no label, and others have one")
    return folder.labelled_by(labels)


def _rows(place: Path, text: str) -> list[tuple[str, str]]:
    """Return path and label of each line."""
    if place.suffix.lower() == ".txt":
        lines = (line.strip() for line in text.splitlines())
        return [(_clean(line), "") for line in lines if line and not line.startswith("#")]
    csv.field_size_limit(_MAX_CELL)
    try:
        table = csv.DictReader(text.splitlines(), delimiter="\t" if place.suffix.lower() == ".tsv" else ",")
        names = {name.strip().lower(): name for name in table.fieldnames or () if name}
        path = next((names[name] for name in _PATHS if name in names), None)
        label = next((names[name] for name in _LABELS if name in names), None)
        if path is None:
            raise UserError(f"{place}: no column of paths. The first line must name one: {', '.join(_PATHS)}")
        rows = ((row[path], row[label] if label else "") for row in table)
        return [(_clean(name.strip()), (text or "").strip()) for name, text in rows if name and name.strip()]
    except csv.Error as error:
        raise UserError(f"{place} is no table that can be read ({error})") from error


def _clean(path: str) -> str:
    return PurePath(path).as_posix()
