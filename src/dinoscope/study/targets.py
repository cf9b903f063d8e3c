"""The models of a published table, the files of their weights, and what was published of each.

A figure of other weights than those released is shown, but marked: its difference says nothing about this program.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from dinoscope.errors import UserError, lookup
from dinoscope.evaluation import davis, voc
from dinoscope.evaluation.compare import METHOD_NAMES, PUBLISHED, Published
from dinoscope.model_names import RANDOM, Model, Watch, load_model, random_backbone
from dinoscope.models.backbone import BACKBONES, build_backbone, network_title
from dinoscope.models.pretrained import CATALOGUE, Choices, Release, fetch, import_file, is_cached
from dinoscope.models.pretrained.released import MEGABYTE, cached_file, has_digest

DINO_PAPER = "Caron et al. 2021"
TABLE_2, FIGURE_4, TABLE_5 = (f"{DINO_PAPER}, {place}" for place in ("Table 2", "table in Fig. 4", "Table 5"))

IMAGENET_MODELS = (
    "dino_vits16",
    "dino_vits8",
    "dino_vitb16",
    "dino_vitb8",
    "dino_resnet50",
    "swav_resnet50",
    "moco_v2_resnet50",
    "byol_resnet50",
    "simclr_resnet50",
    "supervised_resnet50",
    "deit_small",
)
"""DINO's Table 2, as far as weights are released."""

VOC_MODELS = (
    f"{RANDOM}dino_vits16",
    "deit_small",
    "dino_vits16",
    f"{RANDOM}dino_vits8",
    "dino_vits8",
)
"""The table in DINO's Fig. 4; its supervised ViT-S/8 is not released."""

DAVIS_MODELS = ("dino_vits16", "dino_vitb16", "dino_vits8", "dino_vitb8")
"""The DINO rows of DINO's Table 5."""

K = 20
"""Neighbours of the published k-NN figures."""

MASSES = (0.6, 0.9)
"""Shares of the attention within a mask: what the paper's text says, and what the public script takes."""

OTHER_WEIGHTS = "the published figure is of its authors' weights, which are not these"
OWN_CLASSIFIER = (
    "the paper prints one figure under linear and k-NN for a supervised network, so not a k-NN or a probe of frozen "
    "features, and does not say of which weights"
)
TAKEN_FOR = "DeiT-S, taken for the paper's supervised ViT-S/16"
OTHER_SEED = "random weights of seed 0; those of the paper are others"

BYTES_PER_WEIGHT = 4


@dataclass(frozen=True)
class Figure:
    """One figure of a model.

    evaluation: name under which its result is kept. metric, parameters: its name there.
    published: in %; None if nothing is. note: why its difference is no reproduction; "" if it is one.
    """

    evaluation: str
    metric: str
    title: str
    published: float | None = None
    source: str = ""
    note: str = ""
    parameters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Weights:
    """One model of a table. name: in `CATALOGUE`, or with `RANDOM` before it for random weights of that network.

    path: a file or exported folder of the user's own, to be taken for those weights; None takes the catalogue's.
    """

    name: str
    release: Release
    path: Path | None = None

    @property
    def random(self) -> bool:
        """Whether nothing need be read."""
        return self.name.startswith(RANDOM)

    @property
    def here(self) -> bool:
        """Whether nothing need be fetched."""
        return self.random or self.path is not None or is_cached(self.release)

    @property
    def place(self) -> str:
        """The file, for a person: where it is, or its name."""
        return "" if self.random else str(self.path) if self.path is not None else self.release.file

    @property
    def remark(self) -> str:
        """What must be known of a file that the user brought; "" for nothing."""
        if self.path is None or not self.path.is_file() or has_digest(self.path, self.release.digest):
            return ""
        return f"{self.path} is not the released file: its digest is not {self.release.digest}"

    def megabytes(self) -> tuple[float, bool]:
        """Return the size of the file, and whether that is known: else it is that of the network's weights."""
        if self.random:
            return 0.0, True
        file = self.path if self.path is not None else cached_file(self.release)
        if file.is_file():
            return file.stat().st_size / MEGABYTE, True
        if self.release.megabytes is not None:
            return self.release.megabytes, True
        with torch.device("meta"):
            network = build_backbone(self.release.config())
        return sum(math.prod(each.shape) for each in network.parameters()) * BYTES_PER_WEIGHT / MEGABYTE, False

    def load(self) -> Model:
        """Return the model, on the CPU, labelled by its name.

        Raises UserError if the file cannot be read or holds another network.
        """
        if self.path is not None and self.path.is_file():
            backbone, found = import_file(self.path, Choices(self.release.architecture))
            return Model(self.name, self.name, backbone, self.path, found.provenance())
        model = load_model(self.name if self.path is None else str(self.path))
        network, wanted = model.backbone.config.name, self.release.architecture
        if self.path is not None and BACKBONES[network] != BACKBONES[wanted]:
            raise UserError(f"{self.path} holds a {network}, and {self.name} is a {wanted}")
        return replace(model, name=self.name, label=self.name)

    def untrained(self) -> Model:
        """Return the same network with random weights: as fast as with others, and there without any file."""
        return Model(self.name, self.name, random_backbone(self.release.config()), None)


@dataclass(frozen=True)
class Target:
    """One model of a table, and its figures in the order of the rows."""

    weights: Weights
    figures: tuple[Figure, ...]

    @property
    def evaluations(self) -> tuple[str, ...]:
        """Each evaluation that must be made, once."""
        return tuple(dict.fromkeys(figure.evaluation for figure in self.figures))


