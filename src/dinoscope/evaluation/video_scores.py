"""Scores of video object segmentation: region similarity J and contour accuracy F, as DAVIS defines them.

Semi-supervised task: the objects are those of the first frame, first and last annotated frame are not scored, and a
figure is a mean over objects, not over sequences. Sources: Perazzi et al. 2016, A Benchmark Dataset and Evaluation
Methodology for Video Object Segmentation, section 5.1; Pont-Tuset et al. 2017, The 2017 DAVIS Challenge; and, where
the papers leave details open, the behaviour of the official scorer (davis2017-evaluation), equal to the last digit.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray

from dinoscope.errors import UserError
from dinoscope.types import Metric

TOLERANCE = 0.008
"""How far contours may lie apart and still meet, as a share of the frame's diagonal."""
RECALL_ABOVE = 0.5
FEWEST_FRAMES = 3
"""Annotated frames of which one is left when the first and the last are not scored."""

_MOST_PENDING = 32
"""Frames that wait to be scored, so that masks do not heap up where they come faster."""

AnyMask = UInt8[ndarray, "_ _"]
"""Ids, in a size that has not been checked yet."""
FrameScores = list[tuple[float, float]]


@dataclass(frozen=True)
class Statistics:
    """Of one object's values.

    recall: share above 0.5. decay: mean of the first quarter of the frames less that of the last.
    """

    mean: float
    recall: float
    decay: float


@dataclass(frozen=True)
class ObjectScore:
    """J and F of one object in every scored frame, each in [0, 1].

    number: of the object in the masks, from 1. frames: number of each scored frame in its sequence, from 0.
    """

    number: int
    frames: tuple[int, ...]
    j: tuple[float, ...]
    f: tuple[float, ...]

    @property
    def region(self) -> Statistics:
        """Statistics of J."""
        return statistics(self.j)

    @property
    def contour(self) -> Statistics:
        """Statistics of F."""
        return statistics(self.f)


@dataclass(frozen=True)
class SequenceScore:
    """Scores of the objects of one sequence, and what was not scored.

    not_annotated: frames without a truth. later: objects above those of the first frame, which the protocol leaves out.
    """

    objects: tuple[ObjectScore, ...]
    not_annotated: int = 0
    later: tuple[int, ...] = ()


def region_similarity(prediction: Bool[ndarray, "h w"], truth: Bool[ndarray, "h w"]) -> float:
    """J: intersection over union of two masks; 1 where both are empty."""
    union = int(np.count_nonzero(prediction | truth))
    return int(np.count_nonzero(prediction & truth)) / union if union else 1.0


