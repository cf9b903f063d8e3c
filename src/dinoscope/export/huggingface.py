"""A folder in timm's layout for model hubs, with a model card; `timm.create_model` also reads it from a disk."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dinoscope.data.grey_range import describe
from dinoscope.evaluation.results import kept
from dinoscope.export.formats import WEIGHTS, twin_arguments, write_weights
from dinoscope.features import default_crop_fraction
from dinoscope.files import write_text
from dinoscope.methods import method_name
from dinoscope.model_names import Model
from dinoscope.models.backbone import Backbone
from dinoscope.training.config import RunConfig
from dinoscope.training.run_folder import read_config
from dinoscope.types import Result

CONFIG = "config.json"
CARD = "README.md"
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
"""Rows about weights that are not ours: key of `Model.origin` -> title."""

SPLITS = ("train", "val", "validation", "test")
"""Folders that are named together with their parent."""


def write_huggingface(folder: Path, model: Model) -> list[str]:
    """Write config.json, model.safetensors and README.md; return the line of Python that loads them.

    Nothing is sent anywhere. Raises UserError if timm has no such network or a file of the run is damaged,
    OSError if the folder cannot be written.
    """
    config, card = timm_config(model.backbone), model_card(model)
    write_weights(folder / WEIGHTS, model)
    write_text(folder / CARD, card)
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    return [
        f"net = timm.create_model({f'local-dir:{folder}'!r}, pretrained=True)",
        f"# {CARD} is a model card: fill in the licence; upload with `hf upload OWNER/NAME {folder}` if you wish",
    ]


def timm_config(backbone: Backbone) -> dict[str, Any]:
    """Return timm's config.json: which network, and what its images must be like.

    Raises UserError if timm has no such network.
    """
    import timm

    config, arguments = backbone.config, twin_arguments(backbone.config)
    known = timm.get_pretrained_cfg(arguments["model_name"])
    layers = {} if known is None else {"first_conv": known.first_conv, "classifier": known.classifier}
    transformer = "img_size" in arguments
    return {
        "architecture": arguments["model_name"],
        "num_classes": 0,
        "num_features": backbone.dim,
        "global_pool": "token" if transformer else "avg",
        **({"model_args": {"img_size": config.layout_size}} if transformer else {}),
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, config.layout_size, config.layout_size],
            "fixed_input_size": transformer,
            "interpolation": "bicubic",
            "crop_pct": default_crop_fraction(config.layout_size),
            "crop_mode": "center",
            "mean": list(config.mean),
            "std": list(config.std),
            "num_classes": 0,
            "pool_size": None,
            **layers,
        },
    }


def model_card(model: Model) -> str:
    """Return Markdown with the front matter that model hubs read; figures come from the run's `evaluations/`.

    Raises UserError if one of those files, or the run's config.json, is damaged.
    """
    backbone = model.backbone.config
    config = None if model.run is None else read_config(model.run)
    origin = model.origin or {}
    method = method_name(config.method) if config else str(origin.get("method", ""))
    licence = str(origin.get("licence", ""))
    sections = [
        f"---\nlibrary_name: timm\ntags:\n- image-feature-extraction\n- timm\n- dinoscope\n"
        f"license: {_identifier(licence)}\n---",
        f"# {method} {backbone.name}" if method else f"# {backbone.name}",
        f"Weights of {backbone.name}, written by dinoscope. The model gives features of images; it has no classifier.",
        _training(config, model),
        _figures(model),
        _use(model.backbone),
        "## Licence\n\n"
        + (
            f"{licence}, as those who released the weights say."
            if licence
            else "To fill in, here and in the first lines of this file."
        ),
    ]
    return "\n\n".join(sections) + "\n"


def _identifier(licence: str) -> str:
    # As model hubs write it: in small letters; without a licence, a place to fill it in.
    return licence.lower() or f"other  # {TO_FILL_IN}"


def _training(config: RunConfig | None, model: Model) -> str:
    if config is None:
        size = model.backbone.config.layout_size
        return (
            f"## Training\n\nImage size {size} px. How it was trained is not known: it was exported from a weights "
            "file, not from a run folder." + _origin(model.origin)
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
    known = {what: str(origin[key]) for key, what in ORIGIN.items() if origin.get(key)} if origin else {}
    return "\n\nWhere the weights are from:\n\n" + _table(("what", "as found"), known.items()) if known else ""


def _figures(model: Model) -> str:
    own = model.weights_hash
    rows, others = list[tuple[str, ...]](), list[str]()
    for name, measurement in _kept(model.run):
        if measurement.protocol.get("weights_hash", own) != own:
            others.append(name)
            continue
        on = _measured_on(measurement.protocol)
        rows += [(name, metric.title, f"{metric.value:.4g}", metric.unit, on) for metric in measurement.metrics]
    text = _table(("evaluation", "figure", "value", "unit", "on"), rows) if rows else "Nothing was measured."
    if others:
        text += f"\n\nMeasured of other weights of this run, and left out: {', '.join(others)}."
    return f"## Measured\n\n{text}"


def _kept(run: Path | None) -> Iterator[tuple[str, Result]]:
    if run is None:
        return
    for file in sorted((run / "evaluations").glob("*.json")):
        measurement = kept(run, file.stem)
        if measurement is not None:
            yield file.stem, measurement


def _measured_on(protocol: Mapping[str, Any]) -> str:
    # The images that were classified, or the machine that was timed.
    place = next((protocol[name] for name in ("queries", "val", "gallery", "data") if protocol.get(name)), None)
    if place is None:
        return str(protocol.get("machine", ""))
    count = next((protocol[name] for name in ("query_images", "val_images", "images") if protocol.get(name)), None)
    facts = [f"{count} images"] if count else []
    facts += [f"{protocol['image_size']} px"] if protocol.get("image_size") else []
    return _place(str(place)) + (f" ({', '.join(facts)})" if facts else "")


def _place(folder: str) -> str:
    # The end of a path: enough to recognise the data, nothing of the machine.
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
