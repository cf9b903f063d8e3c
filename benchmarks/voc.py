"""Speed of `dinoscope voc` beside the bare forward of its network.

    python benchmarks/voc.py [--images N] [--network NAME] [--batch-size N] [--repeats N]
        [--data VOCDEVKIT] [--json FILE]

Without --data the images are drawn: JPEG files of 500 x 375 px with masks of two classes and a void border, in the
layout of VOC. One side measures them by the published protocol at 512 px: reading, resizing, the last block's
attention, masks of eight masses, their Jaccard. The other is `backbone(images)` on the same pixels, read, resized and
normalised beforehand. They take turns; figures are medians over the repeats, in wall time and in CPU time of this
process (which other programs disturb less; set OMP_NUM_THREADS=1 for it, as idle threads spin).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from taking_turns import measure
from torch import Tensor

from dinoscope.data.benchmarks import MaskedImages, encode_indices, find_masked_images
from dinoscope.evaluation.voc import VocConfig, measure_voc, read_samples
from dinoscope.model_names import Model, load_model


def draw_voc(folder: Path, count: int) -> None:
    """Write `count` images and masks in the layout of VOC 2012."""
    voc = folder / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (voc / name).mkdir(parents=True)
    names = [f"{number:06d}" for number in range(count)]
    for number, name in enumerate(names):
        generator = np.random.default_rng(number)
        coarse = generator.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(voc / "JPEGImages" / f"{name}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        mask = np.zeros((375, 500), np.uint8)
        for value in (3, 15):
            center = (int(generator.integers(100, 400)), int(generator.integers(100, 275)))
            cv2.circle(mask, center, 80, value, -1)
            cv2.circle(mask, center, 80, 255, 5)
        (voc / "SegmentationClass" / f"{name}.png").write_bytes(encode_indices(mask))
    (voc / "ImageSets/Segmentation/val.txt").write_text("\n".join(names))


def preloaded(model: Model, images: MaskedImages, config: VocConfig) -> list[Tensor]:
    """The batches that the network sees, normalised."""
    networks = [(model.backbone.patch_size, model.backbone.config.window)]
    found = [read_samples(index, images, config, networks) for index in range(len(images))]
    pixels = [sample.pixels for samples in found if isinstance(samples, list) for sample in samples]
    parts = [pixels[begin : begin + 8] for begin in range(0, len(pixels), 8)]
    return [model.backbone.normalize(torch.stack(part)) for part in parts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--network", default="vit_small_patch16_224")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        if arguments.data is None:
            draw_voc(Path(folder), arguments.images)
        images = find_masked_images(arguments.data or Path(folder)).subset(arguments.images)
        model = load_model(f"random:{arguments.network}")
        config = VocConfig(protocol="published")
        batches = preloaded(model, images, config)

        def forward() -> None:
            with torch.inference_mode():
                for batch in batches:
                    model.backbone(batch)

        sides: dict[str, Callable[[], object]] = {
            "bare forward": forward,
            "measure_voc": lambda: measure_voc([model], images, config),
        }
        measure_voc([model], images.subset(1), config)  # the libraries start their threads and load their kernels
        result = measure(sides, arguments.repeats)

    count = sum(map(len, batches))
    bare = result["bare forward"]
    print(f"{arguments.network} at {config.square} px, {count} images, batches of {8},", end=" ")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.repeats} repeats")
    for name, row in result.items():
        ratios = {clock: bare[clock] / seconds for clock, seconds in row.items()}
        print(
            f"{name:14} {count / row['wall_s']:7.2f} images/s   {row['wall_s']:7.2f} s wall {row['cpu_s']:7.2f} s CPU"
            f"   speed of the bare forward x {ratios['wall_s']:.2f} (wall), x {ratios['cpu_s']:.2f} (CPU)"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"images": count, "sides": result}, indent=1))


if __name__ == "__main__":
    main()
