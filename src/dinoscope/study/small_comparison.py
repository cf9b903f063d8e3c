"""The small comparison: every method on the same images, with the same backbone, budget and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dinoscope.errors import UserError
from dinoscope.methods import METHODS
from dinoscope.recipes import CPU_BACKBONES, small_run, with_epochs
from dinoscope.training.config import RunConfig


def small_comparison(
    data: Path,
    out: Path,
    *,
    views: str = "two_views_32",
    methods: Sequence[str] = (),
    backbones: Sequence[str] = (),
    epochs: float | None = None,
    seeds: Sequence[int] = (0,),
) -> list[RunConfig]:
    """One run of every method with every backbone and seed, in OUT/runs/METHOD-BACKBONE-sSEED.

    Ordered so that insight comes early: all methods with the first backbone and seed, then the next backbone, and
    only then the next seed.

    Args:
        data: folder of images.
        out: folder of the study.
        views: name of a preset: what the self-supervised methods see of an image.
        methods: names; none takes all of `METHODS`.
        backbones: names; none takes `CPU_BACKBONES`.
        epochs: instead of the recipe's; a warm-up is shortened in proportion where this is less.
        seeds: each gives a run of its own.

    Raises UserError for an unknown name (the nearest are offered), or one that is given twice.
    """
    methods, backbones = tuple(methods or METHODS), tuple(backbones or CPU_BACKBONES)
    for option, values in (("--methods", methods), ("--backbones", backbones), ("--seeds", tuple(seeds))):
        twice = [value for value in dict.fromkeys(values) if values.count(value) > 1]
        if twice:
            raise UserError(f"{option} names {twice[0]} twice")
    return [
        with_epochs(
            replace(small_run(method, backbone, views, data, run_folder(out, method, backbone, seed)), seed=seed),
            epochs,
        )
        for seed in seeds
        for backbone in backbones
        for method in methods
    ]


def run_folder(out: Path, method: str, backbone: str, seed: int) -> Path:
    """Where a run of the comparison is kept."""
    return out / "runs" / f"{method}-{backbone}-s{seed}"
