"""Weighted k-NN classification of frozen features (Wu et al. 2018, section 3.4), in the protocol of DINO.

A query's class is voted by its k nearest gallery images, each with exp(cosine similarity / temperature).

The search is exact and costs little more than its matrix product. A block of similarities is reduced to the
largest of each group of columns, and only groups that reach the k-th best so far are looked into. Blocks take
every n-th gallery image, so that a gallery sorted by class looks alike in each of them.

Images of one group (a patient, a video) are alike whatever their class. If groups are known, no image of the query's
own group votes: their similarities are struck out of each block before it is searched.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from dinoscope.data.finding import find_split
from dinoscope.data.sources import label_fraction
from dinoscope.errors import UserError
from dinoscope.evaluation import base
from dinoscope.evaluation.base import Context, Data, Images
from dinoscope.evaluation.results import kept_name, new_result
from dinoscope.evaluation.statistics import share_metrics
from dinoscope.evaluation.whitening import pca_whitening
from dinoscope.model_names import Model
from dinoscope.types import FeatureBank, Metric, Result

K = 20
"""Neighbours of the headline figure, as in DINO's tables."""

_log = logging.getLogger(__name__)

_GROUP = 16  # columns per group; 8 and 32 were no faster on two cores
_MAX_COLUMNS = 8192  # gallery images per block; larger blocks leave the cache
_BYTES_PER_CANDIDATE = 128  # indices, keys and temporaries of one similarity that is looked into
_BYTES_PER_NEIGHBOUR = 64  # the same for one that is kept
_BYTES_PER_VOTE = 40  # a class's votes and their keys for one query
_BYTES_PER_MASK = 2  # whether an image is of the query's group
_BELOW_COSINES = -2.0
_RIDGE = 1e-3  # of whitening
_INDEX_MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class KNNConfig:
    """Settings of the weighted k-NN classifier; the defaults are DINO's.

    max_bytes: working memory to aim for besides the banks and the answer; one query against one block of the gallery
        is the minimum.
    """

    ks: tuple[int, ...] = (10, 20, 100, 200)
    """Numbers of neighbours that vote, each measured on its own."""

    temperature: float = 0.07
    """A neighbour votes with exp(cosine similarity / temperature)."""

    label_fraction: float = 1.0
    """Share of each class of the gallery that is used, in (0, 1]."""

    whitened: bool = False
    """Whiten the features first: subtract the gallery's mean and scale all principal axes to variance 1, so that
    cosines weigh every direction alike. This is not DINO's protocol."""

    gallery: Path | None = None
    """Instead of --data, with --query: folder whose labels are known, CLASS/..."""

    query: Path | None = None
    """Instead of --data, with --gallery: folder to be classified, CLASS/..."""

    max_bytes: int = field(default=256 * 2**20, metadata=base.INTERNAL)


def knn(gallery: FeatureBank, queries: FeatureBank, config: KNNConfig | None = None) -> Iterator[Metric]:
    """Return top-1 and top-5 accuracy in % for every k: `knn_top1` and `knn_top5` with the parameter k.

    Labels are matched by class name if both banks name their classes, else by number. A query whose class
    is not in the gallery counts as wrong. If both banks have groups, no image of the query's own group votes.

    Raises UserError if a bank is empty or has no labels, the banks do not fit each other, a feature is not
    finite, or a setting is out of range.
    """
    targets = labels_as_in(gallery.classes, queries)
    return _accuracies("knn", predict(gallery, queries, config), targets, queries.groups)


def leave_one_out(bank: FeatureBank, config: KNNConfig | None = None) -> Iterator[Metric]:
    """Like `knn` without a split, each image against all others of other groups: `knn_leave_one_out_top1`..."""
    targets = _labels(bank, "the image set")
    itself = torch.arange(len(bank.features), device=bank.features.device) if bank.groups is None else None
    return _accuracies("knn_leave_one_out", predict(bank, bank, config, exclude=itself), targets, bank.groups)


