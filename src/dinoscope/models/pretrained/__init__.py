"""Weights that others have released: their files recognised and read, and a catalogue of where they are."""

from dinoscope.models.pretrained.importing import Choices, Found, import_file
from dinoscope.models.pretrained.released import CATALOGUE, Release, fetch, is_cached

__all__ = [
    "CATALOGUE",
    "Choices",
    "Found",
    "Release",
    "fetch",
    "import_file",
    "is_cached",
]
