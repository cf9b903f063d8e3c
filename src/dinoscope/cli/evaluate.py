"""One command for each evaluation: `dinoscope knn`, `linear` and so on. None is known here by name."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, field, fields, make_dataclass
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import tyro

from dinoscope.cli.command import Command, ExtractionOptions, ExtractionWithBatch, ModelNames
from dinoscope.cli.console import emit, metric_table, progress_bar, stdout
from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation.base import INTERNAL, Evaluation, Labelled, differences, items_csv, measure, metrics_table
from dinoscope.evaluation.results import plain, to_json
from dinoscope.files import claim, mark, write_all
from dinoscope.model_names import Model, load_models
from dinoscope.pictures import write_png
from dinoscope.report.charts import line_chart, png
from dinoscope.report.tables import csv_text, markdown
from dinoscope.tables import Table
from dinoscope.types import Result

TABLE = "table.md"
_PAGE = re.compile(r"pictures-\d{2,}\.png")

DATA = {
    "labels": "Folder with train/CLASS/... and val/CLASS/..., or only CLASS/...",
    "masks": "Folder VOCdevkit or VOC2012; or, with --masks, a folder of images.",
    "videos": "Folder DAVIS: JPEGImages, Annotations and ImageSets.",
    "images": "Folder of images; or a VOC 2012 folder, whose validation images and masks are then used.",
    "nothing": "Not needed.",
}
"""What an evaluation needs -> the text of its --data."""


def command(evaluation: Evaluation) -> Command:
    """Return the command of an evaluation; its options are the settings of the evaluation."""
    settings = fields(evaluation.config)
    own = {setting.name for setting in settings if setting.metadata != INTERNAL}
    extraction = ExtractionWithBatch if "batch_size" in own else ExtractionOptions
    shared = {"no_cache" if name == "cached" else name for name in evaluation.uses}
    hidden = {setting.name for setting in (*settings, *fields(ExtractionOptions))} - own - shared
    hidden |= {"pictures"} if evaluation.examples is None else set()
    hidden |= {"published"} if evaluation.tables is None else set()
    options = make_dataclass(
        "Options",
        [
            ("model", ModelNames, ()) if evaluation.needs_no_model else ("model", ModelNames),
            ("data", _explained(Path | None, DATA[evaluation.needs]), None),
            ("config", tyro.conf.OmitArgPrefixes[evaluation.config], field(default_factory=evaluation.config)),
            *((name, _explained(kind, text), default) for name, kind, default, text in OUTPUT),
            ("extraction", tyro.conf.OmitArgPrefixes[extraction], field(default_factory=extraction)),
        ],
        frozen=True,
    )
    names = frozenset(name.replace("_", "-") for name in hidden)
    return Command(evaluation.summary, functools.partial(run, evaluation), hidden=names, options=options)


OUTPUT: tuple[tuple[str, Any, Any, str], ...] = (
    ("out", Path | None, None, "Folder for table.md, NAME.json, NAME.csv (each item), charts and pictures."),
    ("pictures", int, 0, "With --out: so many of the best and of the worst items in pictures-1.png and so on."),
    ("published", bool, False, "Add published figures to the table."),
    ("overwrite", bool, False, "Replace what is in --out."),
    ("json", bool, False, "Print JSON instead of tables."),
)
"""Options of every evaluation: name, type, default, text."""


def _explained(kind: Any, text: str) -> Any:
    return Annotated[kind, tyro.conf.arg(help=text)]


def run(evaluation: Evaluation, options: Any) -> None:
    """Measure models, keep each result in its run folder, write files, and print the figures. Raises UserError."""
    out, pictures, published = options.out, options.pictures, options.published
    if pictures < 0:
        raise UserError(f"--pictures must be 0 or more, not {pictures}")
    if pictures and out is None:
        raise UserError("--pictures needs a folder to go to: add --out")
    pages: list[str] = []
    if out is not None:
        pages = [path.name for path in out.glob("pictures-*.png") if _PAGE.fullmatch(path.name)]
        names = [TABLE, f"{evaluation.name}.json", *_csv_names(evaluation), *pages]
        claim(out, names, overwrite=options.overwrite)
    context = options.extraction.context(out=out, overwrite=options.overwrite)
    models = load_models(options.model, progress_bar) if options.model else []
    results = measure(evaluation, models, options.data, options.config, context)
    labelled = list(zip(_labels(models, results), results, strict=True))
    if out is not None:
        written = write_all(out, _files(evaluation, labelled, published=published))
        sheets = evaluation.examples(results, models, pictures, context) if pictures and evaluation.examples else []
        write_all(out, dict.fromkeys(pages).items())  # those of an earlier, longer series go
        mark(out, [f"{sheet.name}.png" for sheet in sheets])
        for sheet in sheets:
            write_png(out / f"{sheet.name}.png", sheet.pixels(note=sheet.caption))
            written.append(out / f"{sheet.name}.png")
    if options.json:
        print(_json(evaluation, labelled), end="")
        return
    if evaluation.tables is None and len(labelled) == 1:
        stdout(metric_table(evaluation.title, results[0].metrics))
    else:
        emit(None, _tables(evaluation, labelled, published=published), json=False)
    for label, result in labelled:
        line = evaluation.protocol_line(result.protocol)
        stdout(line if len(labelled) == 1 else f"{label}: {line}")
    if out is not None:
        stdout(f"written to {out}: {', '.join(dict.fromkeys(path.name for path in written))}")


def _labels(models: Sequence[Model], results: Sequence[Result]) -> Iterator[str]:
    """Give the labels of the models, then the names of what was measured besides, such as folders of masks."""
    yield from (model.label for model in models)
    yield from (str(result.protocol.get("label", result.protocol["weights"])) for result in results[len(models) :])


def _tables(evaluation: Evaluation, labelled: Labelled, *, published: bool) -> list[Table]:
    return evaluation.tables(labelled, published) if evaluation.tables else metrics_table(labelled, evaluation.title)


def _json(evaluation: Evaluation, labelled: Labelled) -> str:
    if evaluation.tables is None and len(labelled) == 1:
        return to_json(labelled[0][1])
    left_out = {label: dict(result.items.left_out) for label, result in labelled if result.items}
    values = {
        "models": [{"model": label, **plain(result)} for label, result in labelled],
        "differences": [
            {"first": first, "second": second, "metric": column.metric, **asdict(estimate)}
            for column in evaluation.columns
            for first, second, estimate in differences(labelled, column.metric)
        ],
        "left_out": {label: reasons for label, reasons in left_out.items() if reasons},
    }
    return dumps(values, indent=2) + "\n"


def _files(evaluation: Evaluation, labelled: Labelled, *, published: bool) -> Iterator[tuple[str, bytes | None]]:
    """Give the names and contents of --out; None for what this evaluation does not have."""
    tables = _tables(evaluation, labelled, published=published)
    charts = evaluation.charts(labelled) if evaluation.charts else []
    pictures = "".join(f"\n![{chart.title}]({chart.name}.png)\n" for chart in charts)
    lines = "".join(f"\n{label}: {evaluation.protocol_line(result.protocol)}\n" for label, result in labelled)
    text = f"# {evaluation.title}\n\n" + "\n".join(map(markdown, tables)) + pictures + lines
    yield TABLE, text.encode("utf-8", errors="surrogateescape")
    yield f"{evaluation.name}.json", _json(evaluation, labelled).encode("utf-8", errors="surrogateescape")
    header, rows = (evaluation.csv or items_csv)(labelled)
    text = csv_text(header, rows)
    for name in _csv_names(evaluation):
        yield name, text.encode("utf-8", errors="surrogateescape") if rows else None
    for chart in charts:
        yield f"{chart.name}.png", png(line_chart(chart))


def _csv_names(evaluation: Evaluation) -> list[str]:
    return [name for name in (f"{evaluation.name}.csv", evaluation.earlier_csv) if name]


COMMANDS = {name: command(evaluation) for name, evaluation in EVALUATIONS.items() if not evaluation.by_network}
"""Speed has a command with more options: networks without a model, and training."""
