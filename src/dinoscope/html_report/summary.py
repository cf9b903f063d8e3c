"""The first section: what was trained on what, what came of it, and what must be known before reading on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dinoscope.comparison.presentation import label
from dinoscope.html_report.health import HEALTHY, Finding, findings, is_wrong, verdict
from dinoscope.html_report.runs import RunRecord
from dinoscope.report.words import ABSENT, count, duration, figure
from dinoscope.report.html import Block, Bullets, KeyValues, Notice, Paragraph, Section
from dinoscope.report.tables import Column, Table, TableRow
from dinoscope.report.tables import Section as Rows
from dinoscope.study.compare import BASELINES, Comparison, Entry, conditions
from dinoscope.study.differences import identity

KNN, LINEAR = "knn", "linear"


def summary_section(
    runs: Sequence[RunRecord], others: Mapping[str, str], comparison: Comparison | None, parameters: dict[str, int]
) -> Section:
    """Facts, headline figures, warnings.

    others: what models without a run folder are called -> as they were given.
    parameters: of the backbone, by the label of its run.
    """
    measured = _measured(comparison)
    blocks: list[Block] = []
    if len(runs) == 1 and not others:
        blocks.append(KeyValues(tuple(_facts(runs[0], measured, parameters))))
    elif runs:
        blocks.append(_table(runs, measured, parameters))
    if others:
        named = [title if title == name else f"{title} ({name})" for title, name in others.items()]
        blocks.append(Paragraph(f"Beside them, models whose training is not known here: {', '.join(named)}."))
    headlines = _headlines(comparison)
    if headlines:
        blocks.append(Bullets(tuple(headlines)))
    blocks += _warnings(runs)
    return Section("Summary", "summary", "", tuple(blocks))


def _measured(comparison: Comparison | None) -> dict[str, Entry]:
    """What was measured, by run folder."""
    return {entry.run: entry for row in (comparison.rows if comparison else ()) for entry in row.entries}


def _facts(run: RunRecord, measured: dict[str, Entry], parameters: dict[str, int]) -> list[tuple[str, str]]:
    config, entry = run.config, measured.get(str(run.path))
    size = parameters.get(run.label)
    pairs = [
        ("Method", run.method),
        ("Network", run.architecture + (f", {size / 1e6:.3g} million parameters" if size else "")),
        ("Trained on", _data(run)),
        (
            "Length",
            f"{config.epochs:g} epoch{'s' * (config.epochs != 1)}, batch {config.batch_size}: {_steps(run)} steps",
        ),
        ("Time", _time(run, "about ")),
        ("Begun", run.started.replace("T", " ", 1) or "not recorded"),
        ("State", _standing(run)),
    ]
    if config.init:
        pairs.insert(2, ("Began from", config.init))
    if entry and (value := entry.value(KNN)) is not None:
        pairs.append(("k-NN top-1", f"{value:.1f} %"))
    if entry and (value := entry.value(LINEAR)) is not None:
        pairs.append(("Linear top-1", f"{value:.1f} %"))
    if (online := run.last("knn_top1")) is not None:
        pairs.append(("Online k-NN top-1", f"{online:.1f} % (of its own images, during training)"))
    return pairs


def _table(runs: Sequence[RunRecord], measured: dict[str, Entry], parameters: dict[str, int]) -> Table:
    columns = (
        Column("Run"),
        Column("Method"),
        Column("Network"),
        Column("Images", "right"),
        Column("Classes", "right"),
        Column("Epochs", "right"),
        Column("Steps", "right"),
        Column("Time", "right"),
        Column("k-NN", "right"),
        Column("Linear", "right"),
        Column("State"),
    )
    rows: list[TableRow] = []
    for run in runs:
        entry, size = measured.get(str(run.path)), parameters.get(run.label)
        cells = (
            run.label,
            run.method,
            run.architecture.partition(" (")[0] + (f" ({size / 1e6:.2g} M)" if size else ""),
            count(run.images),
            "none" if run.classes == 0 else count(run.classes),
            f"{run.config.epochs:g}",
            _steps(run),
            _time(run, "≈ "),
            figure(entry.value(KNN) if entry else None),
            figure(entry.value(LINEAR) if entry else None),
            _standing(run),
        )
        rows.append(TableRow(cells))
    remarks = ["Trained on: " + "; ".join(dict.fromkeys(str(run.config.data) for run in runs))]
    if any(run.estimated and run.seconds for run in runs):
        remarks.append("≈: not recorded; from the speeds that were logged, without evaluations")
    if parameters:
        remarks.append("M: million parameters of the backbone, which is what is kept of a run")
    remarks.append(f"k-NN and linear: top-1 accuracy in % as in the comparison below. {ABSENT}: not measured")
    return Table(columns, (Rows(tuple(rows)),), "What was trained", remarks=tuple(remarks))


def _data(run: RunRecord) -> str:
    if run.images is None:
        return str(run.config.data)
    classes = "" if run.classes is None else ", without labels" if run.classes == 0 else f" in {run.classes} classes"
    unused = " (whose labels were not used)" if run.classes and run.method_key != "supervised" else ""
    return f"{run.config.data}: {count(run.images)} images{classes}{unused}"


def _time(run: RunRecord, about: str) -> str:
    """about: before what is estimated."""
    estimated = run.estimated and run.seconds is not None
    return about * estimated + duration(run.seconds, coarse=estimated)


def _steps(run: RunRecord) -> str:
    if run.total_steps is None or run.steps == run.total_steps:
        return count(run.steps)
    return f"{count(run.steps)} of {count(run.total_steps)}"


def _standing(run: RunRecord) -> str:
    """The state, and what is wrong with it."""
    going_on = run.state == "stopped" and not (run.sessions and run.sessions[-1].seconds)
    state = "unfinished" if going_on else run.state  # it may be in training now
    return f"{state}, {verdict(run)}" if is_wrong(run) else state


def _headlines(comparison: Comparison | None) -> list[str]:
    """The best of each figure, where there is something to choose from."""
    if comparison is None:
        return []
    rows = [row for row in comparison.rows if row.first.method not in BASELINES]
    lines: list[str] = []
    for name, title in {KNN: "k-NN", LINEAR: "linear probe"}.items():
        found = [(cell.mean, row) for row in rows if (cell := row.cell(name))]
        entries = [each for row in rows for each in row.entries if name in each.measurements]
        alike = {identity(conditions(each.measurements[name])) for each in entries}
        if len(found) < 2 or len(alike) > 1:  # accuracies on other images are no contest
            continue
        (best, first), (least, last) = max(found, key=lambda each: each[0]), min(found, key=lambda each: each[0])
        if f"{best:.1f}" == f"{least:.1f}":
            lines.append(f"{title[:1].upper()}{title[1:]} accuracy is the same everywhere: {best:.1f} %.")
            continue
        highest, lowest = (f"{label(row, comparison)} on {row.architecture}" for row in (first, last))
        lines.append(f"Highest {title} accuracy: {highest} with {best:.1f} %; lowest: {lowest} with {least:.1f} %.")
    if lines and all(len(row.entries) == 1 for row in rows):
        lines.append("One run of each: differences of a few points may be chance. Other seeds (--seed) tell.")
    return lines


def _warnings(runs: Sequence[RunRecord]) -> list[Notice]:
    """All that is wrong; else a line that nothing is."""
    wrong: list[Finding] = [each for run in runs for each in findings(run) if each.kind == "warning"]
    if wrong:
        return [each.notice() for each in wrong]
    healthy = [run for run in runs if verdict(run) == "healthy"]
    if runs and len(healthy) == len(runs):
        what = {1: "The run is", 2: "Both runs are"}.get(len(runs), f"All {len(runs)} runs are")
        return [Notice(f"{what} {HEALTHY}", "good")]
    return []
