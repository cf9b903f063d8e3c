"""Weights that others have released: their files recognised and read, and a catalogue of where they are."""

from dinoscope.models.pretrained.catalogue import CATALOGUE, Release
from dinoscope.models.pretrained.fetch import fetch, is_cached, is_offline
from dinoscope.models.pretrained.importing import Choices, Found, import_file

__all__ = [
    "CATALOGUE",
    "Choices",
    "Found",
    "Release",
    "fetch",
    "import_file",
    "is_cached",
    "is_offline",
]
