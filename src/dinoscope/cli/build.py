"""Parse the options of a command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from dinoscope.config import check_numbers

T = TypeVar("T")


def parse(options: type[T], args: Sequence[str], prog: str, **settings: Any) -> T:
    """Return what `tyro.cli` does, after a look at all numbers. Raises UserError as `check_numbers` does."""
    import tyro

    parsed = tyro.cli(options, args=args, prog=prog, **settings)
    check_numbers(parsed)
    return parsed
