"""Loader workers start even where OpenCV already runs threads in this process."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys, cv2, numpy as np
from pathlib import Path
from dinoscope.data.sources import find_images
from dinoscope.data.loader import StepSampler, ViewsDataset, view_loader
from dinoscope.data.views import VIEWS

cv2.setNumThreads(4)
cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (31, 31), 5)
folder = find_images(Path(sys.argv[1]))
sampler = StepSampler(len(folder), 4, 0, range(2), rank=0, processes=1)
for views in view_loader(ViewsDataset(folder, VIEWS["small_32"], 0), sampler, workers=1, pin=False):
    print(tuple(views.global_views.shape))
"""


def test_workers_start_beside_opencv_threads(picture_folder) -> None:
    command = [sys.executable, "-c", SCRIPT, str(picture_folder(8))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.splitlines() == ["(2, 4, 3, 32, 32)"] * 2
