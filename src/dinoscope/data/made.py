"""What dinoscope has made is not data: run folders, and the folders and pictures that a hidden list names.

A run folder is known by its settings. Everything else that holds pictures gets the list `MARK` when it is written: of
a folder that dinoscope made it says that all is dinoscope's; in any other it names the pictures.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

MARK = ".dinoscope"
RUN_SETTINGS = "config.json"

_KEY = "made by dinoscope, not data"
_ALL = "*"
_MAX_SETTINGS_BYTES = 1_000_000
"""Settings of a run are smaller; a config.json of somebody else may be of any size."""


def mark(folder: Path, names: Iterable[str] = ()) -> None:
    """Note that these files in a folder are dinoscope's, before they are written; if it makes the folder, all of it.

    Raises OSError if that is not possible.
    """
    listed = drawn_names(folder)
    wanted = listed | (set(names) if folder.exists() else {_ALL})
    folder.mkdir(parents=True, exist_ok=True)
    if wanted != listed and _ALL not in listed | drawn_names(folder.parent):
        (folder / MARK).write_text(json.dumps({_KEY: sorted(wanted)}, indent=1) + "\n", encoding="utf-8")


def drawn_names(folder: Path) -> set[str]:
    """Names of the files in the folder that dinoscope has drawn; empty without a list that can be read."""
    listed = _read_object(folder / MARK).get(_KEY)
    return {name for name in listed if isinstance(name, str)} if isinstance(listed, list) else set()


def is_made(folder: Path) -> bool:
    """Whether dinoscope made the folder: a run, or what is marked as a whole."""
    return _ALL in drawn_names(folder) or _is_run(folder)


def nothing_but_made(folder: Path) -> bool:
    """Whether dinoscope made the folder, or all that is in it but hidden files, at any depth: runs/ of runs/mine.

    Raises OSError if it cannot be listed.
    """
    if is_made(folder):
        return True
    empty = True
    with os.scandir(folder) as entries:
        for entry in entries:  # up to the first that is not: a class of a million images costs nothing
            if entry.name.startswith("."):
                continue
            if not entry.is_dir(follow_symlinks=False) or not nothing_but_made(Path(entry.path)):
                return False
            empty = False
    return not empty


def _is_run(folder: Path) -> bool:
    file = folder / RUN_SETTINGS
    try:
        if file.stat().st_size > _MAX_SETTINGS_BYTES:
            return False
    except OSError:
        return False
    values = _read_object(file)
    return "version" in values and isinstance(values.get("run"), dict)


def _read_object(file: Path) -> dict[str, object]:
    """A JSON object; empty where there is none."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
