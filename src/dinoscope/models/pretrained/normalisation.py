"""What the settings next to a file in a folder of a model hub say: how images were normalised, and how many heads."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinoscope.errors import UserError
from dinoscope.models.backbone import BACKBONES
from dinoscope.models.vit import ViTShape

Color = tuple[float, float, float]

SETTINGS = (
    ("preprocessor_config.json", (), "image_mean", "image_std"),
    ("config.json", ("pretrained_cfg",), "mean", "std"),
)
"""Of transformers and of timm: the file, the dictionaries that lead to it, and the names of mean and deviation."""

_YOURSELF = "Mend it, or give both --mean and --std to dinoscope import: then it is not read"


def beside(weights: Path) -> tuple[Color, Color, str] | None:
    """Mean and standard deviation of RGB in [0, 1], and the file that says them; None where none does.

    Raises UserError where such a file is damaged, or says what cannot be; `Choices` of both do without it.
    """
    for name, way, mean, std in SETTINGS:
        file = weights.with_name(name)
        values = _read(file) if file.is_file() else {}
        for step in way:
            values = values.get(step) or {}
        if isinstance(values, Mapping) and mean in values and std in values:
            return _color(file, mean, values[mean]), _color(file, std, values[std], positive=True), name
    return None


def stated_heads(weights: Path) -> int | None:
    """Attention heads, as config.json of transformers (the number) or timm (the network) says; None if it does not."""
    file, values = weights.with_name("config.json"), {}
    with contextlib.suppress(UserError):  # `beside` raises it, if it needs the file
        values = _read(file) if file.is_file() else {}
    heads, name = values.get("num_attention_heads"), values.get("architecture")
    shape = BACKBONES.get(name) if isinstance(name, str) else None
    if isinstance(shape, ViTShape):
        return shape.heads
    return heads if isinstance(heads, int) and heads > 0 else None


def _read(file: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file}, which is to say how images are normalised, cannot be read: {error}. {_YOURSELF}"
        ) from error
    return values if isinstance(values, Mapping) else {}


def _color(file: Path, name: str, value: Any, *, positive: bool = False) -> Color:
    try:
        red, green, blue = map(float, value)
    except (TypeError, ValueError) as error:
        raise UserError(f"{file}: {name} is {value!r}, not three numbers. {_YOURSELF}") from error
    if not all(part > 0 if positive else 0 <= part <= 1 for part in (red, green, blue)):
        allowed = "each must be above 0" if positive else "each must lie in [0, 1]"
        raise UserError(f"{file}: {name} is {value!r}; {allowed}. {_YOURSELF}")
    return red, green, blue
