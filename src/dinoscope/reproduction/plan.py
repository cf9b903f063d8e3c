"""What would be done: models, files, sizes, and a rough time from a short probe on the same data and device."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dinoscope.measurement import Watch
from dinoscope.reproduction.bench import Bench
from dinoscope.reproduction.running import attempt
from dinoscope.reproduction.targets import Target
from dinoscope.tables import Column, Section, Table, TableRow


@dataclass(frozen=True)
class Planned:
    """seconds: of all evaluations of the model, or why they could not be told."""

    target: Target
    seconds: float | str


def plan(targets: Sequence[Target], bench: Bench, device: torch.device, watch: Watch) -> list[Planned]:
    """Probe every network, with random weights: speed does not depend on them, and no file need be here."""
    found: list[Planned] = []
    with watch("measuring how fast the networks are") as progress:
        for number, target in enumerate(targets):
            progress(number, len(targets))
            found.append(Planned(target, attempt(functools.partial(_seconds, target, bench, device))))
    return found


def _seconds(target: Target, bench: Bench, device: torch.device) -> float:
    model = target.weights.untrained()
    model.backbone.to(device)
    return sum(bench.seconds(evaluation, model) for evaluation in target.evaluations)


def plan_table(planned: Sequence[Planned], bench: Bench) -> Table:
    """One row for each model, and the sums."""
    columns = (
        Column("Model"),
        Column("File"),
        Column("MB", "right"),
        Column("Here"),
        Column("Time", "right"),
    )
    reasons = list(dict.fromkeys(each.seconds for each in planned if isinstance(each.seconds, str)))
    rows = [_row(each, reasons) for each in planned]
    missing = [each.target.weights for each in planned if not each.target.weights.here]
    fetched = sum(each.megabytes()[0] for each in missing)
    total = sum(each.seconds for each in planned if isinstance(each.seconds, float))
    remarks = [
        f"On {bench.amount}; in all {span(total)} by the probe, without what is kept from an earlier start.",
        "The probe is of a few images, read by one process; votes and the training of fast probes come on top.",
    ]
    if missing:
        remarks.append(f"To be fetched: {len(missing)} files, {fetched:,.0f} MB; ≥: the weights of the network alone.")
    remarks += [f"Not comparable with the published figures: {caution}." for caution in bench.cautions]
    return Table(columns, (Section(tuple(rows)),), "What would be done", tuple(reasons), tuple(remarks))


def _row(planned: Planned, reasons: Sequence[str]) -> TableRow:
    weights, seconds = planned.target.weights, planned.seconds
    size, known = weights.megabytes()
    cells = (
        weights.name,
        weights.place or "–",
        "–" if weights.random else f"{'' if known else '≥'}{size:.0f}",
        "yes" if weights.here else "no",
        "–" if isinstance(seconds, str) else span(seconds),
    )
    return TableRow(cells, (reasons.index(seconds) + 1,) if isinstance(seconds, str) else ())


def span(seconds: float) -> str:
    """A rough time for a person."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
