"""Numbers from the headers of files: read in threads, and cached by path, size and time of change.

The caller makes a number of whatever a header says (`groups.keyed_number`), so that no text of it is cached.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dinoscope.data.reader import UnreadableImage
from dinoscope.files import cache_folder, write_text
from dinoscope.places import parse_place
from dinoscope.system import available_cores

if TYPE_CHECKING:
    from dinoscope.data.sources import ImageSource

logger = logging.getLogger("dinoscope")

T = TypeVar("T")

_CHUNK = 32  # files read between two calls of `progress`
_VERSION = 1


class HeaderCache(Generic[T]):
    """Values of files, in one file of the cache for each place of images.

    kind: folder in the cache. name: what the values depend on, such as the name of the key.
    encode: turns a value into numbers of JSON. decode: turns them back; raises ValueError or TypeError for others.
    """

    def __init__(
        self, images: ImageSource, kind: str, name: str, encode: Callable[[T], Any], decode: Callable[[Any], T]
    ) -> None:
        self.images, self.encode, self.decode = images, encode, decode
        digest = hashlib.blake2b(os.fsencode(parse_place(images.name).resolve()), digest_size=16).hexdigest()
        self.file = cache_folder(kind) / f"{digest}-{name}.json"

    def read(
        self,
        wanted: Iterable[tuple[str, int]],
        examine: Callable[[int], T],
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[dict[str, T], dict[str, str]]:
        """Return the value of each file, and why others have none; the latter are not cached.

        wanted: path of each file, and the position of an image in it. examine: reads the header of the file of an
            image; called in threads; its UnreadableImage is the reason, which must hold nothing of the header.
        progress: called with (done, total) in files.
        """
        files, known = list(wanted), self._read()
        rows, faults = dict[str, tuple[int, int, T]](), dict[str, str]()

        def examined(start: int) -> list[tuple[str, tuple[int, int, T] | str]]:
            chunk = files[start : start + _CHUNK]
            return [(path, self._row(index, known.get(path), examine)) for path, index in chunk]

        pool = ThreadPoolExecutor(available_cores())
        try:
            for chunk in pool.map(examined, range(0, len(files), _CHUNK)):
                for path, row in chunk:
                    if isinstance(row, str):
                        faults[path] = row
                    else:
                        rows[path] = row
                if progress is not None:
                    progress(len(rows) + len(faults), len(files))
        finally:
            pool.shutdown(cancel_futures=True)
            self._write(known, rows)
        return {path: value for path, (_, _, value) in rows.items()}, faults

    def _row(
        self, index: int, known: tuple[int, int, T] | None, examine: Callable[[int], T]
    ) -> tuple[int, int, T] | str:
        """Return size, time of change (-1 for both if there is none: not cached) and value of a file, or the fault."""
        size, time = self.images.stamp(index) or (-1, -1)
        if known is not None and (size, time) == known[:2]:
            return known
        try:
            return size, time, examine(index)
        except UnreadableImage as error:
            return str(error)

    def _read(self) -> dict[str, tuple[int, int, T]]:
        """Return what is known; nothing if the file is absent or damaged."""
        try:
            content = json.loads(self.file.read_text(encoding="utf-8", errors="surrogateescape"))
            rows = content["files"] if content["version"] == _VERSION else {}
            return {path: (int(size), int(time), self.decode(value)) for path, (size, time, value) in rows.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            logger.warning("%s is damaged and not used (%s)", self.file, type(error).__name__)
            return {}

    def _write(self, known: dict[str, tuple[int, int, T]], found: dict[str, tuple[int, int, T]]) -> None:
        rows = {path: row for path, row in found.items() if row[0] >= 0}
        if rows.items() <= known.items():
            return
        files = {path: (size, time, self.encode(value)) for path, (size, time, value) in {**known, **rows}.items()}
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.file, json.dumps({"version": _VERSION, "files": files}, separators=(",", ":")))
        except OSError as error:
            logger.warning("%s could not be written: %s", self.file, error)
