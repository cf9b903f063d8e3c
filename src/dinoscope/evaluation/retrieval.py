"""Retrieval: how early the images that show the same thing come when all others are ranked by cosine similarity.

Two kinds of data, and one ranking:

- Revisited Oxford and Paris (Radenovic et al. 2018): queries against a database, in three setups. A folder
  with gnd_NAME.pkl, as it is published, or gnd_NAME.json with the same keys, and jpg/.
- Any labelled images: each image is a query against all others, and those of its class are the positives. With groups,
  images of the query's own group are junk.

Junk is neither right nor wrong: it is taken out of the ranking first. The average precision is the area under the
polygon of precision over recall, as in the code of Philbin et al. (2007), and not scikit-learn's sum of steps.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from dinoscope.data.finding import find_split
from dinoscope.data.groups import NONE
from dinoscope.data.images import UnreadableImage
from dinoscope.data.loader import workers_for
from dinoscope.data.sources import ImageFolder, ImageSource
from dinoscope.errors import UserError
from dinoscope.evaluation import base
from dinoscope.evaluation.base import Context, Data, Labelled
from dinoscope.evaluation.knn import unit
from dinoscope.evaluation.results import new_result
from dinoscope.evaluation.statistics import (
    BootstrapConfig,
    estimate_metric,
    mean_intervals,
    pooled_intervals,
    share_metrics,
)
from dinoscope.evaluation.whitening import pca_whitening
from dinoscope.features import describing, evaluation_view
from dinoscope.model_names import Model
from dinoscope.models.network import Backbone, require_patches
from dinoscope.places import JoinedPath
from dinoscope.remote import RemotePath
from dinoscope.system import autocast
from dinoscope.tables import Table
from dinoscope.types import FeatureBank, Items, Metric, Result

KS = (1, 5, 10)
"""First images of a ranking that are looked at."""
SETUPS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
"""Setup -> the lists of a query that are its positives, and those that are junk (Radenovic et al. 2018)."""
SCALES = (1.0, 1 / math.sqrt(2), 0.5)
"""Sizes of an image whose features are averaged, as in DINO's evaluation."""
PUBLISHED: dict[int, tuple[str, dict[str, tuple[float, float]]]] = {
    4993: (
        "revisited Oxford",
        {
            "Supervised ResNet-101 + R-MAC": (49.8, 18.5),
            "Supervised ViT-S/16": (33.5, 8.9),
            "DINO ResNet-50": (35.4, 11.1),
            "DINO ViT-S/16": (41.8, 13.7),
            "DINO ViT-S/16, Google Landmarks v2": (51.5, 24.3),
        },
    ),
    6322: (
        "revisited Paris",
        {
            "Supervised ResNet-101 + R-MAC": (74.0, 52.1),
            "Supervised ViT-S/16": (63.0, 37.2),
            "DINO ResNet-50": (55.9, 27.5),
            "DINO ViT-S/16": (63.1, 34.4),
            "DINO ViT-S/16, Google Landmarks v2": (75.3, 51.6),
        },
    ),
}
"""Images of the database -> the benchmark, and mAP in % of the setups Medium and Hard (Caron et al. 2021, table 3)."""

_MAX_FILE = 64 * 2**20  # bytes of a ground truth; the published ones have less than one million
_BYTES_PER_SIMILARITY = 4
_BYTES_PER_RANKED = 64  # its key, whether it is right, and temporaries
_CACHED_BYTES = 32 * 2**20  # of similarities that are ranked together: a processor's cache holds them
_MANY_QUERIES = 10_000  # from here on a tenth of the resamples is drawn
_GEM_FLOOR = 1e-6  # Radenovic et al. 2019, in their code

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetrievalConfig:
    """Settings of retrieval.

    max_bytes: working memory for a block of similarities; one query against all images is the minimum.
    """

    uncropped: bool = False
    """Oxford and Paris: show each query as the whole image, as DINO's script does, and not its box alone."""

    multi_scale: bool = False
    """Oxford and Paris: average the features of each image at 1, 0.71 and 0.5 of its size."""

    feature: Literal["image", "gem"] = "image"
    """The network's image feature, or for Oxford and Paris the generalised mean of its patch features."""

    p: float = 3.0
    """Power of the generalised mean."""

    whiten: Path | None = None
    """Folder of other images, on whose features PCA whitening is learned: less their mean, all axes at variance 1."""

    max_bytes: int = field(default=256 * 2**20, metadata=base.INTERNAL)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.p) and self.p > 0):
            raise UserError(f"--p must be above 0, not {self.p:g}")


