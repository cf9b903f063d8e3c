"""Temporary files of everybody who uses the page: one folder each, which nobody else is told of, removed at the end."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import tempfile
from pathlib import Path


class SessionFolders:
    """A folder that holds those of all sessions. It is removed, with all of them, when the process ends."""

    def __init__(self) -> None:
        self._root: Path | None = None

    @property
    def root(self) -> Path:
        """Made on first use, for this user alone; its name cannot be guessed, nor those of the folders in it."""
        if self._root is None or not self._root.is_dir():
            self._root = Path(tempfile.mkdtemp(prefix="dinoscope-"))
            atexit.register(shutil.rmtree, self._root, ignore_errors=True)
        return self._root

    def new(self) -> Path:
        """A folder of one's own."""
        folder = self.root / secrets.token_hex(16)
        folder.mkdir()
        return folder


def put(file: Path, folder: Path) -> Path:
    """The file in a folder too: as a link where that can be, so that it stays when it is removed where it was."""
    copy = folder / f"clip{file.suffix.lower()}"
    try:
        os.link(file, copy)
    except OSError:  # another disk, or one without links
        shutil.copyfile(file, copy)
    return copy


def remove(folder: Path) -> None:
    """The folder and all in it, where it is still there."""
    shutil.rmtree(folder, ignore_errors=True)
