"""How much the page takes on, and how it refuses: checked before anything is decoded or computed."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from typing import Any

from dinoscope.errors import UserError

MB = 10**6
"""Bytes of a megabyte, and pixels of a megapixel."""


@dataclass(frozen=True)
class Limits:
    """What is refused, and how many are served at once. Raises UserError for a limit that is not above 0."""

    megapixels: float = 50
    """Most million pixels of an image, by its header."""
    side: int = 20_000
    """Longest side of an image, in pixels, by its header."""
    upload_mb: float = 50
    """Largest file of an image, in MB (1,000,000 bytes)."""
    video_mb: float = 200
    """Largest file of a video, in MB."""
    uploads_mb: float = 4000
    """All files that the page holds at a time, in MB; they are removed after an hour."""
    decode_seconds: float = 10
    """Longest time for reading an image; a video may take six times as long."""
    video_seconds: float = 30
    """Longest video, in seconds."""
    video_frames: int = 150
    """Most frames of a video that are followed; of a video with more, the person chooses which."""
    video_side: int = 640
    """Longer side of a video's frames, in pixels: larger ones are shrunk to it."""
    most_size: int = 640
    """Largest short side, in pixels, that a model is given an image at."""
    patches: int = 12_000
    """Most patches that a model is given an image as; the time grows with their square, and all others wait for it."""
    cache_mb: float = 512
    """Memory for what the models have computed, in MB; what was used least recently goes first."""
    concurrent: int = 1
    """Computations at the same time; all others wait in the queue."""
    queue: int = 64
    """Max computations that wait; later visitors are asked to try again."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise UserError(f"{field.name} is a limit above 0, not {getattr(self, field.name)}")


class Refused(Exception):
    """What the page does not do, and why: `key` names a text of en.toml, and `values` fill its placeholders."""

    def __init__(self, key: str, **values: object) -> None:
        super().__init__(key, values)
        self.key, self.values = key, values

    def __reduce__(self) -> tuple[Any, ...]:  # it crosses from the decoding processes
        return functools.partial(Refused, self.key, **self.values), ()
