"""Linear probe on features that are extracted once: fast, without augmentation.

Features are standardised with the training images' mean and deviation. All learning rates of a grid (as DINOv2
sweeps them: Oquab et al. 2023, appendix B.3) are tried at once, and the one that is best on training images
held out for it is used; of few training images, the one that is best in cross-validation. The images that are
reported on choose nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from dinoscope.data.sources import hash_rank
from dinoscope.errors import UserError
from dinoscope.evaluation.knn import labels_as_in
from dinoscope.evaluation.probes import Probes, Standardize, metrics, standardization
from dinoscope.schedules import cosine
from dinoscope.types import FeatureBank, Metric

Progress = Callable[[int, int], None]
"""Told (steps done, steps in all)."""

RATES = (2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Narrow features want high rates (the shipped model's 288 values: 0.5), wide ones and many classes low ones."""
HELD_OUT = 0.1
FEWEST_HELD_OUT = 100
"""With fewer held-out images, cross-validation chooses the rate: of 30 images three would, by chance alone."""
FOLDS = 5
_HELD_OUT_SEED = 1  # the same images for every model; not the seed that chooses a fraction of the labels

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LinearConfig:
    """Settings of the fast linear probe: SGD with momentum 0.9, no weight decay, cosine to 0 by the step.

    rates: learning rates to choose from, each for a batch of 256; multiplied by batch size / 256.
    epochs: passes over the training images.
    batch_size: images per step, at most; the parts of an epoch are of nearly equal size.
    seed: of the first weights and the order of the images.
    device: where the probe is trained.
    """

    rates: tuple[float, ...] = RATES
    epochs: int = 100
    batch_size: int = 256
    seed: int = 0
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (immutable)

    def __post_init__(self) -> None:
        """Refuse values out of range, with a UserError."""
        require_positive("learning rate", *self.rates)
        require_positive("number of epochs", self.epochs)
        require_positive("batch size", self.batch_size)
        require_seed(self.seed)


@dataclass(frozen=True)
class RateChoice:
    """The learning rate that is used (for a batch of 256), and why.

    held_out: training images that chose it; 0 where there was nothing to choose from.
    accuracies: top-1 in % on them, for each rate of the grid.
    at_edge: whether it is the smallest or the largest of several, so that one beyond might be better.
    folds: of the cross-validation; 0 if there was none.
    """

    rate: float
    held_out: int = 0
    accuracies: tuple[float, ...] = ()
    at_edge: bool = False
    folds: int = 0