def predict(
    gallery: FeatureBank,
    queries: FeatureBank,
    config: KNNConfig | None = None,
    *,
    exclude: Int[Tensor, " q"] | None = None,
) -> dict[int, Int[Tensor, "q _"]]:
    """Return for every k the gallery's class numbers, best first: min(5, k, classes) of them per query.

    Classes with equal votes come in the order of their numbers, those without any vote included, as in the
    reference: the fifth guess may be a class that no neighbour has. The queries need no labels. `exclude`
    names for each query the one gallery image that may not vote. A k beyond the gallery is lowered to it, and
    logged. If both banks have groups, no image of a query's own group votes, and k is lowered to the largest number of
    images that may vote for a query; for other queries fewer vote.

    Raises UserError as `knn` does, or if a query's group is that of all gallery images.
    """
    config = config or KNNConfig()
    for bank, role in ((gallery, "the gallery"), (queries, "the query set")):
        if not bank.features.numel():
            raise UserError(f"{role} is empty; k-NN needs at least one image in it")
    if (width := gallery.features.shape[1]) != (other := queries.features.shape[1]):
        raise UserError(f"gallery features have {width} values, query features {other}: use one model for both")
    ks = _usable_ks(config, max_voters(gallery, queries) - (exclude is not None))
    device = queries.features.device
    unique, inverse = np.unique(_labels(gallery, "the gallery").cpu().numpy(), return_inverse=True)
    numbers, classes = torch.as_tensor(unique, device=device), torch.as_tensor(inverse, device=device)
    ranked: dict[int, list[Tensor]] = {k: [] for k in ks}
    per_query = _BYTES_PER_NEIGHBOUR * ks[-1] + _BYTES_PER_VOTE * len(numbers)
    for rows in _slices(len(queries.features), config.max_bytes // per_query):
        excluded = None if exclude is None else exclude[rows]
        groups = None
        if gallery.groups is not None and queries.groups is not None:
            groups = gallery.groups, queries.groups[rows]
        similarities, indices = nearest(
            gallery.features,
            queries.features[rows],
            ks[-1],
            exclude=excluded,
            groups=groups,
            max_bytes=config.max_bytes,
        )
        # Weights relative to the nearest neighbour's: the ranking stays as it is, and nothing can overflow.
        weights = ((similarities - similarities[:, :1]) / config.temperature).exp()
        votes = weights.new_zeros(len(weights), len(numbers))
        for start, k in zip((0, *ks), ks, strict=False):
            votes.scatter_add_(1, classes[indices[:, start:k]], weights[:, start:k])
            keys = _pack(votes, torch.arange(len(numbers), device=device))
            ranked[k].append(numbers[_unpack(keys.topk(min(5, k, len(numbers))).values)[1]])
    return {k: torch.cat(parts) for k, parts in ranked.items()}


def max_voters(gallery: FeatureBank, queries: FeatureBank) -> int:
    """Return the largest number of gallery images that are not of a query's own group; all if groups are unknown.

    Raises UserError if there are none for some query.
    """
    if gallery.groups is None or queries.groups is None:
        return len(gallery.features)
    numbers, counts = np.unique(gallery.groups.cpu().numpy(), return_counts=True)
    asked = np.unique(queries.groups.cpu().numpy())
    own = np.isin(numbers, asked)
    if len(numbers) == 1 and own[0]:
        raise UserError("all gallery images are of one group, and a query is too: it has no neighbour of another group")
    is_stranger = own.sum() < len(asked)  # some query's group is not in the gallery
    return len(gallery.features) - (0 if is_stranger else int(counts[own].min()))


@torch.no_grad()
def nearest(
    gallery: Float[Tensor, "n d"],
    queries: Float[Tensor, "q d"],
    k: int,
    *,
    exclude: Int[Tensor, " q"] | None = None,
    groups: tuple[Int[Tensor, " n"], Int[Tensor, " q"]] | None = None,
    max_bytes: int = KNNConfig.max_bytes,
) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """Return the k largest cosine similarities of each query and their gallery indices, nearest first.

    Exact in float32, on the queries' device; equal similarities come in the order of their indices. Features
    need not be normalised; a zero feature is at similarity 0 to all. `exclude` names for each query the one
    gallery index to leave out. `groups` are those of the gallery and of the queries: images of a query's own
    group are left out, and a query with fewer than k others has similarity -inf at the end. Working memory
    next to the answer stays near `max_bytes` at any size.

    Raises UserError if k is not in 1..n (1..n-1 with `exclude`) or a feature is not finite, ValueError for `exclude`
    and `groups` together.
    """
    if exclude is not None and groups is not None:
        raise ValueError("an image to leave out and groups to leave out exclude each other")
    available = len(gallery) - (exclude is not None)
    if not 1 <= k <= available:
        raise UserError(f"k must lie between 1 and {available}, the gallery images to choose from; got {k}")
    wanted = k + (exclude is not None)
    columns = max(1, min(_MAX_COLUMNS, max_bytes // (32 * gallery.shape[1])))
    per_query = (
        (16 + _BYTES_PER_MASK * (groups is not None)) * columns
        + 32 * gallery.shape[1]
        + 2 * _BYTES_PER_NEIGHBOUR * wanted
    )
    max_candidates = max_bytes // (2 * _BYTES_PER_CANDIDATE)
    keys = _search(gallery, queries, wanted, columns, max_bytes // per_query, max_candidates, groups)
    similarities, indices = _unpack(keys)
    if groups is not None:
        similarities = similarities.masked_fill(similarities == _BELOW_COSINES, -torch.inf)
    if exclude is None:
        return similarities, indices
    kept = indices != exclude[:, None]
    kept[:, -1] &= ~kept.all(dim=1)  # the excluded image is not among them: the last neighbour goes
    return similarities[kept].view(-1, k), indices[kept].view(-1, k)


def _search(
    gallery: Float[Tensor, "n d"],
    queries: Float[Tensor, "q d"],
    k: int,
    columns: int,
    rows: int,
    max_candidates: int,
    groups: tuple[Int[Tensor, " n"], Int[Tensor, " q"]] | None,
) -> Int[Tensor, "q k"]:
    """Return the k largest keys of each query, descending, from blocks of `rows` queries by `columns` images."""
    blocks = -(-len(gallery) // columns)
    width = -(-len(gallery) // (blocks * _GROUP)) * _GROUP
    queries, parts = unit(queries), list(_slices(len(queries), rows))
    similarity = queries.new_full((max((part.stop - part.start for part in parts), default=0), width), -torch.inf)
    floor = queries.new_full((len(queries),), _BELOW_COSINES)
    best = _pack(floor[:, None].expand(-1, k), torch.zeros((), dtype=torch.int64))
    for block in range(blocks):
        images = unit(gallery[block::blocks].to(queries.device))
        similarity[:, len(images) :] = -torch.inf  # the last blocks are one image shorter than the first
        index = torch.arange(block, block + width * blocks, blocks, device=queries.device).view(_GROUP, -1)
        for part in parts:
            own = similarity[: part.stop - part.start]
            torch.mm(queries[part], images.T, out=own[:, : len(images)])
            if groups is not None:
                theirs, ours = (numbers.to(queries.device) for numbers in (groups[0][block::blocks], groups[1][part]))
                own[:, : len(images)].masked_fill_(ours[:, None] == theirs, -torch.inf)
            grouped = own.view(len(own), _GROUP, -1)
            peaks = grouped.amax(dim=1)
            if block == 0 and peaks.shape[1] >= k:
                floor[part] = peaks.topk(k, sorted=False).values.amin(dim=1)  # k similarities are at least this large
            threshold = torch.maximum(floor[part], _unpack(best[part].amin(dim=1))[0])
            reached = peaks >= threshold[:, None]
            # Every row gets the room that the fullest may need: few rows at a time if one may be full.
            room = k + _GROUP * int(reached.sum(dim=1).max())
            for some in _slices(len(own), max_candidates // room):
                _absorb(best[part][some], grouped[some], reached[some], threshold[some], index)
    return best.sort(dim=1, descending=True).values


def _absorb(
    best: Int[Tensor, "q k"],
    similarity: Float[Tensor, "q m g"],
    reached: Bool[Tensor, "q g"],
    threshold: Float[Tensor, " q"],
    index: Int[Tensor, "m g"],
) -> None:
    """Put the similarities at or above the threshold into `best`, in place.

    A group g has m similarities, with gallery images `index[:, g]`. Groups not marked in `reached` have none.
    """
    k = best.shape[1]
    if 2 * int(reached.sum()) > reached.numel():  # collapsed features: picking would cost more than it saves
        best.copy_(torch.cat([best, _pack(similarity, index).flatten(1)], dim=1).topk(k, sorted=False).values)
        return
    row, group = reached.nonzero(as_tuple=True)
    members = similarity[row, :, group]
    hit, member = (members >= threshold[row, None]).nonzero(as_tuple=True)
    keys = _pack(members[hit, member], index[member, group[hit]])
    row = row[hit]  # ascending, so that a key's place in its row follows from how many came before
    count = row.bincount(minlength=len(best))
    place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    pool = best.new_full((len(best), k + int(count.max())), torch.iinfo(torch.int64).min)
    pool[:, :k] = best
    pool[row, k + place] = keys
    best.copy_(pool.topk(k, sorted=False).values)


def _pack(values: Float[Tensor, "*s"], index: Int[Tensor, "*#s"]) -> Int[Tensor, "*s"]:
    """Return int64 keys whose descending order is that of the values, equal values by ascending index.

    torch's topk and sort break ties as they like; keys have none. The upper half holds the float32's bits,
    inverted below zero so that they order as integers; the lower half holds the inverted index (< 2^32).
    """
    bits = (values + 0.0).view(torch.int32)  # + 0.0 makes -0.0 equal to 0.0
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (bits.long() << 32) | (_INDEX_MASK - index)


def _unpack(keys: Int[Tensor, "*s"]) -> tuple[Float[Tensor, "*s"], Int[Tensor, "*s"]]:
    """Return the values and indices that `_pack` put together."""
    bits = (keys >> 32).int()
    values = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32)
    return values, _INDEX_MASK - (keys & _INDEX_MASK)


def unit(features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Return the features in float32 at length 1; zero stays zero."""
    unit = normalize(features.float(), dim=1)
    if not unit.sum().isfinite():
        raise UserError("a feature is NaN or infinite: the model diverged, or its weights are damaged")
    return unit


def whitened(gallery: FeatureBank, *others: FeatureBank) -> tuple[FeatureBank, ...]:
    """Return the banks with features of length 1 whitened as the gallery's are, without a label.

    Raises UserError if a feature is not finite, or if all of the gallery are the same.
    """
    whiten = pca_whitening(unit(gallery.features), _RIDGE)
    return tuple(replace(bank, features=whiten(unit(bank.features)).float()) for bank in (gallery, *others))


def _slices(length: int, at_most: int) -> Iterator[slice]:
    """Yield slices of nearly equal size that cover `length`, each of `at_most` (at least 1) positions."""
    parts = -(-length // max(1, at_most))
    for part in range(parts):
        yield slice(length * part // parts, length * (part + 1) // parts)


def _accuracies(
    prefix: str, ranked: dict[int, Tensor], targets: Int[Tensor, " q"], groups: Int[Tensor, " q"] | None
) -> Iterator[Metric]:
    right = {k: classes == targets.to(classes.device)[:, None] for k, classes in ranked.items()}
    hits = torch.stack([column for own in right.values() for column in (own[:, 0], own.any(dim=1))], dim=1)
    named = [(f"{prefix}_top{top}", {"k": k}) for k in ranked for top in (1, 5)]
    yield from share_metrics(named, hits, None if groups is None else groups.to(hits.device))


def _usable_ks(config: KNNConfig, available: int) -> tuple[int, ...]:
    """Return the distinct ks in ascending order, none above the number of gallery images."""
    if not config.ks or min(config.ks) < 1:
        raise UserError(f"k-NN needs at least one k, each 1 or more; got {config.ks}")
    if not config.temperature > 0:
        raise UserError(f"the k-NN temperature must be above 0 (DINO: 0.07); got {config.temperature}")
    if available < 1:
        raise UserError("k-NN needs at least one other image in the gallery")
    if too_large := sorted({k for k in config.ks if k > available}):
        _log.warning("k of %s lowered to %d: the gallery has no more images", too_large, available)
    return tuple(sorted({min(k, available) for k in config.ks}))


def _labels(bank: FeatureBank, role: str) -> Int[Tensor, " n"]:
    if bank.labels is None:
        raise UserError(f"{role} has no labels; k-NN needs one folder per class: DIR/CLASS/image.jpg")
    return bank.labels


def labels_as_in(classes: Sequence[str], queries: FeatureBank) -> Int[Tensor, " q"]:
    """Return the queries' labels in the numbering of the gallery's classes, -1 for a class that is not among them."""
    labels = _labels(queries, "the query set")
    if not classes or not queries.classes or tuple(classes) == queries.classes:
        return labels
    number = {name: position for position, name in enumerate(classes)}
    if number.keys().isdisjoint(queries.classes):
        raise UserError(
            f"no class of the query set ({', '.join(queries.classes[:5])}...) is in the gallery "
            f"({', '.join(classes[:5])}...): give two splits of one data set"
        )
    return torch.tensor([number.get(name, -1) for name in queries.classes], device=labels.device)[labels]


# The evaluation


def run(models: Sequence[Model], data: Data, config: KNNConfig, context: Context) -> Iterator[Result]:
    """Extract the features of gallery and queries, and vote; without queries each image is classified by all others.

    Entries of the protocol: those of `Context.network`; temperature; label_fraction; whitened, if the features are;
    classes; gallery, queries (their folders; queries None if each image was classified by all others); gallery_images,
    query_images; those of `base.grouping`, and with groups max_voters, the largest number of images that may vote for
    a query.

    Raises UserError if there are no labels or a single class, the queries have classes that the gallery lacks, or a
    fraction of the labels is asked for without queries.
    """
    gallery, queries = images = _images(data, config, context)
    if config.label_fraction != 1:
        gallery = label_fraction(gallery, config.label_fraction, base.LABEL_SEED)
    for model in models:
        bank = context.features(model.backbone, gallery, "features of the gallery")
        queried = bank if queries is None else context.features(model.backbone, queries, "features of the queries")
        if config.whitened:
            bank, queried = whitened(bank, queried)
        metrics = leave_one_out(bank, config) if queries is None else knn(bank, queried, config)
        counts = {"gallery_images": len(bank.features), "query_images": len(queried.features)}
        counts |= {"max_voters": max_voters(bank, queried)} if bank.groups is not None else {}
        yield new_result("knn", _protocol(model, images, config, context) | counts, metrics)


def check(data: Data, config: KNNConfig, context: Context) -> None:
    with _one_source(data, config):
        if config.gallery is None:
            base.require_labels(data, context)
        else:
            base.images_of(config.gallery, config.query, replace(context, group=None))


@contextlib.contextmanager
def _one_source(data: Data, config: KNNConfig) -> Generator[None, None, None]:
    """Refuse anything but --data, or --gallery with --query; of a single split, name these in the refusal."""
    if (config.gallery is None) != (config.query is None) or (data is None) == (config.gallery is None):
        raise UserError("give either --data, or --gallery and --query together")
    try:
        yield
    except UserError as error:
        if isinstance(data, Path) and (find_split(data, "train") is None) != (find_split(data, "val") is None):
            raise UserError(f"{error} Or name two folders yourself with --gallery and --query.") from error
        raise


def _images(data: Data, config: KNNConfig, context: Context = base.DEFAULT_CONTEXT) -> Images:
    with _one_source(data, config):
        gallery, queries = (
            base.labelled_images(data, context)
            if config.gallery is None
            else base.images_of(config.gallery, config.query, context)
        )
    if queries is None and config.label_fraction != 1:
        raise UserError("--label-fraction needs queries apart from the gallery: a val split, --query, or --split")
    if queries is not None:
        base.require_known_classes(gallery, queries)
    return gallery, queries


def _protocol(model: Model, images: Images | None, config: KNNConfig, context: Context) -> dict[str, Any]:
    protocol = {
        **context.network(model),
        "temperature": config.temperature,
        "label_fraction": config.label_fraction,
    }
    protocol |= {"whitened": True} if config.whitened else {}
    if images is not None:
        gallery, queries = images
        protocol |= {"classes": len(gallery.classes), "gallery": base.location(gallery)}
        protocol["queries"] = None if queries is None else base.location(queries)
        protocol |= base.grouping(images, context)
    return protocol


def expected(model: Model, data: Data, config: KNNConfig, context: Context) -> dict[str, Any]:
    unlike = {} if config.whitened else {"whitened": None}  # no entry
    if data is None and config.gallery is None:
        return base.expected_grouping(None, context) | _protocol(model, None, config, context) | unlike
    gallery, queries = images = _images(data, config, context)
    # Images may have come or gone since; the count of the gallery tells nothing about a fraction.
    counts = {"query_images": len(gallery if queries is None else queries)}
    counts |= {"gallery_images": len(gallery)} if config.label_fraction == 1 else {}
    return base.expected_grouping(images, context) | _protocol(model, images, config, context) | counts | unlike


def protocol_line(protocol: Mapping[str, Any]) -> str:
    gallery = f"{protocol['gallery_images']} gallery images"
    if protocol["label_fraction"] != 1:
        gallery += f" ({100 * protocol['label_fraction']:.3g} % of the labels)"
    queries = f"{protocol['query_images']} queries" if protocol["queries"] else "each against all others"
    weights = f", weights {protocol['weights']}" if "weights" in protocol else ""
    places = dict.fromkeys(place for place in (protocol["gallery"], protocol["queries"]) if place)
    data = " and ".join(places) + base.grouping_words(protocol)
    queries += ", no neighbour of the same group" if "group" in protocol else ""
    weights += base.made_of(protocol)
    return (
        f"{gallery}, {queries}, {protocol['classes']} classes, {protocol['image_size']} px, "
        f"temperature {protocol['temperature']:g}{', whitened' * ('whitened' in protocol)}{weights}, data {data}"
    )


def headline(result: Result) -> Metric | None:
    """Return top-1 with k = 20, or with the largest k if no more than 20 images may vote."""
    top1 = {metric.parameters["k"]: metric for metric in result.metrics if metric.name.endswith("top1")}
    few = result.protocol.get("max_voters", result.protocol.get("gallery_images", K + 1)) <= K
    return top1.get(K, top1[max(top1)] if few and top1 else None)


EVALUATION = base.Evaluation(
    "knn",
    "k-NN",
    "Classify images by their nearest neighbours among a model's features; nothing is trained.",
    "labels",
    KNNConfig,
    run,
    (base.Column("knn", "k-NN", "knn_top1", {"k": K}, pick=headline),),
    protocol_line,
    expected,
    check,
    default=True,
    uses=base.OF_LABELLED_IMAGES,
    train_data=lambda data, config: data if config.gallery is None else _images(data, config),
    file_name=lambda config, protocol: kept_name("knn", protocol["label_fraction"]) + "-whitened" * config.whitened,
)
