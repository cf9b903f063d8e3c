"""Temporary files of everybody who uses the page: one folder each, which nobody else is told of, removed at the end."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path


class SessionFolders:
    """Folders of sessions in one folder, which is made; whoever made them all removes it when the page ends."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def new(self) -> Path:
        """A folder of one's own, of a name that cannot be guessed."""
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
