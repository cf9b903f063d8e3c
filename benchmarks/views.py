"""Multi-crop speed on one core: images per second with decoding, ours beside the reference implementation.

    python benchmarks/views.py --reference PATH_TO_DINO_CHECKOUT [--images N] [--repeats N] [--json FILE]

PATH is a checkout of github.com/facebookresearch/dino; its DataAugmentationDINO is imported from there. Both
sides read the same JPEG files with the same settings. Ours ends in uint8 (it is normalised on the device),
the reference in normalised float32, as it does in training. "reduced" is ours with `--decode reduced`. Blocks of one
side and of the other alternate; time is CPU time of this process, so that other programs disturb little; figures are
medians over the repeats.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from dinoscope.data.augment import multi_crop
from dinoscope.data.images import decode, read
from dinoscope.data.views import ViewsConfig, largest_divisor

# name, (height, width) of the files, settings
SCENARIOS = (
    ("500x333 px, 2x224 + 8x96", (333, 500), ViewsConfig()),
    ("4000x3000 px, 2x224 + 8x96", (3000, 4000), ViewsConfig()),
    ("32x32 px, 2x32 + 4x16", (32, 32), ViewsConfig(num_local=4, global_size=32, local_size=16)),
)


def photograph(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return smooth colour, texture and edges, [height, width, 3] uint8; compresses like a photograph."""
    noise = rng.normal(size=(height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), height / 20)
    texture = cv2.GaussianBlur(noise, (0, 0), 0.8)
    image = 128 + 50 * smooth / smooth.std() + 28 * texture / texture.std()
    for _ in range(12):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        cv2.circle(image, centre, int(rng.integers(2, height // 5)), rng.uniform(0, 255, 3).tolist(), -1)
    return np.clip(image, 0, 255).astype(np.uint8)


def write_photographs(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [folder / f"{size[1]}x{size[0]}_{number:04d}.jpg" for number in range(count)]
    for path in paths:
        Image.fromarray(photograph(*size, rng)).save(path, quality=90)
    return paths


def pil_decode(path: Path) -> Image.Image:
    """Open a file as torchvision's ImageFolder does, which the reference trains from."""
    with path.open("rb") as file:
        return Image.open(file).convert("RGB")


def our_pipeline(config: ViewsConfig) -> Callable[[Path, int], object]:
    return lambda path, index: multi_crop(decode(path), config, seed=0, epoch=0, index=index)


def reduced_pipeline(config: ViewsConfig) -> Callable[[Path, int], object]:
    def views(path: Path, index: int) -> object:
        raw = read(path, shrink=functools.partial(largest_divisor, config, 0, 0, index))
        return multi_crop(raw.rgb(), config, 0, 0, index, raw.reduction)

    return views


def reference_pipeline(checkout: Path, config: ViewsConfig) -> Callable[[Path, int], object]:
    """Build the reference's augmentation. Its code fixes the two crop sizes, so they are set from outside."""
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    module = importlib.import_module("main_dino")
    augment = module.DataAugmentationDINO(config.global_scale, config.local_scale, config.num_local)
    for transform, size in (
        (augment.global_transfo1, config.global_size),
        (augment.global_transfo2, config.global_size),
        (augment.local_transfo, config.local_size),
    ):
        transform.transforms[0].size = (size, size)
    return lambda path, index: augment(pil_decode(path))


def images_per_second(
    pipelines: dict[str, Callable[[Path, int], object]], paths: list[Path], repeats: int
) -> dict[str, float]:
    """Run the pipelines in turn, `repeats` times after one warm-up, and return the median rate of each."""
    rates: dict[str, list[float]] = {name: [] for name in pipelines}
    for repeat in range(repeats + 1):
        for name, pipeline in pipelines.items():
            start = time.process_time()
            for index, path in enumerate(paths):
                pipeline(path, repeat * len(paths) + index)
            if repeat:
                rates[name].append(len(paths) / (time.process_time() - start))
    return {name: statistics.median(values) for name, values in rates.items()}


def measure(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return images per second by scenario and pipeline."""
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, size, config in SCENARIOS:
            count = arguments.images * 333 // size[0]  # small images need more of them to be timed
            paths = write_photographs(Path(folder), count, size)
            pipelines = {
                "ours": our_pipeline(config),
                "reduced": reduced_pipeline(config),
                "decode only": lambda path, index: decode(path),
            }
            if arguments.reference:
                pipelines["reference"] = reference_pipeline(arguments.reference, config)
            results[name] = images_per_second(pipelines, paths, arguments.repeats)
    return results


def report(results: dict[str, dict[str, float]]) -> None:
    print(f"{'images/s on one core':<28}{'ours':>10}{'reference':>12}{'ratio':>8}{'reduced':>10}{'decode only':>14}")
    for name, rates in results.items():
        reference = rates.get("reference")
        compared = f"{reference:12.1f}{rates['ours'] / reference:8.2f}" if reference else f"{'-':>12}{'-':>8}"
        print(f"{name:<28}{rates['ours']:10.1f}{compared}{rates['reduced']:10.1f}{rates['decode only']:14.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="checkout of github.com/facebookresearch/dino")
    parser.add_argument("--images", type=int, default=32, help="large files per block")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    results = measure(arguments)
    report(results)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
