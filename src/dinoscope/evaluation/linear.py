"""Linear probes: a linear classifier trained on frozen features, by a fast protocol or by DINO's own.

fast: features are extracted once and standardised with the training images' mean and deviation. All learning rates of a
grid (as DINOv2 sweeps them: Oquab et al. 2023, appendix B.3) are tried at once, and the one that is best on training
images held out for it is used; of few training images, the one that is best in cross-validation. The images that are
reported on choose nothing. Groups of images (of a patient, a video) are held out whole.

reference: as in DINO's evaluation, training images are augmented again in every epoch: frozen network in evaluation
mode, crops of 8 to 100 % of the area and flips, SGD with momentum 0.9 without weight decay, batch size / 256 times the
base rate, cosine to 0 by the epoch, features as they are, crops resized bilinearly. Different here: the rest of an
epoch that fills no batch is left out, and the figure is the last epoch's, not the best one's on the validation images.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dinoscope.data.images import UnreadableImage
from dinoscope.data.loader import StepSampler, ViewsDataset, view_loader, workers_for
from dinoscope.data.sources import ImageSource, hash_rank, label_fraction
from dinoscope.data.views import VIEWS, ViewsConfig
from dinoscope.errors import UserError
from dinoscope.evaluation import base
from dinoscope.evaluation.base import Context, Data
from dinoscope.evaluation.knn import labels_as_in
from dinoscope.evaluation.results import kept_name, new_result
from dinoscope.evaluation.statistics import share_metrics
from dinoscope.features import ExtractConfig, Progress, describing, evaluation_view
from dinoscope.model_names import Model
from dinoscope.models.backbone import Backbone
from dinoscope.schedules import cosine
from dinoscope.types import FeatureBank, Metric, Result

CPU = torch.device("cpu")

RATES = (2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Narrow features want high rates (the shipped model's 288 values: 0.5), wide ones and many classes low ones."""
VIT_RATE, RESNET_RATE = 0.001, 0.3
"""Base learning rates for a batch of 256: the reference's default, and where its log of ResNet-50 starts."""
HELD_OUT = 0.1
FEWEST_HELD_OUT = 100
"""With fewer held-out images, cross-validation chooses the rate: of 30 images three would, by chance alone."""
FOLDS = 5
MOMENTUM = 0.9
INITIAL_DEVIATION = 0.01
"""Standard deviation of the first weights; biases start at 0 (DINO's linear evaluation)."""
_HELD_OUT_SEED = 1  # the same images for every model; not the seed that chooses a fraction of the labels
_ROWS = 1024  # images at a time when nothing is trained, so that working memory does not grow with the data
_BROKEN = "a feature is NaN or infinite: the model diverged, or its weights are damaged"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LinearConfig:
    """Settings of the linear probe: SGD with momentum 0.9, no weight decay, cosine to 0.

    rates: learning rates that the fast protocol chooses from, each for a batch of 256.

    Raises UserError if a value is out of range.
    """

    protocol: Literal["fast", "reference"] = "fast"
    """fast: features extracted once, the learning rate chosen on held-out training images. reference: DINO's own
    evaluation, training images cropped and flipped again in every epoch: --epochs times the work."""

    label_fraction: float = 1.0
    """Share of each class of the training images that is used, in (0, 1]."""

    epochs: int = 100
    """Passes over the training images. The figures are those after the last one."""

    batch_size: int = 256
    """Training images per step, at most; the parts of an epoch are of nearly equal size."""

    learning_rate: float | None = None
    """For a batch of 256, and scaled with the batch. By default fast chooses among 13, and reference takes 0.001 for a
    ViT, 0.3 for a ResNet."""

    seed: int = 0
    """Seed of the first weights, the order of the images, and their crops."""

    rates: tuple[float, ...] = field(default=RATES, metadata=base.INTERNAL)

    def __post_init__(self) -> None:
        positive = {"number of epochs": (self.epochs,), "batch size": (self.batch_size,), "learning rate": self.tried}
        for name, values in positive.items():
            wrong = [value for value in values if not 0 < value < float("inf")]
            if wrong or not values:
                raise UserError(f"the {name} must be above 0; got {wrong[0] if wrong else 'none'}")
        if self.seed < 0:  # numpy could not take it
            raise UserError(f"the seed must be 0 or more, not {self.seed}")

    @property
    def tried(self) -> tuple[float, ...]:
        """Return the learning rates that the fast protocol chooses from: only the given one, if there is one."""
        return self.rates if self.learning_rate is None else (self.learning_rate,)


