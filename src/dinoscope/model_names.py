"""The models that a person can name: runs, exports, files, released and random weights, baselines without a network."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dinoscope import checkpoint
from dinoscope.config import from_dict
from dinoscope.errors import UserError
from dinoscope.features import Watch
from dinoscope.files import OFFLINE_VARIABLE, RUN_SETTINGS, cache_folder, is_offline, safe_name, unique_names
from dinoscope.methods import DISPLAY, shown_name
from dinoscope.methods.method import MethodConfig
from dinoscope.models import backbone as backbones
from dinoscope.models.backbone import BACKBONES, TIMM, Backbone, BackboneConfig, build_baseline
from dinoscope.models.baselines import BASELINES
from dinoscope.models.foreign import pretrained_timm, timm_config
from dinoscope.models.network import IMAGENET_MEAN, IMAGENET_STD
from dinoscope.models.pretrained import CATALOGUE, Choices, Release, fetch, import_file, is_cached
from dinoscope.naming import RANDOM, SHIPPED, UNTRAINED, unknown_model, unknown_network
from dinoscope.types import Tokens

SHIPPED_RELEASE = Release(
    "vit_micro_conv8",
    "DINO",
    "the drawn scenes",
    "Apache-2.0",
    url="",
    source="dinoscope, shipped_model/card.json",
    note="18 minutes on one core; its figures on the scenes are in card.json",
)
NO_NETWORK = tuple(BASELINES)
"""Names and methods of baselines without a network."""
SEED = 0
"""Seed of random weights."""
NOT_TRAINED_HERE = "weights of others, or without their run: how they were trained is not compared"

_log = logging.getLogger("dinoscope")


@dataclass(frozen=True)
class Model:
    """A model in evaluation mode, on the CPU, and where it is from.

    name: as the person gave it. label: short and, within one table, unique.
    path: run folder, exported folder or weights file; None for random weights.
    origin: whose weights they are and what was found in their file, if they are not ours.
    method: a key of `methods.DISPLAY`, "random", a key of `BASELINES`, or the method's name as its source writes it.
    run: the run folder, if the model is one. settings: of its training, as plain values (`RunConfig`).
    keeps_results: False for a baseline whose results are not kept.
    remarks: what a reader of its results must know.
    is_named: the name is of released weights or of the shipped model: no path that a person gave.
    """

    name: str
    label: str
    backbone: Backbone
    path: Path | None = None
    origin: Mapping[str, Any] | None = None
    method: str = ""
    run: Path | None = None
    settings: Mapping[str, Any] | None = None
    keeps_results: bool = True
    remarks: tuple[str, ...] = ()
    is_named: bool = False

    def __call__(self, images: Float[Tensor, "b c h w"]) -> Tokens:
        """Return the tokens of normalised images: `model(model.normalize(images))`."""
        return self.backbone(images)

    @property
    def normalize(self) -> Callable[[Tensor], Tensor]:
        """Return what makes uint8 images [b, c, h, w] the network's inputs (`Backbone.normalize`)."""
        return self.backbone.normalize

    @property
    def net(self) -> nn.Module:
        """Return the network within the backbone."""
        return self.backbone.get_submodule("net")

    @property
    def weights(self) -> str:
        """Return where the weights are, for a protocol: their file, or the name of random, released or shipped ones."""
        return self.name if self.path is None or self.is_named else str(checkpoint.find_weights(self.path))

    @functools.cached_property
    def weights_hash(self) -> str:
        """Return `checkpoint.weights_hash` of the backbone."""
        return checkpoint.weights_hash(self.backbone)

    @functools.cached_property
    def home(self) -> Path | None:
        """Return the folder whose evaluations/ keeps the results: the run, else one in the cache for these weights.

        So nothing is written next to files of others, and one model under two names is measured once. None if nothing
        is kept, as of a baseline that has not been fitted.
        """
        if not self.keeps_results or self.backbone.fit is not None:
            return None
        return cache_folder("measurements") / self.weights_hash if self.run is None else self.run


