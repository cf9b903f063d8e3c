"""One command for each evaluation: `dinoscope knn`, `linear` and so on. None is known here by name."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import asdict, field, fields, make_dataclass
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import tyro

from dinoscope.cli.command import (
    Command,
    DeviceOptions,
    ExtractionOptions,
    ExtractionWithBatch,
    LabelledOptions,
    ModelNames,
)
from dinoscope.cli.console import emit, metric_table, progress_bar, stdout
from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS, base
from dinoscope.evaluation.base import Evaluation, Labelled
from dinoscope.evaluation.results import plain, to_json
from dinoscope.files import claim, write_all
from dinoscope.model_names import load_models
from dinoscope.pictures import page_files, scale_of
from dinoscope.report.charts import figure_files, line_chart
from dinoscope.report.tables import csv_text, latex, markdown
from dinoscope.tables import Table

_PAGE = re.compile(r"pictures-\d{2,}\.(png|pdf)")

DATA = {
    "labels": "Folder, archive or list with train/CLASS/... and val/CLASS/..., or only CLASS/...",
    "masks": "Folder VOCdevkit or VOC2012; or, with --masks, a folder of images.",
    "videos": "Folder DAVIS: JPEGImages, Annotations and ImageSets.",
    "images": "Folder of images; or a VOC 2012 folder, whose validation images and masks are then used.",
    "nothing": "Not needed.",
}
"""What an evaluation needs -> the text of its --data."""

OUTPUT: tuple[tuple[str, Any, Any, str], ...] = (
    ("out", Path | None, None, "Folder for table.md, NAME.tex, NAME.json, NAME.csv (each item), charts and pictures."),
    ("pictures", int, 0, "With --out: so many of the best and of the worst items in pictures-01.png and so on."),
    ("dpi", int | None, None, "With --pictures: draw them for print, such as with 300 dots an inch; also as PDF."),
    ("published", bool, False, "Add published figures to the table."),
    ("overwrite", bool, False, "Replace what is in --out."),
    ("json", bool, False, "Print JSON instead of tables."),
)
"""Options of every evaluation: name, type, default, text."""


def command(evaluation: Evaluation) -> Command:
    """Return the command of an evaluation; its options are the settings of the evaluation."""
    own = {setting.name for setting in fields(evaluation.config) if setting.metadata != base.INTERNAL}
    extraction = LabelledOptions if "group" in evaluation.uses else ExtractionOptions
    extraction = ExtractionWithBatch if "batch_size" in own else extraction
    extraction = DeviceOptions if evaluation.uses == ("device",) else extraction
    shared = {"no_cache" if name == "cached" else name for name in evaluation.uses}
    every = {setting.name for kind in (evaluation.config, extraction) for setting in fields(kind)}
    unfit = {"published": evaluation.tables is None, **dict.fromkeys(("pictures", "dpi"), evaluation.examples is None)}
    unfit["data"] = evaluation.needs == "nothing"
    hidden = every - own - shared | {name for name, is_unfit in unfit.items() if is_unfit}
    options = make_dataclass(
        "Options",
        [
            ("model", ModelNames, ()) if evaluation.needs_no_model else ("model", ModelNames),
            ("data", Annotated[Path | None, tyro.conf.arg(help=DATA[evaluation.needs])], None),
            ("config", tyro.conf.OmitArgPrefixes[evaluation.config], field(default_factory=evaluation.config)),
            *((name, Annotated[kind, tyro.conf.arg(help=text)], default) for name, kind, default, text in OUTPUT),
            ("extraction", tyro.conf.OmitArgPrefixes[extraction], field(default_factory=extraction)),
        ],
        frozen=True,
    )
    names = frozenset(name.replace("_", "-") for name in hidden)
    return Command(evaluation.summary, functools.partial(run, evaluation), hidden=names, options=options)


def run(evaluation: Evaluation, options: Any) -> None:
    """Measure models, keep each result with its model, write files, and print the figures. Raises UserError."""
    out, pictures = options.out, options.pictures
    if pictures < 0:
        raise UserError(f"--pictures must be 0 or more, not {pictures}")
    if pictures and out is None:
        raise UserError("--pictures needs a folder to go to: add --out")
    scale_of(options.dpi)  # refused before anything is measured
    pages: list[str] = []
    if out is not None:
        pages = [path.name for path in out.glob("pictures-*.*") if _PAGE.fullmatch(path.name)]
        names = ["table.md", f"{evaluation.name}.json", f"{evaluation.name}.tex", *_csv_names(evaluation), *pages]
        claim(out, names, overwrite=options.overwrite)
    context = options.extraction.context(out=out, overwrite=options.overwrite)
    evaluation.check(options.data, options.config, context)
    models = load_models(options.model, progress_bar) if options.model else []
    results = base.measure(evaluation, models, options.data, options.config, context)
    labels = [model.label for model in models]
    labels += [str(r.protocol.get("label") or r.protocol.get("weights")) for r in results[len(models) :]]
    labelled = list(zip(labels, results, strict=True))
    is_plain = evaluation.tables is None and len(labelled) == 1
    lines = [evaluation.protocol_line(result.protocol) for result in results]
    lines = lines if len(lines) == 1 else [f"{label}: {line}" for label, line in zip(labels, lines, strict=True)]
    tables = base.metrics_table(labelled, evaluation.title)
    if evaluation.tables is not None:
        tables = evaluation.tables(labelled, options.published)
    json = to_json(results[0]) if is_plain else _json(evaluation, labelled)
    if out is not None:
        written = write_all(out, _files(evaluation, labelled, tables, json))
        draw = evaluation.examples if pictures else None
        sheets = [] if draw is None else draw(results, models, pictures, context, options.dpi)
        write_all(out, dict.fromkeys(pages).items())  # those of an earlier, longer series go
        for sheet in sheets:
            written += write_all(out, page_files(sheet.name, sheet.page(note=sheet.caption)))
        lines.append(f"written to {out}: {', '.join(dict.fromkeys(path.name for path in written))}")
    if options.json:
        print(json, end="")
        return
    if is_plain:
        stdout(metric_table(evaluation.title, results[0].metrics))
    emit(None, [] if is_plain else tables, lines, json=False)


def _json(evaluation: Evaluation, labelled: Labelled) -> str:
    left_out = {label: dict(result.items.left_out) for label, result in labelled if result.items}
    values = {
        "models": [{"model": label, **plain(result)} for label, result in labelled],
        "differences": [
            {"first": first, "second": second, "metric": column.metric, **asdict(estimate)}
            for column in evaluation.columns
            for first, second, estimate in base.differences(labelled, column.metric)
        ],
        "left_out": {label: reasons for label, reasons in left_out.items() if reasons},
    }
    return dumps(values, indent=2) + "\n"


def _files(
    evaluation: Evaluation, labelled: Labelled, tables: list[Table], json: str
) -> Iterator[tuple[str, bytes | None]]:
    """Give the names and contents of --out; None for what this evaluation does not have."""
    charts = evaluation.charts(labelled) if evaluation.charts else []
    pictures = "".join(f"\n![{chart.title}]({chart.name}.png)\n" for chart in charts)
    lines = "".join(f"\n{label}: {evaluation.protocol_line(result.protocol)}\n" for label, result in labelled)
    header, rows = (evaluation.csv or base.items_csv)(labelled)
    names = (evaluation.name, *(f"{evaluation.name}-{number}" for number in range(2, len(tables) + 1)))
    texts = {
        "table.md": f"# {evaluation.title}\n\n" + "\n".join(map(markdown, tables)) + pictures + lines,
        f"{evaluation.name}.json": json,
        f"{evaluation.name}.tex": "\n".join(map(latex, tables, names)),
        **dict.fromkeys(_csv_names(evaluation), csv_text(header, rows) if rows else None),
    }
    for name, text in texts.items():
        yield name, None if text is None else text.encode("utf-8", errors="surrogateescape")
    for chart in charts:
        yield from figure_files(chart.name, line_chart(chart))


def _csv_names(evaluation: Evaluation) -> list[str]:
    return [name for name in (f"{evaluation.name}.csv", evaluation.earlier_csv) if name]


COMMANDS = {name: command(evaluation) for name, evaluation in EVALUATIONS.items()}
