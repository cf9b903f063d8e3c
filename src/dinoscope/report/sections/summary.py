"""The first section: what was trained on what, what came of it, and what must be known before reading on."""

from __future__ import annotations

from collections.abc import Sequence

from dinoscope.evaluation.compare import (
    BASELINES,
    WITH_LABELS,
    Comparison,
    Entry,
    Row,
    accuracies,
    baseline_lines,
    best,
    bold_line,
    evaluation_title,
    guessing,
    images_classified,
    interval,
    label,
    lead,
    measured,
    ranked,
    settled,
    without_labels,
)
from dinoscope.report.page import Block, Bullets, KeyValues, Notice, Paragraph, Section
from dinoscope.report.runs import Material, RunRecord
from dinoscope.report.sections.health import HEALTHY, SHORT, findings, is_wrong, together, verdict
from dinoscope.tables import Column, Table, TableRow
from dinoscope.tables import Section as Rows
from dinoscope.text import ABSENT, count, duration, figure, listed
from dinoscope.types import Result

_WITHIN = {"linear": "linear probe", "knn": "k-NN"}  # a sentence
MAX_WARNINGS = 5
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


def section(material: Material) -> Section:
    """Show what was trained, what was found, what is wrong, and the facts."""
    runs, comparison, others = material.runs, material.comparison, material.others
    blocks: list[Block] = [Paragraph(_trained(runs))] if runs else []
    if runs or comparison:
        blocks.append(Bullets(tuple(headlines(runs, comparison))))
    blocks += _warnings(runs)
    measured = {entry.run: entry for row in (comparison.rows if comparison else ()) for entry in row.entries}
    parameters = _parameters(material)
    if len(runs) == 1 and not others:
        blocks.append(KeyValues(tuple(_facts(runs[0], measured, parameters))))
    elif runs:
        blocks.append(_table(_ordered(runs, comparison), measured, parameters, comparison))
    if others:
        named = [title if title == name else f"{title} ({name})" for title, name in others.items()]
        blocks.append(Paragraph(f"Next to them, models whose training is not known here: {', '.join(named)}."))
    return Section("Summary", "summary", "", tuple(blocks))


def _parameters(material: Material) -> dict[str, int]:
    """Of the backbone, by the label of its run."""
    sizes = {model.path: sum(weight.numel() for weight in model.backbone.parameters()) for model in material.models}
    return {run.label: sizes[run.path] for run in material.runs if run.path in sizes}


def _trained(runs: Sequence[RunRecord]) -> str:
    """What was trained on what, in one or two sentences."""
    methods = listed(list(dict.fromkeys(run.method for run in runs)))
    networks = listed(list(dict.fromkeys(run.network for run in runs)))
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
    order = next((found for name in accuracies() if comparison and (found := ranked(comparison, name))), ())
    places = {entry.run: place for place, row in enumerate(order) for entry in row.entries}
    return sorted(runs, key=lambda run: places.get(str(run.path), len(places)))


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
        for key, name in ((each, evaluation_title(each)) for each in accuracies())
        if entry and (value := entry.value(key)) is not None
    ]
    if (online := run.last("knn_top1")) is not None:
        afterwards = entry.measurements.get("knn") if entry else None
        pairs.append(("Online k-NN top-1", f"{online:.1f} % ({_conditions(run, afterwards)})"))
    return pairs


