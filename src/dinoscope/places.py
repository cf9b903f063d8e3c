"""What a text such as `--data` gives names: a path on this machine, an address, or several of these that are joined.

The text form is one for all: it stands in settings, protocols and reports, and `parse_place` reads it back. Joined
places are absolute and have " + " between them, so that the name of no folder is taken for several.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoscope.errors import UserError
from dinoscope.remote import RemotePath, is_address, remote_path

_BETWEEN = re.compile(r" \+ (?=/|\\\\|[A-Za-z]:[\\/]|[A-Za-z][A-Za-z0-9+.-]*://)")

if TYPE_CHECKING:
    _Base = Path
else:
    _Base = type(Path())


class JoinedPath(_Base):
    """Several places whose images are one data set. `joined` makes and checks it.

    It is a `Path` so that places of images have one type. What is below it is below each of its places.
    """

    places: tuple[Path, ...]

    def __new__(cls, places: Iterable[Path]) -> JoinedPath:
        return super().__new__(cls, " + ".join(map(str, places)))

    def __init__(self, places: Iterable[Path]) -> None:
        self.places = tuple(places)
        if _Base.__init__ is not object.__init__:  # from Python 3.12 on
            super().__init__(str(self))  # pyright: ignore[reportCallIssue]

    def __str__(self) -> str:
        return " + ".join(map(str, self.places))

    def __reduce__(self) -> tuple[Any, ...]:
        return JoinedPath, (self.places,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JoinedPath) and self.places == other.places

    def __hash__(self) -> int:
        return hash(self.places)

    def __truediv__(self, name: Any) -> JoinedPath:
        return JoinedPath(tuple(place / name for place in self.places))

    @property
    def name(self) -> str:
        return " + ".join(place.name for place in self.places)

    def absolute(self) -> JoinedPath:
        return JoinedPath(tuple(place.absolute() for place in self.places))

    def resolve(self, strict: bool = False) -> JoinedPath:
        return JoinedPath(tuple(place.resolve(strict) for place in self.places))

    def exists(self, **_: Any) -> bool:
        return all(place.exists() for place in self.places)

    def is_file(self, **_: Any) -> bool:
        return False

    def is_dir(self, **_: Any) -> bool:
        return False

    @property
    def parent(self) -> JoinedPath:
        raise UserError(f"{self}: a single place is needed here")

    def with_name(self, name: str) -> JoinedPath:
        raise UserError(f"{self}: a single place is needed here")


def parse_place(text: str | Path) -> Path:
    """Return what a text names. Raises UserError for an address that is not read (`remote.remote_path`)."""
    if isinstance(text, Path):
        return text
    parts = _BETWEEN.split(text)
    if len(parts) > 1:
        return joined(map(parse_place, parts))
    return remote_path(text) if is_address(text) else Path(text)


def joined(places: Iterable[Path]) -> Path:
    """Return places as one, made absolute; of a single one itself. Raises UserError if one is given twice."""
    every = [inner for outer in places for inner in (outer.places if isinstance(outer, JoinedPath) else [outer])]
    if len(every) == 1:
        return every[0]
    absolute = [one.absolute() for one in every]
    for one, other in permutations([place.resolve() for place in absolute], 2):
        if one == other or other in one.parents:
            raise UserError(f"{one} is given twice, or within {other}: give each place of images once")
    return JoinedPath(tuple(absolute))


_NOT_LOOKED_UP = "*?[{#"
"""Signs of patterns, and of images within a file."""


def may_exist(place: Path) -> bool:
    """Return whether this machine has such a file or folder, alone or within a file, or only its reader can tell.

    Addresses, patterns and images within a file are left to who reads them.
    """
    if isinstance(place, RemotePath) or any(sign in str(place) for sign in _NOT_LOOKED_UP):
        return True
    try:
        return place.exists() or any(parent.is_file() for parent in place.parents)
    except OSError:  # who reads it has the better words
        return True


def require_place(place: Path) -> None:
    """Raise UserError if a place, or one of those in it, cannot exist (`may_exist`)."""
    for one in place.places if isinstance(place, JoinedPath) else (place,):
        if not may_exist(one):
            raise UserError(f"{one}: no such {'file' if one.suffix else 'folder'}. Check the path.")


def require_local(place: Path) -> None:
    """Raise UserError if a place is not a single one on this machine."""
    if isinstance(place, RemotePath | JoinedPath):
        raise UserError(f"{place}: a single folder on this machine is needed here")