# Rankings


@dataclass(frozen=True)
class Scores:
    """What the rankings of queries are worth, each in [0, 1]; NaN for a query without positives.

    average_precision: the trapezoid form. precision: of the first k of `KS`, or up to the last positive if that comes
    earlier. recall: whether a positive is among the first k.
    """

    average_precision: Float[Tensor, " q"]
    precision: Float[Tensor, "q k"]
    recall: Float[Tensor, "q k"]


def rank_scores(
    similarities: Float[Tensor, "q n"], positives: Bool[Tensor, "q n"], junk: Bool[Tensor, "q n"]
) -> Scores:
    """Return the scores of queries whose images are ranked by similarity; equal ones come in the order of the images.

    Junk is taken out first; a positive that is junk too counts as junk. The j-th of m positives, from 0, at rank r,
    from 0, adds (j / r + (j + 1) / (r + 1)) / 2m to the average precision, with 1 for j / r at rank 0.
    """
    hits = _ranked(similarities.masked_fill(junk, -torch.inf), positives & ~junk)
    counts = hits.sum(dim=1).cpu()  # the rest is small, and not every device has float64
    found = torch.stack([hits[:, :k].sum(dim=1).cpu() for k in KS], dim=1).double()
    query, rank = (numbers.cpu() for numbers in hits.nonzero(as_tuple=True))
    place = torch.arange(len(query)) - (counts.cumsum(0) - counts)[query]
    r, j = rank.double(), place.double()
    areas = ((j + 1) / (r + 1) + torch.where(r == 0, 1.0, j / r.clamp(min=1))) / 2
    sums = torch.zeros(len(hits), dtype=torch.float64).index_add_(0, query, areas)
    last = torch.zeros_like(counts).scatter_reduce_(0, query, rank + 1, "amax")
    looked_at = torch.stack([last.clamp(max=k) for k in KS], dim=1)
    recall = (found > 0).double().masked_fill((counts == 0)[:, None], torch.nan)
    return Scores(sums / counts, found / looked_at, recall)  # 0 / 0 is NaN


def _ranked(similarities: Float[Tensor, "q n"], marks: Bool[Tensor, "q n"]) -> Bool[Tensor, "q n"]:
    """Return the marks in the order of falling similarity, and then of the images.

    One integer holds similarity, position and mark, so one sort of integers ranks and carries the marks along.
    """
    bits = (0 - similarities.float()).view(torch.int32)  # 0 - 0 is +0, so that both zeros are equal
    keys = bits.bitwise_xor_((bits >> 31).bitwise_and_(0x7FFFFFFF)).long()  # integers in the order of the floats
    keys.bitwise_left_shift_(32).bitwise_or_(torch.arange(0, 2 * keys.shape[1], 2, device=keys.device))
    keys.bitwise_or_(marks)
    if keys.device.type == "cpu":
        keys.numpy().sort(axis=1)  # a sixth of the time of torch's
    else:
        keys = keys.sort(dim=1).values
    return (keys & 1).bool()


