"""From run folders and models to one HTML file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
class Written:
    """The file, its size in bytes, and the titles of its sections."""

    path: Path
    size: int
    sections: tuple[str, ...]


def write_report(
    models: Sequence[str | Model],
    out: Path,
    measuring: Measuring | None = None,
    *,
    baselines: bool = False,
    pictures: bool = True,
    title: str = "",
    overwrite: bool = False,
) -> Written:
    """Read, measure what is missing, draw, and write the file whole or not at all.

    Args:
        models: run folders, and other models as `load_models` takes them.
        out: the file.
        measuring: without data, only kept results are shown; with data, missing ones are measured and kept.
        baselines: raw pixels and random weights in the comparison; only if there are data.
        pictures: maps of the features and what the models attend to, which need the images and some time.
        title: above all; by default the models' names.
        overwrite: replace the file.

    Raises UserError if a model is none, was given twice or is damaged, if the data cannot be used, or if the file
    exists or cannot be written.
    """
    measuring = measuring or Measuring()
    _check(models, out, overwrite=overwrite)
    material = _material(models, measuring, baselines=baselines, pictures=pictures)
    sections: list[Section] = []
    for make in SECTIONS:
        made = make(material)
        sections += made if isinstance(made, tuple) else [made] if made is not None else []
    document = Document(title or _title(material), tuple(sections), _lead(material), _foot())
    text = render(document).encode("utf-8")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as partial:
            partial.write_bytes(text)
    except OSError as error:
        raise UserError(f"{out} could not be written: {error}") from error
    return Written(out, len(text), tuple(section.title for section in document.sections))


def _material(models: Sequence[str | Model], measuring: Measuring, *, baselines: bool, pictures: bool) -> Material:
    with measuring.watch("reading runs") as progress:
        progress(0, 1)
        runs = read_runs([Path(name) for name in models if isinstance(name, str) and is_run(name)])
        progress(1, 1)
    # A run that has saved nothing has no model yet; all that it logged is shown nevertheless.
    empty = {str(run.path) for run in runs if run.state == "begun"}
    named = [each for each in models if isinstance(each, Model) or str(Path(each)) not in empty]
    loaded = tuple(load_models(named, measuring.watch)) if named else ()
    missing = measuring
    if measuring.data is None:  # show what is kept
        missing, baselines = replace(measuring, skip=frozenset(EVALUATIONS)), False
    comparison = gathered(loaded, missing, baselines=baselines) if loaded else None
    material = Material(tuple(runs), loaded, comparison, measuring, pictures)
    title_of = {model.run: title for model, title in material.titled if model.run is not None}
    return replace(material, runs=tuple(replace(run, label=title_of.get(run.path, run.label)) for run in runs))


def is_run(name: str) -> bool:
    """Return whether a run folder is meant."""
    return not name.startswith(RANDOM) and run_settings(Path(name)) is not None


def _check(models: Sequence[str | Model], out: Path, *, overwrite: bool) -> None:
    """Refuse before anything is measured."""
    if not models:
        raise UserError("give at least one run folder or model")
    require_different(models)
    if out.is_dir():
        raise UserError(f"{out} is a folder; --out is the file to write, such as {out / 'report.html'}")
    if out.exists() and not overwrite:
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
