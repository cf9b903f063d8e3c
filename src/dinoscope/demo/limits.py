"""How much the page takes on: settings of whoever starts it, checked before anything is decoded or computed."""

from __future__ import annotations

from dataclasses import dataclass, fields

from dinoscope.errors import UserError

MB = 10**6


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
    """Memory for what the models have said about images, in MB; what was used least recently goes first."""
    concurrent: int = 1
    """Computations at the same time; all others wait in the queue."""
    queue: int = 64
    """Most computations that wait; whoever comes later is told to try again."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise UserError(f"{field.name} is a limit above 0, not {getattr(self, field.name)}")

    @property
    def max_pixels(self) -> int:
        """`megapixels` in pixels."""
        return int(self.megapixels * 10**6)

    @property
    def upload_bytes(self) -> int:
        """`upload_mb` in bytes."""
        return int(self.upload_mb * MB)

    @property
    def video_bytes(self) -> int:
        """`video_mb` in bytes."""
        return int(self.video_mb * MB)

    @property
    def uploads_bytes(self) -> int:
        """`uploads_mb` in bytes."""
        return int(self.uploads_mb * MB)

    @property
    def cache_bytes(self) -> int:
        """`cache_mb` in bytes."""
        return int(self.cache_mb * MB)