def leave_one_out(
    bank: FeatureBank, config: RetrievalConfig, context: Context = base.DEFAULT_CONTEXT
) -> tuple[list[Metric], int]:
    """Return mAP and recall at k in % of each image against all others, and the number of images that are no query.

    Metrics are `retrieval_map`, and `retrieval_recall` with the parameter k: the share of queries with an image of
    their class among the first k. If the groups are known, images of the query's own group are junk. An image without
    positives is no query.

    Raises UserError if there are no labels, a single class, or no image has positives, or a feature is not finite.
    """
    if bank.labels is None or len(np.unique(bank.labels.cpu().numpy())) < 2:
        raise UserError("retrieval needs labelled images of two classes or more, one folder for each: DIR/CLASS/...")
    features = unit(bank.features if context.device is None else bank.features.to(context.device))
    labels, count = bank.labels.to(features.device), len(features)
    own = torch.arange(count) if bank.groups is None else bank.groups
    own = own.to(features.device)
    # filled in place: thousands of small tensors that stay would keep the memory of the large ones between them
    precisions, found = torch.empty(count, dtype=torch.float64), torch.empty(count, len(KS), dtype=torch.bool)
    rows = max(1, config.max_bytes // (2 * _BYTES_PER_SIMILARITY * count))
    ranked = max(1, min(config.max_bytes // 2, _CACHED_BYTES) // (_BYTES_PER_RANKED * count))
    with context.watch("ranking images") as progress:
        for start in range(0, count, rows):
            similarities = features[start : start + rows] @ features.T
            for first in range(start, start + len(similarities), ranked):
                some = slice(first, min(first + ranked, start + len(similarities)))
                junk = own[some, None] == own
                block = similarities[first - start : some.stop - start]
                scores = rank_scores(block, labels[some, None] == labels, junk)
                precisions[some], found[some] = scores.average_precision, scores.recall > 0
                progress(some.stop, count)
    is_query = ~precisions.isnan()
    queries = int(is_query.sum())
    if not queries:
        raise UserError(f"no image has another of its class{'' if bank.groups is None else ' in another group'}")
    values = precisions[is_query][:, None]
    resampling = BootstrapConfig(resamples=BootstrapConfig.resamples // (10 if queries > _MANY_QUERIES else 1))
    if bank.groups is None:
        items, groups = queries, None
        (estimate,) = mean_intervals(values, resampling, [(0.0, 1.0)])
    else:
        groups = bank.groups.cpu()[is_query]
        numbers, places, sizes = np.unique(groups.numpy(), return_inverse=True, return_counts=True)
        sums = torch.zeros(len(numbers), 1, dtype=torch.float64).index_add_(0, torch.as_tensor(places), values)
        items = len(numbers)
        (estimate,) = pooled_intervals(sums, torch.as_tensor(sizes).double(), resampling, [(0.0, 1.0)])
    recalls = share_metrics([("retrieval_recall", {"k": k}) for k in KS], found[is_query], groups)
    return [estimate_metric("retrieval_map", estimate, items), *recalls], count - queries


def _whitening_images(data: Data, config: RetrievalConfig, measured: Sequence[ImageSource] = ()) -> ImageSource | None:
    return None if config.whiten is None else base.other_images(config.whiten, data, "--whiten", measured)


# Ground truth of Oxford and Paris

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""


@dataclass(frozen=True)
class Landmarks:
    """The ground truth of a benchmark.

    file: where it is from. database, queries: names of images in jpg/, without their ending. boxes: the part of each
    query that shows the landmark. lists: "easy", "hard" and "junk" -> for each query, positions in the database.
    """

    file: Path
    database: tuple[str, ...]
    queries: tuple[str, ...]
    boxes: tuple[Box, ...]
    lists: Mapping[str, tuple[tuple[int, ...], ...]]

    @property
    def digest(self) -> str:
        """12 hex digits of what it says, from whichever kind of file."""
        content = json.dumps([self.database, self.queries, self.boxes, dict(sorted(self.lists.items()))])
        return hashlib.blake2b(content.encode(), digest_size=6).hexdigest()

    def images(self, names: Sequence[str]) -> ImageFolder:
        """Return the images of these names. Raises UserError for the first that is missing."""
        folder = self.file.parent / "jpg"
        for name in dict.fromkeys(names):
            if not (folder / f"{name}.jpg").is_file():
                raise UserError(f"{folder / name}.jpg is missing, and {self.file.name} names it: all images are needed")
        return ImageFolder(folder, tuple(f"{name}.jpg" for name in names))

    def marked(self, names: Sequence[str]) -> Bool[Tensor, "q n"]:
        """Return which images of the database are in any of the lists of each query."""
        marks = torch.zeros(len(self.queries), len(self.database), dtype=torch.bool)
        for name in names:
            for query, positions in enumerate(self.lists[name]):
                marks[query, list(positions)] = True
        return marks


def truth_file(data: Data) -> Path | None:
    """Return the ground truth in a folder of Oxford or Paris, the JSON file if there are both; None of other data.

    Raises UserError if there are several.
    """
    if not isinstance(data, Path) or isinstance(data, RemotePath | JoinedPath) or not data.is_dir():
        return None
    for ending in ("json", "pkl"):
        files = sorted(data.resolve().glob(f"gnd_*.{ending}"))
        if len(files) > 1:
            raise UserError(f"{data}: {' and '.join(file.name for file in files)} are there; leave one in the folder")
        if files:
            return files[0]
    return None


def read_landmarks(file: Path) -> Landmarks:
    """Read gnd_NAME.pkl, without running anything in it, or gnd_NAME.json. Raises UserError if anything is wrong."""
    try:
        with file.open("rb") as opened:
            content = opened.read(_MAX_FILE + 1)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    if len(content) > _MAX_FILE:
        raise UserError(f"{file} is larger than {_MAX_FILE >> 20} MB: it is no ground truth of retrieval")
    if file.suffix == ".json":
        try:
            return _checked(file, json.loads(content))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file} is not JSON: {' '.join(str(error).split())}") from error
    return _checked(file, _unpickled(file, content))


def _unpickled(file: Path, content: bytes) -> Any:
    # A pickle is a program. Of what it may call, this one gets the parts of an array, made anew by functions of ours.
    def empty_array(*_: Any) -> ndarray:
        return np.empty(0, np.int8)  # kind and shape follow with its state

    def encode(text: str, _: str) -> bytes:
        return text.encode("latin1")  # protocol 2 has no bytes

    def no_bytes() -> bytes:
        return b""

    def scalar(kind: np.dtype[Any], value: bytes | str) -> Any:
        return np.frombuffer(value.encode("latin1") if isinstance(value, str) else value, kind)[0]

    def from_buffer(
        buffer: bytes | bytearray, kind: np.dtype[Any], shape: tuple[int, ...], order: Literal["C", "F"]
    ) -> ndarray:
        return np.frombuffer(buffer, kind).reshape(shape, order=order)

    allowed: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): "ndarray",  # an argument of the next, which does not need it
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): encode,
        ("__builtin__", "bytes"): no_bytes,
    }
    for package in ("numpy.core", "numpy._core"):
        allowed[f"{package}.multiarray", "_reconstruct"] = empty_array
        allowed[f"{package}.multiarray", "scalar"] = scalar
        allowed[f"{package}.numeric", "_frombuffer"] = from_buffer

    class Restricted(pickle.Unpickler):
        def find_class(self, module: str, name: str, /) -> Any:
            if (module, name) not in allowed:
                raise UserError(
                    f"{file} wants {f'{module}.{name}'!r}, which lists of names and numbers do not need; nothing of it "
                    "was run. Fetch the file again, or write it as JSON"
                )
            return allowed[module, name]

    try:
        return Restricted(io.BytesIO(content), encoding="latin1").load()
    except _DAMAGE as error:
        raise UserError(f"{file} is no pickle, or damaged: fetch it again ({type(error).__name__})") from error


