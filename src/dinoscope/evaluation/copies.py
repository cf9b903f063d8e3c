"""Copy detection on Copydays (Douze et al. 2009), in the protocol of DINO (Caron et al. 2021, section 4.2.1).

Each altered copy is a query against the originals, and distractors if there are some; its one positive is the original
that it was made of. There are blocks of copies: JPEG compression, crops, and strong attacks (print and scan, blur,
paint), each with a mean average precision of its own. Average precision is the trapezoid form as in `retrieval`, and a
positive that is not among the first 20 counts 0.

An image is squashed to a square. Its feature is the class token and the generalised mean of the patches, as they are,
one behind the other. Whitening as in DINO's script: the mean of other images is taken off, but their second moments are
those of features without that; all axes are kept, those of less than 1e-5 of the largest moment as if they had it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torchvision.transforms import InterpolationMode  # pyright: ignore[reportMissingTypeStubs]
from torchvision.transforms.v2 import functional as tv  # pyright: ignore[reportMissingTypeStubs]

from dinoscope.data.loader import workers_for
from dinoscope.data.reader import UnreadableImage
from dinoscope.data.sources import ImageFolder, ImageSource
from dinoscope.errors import UserError
from dinoscope.evaluation import base
from dinoscope.evaluation.base import Context, Data, Labelled
from dinoscope.evaluation.knn import unit
from dinoscope.evaluation.results import new_result
from dinoscope.evaluation.retrieval import generalised_mean
from dinoscope.evaluation.statistics import estimate_metric, mean_intervals
from dinoscope.evaluation.whitening import Whitening
from dinoscope.features import describing, evaluation_view
from dinoscope.model_names import Model
from dinoscope.models.network import require_patches
from dinoscope.places import JoinedPath
from dinoscope.remote import RemotePath
from dinoscope.system import autocast
from dinoscope.tables import Table
from dinoscope.types import Items, Metric, Result

FIRST = 20
"""First images of a ranking in which a positive counts."""

PUBLISHED = {
    "Multigrain ResNet-50, longest side 224 px": 75.1,
    "Multigrain ResNet-50, longest side 800 px": 82.5,
    "Supervised ViT-B/16, 224 px": 76.4,
    "DINO ViT-B/16, 224 px": 81.7,
    "DINO ViT-B/8, 320 px": 85.5,
}
"""mAP in % of the strong copies, with 10,000 distractors and whitening (Caron et al. 2021, table 4)."""

_BLOCKS = {"strong": ("strong",), "jpeg": ("jpegqual", "jpeg"), "crops": ("crops", "crop")}
"""Kind of copies -> what its folder is called."""
_ENDINGS = (".jpg", ".jpeg")
_SOURCE = 4  # characters of a file's name that tell what it is a copy of
_FLOOR = 1e-5  # of an axis, as a share of the largest second moment
_QUERIES = 1024  # at a time against the database


@dataclass(frozen=True)
class CopiesConfig:
    """Settings of copy detection."""

    distractors: Path | None = None
    """Folder of other images among which the originals must be found; DINO took 10,000 of YFCC100M."""

    whiten: Path | None = None
    """Folder of further images, on whose features whitening is learned; DINO took 20,000 of YFCC100M."""

    p: float = 4.0
    """Power of the generalised mean of the patches."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.p) and self.p > 0):
            raise UserError(f"--p must be above 0, not {self.p:g}")


# The data


@dataclass(frozen=True)
class Block:
    """Copies of one kind. level: JPEG quality, or the percentage that was cropped away; None of strong copies.

    answers: of each image the position of its original.
    """

    kind: str
    level: int | None
    images: ImageFolder
    answers: tuple[int, ...]

    @property
    def name(self) -> str:
        """strong, jpeg-10, crops-50."""
        return self.kind if self.level is None else f"{self.kind}-{self.level}"

    @property
    def metric(self) -> tuple[str, dict[str, float]]:
        """Name and parameters of its figure."""
        return f"copies_{self.kind}_map", {} if self.level is None else {"level": self.level}