@contextlib.contextmanager
def say_once(what: str) -> Iterator[Callable[[int, int], None]]:
    """Log one line instead of progress: a download is never silent."""
    _log.warning("%s", what)
    yield lambda _, __: None


def unwatched(_: str) -> AbstractContextManager[Callable[[int, int], None]]:
    """Report no progress."""
    return contextlib.nullcontext(lambda _, __: None)


def load_models(names: Sequence[str | Path | Model], watch: Watch = say_once) -> list[Model]:
    """Load every model that is not loaded yet; labels that would be the same are told apart as in `distinct`.

    "random" is the network of the first other model, untrained. A folder of runs is the runs in it that have weights.
    watch: sees the progress of what must be fetched.

    Raises UserError if none is named, and as `load_model` and `with_runs_inside` do.
    """
    if not names:
        raise UserError("no model: give --model RUN")
    expanded = with_runs_inside(names)
    given = {str(name) for name in names}
    names = [name for name in expanded if str(name) in given or _has_weights(Path(str(name)))]
    if not names:
        raise UserError(f"no run in {', '.join(map(str, given))} has saved weights yet")
    models = [None if _is_untrained(name) else _loaded(name, watch) for name in names]
    if None in models:
        configs = [model.backbone.config for model in models if model is not None and model.method not in NO_NETWORK]
        if not configs:
            raise UserError(f"{UNTRAINED}: name another model, whose network is meant, or {RANDOM}NETWORK")
        untrained = Model(UNTRAINED, f"random {configs[0].name}", random_backbone(configs[0]), method="random")
        models = [model or untrained for model in models]
    found = [model for model in models if model is not None]
    labels = distinct([(model.label, model.path) for model in found])
    return [replace(model, label=label) for model, label in zip(found, labels, strict=True)]


def folder_names(labels: Sequence[str]) -> list[str]:
    """Return names of folders for labels that may hold anything; equal ones are numbered."""
    return unique_names([safe_name(label, "model") for label in labels])


def load_model(name: str, watch: Watch = say_once) -> Model:
    """Load one model. A path that exists is taken as a path.

    name: a path as `checkpoint.load_backbone` or `import_file` takes it; a name in `CATALOGUE`, fetched on first use;
        "shipped"; a key of `BASELINES` (no network: "pixels", the image as its feature; others are fitted to training
        images by `evaluation.base.fitted`); `timm:NAME` with timm's weights, fetched by timm;
        `random:NETWORK` or `random:MODEL`.

    Raises UserError if there is no such network or model, the path holds none, or it cannot be fetched.
    """
    if name.startswith(RANDOM):
        backbone = random_backbone(_config(name.removeprefix(RANDOM)))
        return Model(name, f"random {backbone.config.name}", backbone, method="random")
    path = Path(name)
    if not path.exists():
        if name == SHIPPED:
            return replace(load_model(str(shipped_model())), name=name, label=name, is_named=True)
        if name in BASELINES:
            title, build = BASELINES[name]
            return Model(name, title, build().eval(), method=name)
        if name.startswith(TIMM):
            return _of_timm(name, watch)
        if name in CATALOGUE:
            return _released(name, watch)
        raise UserError(unknown_model(name, CATALOGUE))
    file = checkpoint.find_weights(path)
    if _is_foreign(file):
        backbone, found = import_file(file)
        if found.note:
            _log.warning("%s: %s", file, found.note)
        return _without_run(Model(name, short_name(path), backbone, file, found.provenance()))
    backbone = checkpoint.load_backbone(file)
    settings = run_settings(path)
    if settings is None:
        origin = checkpoint.read_metadata(file).get("origin")
        return _without_run(Model(name, short_name(path), backbone, path, origin))
    method = _trained_method(settings.get("method"))
    return Model(name, short_name(path), backbone, path, method=method, run=path, settings=settings)


