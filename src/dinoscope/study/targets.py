"""The models of a published table, the files of their weights, and what was published of each.

A figure of other weights than those released is shown, but marked: its difference does not test this program.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from dinoscope.errors import UserError, lookup
from dinoscope.evaluation import davis, voc
from dinoscope.evaluation.compare import METHOD_NAMES, PUBLISHED
from dinoscope.model_names import RANDOM, Model, Watch, load_model
from dinoscope.models.backbone import BACKBONES, build_backbone, network_title
from dinoscope.models.pretrained import CATALOGUE, Choices, Release, fetch, import_file, is_cached
from dinoscope.models.pretrained.released import MEGABYTE, cached_file, has_digest
from dinoscope.types import Result

TABLE_2, FIGURE_4, TABLE_5 = (f"Caron et al. 2021, {place}" for place in ("Table 2", "table in Fig. 4", "Table 5"))

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


@dataclass
class Target:
    """One model of a table, its figures in the order of the rows, and what was measured of them.

    name: in `CATALOGUE`, or with `RANDOM` before it for random weights of that network.
    path: a file or exported folder of the user's own, to be taken for those weights; None takes the catalogue's.
    results, failures: by evaluation; once it was made, each is in one of the two.
    """

    name: str
    release: Release
    path: Path | None = None
    figures: Sequence[Figure] = ()
    results: dict[str, Result] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def random(self) -> bool:
        return self.name.startswith(RANDOM)

    @property
    def available(self) -> bool:
        return self.random or self.path is not None or is_cached(self.release)

    @property
    def place(self) -> str:
        """The file, for a person: where it is, or its name."""
        return "" if self.random else str(self.path or self.release.file)

    @property
    def evaluations(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(figure.evaluation for figure in self.figures))

    def megabytes(self) -> tuple[float, bool]:
        """Return the size of the file, and whether that is known: else it is that of the network's weights."""
        if self.random:
            return 0.0, True
        file = self.path or cached_file(self.release)
        if file.is_file():
            return file.stat().st_size / MEGABYTE, True
        if self.release.megabytes is not None:
            return self.release.megabytes, True
        with torch.device("meta"):
            network = build_backbone(self.release.config())
        return sum(math.prod(one.shape) for one in network.parameters()) * BYTES_PER_WEIGHT / MEGABYTE, False

    def load(self) -> Model:
        """Return the model, on the CPU. Raises UserError if the file cannot be read or holds another network."""
        if self.path is not None and self.path.is_file():
            backbone, found = import_file(self.path, Choices(self.release.architecture))
            return Model(self.name, self.name, backbone, self.path, found.provenance())
        model = load_model(str(self.path or self.name))
        network, wanted = model.backbone.config.name, self.release.architecture
        if self.path is not None and BACKBONES[network] != BACKBONES[wanted]:
            raise UserError(f"{self.path} holds a {network}, and {self.name} is a {wanted}")
        return replace(model, name=self.name, label=self.name)

    @functools.cached_property
    def is_released(self) -> bool:
        """Return whether the weights are those of the catalogue, as far as their digest tells."""
        return self.path is None or not self.path.is_file() or has_digest(self.path, self.release.digest)

    def notes(self, figure: Figure) -> list[str]:
        result, notes = self.results.get(figure.evaluation), [figure.note] if figure.note else []
        if not self.is_released:
            notes.append(f"{self.name}: {self.path} is not the released file: its digest is not {self.release.digest}")
        if reason := self.failures.get(figure.evaluation):
            notes.append(f"{self.name}: {figure.evaluation} failed: {reason}")
        left_out = {} if result is None else result.protocol.get("left_out") or {}
        if left_out:
            reasons = ", ".join(f"{count} {kind}" for kind, count in left_out.items())
            notes.append(f"{self.name}: images left out: {reasons}")
        if result is not None and result.protocol.get("rate_at_edge"):
            notes.append("the learning rate is at the edge of those tried, so that one beyond may be better")
        return notes


