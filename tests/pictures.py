"""Small pictures for the tests; no import hook comes with this module, so that processes of tests may use it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def write_pictures(
    root: Path, count: int, *, classes: int = 0, split: str = "", size: tuple[int, int] = (32, 40)
) -> Path:
    """Write small pictures into a folder, for fixtures that outlive one test; returns the folder."""
    for number in range(count):
        kind = f"class{number % classes}" if classes else ""
        file = root / split / kind / f"{number:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), draw_picture(number, size))
    return root


def draw_picture(seed: int, size: tuple[int, int] = (32, 40)) -> np.ndarray:
    """A smooth random picture [height, width, 3] with one bright disk: enough structure to tell pictures apart."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 200, (4, 4, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    center = (int(generator.integers(size[1])), int(generator.integers(size[0])))
    color = tuple(int(value) for value in generator.integers(100, 256, 3))
    return cv2.circle(picture, center, min(size) // 4, color, -1)
