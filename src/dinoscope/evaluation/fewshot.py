"""Few labels: accuracy of frozen features when few labels of each class are known, over many draws of these labels.

Three classifiers see the same labelled images, and are measured on all images of the val split. Features are the
network's image feature (of the class token), L2-normalised, without augmentation:

- centroid: the nearest mean of a class's features (Euclidean distance).
- knn: weighted k-NN as in `knn`, temperature 0.07, with k = 20, or as many as the class with the fewest labels has:
  DINOv2's evaluation also has no k above the images of a class, but chooses among 10, 20, 100 and 200.
- logistic: multinomial logistic regression without intercept, the mean cross-entropy + lambda / 2 x the squared
  weights, with lambda = 0.1 / labels. That is the protocol of DINO's tables 10 and 12 (facebookresearch/dino issue
  121). Different here: the minimum is found to within 1e-8 of the loss (there: at most 100 epochs, tolerance 1e-3), and
  labels are drawn 20 times (there: one published list).

A draw ranks the images of each class by a hash of seed, draw and path, and a number of labels takes the first ones. So
draws are the same for every model, and a set with few labels is part of every larger set of its draw. With groups
(patients, videos), a class's first labels are of distinct groups, as far as it has them. Queries share no group with
labelled images if the split was made by groups (`--group` with `--split`).

A class with fewer images than asked for gives all it has; a number above the images of every class is left out. Both
are logged. Percents are of each class's images, rounded, and at least one image, as `--label-fraction` takes them.

Intervals (95 %) are over draws and images at once, see `statistics.crossed_metrics`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dinoscope.data.sources import ImageSource, hash_rank
from dinoscope.errors import UserError
from dinoscope.evaluation import base
from dinoscope.evaluation.base import Context, Data, Labelled
from dinoscope.evaluation.knn import K, KNNConfig, labels_as_in, predict, unit
from dinoscope.evaluation.results import new_result
from dinoscope.evaluation.statistics import crossed_metrics
from dinoscope.features import Progress
from dinoscope.model_names import Model
from dinoscope.tables import BOLD, Column, Line, LineChart, LinePanel, Section, Table, TableRow, best_marked
from dinoscope.text import ABSENT
from dinoscope.types import FeatureBank, Metric, Result

Classifier = Literal["centroid", "knn", "logistic"]
TITLES: dict[Classifier, str] = {
    "centroid": "Nearest centroid",
    "knn": "Weighted k-NN",
    "logistic": "Logistic regression",
}
TOLERANCE = 1e-8
"""How far above its minimum the loss of the logistic regression may be, in nats."""
MAX_ITERATIONS = 1_000
"""As many as DINOv2's evaluation allows."""

PUBLISHED: dict[str, dict[str, dict[float, float]]] = {
    "knn": {"DINO, ViT-S/16": {1: 61.3, 10: 69.1}, "DINO, ResNet-50": {1: 47.2, 10: 59.3}},
    "logistic": {"DINO, ViT-S/16": {1: 64.5, 10: 72.2}, "DINO, ResNet-50": {1: 55.1, 10: 67.8}},
}
"""Top-1 on ImageNet by percent of the labels (Caron et al. 2021, tables 10 and 12)."""

_HISTORY = 10  # steps that L-BFGS remembers
_MAX_HALVINGS = 40
_ROWS = 1024  # queries at a time

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FewshotConfig:
    """Settings of the evaluation with few labels.

    max_bytes: working memory to aim for besides the banks; one draw at a time is the minimum.

    Raises UserError if a value is out of range.
    """

    counts: tuple[int, ...] = (1, 2, 5, 10, 20)
    """Numbers of labels of each class."""

    percents: tuple[float, ...] = (1.0, 10.0)
    """Percents of the labels of each class, at least one label."""

    draws: int = 20
    """How often labels are drawn."""

    classifiers: tuple[Classifier, ...] = ("centroid", "knn", "logistic")
    """What classifies."""

    regularisation: float = 0.1
    """Logistic regression: lambda times the number of labels (DINO's 0.1; scikit-learn's C is 1 / this)."""

    seed: int = 0
    """Seed of the draws, which are the same for every model."""

    max_bytes: int = field(default=256 * 2**20, metadata=base.INTERNAL)

    def __post_init__(self) -> None:
        if not self.counts and not self.percents:
            raise UserError("no number of labels: give --counts or --percents")
        if wrong := [count for count in self.counts if count < 1]:
            raise UserError(f"--counts are 1 or more, not {wrong[0]}")
        if wrong := [percent for percent in self.percents if not 0 < percent <= 100]:
            raise UserError(f"--percents are above 0 and at most 100, not {wrong[0]:g}")
        if self.draws < 1:
            raise UserError(f"--draws must be 1 or more, not {self.draws}")
        if self.seed < 0:
            raise UserError(f"the seed must be 0 or more, not {self.seed}")
        if not self.classifiers or not set(self.classifiers) <= TITLES.keys():
            raise UserError(
                f"--classifiers are some of {', '.join(TITLES)}, not {' '.join(self.classifiers) or 'none'}"
            )
        if not 0 < self.regularisation < float("inf"):
            raise UserError(f"--regularisation must be above 0, not {self.regularisation:g}")

    @property
    def amounts(self) -> tuple[Amount, ...]:
        """All numbers of labels, each once and in ascending order: counts, then percents."""
        counts = [Amount("labels", count) for count in sorted(set(self.counts))]
        return (*counts, *(Amount("percent", percent) for percent in sorted(set(self.percents))))


