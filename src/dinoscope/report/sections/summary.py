"""The first section: what was trained on what, what came of it, and what must be known before reading on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dinoscope.comparison.ranking import ACCURACIES, TITLES, WITH_LABELS, best, bold_line, ranked
from dinoscope.report.page import Block, Bullets, KeyValues, Notice, Paragraph, Section
from dinoscope.report.runs import RunRecord
from dinoscope.report.sections.headline import headlines, where
from dinoscope.report.sections.health import HEALTHY, SHORT, findings, is_wrong, together, verdict
from dinoscope.study.compare import Comparison, Entry
from dinoscope.tables import Column, Table, TableRow
from dinoscope.tables import Section as Rows
from dinoscope.text import ABSENT, count, duration, figure, listed
from dinoscope.types import Result

MOST_WARNINGS = 5
"""That are repeated on the first screen."""
_COLUMNS = (
    Column("Run"),
    Column("Method"),
    Column("Network"),
    Column("Images", "right"),
    Column("Classes", "right"),
    Column("Epochs", "right"),
    Column("Steps", "right"),
    Column("Time", "right"),
    Column("Linear", "right"),
    Column("k-NN", "right"),
    Column("State"),
)


def summary_section(
    runs: Sequence[RunRecord], others: Mapping[str, str], comparison: Comparison | None, parameters: dict[str, int]
) -> Section:
    """What was trained, what was found, what is wrong, the facts.

    others: what models without a run folder are called -> as they were given.
    parameters: of the backbone, by the label of its run.
    """
    measured = _measured(comparison)
    blocks: list[Block] = [Paragraph(_trained(runs))] if runs else []
    if runs or comparison:
        blocks.append(Bullets(tuple(headlines(runs, comparison))))
    blocks += _warnings(runs)
    if len(runs) == 1 and not others:
        blocks.append(KeyValues(tuple(_facts(runs[0], measured, parameters))))
    elif runs:
        blocks.append(_table(_ordered(runs, comparison), measured, parameters, comparison))
    if others:
        named = [title if title == name else f"{title} ({name})" for title, name in others.items()]
        blocks.append(Paragraph(f"Beside them, models whose training is not known here: {', '.join(named)}."))
    return Section("Summary", "summary", "", tuple(blocks))


def _trained(runs: Sequence[RunRecord]) -> str:
    """What was trained on what, in one or two sentences."""
    methods = listed(list(dict.fromkeys(run.method for run in runs)))
    networks = listed(list(dict.fromkeys(run.architecture.partition(" (")[0] for run in runs)))
    lengths = sorted({run.config.epochs for run in runs})
    length = _epochs(lengths[0]) if len(lengths) == 1 else f"{lengths[0]:g} to {_epochs(lengths[-1])}"
    if len(runs) == 1:
        time = "" if runs[0].seconds is None else f" ({_time(runs[0], 'about ')})"
        return f"{methods} on {networks}, trained for {length}{time} on {_data(runs[0])}."
    data = listed(list(dict.fromkeys(_data(run, whether_used=False) for run in runs)))
    each = " each" if len(lengths) == 1 else ""
    return f"{len(runs)} runs of {methods} on {networks}, trained for {length}{each} on {data}."


def _epochs(number: float) -> str:
    return f"{number:g} epoch{'s' * (number != 1)}"


def _ordered(runs: Sequence[RunRecord], comparison: Comparison | None) -> list[RunRecord]:
    """Best first, as in the comparison, where they can be ranked; else as given."""
    order = next((found for name in ACCURACIES if comparison and (found := ranked(comparison, name))), ())
    places = {entry.run: place for place, row in enumerate(order) for entry in row.entries}
    return sorted(runs, key=lambda run: places.get(str(run.path), len(places)))


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
            f"{_epochs(config.epochs)}, batch {config.batch_size}: {_steps(run)} steps",
        ),
        ("Time", _time(run, "about ")),
        ("Begun", run.started.replace("T", " ", 1) or "not recorded"),
        ("State", _standing(run)),
    ]
    if config.init:
        pairs.insert(2, ("Began from", config.init))
    pairs += [
        (f"{name} top-1", f"{value:.1f} % ({where(entry.measurements[key])})")
        for key, name in TITLES.items()
        if entry and (value := entry.value(key)) is not None
    ]
    if (online := run.last("knn_top1")) is not None:
        afterwards = entry.measurements.get("knn") if entry else None
        pairs.append(("Online k-NN top-1", f"{online:.1f} % ({_online(run, afterwards)})"))
    return pairs


def _online(run: RunRecord, measured: Result | None) -> str:
    """How online k-NN was measured, and what of it is other than in the k-NN that was measured afterwards."""
    text = f"during training, on the run's own images at {run.image_size} px"
    size = None if measured is None else measured.protocol.get("image_size")
    return text + (f"; the k-NN above is at {size} px" if size not in (None, run.image_size) else "")


def _table(
    runs: Sequence[RunRecord], measured: dict[str, Entry], parameters: dict[str, int], comparison: Comparison | None
) -> Table:
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
            *(figure(entry.value(name) if entry else None) for name in ACCURACIES),
            _standing(run),
        )
        leading = (
            at
            for at, name in enumerate(ACCURACIES, len(cells) - 1 - len(ACCURACIES))
            if comparison and any(each is entry for row in best(comparison, name) for each in row.entries)
        )
        rows.append(TableRow(cells, best=tuple(leading)))
    remarks = ["Trained on: " + "; ".join(dict.fromkeys(str(run.config.data) for run in runs))]
    if any(run.estimated and run.seconds for run in runs):
        remarks.append("≈: not recorded; from the speeds that were logged, without evaluations")
    if parameters:
        remarks.append("M: million parameters of the backbone, which is what is kept of a run")
    remarks.append(
        "Linear (probe) and k-NN: top-1 accuracy in %, with intervals and protocols in the comparison below. "
        f"{ABSENT}: not measured"
    )
    caption = "What was trained"
    if comparison and any(row.best for row in rows):
        caption += ", best first"
        leading = [row for name in ACCURACIES for row in best(comparison, name)]
        means = "; a method with several seeds is judged by its mean, and all its runs are marked" * any(
            len(row.entries) > 1 for row in leading
        )
        remarks.append(bold_line(comparison) + means)
    return Table(_COLUMNS, (Rows(tuple(rows)),), caption, remarks=tuple(remarks))


def _data(run: RunRecord, *, whether_used: bool = True) -> str:
    """whether_used: say of labels that are there that they were not used."""
    if run.images is None:
        return str(run.config.data)
    classes = "" if run.classes is None else " without labels" if run.classes == 0 else f" in {run.classes} classes"
    unused = " (whose labels were not used)" if whether_used and run.classes and run.method_key != WITH_LABELS else ""
    return f"{count(run.images)} images{classes}{unused} from {run.config.data}"


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


def _warnings(runs: Sequence[RunRecord]) -> list[Notice]:
    """All that is wrong; else a line that nothing is."""
    wrong = together([each for run in runs for each in findings(run) if each.kind == "warning"])
    if wrong:
        left = len(wrong) - MOST_WARNINGS
        more = [Notice(f"{left} more warnings stand in the section on health.", "warning")] if left > 0 else []
        return [each.notice() for each in wrong[:MOST_WARNINGS]] + more
    healthy = [run for run in runs if verdict(run) == "healthy"]
    if runs and len(healthy) == len(runs):
        what = {1: "The run is", 2: "Both runs are"}.get(len(runs), f"All {len(runs)} runs are")
        return [Notice(f"{what} {HEALTHY}", "good")]
    if short := [run.label for run in runs if verdict(run) == SHORT]:
        return [
            Notice(
                f"Too short to judge their health: {', '.join(short)}."
                if len(runs) > 1
                else "The run is too short to judge its health."
            )
        ]
    return []