def chosen(models: Sequence[str], usual: Sequence[str], figures: Callable[[Target], Sequence[Figure]]) -> list[Target]:
    """Return the models that are named, or else the usual ones, with their figures.

    Raises UserError as `parse` does, if a model is named twice, or is one of random weights and no usual one is.
    """
    targets, random = [parse(model) for model in models or usual], any(name.startswith(RANDOM) for name in usual)
    names = [target.name for target in targets]
    for target in targets:
        if names.count(target.name) > 1:
            raise UserError(f"--models names {target.name} twice")
        if target.random and not random:
            raise UserError(f"--models {target.name}: nothing is published of random weights in this table")
        target.figures = figures(target)
    return targets


def parse(text: str) -> Target:
    """Parse NAME or random:NAME of the catalogue, NAME=PATH, or the PATH of a file that is called as a released one.

    Raises UserError for an unknown name, offering the nearest, and for a path that does not exist or gives no name.
    """
    name, equals, path = text.partition("=")
    if equals and name in CATALOGUE:
        if not Path(path).exists():
            raise UserError(f"--models: there is no file or folder {path}")
        return Target(name, CATALOGUE[name], Path(path))
    plain = text.removeprefix(RANDOM)
    if plain not in CATALOGUE and text == plain and Path(text).exists():
        names = [name for name, release in CATALOGUE.items() if release.file == Path(text).name]
        if not names:
            raise UserError(
                f"--models {text}: no released file is called {Path(text).name}; name the model that it is compared "
                f"with, as in dino_vits16={text}"
            )
        return Target(names[0], CATALOGUE[names[0]], Path(text))
    return Target(text, lookup("released model", name if equals else plain, CATALOGUE))


def fetch_all(targets: Sequence[Target], watch: Watch) -> None:
    """Have every file here and, if its digest is known, checked. watch: sees the progress of what must be fetched.

    Raises UserError if that fails: one line with all that are missing, and where to put them.
    """
    for one in targets:
        if one.random or one.path is not None:
            continue
        if one.available:
            fetch(one.name, one.release)  # checks it
            continue
        try:
            with watch(f"fetching {one.name} from {one.release.url}, in MB") as progress:
                fetch(one.name, one.release, progress)
        except UserError as error:
            missing = [other for other in targets if not other.available and other is not one]
            others = ", ".join(f"{other.name} ({other.release.url})" for other in missing)
            more = f". Likewise missing, for the same folder: {others}" if others else ""
            raise UserError(f"{error}{more}. Or choose models with --models") from error


# Published figures


def imagenet_figures(target: Target, linear: str | None) -> list[Figure]:
    """Return k-NN and the probe kept under `linear`: published for these weights, else the paper's for others."""
    release = target.release
    row = next((row for row in PUBLISHED if (row.method, row.architecture) == row_key(release)), None)

    def published(name: str) -> tuple[float | None, str, str]:
        own: float | None = getattr(release, name)
        if own is not None:
            return own, release.source, ""
        if row is None:
            return None, "", ""
        return getattr(row, name), TABLE_2, OWN_CLASSIFIER if row.method == "supervised" else OTHER_WEIGHTS

    figures = [Figure("knn", "knn_top1", f"k-NN (k = {K})", *published("knn"), parameters={"k": K})]
    if linear is not None:
        figures.append(Figure(linear, "linear_top1", "linear", *published("linear")))
    return figures


def voc_figures(target: Target, _: str | None = None) -> list[Figure]:
    method, architecture = row_key(target.release)
    kind = "random" if target.random else method
    published = voc.PUBLISHED.get((METHOD_NAMES.get(kind, kind), architecture))
    first, second = (
        Figure("voc", "voc_jaccard_published", f"Jaccard, {100 * mass:g} %", parameters={"mass": mass})
        for mass in MASSES
    )
    if published is not None:
        note = {"random": OTHER_SEED, "supervised": TAKEN_FOR}.get(kind, "")
        first = replace(first, published=published, source=FIGURE_4, note=note)
    return [first, second]


def davis_figures(target: Target, _: str | None = None) -> list[Figure]:
    row = davis.PUBLISHED.get(row_key(target.release), {})
    return [
        Figure("davis-2017", metric, davis.FIGURES[metric], row.get(metric), TABLE_5 if metric in row else "")
        for metric in davis.MEANS
    ]


def row_key(release: Release) -> tuple[str, str]:
    """Return method and architecture as the tables of published figures write them."""
    keys = {title.casefold(): key for key, title in METHOD_NAMES.items()}
    return keys.get(release.method.casefold(), release.method), network_title(release.architecture)
