"""Whatever can be measured beside others: runs, exported models, files and released weights by name, random weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dinoscope import checkpoint
from dinoscope.evaluation.results import cached_home
from dinoscope.features import weights_hash
from dinoscope.methods import shown_name
from dinoscope.model_names import RANDOM, NamedModel, Watch, load_model, say_once
from dinoscope.models.backbone import Backbone
from dinoscope.study.compare import METHOD_NAMES
from dinoscope.training.config import RunConfig
from dinoscope.training.run_folder import CONFIG, read_config

NOT_TRAINED_HERE = "weights of others, or without their run: how they were trained is not compared"
"""The note on a row whose training settings are not known."""


@dataclass(frozen=True)
class Subject:
    """A model to be measured: its weights, and what it is called.

    path: run folder, exported folder or weights file; None for random weights.
    name: as it was given, and unique.
    method: a key of `METHOD_NAMES`, or another name.
    home: where its measurements are kept, in evaluations/; None keeps none.
    config: of its training; None where there is no run folder.
    remarks: what must be known of it.
    """

    path: Path | None
    name: str
    method: str
    backbone: Backbone
    weights: str
    home: Path | None = None
    config: RunConfig | None = None
    remarks: tuple[str, ...] = ()

    @property
    def model(self) -> NamedModel:
        """As a measurement takes it."""
        return NamedModel(self.name, self.name, self.backbone, self.path)


def subject(name: str, watch: Watch = say_once) -> Subject:
    """What a person named: a run folder with all that it knows of its training, else a model as `load_model` takes it.

    watch: sees the progress of what must be fetched.

    Raises UserError as `run_subject` and `load_model` do.
    """
    if not name.startswith(RANDOM) and (Path(name) / CONFIG).is_file():
        return run_subject(Path(name))
    return model_subject(load_model(name, watch))


def run_subject(run: Path) -> Subject:
    """The model of a run folder. Raises UserError where it is none, or has no weights yet."""
    config, backbone = read_config(run), checkpoint.load_backbone(run)
    return Subject(run, str(run), shown_name(config.method), backbone, weights_hash(backbone), run, config)


def model_subject(model: NamedModel) -> Subject:
    """A model without a run folder; its measurements are kept in the cache, under the hash of its weights."""
    weights = weights_hash(model.backbone)
    home = cached_home(weights)
    if model.path is None:
        return Subject(None, model.name, "random", model.backbone, weights, home)
    said = (model.origin or {}).get("method", "")
    return Subject(
        model.path, model.name, _key(said) or model.label, model.backbone, weights, home, remarks=(NOT_TRAINED_HERE,)
    )


def _key(method: str) -> str:
    """The key in `METHOD_NAMES` of a method as the field writes it, else the same words."""
    keys = {shown.casefold(): key for key, shown in METHOD_NAMES.items()}
    return keys.get(method.casefold(), method)
