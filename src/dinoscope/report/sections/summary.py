"""The first section: what was trained on what, what came of it, and what must be known before reading on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dinoscope.evaluation import compare
from dinoscope.evaluation.compare import Comparison, Entry, Row
from dinoscope.evaluation.results import classified
from dinoscope.models.backbone import network_title
from dinoscope.report.page import Block, Bullets, KeyValues, Notice, Paragraph, Section
from dinoscope.report.runs import Material, RunRecord
from dinoscope.report.sections import health
from dinoscope.tables import Column, Table, TableRow
from dinoscope.tables import Section as Rows
from dinoscope.text import ABSENT, count, duration, figure, listed
from dinoscope.types import Result

MAX_WARNINGS = 5
"""That are repeated on the first screen."""
_ACCURACIES = {name: compare.evaluation_title(name) for name in compare.accuracies()}


def section(material: Material) -> Section:
    runs, comparison, others = material.runs, material.comparison, material.others
    entries = {Path(entry.run): entry for row in (comparison.rows if comparison else ()) for entry in row.entries}
    blocks: list[Block] = [Paragraph(_training_line(runs))] if runs else []
    if runs or comparison:
        blocks.append(Bullets(tuple(headlines(runs, comparison))))
    blocks += _warnings(runs)
    if len(runs) == 1 and not others:
        blocks.append(_details(runs[0], entries.get(runs[0].path)))
    elif runs:
        blocks.append(_table(runs, entries, comparison))
    if others:
        named = [title if title == name else f"{title} ({name})" for title, name in others.items()]
        blocks.append(Paragraph(f"Next to them, models whose training is not known here: {', '.join(named)}."))
    return Section("Summary", "summary", "", tuple(blocks))


def _training_line(runs: Sequence[RunRecord]) -> str:
    alone, lengths = len(runs) == 1, sorted({run.config.epochs for run in runs})
    methods, networks, data = (
        listed(list(dict.fromkeys(words)))
        for words in zip(*((run.method, run.network, _data(run, whether_used=alone)) for run in runs), strict=True)
    )
    length = f"{lengths[-1]:g} epoch{'s' * (lengths[-1] != 1)}"
    length = length if len(lengths) == 1 else f"{lengths[0]:g} to {length}"
    time = f" ({_time(runs[0], 'about ')})" if alone and runs[0].seconds is not None else ""
    each = " each" if not alone and len(lengths) == 1 else ""
    subject = methods if alone else f"{len(runs)} runs of {methods}"
    return f"{subject} on {networks}, trained for {length}{each}{time} on {data}."


def _facts(run: RunRecord, entry: Entry | None) -> dict[str, str]:
    """What is shown of every run: title -> text."""
    size = f" ({entry.parameters:.2g} M)" if entry and entry.parameters else ""
    return {
        "Method": run.method,
        "Network": run.network + size,
        "Images": count(run.images),
        "Classes": "none" if run.classes == 0 else count(run.classes),
        "Epochs": f"{run.config.epochs:g}",
        "Steps": _steps(run),
        "Time": _time(run, "≈ "),
        **{title: figure(entry.value(name) if entry else None) for name, title in _ACCURACIES.items()},
        "State": _state(run),
    }


def _details(run: RunRecord, entry: Entry | None) -> KeyValues:
    """All facts of the only run."""
    config, title = run.config, network_title(run.config.backbone)
    facts = _facts(run, entry)
    size = f", {entry.parameters:.3g} million parameters" if entry and entry.parameters else ""
    facts["Network"] = (title if title == config.backbone else f"{title} ({config.backbone})") + size
    facts["Time"] = _time(run, "about ")
    if config.init:
        facts["Initial weights"] = config.init
    facts["Trained on"] = _data(run)
    facts["Batch size"] = str(config.batch_size)
    facts["Started"] = run.started.replace("T", " ", 1) or "not recorded"
    for name, title in _ACCURACIES.items():
        value = facts.pop(title)
        if entry and entry.value(name) is not None:
            facts[f"{title} top-1"] = f"{value} % ({_images(entry.measurements[name])})"
    if (online := run.last("knn_top1")) is not None:
        knn = entry.measurements.get("knn") if entry else None
        size = None if knn is None else knn.protocol.get("image_size")
        other = f"; the k-NN above is at {size} px" if size not in (None, run.image_size) else ""
        where = f"during training, on the run's own images at {run.image_size} px{other}"
        facts["Online k-NN top-1"] = f"{online:.1f} % ({where})"
    return KeyValues(tuple(facts.items()))


def _table(runs: Sequence[RunRecord], entries: Mapping[Path, Entry], comparison: Comparison | None) -> Table:
    """The runs, best first as in the comparison if they can be ranked; else as given."""
    order = next((own for name in _ACCURACIES if comparison and (own := compare.ranked(comparison, name))), ())
    places = {Path(entry.run): place for place, row in enumerate(order) for entry in row.entries}
    best = {name: compare.best(comparison, name) if comparison else () for name in _ACCURACIES}
    rows: list[TableRow] = []
    titles: list[str] = []
    for run in sorted(runs, key=lambda run: places.get(run.path, len(places))):
        entry = entries.get(run.path)
        facts = {"Run": run.label} | _facts(run, entry)
        titles = list(facts)
        bold = [titles.index(_ACCURACIES[name]) for name in best if any(entry in row.entries for row in best[name])]
        rows.append(TableRow(tuple(facts.values()), best=tuple(bold)))
    remarks = ["Trained on: " + "; ".join(dict.fromkeys(str(run.config.data) for run in runs))]
    if any(run.estimated and run.seconds for run in runs):
        remarks.append("≈: not recorded; from the speeds that were logged, without evaluations")
    if any(run.path in entries for run in runs):
        remarks.append("M: million parameters of the backbone, which is what is kept of a run")
    if any(entry.value(name) is not None for entry in entries.values() for name in _ACCURACIES):
        remarks.append(
            "Linear probe and k-NN: top-1 accuracy in %, with intervals and protocols in the comparison below"
        )
    remarks.append(f"{ABSENT}: not measured")
    caption = "What was trained"
    if comparison and any(row.best for row in rows):
        caption += ", best first"
        has_seeds = any(len(row.entries) > 1 for leading in best.values() for row in leading)
        means = "; a method with several seeds is judged by its mean, and all its runs are marked"
        remarks.append(compare.bold_line(comparison) + (means if has_seeds else ""))
    words = ("Run", "Method", "Network", "State")
    columns = tuple(Column(title, "left" if title in words else "right") for title in titles)
    return Table(columns, (Rows(tuple(rows)),), caption, remarks=tuple(remarks))


def _data(run: RunRecord, *, whether_used: bool = True) -> str:
    if run.images is None:
        return str(run.config.data)
    classes = "" if run.classes is None else " without labels" if run.classes == 0 else f" in {run.classes} classes"
    is_unused = whether_used and run.classes and run.method_key != compare.WITH_LABELS
    unused = " (whose labels were not used)" if is_unused else ""
    return f"{count(run.images)} images{classes}{unused} from {run.config.data}"


def _time(run: RunRecord, about: str) -> str:
    is_estimated = run.estimated and run.seconds is not None
    return about * is_estimated + duration(run.seconds, coarse=is_estimated)


def _steps(run: RunRecord) -> str:
    is_whole = run.total_steps is None or run.steps == run.total_steps
    return count(run.steps) if is_whole else f"{count(run.steps)} of {count(run.total_steps)}"


def _state(run: RunRecord) -> str:
    """The state, and what is wrong with it. A run that was not closed may be in training now."""
    is_open = run.state == "stopped" and not (run.sessions and run.sessions[-1].seconds)
    state = "unfinished" if is_open else run.state
    return f"{state}, {health.verdict(run)}" if health.is_wrong(run) else state


def _warnings(runs: Sequence[RunRecord]) -> list[Notice]:
    wrong = health.together([each for run in runs for each in health.findings(run) if each.kind == "warning"])
    if wrong:
        left = len(wrong) - MAX_WARNINGS
        more = [Notice(f"{left} more warnings are in the section on health.", "warning")] if left > 0 else []
        return [each.notice() for each in wrong[:MAX_WARNINGS]] + more
    verdicts = [health.verdict(run) for run in runs]
    if runs and set(verdicts) == {"healthy"}:
        subject = {1: "The run is", 2: "Both runs are"}.get(len(runs), f"All {len(runs)} runs are")
        return [Notice(f"{subject} {health.HEALTHY}", "good")]
    short = [run.label for run, verdict in zip(runs, verdicts, strict=True) if verdict == health.SHORT]
    return [Notice(f"Too short to judge the health of {listed(short)}.")] if short else []


# --- what was found ---------------------------------------------------------------------------------------------------


def headlines(runs: Sequence[RunRecord], comparison: Comparison | None) -> list[str]:
    """Return how good the features are, who is ahead and how sure that is; online k-NN if nothing else was measured.

    Accuracies that were measured otherwise than others are no contest and are not ranked.
    """
    rows = [row for row in (comparison.rows if comparison else ()) if row.first.method not in compare.BASELINES]
    measured = [row for row in rows if any(row.cell(name) for name in compare.accuracies())]
    if comparison is None or not measured:
        return [_online(runs)]
    news = [f"{line}." for line in compare.baseline_lines(comparison)]
    lines: list[str] = []
    for name in compare.accuracies():
        ranked = measured if len(measured) == 1 else compare.ranked(comparison, name)
        if ranked and ranked[0].cell(name):
            lines.append(_contest(ranked, comparison, name))
    if not lines:
        return [*news, "The accuracies were measured on different images or otherwise, so they are not ranked."]
    if len(measured) > 1 and all(len(row.entries) == 1 for row in rows):
        lines.append("One run of each: differences of a few points may be chance. Other seeds (--seed) tell.")
    return news + lines


def _contest(ranked: Sequence[Row], comparison: Comparison, name: str) -> str:
    """Who is first, second and last in one figure, what labels give, and guessing; of one model, its figure.

    ranked: best first.
    """
    rows = compare.without_labels(ranked)
    first, last = rows[0], rows[-1]
    scope = ", without labels" if len(rows) < len(ranked) else ""
    text = f"{compare.evaluation_title(name)} on {_images(compare.measured(first, name)[0])}{scope}: "
    if len(rows) == 1:
        text += f"the frozen features of {_title(first, comparison)} reach {_with_interval(first, name)}."
    elif _mean(first, name) == _mean(last, name):
        text += f"the accuracy is the same everywhere, {_mean(first, name)} %."
    else:
        second, is_sure = rows[1], compare.settled(first, rows[1], name)
        text += f"{_title(first, comparison)} is {'best' if is_sure else 'ahead'} with {_with_interval(first, name)}"
        text += f", then {_title(second, comparison)} with {_with_interval(second, name)}" if len(rows) > 2 else ""
        text += f"; last is {_title(last, comparison)} with {_with_interval(last, name)}."
        text += _difference(first, second, name, is_sure=is_sure)
    labelled = [row for row in ranked if row.first.method == compare.WITH_LABELS and row not in rows]
    if labelled:
        text += f" With labels: {listed([f'{_title(row, comparison)} {_mean(row, name)} %' for row in labelled])}."
    chance = compare.guessing(ranked, name)
    return text if chance is None else f"{text} Guessing: {chance:.1f} %."


def _difference(first: Row, second: Row, name: str, *, is_sure: bool) -> str:
    """The difference of the first two and whether it may be chance, as a sentence that begins with a space."""
    lead = compare.lead(first, second, name)
    if lead is None:
        return "" if is_sure else " The intervals of the first two overlap: they do not settle which of them is better."
    text = f" The first two differ by {lead.mean:.1f} points"
    if lead.low is None or lead.high is None:
        return f"{text}; no interval can be drawn from these runs."
    unsure = "" if is_sure else ": the interval contains 0, so these runs do not settle which of them is better"
    return f"{text} [{lead.low:.1f}, {lead.high:.1f}] ({lead.how}){unsure}."


def _online(runs: Sequence[RunRecord]) -> str:
    """What online k-NN ended at, if nothing was measured afterwards."""
    ends = [(run, value) for run in runs if (value := run.last("knn_top1")) is not None]
    if not ends:
        return "How good the features are was not measured: give --data FOLDER to measure it."
    figures = [f"{run.label} " * (len(runs) > 1) + f"{value:.1f} % at {run.image_size} px" for run, value in ends]
    classes = {run.classes or 0 for run, _ in ends}
    chance = f" Guessing: {100 / max(classes):.1f} %." if len(classes) == 1 and any(classes) else ""
    return (
        f"During training, online k-NN on each run's own images came to: {listed(figures)}.{chance} Accuracy on common "
        "images was not measured: give --data FOLDER to measure it."
    )


def _images(result: Result) -> str:
    """The images that were classified and how large they were shown: "500 images of DATA/val at 64 px"."""
    protocol, number = result.protocol, classified(result.protocol)
    place = next((protocol[name] for name in ("queries", "val", "gallery") if protocol.get(name)), None)
    size = protocol.get("image_size")
    words = f"{count(number)} images" if number else "images"
    return words + (f" of {place}" if place else "") + (f" at {size} px" if size else "")


def _title(row: Row, comparison: Comparison) -> str:
    """A row by its method, with its architecture if there are several."""
    networks = {each.architecture for each in comparison.rows if each.first.backbone}
    return compare.label(row, comparison) + (f" on {row.architecture}" if len(networks) > 1 else "")


def _mean(row: Row, name: str) -> str:
    cell = row.cell(name)
    return "" if cell is None else f"{cell.mean:.1f}"


def _with_interval(row: Row, name: str) -> str:
    """The figure with its interval, or of several runs with their deviation."""
    cell, interval = row.cell(name), compare.interval(row, name)
    if interval is not None:
        return f"{_mean(row, name)} % [{interval[0]:.1f}, {interval[1]:.1f}]"
    deviation = "" if cell is None or cell.deviation is None else f" ± {cell.deviation:.1f}"
    return f"{_mean(row, name)}{deviation} %"