@dataclass(frozen=True)
class Copydays:
    """The originals, and the blocks that are there: strong, then JPEG, then crops, by level."""

    root: Path
    originals: ImageFolder
    blocks: tuple[Block, ...]

    @property
    def digest(self) -> str:
        """12 hex digits of all names and sizes."""
        parts = [self.originals.fingerprint(), *(f"{own.name} {own.images.fingerprint()}" for own in self.blocks)]
        return hashlib.blake2b(" ".join(parts).encode(), digest_size=6).hexdigest()


def find_copydays(data: Data) -> Copydays:
    """Return the images of a folder: original/, and strong/, jpegqual/QUALITY/ or crops/PERCENT/.

    Copies belong to the original whose name has the same first four characters, whatever is missing elsewhere. Folders
    and endings may be in upper or lower case.

    Raises UserError if the data are no such folder, a copy has no original, or an original lacks its copy of a level.
    """
    layout = "a folder with original/, and strong/, jpegqual/QUALITY/ or crops/PERCENT/ of the same images"
    if not isinstance(data, Path) or isinstance(data, RemotePath | JoinedPath) or not data.is_dir():
        raise UserError(f"copies needs --data with Copydays: {layout}")
    root = data.resolve()
    folders = _folders(root)
    if "original" not in folders:
        raise UserError(f"{data} has no folder original: copies needs {layout}")
    originals = _images(folders["original"])
    sources = [_source_of(originals, index) for index in range(len(originals))]
    position = {source: place for place, source in enumerate(sources)}
    if len(position) < len(sources):
        twice = next(name for place, name in enumerate(sources) if position[name] != place)
        raise UserError(f"{originals.root} has several images that begin with {twice}: one original each")
    blocks: list[Block] = []
    for kind, names in _BLOCKS.items():
        folder = next((folders[name] for name in names if name in folders), None)
        if folder is None:
            continue
        levels: dict[int | None, Path] = {None: folder}
        if kind != "strong":
            levels = {int(name): path for name, path in _folders(folder).items() if name.isdecimal()}
            if not levels:
                raise UserError(f"{folder} has no folders named after a level, such as {folder.name}/10")
        for level in sorted(levels, key=lambda level: level or 0):
            blocks.append(_block(kind, level, _images(levels[level]), position))
    if not blocks:
        raise UserError(f"{data} has originals and no copies: copies needs {layout}")
    return Copydays(root, originals, tuple(blocks))


def _block(kind: str, level: int | None, images: ImageFolder, position: Mapping[str, int]) -> Block:
    sources = [_source_of(images, index) for index in range(len(images))]
    for key, source in zip(images.keys, sources, strict=True):
        if source not in position:
            raise UserError(f"{images.root / key}: no image in original/ begins with {source}, so it is no copy of one")
    if level is not None:
        missing = sorted(position.keys() - set(sources))
        if missing:
            raise UserError(
                f"{images.root}: no image begins with {missing[0]}, and original/ has one: a file is missing"
            )
    return Block(kind, level, images, tuple(position[source] for source in sources))


def _folders(root: Path) -> dict[str, Path]:
    return {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}


def _images(folder: Path) -> ImageFolder:
    names = [
        path.name for path in folder.iterdir() if path.suffix.lower() in _ENDINGS and not path.name.startswith(".")
    ]
    if not names:
        raise UserError(f"{folder} holds no .jpg files")
    return ImageFolder(folder, tuple(sorted(names)))


def _source_of(images: ImageFolder, index: int) -> str:
    stem = Path(images.keys[index]).stem
    if len(stem) < _SOURCE:
        raise UserError(f"{images.root / images.keys[index]}: names begin with the four digits of the original")
    return stem[:_SOURCE]


def _others(
    config: CopiesConfig, data: Data, measured: Sequence[ImageSource] = ()
) -> tuple[ImageSource | None, ImageSource | None]:
    """Return the distractors, and the images that whitening is learned on."""
    places = {"--distractors": config.distractors, "--whiten": config.whiten}
    distractors, others = (
        None if place is None else base.other_images(place, data, option, measured) for option, place in places.items()
    )
    return distractors, others


# Features


def squashed(image: UInt8[np.ndarray, "h w c"], size: int) -> UInt8[Tensor, "c s s"]:
    """Resize an image to size x size pixels, bicubic and antialiased, whatever its aspect."""
    pixels = torch.as_tensor(image).permute(2, 0, 1)
    return tv.resize(pixels, [size, size], interpolation=InterpolationMode.BICUBIC, antialias=True).contiguous()


