"""The one exception that is meant for the person: what was wrong, the value, what to do."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")

FEW = 8
"""Names up to which an error lists all of them, not the nearest ones alone."""


class UserError(Exception):
    """A mistake that the person can fix. The command line prints it as one clear line and exits with 2."""


def lookup(kind: str, name: str, registry: Mapping[str, T]) -> T:
    """The entry of a registry.

    Raises UserError for an unknown name, offering the nearest ones, and all of them if there are few, or none is near.
    """
    if name in registry:
        return registry[name]
    near = difflib.get_close_matches(name, registry, n=3, cutoff=0.4)
    offers = [f"did you mean {' or '.join(near)}?"] if near else []
    if not near or len(registry) <= FEW:
        offers.append(f"there are: {', '.join(registry)}")
    raise UserError(f"there is no {kind} {name!r}; {' '.join(offers)}")


@contextlib.contextmanager
def located(place: str) -> Iterator[None]:
    """Put the place before the text of a UserError of the block."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