_DAMAGE = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError),
    *(MemoryError, RecursionError, ImportError),
)
"""What loading anything but a whole pickle raises."""


def _checked(file: Path, content: Any) -> Landmarks:
    """Return the ground truth that a file holds. Raises UserError for the first fault."""

    def fault(what: str) -> UserError:
        return UserError(f"{file}: {what}")

    def entry(holder: Any, key: str, where: str) -> list[Any]:
        if not isinstance(holder, dict) or key not in holder:
            raise fault(f"{where} has no {key!r}")
        values: Any = cast(Any, holder)[key]
        if isinstance(values, np.ndarray):
            values = values.tolist()
        if not isinstance(values, list | tuple):
            raise fault(f"{key!r} of {where} is no list")
        listed = list(cast(Sequence[Any], values))
        return [value.item() if isinstance(value, np.generic) else value for value in listed]

    def names(key: str) -> tuple[str, ...]:
        values = entry(content, key, "the ground truth")
        for value in values:
            is_name = isinstance(value, str) and value.strip(". ") != "" and not set('/\\:\0"') & set(value)
            if not is_name or not value.isprintable():
                raise fault(f"{value!r:.80} in {key!r} is no name of a file without folder and ending")
        if not values:
            raise fault(f"{key!r} is empty")
        return tuple(values)

    database, queries = names("imlist"), names("qimlist")
    truths = entry(content, "gnd", "the ground truth")
    if len(truths) != len(queries) or len(set(queries)) != len(queries):
        raise fault(f"'qimlist' has {len(queries)} names, and 'gnd' {len(truths)} entries: one for each, none twice")
    boxes, lists = list[Box](), {name: list[tuple[int, ...]]() for name in ("easy", "hard", "junk")}
    for query, truth in zip(queries, truths, strict=True):
        box = entry(truth, "bbx", query)
        numbers = [float(value) for value in box if isinstance(value, int | float) and abs(value) < 2**31]
        if len(box) != 4 or len(numbers) != 4 or not (numbers[0] < numbers[2] and numbers[1] < numbers[3]):
            raise fault(f"'bbx' of {query} must be left, top, right and bottom in pixels, not {box!r:.80}")
        boxes.append((numbers[0], numbers[1], numbers[2], numbers[3]))
        for name, positions in lists.items():
            values = entry(truth, name, query)
            for value in values:
                if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < len(database):
                    raise fault(
                        f"{name!r} of {query} has {value!r:.40}, and positions go from 0 to {len(database) - 1}"
                    )
            positions.append(tuple(values))
    return Landmarks(file, database, queries, tuple(boxes), {name: tuple(own) for name, own in lists.items()})


