"""How wide a picture must be shown for its letters to be read."""

from __future__ import annotations

import io
import re

from PIL import Image

LEGIBLE = 0.75
"""Of a picture's own width: its letters, of 13 pixels, then have about 10."""
_PHONE = 340
"""Pixels that every screen has: pictures that are legible at this width need no care."""
_POINT = 96 / 72  # CSS pixels
_VIEW_BOX = re.compile(r"<svg[^>]*\sviewBox=[\"']\s*[\d.eE+-]+[\s,]+[\d.eE+-]+[\s,]+([\d.eE+-]+)")


def legible_width(picture: bytes | str) -> int:
    """In CSS pixels; 0 where any screen is wide enough, or the size is not known. picture: as of a `Figure`."""
    least = round(LEGIBLE * (_drawn_width(picture) if isinstance(picture, str) else _pixels(picture)))
    return least if least > _PHONE else 0


def _drawn_width(text: str) -> float:
    found = _VIEW_BOX.search(text)
    return float(found[1]) * _POINT if found else 0.0


def _pixels(picture: bytes) -> int:
    try:
        with Image.open(io.BytesIO(picture)) as image:
            return image.width
    except OSError:  # it will be refused for its kind, with better words
        return 0
