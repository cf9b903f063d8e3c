"""A folder in timm's layout for model hubs, with a model card; `timm.create_model` also reads it from a disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template

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
    config = model.backbone.config
    run, origin = None if model.run is None else read_config(model.run), model.origin or {}
    results = [] if model.run is None else _results(model.run)
    own = [each for each in results if each[1].protocol.get("weights_hash", model.weights_hash) == model.weights_hash]
    template = resources.files("dinoscope.export").joinpath("card.md.jinja").read_text(encoding="utf-8")
    return (
        Template(template, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
        .render(
            backbone=config,
            dim=model.backbone.dim,
            method=str(origin.get("method", "")) if run is None else method_name(run.method),
            licence=str(origin.get("licence", "")),
            training=None if run is None else _training(run),
            origin=[(title, str(origin[key])) for key, title in ORIGIN.items() if origin.get(key)],
            figures=[
                (name, metric.title, f"{metric.value:.4g}", metric.unit, _measured_on(result.protocol))
                for name, result in own
                for metric in result.metrics
            ],
            others=[name for name, result in results if (name, result) not in own],
            mean=", ".join(f"{value:g}" for value in config.mean),
            std=", ".join(f"{value:g}" for value in config.std),
            fixed_size="img_size" in twin_arguments(config),
            window="" if config.window is None else describe(config.window),
        )
        .strip()
        + "\n"
    )


def _training(config: RunConfig) -> list[tuple[str, str]]:
    optimizer, views = config.optimizer, config.views
    share = f", {config.fraction:.3g} of them" if config.fraction < 1 else ""
    return [
        ("method", method_name(config.method)),
        ("training images", _place(str(config.data)) + share),
        ("network", config.backbone),
        ("epochs", f"{config.epochs:g}"),
        ("batch size", str(config.batch_size)),
        ("views", f"{views.num_global} of {views.global_size} px, {views.num_local} of {views.local_size} px"),
        ("optimiser", optimizer.name),
        ("peak learning rate", f"{optimizer.peak(config.batch_size):.3g}"),
        ("weight decay", f"{optimizer.weight_decay:g} to {optimizer.final_weight_decay:g}"),
        ("seed", str(config.seed)),
    ]


def _results(run: Path) -> list[tuple[str, Result]]:
    found = [(file.stem, kept(run, file.stem)) for file in sorted((run / "evaluations").glob("*.json"))]
    return [(name, result) for name, result in found if result is not None]


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
