"""The name of `dinoscope.data.images` before version 0.2, which the next release removes."""

from dinoscope.data.images import RawImage, UnreadableImage, decode, read

__all__ = ["RawImage", "UnreadableImage", "decode", "read"]