def choose_rate(train: FeatureBank, config: LinearConfig, progress: Progress | None = None) -> RateChoice:
    """Train a probe with each rate on 90 % of the training images; take the best on the other 10 %.

    If those are fewer than `FEWEST_HELD_OUT`, each fifth of the images is held out in turn, and all of them choose.
    Of equally good rates the middle one is taken. A choice at the edge of the grid is logged as a warning.

    Raises UserError as `linear` does, and where no class has an image to spare.
    """
    check_bank(train, "training")
    if len(config.rates) == 1:
        return RateChoice(config.rates[0])
    rates = tuple(sorted(config.rates))
    kept, held = hold_out(train)
    if not len(held):
        raise UserError(
            "the learning rate cannot be chosen: every class has a single training image, and none to hold out. "
            "Give --learning-rate"
        )
    parts = [(kept, held)] if len(held) >= FEWEST_HELD_OUT else folds(train)
    right, total = torch.zeros(len(rates), dtype=torch.float64), sum(len(held) for _, held in parts)
    for number, (kept, held) in enumerate(parts):
        probes, standardize = train_probes(train, kept, rates, config, _part_of(progress, number, len(parts)))
        top1 = probes.accuracy(train.features[held], class_numbers(train)[held], standardize)[0]
        right += (top1 * len(held) / 100).round()
    top1 = 100 * right / total
    best = (top1 == top1.max()).nonzero()[:, 0]
    chosen = int(best[(len(best) - 1) // 2])
    at_edge = chosen in (0, len(rates) - 1)
    if at_edge:
        _log.warning(
            "the chosen learning rate %g is at the edge of those tried: one beyond may be better", rates[chosen]
        )
    accuracies = tuple(float(value) for value in top1)
    return RateChoice(rates[chosen], total, accuracies, at_edge, len(parts) if len(parts) > 1 else 0)


def linear(
    train: FeatureBank, val: FeatureBank, rate: float, config: LinearConfig, progress: Progress | None = None
) -> Iterator[Metric]:
    """Train on all of `train` with this rate; `linear_top1` and `linear_top5` on `val` in %, after the last epoch.

    Labels are matched by class name where both banks name their classes, else by number.

    Raises UserError where a bank has no labels, `train` has one class only or lacks one of `val`, or a feature
    is not finite.
    """
    labels = known_labels(train, val)
    rows = torch.arange(len(train.features))
    probes, standardize = train_probes(train, rows, (rate,), config, progress)
    yield from metrics("linear", probes.accuracy(val.features, labels, standardize), len(labels))


def train_probes(
    bank: FeatureBank, rows: Int[Tensor, " k"], rates: Sequence[float], config: LinearConfig, progress: Progress | None
) -> tuple[Probes, Standardize]:
    """Train a probe with each of the rates on the images `rows` of the bank, and say how features are prepared."""
    labels, standardize = class_numbers(bank), standardization(bank.features, rows)
    batch_size = min(config.batch_size, len(rows))
    parts = -(-len(rows) // batch_size)
    scaled = [rate * batch_size / 256 for rate in rates]
    classes = max(len(bank.classes), int(labels.max()) + 1)
    probes = Probes(scaled, bank.features.shape[1], classes, seed=config.seed, device=config.device)
    for epoch in range(config.epochs):
        order = torch.as_tensor(np.random.default_rng([config.seed, epoch]).permutation(len(rows)))
        for part, batch in enumerate(rows[order].tensor_split(parts)):
            features = standardize(bank.features[batch].to(config.device))
            position = (epoch * parts + part) / (config.epochs * parts)
            probes.step(features, labels[batch].to(config.device), cosine(1.0, 0.0, position))
        if progress is not None:
            progress((epoch + 1) * parts, config.epochs * parts)
    return probes, standardize


def hold_out(bank: FeatureBank) -> tuple[Int[Tensor, " k"], Int[Tensor, " h"]]:
    """Positions to train on, and 10 % of each class to choose with: at least one image, and never the last one.

    Chosen by a hash of the path, hence the same images for every model.
    """
    held = set[int]()
    for indices in _by_hash(bank):
        count = max(1, round(HELD_OUT * len(indices))) if len(indices) > 1 else 0
        held.update(indices[:count])
    return _without(bank, held)


def folds(bank: FeatureBank) -> list[tuple[Int[Tensor, " k"], Int[Tensor, " h"]]]:
    """Positions to train on and to choose with, of each of `FOLDS` parts (fewer if no class has as many images).

    The images of each class are dealt out in the order of the hash of their paths. The only image of a class is
    always trained on.
    """
    held = [set[int]() for _ in range(FOLDS)]
    for indices in _by_hash(bank):
        for place, index in enumerate(indices if len(indices) > 1 else ()):
            held[place % FOLDS].add(index)
    return [_without(bank, part) for part in held if part]


def _by_hash(bank: FeatureBank) -> list[list[int]]:
    """The positions of each class, in the order of the hash of their paths."""
    names = bank.paths or tuple(map(str, range(len(bank.features))))
    members: dict[int, list[int]] = {}
    for index, label in enumerate(_integers(class_numbers(bank))):
        members.setdefault(label, []).append(index)
    return [sorted(every, key=lambda index: hash_rank(_HELD_OUT_SEED, names[index])) for every in members.values()]


def _without(bank: FeatureBank, held: set[int]) -> tuple[Int[Tensor, " k"], Int[Tensor, " h"]]:
    kept = [index for index in range(len(bank.features)) if index not in held]
    return torch.tensor(kept, dtype=torch.int64), torch.tensor(sorted(held), dtype=torch.int64)


def _part_of(progress: Progress | None, number: int, parts: int) -> Progress | None:
    """Progress of one of several trainings of equal length, as progress of all."""
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, parts * total)


def known_labels(train: FeatureBank, val: FeatureBank) -> Int[Tensor, " n"]:
    """Labels of `val` in the numbering of `train`.

    Raises UserError where one has no labels, `train` has one class only, or lacks a class of `val`.
    """
    check_bank(train, "training")
    class_numbers(val, "validation")
    if train.features.shape[1] != val.features.shape[1]:
        raise UserError("training and validation features differ in length: use one model for both")
    labels = labels_as_in(train, val)
    missing = ~torch.isin(labels, class_numbers(train))
    if missing.any():
        numbers = sorted(set(_integers(class_numbers(val)[missing])))
        names = [val.classes[number] if val.classes else str(number) for number in numbers]
        raise UserError(
            f"{len(names)} of the classes to be recognised have no training image: {', '.join(names[:5])}. "
            "Every class needs at least one"
        )
    return labels


def check_bank(bank: FeatureBank, role: str) -> None:
    """Raise UserError where the images of a role have no labels, or only one class among them."""
    if len(set(_integers(class_numbers(bank, role)))) < 2:
        raise UserError(f"the {role} images are all of one class; a linear probe needs at least two to tell apart")


def class_numbers(bank: FeatureBank, role: str = "training") -> Int[Tensor, " n"]:
    """The labels of the bank, or a UserError where it has none."""
    if bank.labels is None:
        raise UserError(f"the {role} images have no labels; a linear probe needs one folder per class: DIR/CLASS/...")
    return bank.labels


def require_positive(name: str, *values: float) -> None:
    """Raise UserError where there is no value, or one is not a number above 0."""
    wrong = [value for value in values if not 0 < value < float("inf")]
    if wrong or not values:
        raise UserError(f"the {name} must be above 0; got {wrong[0] if wrong else 'none'}")


def require_seed(seed: int) -> None:
    """Raise UserError where numpy could not take it."""
    if seed < 0:
        raise UserError(f"the seed must be 0 or more, not {seed}")


def _integers(numbers: Int[Tensor, " n"]) -> list[int]:
    return [int(number) for number in numbers.cpu().numpy()]
