"""From a study to its job list: one run for each different training, checked and timed before any starts."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dinoscope.config import to_dict
from dinoscope.data.sources import ImageSource, counted
from dinoscope.errors import UserError
from dinoscope.methods import METHODS
from dinoscope.recipes import CPU_BACKBONES, small_run, with_epochs
from dinoscope.study.definition import (
    BASELINE,
    StudyDefinition,
    Variant,
    label_of,
    plain,
    resolve,
    setting_names,
    slug,
)
from dinoscope.study.state import RunState, run_state
from dinoscope.system import pick_device
from dinoscope.training.config import RunConfig, check, total_steps
from dinoscope.training.run_folder import RunFolder
from dinoscope.training.start import begun_images, scanned_images
from dinoscope.training.trainer import Trainer

PROBE_STEPS = 3
"""Optimiser steps that are timed, after a first one that warms up."""

Progress = Callable[[int, int], None]


# Ablations


@dataclass(frozen=True)
class Cell:
    """One variant with one seed, and the run that answers it; its folder is `config.out`."""

    variant: Variant
    seed: int
    config: RunConfig


@dataclass(frozen=True)
class PlannedStudy:
    """Every cell of a study, the baseline's first, and the runs that they need.

    A value that is the baseline's own has no cell: it would count one training twice. Two axes that have a variant in
    common share its run.

    baseline: called after its own value if the study has a single axis that lists it, else "baseline".
    baseline_values: name of an axis -> the baseline as a value of it.
    """

    definition: StudyDefinition
    baseline: Variant
    cells: tuple[Cell, ...]
    axes: Mapping[str, str]
    baseline_values: Mapping[str, Variant]

    @property
    def configs(self) -> tuple[RunConfig, ...]:
        """Settings of each run, once: for each seed the baseline, then the variants."""
        return tuple({cell.config.out: cell.config for cell in self.cells}.values())

    @property
    def idle_axes(self) -> tuple[str, ...]:
        """Axes without runs: no value of them differs from the baseline's."""
        varied = {cell.variant.axis for cell in self.cells}
        return tuple(name for name in self.axes if name not in varied)

    @property
    def baseline_runs(self) -> frozenset[str]:
        """Names of the baseline's run folders."""
        return frozenset(cell.config.out.name for cell in self.cells if cell.variant.axis == BASELINE.axis)


def plan_study(
    study: StudyDefinition,
    data: Path,
    out: Path,
    *,
    epochs: float | None = None,
    placed: Callable[[RunConfig], RunConfig] = lambda config: config,
) -> PlannedStudy:
    """Return all cells, in the order in which they should be run: insight comes early.

    Args:
        study: what is varied.
        data: folder of images.
        out: folder of the study; runs go to OUT/runs/AXIS-LABEL-sSEED and OUT/runs/baseline-sSEED.
        epochs: instead of each run's, with shorter warm-ups; not for a study that varies them.
        placed: adds device and threads.

    Raises UserError as `resolve` does, if two variants would share a folder, or if all values are the baseline's own.
    """
    resolved = resolve(study, data, out)
    variants = [(BASELINE, resolved.baseline), *resolved.variants]
    if epochs is not None and len({config.epochs for _, config in variants}) > 1:
        raise UserError(f"{study.place} varies the epochs: --epochs would undo that")
    cells: list[Cell] = []
    folders: dict[str, Path] = {}  # settings -> folder
    owners: dict[Path, str] = {}
    for seed in study.seeds:
        for variant, config in variants:
            wanted = placed(replace(with_epochs(config, epochs), seed=seed))
            key = json.dumps(to_dict(replace(wanted, out=Path())), sort_keys=True)
            folder = folders.setdefault(key, _run_folder(out, variant, seed))
            if owners.setdefault(folder, key) != key:
                raise UserError(
                    f"{study.place}: two variants would share the folder {folder.name}, one of them "
                    f"{variant.axis} = {variant.label}: give one another label"
                )
            cells.append(Cell(variant, seed, replace(wanted, out=folder)))
    present = setting_names(resolved.baseline)  # as the study has them: --epochs shortens what is written in its values
    values = {axis.name: own_value(axis.name, axis.variants, present) for axis in study.axes}
    return _without_the_baselines_own(PlannedStudy(study, BASELINE, tuple(cells), resolved.axes, values))


def _without_the_baselines_own(plan: PlannedStudy) -> PlannedStudy:
    folders = {cell.config.out for cell in plan.cells if cell.variant is BASELINE}
    own = [cell.variant.label for cell in plan.cells if cell.variant is not BASELINE and cell.config.out in folders]
    baseline = replace(BASELINE, label=own[0]) if own and len(plan.axes) == 1 else BASELINE
    cells = [cell for cell in plan.cells if cell.variant is BASELINE or cell.config.out not in folders]
    if all(cell.variant is BASELINE for cell in cells):
        labels = ", ".join(dict.fromkeys(own))
        raise UserError(
            f"{plan.definition.place}: every value is the baseline's own ({labels}), so there is nothing to vary"
        )
    named = tuple(replace(cell, variant=baseline) if cell.variant is BASELINE else cell for cell in cells)
    return replace(plan, baseline=baseline, cells=named)


