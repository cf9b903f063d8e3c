"""From run folders and models to one HTML file."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from dinoscope import __version__
from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation.base import DEFAULT_CONTEXT, Context, inherited
from dinoscope.evaluation.compare import Entry, Wanted, check, compare, gather
from dinoscope.files import claim_file, replacing
from dinoscope.model_names import Model, is_run, load_models, with_runs_inside
from dinoscope.report.comparison import require_different
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
    models: Sequence[str | Path | Model],
    out: Path,
    data: Path | None = None,
    wanted: Wanted | None = None,
    *,
    skip: Collection[str] = (),
    context: Context = DEFAULT_CONTEXT,
    baselines: bool = False,
    entries: Sequence[Entry] = (),
    pictures: bool = True,
    title: str = "",
    overwrite: bool = False,
) -> Written:
    """Read, measure what is missing, draw, and write the file whole or not at all.

    Args:
        models: run folders, or a folder of several, and other models as `load_models` takes them.
        out: the file.
        data: labelled images on which what is missing is measured and kept; None shows kept results alone.
        wanted, skip, context: as of `evaluation.compare.gather`.
        baselines: raw pixels, whitened patches and random weights in the comparison; only if there are data.
        entries: further rows of the comparison, which were measured already.
        pictures: maps of the features and what the models attend to, which need the images and some time.
        title: above all; by default the models' names.
        overwrite: replace the file.

    Raises UserError if a model is none, was given twice or is damaged, if the data cannot be used, or if the file
    exists or cannot be written.
    """
    if not models:
        raise UserError("give at least one run folder or model")
    models = with_runs_inside(models)
    require_different(models)
    claim_file(out, overwrite=overwrite)
    if data is not None:
        check(data, wanted, skip, context)
    with context.watch("reading runs") as progress:
        progress(0, 1)
        runs = read_runs([Path(name) for name in models if not isinstance(name, Model) and is_run(Path(name))])
        progress(1, 1)
    # A run that has saved nothing has no model yet; all that it logged is shown nevertheless.
    empty = {str(run.path) for run in runs if run.state == "begun"}
    named = [each for each in models if isinstance(each, Model) or str(Path(each)) not in empty]
    loaded = load_models(named, context.watch) if named else []
    given, context = context, inherited(context, loaded, data, say=False)
    loaded = [context.fitted(model, data) for model in loaded]
    comparison = None
    if loaded and data is None:  # show what is kept
        comparison = gather(loaded, None, wanted, skip=EVALUATIONS, context=context)
    elif loaded:
        comparison = gather(loaded, data, wanted, skip=skip, context=given, baselines=baselines)
    if comparison is not None and entries:
        own = (entry for row in comparison.rows for entry in row.entries)
        comparison = compare([*own, *entries], comparison.evaluations)
    shown = tuple(replace(model, label=printable(model.label)) for model in loaded)
    labels = {model.run: model.label for model in shown if model.run is not None}
    labelled = tuple(replace(run, label=labels.get(run.path, run.label)) for run in runs)
    material = Material(labelled, shown, comparison, context, pictures)
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


def _title_and_lead(material: Material) -> tuple[str, str]:
    """The subject of the report: as a title, which names at most `MAX_NAMES` models, and in one line."""
    runs, others = material.runs, material.others
    names = [*(run.label for run in runs), *others]
    methods = list(dict.fromkeys(run.method for run in runs))
    networks = list(dict.fromkeys(run.network for run in runs))
    parts = [f"{len(runs)} run{'s' * (len(runs) != 1)} of {listed(methods)}"] if runs else []
    parts += [f"{len(others)} other model{'s' * (len(others) != 1)}"] if others else []
    title = listed(names)
    if len(names) == len(runs) == 1:
        title = f"{title}: {methods[0]} on {networks[0]}"
    if len(names) > MAX_NAMES:
        kinds = [
            listed(own) if len(own) <= MAX_NAMES else f"{len(own)} {what}"
            for own, what in ((methods, "methods"), (networks, "networks"))
        ]
        title = f"{len(names)} models" if others else f"{len(runs)} runs: {' on '.join(kinds)}"
    return title, f"Report on {listed(parts)}"