def contour_accuracy(prediction: Bool[ndarray, "h w"], truth: Bool[ndarray, "h w"], radius: int) -> float:
    """F: harmonic mean of the shares of either contour that lie within `radius` pixels (Euclidean) of the other.

    1 where neither mask has a contour, 0 where one has none. See `tolerance_radius`.
    """
    ours, theirs = contour(prediction), contour(truth)
    our_length, their_length = int(np.count_nonzero(ours)), int(np.count_nonzero(theirs))
    if not (our_length and their_length):
        return float(our_length == their_length)
    precision = int(np.count_nonzero(ours & _grown(theirs, radius))) / our_length
    recall = int(np.count_nonzero(theirs & _grown(ours, radius))) / their_length
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def contour(mask: Bool[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """Pixels that differ from the one to the right, below, or below to the right, as far as there is one."""
    edge = np.zeros_like(mask)
    right, down = mask[:, :-1] ^ mask[:, 1:], mask[:-1] ^ mask[1:]
    edge[:, :-1] = right
    edge[:-1] |= down
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def tolerance_radius(height: int, width: int) -> int:
    """Pixels that contours may lie apart in frames of this size: 0.8 % of the diagonal, rounded up."""
    return math.ceil(TOLERANCE * math.sqrt(height**2 + width**2))


def score_object(prediction: UInt8[ndarray, "h w"], truth: UInt8[ndarray, "h w"], number: int) -> tuple[float, float]:
    """J and F of one object in one frame, from id masks."""
    ours, theirs = prediction == number, truth == number
    radius = tolerance_radius(*truth.shape)
    left, top, width, height = cv2.boundingRect((ours | theirs).view(np.uint8))
    # Both scores depend on the object alone, with one pixel around it for the contour, which lies half a pixel up and
    # left of the edge. Where the frame ends there is no such pixel, and the crop's end is the frame's.
    rows, columns = slice(max(0, top - 1), top + height + 1), slice(max(0, left - 1), left + width + 1)
    ours, theirs = ours[rows, columns], theirs[rows, columns]
    return region_similarity(ours, theirs), contour_accuracy(ours, theirs, radius)


def score_sequence(
    predictions: Iterable[AnyMask],
    truths: Iterable[AnyMask | None],
    workers: int = 2,
) -> SequenceScore:
    """Score a sequence while its masks arrive, frame by frame, on threads.

    workers: threads; more than a few gain nothing, a frame being a millisecond's work.
    predictions: id masks of as many frames as truths, the first included; not written to once handed over.
    truths: id masks without void, None for frames that are not annotated.

    Raises UserError where the first frame has no truth or no object, masks differ in size, fewer than three
    frames are annotated, or a scored prediction holds an object that the first frame does not number.
    """
    annotated = _Annotated(zip(predictions, truths, strict=True))
    frames: list[int] = []
    scores: list[FrameScores] = []
    pending: deque[Future[FrameScores]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for frame, prediction, truth in annotated:
            frames.append(frame)
            pending.append(pool.submit(_score_frame, prediction, truth, annotated.objects))
            if len(pending) > _MOST_PENDING:
                scores.append(pending.popleft().result())
        scores += [future.result() for future in pending]
    if not scores:
        raise UserError(f"at least {FEWEST_FRAMES} annotated frames are needed: the first and the last are not scored")
    objects = tuple(
        ObjectScore(index + 1, tuple(frames), *zip(*(frame[index] for frame in scores), strict=True))
        for index in range(annotated.objects)
    )
    return SequenceScore(objects, annotated.without, tuple(sorted(annotated.later)))


def statistics(values: Sequence[float]) -> Statistics:
    """Mean, recall and decay of an object's values, in the order of the frames.

    Quarters share the frames at which they meet: n values are cut at 1 + (n - 1) q / 4, rounded, halves upwards.
    """
    array = np.asarray(values, np.float64)
    cuts = np.floor(np.linspace(1, len(array), 5) + 0.5 + 1e-10).astype(int) - 1
    decay = array[cuts[0] : cuts[1] + 1].mean() - array[cuts[3] : cuts[4] + 1].mean()
    return Statistics(float(array.mean()), float((array > RECALL_ABOVE).mean()), float(decay))


def summarise(scores: Sequence[ObjectScore]) -> Iterator[Metric]:
    """J&F, and mean, recall and decay of both, in %, averaged over the objects of all sequences."""
    table = np.array(
        [
            [getattr(each, field) for each in (s.region, s.contour) for field in ("mean", "recall", "decay")]
            for s in scores
        ]
    )
    j_mean, j_recall, j_decay, f_mean, f_recall, f_decay = (100 * float(value) for value in table.mean(axis=0))
    yield Metric("jf_mean", (j_mean + f_mean) / 2)
    yield Metric("j_mean", j_mean)
    yield Metric("j_recall", j_recall)
    yield Metric("j_decay", j_decay, higher_is_better=False)
    yield Metric("f_mean", f_mean)
    yield Metric("f_recall", f_recall)
    yield Metric("f_decay", f_decay, higher_is_better=False)


class _Annotated:
    """The frames that are scored, as (number, prediction, truth), and what is learnt of the others on the way.

    objects: how many the first frame numbers; known when the first is handed out.
    """

    def __init__(self, pairs: Iterable[tuple[AnyMask, AnyMask | None]]) -> None:
        self._pairs = pairs
        self.objects = 0
        self.without = 0
        self.later: set[int] = set()

    def __iter__(self) -> Iterator[tuple[int, AnyMask, AnyMask]]:
        held: tuple[int, AnyMask, AnyMask] | None = None
        for frame, (prediction, truth) in enumerate(self._pairs):
            if frame == 0:
                self._begin(truth)
            if truth is None:
                self.without += 1
                continue
            if held is not None and held[0] > 0:
                self._check(*held)
                yield held
            held = frame, prediction, truth
            if int(truth.max()) > self.objects:
                self.later.update(int(number) for number in np.unique(truth) if number > self.objects)

    def _begin(self, truth: AnyMask | None) -> None:
        if truth is None:
            raise UserError("the first frame is not annotated, and its objects are those to be followed")
        self.objects = int(truth.max())
        if not self.objects:
            raise UserError("the first frame has no object")

    def _check(self, frame: int, prediction: AnyMask, truth: AnyMask) -> None:
        if prediction.shape != truth.shape:
            sizes = " and ".join(f"{mask.shape[1]} x {mask.shape[0]} px" for mask in (prediction, truth))
            raise UserError(f"frame {frame}: the mask and its truth differ in size, {sizes}")
        if (highest := int(prediction.max())) > self.objects:
            raise UserError(f"frame {frame}: the mask holds object {highest}, and the first frame has {self.objects}")


def _score_frame(prediction: UInt8[ndarray, "h w"], truth: UInt8[ndarray, "h w"], objects: int) -> FrameScores:
    return [score_object(prediction, truth, number) for number in range(1, objects + 1)]


def _grown(edge: Bool[ndarray, "h w"], radius: int) -> Bool[ndarray, "h w"]:
    """All pixels within `radius` of one that is set; what lies beyond the ends of the array counts for nothing."""
    return cv2.dilate(edge.view(np.uint8), _disk(radius)).view(np.bool_)


@functools.cache
def _disk(radius: int) -> UInt8[ndarray, "d d"]:
    offsets = np.arange(-radius, radius + 1)
    return (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.uint8)
