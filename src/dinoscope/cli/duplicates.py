"""The command `duplicates`: images that a collection holds more than once, as groups, and the copies moved away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Annotated

import tyro

from dinoscope import distributed
from dinoscope.cli.command import EXTRACTION, WHAT_MAY_BE_NAMED, Command, ExtractionOptions
from dinoscope.cli.console import emit, progress_bar, stdout
from dinoscope.data.finding import find_images
from dinoscope.files import claim, write_all
from dinoscope.model_names import load_model
from dinoscope.near_duplicates import Duplicates, DuplicatesConfig, find_duplicates, move, moves, require_movable
from dinoscope.report.duplicates import FILES, write_duplicates
from dinoscope.report.tables import csv_text
from dinoscope.text import listed

MODEL = f"Compare by the features of a model, too: finds crops, if it knows such images. {WHAT_MAY_BE_NAMED}"
DEFAULTS = DuplicatesConfig()

_ESCAPE = "surrogateescape"

MAX_GROUPS = 10
"""How many are printed before "and N more"."""
MAX_COPIES = 5
"""How many copies of a group are printed."""

MOVED = "moved"
"""Stem of the list of moved files; an earlier list stays, and the next is moved-2.csv."""


def duplicates(
    data: Path,
    out: Path = Path("duplicates"),
    model: Annotated[str | None, tyro.conf.arg(name="model", metavar="MODEL", help=MODEL)] = None,
    remove_to: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None,
    overwrite: bool = False,
    config: tyro.conf.OmitArgPrefixes[DuplicatesConfig] = DEFAULTS,
    extraction: tyro.conf.OmitArgPrefixes[ExtractionOptions] = EXTRACTION,
) -> None:
    """Find images that are there more than once: equal pixels, and copies that were saved again, resized or mirrored.

    Images are compared by their lowest frequencies, and with --model also by its features. Cropped copies need a model
    that was trained on such images. Nothing is moved without --remove-to, and nothing is ever deleted.

    Args:
        data: Folder, archive or list of images, labelled or not, splits included. Several are joined.
        out: Folder for duplicates.csv (all copies, with group, cosine and size) and duplicates.html (with pictures).
        remove_to: Move all copies but the kept one of each group to this folder, with their relative paths, and write
            OUT/moved.csv (from, to). For folders of single files. Images that are like others of their group alone,
            and not like the kept one, stay.
        overwrite: Replace duplicates.csv and duplicates.html.
    """
    claim(out, FILES, overwrite=overwrite)
    if remove_to is not None:
        require_movable(data, remove_to)
    images, context = find_images(data, labelled=False), extraction.context()
    loaded = None if model is None else context.fitted(load_model(model, progress_bar), data)
    found = find_duplicates(images, config, loaded, context)
    if not distributed.is_main():
        return
    planned = [] if remove_to is None else moves(found, data, remove_to)
    written = write_duplicates(found, out)
    emit(None, [found.table()], _first_groups(found), json=False)
    if planned:
        record = next(out / f"{stem}.csv" for stem in _stems() if not (out / f"{stem}.csv").exists())
        written += write_all(out, [(record.name, csv_text(("from", "to"), _texts(planned)).encode("utf-8", _ESCAPE))])
        move(planned)
    for file, place in planned:
        stdout(f"moved {file} to {place}")
    if remove_to is not None:
        stdout(f"{len(planned):,} file{'s' * (len(planned) != 1)} moved to {remove_to}")
    elif found.groups:
        stdout("Nothing was moved: --remove-to FOLDER moves the copies, and keeps one of each group.")
    stdout(f"written: {listed([str(path) for path in written])}")


def _first_groups(found: Duplicates) -> Iterator[str]:
    for number, group in enumerate(found.groups[:MAX_GROUPS], 1):
        kept, *copies = group
        yield f"{number}. {kept.key}  ({kept.width} x {kept.height} px, kept)"
        for own in copies[:MAX_COPIES]:
            yield f"     {own.key}  ({own.width} x {own.height} px, {own.kind}, {own.cosine:.3f})"
        if len(copies) > MAX_COPIES:
            yield f"     and {len(copies) - MAX_COPIES:,} more"
    if len(found.groups) > MAX_GROUPS:
        yield f"and {len(found.groups) - MAX_GROUPS:,} more groups"


def _stems() -> Iterator[str]:
    yield MOVED
    yield from (f"{MOVED}-{number}" for number in count(2))


def _texts(planned: Sequence[tuple[Path, Path]]) -> list[tuple[str, str]]:
    return [(str(file), str(place)) for file, place in planned]


COMMANDS = {
    "duplicates": Command(
        "find images that are there more than once, as groups, and move the copies away", duplicates, is_shared=True
    ),
}
