"""The README of an exported model: what it is, how it was trained, what was measured of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dinoscope import checkpoint
from dinoscope.data.grey_range import describe
from dinoscope.evaluation.results import kept
from dinoscope.exporting.subject import Subject
from dinoscope.exporting.timm_model import twin_arguments
from dinoscope.methods import method_name
from dinoscope.models.backbone import Backbone
from dinoscope.training.config import RunConfig
from dinoscope.training.run_folder import CONFIG, read_config
from dinoscope.types import Result

TO_FILL_IN = "to fill in: the licence of these weights"

ORIGIN = {
    "name": "name",
    "method": "method",
    "layout": "kind of file",
    "part": "part of the file",
    "file": "file",
    "url": "released at",
    "note": "note",
}
"""What is said of weights that are not ours: key of `Model.origin` -> what it is called."""

SPLITS = ("train", "val", "validation", "test")
"""Folders that are named together with the one above them."""


def model_card(subject: Subject) -> str:
    """Markdown with the front matter that model hubs read; figures come from the run's `evaluations/`.

    Raises UserError where one of those files, or the run's config.json, is damaged.
    """
    backbone = subject.backbone.config
    config = read_config(subject.path) if (subject.path / CONFIG).is_file() else None
    origin = subject.origin or {}
    method = method_name(config.method) if config else str(origin.get("method", ""))
    licence = str(origin.get("licence", ""))
    sections = [
        f"---\nlibrary_name: timm\ntags:\n- image-feature-extraction\n- timm\n- dinoscope\n"
        f"license: {_identifier(licence)}\n---",
        f"# {method} {backbone.name}" if method else f"# {backbone.name}",
        f"Weights of {backbone.name}, written by dinoscope. The model gives features of images; it has no classifier.",
        _training(config, subject),
        _figures(subject),
        _use(subject.backbone),
        "## Licence\n\n"
        + (
            f"{licence}, as those who released the weights say."
            if licence
            else "To fill in, here and in the first lines of this file."
        ),
    ]
    return "\n\n".join(sections) + "\n"


def _identifier(licence: str) -> str:
    """The licence as model hubs write it: in small letters; of weights without one, a place to fill it in."""
    return licence.lower() or f"other  # {TO_FILL_IN}"


def _training(config: RunConfig | None, subject: Subject) -> str:
    if config is None:
        size = subject.backbone.config.layout_size
        return (
            f"## Training\n\nImage size {size} px. How it was trained is not known: it was exported from a weights "
            "file, not from a run folder." + _origin(subject.origin)
        )
    optimizer, views = config.optimizer, config.views
    rows = {
        "method": method_name(config.method),
        "training images": _place(str(config.data))
        + (f", {config.fraction:.3g} of them" if config.fraction < 1 else ""),
        "network": config.backbone,
        "epochs": f"{config.epochs:g}",
        "batch size": str(config.batch_size),
        "views": f"{views.num_global} of {views.global_size} px, {views.num_local} of {views.local_size} px",
        "optimiser": optimizer.name,
        "peak learning rate": f"{optimizer.peak(config.batch_size):.3g}",
        "weight decay": f"{optimizer.weight_decay:g} to {optimizer.final_weight_decay:g}",
        "seed": str(config.seed),
    }
    return "## Training\n\n" + _table(("setting", "value"), rows.items())


def _origin(origin: Mapping[str, Any] | None) -> str:
    """A table of whose weights they are, as far as that is known."""
    known = {what: str(origin[key]) for key, what in ORIGIN.items() if origin.get(key)} if origin else {}
    return "\n\nWhere the weights are from:\n\n" + _table(("what", "as found"), known.items()) if known else ""


def _figures(subject: Subject) -> str:
    """A table of everything that was measured of these very weights."""
    own = checkpoint.weights_hash(subject.backbone)
    rows, others = list[tuple[str, ...]](), list[str]()
    for name, measurement in _kept(subject.path):
        if measurement.protocol.get("weights_hash", own) != own:
            others.append(name)
            continue
        on = _measured_on(measurement.protocol)
        rows += [(name, metric.title, f"{metric.value:.4g}", metric.unit, on) for metric in measurement.metrics]
    text = _table(("evaluation", "figure", "value", "unit", "on"), rows) if rows else "Nothing was measured."
    if others:
        text += f"\n\nMeasured of other weights of this run, and left out: {', '.join(others)}."
    return f"## Measured\n\n{text}"


def _kept(run: Path) -> Iterator[tuple[str, Result]]:
    for file in sorted((run / "evaluations").glob("*.json")):
        measurement = kept(run, file.stem)
        if measurement is not None:
            yield file.stem, measurement


def _measured_on(protocol: Mapping[str, Any]) -> str:
    """The images that were classified, or the machine that was timed."""
    place = next((protocol[name] for name in ("queries", "val", "gallery", "data") if protocol.get(name)), None)
    if place is None:
        return str(protocol.get("machine", ""))
    count = next((protocol[name] for name in ("query_images", "val_images", "images") if protocol.get(name)), None)
    facts = [f"{count} images"] if count else []
    facts += [f"{protocol['image_size']} px"] if protocol.get("image_size") else []
    return _place(str(place)) + (f" ({', '.join(facts)})" if facts else "")


def _place(folder: str) -> str:
    """The end of a path: enough to know the data by, nothing of the machine."""
    path = Path(folder)
    return f"{path.parent.name}/{path.name}" if path.name in SPLITS else path.name


def _use(backbone: Backbone) -> str:
    config = backbone.config
    fixed = "img_size" in twin_arguments(config)
    size = f" Images of {config.layout_size} x {config.layout_size} px." if fixed else ""
    window = "" if config.window is None else f" Images of more than 8 bits: values from {describe(config.window)}."
    return (
        "## Use\n\n```python\nimport timm\n\n"
        'net = timm.create_model("local-dir:FOLDER", pretrained=True).eval()   # on a hub: "hf-hub:OWNER/NAME"\n'
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net))\n"
        f"feature = net(transform(image)[None])   # [1, {backbone.dim}]\n```\n\n"
        f"RGB, normalised with mean {_triple(config.mean)} and standard deviation {_triple(config.std)}.{size}{window}"
    )


def _triple(values: tuple[float, float, float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *(tuple(row) for row in rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', ' ') for cell in line)} |" for line in lines)
