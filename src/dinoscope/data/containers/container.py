"""The contract of a container, a file that holds many images: where their bytes lie, and what they are called.

`dinoscope.data.containers` lists the containers; `dinoscope.data.archives` makes a source of images of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple


class Entry(NamedTuple):
    """One file within a container.

    key: its path within the container, with forward slashes.
    offset, size: where its bytes begin, and their number; of a file that is not stored as it is, the number that is
        read from the container.
    unpacked: number of bytes after decompression (raw deflate), 0 if the bytes are stored as they are.
    label: name of its class, "" if it has none.
    file: where the bytes lie; None for the container itself.
    """

    key: str
    offset: int
    size: int
    unpacked: int = 0
    label: str = ""
    file: Path | None = None


class Progress:
    """Reports how much of some bytes has been read."""

    def __init__(self, report: Callable[[int, int], None], total: int) -> None:
        self.report, self.total, self.done = report, total, 0

    def at(self, done: int) -> None:
        """Report at most 200 times."""
        if done - self.done > self.total // 200:
            self.done = done
            self.report(min(done, self.total), self.total)


@dataclass(frozen=True)
class Container:
    """One kind of file that holds images.

    endings: of the names of such files, in lower case, with the dot.
    recognises: tells them by their first 512 bytes.
    entries: yields what is in a file, in any order, images or not. It may write bytes that have no place of their own
        in the container to the second argument, an empty file; the third reports progress.

    A file may lie on a server: `entries` opens it with `Path.open`, which reads what is asked for, and some more ahead.
    It raises UserError for a file that cannot be used, with what to do, without its name.
    """

    endings: tuple[str, ...]
    recognises: Callable[[bytes], bool]
    entries: Callable[[Path, BinaryIO, Progress], Iterator[Entry]]
