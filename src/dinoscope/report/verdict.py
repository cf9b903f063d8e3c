"""A verdict as tables, one HTML page, Markdown, and JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from dinoscope import __version__
from dinoscope.config import from_dict, to_dict
from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS, compare
from dinoscope.evaluation.base import DEFAULT_CONTEXT, Context, Labelled, shown_images
from dinoscope.evaluation.compare import Entry
from dinoscope.evaluation.evidence import SCORES, SPEED, WITH_LABELS, Check, Verdict, verdict_on
from dinoscope.evaluation.results import OF_THE_MODEL, plain
from dinoscope.evaluation.verdict import LEVEL, MEASURES, POWER, Decision
from dinoscope.files import claim, unique_names, write_all
from dinoscope.model_names import Model, load_models
from dinoscope.report.charts import figure_files, file_names, line_chart, svg
from dinoscope.report.comparison import require_different
from dinoscope.report.page import Block, Bullets, Document, Figure, Notice, Paragraph, Section, render
from dinoscope.report.tables import markdown, markdown_paragraph
from dinoscope.system import Machine, commit
from dinoscope.tables import Column, LineChart, Table, TableRow
from dinoscope.tables import Section as Rows
from dinoscope.text import ABSENT, count, figure, printable
from dinoscope.types import Result

FILES = ("verdict.html", "verdict.json", "verdict.md", *file_names("labels"))

_OWN_COLUMNS = {MEASURES["knn"]: "knn"}
"""Measure -> the column of the same figure, which is not shown twice."""


def write_verdict(
    names: Sequence[str | Path | Model],
    data: Path,
    out: Path | None = None,
    *,
    wanted: Mapping[str, Any] | None = None,
    skip: Collection[str] = (),
    unlabelled: bool = False,
    context: Context = DEFAULT_CONTEXT,
    overwrite: bool = False,
) -> tuple[Verdict, list[Table], list[Path]]:
    """Measure what is missing, and return the verdict, its tables, and the files, which are written if `out` is given.

    Args:
        names: models as `load_models` takes them.
        data, wanted, skip, unlabelled, context: as of `evaluation.evidence.verdict_on`.
        out: the folder to write to.
        overwrite: replace the verdict in `out`.

    Raises UserError as `verdict_on`, if a model is none or was given twice, or if `out` holds a verdict and is not to
    be overwritten.
    """
    require_different(names)
    if out is not None:
        claim(out, FILES, overwrite=overwrite)
    shown_images(data)  # refuses data without images before models are loaded
    models = load_models(names, context.watch)
    verdict = verdict_on(models, data, wanted=wanted, skip=skip, unlabelled=unlabelled, context=context)
    tables = verdict_tables(verdict)
    return verdict, tables, [] if out is None else write_all(out, _contents(verdict, tables))


# Tables


def verdict_tables(verdict: Verdict) -> list[Table]:
    """Return what the verdict rests on and other measures, if there are labels; and scores without, with the costs."""
    tables = [] if verdict.decision is None else [_accuracies(verdict, verdict.decision), _others(verdict)]
    return [*(table for table in tables if len(table.columns) > 1), _costs(verdict)]


def _accuracies(verdict: Verdict, decision: Decision) -> Table:
    leading, rows = next(iter(decision.accuracies)), list[TableRow]()
    for label, metric in decision.accuracies.items():
        behind, chance = ABSENT, ABSENT
        if label != leading:
            pair = decision.pair(label)
            ends = "" if pair.low is None or pair.high is None else f" [{-pair.high:.1f}, {-pair.low:.1f}]"
            behind, chance = f"{-pair.difference:.1f}{ends}", probability_text(pair.probability)
        rows.append(TableRow((label, metric.text(), behind, chance), best=(0,) if label == decision.take else ()))
    titles = ("Model", decision.measure, "Difference", "Chance")
    units = "images" if decision.groups is None else "groups"
    remarks = [
        f"The verdict rests on {decision.measure}: top-1 in % on {count(decision.images)} test images, "
        f"{count(verdict.train)} to learn from; 95 % intervals over {units}.",
    ]
    if decision.pairs:
        several = decision.comparisons > 1
        test = "exact McNemar test" if decision.groups is None else "randomisation test of signs over groups"
        test += f", corrected for {decision.comparisons} pairs by Holm" if several else ""
        remarks.append(
            f"Difference: to {leading} in points, paired over the same {units}, with 95 % intervals"
            f"{' that hold all at once' if several else ''}. Chance: probability of a difference at least as large if "
            f"both are equally good ({test}); below {LEVEL:g} counts."
        )
    if verdict.shared and verdict.is_without_shared:
        remarks.append("Test images that are in the training images, too, are left out here, and in no other table.")
    return Table(_columns(titles), (Rows(tuple(rows)),), f"Models on {verdict.data}", remarks=tuple(remarks))


def _others(verdict: Verdict) -> Table:
    """Return the other figures that need labels, with their intervals; a table of one column if there are none."""
    measure = "" if verdict.decision is None else verdict.decision.measure
    shown = {
        name: column.title
        for name, (evaluation, column) in compare.columns().items()
        if evaluation in WITH_LABELS
        and name != _OWN_COLUMNS.get(measure)
        and any(entry.metric(name) for entry in verdict.entries.values())
    }
    rows = (
        TableRow((label, *(ABSENT if (metric := entry.metric(name)) is None else metric.text() for name in shown)))
        for label, entry in verdict.entries.items()
    )
    return Table(_columns(("Model", *shown.values())), (Rows(tuple(rows)),), "Other measures, top-1 in %")


def _columns(titles: Sequence[str]) -> tuple[Column, ...]:
    return tuple(Column(title, "right" if place else "left") for place, title in enumerate(titles))


def probability_text(probability: float) -> str:
    """Return a probability for a table: three digits, and none below 0.001."""
    return "< 0.001" if probability < 0.001 else f"{probability:.3f}"


def _costs(verdict: Verdict) -> Table:
    names = [column.name for name in SCORES for column in EVALUATIONS[name].columns]
    titles = {name: compare.columns()[name][1].title for name in names}
    rows: list[TableRow] = []
    for label, entry in verdict.entries.items():
        scores = [figure(entry.value(name)) for name in names]
        loss, speed = verdict.losses.get(label), entry.value(SPEED)
        size = ABSENT if entry.parameters is None else f"{entry.parameters:.3g}"
        rows.append(TableRow((label, *scores, ABSENT if loss is None else f"{loss:.4g}", size, count(speed))))
    columns = ("Model", *titles.values(), "Last loss", "Param. (M)", "im/s")
    remarks = ["Scores without labels compare runs of one method at best; losses of different methods not at all."]
    speeds = [entry.measurements[SPEED] for entry in verdict.entries.values() if SPEED in entry.measurements]
    if speeds:
        protocol = speeds[0].protocol
        remarks.append(
            f"im/s: forward passes at each model's own image size, images in memory, batch {protocol['batch_size']}, "
            f"{protocol['precision']}; {Machine(**protocol['machine']).line()}."
        )
    return Table(_columns(columns), (Rows(tuple(rows)),), "Scores without labels, and costs", remarks=tuple(remarks))


# The page


def notice_kind(verdict: Verdict) -> Literal["good", "note", "warning"]:
    """Return how the sentence is to be shown."""
    if verdict.decision is None:
        return "note"
    if not verdict.is_trusted or verdict.decision.kind in ("baseline", "no better"):
        return "warning"
    return "good" if verdict.decision.kind == "winner" else "note"


def document(verdict: Verdict, tables: Sequence[Table]) -> Document:
    """Return the page: the sentence, the table, few labels, checks, costs, and how it was decided."""
    sections = [Section("Verdict", "verdict", "", (Notice(verdict.sentence, notice_kind(verdict)), *tables[:-1]))]
    drawn = few_labels_chart(verdict)
    if drawn is not None:
        drawing = svg(line_chart(drawn)).decode("utf-8")
        picture = Figure(drawing, f"{drawn.title}. {drawn.note}".strip(), drawn.title)
        lead = "What each model reaches if fewer labels are known: a frozen network, three simple classifiers."
        sections.append(Section("Few labels", "labels", lead, (picture,)))
    if verdict.checks:
        checks = tuple(Notice(check.text, check.kind) for check in verdict.checks if check.kind != "note")
        notes = tuple(check.text for check in verdict.checks if check.kind == "note")
        blocks: list[Block] = [*checks, *([Bullets(notes)] if notes else [])]
        sections.append(
            Section("Checks", "checks", "What may make the figures wrong, or is worth knowing.", tuple(blocks))
        )
    sections.append(
        Section("Costs", "costs", "What each model costs, and what can be measured without labels.", (tables[-1],))
    )
    sections.append(Section("How it was decided", "rule", "", tuple(map(Paragraph, _rule(verdict)))))
    now, source = datetime.now().astimezone(), commit()
    version = f"{__version__}, commit {source}" if source else __version__
    foot = f"Written by dinoscope {version}, on {now:%Y-%m-%d at %H:%M (UTC%z)}."
    lead = f"{len(verdict.entries)} models on {verdict.data}, {now:%d %B %Y}"
    return Document("Which model should I take?", tuple(sections), printable(lead), foot)


def _rule(verdict: Verdict) -> Iterator[str]:
    decision = verdict.decision
    if decision is not None:
        yield (
            "The rule was fixed before anything was measured. It rests on k-NN (k = 20) if there are at least 20 "
            "training images for each class on average, else on logistic regression on all training labels. A model is "
            "named the winner only if it is better than every other one; the leading model is found on the images it "
            "is tested on, so all pairs count as comparisons."
        )
        yield (
            "Trained models must be better than every baseline. Among those that cannot be told from the leading one, "
            "the cheapest is taken."
        )
        yield (
            f"Further labels: as many as would show the difference seen here with a probability of {100 * POWER:g} %, "
            "if it is the true one. The error falls with the root of the number of test images."
        )
        yield "Not known: other seeds of training, other training labels, and images unlike these."
    for name in (*WITH_LABELS, *SCORES):
        results = [(label, e.measurements[name]) for label, e in verdict.entries.items() if name in e.measurements]
        for label, result in results[:1]:
            protocol = {key: value for key, value in result.protocol.items() if key not in OF_THE_MODEL}
            yield f"{EVALUATIONS[name].title}, of {label}: {EVALUATIONS[name].protocol_line(protocol)}."


def few_labels_chart(verdict: Verdict) -> LineChart | None:
    """Return accuracy by the number of labels, a panel for each classifier; None if it was not measured."""
    labelled: Labelled = [
        (label, entry.measurements["fewshot"])
        for label, entry in verdict.entries.items()
        if "fewshot" in entry.measurements
    ]
    charts = EVALUATIONS["fewshot"].charts
    return charts(labelled)[0] if charts is not None and labelled else None


# Files


def json_values(verdict: Verdict) -> dict[str, Any]:
    """Return everything as plain values: sentence, decision, the results of each model, checks."""
    decision = verdict.decision
    return {
        "version": __version__,
        "data": verdict.data,
        "sentence": verdict.sentence,
        "trusted": verdict.is_trusted,
        "take": None if decision is None or not verdict.is_trusted else decision.take,
        "decision": None if decision is None else to_dict(decision),
        "train_images": verdict.train,
        "test_images": verdict.images,
        "shared_images": verdict.shared,
        "models": [
            {
                "model": label,
                "name": entry.run,
                "method": entry.method,
                "network": entry.backbone,
                "parameters_millions": entry.parameters,
                "last_loss": verdict.losses.get(label),
                "results": [plain(result) for result in entry.measurements.values()],
            }
            for label, entry in verdict.entries.items()
        ],
        "checks": [asdict(check) for check in verdict.checks],
    }


def _contents(verdict: Verdict, tables: Sequence[Table]) -> Iterator[tuple[str, bytes | None]]:
    """Name and content of each of `FILES`; None for a figure if there is nothing to draw."""
    drawn = few_labels_chart(verdict)
    parts = ["# Which model should I take?", markdown_paragraph(verdict.sentence), *map(markdown, tables)]
    parts += ["![Accuracy by the number of labels](labels.png)"] if drawn is not None else []
    parts += [markdown_paragraph(check.text) for check in verdict.checks]
    texts = {
        "verdict.html": render(document(verdict, tables)),
        "verdict.json": json.dumps(json_values(verdict), indent=2) + "\n",
        "verdict.md": "\n\n".join(part.strip() for part in parts) + "\n",
    }
    for name, text in texts.items():
        yield name, text.encode("utf-8", errors="surrogateescape" if name != "verdict.html" else "strict")
    yield from figure_files("labels", None if drawn is None else line_chart(drawn))


# Reading


@dataclass(frozen=True)
class _StoredModel:
    model: str
    name: str
    method: str
    network: str
    parameters_millions: float | None
    last_loss: float | None
    results: tuple[Result, ...]


@dataclass(frozen=True)
class _Stored:
    # What `json_values` gives.
    version: str
    data: str
    sentence: str
    trusted: bool
    take: str | None
    decision: Decision | None
    train_images: int
    test_images: int
    shared_images: int
    models: tuple[_StoredModel, ...]
    checks: tuple[Check, ...]

    def verdict(self) -> Verdict:
        entries = {
            own.model: Entry(
                own.method,
                own.network,
                own.parameters_millions,
                own.name,
                measurements={result.evaluation: result for result in own.results},
            )
            for own in self.models
        }
        return Verdict(
            self.sentence,
            self.decision,
            self.shared_images,
            entries,
            {own.model: own.last_loss for own in self.models if own.last_loss is not None},
            self.checks,
            self.data,
            self.train_images,
            self.test_images,
        )


def read_verdict(folder: Path) -> Verdict:
    """Return the verdict in a folder that `write_verdict` wrote; settings and seeds of its runs are not stored.

    Raises UserError if there is none, or its JSON is not exactly what `json_values` gives for a verdict.
    """
    file = folder / FILES[1]
    again = "write it again with `dinoscope verdict`"
    try:
        values: Any = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{folder} holds no {file.name}: name a folder that `dinoscope verdict ... --out FOLDER` wrote"
        ) from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged: it is not JSON ({error}); {again}") from error
    if not isinstance(values, dict) or not {"sentence", "models", "checks"} <= values.keys():
        raise UserError(f"{file} is not by `dinoscope verdict`: it has no sentence, models and checks")
    stored = from_dict(_Stored, values, str(file))
    verdict = stored.verdict()
    # texts for numbers are converted above, and facts may contradict each other: neither survives being written again
    written = json_values(verdict) | {"version": stored.version}
    changed = [name for name, value in written.items() if value != values[name]]
    if changed:
        raise UserError(f"{file} is damaged: {changed[0]} is not as a verdict has it; {again}")
    if not verdict.entries:
        raise UserError(f"{file} is damaged: it has no models; {again}")
    try:  # the protocols of results are free values, which only their evaluations know
        verdict_tables(verdict)
        few_labels_chart(verdict)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, StopIteration, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{file} is damaged: its results cannot be shown ({reason}); {again}") from error
    return verdict


def read_verdicts(folders: Sequence[Path]) -> dict[str, Verdict]:
    """Return the verdict in each folder by the folder's name. Raises UserError as `read_verdict`."""
    names = unique_names(folder.resolve().name for folder in folders)
    return {name: read_verdict(folder) for name, folder in zip(names, folders, strict=True)}