def _conditions(run: RunRecord, measured: Result | None) -> str:
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
            run.network + (f" ({size / 1e6:.2g} M)" if size else ""),
            count(run.images),
            "none" if run.classes == 0 else count(run.classes),
            f"{run.config.epochs:g}",
            _steps(run),
            _time(run, "≈ "),
            *(figure(entry.value(name) if entry else None) for name in accuracies()),
            _standing(run),
        )
        leading = (
            at
            for at, name in enumerate(accuracies(), len(cells) - 1 - len(accuracies()))
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
        leading = [row for name in accuracies() for row in best(comparison, name)]
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
        left = len(wrong) - MAX_WARNINGS
        more = [Notice(f"{left} more warnings stand in the section on health.", "warning")] if left > 0 else []
        return [each.notice() for each in wrong[:MAX_WARNINGS]] + more
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


# --- what was found ---------------------------------------------------------------------------------------------------


def headlines(runs: Sequence[RunRecord], comparison: Comparison | None) -> list[str]:
    """How good the features are, who is ahead and how sure that is; of runs that nothing was measured of, online k-NN.

    Accuracies that were measured otherwise than others are no contest and are not ranked.
    """
    rows = [row for row in (comparison.rows if comparison else ()) if row.first.method not in BASELINES]
    having = {id(row): row for name in accuracies() for row in rows if row.cell(name)}
    if comparison is None or not having:
        return _online(runs)
    news = [f"{line}." for line in baseline_lines(comparison)]
    if len(having) == 1:
        return news + _alone(next(iter(having.values())), comparison)
    lines = [line for name in accuracies() for line in _contest(comparison, name)]
    if not lines:
        return [*news, "The accuracies were measured on different images or otherwise, so they are not ranked."]
    lines = news + lines
    if all(len(row.entries) == 1 for row in rows):
        lines.append("One run of each: differences of a few points may be chance. Other seeds (--seed) tell.")
    return lines


def _contest(comparison: Comparison, name: str) -> list[str]:
    """Who is first, second and last in one figure, what labels give, and guessing."""
    every = ranked(comparison, name)
    if not every:
        return []
    rows, title = without_labels(every), evaluation_title(name)
    scope = " without labels" if len(rows) < len(every) else ""
    first, second, last = rows[0], rows[1], rows[-1]
    title = f"{title} on {where(measured(first, name)[0])}{',' * bool(scope)}"
    if _figure(first, name) == _figure(last, name):
        said = f"{title}{scope}: the accuracy is the same everywhere, {_figure(first, name)} %."
    else:
        sure = settled(first, second, name)
        said = (
            f"{title}{scope}: {_of(first, comparison)} is {'best' if sure else 'ahead'} with {_with_ends(first, name)}"
        )
        said += f", then {_of(second, comparison)} with {_with_ends(second, name)}" if len(rows) > 2 else ""
        said += f"; last is {_of(last, comparison)} with {_with_ends(last, name)}."
        said += _by_how_much(first, second, name, sure=sure)
    labelled = [row for row in every if row.first.method == WITH_LABELS and row not in rows]
    if labelled:
        said += f" With labels: {listed([f'{_of(row, comparison)} {_figure(row, name)} %' for row in labelled])}."
    chance = guessing(every, name)
    return [said + (f" Guessing: {chance:.1f} %." if chance is not None else "")]


def _alone(row: Row, comparison: Comparison) -> list[str]:
    """One row's accuracies."""
    found = [name for name in accuracies() if row.cell(name)]
    chance, places = guessing([row], found[0]), {name: where(measured(row, name)[0]) for name in found}
    shared = next(iter(places.values())) if len(set(places.values())) == 1 else ""
    figures = [f"{_with_ends(row, name)} ({_WITHIN[name]}{'' if shared else f', {places[name]}'})" for name in found]
    return [
        f"The frozen features of {_of(row, comparison)} classify {shared or 'images'} with a top-1 accuracy of "
        f"{listed(figures)}" + (f"; guessing gives {chance:.1f} %." if chance is not None else ".")
    ]


def _online(runs: Sequence[RunRecord]) -> list[str]:
    """What online k-NN ended at, where nothing was measured afterwards."""
    found = [(run, value) for run in runs if (value := run.last("knn_top1")) is not None]
    if not found:
        return ["How good the features are was not measured. Give --data FOLDER, and it is."]
    classes = {run.classes for run, _ in found}
    number = classes.pop() if len(classes) == 1 else None
    chance = f" Guessing: {100 / number:.1f} %." if number else ""
    texts = [f"{value:.1f} % at {run.image_size} px" for run, value in found]
    figures = (
        texts[0]
        if len(runs) == 1
        else listed([f"{run.label} {text}" for (run, _), text in zip(found, texts, strict=True)])
    )
    return [
        f"During training, online k-NN on each run's own images came to: {figures}.{chance} Accuracy on common images "
        "was not measured; give --data FOLDER, and it is."
    ]


def where(measurement: Result) -> str:
    """The images that were classified and how large they were shown: "500 images of DATA/val at 64 px"."""
    protocol, images = measurement.protocol, images_classified(measurement)
    place = next((protocol[name] for name in ("queries", "val", "gallery") if protocol.get(name)), None)
    words = [f"{count(images)} images" if images else "images"]
    words += [f"of {place}"] if place else []
    words += [f"at {protocol['image_size']} px"] if protocol.get("image_size") else []
    return " ".join(words)


def _of(row: Row, comparison: Comparison) -> str:
    """A row by its method, with its architecture if there are several."""
    networks = {each.architecture for each in comparison.rows if each.first.method != "pixels"}
    return label(row, comparison) + (f" on {row.architecture}" if len(networks) > 1 else "")


def _figure(row: Row, name: str) -> str:
    cell = row.cell(name)
    return "" if cell is None else f"{cell.mean:.1f}"


def _with_ends(row: Row, name: str) -> str:
    """The figure with its interval, or of several runs with their deviation."""
    cell, ends = row.cell(name), interval(row, name)
    if ends is not None:
        return f"{ends.mean:.1f} % [{ends.low:.1f}, {ends.high:.1f}]"
    deviation = "" if cell is None or cell.deviation is None else f" ± {cell.deviation:.1f}"
    return f"{_figure(row, name)}{deviation} %"


def _by_how_much(first: Row, second: Row, name: str, *, sure: bool) -> str:
    """The difference of the first two and whether it may be chance, as a sentence that begins with a space."""
    found = lead(first, second, name)
    if found is None:
        return "" if sure else " The intervals of the first two overlap: they do not settle which of them is better."
    if found.low is None or found.high is None:
        return f" The first two differ by {found.mean:.1f} points; no interval can be drawn from these runs."
    text = f" The first two differ by {found.mean:.1f} points [{found.low:.1f}, {found.high:.1f}] ({found.how}"
    if sure:
        return f"{text})."
    return f"{text}): the interval contains 0, so these runs do not settle which of them is better."
