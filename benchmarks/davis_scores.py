"""J and F of DAVIS: our speed beside the official scorer's, on the same masks, and the largest difference.

    python benchmarks/davis_scores.py [--reference PATH] [--data DAVIS] [--year 2016] [--frames N] [--repeats N]
        [--size PX] [--json FILE]

PATH is a checkout of github.com/davisvideochallenge/davis2017-evaluation; its davis2017/metrics.py is imported from
there and needs scikit-image (pip install scikit-image), which dinoscope does not. The masks are the annotations of
DAVIS as truth and those three frames later as prediction: contours as far apart as those of a fair method. Without
--data they are drawn scenes, 480 px high (--size), as wide as those of DAVIS.
Frames lie in memory. The reference gets its stacks of binary masks ready
made, one for each object, which its own program first has to build; ours gets the id masks and cuts the objects out
itself. Both sides take turns; figures are medians over the repeats, in wall time and in CPU time of this process.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from taking_turns import measure

from dinoscope.data.benchmarks import find_davis
from dinoscope.evaluation.davis import SequenceScore, score_sequence
from dinoscope.scenes import ScenesConfig, write_scenes

LAG = 3

Masks = list[np.ndarray]
Stack = np.ndarray


def sequences(data: Path, year: int, frames: int) -> dict[str, tuple[Masks, Masks]]:
    """(predictions, truths) of every sequence. The prediction of a frame is the truth of a later one."""
    found = {}
    for sequence in find_davis(data, year).sequences:
        masks = [
            mask for index in range(min(frames + LAG, len(sequence))) if (mask := sequence.mask(index)) is not None
        ]
        found[sequence.name] = masks[LAG:], masks[:-LAG]
    return found


def stacks(masks: Masks, objects: int) -> Stack:
    """[objects, frames, height, width], first and last frame left out."""
    return np.stack(masks[1:-1])[None] == np.arange(1, objects + 1)[:, None, None, None]


def reference_scores(checkout: Path) -> Callable[[Stack, Stack], tuple[np.ndarray, np.ndarray]]:
    sys.path.insert(0, str(checkout))
    try:
        importlib.import_module("skimage.morphology")
        metrics = importlib.import_module("davis2017.metrics")
    except ImportError as error:
        raise SystemExit(f"the reference cannot be imported: {error}. It needs scikit-image and opencv") from error

    def run(predictions: Stack, truths: Stack) -> tuple[np.ndarray, np.ndarray]:
        pairs = list(zip(truths, predictions, strict=True))
        j = np.array([metrics.db_eval_iou(truth, prediction) for truth, prediction in pairs])
        return j, np.array([metrics.db_eval_boundary(truth, prediction) for truth, prediction in pairs])

    return run


def largest_difference(score: SequenceScore, reference: tuple[np.ndarray, np.ndarray]) -> float:
    ours = np.array(score.objects).swapaxes(0, 1)
    return float(np.abs(ours - np.array(reference)).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="without it, ours alone")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--year", type=int, default=2017)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, default=480)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    reference = reference_scores(arguments.reference) if arguments.reference else None
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data
        if data is None:
            drawn = ScenesConfig(
                0, 64, 0, 0, 0, 2, arguments.frames + LAG, (arguments.size, arguments.size * 854 // 480)
            )
            data = write_scenes(Path(folder) / "scenes", drawn) / "DAVIS"
        masks = sequences(data, arguments.year, arguments.frames)

    total: dict[str, dict[str, float]] = {}
    difference = 0.0
    for name, (predictions, truths) in masks.items():
        score = score_sequence(predictions, truths)
        count = len(score.objects)
        sides: dict[str, Callable[[], object]] = {
            "ours, 1 thread": lambda p=predictions, t=truths: score_sequence(p, t, workers=1),
            "ours": lambda p=predictions, t=truths: score_sequence(p, t),
        }
        if reference:
            ready = stacks(predictions, count), stacks(truths, count)
            difference = max(difference, largest_difference(score, reference(*ready)))
            sides = {"reference": lambda ready=ready: reference(*ready), **sides}
        result = measure(sides, arguments.repeats)
        height, width = truths[0].shape
        print(f"{name}: {len(truths) - 2} frames of {width} x {height} px, {count} objects", end="")
        for side, row in result.items():
            print(f"; {side} {row['wall_s']:.3f} s wall, {row['cpu_s']:.3f} s CPU", end="")
            for clock, seconds in row.items():
                total.setdefault(side, {}).setdefault(clock, 0.0)
                total[side][clock] += seconds
        print()

    print(f"{len(masks)} sequences, {arguments.repeats} repeats, opencv {cv2.__version__}, numpy {np.__version__}")
    for side, row in total.items():
        print(f"{side:15} {row['wall_s']:8.2f} s wall {row['cpu_s']:8.2f} s CPU", end="")
        if reference:
            ratios = {clock: total["reference"][clock] / seconds for clock, seconds in row.items()}
            print(f"   {ratios['wall_s']:.1f} times as fast by wall, {ratios['cpu_s']:.1f} by CPU time", end="")
        print()
    if reference:
        print(f"largest difference of a value of J or F in any frame: {difference:.3g}")
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"sides": total, "largest_difference": difference if reference else None}, indent=1)
        )


if __name__ == "__main__":
    main()
