"""From run folders and models to one HTML file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from dinoscope import __version__
from dinoscope.errors import UserError
from dinoscope.files import replacing
from dinoscope.model_names import RANDOM, Model, load_models, run_settings
from dinoscope.report.page import Document, Section, render
from dinoscope.report.runs import RunRecord, read_runs
from dinoscope.report.sections import attention, davis, embedding, voc
from dinoscope.report.sections.comparison import comparison_section, gathered
from dinoscope.report.sections.curves import curves_section
from dinoscope.report.sections.health import health_section
from dinoscope.report.sections.settings import settings_section
from dinoscope.report.sections.summary import summary_section
from dinoscope.report.titles import titles_of
from dinoscope.study.gather import Measuring
from dinoscope.system import commit
from dinoscope.text import listed

_NAMED = 3
"""Models up to which the title names them all."""


@dataclass(frozen=True)
class Request:
    """What the report is about.

    models: run folders, and other models as `load_model` takes them.
    out: the file.
    measuring: without data, only what is kept is shown; with them, what is missing is measured and kept.
    baselines: raw pixels and random weights in the comparison; only where there are data.
    pictures: maps of the features and what the models attend to, which need the images and some time.
    title: above all; by default the models' names.
    """

    models: tuple[str, ...]
    out: Path
    measuring: Measuring = field(default_factory=Measuring)
    baselines: bool = False
    pictures: bool = True
    title: str = ""
    overwrite: bool = False


@dataclass(frozen=True)
class Written:
    """The file, its size in bytes, and its sections."""

    path: Path
    size: int
    sections: tuple[str, ...]


def write_report(request: Request) -> Written:
    """Read, measure what is missing, draw, write the file whole or not at all.

    Raises UserError where a model is none, was given twice or is damaged, the data cannot be used, or the file is
    there already or cannot be written.
    """
    _check(request)
    document = report(request)
    text = render(document).encode("utf-8")
    try:
        request.out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(request.out) as partial:
            partial.write_bytes(text)
    except OSError as error:
        raise UserError(f"{request.out} could not be written: {error}") from error
    return Written(request.out, len(text), tuple(section.title for section in document.sections))


def report(request: Request) -> Document:
    """The report as a document. Raises UserError as `write_report` does, but for the file."""
    watch = request.measuring.watch
    names = [name for name in request.models if is_run(name)]
    with watch("reading runs") as progress:
        progress(0, 1)
        runs = read_runs([Path(name) for name in names])
        progress(1, 1)
    # Of a run that has saved nothing there is no model yet; all that it logged is shown nevertheless.
    empty = {str(run.path) for run in runs if run.state == "begun"}
    named = [name for name in request.models if str(Path(name)) not in empty]
    subjects = load_models(named, watch) if named else []
    baselines = request.baselines and request.measuring.data is not None
    runs, others = _titled(runs, subjects)
    comparison = gathered(subjects, request.measuring, baselines=baselines) if subjects else None
    parameters = _parameters(runs, subjects)
    with watch("drawing curves") as progress:
        curves = [curves_section(runs, progress)] if runs else []
    sections = [
        summary_section(runs, others, comparison, parameters),
        *curves,
        *([comparison_section(comparison)] if comparison else []),
        *(_pictures(subjects, request) if request.pictures else []),
        *([health_section(runs), settings_section(runs)] if runs else []),
    ]
    return Document(request.title or _title(runs, [*others]), tuple(sections), _lead(runs, [*others]), _foot())


def is_run(name: str) -> bool:
    """Whether a run folder is meant."""
    return not name.startswith(RANDOM) and run_settings(Path(name)) is not None


def _titled(runs: Sequence[RunRecord], subjects: Sequence[Model]) -> tuple[list[RunRecord], dict[str, str]]:
    """The runs, called as in the sections that show all models; and what the other models are called -> as given."""
    titles = titles_of(subjects)
    of_path = {each.path: title for each, title in zip(subjects, titles, strict=True) if each.run is not None}
    others = {title: each.name for each, title in zip(subjects, titles, strict=True) if each.run is None}
    return [replace(run, label=of_path.get(run.path, run.label)) for run in runs], others


def _pictures(subjects: Sequence[Model], request: Request) -> list[Section]:
    """The sections that show images, as far as there are images and results."""
    device, watch = request.measuring.device, request.measuring.watch
    made = [
        embedding.section(subjects, extract=request.measuring.extract),
        attention.section(subjects, device, watch),
        voc.section(subjects, device, watch),
        davis.section(subjects),
    ]
    return [section for section in made if section is not None]


def _parameters(runs: Sequence[RunRecord], subjects: Sequence[Model]) -> dict[str, int]:
    """Of the backbone, by the label of its run."""
    found = {each.path: sum(weight.numel() for weight in each.backbone.parameters()) for each in subjects}
    sizes = {run.label: found.get(run.path) for run in runs}
    return {label: size for label, size in sizes.items() if size is not None}


def _check(request: Request) -> None:
    """Refuse before anything is measured."""
    if not request.models:
        raise UserError("give at least one run folder or model")
    places = [Path(name).resolve() for name in request.models]
    twice = [name for name, place in zip(request.models, places, strict=True) if places.count(place) > 1]
    if twice:
        raise UserError(f"the same model was given twice: {' and '.join(twice)}")
    out = request.out
    if out.is_dir():
        raise UserError(f"{out} is a folder; --out is the file to write, such as {out / 'report.html'}")
    if out.exists() and not request.overwrite:
        raise UserError(f"{out} exists already: name another file with --out, or add --overwrite")
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"{out} cannot be written: {parent} is {'read-only' if parent.is_dir() else 'a file'}")


def _title(runs: Sequence[RunRecord], others: Sequence[str]) -> str:
    names = [*(run.label for run in runs), *others]
    if len(names) == len(runs) == 1:
        return f"{runs[0].label}: {runs[0].method} on {runs[0].architecture.partition(' (')[0]}"
    if len(names) <= _NAMED:
        return listed(names)
    methods, networks = (
        list(dict.fromkeys(found))
        for found in ([run.method for run in runs], [run.architecture.partition(" (")[0] for run in runs])
    )
    kinds = listed(methods) if len(methods) <= _NAMED else f"{len(methods)} methods"
    on = listed(networks) if len(networks) <= _NAMED else f"{len(networks)} networks"
    return f"{len(names)} {'models' if others else 'runs'}" + (f": {kinds} on {on}" if runs and not others else "")


def _lead(runs: Sequence[RunRecord], others: Sequence[str]) -> str:
    """What is reported on, in one line."""
    methods = list(dict.fromkeys(run.method for run in runs))
    parts = [f"{len(runs)} run{'s' * (len(runs) != 1)} of {listed(methods)}"] if runs else []
    parts += [f"{len(others)} other model{'s' * (len(others) != 1)}"] if others else []
    return f"Report on {listed(parts)}, {datetime.now().astimezone():%d %B %Y}"


def _foot() -> str:
    of, now = commit(), datetime.now().astimezone()
    return f"Written by dinoscope {__version__}{f', commit {of}' if of else ''}, on {now:%Y-%m-%d at %H:%M (UTC%z)}."
