"""From run folders and models to one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from dinoscope import __version__
from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation.compare import Measuring
from dinoscope.files import claim_file, replacing
from dinoscope.model_names import RANDOM, Model, load_models, run_settings
from dinoscope.report.comparison import gathered, require_different
from dinoscope.report.page import Document, Section, render
from dinoscope.report.runs import Material, read_runs
from dinoscope.report.sections import SECTIONS
from dinoscope.system import commit
from dinoscope.text import listed, printable

MAX_NAMES = 3
"""Models up to which the title names them all."""


@dataclass(frozen=True)
class Written:
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
    if not models:
        raise UserError("give at least one run folder or model")
    require_different(models)
    claim_file(out, overwrite=overwrite)
    material = _material(models, measuring, baselines=baselines, pictures=pictures)
    sections: list[Section] = []
    for make in SECTIONS:
        made = make(material)
        sections += made if isinstance(made, tuple) else [made] if made is not None else []
    now, source = datetime.now().astimezone(), commit()
    version = f"{__version__}, commit {source}" if source else __version__
    foot = f"Written by dinoscope {version}, on {now:%Y-%m-%d at %H:%M (UTC%z)}."
    own_title, lead = _title_and_lead(material)
    text = render(Document(title or own_title, tuple(sections), f"{lead}, {now:%d %B %Y}", foot)).encode("utf-8")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as partial:
            partial.write_bytes(text)
    except OSError as error:
        raise UserError(f"{out} could not be written: {error}") from error
    return Written(out, len(text), tuple(section.title for section in sections))


def _material(models: Sequence[str | Model], measuring: Measuring, *, baselines: bool, pictures: bool) -> Material:
    def is_run(name: str) -> bool:
        return not name.startswith(RANDOM) and run_settings(Path(name)) is not None

    with measuring.watch("reading runs") as progress:
        progress(0, 1)
        runs = read_runs([Path(name) for name in models if isinstance(name, str) and is_run(name)])
        progress(1, 1)
    # A run that has saved nothing has no model yet; all that it logged is shown nevertheless.
    empty = {str(run.path) for run in runs if run.state == "begun"}
    named = [model for model in models if isinstance(model, Model) or str(Path(model)) not in empty]
    loaded = load_models(named, measuring.watch) if named else []
    missing = measuring
    if measuring.data is None:  # show what is kept
        missing, baselines = replace(measuring, skip=frozenset(EVALUATIONS)), False
    comparison = gathered(loaded, missing, baselines=baselines) if loaded else None
    shown = tuple(replace(model, label=printable(model.label)) for model in loaded)
    labels = {model.run: model.label for model in shown if model.run is not None}
    labelled = tuple(replace(run, label=labels.get(run.path, run.label)) for run in runs)
    return Material(labelled, shown, comparison, measuring, pictures)


def _title_and_lead(material: Material) -> tuple[str, str]:
    """The subject of the report: as a title, which names at most `MAX_NAMES` models, and in one line."""
    runs, others = material.runs, material.others
    names = [*(run.label for run in runs), *others]
    methods = listed(list(dict.fromkeys(run.method for run in runs)))
    networks = listed(list(dict.fromkeys(run.network for run in runs)))
    parts = [f"{len(runs)} run{'s' * (len(runs) != 1)} of {methods}"] if runs else []
    parts += [f"{len(others)} other model{'s' * (len(others) != 1)}"] if others else []
    title = listed(names)
    if len(names) == len(runs) == 1:
        title = f"{title}: {methods} on {networks}"
    if len(names) > MAX_NAMES:
        title = f"{len(names)} models" if others else f"{len(runs)} runs: {methods} on {networks}"
    return title, f"Report on {listed(parts)}"
