"""k-NN speed and memory: ours beside the bare matrix product, and beside the reference's classifier.

    python benchmarks/knn.py [--gallery N] [--queries N] [--dim N] [--repeats N]
        [--reference PATH] [--json FILE]

PATH is a checkout of github.com/facebookresearch/dino; knn_classifier of its eval_knn.py is imported from
there. It answers for one k (the largest), ours for k = 10, 20, 100, 200 at once. The matrix product is timed
twice: as `queries @ gallery.T`, and into one reused block, which is faster as it allocates nothing. All sides
take turns; figures are medians over the repeats, in wall time and in CPU time of this process (which other
programs disturb less; set OMP_NUM_THREADS=1 for it, as idle threads spin). Memory (Linux) is the peak above
what the process held just before.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from taking_turns import measure, peak_bytes
from torch import Tensor
from torch.nn.functional import normalize

from dinoscope.evaluation.knn import KNNConfig, knn
from dinoscope.types import FeatureBank

NUM_CLASSES = 1000
BLOCK_COLUMNS = 8192


def class_features(count: int, centers: Tensor, generator: torch.Generator) -> FeatureBank:
    """Return `count` unit features around their class centres, sorted by class, as a folder gives them."""
    labels = torch.randint(0, len(centers), (count,), generator=generator).sort().values
    features = centers[labels] + 4 * torch.randn(count, centers.shape[1], generator=generator)
    return FeatureBank(normalize(features, dim=1), labels)


def product_whole(gallery: Tensor, queries: Tensor) -> None:
    queries @ gallery.T


def product_in_blocks(gallery: Tensor, queries: Tensor) -> None:
    block = torch.empty(len(queries), BLOCK_COLUMNS)
    for part in gallery.split(BLOCK_COLUMNS):
        torch.mm(queries, part.T, out=block[:, : len(part)])


def reference_classifier(checkout: Path) -> Callable[[FeatureBank, FeatureBank, KNNConfig], dict[str, float]]:
    sys.path.insert(0, str(checkout))
    classify = importlib.import_module("eval_knn").knn_classifier

    def run(gallery: FeatureBank, queries: FeatureBank, config: KNNConfig) -> dict[str, float]:
        k = max(config.ks)
        sides = (gallery.features, gallery.labels, queries.features, queries.labels)
        top1, top5 = classify(*sides, k, config.temperature, NUM_CLASSES)
        return {f"knn_top1 (k = {k})": top1, f"knn_top5 (k = {k})": top5}

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gallery", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(NUM_CLASSES, arguments.dim, generator=generator)
    gallery = class_features(arguments.gallery, centers, generator)
    queries = class_features(arguments.queries, centers, generator)
    config = KNNConfig()
    first = FeatureBank(gallery.features[:200], gallery.labels[:200])
    list(knn(first, first, config))  # the libraries start their threads and load their kernels

    peak = peak_bytes(lambda: list(knn(gallery, queries, config)))
    accuracy = {metric.title: metric.value for metric in knn(gallery, queries, config)}

    sides: dict[str, Callable[[], object]] = {
        "product in blocks": lambda: product_in_blocks(gallery.features, queries.features),
        "product whole": lambda: product_whole(gallery.features, queries.features),
        "ours, 4 ks": lambda: list(knn(gallery, queries, config)),
    }
    if arguments.reference:
        reference = reference_classifier(arguments.reference)
        for name, value in reference(gallery, queries, config).items():
            print(f"{name}: ours {accuracy[name]:.2f} %, reference {value:.2f} %")
        sides["reference, 1 k"] = lambda: reference(gallery, queries, config)

    result = measure(sides, arguments.repeats)
    ours = result["ours, 4 ks"]
    print(f"gallery {arguments.gallery} x {arguments.dim}, {arguments.queries} queries,", end=" ")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.repeats} repeats")
    for name, row in result.items():
        ratios = {clock: ours[clock] / seconds for clock, seconds in row.items()}
        print(
            f"{name:18} {row['wall_s']:8.2f} s wall {row['cpu_s']:8.2f} s CPU"
            f"   ours takes {ratios['wall_s']:.2f} x its wall, {ratios['cpu_s']:.2f} x its CPU time"
        )
    print(f"ours: peak memory {peak / 2**20:.0f} MiB, aimed at {config.max_bytes / 2**20:.0f} MiB")
    if arguments.json:
        arguments.json.write_text(json.dumps({"sides": result, "peak_bytes": peak, "accuracy": accuracy}, indent=1))


if __name__ == "__main__":
    main()