class Probes:
    """Linear classifiers that differ in the learning rate alone, all beginning at the same weights.

    They are one matrix [dim, rates * classes], so that a step is two matrix products whatever the number of rates. Each
    moves as it would alone: torch's SGD with momentum on the mean cross-entropy.

    seed: of the first weights, which do not depend on the device.
    """

    def __init__(self, rates: Sequence[float], dim: int, classes: int, *, seed: int, device: torch.device) -> None:
        first = torch.randn(dim, 1, classes, generator=torch.Generator().manual_seed(seed)).mul(INITIAL_DEVIATION)
        self.rates = torch.tensor(rates, device=device)[:, None]
        self.weight = first.to(device).expand(-1, len(rates), -1).contiguous()
        self.bias = torch.zeros(len(rates), classes, device=device)
        self._velocity = torch.zeros_like(self.weight), torch.zeros_like(self.bias)

    def logits(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b r c"]:
        return torch.mm(features, self.weight.flatten(1)).view(len(features), *self.bias.shape) + self.bias

    @torch.no_grad()
    def step(self, features: Float[Tensor, "b d"], labels: Int[Tensor, " b"], factor: float) -> None:
        """Make one step of SGD on the mean cross-entropy of a batch, with `factor` times the learning rates."""
        # The gradient of the mean cross-entropy by the logits: (softmax - one-hot) / batch.
        error = self.logits(features).softmax(dim=2)
        error[torch.arange(len(labels), device=labels.device), :, labels] -= 1
        error /= len(labels)
        weight, bias = self._velocity
        weight.flatten(1).addmm_(features.T, error.flatten(1), beta=MOMENTUM)
        bias.mul_(MOMENTUM).add_(error.sum(dim=0))
        rates = -factor * self.rates
        self.weight.addcmul_(weight, rates)
        self.bias.addcmul_(bias, rates)

    @torch.no_grad()
    def hits(
        self,
        features: Float[Tensor, "n d"],
        labels: Int[Tensor, " n"],
        prepare: Callable[[Float[Tensor, "b d"]], Float[Tensor, "b d"]] = lambda features: features,
    ) -> Bool[Tensor, "n 2 r"]:
        """Return whether a label is the first guess of each classifier, and whether it is among the first five.

        `prepare` is applied to the features before.
        """
        count, parts = min(5, self.bias.shape[1]), list[Tensor]()
        for rows, answers in zip(torch.split(features, _ROWS), torch.split(labels, _ROWS), strict=True):
            logits = self.logits(prepare(rows.to(self.weight.device)))
            right = logits.topk(count, dim=2).indices == answers[:, None, None].to(logits.device)
            parts.append(torch.stack([right[:, :, 0], right.any(dim=2)], dim=1).cpu())
        return torch.cat(parts)

    def accuracy(
        self,
        features: Float[Tensor, "n d"],
        labels: Int[Tensor, " n"],
        prepare: Callable[[Float[Tensor, "b d"]], Float[Tensor, "b d"]] = lambda features: features,
    ) -> Float[Tensor, "2 r"]:
        """Return top-1 and top-5 accuracy in % of each classifier; arguments as of `hits`."""
        return 100 * self.hits(features, labels, prepare).sum(dim=0).double() / len(features)


# The fast protocol


@dataclass(frozen=True)
class Standardize:
    """Features to mean 0 and deviation 1, as measured on the training images; a constant feature becomes 0."""

    mean: Float[Tensor, " d"]
    scale: Float[Tensor, " d"]

    def __call__(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        return (features - self.mean.to(features.device)) * self.scale.to(features.device)


def standardization(features: Float[Tensor, "n d"], rows: Int[Tensor, " k"]) -> Standardize:
    """Return mean and deviation over these rows, without copying all of them.

    Raises UserError if a feature is not finite.
    """
    total = torch.zeros(features.shape[1], dtype=torch.float64)
    for part in torch.split(rows, _ROWS):
        total += features[part].double().sum(dim=0)
    if not total.isfinite().all():
        raise UserError(_BROKEN)
    mean, squares = total / len(rows), torch.zeros_like(total)
    for part in torch.split(rows, _ROWS):
        squares += (features[part] - mean).square().sum(dim=0)
    deviation = (squares / len(rows)).sqrt()
    # What is constant but for rounding must not be enlarged to deviation 1.
    constant = deviation <= 1e-6 * torch.maximum(deviation.max(), mean.abs())
    return Standardize(mean.float(), deviation.reciprocal().masked_fill(constant, 0).float())


@dataclass(frozen=True)
class RateChoice:
    """The learning rate that is used (for a batch of 256), and why.

    held_out: training images that chose it; 0 if there was nothing to choose from.
    accuracies: top-1 in % on them, for each rate of the grid.
    at_edge: whether it is the smallest or the largest of several, so that one beyond might be better.
    folds: of the cross-validation; 0 if there was none.
    """

    rate: float
    held_out: int = 0
    accuracies: tuple[float, ...] = ()
    at_edge: bool = False
    folds: int = 0


def choose_rate(
    train: FeatureBank, config: LinearConfig, progress: Progress | None = None, device: torch.device = CPU
) -> RateChoice:
    """Train a probe with each rate on 90 % of the training images; take the best on the other 10 %.

    If those are fewer than `FEWEST_HELD_OUT` images, or groups if they are known, each fifth is held out in turn, and
    all of them choose.
    Of equally good rates the middle one is taken. A choice at the edge of the grid is logged as a warning.

    Raises UserError as `linear` does, and if no class has an image to spare.
    """
    labels = training_labels(train.labels)
    rates = tuple(sorted(config.tried))
    if len(rates) == 1:
        return RateChoice(rates[0])
    kept, held = hold_out(train)
    if not len(held):
        one = "a single training image" if train.groups is None else "training images of a single group"
        raise UserError(
            f"the learning rate cannot be chosen: every class has {one}, and none to hold out. Give --learning-rate"
        )
    trials = len(held) if train.groups is None else len(set(_numbers(train.groups[held])))
    parts = [(kept, held)] if trials >= FEWEST_HELD_OUT else folds(train)
    right, images = torch.zeros(len(rates), dtype=torch.float64), sum(len(held) for _, held in parts)
    for number, (kept, held) in enumerate(parts):

        def told(done: int, total: int, number: int = number) -> None:
            if progress is not None:
                progress(number * total + done, len(parts) * total)

        probes, standardize = train_probes(train, kept, rates, config, told, device)
        top1 = probes.accuracy(train.features[held], labels[held], standardize)[0]
        right += (top1 * len(held) / 100).round()
    top1 = 100 * right / images
    best = (top1 == top1.max()).nonzero()[:, 0]
    chosen = int(best[(len(best) - 1) // 2])
    at_edge = chosen in (0, len(rates) - 1)
    if at_edge:
        _log.warning(
            "the chosen learning rate %g is at the edge of those tried: one beyond may be better", rates[chosen]
        )
    return RateChoice(rates[chosen], images, tuple(map(float, top1)), at_edge, len(parts) if len(parts) > 1 else 0)


def linear(
    train: FeatureBank,
    val: FeatureBank,
    rate: float,
    config: LinearConfig,
    progress: Progress | None = None,
    device: torch.device = CPU,
) -> Iterator[Metric]:
    """Train on all of `train` with this rate; `linear_top1` and `linear_top5` on `val` in %, after the last epoch.

    Labels are matched by class name if both banks name their classes, else by number.

    Raises UserError if a bank has no labels, `train` has one class only or lacks one of `val`, or a feature
    is not finite.
    """
    labels = known_labels(val, train.labels, train.classes)
    if train.features.shape[1] != val.features.shape[1]:
        raise UserError("training and validation features differ in length: use one model for both")
    probes, standardize = train_probes(train, torch.arange(len(train.features)), (rate,), config, progress, device)
    hits = probes.hits(val.features, labels, standardize)[:, :, 0]
    yield from share_metrics([("linear_top1", {}), ("linear_top5", {})], hits, val.groups)


def train_probes(
    bank: FeatureBank,
    rows: Int[Tensor, " k"],
    rates: Sequence[float],
    config: LinearConfig,
    progress: Progress | None,
    device: torch.device = CPU,
) -> tuple[Probes, Standardize]:
    """Train a probe with each of the rates on the images `rows` of the bank; also return how features are prepared."""
    labels, standardize = training_labels(bank.labels), standardization(bank.features, rows)
    batch_size = min(config.batch_size, len(rows))
    parts = -(-len(rows) // batch_size)
    scaled = [rate * batch_size / 256 for rate in rates]
    classes = max(len(bank.classes), int(labels.max()) + 1)
    probes = Probes(scaled, bank.features.shape[1], classes, seed=config.seed, device=device)
    for epoch in range(config.epochs):
        order = torch.as_tensor(np.random.default_rng([config.seed, epoch]).permutation(len(rows)))
        for part, batch in enumerate(rows[order].tensor_split(parts)):
            features = standardize(bank.features[batch].to(device))
            position = (epoch * parts + part) / (config.epochs * parts)
            probes.step(features, labels[batch].to(device), cosine(1.0, 0.0, position))
        if progress is not None:
            progress((epoch + 1) * parts, config.epochs * parts)
    return probes, standardize


def hold_out(bank: FeatureBank) -> tuple[Int[Tensor, " k"], Int[Tensor, " h"]]:
    """Return positions to train on, and 10 % of each class to choose with: at least one image, and never the last one.

    Chosen by a hash of the path, hence the same images for every model. With groups, whole groups are held out until
    they are 10 % of the images, but none that has the last images of a class.
    """
    if bank.groups is not None:
        return _apart(bank, _whole_groups(bank, _groups_by_hash(bank), max(1, round(HELD_OUT * len(bank.features)))))
    counts = ((indices, max(1, round(HELD_OUT * len(indices)))) for indices in _by_hash(bank) if len(indices) > 1)
    return _apart(bank, (index for indices, count in counts for index in indices[:count]))


def folds(bank: FeatureBank) -> list[tuple[Int[Tensor, " k"], Int[Tensor, " h"]]]:
    """Return positions to train on and to choose with, for each of `FOLDS` parts, or fewer if all classes are smaller.

    The images of each class are dealt out in the order of the hash of their paths. The only image of a class is
    always trained on. With groups, these are dealt out, and one that has the last images of a class is trained on.
    """
    if bank.groups is not None:
        groups = _groups_by_hash(bank)
        dealt = [_whole_groups(bank, groups[part::FOLDS], len(bank.features)) for part in range(FOLDS)]
        return [_apart(bank, part) for part in dealt if part]
    classes = [indices for indices in _by_hash(bank) if len(indices) > 1]
    held = [[index for indices in classes for index in indices[part::FOLDS]] for part in range(FOLDS)]
    return [_apart(bank, part) for part in held if part]


def _by_hash(bank: FeatureBank) -> list[list[int]]:
    """The positions of each class, in the order of the hash of their paths."""
    names = bank.paths or tuple(map(str, range(len(bank.features))))
    members: dict[int, list[int]] = {}
    for index, label in enumerate(training_labels(bank.labels).cpu().numpy()):
        members.setdefault(int(label), []).append(index)
    return [sorted(indices, key=lambda index: hash_rank(_HELD_OUT_SEED, names[index])) for indices in members.values()]


def _groups_by_hash(bank: FeatureBank) -> list[list[int]]:
    """The positions of each group, in the order of the hash of its number."""
    assert bank.groups is not None
    members: dict[int, list[int]] = {}
    for index, group in enumerate(_numbers(bank.groups)):
        members.setdefault(group, []).append(index)
    return [members[group] for group in sorted(members, key=lambda group: hash_rank(_HELD_OUT_SEED, str(group)))]


def _whole_groups(bank: FeatureBank, groups: Iterable[list[int]], images: int) -> list[int]:
    """The positions of the first groups, until they are so many images, but of none that has the last of a class."""
    labels = _numbers(training_labels(bank.labels))
    left, held = Counter(labels), list[int]()
    for indices in groups:
        own = Counter(labels[index] for index in indices)
        if len(held) < images and all(left[label] > count for label, count in own.items()):
            left -= own
            held += indices
    return held


def _numbers(tensor: Int[Tensor, " n"]) -> list[int]:
    return [int(number) for number in tensor.cpu().numpy()]


def _apart(bank: FeatureBank, held: Iterable[int]) -> tuple[Int[Tensor, " k"], Int[Tensor, " h"]]:
    is_held = torch.zeros(len(bank.features), dtype=torch.bool)
    is_held[torch.tensor(list(held), dtype=torch.int64)] = True
    return (~is_held).nonzero()[:, 0], is_held.nonzero()[:, 0]


def training_labels(labels: Int[Tensor, " n"] | None) -> Int[Tensor, " n"]:
    """Return the labels. Raises UserError if there are none, or only one class among them."""
    if labels is None:
        raise UserError("the training images have no labels; a linear probe needs one folder per class: DIR/CLASS/...")
    if bool((labels == labels[0]).all()):
        raise UserError("the training images are all of one class; a linear probe needs at least two to tell apart")
    return labels


def known_labels(val: FeatureBank, trained: Int[Tensor, " m"] | None, classes: Sequence[str]) -> Int[Tensor, " n"]:
    """Return the labels of `val` in the numbering of the training images, whose labels and classes are given.

    Raises UserError if one has no labels, the training images have one class only, or lack a class of `val`.
    """
    trained = training_labels(trained)
    if val.labels is None:
        raise UserError(
            "the validation images have no labels; a linear probe needs one folder per class: DIR/CLASS/..."
        )
    labels = labels_as_in(classes, val)
    missing = sorted({int(number) for number in val.labels[~torch.isin(labels, trained)].cpu().numpy()})
    if missing:
        names = [val.classes[number] if val.classes else str(number) for number in missing]
        raise UserError(
            f"{len(names)} of the classes to be recognised have no training image: {', '.join(names[:5])}. "
            "Every class needs at least one"
        )
    return labels


# The protocol of the reference


def linear_reference(
    backbone: Backbone,
    train: ImageSource,
    val: FeatureBank,
    config: LinearConfig,
    extraction: ExtractConfig,
    progress: Progress | None = None,
) -> Iterator[Metric]:
    """Yield `linear_reference_top1` and `linear_reference_top5` on `val` in %, after the last epoch.

    Args:
        train: labelled images; one that cannot be read is replaced by the next that can.
        val: features of the validation images, extracted with `extraction`.
        extraction: how features are computed; `feature` should be "linear".
        progress: called with (steps done, steps in all).

    Raises UserError if labels are missing, `train` has one class only or lacks one of `val`, or no image can
    be read.
    """
    labels = known_labels(val, None if train.labels is None else torch.tensor(train.labels), train.classes)
    probe = train_probe(backbone, train, config, extraction, progress)
    hits = probe.hits(val.features, labels)[:, :, 0]
    yield from share_metrics([("linear_reference_top1", {}), ("linear_reference_top5", {})], hits, val.groups)


def train_probe(
    backbone: Backbone,
    train: ImageSource,
    config: LinearConfig,
    extraction: ExtractConfig,
    progress: Progress | None,
) -> Probes:
    """Return the one classifier after the last epoch; arguments and errors as of `linear_reference`."""
    batch_size = min(config.batch_size, len(train))
    if batch_size < config.batch_size:
        _log.warning("batch size %d lowered to %d, the number of training images", config.batch_size, batch_size)
    per_epoch = len(train) // batch_size
    total, device = config.epochs * per_epoch, extraction.device or backbone.mean.device
    view = evaluation_view(backbone, extraction)
    images, views = train.with_slices(view.slices), training_views(view.size)
    dataset = ViewsDataset(images, views, config.seed, view.window, channels=view.channels)
    sampler = StepSampler(len(train), batch_size, config.seed, range(total), rank=0, processes=1)
    workers = workers_for(extraction.workers)
    rate = base_rate(config, backbone) * batch_size / 256
    probe = Probes([rate], extraction.dim(backbone), len(train.classes), seed=config.seed, device=device)
    with describing(backbone, extraction) as describe:
        try:
            for step, views in enumerate(view_loader(dataset, sampler, workers, pin=device.type == "cuda")):
                assert views.labels is not None, "known_labels has refused images without labels"
                factor = cosine(1.0, 0.0, (step // per_epoch) / config.epochs)
                probe.step(describe(views.global_views[0]), views.labels.to(device), factor)
                if progress is not None:
                    progress(step + 1, total)
        except UnreadableImage as error:
            raise UserError(f"{error}; see `dinoscope scan`") from error
    if not probe.weight.isfinite().all():
        raise UserError(_BROKEN)
    return probe


def training_views(size: int) -> ViewsConfig:
    """Return one random resized crop and a flip, no colours: the reference's training images for linear probes."""
    return replace(VIEWS["supervised"], global_size=size, interpolation="bilinear")


def base_rate(config: LinearConfig, backbone: Backbone) -> float:
    """Return the learning rate for a batch of 256: the given one, else the family's (`VIT_RATE`, `RESNET_RATE`)."""
    if config.learning_rate is not None:
        return config.learning_rate
    return RESNET_RATE if backbone.transformer is None else VIT_RATE


# The evaluation


def run(models: Sequence[Model], data: Data, config: LinearConfig, context: Context) -> Iterator[Result]:
    """Train a linear probe on frozen features of the train split, and report it on the val split.

    Entries of the protocol: those of `Context.network`; protocol ("fast" or "reference"); feature (what of the network
    is classified); label_fraction, classes; train, val (folders), train_images, val_images; epochs, batch_size, seed;
    learning_rate (for a batch of 256), rate_choice (where it comes from; never from the validation images),
    rates_tried, rate_at_edge (whether it is the smallest or the largest of several); those of `base.grouping`. All
    figures are those after the last epoch.

    Raises UserError if a split or labels are missing, there is one class only, or val has classes that train lacks.
    """
    train, val = images = base.images_of_splits(data, context, what="a linear probe")
    if config.label_fraction != 1:
        train = label_fraction(train, config.label_fraction, base.LABEL_SEED)
    for model in models:
        backbone, device, train_images = model.backbone, context.device or CPU, len(train)
        if config.protocol == "fast":
            bank = context.features(backbone, train, "features of the training images", "linear")
            train_images = len(bank.features)
            queried = context.features(backbone, val, "features of the validation images", "linear")
            known_labels(queried, bank.labels, bank.classes)  # refuses misfits before anything is trained
            with context.watch("choosing the learning rate") as progress:
                choice = choose_rate(bank, config, progress, device)
            with context.watch("training the probe") as progress:
                metrics = tuple(linear(bank, queried, choice.rate, config, progress, device))
            how = f"in {choice.folds}-fold cross-validation on {choice.held_out} training images"
            how = how if choice.folds else f"on {choice.held_out} held-out training images"
            reason = f"best of {len(config.tried)} {how}" if choice.held_out else "given"
        else:
            queried = context.features(backbone, val, "features of the validation images", "linear")
            with context.watch("training the probe") as progress:
                extraction = context.extraction("linear")
                metrics = tuple(linear_reference(backbone, train, queried, config, extraction, progress))
            choice = RateChoice(base_rate(config, backbone))
            reason = "the family's default" if config.learning_rate is None else "given"
        protocol = {
            **_protocol(model, images, config, context),
            "train_images": train_images,
            "val_images": len(queried.features),
            "batch_size": min(config.batch_size, train_images),
            "learning_rate": choice.rate,
            "rate_choice": reason,
            "rate_at_edge": choice.at_edge,
            "feature": f"{backbone.probe_title} ({backbone.probe_dim} values)",
        }
        yield new_result("linear", protocol, metrics)


def _protocol(
    model: Model, images: tuple[ImageSource, ImageSource] | None, config: LinearConfig, context: Context
) -> dict[str, Any]:
    protocol = {
        **context.network(model),
        "protocol": config.protocol,
        "label_fraction": config.label_fraction,
        "epochs": config.epochs,
        "seed": config.seed,
        "rates_tried": len(config.tried) if config.protocol == "fast" else 1,
    }
    if images is not None:
        train, val = images
        protocol |= {"classes": len(train.classes), "train": base.location(train), "val": base.location(val)}
        protocol |= base.grouping(images, context)
    return protocol


def expected(model: Model, data: Data, config: LinearConfig, context: Context) -> dict[str, Any]:
    if data is None:
        return base.expected_grouping(None, context) | _protocol(model, None, config, context)
    train, val = images = base.images_of_splits(data, context, what="a linear probe")
    counts = {"val_images": len(val)} | ({"train_images": len(train)} if config.label_fraction == 1 else {})
    return base.expected_grouping(images, context) | _protocol(model, images, config, context) | counts


def protocol_line(protocol: Mapping[str, Any]) -> str:
    train = f"{protocol['train_images']} training images"
    if protocol["label_fraction"] != 1:
        train += f" ({100 * protocol['label_fraction']:.3g} % of the labels)"
    prepared = "standardised, no augmentation" if protocol["protocol"] == "fast" else "crops and flips"
    feature = f", {protocol['feature']}" if "feature" in protocol else ""
    rate = f"learning rate {protocol['learning_rate']:g}" if "learning_rate" in protocol else "own learning rates"
    weights = f", weights {protocol['weights']}" if "weights" in protocol else ""
    weights += base.made_of(protocol)
    return (
        f"{protocol['protocol']} protocol, last epoch of {protocol['epochs']}, on {protocol['val_images']} validation "
        f"images; {train}, {prepared}, {protocol['classes']} classes, {protocol['image_size']} px{feature}, "
        f"{rate} x {protocol['batch_size']} / 256 ({protocol['rate_choice']}){weights}, "
        f"data {' and '.join(dict.fromkeys((protocol['train'], protocol['val'])))}{base.grouping_words(protocol)}"
    )


def _file_name(config: LinearConfig, protocol: Mapping[str, Any]) -> str:
    name = "linear" if protocol["protocol"] == "fast" else "linear-reference"  # neither overwrites the other
    return kept_name(name, protocol["label_fraction"])


EVALUATION = base.Evaluation(
    "linear",
    "Linear probe",
    "Train a linear classifier on a model's frozen features, and measure it on other images.",
    "labels",
    LinearConfig,
    run,
    (base.Column("linear", "Linear", "linear_top1"),),
    protocol_line,
    expected,
    lambda data, config, context: base.require_labels(data, context),
    default=True,
    uses=base.OF_LABELLED_IMAGES,
    file_name=_file_name,
)