@dataclass(frozen=True)
class Amount:
    """How many labels of each class are known: a number, or a percent of the class's images."""

    kind: Literal["labels", "percent"]
    value: float

    @property
    def title(self) -> str:
        return f"{self.value:g}" if self.kind == "labels" else f"{self.value:g} %"

    def of_classes(self, sizes: Int[np.ndarray, " c"]) -> Int[np.ndarray, " c"]:
        """Return how many labels classes of so many images give."""
        if self.kind == "labels":
            return np.minimum(sizes, int(self.value))
        return np.maximum(1, np.rint(sizes * (self.value / 100))).astype(np.int64)


def usable_amounts(config: FewshotConfig, sizes: Int[np.ndarray, " c"]) -> tuple[Amount, ...]:
    """Return the amounts that not every class is too small for. sizes: images of each class.

    Raises UserError if none is left.
    """
    usable = tuple(each for each in config.amounts if each.kind == "percent" or each.value <= sizes.max())
    if not usable:
        raise UserError(
            f"no class has {min(config.counts)} images, the largest has {sizes.max()}: give smaller --counts"
        )
    return usable


# Draws


def priorities(bank: FeatureBank, classes: Int[np.ndarray, " n"], seed: int, draw: int) -> Int[np.ndarray, " n"]:
    """Return the place of each image among those of its class in one draw, from 0: the first ones are labelled.

    A pure function of seed, draw, and the paths, classes and groups of the images. The first images of a class are of
    distinct groups, then come second images of groups, and so on.
    """
    names = bank.paths or tuple(map(str, range(len(classes))))
    hashes = [hash_rank(seed, f"{draw}/{name}") for name in names]
    order = np.array(sorted(range(len(names)), key=hashes.__getitem__), dtype=np.int64)
    before = np.zeros(len(order), dtype=np.int64)  # how many of the class and group come earlier
    if bank.groups is not None:
        _, groups = np.unique(bank.groups.cpu().numpy(), return_inverse=True)
        before[order] = _places((classes * (groups.max() + 1) + groups)[order])
    order = order[np.argsort(before[order], kind="stable")]
    places = np.empty_like(order)
    places[order] = _places(classes[order])
    return places


