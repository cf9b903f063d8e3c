"""The verdict: which of several models to take for one's images, how sure that is, or that the data cannot tell.

The rule, which is fixed before anything is measured:

- The measure is k-NN (k = 20) if there are at least 20 training images for each class on average; else the logistic
  regression of `fewshot`, on all training labels. Only the numbers of images decide that (`measure_for`).
- Models answer for the same test images, so they are compared image by image, or group by group if groups are known:
  `statistics.paired_test` gives the probability of a difference as large as the one seen if both are equally good.
- The leading model is found on the images that it is then tested on. So every pair counts as a comparison: Holm's
  correction is over all of them, and intervals of differences hold all at once with 95 % (Bonferroni).
- A model is better than another if its corrected probability is below 5 %. A model is named the winner only if it is
  better than every other one.
- Models that were trained must be better than every baseline without training (raw pixels, whitened patches, random
  weights); if none is, the verdict says so and names none.
- Among models that cannot be told from the leading one, and that are better than every baseline, the cheapest is
  taken: by images per second, if all were timed and differ by more than 10 %, else by parameters.

What it does not know: another seed of a training, other training labels, and images unlike these.

Answers and costs in, a decision and its sentence out; `evaluation.evidence` measures them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dinoscope.evaluation.knn import K
from dinoscope.evaluation.statistics import (
    BootstrapConfig,
    by_group,
    holm,
    mean_intervals,
    paired_test,
    pooled_intervals,
    share_metrics,
)
from dinoscope.text import count, listed
from dinoscope.types import Metric

LEVEL = 0.05
"""A model is better than another if the corrected probability is below it."""
POWER = 0.8
"""Probability with which further labels would tell the difference that was seen."""
SAME_COST = 1.1
"""Ratio of speeds or sizes up to which two models cost the same."""
MAX_FACTOR = 100
"""If more than so many times the test images are needed, no number is named."""

BOOTSTRAP = BootstrapConfig()

Kind = Literal["winner", "tie", "baseline", "no better", "single"]
MeasureName = Literal["knn", "logistic"]

MEASURES: dict[MeasureName, str] = {"knn": "k-NN", "logistic": "logistic regression"}
"""What a verdict can rest on -> its name in sentences."""


def measure_for(images: int, classes: int) -> MeasureName:
    """Return the measure for so many training images of so many classes: see the rule above."""
    return "knn" if images >= K * classes else "logistic"


@dataclass(frozen=True)
class Candidate:
    """A model that may be taken. parameters: in millions. speed: images per second. None: unknown, or no network."""

    label: str
    is_baseline: bool = False
    parameters: float | None = None
    speed: float | None = None


@dataclass(frozen=True)
class Pair:
    """How far a model is above another on the same images, in points of %.

    low, high: ends of the interval of the difference; None if it has none. probability: corrected, two-sided.
    """

    first: str
    second: str
    difference: float
    low: float | None
    high: float | None
    probability: float

    @property
    def is_significant(self) -> bool:
        """Return whether the first is better by more than chance."""
        return self.difference > 0 and self.probability < LEVEL


@dataclass(frozen=True)
class Decision:
    """What the test images tell.

    kind: "winner"; "tie": some cannot be told from the leading one; "baseline": one is better than all that were
        trained; "no better": than one of them none is shown to be; "single": there is one model alone.
    take: the model to take; None for none.
    first, second: the models that the sentence sets against each other; second is "" for a single one.
    tied: the models that cannot be told from the leading one, with it.
    accuracies: in %, with 95 % intervals, of every model, best first.
    pairs: the leading model against each other one, in that order.
    measure: its name in sentences. images, groups: of the test images. comparisons: that were corrected for.
    further: test images that would be needed besides to tell first and second apart; None if they are, or if that is
        out of reach.
    largest_class: share of the largest class of the test images, in %.
    reason: why that one of several is taken: it is cheaper; it is ahead and costs no more; not all of them are better
        than every baseline.
    """

    kind: Kind
    take: str | None
    first: str
    second: str
    tied: tuple[str, ...]
    accuracies: Mapping[str, Metric]
    pairs: tuple[Pair, ...]
    measure: str
    images: int
    groups: int | None
    comparisons: int
    further: int | None
    largest_class: float
    reason: Literal["", "cheaper", "ahead", "above baselines"] = ""

    def pair(self, second: str) -> Pair:
        """Return the leading model against this one."""
        return next(pair for pair in self.pairs if pair.second == second)


# The rule


def judge(
    candidates: Sequence[Candidate],
    answers: Bool[Tensor, "n k"],
    labels: Int[Tensor, " n"],
    groups: Int[Tensor, " n"] | None = None,
    *,
    measure: str = MEASURES["knn"],
    split: float | None = None,
    bootstrap: BootstrapConfig = BOOTSTRAP,
) -> Decision:
    """Return what the answers of k models for the same n test images tell, by the rule above.

    answers: whether each model is right. labels: class of each image. groups: number of the group of each image.
    split: share of labelled images that went to the training images, if new labels will be shared out like that.
    bootstrap: of the intervals; its confidence is replaced.

    Raises ValueError if there is no model or no image.
    """
    if not candidates or not len(answers):
        raise ValueError("a verdict needs a model and an image")
    metrics = share_metrics([(each.label, dict[str, float]()) for each in candidates], answers, groups)
    order = sorted(range(len(candidates)), key=lambda at: (-metrics[at].value, *_cost(candidates[at])))
    candidates, answers = [candidates[at] for at in order], answers[:, order]
    accuracies = {candidates[place].label: metrics[at] for place, at in enumerate(order)}
    compared = _compared(candidates, answers.double(), groups, bootstrap)
    largest = 100 * int(np.unique(labels.cpu().numpy(), return_counts=True)[1].max()) / len(labels)
    number = None if groups is None else len(np.unique(groups.cpu().numpy()))

    def decision(kind: Kind, take: str | None, first: int, second: int | None, tied: Sequence[int]) -> Decision:
        is_open = second is not None and compared.probability(first, second) >= LEVEL
        return Decision(
            kind,
            take,
            candidates[first].label,
            "" if second is None else candidates[second].label,
            tuple(candidates[at].label for at in tied),
            accuracies,
            compared.pairs(candidates),
            measure,
            len(answers),
            number,
            compared.comparisons,
            compared.further(first, second, split) if is_open and second is not None else None,
            largest,
        )

    if len(candidates) == 1:
        return decision("single", None, 0, None, [0])
    trained = [at for at, candidate in enumerate(candidates) if not candidate.is_baseline]
    baselines = [at for at, candidate in enumerate(candidates) if candidate.is_baseline]
    if not trained or not baselines:
        trained, baselines = list(range(len(candidates))), []
    top = trained[0]
    unbeaten = [at for at in baselines if not compared.is_better(top, at)]
    if unbeaten:
        best = unbeaten[0]
        if compared.is_better(best, top):
            return decision("baseline", None, best, top, [best])
        return decision("no better", None, top, best, [top, *unbeaten])
    tied = [
        at
        for at in trained
        if not compared.is_better(top, at) and all(compared.is_better(at, other) for other in baselines)
    ]
    if len(tied) == 1 and all(compared.is_better(top, at) for at in range(len(candidates)) if at != top):
        return decision("winner", candidates[top].label, top, 1, [top])
    open_ones = [at for at in trained if not compared.is_better(top, at)]
    cheapest = _cheapest([candidates[at] for at in tied])
    taken = tied[cheapest]
    second = taken if taken != top else open_ones[1]
    made = decision("tie", candidates[taken].label, top, second, open_ones)
    if tied != open_ones:
        return replace(made, reason="above baselines")
    is_cheaper = all(_is_cheaper(candidates[taken], candidates[other]) for other in tied if other != taken)
    return replace(made, reason="cheaper" if is_cheaper or taken != top else "ahead")


@dataclass(frozen=True)
class _Compared:
    """Differences of all pairs, in shares: means and standard errors [k, k], corrected probabilities, intervals."""

    means: Float[Tensor, "k k"]
    errors: Float[Tensor, "k k"]
    probabilities: Mapping[tuple[int, int], float]
    intervals: Mapping[int, tuple[float | None, float | None]]
    images: int

    @property
    def comparisons(self) -> int:
        return len(self.probabilities)

    def probability(self, first: int, second: int) -> float:
        return self.probabilities[min(first, second), max(first, second)]

    def is_better(self, first: int, second: int) -> bool:
        return float(self.means[first, second]) > 0 and self.probability(first, second) < LEVEL

    def pairs(self, candidates: Sequence[Candidate]) -> tuple[Pair, ...]:
        """Return the first of all against each other one."""
        pairs: list[Pair] = []
        for other in range(1, len(candidates)):
            low, high = (None if end is None else 100 * end for end in self.intervals[other])
            difference, probability = 100 * float(self.means[0, other]), self.probability(0, other)
            pairs.append(Pair(candidates[0].label, candidates[other].label, difference, low, high, probability))
        return tuple(pairs)

    def further(self, first: int, second: int, split: float | None) -> int | None:
        difference, error = abs(float(self.means[first, second])), float(self.errors[first, second])
        return further_images(difference, error, self.images, self.comparisons, split)


def _compared(
    candidates: Sequence[Candidate],
    values: Float[Tensor, "n k"],
    groups: Int[Tensor, " n"] | None,
    bootstrap: BootstrapConfig,
) -> _Compared:
    """Compare every pair; intervals are those of the first against each other one."""
    models, images = len(candidates), len(values)
    sums, sizes = (values, torch.ones(images).double()) if groups is None else by_group(values, groups)
    means, errors = torch.zeros(models, models).double(), torch.zeros(models, models).double()
    pairs = [(first, second) for first in range(models) for second in range(first + 1, models)]
    probabilities: list[float] = []
    for first, second in pairs:
        differences = sums[:, first] - sums[:, second]
        mean = differences.sum() / images
        deviations = (differences - mean * sizes) / sizes.mean()
        error = (deviations.square().sum() / max(len(sums) - 1, 1) / len(sums)).sqrt()
        means[first, second], means[second, first] = mean, -mean
        errors[first, second] = errors[second, first] = error
        probabilities.append(paired_test(differences))
    intervals: dict[int, tuple[float | None, float | None]] = {}
    if pairs:
        config = replace(bootstrap, confidence=1 - LEVEL / len(pairs))
        columns, limits = sums[:, :1] - sums[:, 1:], [(-1.0, 1.0)] * (models - 1)
        if groups is None:
            estimates = mean_intervals(columns, config, limits)
        else:
            estimates = pooled_intervals(columns, sizes, config, limits)
        intervals = {place: (estimate.low, estimate.high) for place, estimate in enumerate(estimates, 1)}
    return _Compared(means, errors, dict(zip(pairs, holm(probabilities), strict=True)), intervals, images)


def further_images(
    difference: float, error: float, images: int, comparisons: int = 1, split: float | None = None
) -> int | None:
    """Return how many more labelled images would make a difference significant, if it is the true one.

    None if that is out of reach. The standard error falls with the square root of the number of test images. A
    difference of z(1 - level / 2) + z(power) standard errors is significant with probability `POWER`; the level is
    `LEVEL`, divided by the number of comparisons. At least a tenth more, two digits, rounded up. With a `split` the
    training images get their share of the labels, too.

    difference, error: of the mean, in one unit. images: test images that they are of.
    """
    normal = NormalDist()
    errors = normal.inv_cdf(1 - LEVEL / (2 * comparisons)) + normal.inv_cdf(POWER)
    if difference <= 0 or not error:
        return None
    factor = (errors * error / difference) ** 2
    if factor > MAX_FACTOR:
        return None
    return _two_digits(max(images * (factor - 1), images / 10) / (1 if split is None else 1 - split))


def images_to_tell(points: float, disagreement: float = 0.5) -> int:
    """Return how many test images tell two models so many points of % apart, with probability `POWER`.

    disagreement: share of the images for which one of them alone is right.
    """
    errors = NormalDist().inv_cdf(1 - LEVEL / 2) + NormalDist().inv_cdf(POWER)
    return math.ceil(errors**2 * disagreement / (points / 100) ** 2)


def _two_digits(number: float) -> int:
    """Return a number rounded up to two digits, and to a whole one."""
    unit = 10 ** max(0, math.floor(math.log10(number)) - 1) if number >= 1 else 1
    return math.ceil(number / unit) * unit


def _cost(candidate: Candidate) -> tuple[float, float]:
    """Return what orders models of equal accuracy: the faster, then the smaller first; no network costs nothing."""
    speed = -candidate.speed if candidate.speed is not None else 0.0
    return speed, candidate.parameters or 0.0


def _is_cheaper(first: Candidate, other: Candidate) -> bool:
    """Return whether the first costs less, by more than `SAME_COST`."""
    if first.speed is not None and other.speed is not None:
        if first.speed > SAME_COST * other.speed:
            return True
        if other.speed > SAME_COST * first.speed:
            return False
    return SAME_COST * (first.parameters or 0.0) < (other.parameters or 0.0)


def _cheapest(candidates: Sequence[Candidate]) -> int:
    """Return the place of the cheapest; of equally cheap ones the first, which has the higher accuracy."""
    place = 0
    for other in range(1, len(candidates)):
        if _is_cheaper(candidates[other], candidates[place]):
            place = other
    return place


# The words


def sentence(decision: Decision) -> str:
    """Return the decision as one or two sentences for a person: every word of a verdict on labelled images is here."""
    pair = next(
        (each for each in decision.pairs if {each.first, each.second} == {decision.first, decision.second}), None
    )
    first = f"{decision.accuracies[decision.first].value:.1f} %"
    on = _images(decision)
    if decision.kind == "single" or pair is None:
        text = (
            f"There is one model alone, {decision.first}: {decision.measure} "
            f"{_with_interval(decision.accuracies[decision.first])} on {on}. Whether that is good, others tell: add "
            "pixels and random"
        )
        return f"{text}.{_above_guessing(decision)}"
    second = f"{decision.accuracies[decision.second].value:.1f} %"
    apart = _difference(decision, pair)
    if decision.kind == "winner":
        next_best = ", the next best" if len(decision.pairs) > 1 else ""
        text = (
            f"Take {decision.take}: {decision.measure} {first} against {second} of {decision.second}{next_best}, "
            f"on {on}. {_chance(decision, decision.pairs)}"
        )
    elif decision.kind == "baseline":
        text = (
            f"None of your models beats {decision.first}: {decision.measure} {first} against {second} of "
            f"{decision.second}, the best of them, on {on}. {_chance(decision, [pair])} Take none of them, and train "
            "on images like these"
        )
    elif decision.kind == "no better":
        text = (
            f"None of your models is shown to beat {decision.second}: {decision.measure} {first} of {decision.first}, "
            f"the best of them, against {second} on {on} ({apart}). Train on images like these"
            f"{_or_label(decision)}"
        )
    else:
        others = listed([label for label in decision.tied if label != decision.first])
        text = (
            f"These {on} cannot tell {decision.first} from {others} ({decision.measure} {first} and {second} of "
            f"{decision.second}, {apart}): take {_taken(decision)}{_or_label(decision)}"
        )
    return f"{text.removesuffix('.')}.{_above_guessing(decision)}"


def _images(decision: Decision) -> str:
    return f"{count(decision.images)} test images" + (
        "" if decision.groups is None else f" of {count(decision.groups)} groups"
    )


def _with_interval(metric: Metric) -> str:
    if metric.low is None or metric.high is None:
        return f"{metric.value:.1f} %"
    return f"{metric.value:.1f} % (interval {metric.low:.1f} to {metric.high:.1f})"


def _difference(decision: Decision, pair: Pair) -> str:
    """Return the difference of the first and the second with its interval, in words."""
    sign = 1 if pair.first == decision.first else -1
    ends = sorted(sign * end for end in (pair.low, pair.high) if end is not None)
    interval = f", interval {ends[0]:.1f} to {ends[1]:.1f}" if len(ends) == 2 else ""
    return f"difference {sign * pair.difference:.1f} points{interval}"


def _chance(decision: Decision, pairs: Sequence[Pair]) -> str:
    """Return how often chance alone would give differences like these: the least certain of them counts."""
    largest = max(pair.probability for pair in pairs)
    often = "fewer than 1 of 1,000" if largest < 0.001 else f"about 1 of {math.floor(1 / largest)}"
    who = "the two were equally" if len(pairs) == 1 else "any of the others were as"
    corrected = f", corrected for {decision.comparisons} comparisons" if decision.comparisons > 1 else ""
    return f"If {who} good, {often} sets of test images would show such a difference{corrected}."


def _taken(decision: Decision) -> str:
    if decision.reason == "cheaper":
        return f"the {'cheaper' if len(decision.tied) == 2 else 'cheapest'} one, {decision.take}"
    if decision.reason == "ahead":
        return f"{decision.take}, which is ahead here and costs no more"
    return f"{decision.take}, which is shown to beat every baseline"


def _or_label(decision: Decision) -> str:
    if decision.further is None:
        return "; more labels will hardly tell them apart"
    more = " in whole groups" if decision.groups is not None else ""
    return f", or label about {count(decision.further)} more images{more}"


def _above_guessing(decision: Decision) -> str:
    """Return a warning if the best accuracy may be that of naming the largest class; else nothing."""
    best = next(iter(decision.accuracies.values()))
    if (best.low if best.low is not None else best.value) > decision.largest_class:
        return ""
    return (
        f" But no model is shown to be better than naming the largest class every time, which is right for "
        f"{decision.largest_class:.1f} %."
    )


def leaked_sentence(shared: int, images: int, example: tuple[str, str], without: str) -> str:
    """Return what to say if test images are among the training images, too.

    shared, images: test images that are, and all. example: a test image, and the training image that is the same or of
    the same group. without: the sentence on the other test images; "" if none are left.
    """
    rest = f" Without them: {without}" if without else ""
    return (
        f"Do not trust these figures until {count(shared)} of {count(images)} test images are removed: they are in the "
        f"training images, too, or share a group with them (as {example[0]} with {example[1]}).{rest}"
    )


def unlabelled_sentence(first: str, score: float | None, models: int) -> str:
    """Return what can be said without labels. first: the model with the highest LiDAR, and its score."""
    leads = f" By LiDAR {first} is first ({score:.1f}), which is a hint" if score is not None and models > 1 else ""
    hint = f"{leads} between runs of one method on one network, and no more." if leads else ""
    return (
        f"Without labels, nothing tells which model is better for your task.{hint} Label about "
        f"{count(_two_digits(images_to_tell(10)))} images to test on, and as many to learn from: that tells models 10 "
        "points apart."
    )
