"""From a study to its runs: one folder for each different training, whatever the number of variants that it answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dinoscope.ablation.definition import BASE, StudyDefinition, resolve, slug
from dinoscope.ablation.ordering import own_value
from dinoscope.ablation.records import Variant
from dinoscope.ablation.settings_change import setting_names
from dinoscope.config import to_dict
from dinoscope.errors import UserError
from dinoscope.study.small_comparison import with_epochs
from dinoscope.training.config import RunConfig


@dataclass(frozen=True)
class Cell:
    """One variant with one seed, and the run that answers it; its folder is `config.out`."""

    variant: Variant
    seed: int
    config: RunConfig


@dataclass(frozen=True)
class PlannedStudy:
    """Every cell of a study, the base's first, and the runs that they need.

    A value that is the base's own has no cell: it would count one training twice. Two axes that have a variant in
    common share its run.

    base: called after its own value where the study has a single axis that lists it, else "base".
    base_values: name of an axis -> the base as a value of it.
    """

    definition: StudyDefinition
    base: Variant
    cells: tuple[Cell, ...]
    axes: Mapping[str, str]
    base_values: Mapping[str, Variant]

    @property
    def configs(self) -> tuple[RunConfig, ...]:
        """Settings of each run, once: for each seed the base, then the variants."""
        return tuple({cell.config.out: cell.config for cell in self.cells}.values())

    @property
    def idle_axes(self) -> tuple[str, ...]:
        """Axes of which no value differs from the base's: they have no runs."""
        varied = {cell.variant.axis for cell in self.cells}
        return tuple(name for name in self.axes if name not in varied)

    @property
    def base_runs(self) -> frozenset[str]:
        """Names of the folders of the base's runs."""
        return frozenset(cell.config.out.name for cell in self.cells if cell.variant.axis == BASE.axis)


def plan_study(
    study: StudyDefinition,
    data: Path,
    out: Path,
    *,
    epochs: float | None = None,
    placed: Callable[[RunConfig], RunConfig] = lambda config: config,
) -> PlannedStudy:
    """All cells, in the order in which they should be run: insight comes early.

    Args:
        study: what is varied.
        data: folder of images.
        out: folder of the study; runs go to OUT/runs/AXIS-LABEL-sSEED and OUT/runs/base-sSEED.
        epochs: instead of each run's, with shorter warm-ups; not for a study that varies them.
        placed: adds device and threads.

    Raises UserError as `resolve` does, where two variants would share a folder, or where all values are the base's own.
    """
    resolved = resolve(study, data, out)
    variants = [(BASE, resolved.base), *resolved.variants]
    if epochs is not None and len({config.epochs for _, config in variants}) > 1:
        raise UserError(f"{study.place} varies the epochs: --epochs would undo that")
    cells: list[Cell] = []
    folders: dict[str, Path] = {}  # settings -> folder
    owners: dict[Path, str] = {}
    for seed in study.seeds:
        for variant, config in variants:
            wanted = placed(replace(with_epochs(config, epochs), seed=seed))
            key = json.dumps(to_dict(replace(wanted, out=Path())), sort_keys=True)
            folder = folders.setdefault(key, out / "runs" / run_name(variant, seed))
            if owners.setdefault(folder, key) != key:
                raise UserError(
                    f"{study.place}: two variants would share the folder {folder.name}, one of them "
                    f"{variant.axis} = {variant.label}: give one another label"
                )
            cells.append(Cell(variant, seed, replace(wanted, out=folder)))
    present = setting_names(resolved.base)  # as the study has them: --epochs shortens what is written in its values
    values = {axis.name: own_value(axis.name, axis.variants, present) for axis in study.axes}
    return _without_the_bases_own(PlannedStudy(study, BASE, tuple(cells), resolved.axes, values))


def _without_the_bases_own(plan: PlannedStudy) -> PlannedStudy:
    folders = {cell.config.out for cell in plan.cells if cell.variant is BASE}
    own = [cell.variant.label for cell in plan.cells if cell.variant is not BASE and cell.config.out in folders]
    base = replace(BASE, label=own[0]) if own and len(plan.axes) == 1 else BASE
    kept = [cell for cell in plan.cells if cell.variant is BASE or cell.config.out not in folders]
    if all(cell.variant is BASE for cell in kept):
        labels = ", ".join(dict.fromkeys(own))
        raise UserError(
            f"{plan.definition.place}: every value is the base's own ({labels}), so there is nothing to vary"
        )
    called = tuple(replace(cell, variant=base) if cell.variant is BASE else cell for cell in kept)
    return replace(plan, base=base, cells=called)


def run_name(variant: Variant, seed: int) -> str:
    """Of the run folder."""
    return "-".join(filter(None, (slug(variant.axis), slug(variant.label), f"s{seed}")))
