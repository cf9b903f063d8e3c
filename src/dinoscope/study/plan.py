"""From a study to its job list: one run for each different training, checked and timed before any starts."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dinoscope.config import to_dict
from dinoscope.data.grey_range import is_joined
from dinoscope.data.sources import ImageSource, counted
from dinoscope.errors import UserError, located
from dinoscope.study import definition
from dinoscope.study.definition import BASELINE, Axis, StudyDefinition, Variant, label_of, plain, slug
from dinoscope.study.state import RunState, run_state
from dinoscope.system import pick_device
from dinoscope.tables import Column, Section, Table, TableRow
from dinoscope.text import duration
from dinoscope.training.config import RunConfig, check, total_steps, with_epochs
from dinoscope.training.run_folder import RunFolder
from dinoscope.training.start import begun_images, scanned_images
from dinoscope.training.trainer import Trainer

PROBE_STEPS = 3
"""Optimiser steps that are timed, after a first one that warms up."""


@dataclass(frozen=True)
class PlannedStudy:
    """Every variant of a study with each seed, and the settings of its run; the baseline's first.

    A value that is the baseline's own is left out: it would count one training twice. Two axes that have a variant in
    common share its run.

    baseline: called after its own value if the study has a single axis that lists it, else "baseline".
    axes: name, as variants have it -> title.
    baseline_values: name of an axis -> the baseline as a value of it.
    """

    definition: StudyDefinition
    baseline: Variant
    runs: tuple[tuple[Variant, RunConfig], ...]
    axes: Mapping[str, str]
    baseline_values: Mapping[str, Variant]

    @property
    def configs(self) -> tuple[RunConfig, ...]:
        """Settings of each run, once: for each seed the baseline, then the variants."""
        return tuple({config.out: config for _, config in self.runs}.values())

    @property
    def idle_axes(self) -> tuple[str, ...]:
        """Axes without runs: no value of them differs from the baseline's."""
        varied = {variant.axis for variant, _ in self.runs}
        return tuple(name for name in self.axes if name not in varied)

    @property
    def baseline_runs(self) -> frozenset[str]:
        return frozenset(config.out.name for variant, config in self.runs if variant.axis == BASELINE.axis)


def plan_study(
    study: StudyDefinition,
    data: Path,
    out: Path,
    *,
    epochs: float | None = None,
    placed: Callable[[RunConfig], RunConfig] = lambda config: config,
) -> PlannedStudy:
    """Return all runs, in the order in which they should be run: insight comes early.

    Runs go to OUT/runs/AXIS-LABEL-sSEED and OUT/runs/baseline-sSEED. epochs: instead of each run's, with shorter
    warm-ups; not for a study that varies them. placed: adds device and threads.

    Raises UserError as `resolve` does, if two variants would share a folder, or if all values are the baseline's own.
    """
    variants = definition.resolve(study, data, out)
    if epochs is not None and len({config.epochs for _, config in variants}) > 1:
        raise UserError(f"{study.place} varies the epochs: --epochs would undo that")
    runs: list[tuple[Variant, RunConfig]] = []
    own: dict[str, None] = {}  # labels of values that are the baseline's own
    folders: dict[str, Path] = {}  # settings -> folder
    owners: dict[Path, str] = {}
    baseline_key = ""
    for seed in study.seeds:
        for variant, config in variants:
            wanted = placed(replace(with_epochs(config, epochs), seed=seed))
            key = settings_key(wanted)
            if variant is BASELINE:
                baseline_key = key
            elif key == baseline_key:
                own[variant.label] = None
                continue
            folder = folders.setdefault(key, _run_folder(out, variant, seed))
            if owners.setdefault(folder, key) != key:
                raise UserError(
                    f"{study.place}: two variants would share the folder {folder.name}, one of them "
                    f"{variant.axis} = {variant.label}: give one another label"
                )
            runs.append((variant, replace(wanted, out=folder)))
    if all(variant is BASELINE for variant, _ in runs):
        raise UserError(
            f"{study.place}: every value is the baseline's own ({', '.join(own)}), so there is nothing to vary"
        )
    axes = definition.axis_titles(study)
    baseline = replace(BASELINE, label=next(iter(own))) if own and len(axes) == 1 else BASELINE
    named = tuple((baseline if variant is BASELINE else variant, config) for variant, config in runs)
    present = definition.setting_names(variants[0][1])  # as the study has them: --epochs shortens what its values say
    values = {axis.name: _own_value(axis, present) for axis in study.axes}
    return PlannedStudy(study, baseline, named, axes, values)


def _run_folder(out: Path, variant: Variant, seed: int) -> Path:
    """Return OUT/runs/AXIS-LABEL-sSEED; the baseline of a study of before 0.2 keeps the name base-sSEED."""
    earlier = out / "runs" / f"base-s{seed}"
    if variant == BASELINE and earlier.exists():
        return earlier
    return out / "runs" / "-".join(filter(None, (slug(variant.axis), slug(variant.label), f"s{seed}")))


