"""What a training step costs on grey images with one channel, against the same images repeated to three.

    python benchmarks/channels.py [--repeats N] [--json FILE]

A step is the views of a batch, made in this process, and the update, with DINO on a small Vision Transformer and
SimCLR on convolutional networks; then the views alone, of images of 256 px too. "plain" leaves saturation, hue and grey
out for three channels too, as `--recipe auto` does for grey images. The sides take turns; figures are medians of CPU
time, so that other programs disturb little.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from taking_turns import measure
from torch.utils.data import Dataset

from dinoscope.data.augment import multi_crop
from dinoscope.data.sources import DatasetImages, dataset_images
from dinoscope.data.views import VIEWS, ViewsConfig
from dinoscope.recipes import small_run
from dinoscope.training.config import RunConfig
from dinoscope.training.trainer import Trainer

BATCH, IMAGES = 64, 128
SMALL, LARGE = 40, 256  # px

RUNS = (("dino", "vit_micro_conv8"), ("simclr", "resnet_micro"), ("simclr", "airbench_micro"))
"""(method, network), of the small comparison."""

CHANNELS = {"3": 3, "3 plain": 3, "1": 1}
"""Side -> channels."""


class Ramps(Dataset[np.ndarray]):
    """Grey images of waves and noise."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> np.ndarray:
        rng = np.random.default_rng(index)
        rows, columns = np.mgrid[: self.size, : self.size] / self.size
        wave = np.sin(2 * np.pi * (rng.uniform(1, 4) * rows + rng.uniform(1, 4) * columns))
        return np.clip(128 + 60 * wave + rng.normal(0, 20, rows.shape), 0, 255).astype(np.uint8)


def config_of(method: str, network: str, side: str) -> RunConfig:
    config = small_run(method, network, "small_32" if method == "dino" else "two_views_32", Path(), Path())
    changes: dict[str, Any] = {"batch_size": BATCH, "workers": 0, "device": "cpu", "precision": "fp32", "epochs": 9_999}
    return replace(config, channels=CHANNELS[side], views=views_of(config.views, side), **changes)


def views_of(views: ViewsConfig, side: str) -> ViewsConfig:
    return replace(views, saturation=0.0, hue=0.0, grayscale=0.0) if side == "3 plain" else views


def step_of(config: RunConfig, images: DatasetImages) -> Callable[[], object]:
    """Return a function that makes the views of a batch and a step."""
    trainer = Trainer(config, images, torch.device("cpu"))
    batches = trainer.batches()
    return lambda: trainer.make_step(next(batches))


def making(views: ViewsConfig, images: DatasetImages, count: int, channels: int) -> Callable[[], object]:
    """Return a function that makes the views of so many images alone."""
    decoded = [images.read(index).pixels(channels) for index in range(count)]
    return lambda: [multi_crop(image, views, 0, 0, index) for index, image in enumerate(decoded)]


def compare(title: str, sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, Any]:
    for side in sides.values():  # the first call fills caches
        side()
    seconds = {name: times["cpu_s"] for name, times in measure(sides, repeats).items()}
    shown = ", ".join(f"{name}: {1000 * value:.1f} ms" for name, value in seconds.items())
    ratios = " and ".join(f"{seconds['1'] / seconds[name]:.2f} of {name}" for name in ("3", "3 plain"))
    print(f"{title}: {shown}; one channel takes {ratios}")
    return {"what": title, **seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images, rows = dataset_images(Ramps(SMALL)), list[dict[str, Any]]()
    for method, network in RUNS:
        steps = {side: step_of(config_of(method, network, side), images) for side in CHANNELS}
        rows.append(compare(f"step of {method}, {network}, {BATCH} images", steps, options.repeats))
    for size, preset, count in ((SMALL, "small_32", BATCH), (LARGE, "imagenet", 8)):
        images = dataset_images(Ramps(size))
        views = {side: making(views_of(VIEWS[preset], side), images, count, CHANNELS[side]) for side in CHANNELS}
        rows.append(compare(f"views {preset} of {count} images of {size} px", views, options.repeats))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