def _described(
    model: Model, images: ImageSource, config: CopiesConfig, context: Context, what: str
) -> Float[Tensor, "n d"]:
    """Return class token and generalised mean of the patches of every image, on the CPU."""
    backbone, extraction = model.backbone, context.extraction()
    size, own = evaluation_view(backbone, extraction).size, backbone.config
    source = images.with_slices(own.slices)

    def shown(index: int) -> UInt8[Tensor, "c s s"]:
        try:
            return squashed(source.read(index).pixels(own.channels, own.window), size)
        except UnreadableImage as error:
            raise UserError(f"{images.name}/{images.keys[index]}: {error}, and all images are needed") from error

    threads = max(1, workers_for(context.workers))
    batch, waiting, features = extraction.batch_size, list[Tensor](), list[Tensor]()
    with describing(backbone, extraction), context.watch(what) as progress, torch.inference_mode():
        device = backbone.mean.device
        for done, image in enumerate(base.mapped_ahead(shown, range(len(images)), threads, batch + threads), 1):
            waiting.append(image)
            if len(waiting) < batch and done < len(images):
                continue
            with autocast(context.precision, device):
                tokens = backbone(backbone.normalize(torch.stack(waiting).to(device)))
                patches = generalised_mean(tokens.patches.float(), config.p)
            features.append(torch.cat([tokens.feature.float(), patches], dim=1).cpu())
            waiting.clear()
            progress(done, len(images))
    return torch.cat(features)


def learn_whitening(features: Float[Tensor, "n d"]) -> Whitening:
    """Return the whitening of DINO's script, from features of other images; see the file's first lines.

    Raises UserError if the features are all zero, or not finite.
    """
    vectors = features.double().numpy()
    moments = vectors.T @ vectors / len(vectors)
    if not np.isfinite(moments).all():
        raise UserError("--whiten: a feature is not finite, so the weights of this model are broken")
    values, axes = np.linalg.eigh(moments)
    if values.max() <= 0:
        raise UserError("--whiten needs images whose features are not zero")
    scaled = axes / np.sqrt(np.maximum(values, _FLOOR * values.max()))
    return Whitening(torch.as_tensor(vectors.mean(axis=0)), torch.as_tensor(scaled))


# Scores


def original_ranks(
    database: Float[Tensor, "n d"], queries: Float[Tensor, "q d"], answers: Int[Tensor, " q"]
) -> Int[Tensor, " q"]:
    """Return how many images of the database come before the original of each query, by cosine similarity.

    Equal ones come in the order of the database. Raises UserError if a feature is not finite.
    """
    images, ranks = unit(database), list[Tensor]()
    order = torch.arange(len(images))
    for start in range(0, len(queries), _QUERIES):
        cosines = unit(queries[start : start + _QUERIES]) @ images.T
        own = answers[start : start + _QUERIES, None]
        right = cosines.gather(1, own)
        ranks.append(((cosines > right) | ((cosines == right) & (order < own))).sum(dim=1))
    return torch.cat(ranks)


def average_precisions(ranks: Int[Tensor, " q"]) -> Float[Tensor, " q"]:
    """Return the trapezoid average precision of one positive at a rank, from 0: 1, or half of 1 / (rank + 1).

    0 from rank `FIRST` on.
    """
    values = torch.where(ranks == 0, 1.0, 0.5 / (ranks + 1).double())
    return values.masked_fill(ranks >= FIRST, 0)


# The evaluation


