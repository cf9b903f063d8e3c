"""Formats that hold a state dict: dinoscope's own, timm's, and timm's folder for model hubs, with a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template

from dinoscope import __version__, checkpoint
from dinoscope.config import to_dict
from dinoscope.data.grey_range import describe
from dinoscope.errors import UserError
from dinoscope.evaluation.results import kept
from dinoscope.features import default_crop_fraction
from dinoscope.files import write_text
from dinoscope.methods import method_name
from dinoscope.model_names import Model
from dinoscope.models.backbone import TIMM, Backbone, BackboneConfig, is_network, network, without_drop_path
from dinoscope.places import parse_place
from dinoscope.training.config import RunConfig
from dinoscope.training.run_folder import read_config

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
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


def description(model: Model) -> dict[str, Any]:
    """Return how to build the network again, how to normalise its images, and where its weights are from."""
    origin = {} if model.origin is None else {"origin": dict(model.origin)}
    return {"version": __version__, "backbone": to_dict(without_drop_path(model.backbone.config)), **origin}


def write_safetensors(folder: Path, model: Model) -> list[str]:
    """Write `backbone.safetensors` and `backbone.json`; return the lines of Python that load them.

    Raises UserError for a network that cannot be built by its name, OSError if the folder cannot be written.
    """
    config = model.backbone.config
    if not is_network(config.name):
        raise UserError(f"{config.name} is a module of yours, which dinoscope cannot build again: save it with torch")
    checkpoint.export_backbone(folder, model.backbone, model.origin)
    lines = [f"dinoscope.load({str(folder)!r})"]
    return lines + (_timm_lines(config, folder / checkpoint.BACKBONE_WEIGHTS) if timm_arguments(config) else [])


# timm


def timm_arguments(config: BackboneConfig) -> dict[str, Any] | None:
    """Return keyword arguments for `timm.create_model` that build this network there, or None if timm has none.

    The network gives the same features there at the size that its position embeddings are laid out for; to others
    timm resizes them in another way than DINO does.
    """
    import timm

    name = config.name.removeprefix(TIMM)
    if not timm.is_model(name):
        return None
    shape = network(config.name)
    size: dict[str, Any] = {"img_size": config.layout_size} if shape.transformer else {}
    if config.channels != 3:
        size["in_chans"] = config.channels
    # a family may need more to give the same feature there
    return {"model_name": name, "num_classes": 0, **size, **getattr(shape, "timm_arguments", {})}


def _required_arguments(config: BackboneConfig) -> dict[str, Any]:
    """`timm_arguments`. Raises UserError if timm has no such network."""
    arguments = timm_arguments(config)
    if arguments is None:
        raise UserError(
            f"timm has no network {config.name}: it is dinoscope's alone. Export it with --format safetensors (loads "
            "here), onnx or torch-export (load without dinoscope)"
        )
    return arguments


def _timm_lines(config: BackboneConfig, file: Path) -> list[str]:
    arguments = ", ".join(f"{name}={value!r}" for name, value in _required_arguments(config).items())
    load = f"net.load_state_dict(safetensors.torch.load_file({str(file)!r}))"
    return [f"net = timm.create_model({arguments})", load]


def write_timm(folder: Path, model: Model) -> list[str]:
    """Write `model.safetensors`, which `timm.create_model` loads strictly; return the lines of Python that load it.

    `dinoscope.load` reads it too. Raises UserError if timm has no such network, OSError if the folder cannot be
    written.
    """
    lines = _timm_lines(model.backbone.config, folder / WEIGHTS)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.save(folder / WEIGHTS, model.backbone.net.state_dict(), description(model))
    return lines


# Model hubs: https://huggingface.co/docs/timm/hf_hub; `timm.create_model` also reads the folder from a disk


def write_huggingface(folder: Path, model: Model) -> list[str]:
    """Write config.json, model.safetensors and README.md; return the line of Python that loads them.

    Nothing is sent anywhere. Raises UserError if timm has no such network or a file of the run is damaged,
    OSError if the folder cannot be written.
    """
    config, card = timm_config(model.backbone), model_card(model)
    write_timm(folder, model)
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

    config, arguments = backbone.config, _required_arguments(backbone.config)
    known = timm.get_pretrained_cfg(arguments["model_name"])
    layers = {} if known is None else {"first_conv": known.first_conv, "classifier": known.classifier}
    transformer = "img_size" in arguments
    sizes = {name: arguments[name] for name in ("img_size", "in_chans") if name in arguments}
    return {
        "architecture": arguments["model_name"],
        "num_classes": 0,
        "num_features": backbone.dim,
        "global_pool": arguments.get("global_pool", "token" if transformer else "avg"),
        **({"model_args": sizes} if sizes else {}),
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [config.channels, config.layout_size, config.layout_size],
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
    config, origin = model.backbone.config, model.origin or {}
    run = None if model.run is None else read_config(model.run)
    files = [] if model.run is None else sorted((model.run / "evaluations").glob("*.json"))
    figures: list[tuple[str, ...]] = []
    others: list[str] = []
    for file in files:
        result = kept(file.parent.parent, file.stem)
        assert result is not None
        if result.protocol.get("weights_hash", model.weights_hash) == model.weights_hash:
            place = _measured_on(result.protocol)
            figures += [(file.stem, each.title, f"{each.value:.4g}", each.unit, place) for each in result.metrics]
        else:
            others.append(file.stem)
    text = resources.files("dinoscope.export").joinpath("card.md.jinja").read_text(encoding="utf-8")
    card = Template(text, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined).render(
        backbone=config,
        dim=model.backbone.dim,
        method=str(origin.get("method", "")) if run is None else method_name(run.method),
        licence=str(origin.get("licence", "")),
        training=None if run is None else _training(run),
        origin=[(title, str(origin[key])) for key, title in ORIGIN.items() if origin.get(key)],
        figures=figures,
        others=others,
        mean=", ".join(f"{value:g}" for value in config.mean),
        std=", ".join(f"{value:g}" for value in config.std),
        fixed_size="img_size" in _required_arguments(config),
        window="" if config.window is None else describe(config.window),
        slices=config.slices,
    )
    return card.strip() + "\n"


def _training(config: RunConfig) -> list[tuple[str, str]]:
    optimizer, views = config.optimizer, config.views
    share = f", {config.fraction:.3g} of them" if config.fraction < 1 else ""
    return [
        ("method", method_name(config.method)),
        ("training images", _place(config.data) + share),
        ("network", config.backbone),
        ("epochs", f"{config.epochs:g}"),
        ("batch size", str(config.batch_size)),
        ("views", f"{views.num_global} of {views.global_size} px, {views.num_local} of {views.local_size} px"),
        ("optimiser", optimizer.name),
        ("peak learning rate", f"{optimizer.peak(config.batch_size):.3g}"),
        ("weight decay", f"{optimizer.weight_decay:g} to {optimizer.final_weight_decay:g}"),
        ("seed", str(config.seed)),
    ]


def _measured_on(protocol: Mapping[str, Any]) -> str:
    """The images that were classified, or the machine that was timed."""
    place = next((protocol[name] for name in ("queries", "val", "gallery", "data") if protocol.get(name)), None)
    if place is None:
        return str(protocol.get("machine", ""))
    count = next((protocol[name] for name in ("query_images", "val_images", "images") if protocol.get(name)), None)
    facts = [f"{count} images"] if count else []
    facts += [f"{protocol['image_size']} px"] if protocol.get("image_size") else []
    return _place(parse_place(str(place))) + (f" ({', '.join(facts)})" if facts else "")


def _place(folder: Path) -> str:
    """The end of a path: enough to recognise the data, nothing of the machine."""
    return f"{folder.parent.name}/{folder.name}" if folder.name in SPLITS else folder.name