def _run_folder(out: Path, variant: Variant, seed: int) -> Path:
    """Return OUT/runs/AXIS-LABEL-sSEED; the baseline of a study of before 0.2 keeps the name base-sSEED."""
    earlier = out / "runs" / f"base-s{seed}"
    if variant == BASELINE and earlier.exists():
        return earlier
    return out / "runs" / "-".join(filter(None, (slug(variant.axis), slug(variant.label), f"s{seed}")))


def own_value(axis: str, variants: Sequence[Variant], present: Mapping[str, Any]) -> Variant:
    """Return the baseline as a value of an axis.

    Its label is that of the value which changes nothing; else the baseline's value of the one setting that is varied;
    and "" if neither makes sense.

    Args:
        axis: its name.
        variants: its values, the baseline's own among them or not.
        present: dotted name -> value of every setting of the baseline.
    """
    names = dict.fromkeys(name for variant in variants for name in variant.settings)
    settings = {name: present[name] for name in names}
    same = [one.label for one in variants if all(plain(v) == plain(present[n]) for n, v in one.settings.items())]
    if same:
        return Variant(axis, same[0], settings)
    values = list(settings.values())
    return Variant(axis, label_of(values[0]) if len(values) == 1 and values[0] is not None else "", settings)


# The method comparison


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
    """Return one run of every method with every backbone and seed, in OUT/runs/METHOD-BACKBONE-sSEED.

    Ordered so that insight comes early: all methods with the first backbone and seed, then the next backbone, and
    only then the next seed.

    Args:
        data: folder of images.
        out: folder of the study.
        views: name of a preset: what the self-supervised methods see of an image.
        methods: names; none takes all of `METHODS`.
        backbones: names; none takes `CPU_BACKBONES`.
        epochs: instead of the recipe's; a warm-up is shortened in proportion if this is less.
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
            replace(small_run(method, backbone, views, data, out / "runs" / f"{method}-{backbone}-s{seed}"), seed=seed),
            epochs,
        )
        for seed in seeds
        for backbone in backbones
        for method in methods
    ]


# Checks before the start


@dataclass(frozen=True)
class PlannedRun:
    """A run that can be started: its training images, its optimiser steps in all, and its state."""

    config: RunConfig
    images: ImageSource
    steps: int
    state: RunState

    @property
    def steps_left(self) -> int:
        """Optimiser steps still to be made."""
        return 0 if self.state.name == "finished" else self.steps - self.state.steps


def plan_runs(configs: Sequence[RunConfig], progress: Progress = lambda done, total: None) -> list[PlannedRun]:
    """Check every run against its images, its labels and its folder, so that nothing fails for that after hours.

    progress: told of the check of the image files (done, total).

    Raises UserError naming the run and what is wrong with it.
    """
    scanned: dict[tuple[object, ...], ImageSource] = {}
    fingerprints: dict[tuple[object, ...], str] = {}
    planned: list[PlannedRun] = []
    for config in configs:
        part = config.data, config.fraction, config.scan, config.max_unreadable
        try:
            if part not in scanned:
                scanned[part], _, _ = scanned_images(config, progress)
            images = scanned[part]
            check(config, len(images), 1, len(images.classes), counted(images.passed_over))
        except UserError as error:
            raise UserError(f"run {config.out.name}: {error}") from error
        state = run_state(config)
        if state.fingerprint is not None:
            if part not in fingerprints:
                fingerprints[part] = images.fingerprint()
            if state.fingerprint != fingerprints[part]:
                images = _as_begun(config, state.fingerprint)
        planned.append(PlannedRun(config, images, total_steps(config, len(images)), state))
    return planned


def _as_begun(config: RunConfig, fingerprint: str) -> ImageSource:
    """Return the images that a run began with: files may have become readable, or have been counted by other rules."""
    images = begun_images(config, RunFolder(config.out), fingerprint)
    if images.fingerprint() == fingerprint:
        return images
    raise UserError(
        f"{config.out} was trained on other images than {config.data} holds now: give the same --data, or another --out"
    )


def seconds_per_step(run: PlannedRun, steps: int = PROBE_STEPS) -> float:
    """Time a few real optimiser steps of this run in this process; nothing is written.

    Views are made, and waited for, as in training. Evaluations and start-up are not counted.
    """
    config = run.config
    per_epoch = len(run.images) // config.batch_size
    longer = replace(config, epochs=max(config.epochs, math.ceil((steps + 1) / per_epoch)))
    device, threads = pick_device(config.device), torch.get_num_threads()
    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        trainer = Trainer(longer, run.images, device)
        batches = trainer.batches()
        trainer.make_step(next(batches))
        begin = time.perf_counter()
        for _ in range(steps):
            trainer.make_step(next(batches))  # its loss goes to the CPU: on a GPU, the clock sees finished work
        return (time.perf_counter() - begin) / steps
    finally:
        torch.set_num_threads(threads)
