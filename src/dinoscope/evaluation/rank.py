"""RankMe: the effective rank of a model's features, without labels (Garrido et al. 2023).

Features that fill many dimensions have a high rank; dimensional collapse shows in a low one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dinoscope.data.sources import evenly
from dinoscope.evaluation.base import Column, Context, Data, Evaluation, made_of, shown_entries, shown_images
from dinoscope.evaluation.results import new_result
from dinoscope.methods.health import rank_me
from dinoscope.model_names import Model
from dinoscope.types import Metric, Result

MAX_IMAGES = 25_600
"""Images whose features are enough for it (Garrido et al. 2023, section 4)."""


@dataclass(frozen=True)
class RankConfig:
    """Settings of RankMe."""

    limit: int = MAX_IMAGES
    """At most so many images, evenly spaced."""


def run(models: Sequence[Model], data: Data, config: RankConfig, context: Context) -> Iterator[Result]:
    """Measure the features of the val images, or of the training images if there is no val split.

    Entries of the protocol: those of `Context.network`; images (their folder), count, most (the limit).

    Raises UserError if there are no images.
    """
    images = shown_images(data)
    for model in models:
        bank = context.features(model.backbone, images, "features for RankMe")
        rank = rank_me(bank.features[evenly(len(bank.features), config.limit)])
        yield new_result("rank", expected(model, (images, None), config, context), [Metric("rankme", rank, "")])


def expected(model: Model, data: Data, config: RankConfig, context: Context) -> dict[str, Any]:
    return {**context.network(model), "most": config.limit} | shown_entries(data)


def protocol_line(protocol: Mapping[str, Any]) -> str:
    weights = f", weights {protocol['weights']}" if "weights" in protocol else ""
    weights += made_of(protocol)
    count = min(protocol["count"], protocol["most"])
    return f"{count} images of {protocol['images']}, {protocol['image_size']} px, {protocol['precision']}{weights}"


EVALUATION = Evaluation(
    "rank",
    "RankMe",
    "Measure the effective rank of a model's features (RankMe): no labels are needed.",
    "images",
    RankConfig,
    run,
    (Column("rank", "RankMe", "rankme", unit="", ranked=False),),
    protocol_line,
    expected,
    lambda data, config, context: shown_images(data),
    prefix="rankme",
)