# Features of Oxford and Paris


def shrunk(image: UInt8[ndarray, "h w c"], longest: int) -> UInt8[ndarray, "_ _ c"]:
    """Return the image with its longest side at most so many pixels: Lanczos, aspect kept, never enlarged."""
    if max(image.shape[:2]) <= longest:
        return image
    channels: list[ndarray] = []
    for channel in range(image.shape[2]):
        picture = Image.fromarray(np.ascontiguousarray(image[..., channel]))
        picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        channels.append(np.asarray(picture))
    return np.stack(channels, axis=2)


def cropped(image: UInt8[ndarray, "h w c"], box: Box) -> UInt8[ndarray, "_ _ c"]:
    """Return the part of an image in a box, whose ends are rounded. Raises ValueError if there is none."""
    left, top, right, bottom = (max(0, round(end)) for end in box)
    part = image[top:bottom, left:right]
    if not part.size:
        raise ValueError("the box lies outside of the image")
    return part


def _described(
    model: Model, images: ImageSource, boxes: Sequence[Box] | None, config: RetrievalConfig, context: Context, what: str
) -> Float[Tensor, "n d"]:
    """Return the feature of every image, or of the part in its box, on the CPU."""
    backbone, extraction = model.backbone, context.extraction()
    longest, own = evaluation_view(backbone, extraction).size, backbone.config
    source = images.with_slices(own.slices)
    smallest = backbone.patch_size * (2 if config.multi_scale else 1)

    def shown(index: int) -> UInt8[ndarray, "_ _ c"]:
        try:
            image = source.read(index).pixels(own.channels, own.window)
            image = shrunk(image if boxes is None else cropped(image, boxes[index]), longest)
        except (UnreadableImage, ValueError) as error:
            raise UserError(f"{images.name}/{images.keys[index]}: {error}, and all images are needed") from error
        if min(image.shape[:2]) < smallest:
            size = f"{image.shape[1]} x {image.shape[0]} pixels"
            raise UserError(
                f"{images.name}/{images.keys[index]}: {size} are shown of it, and {own.name} needs {smallest} a side"
            )
        return image

    threads = max(1, workers_for(context.workers))
    features = list[Tensor]()
    with describing(backbone, extraction), context.watch(what) as progress, torch.inference_mode():
        device = backbone.mean.device
        for image in base.mapped_ahead(shown, range(len(images)), threads, 2 * threads):
            pixels = torch.as_tensor(image).permute(2, 0, 1)[None].to(device)
            with autocast(context.precision, device):
                features.append(_feature(backbone, backbone.normalize(pixels), config).cpu())
            progress(len(features), len(images))
            if config.feature == "image" and features[-1].shape[1] != backbone.dim:
                raise UserError(
                    f"the feature of {own.name} changes its length with the shape of the image, and here images keep "
                    "their shape: it cannot be measured"
                )
    return torch.cat(features)


