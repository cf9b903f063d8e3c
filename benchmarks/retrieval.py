"""Time and memory of leave-one-out retrieval in a large gallery of random features.

python benchmarks/retrieval.py [--images N] [--dim N]
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dinoscope.evaluation.base import Context
from dinoscope.evaluation.retrieval import RetrievalConfig, leave_one_out
from dinoscope.features import Progress
from dinoscope.types import FeatureBank

EVERY_S = 60


def peak_mb() -> float:
    """Return the most memory that this process has had."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1e6 if sys.platform == "darwin" else 1e3)


@contextmanager
def watch(_: str) -> Iterator[Progress]:
    """Print a line a minute."""
    start = printed = time.perf_counter()

    def progress(done: int, count: int) -> None:
        nonlocal printed
        now = time.perf_counter()
        if done == count or now - printed > EVERY_S:
            printed = now
            print(f"{done} of {count} queries, {now - start:.0f} s, peak {peak_mb():.0f} MB", flush=True)

    yield progress


def main() -> None:
    """Rank a gallery of random features by each of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=384)
    asked = parser.parse_args()
    random = torch.Generator().manual_seed(0)
    features = torch.randn(asked.images, asked.dim, generator=random)
    labels = torch.randint(100, (asked.images,), generator=random)
    print(f"{asked.images} x {asked.dim}, {torch.get_num_threads()} threads; before: {peak_mb():.0f} MB", flush=True)
    metrics, _ = leave_one_out(FeatureBank(features, labels=labels), RetrievalConfig(), Context(watch=watch))
    print(f"mAP {metrics[0].value:.2f} %; peak {peak_mb():.0f} MB")


if __name__ == "__main__":
    main()