def _places(kinds: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Return how many earlier elements are of each element's kind."""
    order = np.argsort(kinds, kind="stable")
    _, starts, counts = np.unique(kinds[order], return_index=True, return_counts=True)
    places = np.empty(len(kinds), dtype=np.int64)
    places[order] = np.arange(len(kinds)) - np.repeat(starts, counts)
    return places


# Classifiers


def fit_centroids(
    features: Float[Tensor, "b n d"], labels: Int[Tensor, "b n"], classes: int
) -> tuple[Float[Tensor, "b d c"], Float[Tensor, "b c"]]:
    """Return weights and biases whose largest logit is the class with the nearest mean, for each of b draws.

    Every class has at least one image. The nearest mean m of x has the largest x m - |m|^2 / 2.
    """
    sums = features.new_zeros(len(features), classes, features.shape[2])
    sums.scatter_add_(1, labels[:, :, None].expand_as(features), features)
    counts = features.new_zeros(len(features), classes).scatter_add_(1, labels, torch.ones_like(features[:, :, 0]))
    means = sums / counts[:, :, None]
    return means.transpose(1, 2), means.square().sum(dim=2) / -2


@torch.no_grad()
def fit_logistic(
    features: Float[Tensor, "b n d"], labels: Int[Tensor, "b n"], classes: int, penalty: float
) -> tuple[Float[Tensor, "b d c"], Bool[Tensor, " b"]]:
    """Return the weights with the smallest mean cross-entropy + penalty / 2 x squared weights, for each of b draws.

    features: float64, of length 1 at most.

    L-BFGS (Liu and Nocedal 1989) of all draws side by side, each with its own step. The loss is strongly convex, so
    |gradient|^2 / (2 penalty) bounds how far it is above its minimum (Boyd and Vandenberghe 2004, equation 9.9), and a
    draw is done when that is `TOLERANCE`. Also returns which draws are done after `MAX_ITERATIONS` at most.
    """
    shape = (len(features), features.shape[2], classes)

    def objective(weights: Float[Tensor, "b w"]) -> tuple[Float[Tensor, " b"], Float[Tensor, "b w"]]:
        logits = torch.bmm(features, weights.view(shape)).log_softmax(dim=2)
        loss = -logits.gather(2, labels[:, :, None]).mean(dim=(1, 2)) + penalty / 2 * weights.square().sum(dim=1)
        error = logits.exp_()
        error.scatter_add_(2, labels[:, :, None], error.new_full((), -1).expand(*labels.shape, 1))
        gradient = torch.bmm(features.transpose(1, 2), error) / features.shape[1]
        return loss, gradient.flatten(1) + penalty * weights

    weights = features.new_zeros(shape).flatten(1)
    loss, gradient = objective(weights)
    # The curvature of softmax is at most 1/2 (Boehning 1992), so that the first step cannot be too long.
    scale = features.new_full((shape[0],), 1 / (0.5 + penalty))
    history: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(MAX_ITERATIONS):
        is_done = gradient.square().sum(dim=1) <= 2 * penalty * TOLERANCE
        if is_done.all():
            break
        direction = -_inverse_hessian(gradient, history, scale).masked_fill(is_done[:, None], 0)
        slope = (direction * gradient).sum(dim=1)
        step = torch.ones_like(loss)
        for _ in range(_MAX_HALVINGS):
            moved = weights + step[:, None] * direction
            new_loss, new_gradient = objective(moved)
            is_lower = is_done | (new_loss <= loss + 1e-4 * step * slope)  # Armijo's rule
            if is_lower.all():
                break
            step = torch.where(is_lower, step, step / 2)
        else:
            break  # the loss cannot be told apart any more
        change, curvature = moved - weights, new_gradient - gradient
        product = (change * curvature).sum(dim=1)
        is_pair = product > 0
        inverse = torch.where(is_pair, product, 1).reciprocal().masked_fill(~is_pair, 0)
        scale = torch.where(is_pair, product / curvature.square().sum(dim=1).clamp(min=1e-300), scale)
        history = [*history[-_HISTORY + 1 :], (change, curvature, inverse)]
        weights, loss, gradient = moved, new_loss, new_gradient
    return weights.view(shape), gradient.square().sum(dim=1) <= 2 * penalty * TOLERANCE


def _inverse_hessian(
    gradient: Float[Tensor, "b w"],
    history: Sequence[tuple[Float[Tensor, "b w"], Float[Tensor, "b w"], Float[Tensor, " b"]]],
    scale: Float[Tensor, " b"],
) -> Float[Tensor, "b w"]:
    """Return L-BFGS's inverse Hessian times the gradient (Nocedal and Wright 2006, algorithm 7.4)."""
    found, shares = gradient.clone(), list[Tensor]()
    for change, curvature, inverse in reversed(history):
        shares.append(inverse * (change * found).sum(dim=1))
        found -= shares[-1][:, None] * curvature
    found *= scale[:, None]
    for (change, curvature, inverse), share in zip(history, reversed(shares), strict=True):
        found += (share - inverse * (curvature * found).sum(dim=1))[:, None] * change
    return found


def _classified(
    queries: Float[Tensor, "q d"], weights: Float[Tensor, "b d c"], biases: Float[Tensor, "b c"] | None
) -> Int[Tensor, "q b"]:
    """Return the class with the largest logit, for each query and draw."""
    flat, parts = weights.float().transpose(0, 1).flatten(1), list[Tensor]()
    for rows in torch.split(queries, _ROWS):
        logits = torch.mm(rows, flat).view(len(rows), len(weights), -1)
        parts.append((logits if biases is None else logits + biases.float()).argmax(dim=2))
    return torch.cat(parts)


# The measurement


def few_labels(
    known: FeatureBank,
    queries: FeatureBank,
    config: FewshotConfig,
    progress: Progress | None = None,
    device: torch.device | None = None,
) -> tuple[list[Metric], Int[np.ndarray, " c"]]:
    """Return top-1 accuracy in % of each classifier from each amount of labels, and the images of each class.

    Metrics are `fewshot_centroid`, `fewshot_knn` and `fewshot_logistic` with the parameter labels or percent: means
    over draws and queries, with intervals over both. Labels are matched by class name if both banks name their classes.
    device: where classifiers are computed; None for where the features are.

    Raises UserError if a bank is empty or has no labels, features differ in length or are not finite, or no amount fits
    the classes.
    """
    if known.features.shape[1] != queries.features.shape[1]:
        raise UserError("training and validation features differ in length: use one model for both")
    if known.labels is None or not len(known.features) or not len(queries.features):
        raise UserError("few labels need labelled images in both splits, one folder per class: DIR/CLASS/...")
    numbers, classes, sizes = np.unique(known.labels.cpu().numpy(), return_inverse=True, return_counts=True)
    amounts = usable_amounts(config, sizes)
    targets = labels_as_in(known.classes, queries).cpu()
    asked = FeatureBank(unit(queries.features if device is None else queries.features.to(device)))
    orders = [priorities(known, classes, config.seed, draw) for draw in range(config.draws)]
    unsolved, columns = 0, list[Tensor]()
    labels_in_all = sum(int(amount.of_classes(sizes).sum()) for amount in amounts)
    done, total = 0, labels_in_all * config.draws * len(config.classifiers)
    for amount in amounts:
        quotas = amount.of_classes(sizes)
        rows = torch.as_tensor(
            np.stack([(order < quotas[classes]).nonzero()[0] for order in orders])
        )  # [draws, labels]
        per_draw = 8 * (rows.shape[1] * (known.features.shape[1] + 2 * len(numbers)))
        per_draw += 16 * (_HISTORY + 3) * known.features.shape[1] * len(numbers)
        for classifier in config.classifiers:
            guesses: list[Tensor] = []
            for some in torch.split(rows, 1 if classifier == "knn" else max(1, config.max_bytes // per_draw)):
                features = unit(known.features[some.flatten()].to(asked.features.device)).view(*some.shape, -1)
                labels = torch.as_tensor(classes[some.numpy()], device=features.device)
                if classifier == "knn":
                    gallery = FeatureBank(features[0], labels[0])
                    neighbours = KNNConfig(ks=(min(K, int(quotas.min())),), max_bytes=config.max_bytes)
                    (ranked,) = predict(gallery, asked, neighbours).values()
                    guesses.append(ranked[:, :1].cpu())
                elif classifier == "centroid":
                    guesses.append(_classified(asked.features, *fit_centroids(features, labels, len(numbers))).cpu())
                else:
                    penalty = config.regularisation / some.shape[1]
                    if features.device.type == "mps":  # it has no float64
                        features, labels = features.cpu(), labels.cpu()
                    weights, is_solved = fit_logistic(features.double(), labels, len(numbers), penalty)
                    unsolved += int((~is_solved).sum())
                    guesses.append(_classified(asked.features, weights.float().to(asked.features.device), None).cpu())
                done += some.numel()
                if progress is not None:
                    progress(done, total)
            columns.append(torch.as_tensor(numbers)[torch.cat(guesses, dim=1)] == targets[:, None])
    if unsolved:
        _log.warning("%d logistic regressions did not converge in %d iterations", unsolved, MAX_ITERATIONS)
    named = [(f"fewshot_{each}", {amount.kind: amount.value}) for amount in amounts for each in config.classifiers]
    return crossed_metrics(named, torch.stack(columns, dim=2), queries.groups), sizes


def run(models: Sequence[Model], data: Data, config: FewshotConfig, context: Context) -> Iterator[Result]:
    """Classify the val split from few labels of the train split.

    Entries of the protocol: those of `Context.network`; counts, percents, draws, classifiers, regularisation, seed;
    k (at most), temperature; train, val (folders), train_images, val_images, classes; smallest_class, largest_class
    (in images), labels (number of labels in all, by title of the amount); those of `base.grouping`.

    Raises UserError if a split or labels are missing, there is one class only, or val has classes that train lacks.
    """
    train, val = images = base.images_of_splits(data, context, what="few labels")
    for place, model in enumerate(models):
        known = context.features(model.backbone, train, "features of the training images")
        queries = context.features(model.backbone, val, "features of the validation images")
        with context.watch("classifying from few labels") as progress:
            metrics, sizes = few_labels(known, queries, config, progress, context.device)
        amounts = usable_amounts(config, sizes)
        found = {
            "train_images": len(known.features),
            "val_images": len(queries.features),
            "smallest_class": int(sizes.min()),
            "largest_class": int(sizes.max()),
            "labels": {amount.title: int(amount.of_classes(sizes).sum()) for amount in amounts},
        }
        result = new_result("fewshot", _protocol(model, images, config, context) | found, metrics)
        for line in _short_classes(result.protocol) if place == 0 else ():
            _log.warning("%s: %s", train.name, line)
        yield result


def _short_classes(protocol: Mapping[str, Any]) -> Iterator[str]:
    """Yield what became of numbers of labels that not all classes have."""
    largest, smallest = protocol["largest_class"], protocol["smallest_class"]
    if left_out := [f"{count}" for count in protocol["counts"] if count > largest]:
        yield f"no class has {' or '.join(left_out)} images, so this number of labels is left out"
    if some := [f"{count}" for count in protocol["counts"] if smallest < count <= largest]:
        yield f"not every class has {' or '.join(some)} images (the smallest has {smallest}); such a class gives all"


def _protocol(
    model: Model, images: tuple[ImageSource, ImageSource] | None, config: FewshotConfig, context: Context
) -> dict[str, Any]:
    protocol = {
        **context.network(model),
        "counts": sorted(set(config.counts)),
        "percents": sorted(set(config.percents)),
        "draws": config.draws,
        "classifiers": [name for name in TITLES if name in config.classifiers],
        "regularisation": config.regularisation,
        "k": K,
        "temperature": KNNConfig.temperature,
        "seed": config.seed,
    }
    if images is not None:
        train, val = images
        protocol |= {"classes": len(train.classes), "train": base.location(train), "val": base.location(val)}
        protocol |= base.grouping(images, context)
    return protocol


def expected(model: Model, data: Data, config: FewshotConfig, context: Context) -> dict[str, Any]:
    if data is None:
        return base.expected_grouping(None, context) | _protocol(model, None, config, context)
    images = base.images_of_splits(data, context, what="few labels")
    counts = {"train_images": len(images[0]), "val_images": len(images[1])}
    return base.expected_grouping(images, context) | _protocol(model, images, config, context) | counts


def protocol_line(protocol: Mapping[str, Any]) -> str:
    percents = [f"{percent:g} %" for percent in protocol["percents"]]
    labels = ", ".join([*map(str, protocol["counts"]), *percents])
    how = {
        "centroid": "nearest centroid",
        "knn": f"k-NN (k at most {protocol['k']}, temperature {protocol['temperature']:g})",
        "logistic": f"logistic regression (lambda {protocol['regularisation']:g} / labels, no intercept)",
    }
    weights = f", weights {protocol['weights']}" if "weights" in protocol else ""
    weights += base.made_of(protocol)
    return (
        f"{labels} of the labels of each class, {protocol['draws']} draws (seed {protocol['seed']}) of "
        f"{protocol['train_images']} training images, measured on {protocol['val_images']} validation images; "
        f"{'; '.join(how[name] for name in protocol['classifiers'])}; {protocol['classes']} classes, "
        f"{protocol['image_size']} px, features of length 1{weights}, "
        f"data {' and '.join(dict.fromkeys((protocol['train'], protocol['val'])))}{base.grouping_words(protocol)}"
    )


# Tables and charts


def _shown(labelled: Labelled) -> tuple[list[Amount], dict[str, str]]:
    """Return the amounts, and name and title of the classifiers, of results under one protocol."""
    protocol = labelled[0][1].protocol
    amounts = [Amount("labels", count) for count in protocol["counts"] if count <= protocol["largest_class"]]
    amounts += [Amount("percent", percent) for percent in protocol["percents"]]
    return amounts, {f"fewshot_{name}": title for name, title in TITLES.items() if name in protocol["classifiers"]}


def tables(labelled: Labelled, published: bool) -> list[Table]:
    """Return one table: a row for each model, a column for each number of labels, a section for each classifier."""
    amounts, titles = _shown(labelled)
    protocol, sections, is_bold, is_published = labelled[0][1].protocol, list[Section](), False, False
    for name, title in titles.items():
        figures = [[result.metric(name, **{a.kind: a.value}) for a in amounts] for _, result in labelled]
        rows = best_marked(
            [
                TableRow((label, *(ABSENT if metric is None else metric.text() for metric in own)))
                for (label, _), own in zip(labelled, figures, strict=True)
            ],
            [[None, *(None if metric is None else metric.value for metric in own)] for own in figures],
            lambda column, top, other, figures=figures: _above(figures[top][column - 1], figures[other][column - 1]),
        )
        is_bold = is_bold or any(row.best for row in rows)
        sections.append(Section(rows, title))
        theirs = PUBLISHED.get(name.removeprefix("fewshot_"), {})
        if published and protocol["classes"] == 1000 and theirs:
            cells = [
                (label, *(f"{own[a.value]:.1f}" if a.kind == "percent" and a.value in own else ABSENT for a in amounts))
                for label, own in theirs.items()
            ]
            sections.append(Section(tuple(map(TableRow, cells)), f"{title}, published"))
            is_published = True
    columns = (Column("Model"), *(Column(amount.title, "right") for amount in amounts))
    remarks = [f"{line[:1].upper()}{line[1:]}." for line in _short_classes(protocol)]
    remarks += [_interval_line(protocol), *([BOLD] if is_bold else [])]
    remarks += (
        ["Published: ImageNet, one list of labels (Caron et al. 2021, tables 10 and 12)."] if is_published else []
    )
    return [Table(columns, tuple(sections), "Top-1 in % by labels of each class", remarks=tuple(remarks))]


def _above(first: Metric | None, other: Metric | None) -> bool | None:
    """Return whether the intervals of two figures lie apart; None if there are none."""
    if first is None or other is None or first.low is None or other.high is None:
        return None
    return first.low > other.high


def _interval_line(protocol: Mapping[str, Any]) -> str:
    items, draws = "groups" if "group" in protocol else "images", protocol["draws"]
    if draws == 1:
        return f"Intervals: 95 %, over the validation {items} alone: labels were drawn once."
    return f"Means over {draws} draws of the labels; intervals: 95 %, over draws and validation {items}."


def charts(labelled: Labelled) -> list[LineChart]:
    """Return a panel for each classifier: accuracy by the mean number of labels of a class, a line for each model."""
    amounts, titles = _shown(labelled)
    protocol, panels = labelled[0][1].protocol, list[LinePanel]()
    per_class = {amount: protocol["labels"][amount.title] / protocol["classes"] for amount in amounts}
    for name, title in titles.items():
        lines: list[Line] = []
        for label, result in labelled:
            metrics = {per_class[a]: result.metric(name, **{a.kind: a.value}) for a in amounts}
            points = [
                (x, m.value, m.value if m.low is None else m.low, m.value if m.high is None else m.high)
                for x, m in sorted(metrics.items())
                if m is not None
            ]
            x, y, low, high = zip(*points, strict=True)
            lines.append(Line(label, x, y, low, high))
        panels.append(LinePanel(title, tuple(lines), "labels of each class", "top-1 (%)", log_x=True))
    return [LineChart("labels", "Accuracy by the number of labels", tuple(panels), _interval_line(protocol))]


def _csv(labelled: Labelled) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return a row for each model, classifier and number of labels."""
    amounts, titles = _shown(labelled)
    rows: list[tuple[str, ...]] = []
    for label, result in labelled:
        for name in titles:
            for amount in amounts:
                metric = result.metric(name, **{amount.kind: amount.value})
                if metric is not None:
                    ends = ("" if end is None else f"{end:.4f}" for end in (metric.low, metric.high))
                    total = str(result.protocol["labels"][amount.title])
                    rows.append(
                        (label, name.removeprefix("fewshot_"), amount.title, total, f"{metric.value:.4f}", *ends)
                    )
    return ("model", "classifier", "labels_of_each_class", "labels", "top1", "low", "high"), rows


EVALUATION = base.Evaluation(
    "fewshot",
    "Few labels",
    "Classify images from few labels of each class, by a model's frozen features, over many draws of the labels.",
    "labels",
    FewshotConfig,
    run,
    (
        base.Column("fewshot", "1 % labels", "fewshot_logistic", {"percent": 1}),
        base.Column("fewshot_10", "10 % labels", "fewshot_logistic", {"percent": 10}),
    ),
    protocol_line,
    expected,
    lambda data, config, context: base.require_labels(data, context),
    uses=base.OF_LABELLED_IMAGES,
    tables=tables,
    charts=charts,
    csv=_csv,
)
