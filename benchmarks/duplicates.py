"""Planted copies: how many `dinoscope duplicates` finds, and how many of its pairs are right, by kind of copy.

    python benchmarks/duplicates.py [--data FOLDER] [--images 5000] [--copies 500] [--thresholds T ...] [--model MODEL]

Of the images of FOLDER (without: drawn scenes), `--images` are taken by chance; of the first `--copies`, one copy
of each kind is made. Each kind is searched for on its own among all images. Recall is the share of copies that are
paired with their original. Precision is, of the pairs that a copy is in, the share that leads to its original. Pairs
among the images themselves are counted apart: photographs that were there twice from the start, or false alarms;
--show FOLDER writes them. With --model, its features are compared instead, or with --both either they or, at their
usual threshold, the lowest frequencies.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageFont
from torch import Tensor

from dinoscope.data.finding import find_images
from dinoscope.data.images import as_raw
from dinoscope.data.sources import dataset_images
from dinoscope.evaluation.base import Context
from dinoscope.evaluation.knn import unit
from dinoscope.model_names import load_model
from dinoscope.near_duplicates import THRESHOLD, descriptor, mirrored
from dinoscope.scenes import ScenesConfig, write_scenes

SCENES = ScenesConfig(train_per_class=50, val_per_class=10, voc_images=0, davis_sequences=0)

Draw = np.random.Generator
Change = Callable[[Image.Image, Draw], Image.Image]


def resized(image: Image.Image, draw: Draw) -> Image.Image:
    scale = draw.choice([0.5, 0.75, 1.5])
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, draw: Draw) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "jpeg", quality=20)
    return Image.open(file).convert("RGB")


def colored(image: Image.Image, draw: Draw) -> Image.Image:
    """Brightness and contrast by up to 30 %, saturation by up to 70 %, hue by up to 17 degrees."""
    for enhance, reach in ((ImageEnhance.Brightness, 0.3), (ImageEnhance.Contrast, 0.3), (ImageEnhance.Color, 0.7)):
        image = enhance(image).enhance(draw.uniform(1 - reach, 1 + reach))
    values = np.array(image.convert("HSV"))
    values[..., 0] = (values[..., 0].astype(int) + draw.integers(-12, 13)) % 256
    return Image.fromarray(values, "HSV").convert("RGB")


def flipped(image: Image.Image, draw: Draw) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def lettered(image: Image.Image, draw: Draw) -> Image.Image:
    """A line of text over most of the width, a sixth of the height."""
    image, height = image.copy(), max(7, image.height // 6)
    place = (int(draw.integers(0, image.width // 6 + 1)), int(draw.integers(0, image.height - height)))
    color = str(draw.choice(["white", "black", "yellow", "red"]))
    ImageDraw.Draw(image).text(place, "(c) photo 2024", color, ImageFont.load_default(height))
    return image


def cropped(share: float) -> Change:
    def crop(image: Image.Image, draw: Draw) -> Image.Image:
        width, height = round(share * image.width), round(share * image.height)
        left, top = int(draw.integers(0, image.width - width + 1)), int(draw.integers(0, image.height - height + 1))
        return image.crop((left, top, left + width, top + height))

    return crop


KINDS: dict[str, Change] = {
    "resized (0.5, 0.75, 1.5)": resized,
    "JPEG, quality 20": jpeg,
    "colour": colored,
    "mirrored": flipped,
    "text": lettered,
    "crop, 90 % of each side": cropped(0.9),
    "crop, 75 % of each side": cropped(0.75),
}


def frequencies_of(pictures: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack([descriptor(as_raw(pixels)) for pixels in pictures]))


def features_of(pictures: Any, model: str) -> Tensor:
    context = Context(cached=False, workers=0)
    return context.features(load_model(model).backbone, dataset_images(pictures), "features").features


class Side:
    """Pictures as they are compared. model: None for lowest frequencies. both: they count as well, as a cosine of 1."""

    def __init__(self, pictures: list[np.ndarray], model: str | None, both: bool) -> None:
        self.frequencies = None if model and not both else frequencies_of(pictures)
        self.features = None if model is None else features_of(pictures, model)

    def cosines(self, other: Side) -> Tensor:
        """Return the cosine of each of these pictures with each of the others, or with its mirror image if larger."""
        lowest, features = None, None
        if self.frequencies is not None and other.frequencies is not None:
            own, theirs = unit(self.frequencies), unit(other.frequencies)
            lowest = torch.maximum(own @ theirs.T, own @ mirrored(theirs).T)
        if self.features is not None and other.features is not None:
            features = unit(self.features) @ unit(other.features).T
        if lowest is not None and features is not None:
            return torch.where(lowest >= THRESHOLD, 1.0, features)
        found = lowest if features is None else features
        assert found is not None
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--copies", type=int, default=500)
    parser.add_argument("--model")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.8, 0.85, 0.9, 0.95])
    parser.add_argument("--both", action="store_true")
    parser.add_argument("--show", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or write_scenes(Path(folder) / "scenes", SCENES) / "folder"
        source = find_images(data, labelled=False)
        chosen = np.random.default_rng(0).permutation(len(source))[: options.images]
        pictures = [source.read(int(index)).rgb() for index in chosen]
    begun = time.process_time()
    images = Side(pictures, options.model, options.both)
    speed = len(pictures) / (time.process_time() - begun)
    print(f"{options.data or 'scenes'}: {len(pictures)} images; {speed:.0f} images/s of CPU time, without reading them")
    count = min(options.copies, len(pictures))
    cosines: dict[str, Tensor] = {}
    for kind, change in KINDS.items():
        copies = [
            np.asarray(change(Image.fromarray(pixels), np.random.default_rng(number)))
            for number, pixels in enumerate(pictures[:count])
        ]
        cosines[kind] = Side(copies, options.model, options.both).cosines(images)
    print("Recall / precision in %, by threshold:")
    print("| kind | " + " | ".join(f"{threshold:g}" for threshold in options.thresholds) + " |")
    print("|---|" + "---:|" * len(options.thresholds))
    for kind, values in cosines.items():
        cells: list[str] = []
        for threshold in options.thresholds:
            hits, pairs = int((values.diagonal() >= threshold).sum()), int((values >= threshold).sum())
            cells.append(f"{100 * hits / count:.1f} / {100 * hits / max(pairs, 1):.1f}")
        print(f"| {kind} | " + " | ".join(cells) + " |")
    among = images.cosines(images).triu(1)
    found = {(int(i), int(j)): float(among[i, j]) for i, j in (among >= min(options.thresholds)).nonzero()}
    counts = [sum(cosine >= threshold for cosine in found.values()) for threshold in options.thresholds]
    print("| pairs among the images themselves | " + " | ".join(map(str, counts)) + " |")
    if options.show is not None:
        options.show.mkdir(parents=True, exist_ok=True)
        for (i, j), cosine in sorted(found.items(), key=lambda item: -item[1])[:60]:
            sides = [np.asarray(Image.fromarray(pictures[place]).resize((160, 160))) for place in (i, j)]
            Image.fromarray(np.concatenate(sides, axis=1)).save(options.show / f"{cosine:.4f}-{i}-{j}.png")


if __name__ == "__main__":
    main()
