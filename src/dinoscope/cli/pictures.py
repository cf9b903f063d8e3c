"""What the commands that draw share: which images, what the pictures are called, and writing them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dinoscope.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from numpy import ndarray


def find_files(paths: Sequence[Path], limit: int) -> list[Path]:
    """The files named, and from each folder named up to `limit` images, spread evenly over it.

    Raises UserError where nothing is named, the limit is below 1, or a folder has no images.
    """
    from dinoscope.data.folder import find_images

    if not paths:
        raise UserError("no images: name image files, or a folder of them")
    if limit < 1:
        raise UserError(f"--limit must be at least 1, not {limit}")
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            folder = find_images(path)
            taken = min(limit, len(folder))
            files += [folder.path(i * len(folder) // taken) for i in range(taken)]
        else:
            files.append(path)
    return files


def unique_names(files: Sequence[Path]) -> list[str]:
    """The files' names without their endings; a name that is taken already gets a number, as in "cat-2"."""
    names: dict[str, str] = {}  # by casefold: some file systems take "Cat" and "cat" for one
    for file in files:
        name, number = file.stem, 1
        while name.casefold() in names:
            number += 1
            name = f"{file.stem}-{number}"
        names[name.casefold()] = name
    return list(names.values())


def claim(folder: Path, targets: Iterable[Path], *, overwrite: bool) -> None:
    """Make the output folder; refuse to replace pictures unasked. Raises UserError."""
    existing = [path for path in targets if path.exists()]
    if existing and not overwrite:
        raise UserError(
            f"{len(existing)} of the pictures are already there, such as {existing[0]}; "
            "add --overwrite to replace them, or name another folder with --out"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: {error.strerror}") from error


def write_picture(path: Path, picture: UInt8[ndarray, "_ _ 3"]) -> None:
    """Write a PNG, whole or not at all. Raises UserError where that is not possible."""
    from dinoscope.report.figures import write_png

    try:
        write_png(path, picture)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def say_drawn(drawn: int, faults: Sequence[str], out: Path) -> None:
    """Tell where the pictures are, and which images could not be drawn. Raises UserError where none could."""
    from rich.console import Console

    if not drawn:
        raise UserError("no image could be drawn: " + "; ".join(faults))
    if faults:
        Console(stderr=True).print(
            f"{len(faults)} not drawn:", *faults, sep="\n  ", markup=False, highlight=False, soft_wrap=True
        )
    pages = "1 page" if drawn == 1 else f"{drawn} pages"
    Console().print(f"{pages} in {out}", markup=False, highlight=False, soft_wrap=True)