def _feature(backbone: Backbone, pixels: Float[Tensor, "1 c h w"], config: RetrievalConfig) -> Float[Tensor, "1 d"]:
    parts = list[Tensor]()
    for scale in SCALES if config.multi_scale else (1.0,):
        scaled = pixels if scale == 1 else interpolate(pixels, scale_factor=scale, mode="bilinear", align_corners=False)
        tokens = backbone(scaled)
        part = tokens.feature if config.feature == "image" else generalised_mean(tokens.patches.float(), config.p)
        parts.append(part.float())
    return torch.stack(parts).mean(dim=0)


def generalised_mean(patches: Float[Tensor, "b n d"], p: float) -> Float[Tensor, "b d"]:
    """Return (mean over patches of max(x, 1e-6)^p)^(1/p): GeM (Radenovic et al. 2019, equation 3)."""
    return patches.clamp(min=_GEM_FLOOR).pow(p).mean(dim=1).pow(1 / p)


def landmark_scores(
    truth: Landmarks, database: Float[Tensor, "n d"], queries: Float[Tensor, "q d"]
) -> tuple[list[Metric], Items]:
    """Return mAP and mP@k in % of each setup that has queries with positives, and the AP of each query.

    Metrics are `retrieval_easy_map`, and `retrieval_easy_mp` with the parameter k; likewise of medium and hard. Means
    are over the queries with positives in the setup. Items are the queries with positives in all of these setups.

    Raises UserError if no query has positives, or a feature is not finite.
    """
    similarities = unit(queries) @ unit(database).T
    metrics, precisions = list[Metric](), dict[str, Tensor]()
    for setup, (positives, junk) in SETUPS.items():
        scores = rank_scores(similarities, truth.marked(positives), truth.marked(junk))
        is_query = ~scores.average_precision.isnan()
        if not is_query.any():
            _log.warning("%s: no query has positives in the setup %s, which is left out", truth.file, setup)
            continue
        values = torch.cat([scores.average_precision[:, None], scores.precision], dim=1)[is_query]
        estimates = mean_intervals(values, limits=[(0.0, 1.0)] * values.shape[1])
        metrics.append(estimate_metric(f"retrieval_{setup}_map", estimates[0], len(values)))
        for k, estimate in zip(KS, estimates[1:], strict=True):
            metrics.append(estimate_metric(f"retrieval_{setup}_mp", estimate, len(values), {"k": k}))
        precisions[f"retrieval_{setup}_map"] = 100 * scores.average_precision
    if not metrics:
        raise UserError(f"{truth.file}: no query has positives")
    whole = ~torch.stack(list(precisions.values())).isnan().any(dim=0)
    names = tuple(name for name, is_whole in zip(truth.queries, whole, strict=True) if is_whole)
    left_out = {name: "no positives in one of the setups" for name in truth.queries if name not in names}
    figures = {name: tuple(map(float, values[whole])) for name, values in precisions.items()}
    return metrics, Items(names, figures, left_out)


# The evaluation


