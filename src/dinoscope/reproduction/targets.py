"""Which models a published table is made of, and what was published of each.

A figure of other weights than those released is shown, but marked: its difference says nothing of this program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from dinoscope.errors import UserError
from dinoscope.measurement.voc_record import PUBLISHED as BEST_HEAD
from dinoscope.model_names import RANDOM
from dinoscope.models.backbone import network_title
from dinoscope.models.pretrained import CATALOGUE, Release
from dinoscope.reproduction.imagenet import K
from dinoscope.reproduction.weights import Weights, parse
from dinoscope.study.compare import METHOD_NAMES
from dinoscope.study.published import PUBLISHED, PUBLISHED_DAVIS, PUBLISHED_JACCARD, Published, PublishedJaccard

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

OTHER_WEIGHTS = "the published figure is of its authors' weights, which are not these"
OWN_CLASSIFIER = (
    "the paper prints one figure under linear and k-NN for a supervised network, so not a k-NN or a probe of frozen "
    "features, and does not say of which weights"
)
TAKEN_FOR = "DeiT-S, taken for the paper's supervised ViT-S/16"
OTHER_SEED = "random weights of seed 0; those of the paper are others"


@dataclass(frozen=True)
class Figure:
    """One figure of a model.

    evaluation: name under which its measurement is kept. metric, parameters: its name there, and with what.
    published: in %; None where nothing is. note: why its difference is no reproduction; "" where it is one.
    """

    evaluation: str
    metric: str
    title: str
    published: float | None = None
    source: str = ""
    note: str = ""
    parameters: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class Target:
    """One model of a table, and its figures in the order of the rows."""

    weights: Weights
    figures: tuple[Figure, ...]

    @property
    def evaluations(self) -> tuple[str, ...]:
        """Each that must be made, once."""
        return tuple(dict.fromkeys(figure.evaluation for figure in self.figures))


def imagenet_targets(models: Sequence[str], linear: str | None) -> tuple[Target, ...]:
    """k-NN, and with `linear` (the name that the probe is kept under) the linear probe.

    models: as `weights.parse` takes them; none takes `IMAGENET_MODELS`. Likewise below.

    Raises UserError as `parse` does, where a model is named twice, or is one of random weights.
    """
    return tuple(Target(each, _imagenet_figures(each, linear)) for each in _chosen(models or IMAGENET_MODELS))


def voc_targets(models: Sequence[str]) -> tuple[Target, ...]:
    """Jaccard of the masks; random weights may be named here too. Raises UserError as `imagenet_targets` does."""
    chosen = _chosen(models or VOC_MODELS, random=True)
    return tuple(Target(each, _voc_figures(each)) for each in chosen)


def davis_targets(models: Sequence[str]) -> tuple[Target, ...]:
    """J&F, J and F. Raises UserError as `imagenet_targets` does."""
    return tuple(Target(each, _davis_figures(each)) for each in _chosen(models or DAVIS_MODELS))


def unreleased() -> str:
    """Rows of DINO's Table 2 whose weights nobody released, in words."""
    known = {_row_key(release) for release in CATALOGUE.values()}
    rows = [row for row in PUBLISHED if (row.method, row.architecture) not in known]
    return ", ".join(f"{METHOD_NAMES[row.method]} {row.architecture}" for row in rows)


def _chosen(models: Sequence[str], *, random: bool = False) -> list[Weights]:
    found = [parse(model) for model in models]
    names = [each.name for each in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"--models names {twice} twice")
    untrained = next((each.name for each in found if each.random), None)
    if untrained is not None and not random:
        raise UserError(f"--models {untrained}: nothing is published of random weights in this table")
    return found


def _imagenet_figures(weights: Weights, linear: str | None) -> tuple[Figure, ...]:
    release = weights.release
    row = next((row for row in PUBLISHED if (row.method, row.architecture) == _row_key(release)), None)
    knn, probe = (_imagenet_figure(release, row, name) for name in ("knn", "linear"))
    figures = [Figure("knn", "knn_top1", f"k-NN (k = {K})", *knn, parameters={"k": K})]
    if linear is not None:
        figures.append(Figure(linear, "linear_top1", "linear", *probe))
    return tuple(figures)


def _imagenet_figure(release: Release, row: Published | None, name: str) -> tuple[float | None, str, str]:
    """Published figure, source and note: of these very weights where there is one, else the paper's of others."""
    own: float | None = getattr(release, name)
    if own is not None:
        return own, release.source, ""
    if row is None:
        return None, "", ""
    return getattr(row, name), TABLE_2, OWN_CLASSIFIER if row.method == "supervised" else OTHER_WEIGHTS


def _voc_figures(weights: Weights) -> tuple[Figure, ...]:
    """At 60 % of the attention, which the paper's text says, and at 90 %, which the public script takes."""
    method, architecture = _row_key(weights.release)
    kind = "random" if weights.random else method
    row = next((row for row in PUBLISHED_JACCARD if row.architecture == architecture), None)
    published = _jaccard(row, kind)
    note = {"random": OTHER_SEED, "supervised": TAKEN_FOR}.get(kind, "")
    metric = f"voc_jaccard_{BEST_HEAD}"
    plain = Figure("voc", metric, "Jaccard, 60 %", parameters={"mass": 0.6})
    at_60 = plain if published is None else replace(plain, published=published, source=FIGURE_4, note=note)
    return at_60, Figure("voc", metric, "Jaccard, 90 %", parameters={"mass": 0.9})


def _jaccard(row: PublishedJaccard | None, kind: str) -> float | None:
    """The figure of one kind of weights; of supervised ones that of ViT-S/16 alone is of weights that are released."""
    if row is None or kind not in ("random", "supervised", "dino"):
        return None
    return {"random": row.random, "supervised": row.supervised, "dino": row.dino}[kind]


def _davis_figures(weights: Weights) -> tuple[Figure, ...]:
    row = next((row for row in PUBLISHED_DAVIS if (row.method, row.architecture) == _row_key(weights.release)), None)
    values = (None, None, None) if row is None else (row.jf_mean, row.j_mean, row.f_mean)
    names = {"jf_mean": "J&F", "j_mean": "J", "f_mean": "F"}
    return tuple(
        Figure("davis-2017", metric, title, value, "" if value is None else TABLE_5)
        for (metric, title), value in zip(names.items(), values, strict=True)
    )


def _row_key(release: Release) -> tuple[str, str]:
    """Method and architecture as `study.published` writes them."""
    keys = {shown.casefold(): key for key, shown in METHOD_NAMES.items()}
    architecture = network_title(release.architecture)
    return keys.get(release.method.casefold(), release.method), architecture