def _own_value(axis: Axis, present: Mapping[str, Any]) -> Variant:
    """Return the baseline as a value of an axis.

    Its label is that of the value which changes nothing; else the baseline's value of the one setting that is varied;
    and "" if neither makes sense. present: dotted name -> value of every setting of the baseline.
    """
    settings = {name: present[name] for variant in axis.variants for name in variant.settings}
    for variant in axis.variants:
        if all(plain(value) == plain(present[name]) for name, value in variant.settings.items()):
            return Variant(axis.name, variant.label, settings)
    (first, *others) = settings.values()
    return Variant(axis.name, "" if others or first is None else label_of(first), settings)


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
        return 0 if self.state.name == "finished" else self.steps - self.state.steps


def settings_key(config: RunConfig) -> str:
    """Return the same text for two runs that differ in their folder alone."""
    return json.dumps(to_dict(replace(config, out=Path())), sort_keys=True)


def scanned_once(progress: Callable[[int, int], None]) -> Callable[[RunConfig], ImageSource]:
    """Return a function from a run to its training images, which looks over those of several runs once."""
    scanned: dict[tuple[object, ...], ImageSource] = {}

    def images(config: RunConfig) -> ImageSource:
        part = _part(config)
        if part not in scanned:
            scanned[part], _, _ = scanned_images(config, progress)
        return scanned[part]

    return images


def _part(config: RunConfig) -> tuple[object, ...]:
    """Return what decides the images of a run."""
    given = config.data, config.fraction, config.group, config.split, config.scan, config.max_unreadable
    return *given, config.backbone_config.channels, is_joined(config.window), config.slices or 1


def plan_runs(
    configs: Sequence[RunConfig], progress: Callable[[int, int], None] = lambda done, total: None
) -> list[PlannedRun]:
    """Check every run against its images, labels and folder before hours are spent. Raises UserError naming it."""
    images_of = scanned_once(progress)
    fingerprints: dict[tuple[object, ...], str] = {}
    planned: list[PlannedRun] = []
    for config in configs:
        with located(f"run {config.out.name}"):
            images = images_of(config)
            check(config, len(images), 1, len(images.classes), counted(images.passed_over))
        state = run_state(config)
        if state.fingerprint is not None:
            part = _part(config)
            if part not in fingerprints:
                fingerprints[part] = images.fingerprint()
            if state.fingerprint != fingerprints[part]:
                # files may have become readable since it began, or have been counted by other rules
                images = begun_images(config, RunFolder(config.out), state.fingerprint)
                if images.fingerprint() != state.fingerprint:
                    raise UserError(
                        f"{config.out} was trained on other images than {config.data} holds now: give the same --data, "
                        "or another --out"
                    )
        planned.append(PlannedRun(config, images, total_steps(config, len(images)), state))
    return planned


def seconds_per_step(run: PlannedRun) -> float:
    """Time a few real optimiser steps in this process, views included; nothing is written."""
    config = run.config
    per_epoch = len(run.images) // config.batch_size
    longer = replace(config, epochs=max(config.epochs, math.ceil((PROBE_STEPS + 1) / per_epoch)))
    with own_threads(config):
        trainer = Trainer(longer, run.images, pick_device(config.device))
        batches = trainer.batches()
        values = trainer.make_step(next(batches))
        float(values["loss"])
        begin = time.perf_counter()
        for _ in range(PROBE_STEPS):
            values = trainer.make_step(next(batches))
        float(values["loss"])  # it goes to the CPU: on a GPU, the clock sees finished work
        return (time.perf_counter() - begin) / PROBE_STEPS


@contextlib.contextmanager
def own_threads(config: RunConfig) -> Iterator[None]:
    """Give torch the CPU threads of this run for the length of the block."""
    threads = torch.get_num_threads()
    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def plan_table(runs: Sequence[PlannedRun], jobs: int, progress: Callable[[int, int], None]) -> Table:
    """Return the runs with the time that they may take; those that differ in their seed are timed once."""
    known: dict[str, float] = {}
    rows: list[TableRow] = []
    total = 0.0
    for number, run in enumerate(runs):
        progress(number, len(runs))
        key = settings_key(replace(run.config, seed=0))
        if run.steps_left and key not in known:
            known[key] = seconds_per_step(run)
        seconds = known.get(key, 0.0) * run.steps_left
        total += seconds
        state = "finished before" if run.state.name == "finished" else run.state.name
        counts = f"{len(run.images)}", f"{run.config.epochs:g}", f"{run.steps_left}"
        rows.append(TableRow((run.config.out.name, state, *counts, duration(seconds, coarse=True))))
    text = f"together about {duration(total, coarse=True)}, one after the other"
    if jobs > 1:
        text += f"; {jobs} at once take {duration(total / jobs, coarse=True)} at best, more if they share cores"
    numbers = (Column(title, "right") for title in ("images", "epochs", "steps left", "time, about"))
    remark = f"{text}. Evaluations and start-up are not counted. Nothing was started."
    columns = (Column("run"), Column("state"), *numbers)
    return Table(columns, (Section(tuple(rows)),), "runs, in this order", remarks=(remark,))
