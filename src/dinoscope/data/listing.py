"""A list of image files: a text file with one path a line, or a CSV file with the columns path, label and group.

A list on a server, of files next to it or below, is an index as that of a container (`archives`), since nothing but a
request tells the size of a file there.

A column named group, patient, study, slide or video tells which images belong together (`dinoscope.data.groups`).

Paths are relative to the folder of the list, or absolute. The images are in the order of their paths' bytes, not of the
list, as everywhere.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path, PurePath
from typing import BinaryIO

from dinoscope.data.archives import ArchiveImages, images_in, index_of
from dinoscope.data.containers.container import Container, Entry, Progress
from dinoscope.data.groups import COLUMNS, group_numbers
from dinoscope.data.reader import split_key
from dinoscope.data.samples import samples_in
from dinoscope.data.sources import ImageFolder, ImageSource
from dinoscope.errors import UserError, located
from dinoscope.remote import RemotePath, states

ENDINGS = (".txt", ".csv", ".tsv")
_PATHS = ("path", "file", "filename", "file_name", "image")
_LABELS = ("label", "class", "category")
_MAX_CELL = 1 << 16
_AT_A_TIME = 1024  # files on a server between two reports of progress

Row = tuple[str, str, str]


def is_listing(place: Path) -> bool:
    """Whether a place is a list of files."""
    return place.suffix.lower() in ENDINGS and place.is_file()


def images_of(place: Path, progress: Callable[[int, int], None] | None = None) -> ImageFolder | ArchiveImages:
    """Return the images of a list, with labels and groups if it has a column of them.

    progress: called with (done, total) while the sizes of files on a server are asked for.
    Raises UserError if it cannot be read, has no column of paths, names no image or one twice, or has labels or groups
    for some images only.
    """
    try:
        with (
            located(str(place)),
            place.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file,
        ):
            text = file.read()
        rows, grouping = _rows(place, text)
    except OSError as error:
        raise UserError(f"{place} cannot be read: {error.strerror}") from error
    if not rows:
        raise UserError(f"{place}: the list names no image")
    rows.sort(key=lambda row: os.fsencode(row[0]))
    double = next((one[0] for one, other in pairwise(rows) if one[0] == other[0]), None)
    if double is not None:
        raise UserError(f"{place}: {double} is named twice")
    for column, what in ((1, "label"), (2, "group")):
        lacking = [row for row in rows if not row[column]]
        if 0 < len(lacking) < len(rows):
            raise UserError(f"{place}: {lacking[0][0]} has no {what}, and others have one")
    row_of = {row[0]: row for row in rows}
    if isinstance(place, RemotePath):
        images = images_in(place, index_of([place], progress, _container(place, rows)), "")
    else:
        images = ImageFolder(place.parent, tuple(sorted(samples_in(place.parent, row_of), key=os.fsencode)))
    own = [row_of.get(key) or row_of[split_key(key)[0]] for key in images.keys]
    if own[0][1]:
        images = images.labelled_by([row[1] for row in own])
    return images.with_groups(group_numbers(row[2] for row in own), grouping) if own[0][2] else images


def list_text(place: Path, images: ImageSource) -> str:
    """Return what the file `place` must hold to be a list of these images; `images_of` reads it back.

    Paths are relative to its folder if they are below it. A CSV or TSV file has labels and groups too, if known.

    Raises UserError if the file has another ending, images are no files on this machine, or a name ends in a space or
    has a line break, which no list can hold.
    """
    if place.suffix.lower() not in ENDINGS:
        raise UserError(f"{place}: the name of a list ends in {', '.join(ENDINGS)}")
    folder, names = place.absolute().parent.as_posix().rstrip("/") + "/", list[str]()
    for index, key in enumerate(images.keys):
        file = images.listed_as(index)
        if file is None:
            raise UserError(
                f"{images.name}: {key} is no file on this machine, and a list names files. Unpack archives into a "
                "folder, or use dinoscope.curate in Python"
            )
        name = file.removeprefix(folder)
        if name != name.rstrip() or len(name.splitlines()) != 1:
            raise UserError(f"{name!r} ends in a space or has a line break, which a list cannot hold: rename the file")
        names.append(f"./{name}" if name[0].isspace() or name.startswith("#") else name)
    if place.suffix.lower() == ".txt":
        return "".join(f"{name}\n" for name in names)
    columns: dict[str, Iterable[str]] = {"path": names}
    if images.labels is not None:
        columns["label"] = (images.classes[label] for label in images.labels)
    if images.groups is not None:
        columns["group"] = map(str, images.groups)
    text = io.StringIO()
    writer = csv.writer(text, "excel-tab" if place.suffix.lower() == ".tsv" else "excel", lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def _container(place: RemotePath, rows: Sequence[Row]) -> Container:
    """Return what makes an index of a list on a server: each file is an entry, with the size that it has now."""
    for path, _, _ in rows:
        if split_key(path)[1] or "?" in path:
            raise UserError(f"{place}: {path}: a list on a server names whole files, without # and ?")
        if path.startswith("/") or ":" in path.partition("/")[0] or any(part[:1] == "." for part in path.split("/")):
            raise UserError(f"{place}: {path} is not below the folder of the list, where those of a server must be")

    def entries(_: Path, copies: BinaryIO, progress: Progress) -> Iterator[Entry]:
        for start in range(0, len(rows), _AT_A_TIME):
            chunk = [row[0] for row in rows[start : start + _AT_A_TIME]]
            files = [RemotePath(f"{place.parent}/{path}") for path in chunk]
            for path, file, state in zip(chunk, files, states(files), strict=True):
                if isinstance(state, UserError) and not isinstance(state.__cause__, FileNotFoundError):
                    raise UserError(f"{path} {state}") from state
                # one that is not there is unreadable, as it is in a list on this machine
                yield Entry(path, 0, 0 if isinstance(state, UserError) else state.size, file=file)
            progress.at(start * progress.total // len(rows))

    return Container(ENDINGS, lambda _: True, entries)


def _rows(place: Path, text: str) -> tuple[list[Row], str]:
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
