"""From run folders and models to one HTML file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from dinoscope import __version__
from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation.compare import Measuring
from dinoscope.files import replacing
from dinoscope.model_names import RANDOM, Model, load_models, run_settings
from dinoscope.report.comparison import gathered, require_different
from dinoscope.report.page import Document, Section, render
from dinoscope.report.runs import Material, read_runs
from dinoscope.report.sections import SECTIONS
from dinoscope.system import commit
from dinoscope.text import listed

MAX_NAMES = 3
"""Models up to which the title names them all."""


@dataclass(frozen=True)
class Request:
    """What the report is about.

    models: run folders, and other models as `load_models` takes them.
    out: the file.
    measuring: without data, only kept results are shown; with data, missing ones are measured and kept.
    baselines: raw pixels and random weights in the comparison; only if there are data.
    pictures: maps of the features and what the models attend to, which need the images and some time.
    title: above all; by default the models' names.
    """

    models: tuple[str | Model, ...]
    out: Path
    measuring: Measuring = field(default_factory=Measuring)
    baselines: bool = False
    pictures: bool = True
    title: str = ""
    overwrite: bool = False


@dataclass(frozen=True)
class Written:
    """The file, its size in bytes, and the titles of its sections."""

    path: Path
    size: int
    sections: tuple[str, ...]


def write_report(request: Request) -> Written:
    """Read, measure what is missing, draw, and write the file whole or not at all.

    Raises UserError if a model is none, was given twice or is damaged, if the data cannot be used, or if the file
    exists or cannot be written.
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
    """Return the report as a document. Raises UserError as `write_report` does, except for the file."""
    material = _material(request)
    sections: list[Section] = []
    for make in SECTIONS:
        made = make(material)
        sections += made if isinstance(made, tuple) else [made] if made is not None else []
    return Document(request.title or _title(material), tuple(sections), _lead(material), _foot())


def _material(request: Request) -> Material:
    watch = request.measuring.watch
    names = [name for name in request.models if isinstance(name, str) and is_run(name)]
    with watch("reading runs") as progress:
        progress(0, 1)
        runs = read_runs([Path(name) for name in names])
        progress(1, 1)
    # A run that has saved nothing has no model yet; all that it logged is shown nevertheless.
    empty = {str(run.path) for run in runs if run.state == "begun"}
    named = [each for each in request.models if isinstance(each, Model) or str(Path(each)) not in empty]
    models = tuple(load_models(named, watch)) if named else ()
    measuring, baselines = request.measuring, request.baselines
    if measuring.data is None:  # show what is kept
        measuring, baselines = replace(measuring, skip=frozenset(EVALUATIONS)), False
    comparison = gathered(models, measuring, baselines=baselines) if models else None
    material = Material(tuple(runs), models, comparison, request.measuring, request.pictures)
    title_of = {model.run: title for model, title in material.titled if model.run is not None}
    return replace(material, runs=tuple(replace(run, label=title_of.get(run.path, run.label)) for run in runs))


def is_run(name: str) -> bool:
    """Return whether a run folder is meant."""
    return not name.startswith(RANDOM) and run_settings(Path(name)) is not None


def _check(request: Request) -> None:
    """Refuse before anything is measured."""
    if not request.models:
        raise UserError("give at least one run folder or model")
    require_different(request.models)
    out = request.out
    if out.is_dir():
        raise UserError(f"{out} is a folder; --out is the file to write, such as {out / 'report.html'}")
    if out.exists() and not request.overwrite:
        raise UserError(f"{out} exists already: name another file with --out, or add --overwrite")
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"{out} cannot be written: {parent} is {'read-only' if parent.is_dir() else 'a file'}")


def _title(material: Material) -> str:
    runs, others = material.runs, material.others
    names = [*(run.label for run in runs), *others]
    if len(names) == len(runs) == 1:
        return f"{runs[0].label}: {runs[0].method} on {runs[0].network}"
    if len(names) <= MAX_NAMES:
        return listed(names)
    methods, networks = _distinct([run.method for run in runs]), _distinct([run.network for run in runs])
    kinds = listed(methods) if len(methods) <= MAX_NAMES else f"{len(methods)} methods"
    on = listed(networks) if len(networks) <= MAX_NAMES else f"{len(networks)} networks"
    return f"{len(names)} {'models' if others else 'runs'}" + (f": {kinds} on {on}" if runs and not others else "")


def _lead(material: Material) -> str:
    """The subject of the report, in one line."""
    runs, others = material.runs, material.others
    methods = listed(_distinct([run.method for run in runs]))
    parts = [f"{len(runs)} run{'s' * (len(runs) != 1)} of {methods}"] if runs else []
    parts += [f"{len(others)} other model{'s' * (len(others) != 1)}"] if others else []
    return f"Report on {listed(parts)}, {datetime.now().astimezone():%d %B %Y}"


def _distinct(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _foot() -> str:
    of, now = commit(), datetime.now().astimezone()
    return f"Written by dinoscope {__version__}{f', commit {of}' if of else ''}, on {now:%Y-%m-%d at %H:%M (UTC%z)}."