def run(models: Sequence[Model], data: Data, config: RetrievalConfig, context: Context) -> Iterator[Result]:
    """Rank the database for each query of Oxford or Paris, or for each labelled image all others.

    Of labelled images, those of the val split are ranked, or of the only one. Entries of the protocol: those of
    `Context.network`; uncropped, multi_scale, image_feature, p (None without generalised mean); whitened_on, whitening
    (None, or a folder and a digest of its images); data (folder). Of Oxford and Paris: database_images, query_images,
    truth (digest of the ground truth), and no crop_fraction. Of labelled images: images, classes, without_positives;
    those of `base.grouping`.

    Raises UserError if the ground truth is wrong, an image of it is missing or unreadable, there are no labels or a
    single class, nothing has positives, whitening would be learned on these images, or settings do not fit the data.
    """
    file = truth_file(data)
    if file is None:
        images = _labelled_images(data, config, context)
        others = _whitening_images(data, config, [images])
        for model in models:
            bank = context.features(model.backbone, images, "features of the images")
            if others is not None:
                seen = context.features(model.backbone, others, "features for whitening")
                bank = replace(bank, features=pca_whitening(unit(seen.features))(unit(bank.features)).float())
            metrics, without = leave_one_out(bank, config, context)
            found = {"images": len(bank.features), "without_positives": without}
            yield new_result("retrieval", _protocol(model, images, others, config, context) | found, metrics)
        return
    truth = _landmarks(file, context)
    gallery, asked = truth.images(truth.database), truth.images(truth.queries)
    others = _whitening_images(data, config, [gallery, asked])
    for model in models:
        if config.feature == "gem":
            require_patches(model.backbone, "the generalised mean")
        database = _described(model, gallery, None, config, context, "features of the database")
        boxes = None if config.uncropped else truth.boxes
        queries = _described(model, asked, boxes, config, context, "features of the queries")
        if others is not None:
            seen = _described(model, others, None, config, context, "features for whitening")
            whiten = pca_whitening(unit(seen))
            database, queries = whiten(unit(database)), whiten(unit(queries))
        metrics, items = landmark_scores(truth, database, queries)
        yield new_result("retrieval", _protocol(model, truth, others, config, context), metrics, items)


def _landmarks(file: Path, context: Context) -> Landmarks:
    refused: Mapping[str, Any] = {
        "--crop-fraction": context.crop_fraction,
        "--group": None if context.group == NONE else context.group,
        "--split": context.share,
    }
    for option, value in refused.items():
        if value is not None:
            raise UserError(f"{file.parent}: leave out {option}, as {file.name} says what is shown and ranked")
    return read_landmarks(file)


def check(data: Data, config: RetrievalConfig, context: Context) -> None:
    file = truth_file(data)
    if file is not None:
        _landmarks(file, context)
        return
    _refuse_options_of_landmarks(config)
    val = _only_val(data)
    base.require_labels(data if val is None else val, context)


def _refuse_options_of_landmarks(config: RetrievalConfig) -> None:
    if config.uncropped or config.multi_scale or config.feature != "image":
        option = "--uncropped" if config.uncropped else "--multi-scale" if config.multi_scale else "--feature gem"
        raise UserError(
            f"{option} is for revisited Oxford and Paris: there is no gnd_NAME.pkl or gnd_NAME.json right in the data"
        )


def _only_val(data: Data) -> Path | None:
    """Return the val split of a folder that has no other: nothing is trained."""
    return find_split(data, "val") if isinstance(data, Path) and find_split(data, "train") is None else None


def _labelled_images(data: Data, config: RetrievalConfig, context: Context) -> ImageSource:
    _refuse_options_of_landmarks(config)
    val = _only_val(data)
    known, queries = base.labelled_images(data, context) if val is None else base.images_of(val, None, context)
    return known if queries is None else queries


def _protocol(
    model: Model,
    images: ImageSource | Landmarks | None,
    others: ImageSource | None,
    config: RetrievalConfig,
    context: Context,
) -> dict[str, Any]:
    protocol = {
        **context.network(model),
        "uncropped": config.uncropped,
        "multi_scale": config.multi_scale,
        "image_feature": config.feature,
        "p": config.p if config.feature == "gem" else None,
        "whitened_on": None if others is None else base.location(others),
        "whitening": None if others is None else others.fingerprint()[:12],
    }
    if images is None:
        del protocol["crop_fraction"]  # whether there is one depends on the data
    elif isinstance(images, Landmarks):
        del protocol["crop_fraction"]
        protocol |= {"data": str(images.file.parent), "truth": images.digest}
        protocol |= {"database_images": len(images.database), "query_images": len(images.queries)}
    else:
        protocol |= {"data": base.location(images), "classes": len(images.classes)}
        protocol |= base.grouping((images, None), context)
    return protocol


