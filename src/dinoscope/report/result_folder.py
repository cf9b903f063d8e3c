"""A folder of result files: refused before anything is measured where it is not free, and written file by file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from dinoscope import checkpoint
from dinoscope.data.folder import EXTENSIONS
from dinoscope.data.made import mark
from dinoscope.errors import UserError


def claim(out: Path, names: Iterable[str], *, overwrite: bool) -> None:
    """Refuse, before the work, a folder that cannot be made or holds some of the files. Makes nothing yet.

    Raises UserError.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; --out is the folder to write to")
    parent = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"{out} cannot be written: {parent} is {'read-only' if parent.is_dir() else 'a file'}")
    there = next((name for name in names if (out / name).exists()), None)
    if there is not None and not overwrite:
        raise UserError(f"{out} holds {there} already: name another folder with --out, or add --overwrite")


def write(out: Path, contents: Iterable[tuple[str, bytes | None]]) -> list[Path]:
    """Write every file, each whole or not at all, and return them. None deletes what an earlier run left of the name.

    Pictures among them are noted as no data.

    Raises UserError where that fails.
    """
    written: list[Path] = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in contents:
            path = out / name
            if content is None:
                path.unlink(missing_ok=True)
                continue
            if name.endswith(EXTENSIONS):
                mark(out, [name])
            with checkpoint.replacing(path) as partial:
                partial.write_bytes(content)
            written.append(path)
    except OSError as error:
        raise UserError(f"the results could not be written to {out}: {error}") from error
    return written
