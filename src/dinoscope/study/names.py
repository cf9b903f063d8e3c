"""What methods and architectures are called in tables."""

from __future__ import annotations

from dinoscope.methods import DISPLAY

METHOD_NAMES = {
    "pixels": "Raw pixels",
    "random": "Random",
    **{key: display.title for key, display in DISPLAY.items()},
}
"""name of a method or baseline -> as the field writes it, in the order of the rows."""