def with_runs_inside(names: Sequence[str | Path | Model]) -> list[str | Path | Model]:
    """Return the names with each folder that is neither run nor model replaced by the runs in it.

    Raises UserError if there is none.
    """
    expanded: list[str | Path | Model] = []
    for name in names:
        folder = None if isinstance(name, Model) or str(name).startswith(RANDOM) else Path(name)
        if folder is None or not folder.is_dir() or is_run(folder) or _has_weights(folder):
            expanded.append(name)
            continue
        runs = runs_inside(folder)
        if not runs:
            raise UserError(
                f"{folder} is no run or model, and no folder in it is a run: name a run folder (train --out)"
            )
        expanded += map(str, runs)
    return expanded


def runs_inside(folder: Path) -> list[Path]:
    """Return the run folders in a folder or, if there are none, as in that of a study, in its folders; sorted."""
    for pattern in (f"*/{RUN_SETTINGS}", f"*/*/{RUN_SETTINGS}"):
        runs = sorted({file.parent for file in folder.glob(pattern) if is_run(file.parent)})
        if runs:
            return runs
    return []


def runs_at(place: Path) -> list[Path]:
    """Return the place if it is a run folder, else the `runs_inside`."""
    return [place] if is_run(place) else runs_inside(place)


def is_run(folder: Path) -> bool:
    """Return whether a folder is one of a run, though it may have no weights yet, or be damaged."""
    try:
        return run_settings(folder) is not None
    except UserError:
        return True  # whoever reads it is told what is wrong


def _has_weights(folder: Path) -> bool:
    with contextlib.suppress(UserError):
        return checkpoint.find_weights(folder).is_file()
    return False


def run_settings(folder: Path) -> dict[str, Any] | None:
    """Return a run's settings as plain values, or None if the folder is no run (a model hub's has a config.json too).

    Raises UserError if they cannot be read, or are damaged.
    """
    file = folder / RUN_SETTINGS
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    found = values.get("run") if isinstance(values, dict) else None
    if isinstance(found, dict):
        return found
    if (folder / "checkpoints").is_dir():
        raise UserError(f"{file} does not hold the settings of a run")
    return None


def _trained_method(values: Any) -> str:
    try:
        return shown_name(from_dict(MethodConfig, values, RUN_SETTINGS))
    except UserError:
        return ""


def _without_run(model: Model) -> Model:
    said = str((model.origin or {}).get("method", ""))
    keys = {display.title.casefold(): key for key, display in DISPLAY.items()} | {key: key for key in DISPLAY}
    method = keys.get(said.casefold(), said or model.label)
    return replace(model, method=method, remarks=(NOT_TRAINED_HERE,))


