"""Whether half of an unbalanced, duplicated set, chosen by `curate`, trains as well as all of it in as many steps.

    python benchmarks/curation.py [--images 2000] [--epochs 10] [--seeds 3] [--first 0] [--json FILE]
    OMP_NUM_THREADS=2 python benchmarks/curation.py --speed 100000

The set: drawn scenes of ten classes, of which each has 0.6 times as many images as the one before. Two of five images
are copies of others: stretched by a few pixels, in other light, and saved again. The first picture of a class has the
most copies (Zipf), as popular pictures of the web have.

For each seed, which draws the set, the first weights and the choice: DINO is trained on all images; its own features
choose half of them (`curate`, without labels); the same with copies found by whitened patches (--copies-model patches
--copies-above 0.95); and DINO is trained from the start on each half, and on a random half, in as many steps. The
figure is the k-NN top-1 (k = 20) of 500 images, with a gallery of 1,000 others, both balanced and in no training set.
Nothing is tuned on it; both thresholds were chosen on another such set, by which pairs are copies.

--speed times the choice alone, among so many made features of 384 numbers, of kinds whose sizes follow a power law.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from dinoscope import api
from dinoscope.config import changed
from dinoscope.curation import CurationConfig, choose
from dinoscope.data.sources import images_in_folder
from dinoscope.evaluation.base import Context
from dinoscope.evaluation.knn import EVALUATION, KNNConfig
from dinoscope.recipes import run_config
from dinoscope.scenes import CLASSES, ScenesConfig, draw_single
from dinoscope.training.loop import train

COPIES, FALL = 0.4, 0.6
ARMS = ("all", "curated", "patches", "random")
CURATED: dict[str, dict[str, Any]] = {"curated": {}, "patches": {"copies_model": "patches", "copies_above": 0.95}}
GALLERY, QUERIES = 100, 50  # of each class


@dataclass(frozen=True)
class Outcome:
    """One training. classes: how many images of each class it saw. pictures: different ones."""

    seed: int
    arm: str
    images: int
    pictures: int
    classes: tuple[int, ...]
    steps: int
    knn: float


def main() -> None:
    """Train all runs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=10, help="over all images; twice as many over half of them")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--speed", type=int, metavar="IMAGES", help="time the choice among so many made features")
    options = parser.parse_args()
    if options.speed:
        time_choice(options.speed)
        return
    torch.set_num_threads(1)
    start, outcomes = time.perf_counter(), list[Outcome]()
    for seed in range(options.first, options.first + options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            for outcome in outcomes_of(seed, options.images, options.epochs, Path(folder)):
                outcomes.append(outcome)
                print(line(outcome), flush=True)
    for arm in dict.fromkeys(outcome.arm for outcome in outcomes):
        found = [outcome.knn for outcome in outcomes if outcome.arm == arm]
        spread = f", standard deviation {statistics.stdev(found):.1f}" if len(found) > 1 else ""
        print(f"{arm}: k-NN {statistics.mean(found):.1f} %{spread}")
    print(f"{time.perf_counter() - start:.0f} s")
    if options.json:
        options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")


def line(outcome: Outcome) -> str:
    """Return an outcome as text."""
    classes = " ".join(map(str, outcome.classes))
    return (
        f"seed {outcome.seed} {outcome.arm:8s} {outcome.images} images of {outcome.pictures} pictures, "
        f"classes {classes}, {outcome.steps} steps: k-NN {outcome.knn:.1f} %"
    )


def time_choice(images: int) -> None:
    """Print how long the steps of a choice of half of the images take, and the peak memory of the process."""
    generator, kinds = torch.Generator().manual_seed(0), max(1, images // 33)
    sizes = torch.arange(1, kinds + 1).double().pow(-0.7)
    own = torch.multinomial(sizes, images, replacement=True, generator=generator)
    centres = torch.randn(kinds, 384, generator=generator)
    features = centres[own] + 0.8 * torch.randn(images, 384, generator=generator)

    @contextlib.contextmanager
    def watch(what: str) -> Iterator[Callable[[int, int], None]]:
        start, cpu = time.perf_counter(), time.process_time()
        yield lambda done, total: None
        print(f"{what}: {time.perf_counter() - start:.1f} s, {time.process_time() - cpu:.1f} s of CPU", flush=True)

    before = peak_memory()
    with watch("in all"):
        choose(features, CurationConfig(share=0.5), watch)
    print(f"{torch.get_num_threads()} threads; peak memory {peak_memory() / 1e6:.0f} MB, before {before / 1e6:.0f} MB")


def peak_memory() -> int:
    """Return the largest memory of this process so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def outcomes_of(seed: int, images: int, epochs: int, folder: Path) -> Iterator[Outcome]:
    """Draw the set, and train on all, on the half that is chosen, and on a random half."""
    write_set(folder / "raw", images, seed)
    write_labelled(folder / "known", seed)
    every, context = images_in_folder(folder / "raw"), Context(workers=0, cached=False)
    settings = {"workers": 0, "cached": False}
    for arm in ARMS:
        if arm in CURATED:
            choice = {"share": 0.5, "seed": seed, **CURATED[arm]}
            own = api.curate(folder / "all", every, device="cpu", settings=settings, **choice).chosen
        elif arm == "random":
            places = np.random.default_rng(seed).permutation(len(every))[: round(0.5 * len(every))]
            own = every.subset(sorted(places.tolist()))
        else:
            own = every
        config = run_config("quickstart", folder / "raw", folder / arm)
        warmup, steps = (length * (len(every) // config.batch_size) for length in (1, epochs))
        per_epoch = len(own) // config.batch_size
        config = changed(
            replace(config, epochs=steps / per_epoch, seed=seed, evaluate_every=0, workers=0, device="cpu"),
            {"optimizer.warmup_epochs": warmup / per_epoch},
        )
        run = train(config, source=own.unlabelled())
        (result,) = EVALUATION.run([api.load(run)], folder / "known", KNNConfig(ks=(20,)), context)
        top1 = next(metric.value for metric in result.metrics if metric.name == "knn_top1")
        counts = np.bincount(own.labels or (), minlength=len(CLASSES))
        pictures = len({key.removesuffix(".jpg").partition("-copy")[0] for key in own.keys})
        yield Outcome(seed, arm, len(own), pictures, tuple(counts.tolist()), run.steps, top1)


def write_set(folder: Path, images: int, seed: int) -> None:
    """Write CLASS/NUMBER.jpg, and CLASS/NUMBER-copy-NUMBER.jpg of its copies."""
    rng, scenes = np.random.default_rng([seed, 1]), ScenesConfig(seed=seed + 100)
    weights = FALL ** np.arange(len(CLASSES))
    for number, share in enumerate(weights / weights.sum()):
        total = max(4, round(images * share))
        originals = math.ceil(total * (1 - COPIES))
        place = folder / CLASSES[number]
        place.mkdir(parents=True)
        drawn = [draw_single(scenes, "train", number, index)[0] for index in range(originals)]
        for index, image in enumerate(drawn):
            cv2.imwrite(str(place / f"{index:05d}.jpg"), image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
        popularity = 1 / np.arange(1, originals + 1)
        for copy, index in enumerate(rng.choice(originals, total - originals, p=popularity / popularity.sum())):
            quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(50, 90))]
            name = f"{index:05d}-copy-{copy:05d}.jpg"
            cv2.imwrite(str(place / name), copied(drawn[index], rng)[:, :, ::-1], quality)


def copied(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an image with up to 3 pixels less at each side, at its old size, and in other light."""
    top, bottom, left, right = rng.integers(0, 4, 4)
    height, width = image.shape[:2]
    inner = image[top : height - bottom, left : width - right]
    values = cv2.resize(inner, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    return np.clip(values * rng.uniform(0.9, 1.1) + rng.uniform(-8, 8), 0, 255).astype(np.uint8)


def write_labelled(folder: Path, seed: int) -> None:
    """Write train/CLASS and val/CLASS, balanced, of scenes that are in no training set."""
    scenes = ScenesConfig(seed=seed + 200)
    for split, count in (("train", GALLERY), ("val", QUERIES)):
        for number, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                image = draw_single(scenes, split, number, index)[0]
                cv2.imwrite(str(folder / split / name / f"{index:05d}.png"), image[:, :, ::-1])


if __name__ == "__main__":
    main()