def imagenet_targets(models: Sequence[str], linear: str | None) -> tuple[Target, ...]:
    """Return k-NN, and with `linear` (the name that the probe is kept under) the linear probe, of these models.

    models: none takes `IMAGENET_MODELS`. Likewise below.

    Raises UserError as `parse` does, if a model is named twice, or is one of random weights.
    """
    return tuple(Target(one, _imagenet_figures(one, linear)) for one in _chosen(models or IMAGENET_MODELS))


def voc_targets(models: Sequence[str]) -> tuple[Target, ...]:
    """Return the Jaccard of the masks; random weights may be named here too. Raises UserError as `imagenet_targets`."""
    return tuple(Target(one, _voc_figures(one)) for one in _chosen(models or VOC_MODELS, random=True))


def davis_targets(models: Sequence[str]) -> tuple[Target, ...]:
    """Return J&F, J and F. Raises UserError as `imagenet_targets` does."""
    return tuple(Target(one, _davis_figures(one)) for one in _chosen(models or DAVIS_MODELS))


def unreleased() -> str:
    """Return the rows of DINO's Table 2 whose weights nobody released, in words."""
    known = {_row_key(release) for release in CATALOGUE.values()}
    rows = [row for row in PUBLISHED if (row.method, row.architecture) not in known]
    return ", ".join(f"{METHOD_NAMES[row.method]} {row.architecture}" for row in rows)


def parse(text: str) -> Weights:
    """Parse NAME or random:NAME of the catalogue, NAME=PATH, or the PATH of a file that is called as a released one.

    Raises UserError for an unknown name, offering the nearest, and for a path that does not exist or gives no name.
    """
    name, equals, path = text.partition("=")
    if equals and name in CATALOGUE:
        if not Path(path).exists():
            raise UserError(f"--models: there is no file or folder {path}")
        return Weights(name, CATALOGUE[name], Path(path))
    plain = text.removeprefix(RANDOM)
    if plain not in CATALOGUE and text == plain and Path(text).exists():
        names = [name for name, release in CATALOGUE.items() if release.file == Path(text).name]
        if not names:
            raise UserError(
                f"--models {text}: no released file is called {Path(text).name}; say what it is to be held against, as "
                f"in dino_vits16={text}"
            )
        return Weights(names[0], CATALOGUE[names[0]], Path(text))
    return Weights(text, lookup("released model", name if equals else plain, CATALOGUE))


def fetch_all(every: Sequence[Weights], watch: Watch) -> None:
    """Have every file here and, if its digest is known, checked. watch: sees the progress of what must be fetched.

    Raises UserError if that fails: one line with all that are missing, and where they are to be put.
    """
    for one in every:
        if one.random or one.path is not None:
            continue
        if is_cached(one.release):
            fetch(one.name, one.release)  # checks it
            continue
        try:
            with watch(f"fetching {one.name} from {one.release.url}, in MB") as progress:
                fetch(one.name, one.release, progress)
        except UserError as error:
            others = [f"{other.name} ({other.release.url})" for other in every if not other.here and other != one]
            more = f". Likewise missing, for the same folder: {', '.join(others)}" if others else ""
            raise UserError(f"{error}{more}. Or choose models with --models") from error


def _chosen(models: Sequence[str], *, random: bool = False) -> list[Weights]:
    weights = [parse(model) for model in models]
    names = [one.name for one in weights]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"--models names {twice} twice")
    untrained = next((one.name for one in weights if one.random), None)
    if untrained is not None and not random:
        raise UserError(f"--models {untrained}: nothing is published of random weights in this table")
    return weights


def _imagenet_figures(weights: Weights, linear: str | None) -> tuple[Figure, ...]:
    release = weights.release
    row = next((row for row in PUBLISHED if (row.method, row.architecture) == _row_key(release)), None)
    knn, probe = (_imagenet_figure(release, row, name) for name in ("knn", "linear"))
    figures = [Figure("knn", "knn_top1", f"k-NN (k = {K})", *knn, parameters={"k": K})]
    if linear is not None:
        figures.append(Figure(linear, "linear_top1", "linear", *probe))
    return tuple(figures)


def _imagenet_figure(release: Release, row: Published | None, name: str) -> tuple[float | None, str, str]:
    """Return published figure, source and note: of these very weights if there is one, else the paper's of others."""
    own: float | None = getattr(release, name)
    if own is not None:
        return own, release.source, ""
    if row is None:
        return None, "", ""
    return getattr(row, name), TABLE_2, OWN_CLASSIFIER if row.method == "supervised" else OTHER_WEIGHTS


def _voc_figures(weights: Weights) -> tuple[Figure, ...]:
    method, architecture = _row_key(weights.release)
    kind = "random" if weights.random else method
    published = voc.PUBLISHED.get((METHOD_NAMES.get(kind, kind), architecture))
    note = {"random": OTHER_SEED, "supervised": TAKEN_FOR}.get(kind, "")
    first, second = (
        Figure("voc", "voc_jaccard_published", f"Jaccard, {100 * mass:g} %", parameters={"mass": mass})
        for mass in MASSES
    )
    if published is not None:
        first = replace(first, published=published, source=FIGURE_4, note=note)
    return first, second


def _davis_figures(weights: Weights) -> tuple[Figure, ...]:
    row = davis.PUBLISHED.get(_row_key(weights.release), {})
    return tuple(
        Figure("davis-2017", metric, davis.FIGURES[metric], row.get(metric), TABLE_5 if metric in row else "")
        for metric in davis.MEANS
    )


def _row_key(release: Release) -> tuple[str, str]:
    """Return method and architecture as `published` writes them."""
    keys = {shown.casefold(): key for key, shown in METHOD_NAMES.items()}
    architecture = network_title(release.architecture)
    return keys.get(release.method.casefold(), release.method), architecture