def random_backbone(config: BackboneConfig, seed: int = SEED) -> Backbone:
    """Return the network with fresh weights, always the same, in evaluation mode; torch's generator is left alone."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return build_baseline(config).eval()


def _released(name: str, watch: Watch) -> Model:
    release = CATALOGUE[name]
    if is_cached(release):
        path = fetch(name, release)
    else:
        with watch(f"fetching {name} from {release.url}, in MB") as progress:
            path = fetch(name, release, progress)
    try:
        backbone, found = import_file(path, Choices(release.architecture))
    except UserError as error:
        raise UserError(f"{error}. Delete {path}, and it is fetched again") from error
    origin = {"name": name, "method": release.method, "licence": release.licence, "url": release.url}
    return _without_run(Model(name, name, backbone, path, {**found.provenance(), **origin}, is_named=True))


def _of_timm(name: str, watch: Watch) -> Model:
    if is_offline():
        raise UserError(f"{name}: fetching is switched off ({OFFLINE_VARIABLE}); {RANDOM}{name} is without weights")
    with watch(f"weights of {name} by timm"):
        backbone, origin = pretrained_timm(name.removeprefix(TIMM))
    own = backbone.config.name.removeprefix(TIMM)
    if own in BACKBONES:  # the same network here, with its attention
        tensors = backbone.net.state_dict()
        backbone = backbones.build_backbone(replace(backbone.config, name=own)).eval()
        backbones.load_strictly(backbone.net, tensors, Path(name))
    return _without_run(Model(name, name.removeprefix(TIMM), backbone, origin=origin))


def wrap(
    module: nn.Module,
    name: str = "",
    *,
    image_size: int = 224,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Model:
    """Return a module of the user's as a model that every evaluation takes.

    Args:
        module: maps normalised images [b, c, h, w] to features [b, d], feature maps [b, d, rows, columns] or `Tokens`.
        name: in tables; by default the class's.
        image_size: side in pixels at which evaluations show images.
        mean, std: normalisation in [0, 1] that it expects, a value for each channel.

    Raises UserError if its output is of another kind, or it cannot run on such an image.
    """
    backbone = backbones.wrap(module, image_size, mean, std, name)
    return _without_run(Model(backbone.config.name, backbone.config.name, backbone))


def _is_foreign(path: Path) -> bool:
    # Whether it is a file that dinoscope did not write.
    if not path.is_file():
        return False
    if path.suffix != ".safetensors":
        return True
    try:
        with safe_open(path, framework="pt") as file:
            return checkpoint.METADATA_KEY not in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False  # the error comes when it is loaded


def _config(name: str) -> BackboneConfig:
    # Of a network, for the image size that ends its name, or of a model.
    if name.startswith(TIMM):
        return timm_config(name)
    if name not in BACKBONES:
        if Path(name).exists() or name == SHIPPED:
            return load_model(name).backbone.config
        if name in CATALOGUE:
            return CATALOGUE[name].config()
        raise UserError(unknown_network(name, BACKBONES, CATALOGUE))
    size = re.search(r"_(\d+)$", name)
    return BackboneConfig(name, image_size=int(size[1]) if size else BackboneConfig.image_size)


def short_name(path: Path) -> str:
    """Return the name of the folder that a person gave the model; for a file of others the name of the file."""
    if _is_foreign(path):
        return path.name.partition(".")[0]
    path = path.resolve()
    if path.is_file():
        path = path.parent
    return path.parent.name if path.name in ("exported", "checkpoints") else path.name


def distinct(labels: Sequence[tuple[str, Path | None]]) -> list[str]:
    """Return unique labels, from labels and the paths that they stand for.

    Shared ones get as much of their path as tells them apart, else a number.
    """
    shared = {label for label, count in Counter(label for label, _ in labels).items() if count > 1}
    told: list[str] = []
    for label, path in labels:
        if label in shared and path is not None:
            others = {_chosen_parts(other) for each, other in labels if each == label and other is not None}
            label = _shortest_end(_chosen_parts(path), others - {_chosen_parts(path)})
        told.append(label)
    numbers = [told[: index + 1].count(label) for index, label in enumerate(told)]
    return [label if number == 1 else f"{label} ({number})" for label, number in zip(told, numbers, strict=True)]


def _chosen_parts(path: Path) -> tuple[str, ...]:
    # Of the whole path what a person chose: of RUN/checkpoints/step-9.safetensors, RUN and step-9.
    path = path.resolve()
    path = path.with_suffix("") if path.is_file() else path
    return tuple(part for part in path.parts[1:] if part not in ("exported", "checkpoints"))


def _shortest_end(parts: tuple[str, ...], others: Set[tuple[str, ...]]) -> str:
    # Two parts or more, so that no other path ends with them.
    lengths = range(2, len(parts))
    length = next((n for n in lengths if all(other[-n:] != parts[-n:] for other in others)), len(parts))
    return "/".join(parts[-length:])


def _is_untrained(name: str | Path | Model) -> bool:
    return name == UNTRAINED and not Path(UNTRAINED).exists()


def _loaded(name: str | Path | Model, watch: Watch) -> Model:
    return name if isinstance(name, Model) else load_model(str(name), watch)


def shipped_model() -> Path:
    """Return the folder of the backbone that travels with the package (recipe `quickstart_long`).

    Its card.json says how it was made and what was measured then: recipe, command, commit, machine, figures.
    """
    return Path(str(resources.files("dinoscope"))) / "shipped_model"