def expected(model: Model, data: Data, config: RetrievalConfig, context: Context) -> dict[str, Any]:
    others = _whitening_images(data, config)
    if data is None:
        return base.expected_grouping(None, context) | _protocol(model, None, others, config, context)
    file = truth_file(data)
    if file is not None:
        return _protocol(model, _landmarks(file, context), others, config, context)
    images = _labelled_images(data, config, context)
    protocol = _protocol(model, images, others, config, context)
    return base.expected_grouping((images, None), context) | protocol | {"images": len(images)}


def protocol_line(protocol: Mapping[str, Any]) -> str:
    weights = f", weights {protocol['weights']}" if "weights" in protocol else ""
    weights += base.made_of(protocol)
    weights += f", whitened on {protocol['whitened_on']}" if protocol["whitened_on"] else ""
    if "truth" not in protocol:
        without = f" ({protocol['without_positives']} have no positives)" if protocol["without_positives"] else ""
        junk = ", none of the same group" if "group" in protocol else ""
        return (
            f"{protocol['images']} images{without}, each against all others{junk}, {protocol['classes']} classes, "
            f"{protocol['image_size']} px{weights}, data {protocol['data']}{base.grouping_words(protocol)}"
        )
    feature = "image feature" if protocol["image_feature"] == "image" else f"GeM of patches (p = {protocol['p']:g})"
    scales = "scales 1, 0.71 and 0.5" if protocol["multi_scale"] else "one scale"
    queries = "shown whole, as in DINO's script" if protocol["uncropped"] else "cropped to their boxes"
    return (
        f"{protocol['query_images']} queries, {queries}, against {protocol['database_images']} images; longest side at "
        f"most {protocol['image_size']} px, {scales}, {feature}{weights}, data {protocol['data']}, ground truth "
        f"{protocol['truth']}"
    )


def headline(result: Result) -> Metric | None:
    """Return mAP of labelled images, or of the setup Medium."""
    return result.metric("retrieval_map") or result.metric("retrieval_medium_map")


def tables(labelled: Labelled, published: bool) -> list[Table]:
    """Return one table of mAP with a row for each model, and one of all metrics."""
    protocol = labelled[0][1].protocol
    if "truth" not in protocol:
        items = "groups" if "group" in protocol else "images"
        remarks = [f"Intervals: 95 %, over the {items}."]
        first = base.models_table(labelled, {"retrieval_map": "mAP"}, "mAP in %", remarks, rank="retrieval_map")
        return [first, *base.metrics_table(labelled)]
    titles = {f"retrieval_{setup}_map": setup.capitalize() for setup in SETUPS}
    theirs = None
    if published and protocol["database_images"] in PUBLISHED:
        benchmark, rows = PUBLISHED[protocol["database_images"]]
        figures = {
            label: {"retrieval_medium_map": medium, "retrieval_hard_map": hard}
            for label, (medium, hard) in rows.items()
        }
        source = (
            f"Published: {benchmark}, pre-trained on ImageNet unless named (Caron et al. 2021, table 3). DINO's script "
            "does not crop queries; its recipes are 224 px and one scale for Oxford, 512 px and three for Paris."
        )
        theirs = ("Published", figures, source)
    remarks = ["Intervals: 95 %, over the queries."]
    rank = "retrieval_medium_map"
    first = base.models_table(labelled, titles, "mAP in % by setup", remarks, rank=rank, published=theirs)
    return [first, *base.metrics_table(labelled)]


EVALUATION = base.Evaluation(
    "retrieval",
    "Retrieval",
    "Rank images by the similarity of their features: revisited Oxford and Paris, or any labelled images.",
    "labels",
    RetrievalConfig,
    run,
    (base.Column("retrieval", "Retrieval mAP", "retrieval_map", pick=headline),),
    protocol_line,
    expected,
    check,
    uses=base.OF_LABELLED_IMAGES,
    tables=tables,
)
