"""The small comparison: every method on the same images, with the same backbone, budget and seeds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from dinoscope.errors import UserError, lookup
from dinoscope.models.backbone import BACKBONES
from dinoscope.training.config import RunConfig


@runtime_checkable
class SmallRun(Protocol):
    """Settings of one method at the small scale that all methods share."""

    def __call__(self, method: str, backbone: str, data: Path, out: Path) -> RunConfig:
        """The run; method and backbone are known names."""
        ...


def small_comparison(
    data: Path,
    out: Path,
    *,
    small_run: SmallRun,
    known_methods: Collection[str],
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
        small_run: the recipe.
        known_methods: names that `small_run` knows.
        methods: names; none takes all known ones.
        backbones: names; none takes the recipe's first choice, `DEFAULT_BACKBONES`.
        epochs: instead of the recipe's; a warm-up is shortened in proportion where this is less.
        seeds: each gives a run of its own.

    Raises UserError for an unknown name (the nearest are offered), or one that is given twice.
    """
    methods, backbones = tuple(methods or known_methods), tuple(backbones or DEFAULT_BACKBONES)
    for method in methods:
        lookup("method", method, dict.fromkeys(known_methods))
    for backbone in backbones:
        lookup("backbone", backbone, BACKBONES)
    for option, values in (("--methods", methods), ("--backbones", backbones), ("--seeds", tuple(seeds))):
        twice = [value for value in dict.fromkeys(values) if values.count(value) > 1]
        if twice:
            raise UserError(f"{option} names {twice[0]} twice")
    return [
        with_epochs(
            replace(small_run(method, backbone, data, run_folder(out, method, backbone, seed)), seed=seed), epochs
        )
        for seed in seeds
        for backbone in backbones
        for method in methods
    ]


DEFAULT_BACKBONES = ("vit_micro_conv8",)


def run_folder(out: Path, method: str, backbone: str, seed: int) -> Path:
    """Where a run of the comparison is kept."""
    return out / "runs" / f"{method}-{backbone}-s{seed}"


def with_epochs(config: RunConfig, epochs: float | None) -> RunConfig:
    """The run with another length. A shorter one warms up for the same share of its time; None changes nothing."""
    if epochs is None:
        return config
    share = min(epochs / config.epochs, 1)
    optimizer = replace(config.optimizer, warmup_epochs=config.optimizer.warmup_epochs * share)
    return replace(config, epochs=epochs, optimizer=optimizer)