def run(models: Sequence[Model], data: Data, config: CopiesConfig, context: Context) -> Iterator[Result]:
    """Find the original of every copy.

    Metrics are `copies_strong_map`, and `copies_jpeg_map` and `copies_crops_map` with the parameter level. Entries of
    the protocol: those of `Context.network` without a crop; p; data, copies (digest of its images), originals, blocks;
    distractors, distractor_images, distractor_digest, whitened_on, whitening (None, or a folder and a digest).

    Raises UserError if the data are not laid out so, an image is unreadable or among the distractors or what whitening
    is learned on, too, or a network has no features of patches.
    """
    found = find_copydays(data)
    distractors, others = _others(config, data, [found.originals, *(block.images for block in found.blocks)])
    for model in models:
        require_patches(model.backbone, "copies")
        protocol = _protocol(model, found, distractors, others, config, context)
        database = _described(model, found.originals, config, context, "features of the originals")
        if distractors is not None:
            further = _described(model, distractors, config, context, "features of the distractors")
            database = torch.cat([database, further])
        whiten = None
        if others is not None:
            whiten = learn_whitening(_described(model, others, config, context, "features for whitening"))
            database = whiten(database)
        metrics, names, figures = list[Metric](), list[str](), list[float]()
        for block in found.blocks:
            queries = _described(model, block.images, config, context, f"features of {block.name}")
            ranks = original_ranks(
                database, queries if whiten is None else whiten(queries), torch.tensor(block.answers)
            )
            precisions = average_precisions(ranks)
            (estimate,) = mean_intervals(precisions[:, None], limits=[(0.0, 1.0)])
            name, parameters = block.metric
            metrics.append(estimate_metric(name, estimate, len(precisions), parameters))
            names += [f"{block.name}/{key}" for key in block.images.keys]
            figures += map(float, 100 * precisions)
        yield new_result("copies", protocol, metrics, Items(tuple(names), {"copies_ap": tuple(figures)}))


def _protocol(
    model: Model,
    found: Copydays | None,
    distractors: ImageSource | None,
    others: ImageSource | None,
    config: CopiesConfig,
    context: Context,
) -> dict[str, Any]:
    protocol = {
        **context.network(model),
        "p": config.p,
        "distractors": None if distractors is None else base.location(distractors),
        "distractor_images": 0 if distractors is None else len(distractors),
        "distractor_digest": None if distractors is None else distractors.fingerprint()[:12],
        "whitened_on": None if others is None else base.location(others),
        "whitening": None if others is None else others.fingerprint()[:12],
    }
    del protocol["crop_fraction"]  # the whole image is shown
    if found is not None:
        protocol |= {"data": str(found.root), "copies": found.digest, "originals": len(found.originals)}
        protocol |= {"blocks": {block.name: len(block.images) for block in found.blocks}}
    return protocol


def check(data: Data, config: CopiesConfig, context: Context) -> None:
    find_copydays(data)
    _others(config, data)


def expected(model: Model, data: Data, config: CopiesConfig, context: Context) -> dict[str, Any]:
    distractors, others = _others(config, data)
    found = None if data is None else find_copydays(data)
    return _protocol(model, found, distractors, others, config, context)


def protocol_line(protocol: Mapping[str, Any]) -> str:
    weights = f", weights {protocol['weights']}" if "weights" in protocol else ""
    weights += base.made_of(protocol)
    whitened = f"whitened on {protocol['whitened_on']}" if protocol["whitened_on"] else "not whitened"
    distractors = f", distractors {protocol['distractors']}" if protocol["distractors"] else ""
    return (
        f"{sum(protocol['blocks'].values())} copies against {protocol['originals']} originals and "
        f"{protocol['distractor_images']} distractors; squashed to {protocol['image_size']} px, class token and GeM of "
        f"patches (p = {protocol['p']:g}), {whitened}; trapezoid AP within the first {FIRST}{weights}, data "
        f"{protocol['data']}{distractors}"
    )


def tables(labelled: Labelled, published: bool) -> list[Table]:
    """Return one table of mAP of the strong copies with a row for each model, and one of all blocks."""
    rank = "copies_strong_map"
    theirs = None
    if published:
        source = (
            "Published: with 10,000 distractors and whitening on 20,000 images of YFCC100M, of which no lists exist "
            "(Caron et al. 2021, table 4). Figures without these, or with others, are of another task."
        )
        theirs = ("Published", {label: {rank: figure} for label, figure in PUBLISHED.items()}, source)
    remarks = ["Intervals: 95 %, over the copies."]
    first = base.models_table(labelled, {rank: "strong"}, "mAP in %", remarks, rank=rank, published=theirs)
    return [first, *base.metrics_table(labelled)]


EVALUATION = base.Evaluation(
    "copies",
    "Copies",
    "Find the original of altered copies among other images: Copydays.",
    "images",
    CopiesConfig,
    run,
    (base.Column("copies", "Copies mAP", "copies_strong_map"),),
    protocol_line,
    expected,
    check,
    uses=("device", "precision", "batch_size", "workers", "image_size"),
    tables=tables,
)
