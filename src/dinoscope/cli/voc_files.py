"""What `dinoscope voc` writes: tables, values, the figure of the sweep, masks and pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from dinoscope.cli.console import progress_bar
from dinoscope.data.benchmarks import MaskedImages
from dinoscope.errors import UserError
from dinoscope.evaluation.results import plain
from dinoscope.evaluation.statistics import Estimate, interval_line
from dinoscope.explain.maps import TITLES
from dinoscope.files import claim, mark, write_all
from dinoscope.measurement.voc import VocResult
from dinoscope.measurement.voc_record import FIGURES, VocSummary, by_class, measurements
from dinoscope.model_names import Model, folder_names
from dinoscope.pictures import write_png
from dinoscope.report.charts import png
from dinoscope.report.mask_sheet import mask_sheet
from dinoscope.report.mass_sweep import Band, mass_sweep
from dinoscope.report.tables import csv_text, markdown
from dinoscope.report.voc_sheet import sheet_note, sheet_row, shown_scores, spread
from dinoscope.report.voc_tables import (
    CSV_HEADER,
    classes_table,
    csv_rows,
    differences_table,
    models_table,
    sweep_table,
)
from dinoscope.study.published import JACCARD_SOURCE, PUBLISHED_JACCARD
from dinoscope.tables import Table

if TYPE_CHECKING:
    from dinoscope.cli.voc import Options

TABLE, CSV, JSON, SWEEP = "table.md", "voc.csv", "voc.json", "sweep.png"

_ROWS_PER_PAGE = 6
_MOST_PAIRS = 6
"""Of models whose differences are shown on the terminal; the files have all."""


@dataclass(frozen=True)
class Tables:
    """For the terminal, and for table.md."""

    terminal: tuple[Table, ...]
    all: tuple[Table, ...]


def tables(summary: VocSummary, limit: int | None, found: int, published: bool) -> Tables:
    """The tables. limit: the images asked for, of `found`, or None for all."""
    rows = [row for each in PUBLISHED_JACCARD for row in each.rows()] if published else []
    result = summary.result
    first = models_table(summary, rows, JACCARD_SOURCE)
    if limit is not None:
        said = f"--limit {limit}: {limit} of {found} images, spread evenly."
        first = Table(first.columns, first.sections, first.caption, first.notes, (said, *first.remarks))
    sweep, classes = sweep_table(result), classes_table(result)
    pairs = [differences_table(summary)] if len(result.models) > 1 else []
    few = len(result.models) * (len(result.models) - 1) // 2 <= _MOST_PAIRS
    return Tables((first, *(pairs if few else []), sweep), (first, *pairs, sweep, classes))


def json_values(summary: VocSummary, limit: int | None, published: bool) -> dict[str, Any]:
    """Everything, as plain values: shares in [0, 1], but metrics in %."""
    result, masses = summary.result, summary.result.config.all_masses
    rows = zip(result.models, measurements(summary, limit), summary.intervals, strict=True)
    models = [
        {
            "label": scores.model.label,
            "model": scores.model.name,
            **plain(measurement, items=False),
            "sweep": {
                name: [{"mass": mass, **asdict(each)} for mass, each in zip(masses, found, strict=True)]
                for name, found in intervals.items()
            },
        }
        for scores, measurement, intervals in rows
    ]
    values: dict[str, Any] = {
        "figures": FIGURES,
        "models": models,
        "whole_image": result.whole_image,
        "differences": [asdict(each) for each in summary.differences],
        "classes": [asdict(each) for each in by_class(result)],
        "left_out": [asdict(fault) for fault in result.faults],
    }
    if published:
        values["published"] = {"source": JACCARD_SOURCE, "rows": [asdict(each) for each in PUBLISHED_JACCARD]}
    return values


def claim_files(options: Options, images: MaskedImages, models: Sequence[Model]) -> None:
    """Refuse, before anything is measured, to replace files unasked. Raises UserError."""
    if options.out is not None:
        names = (TABLE, CSV, JSON, SWEEP, *(path.name for path in _pages_in(options.out)))
        claim(options.out, names, overwrite=options.overwrite)
    if options.save_masks is not None:
        masks = (f"{folder}/{name}.png" for folder in _mask_folders(models) for name in images.names)
        claim(options.save_masks, masks, overwrite=options.overwrite)


def write(options: Options, summary: VocSummary, values: Mapping[str, Any], tables: Tables) -> list[Path]:
    """Write what was asked for, each file whole or not at all; return the files. Raises UserError."""
    written: list[Path] = []
    result = summary.result
    try:
        if options.out is not None:
            written += write_all(options.out, _files(summary, values, tables).items())
            written += _write_pages(options.out, result, options.pictures)
        if options.save_masks is not None:
            with progress_bar("writing masks") as tell:
                written += _write_masks(options.save_masks, result, tell)
    except OSError as error:
        raise UserError(f"the results could not be written: {error}") from error
    return written


def _files(summary: VocSummary, values: Mapping[str, Any], tables: Tables) -> dict[str, bytes]:
    picture = f"\n![Jaccard by the mass that a mask holds]({SWEEP})\n"
    title = f"# Jaccard of {TITLES[summary.result.config.map]} masks\n\n"
    return {
        TABLE: (title + "\n".join(map(markdown, tables.all)) + picture).encode(),
        CSV: csv_text(CSV_HEADER, csv_rows(summary.result)).encode("utf-8", errors="surrogateescape"),
        JSON: (json.dumps(values, indent=2) + "\n").encode(),
        SWEEP: _sweep(summary),
    }


def _sweep(summary: VocSummary) -> bytes:
    result = summary.result
    panels: list[tuple[str, list[Band]]] = []
    labels = [scores.model.label for scores in result.models]
    for name, title in FIGURES.items():
        bands = [
            Band(label, *(tuple(100 * value for value in column) for column in zip(*ends, strict=True)))
            for label, intervals in zip(labels, summary.intervals, strict=True)
            if name in intervals
            for ends in [[_known_ends(each) for each in intervals[name]]]
        ]
        if bands:
            panels.append((title, bands))
    line = interval_line(len(result.used), "image", result.config.bootstrap)
    note = f"{result.images.name}, {len(result.used)} images. {line} Dashed: the mass of the table."
    return png(mass_sweep(result.config.all_masses, panels, result.config.mass, note, TITLES[result.config.map]))


def _known_ends(each: Estimate) -> tuple[float, float, float]:
    """Without an interval, a band of no width."""
    low, high = (each.mean if end is None else end for end in (each.low, each.high))
    return each.mean, low, high


def _write_masks(folder: Path, result: VocResult, tell: Callable[[int, int], None]) -> Iterator[Path]:
    """Each mask of whole patches at the size of its image, by the nearest patch."""
    folders = _mask_folders([scores.model for scores in result.models])
    for name in folders:
        mark(folder / name, [f"{result.images.names[index]}.png" for index in result.used])
    for place, index in enumerate(result.used):
        height, width = result.images.classes(index).shape
        for scores, name in zip(result.models, folders, strict=True):
            path = folder / name / f"{result.images.names[index]}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            mask = 255 * scores.masks[place].astype(np.uint8)
            write_png(path, cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))
            yield path
        tell(place + 1, len(result.used))


def _write_pages(out: Path, result: VocResult, count: int) -> Iterator[Path]:
    """Pages of pictures, from the best to the worst; those of an earlier, longer series go."""
    places = spread(shown_scores(result), count)
    for path in _pages_in(out):
        path.unlink()
    pages = [places[begin : begin + _ROWS_PER_PAGE] for begin in range(0, len(places), _ROWS_PER_PAGE)]
    for number, page in enumerate(pages):
        by = ", by the mean of the models" if len(result.models) > 1 else ""
        title = f"Best to worst{by}" + (f", page {number + 1} of {len(pages)}" if len(pages) > 1 else "")
        path = out / _page_name(number)
        mark(out, [path.name])
        write_png(path, mask_sheet([sheet_row(result, place) for place in page], title, sheet_note(result)))
        yield path


def _page_name(number: int) -> str:
    return f"pictures-{number + 1:02d}.png"


def _pages_in(out: Path) -> list[Path]:
    return sorted(path for path in out.glob("pictures-*.png") if re.fullmatch(r"pictures-\d{2,}\.png", path.name))


def _mask_folders(models: Sequence[Model]) -> list[str]:
    return folder_names([model.label for model in models])
