"""Label propagation, time and memory of one frame: ours beside the reference's.

    python benchmarks/davis.py [--reference PATH] [--patch 8|16] [--repeats N] [--json FILE]

PATH is a checkout of github.com/facebookresearch/dino; label_propagation and restrict_neighborhood of its
eval_video_segmentation.py are imported from there, and run on the CPU. Both sides get the same features of a
480 x 832 frame (patch 8: 60 x 104 cells) and of 8 context frames, 384 values a cell, and 3 soft labels: one scene
that moves by a cell a frame, with noise. The network is no part of it.

The reference makes its mask of neighbours once for each size of frame and then holds it; that is timed apart. The
sides take turns; figures are medians over the repeats, in wall time and in CPU time of this process (which other
programs disturb less; set OMP_NUM_THREADS=1 for it, as idle threads spin). Memory (Linux) is, of each side in a
fresh process, the peak above what it held just before: of one frame, and for the reference of its first frame,
mask included.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from taking_turns import measure, peak_bytes, timed
from torch import Tensor
from torch.nn.functional import normalize

from dinoscope.evaluation.propagation import PropagationConfig, propagate_labels

HEIGHT, WIDTH, DIM, FRAMES, LABELS = 480, 832, 384, 8, 3


@dataclass(frozen=True)
class Inputs:
    """target [n, d], sources [frames, n, d], labels [frames, labels, rows, columns]."""

    target: Tensor
    sources: Tensor
    labels: Tensor

    @property
    def grid(self) -> tuple[int, int]:
        return self.labels.shape[2], self.labels.shape[3]


def moving_scene(rows: int, columns: int) -> Inputs:
    """Return frames of one scene that moves right by a cell a frame, with noise; labels move along."""
    generator = torch.Generator().manual_seed(0)
    scene = torch.randn(rows, columns, DIM, generator=generator)
    bands = (torch.arange(columns) * LABELS // columns).expand(rows, -1)
    frames, labels = [], []
    for number in range(FRAMES + 1):
        noise = torch.randn(rows, columns, DIM, generator=generator)
        frames.append(normalize((scene.roll(number, dims=1) + noise).flatten(0, 1), dim=1))
        hard = torch.nn.functional.one_hot(bands.roll(number, dims=1), LABELS).permute(2, 0, 1).float()
        labels.append((hard + 0.2 * torch.rand(hard.shape, generator=generator)) / 1.3)
    return Inputs(frames[-1], torch.stack(frames[:-1]), torch.stack(labels[:-1]))


def ours(inputs: Inputs) -> Tensor:
    return propagate_labels(inputs.target, inputs.sources, inputs.labels, PropagationConfig())


class Reference:
    """The reference's functions on the CPU: what they take from elsewhere is put in place."""

    def __init__(self, checkout: Path) -> None:
        config = PropagationConfig()
        sys.path.insert(0, str(checkout))
        self.module: Any | ModuleType = importlib.import_module("eval_video_segmentation")
        self.module.args = argparse.Namespace(size_mask_neighborhood=config.radius, topk=config.top_k)
        torch.Tensor.cuda = lambda self, *args, **kwargs: self  # the script moves tensors to the GPU unasked

    def mask(self, inputs: Inputs) -> Tensor:
        return self.module.restrict_neighborhood(*inputs.grid).unsqueeze(0).repeat(FRAMES, 1, 1)

    def step(self, inputs: Inputs, mask: Tensor | None) -> Tensor:
        self.module.extract_feature = lambda model, frame, return_h_w: (inputs.target, *inputs.grid)
        sources, labels = [source.T for source in inputs.sources], [label[None] for label in inputs.labels]
        return self.module.label_propagation(self.module.args, None, None, sources, labels, mask)[0][0]


def frame_bytes(checkout: Path | None, rows: int, columns: int) -> int:
    """Return how far the resident memory rises above its present level during one frame (Linux).

    Of the reference, or of ours where there is no checkout. To be called in a fresh process, which has handed back
    what it freed: memory that is used again would not count.
    """
    tiny, inputs = moving_scene(6, 9), moving_scene(rows, columns)
    reference = Reference(checkout) if checkout else None
    step = (lambda data: reference.step(data, None)) if reference else ours
    step(tiny)  # the libraries start their threads and load their kernels
    ctypes.CDLL(None).malloc_trim(0)
    return peak_bytes(lambda: step(inputs))


def in_fresh_process(checkout: Path | None, rows: int, columns: int) -> int:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(frame_bytes, (checkout, rows, columns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="without it, ours alone")
    parser.add_argument("--patch", type=int, default=8, choices=(8, 16))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    rows, columns = HEIGHT // arguments.patch, WIDTH // arguments.patch
    sources = {"ours": None} | ({"reference": arguments.reference} if arguments.reference else {})
    peaks = {name: in_fresh_process(source, rows, columns) for name, source in sources.items()}

    inputs, tiny = moving_scene(rows, columns), moving_scene(6, 9)
    ours(tiny)
    sides: dict[str, Callable[[], Tensor]] = {"ours": lambda: ours(inputs)}
    figures: dict[str, Any] = {"peak_bytes": peaks}
    if arguments.reference:
        reference = Reference(arguments.reference)
        reference.step(tiny, None)
        mask_wall, mask_cpu = timed(lambda: reference.mask(inputs))
        mask = reference.mask(inputs)
        sides["reference"] = lambda: reference.step(inputs, mask)
        figures["max_difference"] = (ours(inputs) - sides["reference"]()).abs().max().item()
        figures["mask"] = {"wall_s": mask_wall, "cpu_s": mask_cpu}
    result = figures["sides"] = measure(sides, arguments.repeats)

    print(f"{rows} x {columns} cells x {DIM}, {FRAMES} context frames, {LABELS} labels,", end=" ")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.repeats} repeats")
    for name, row in result.items():
        print(f"{name:10} {row['wall_s']:8.3f} s wall {row['cpu_s']:8.3f} s CPU  {peaks[name] / 2**20:7.0f} MiB")
    if "reference" in result:
        once = figures["mask"]
        print(f"reference's mask of neighbours, once a video: {once['wall_s']:.2f} s wall, {once['cpu_s']:.2f} s CPU")
        wall, cpu = (result["reference"][clock] / result["ours"][clock] for clock in ("wall_s", "cpu_s"))
        print(
            f"ours is {wall:.1f} times faster in wall time, {cpu:.1f} times in CPU time, in "
            f"1/{peaks['reference'] / peaks['ours']:.0f} of the memory; largest difference "
            f"{figures['max_difference']:.1e}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
