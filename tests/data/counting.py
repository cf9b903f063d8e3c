"""A file in memory that counts the bytes that are read from it."""

from __future__ import annotations

from io import BytesIO
from typing import Any


class Counting(BytesIO):
    count = 0

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        self.count += len(content)
        return content

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        self.count += count
        return count
