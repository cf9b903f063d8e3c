"""`--window LEVEL,WIDTH` as the commands that set a grey range take it."""

from __future__ import annotations

from typing import Any

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from dinoscope.data.grey_range import parse_window, window_text


def window_registry() -> ConstructorRegistry:
    """Return what makes tyro read an option of type `tuple[float, float] | None` as LEVEL,WIDTH."""
    registry = ConstructorRegistry()
    registry.primitive_rule(_window)
    return registry


def _window(kind: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    if kind.type != (tuple[float, float] | None):
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="LEVEL,WIDTH",
        instance_from_str=lambda words: parse_window(words[0]),
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda value: ["None" if value is None else window_text(value)],
    )
