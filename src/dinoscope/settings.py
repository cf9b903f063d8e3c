"""Frozen dataclasses to plain JSON values and back, strictly: an unknown or missing key is an error."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, TypeVar

from cattrs import ClassValidationError, Converter, transform_error

from dinoscope.errors import UserError

T = TypeVar("T")


def to_dict(settings: Any) -> dict[str, Any]:
    """Plain values (dict, list, str, number, None) of a settings dataclass."""
    return _converter().unstructure(settings)


def from_dict(cls: type[T], values: Any, source: str) -> T:
    """Build `cls` from plain values; `source` names the file for the error.

    Raises UserError where a key is unknown or missing, or a value has the wrong type.
    """
    try:
        return _converter().structure(values, cls)
    except ClassValidationError as error:
        raise UserError(f"{source} is not a valid {cls.__name__}: {'; '.join(transform_error(error))}") from error


@functools.cache
def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=True)
    converter.register_unstructure_hook_func(lambda kind: isinstance(kind, type) and issubclass(kind, Path), str)
    converter.register_structure_hook(Path, lambda value, _: Path(value))
    return converter
