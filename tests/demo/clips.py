"""Small clips for the tests: drawn scenes whose objects are known, and files of any header."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from dinoscope.data.benchmarks import read_indices
from dinoscope.data.video import open_video
from dinoscope.demo.clip import Clip
from dinoscope.scenes import ScenesConfig, write_scenes
from tests.conftest import draw_picture

SIZE = (120, 216)


def write_clip(path: Path, count: int = 6, size: tuple[int, int] = (48, 64), fps: float = 12) -> Path:
    """A VP9 file of `count` frames."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"vp09"), fps, size[::-1])
    for number in range(count):
        writer.write(draw_picture(number // 3, size))
    writer.release()
    return path


def scene(folder: Path, number: int, frames: int = 3) -> tuple[Clip, np.ndarray]:
    """A drawn scene, and the objects of its first frame."""
    config = ScenesConfig(
        train_per_class=0, val_per_class=0, voc_images=0, davis_sequences=4, davis_frames=frames, davis_size=SIZE
    )
    root, name = write_scenes(folder, config) / "DAVIS", f"480p/scene-{number:02d}"
    video = open_video(root / "JPEGImages" / name)
    truth = read_indices(root / "Annotations" / name / "00000.png")
    return Clip(video, name, SIZE, frames, frames), truth
