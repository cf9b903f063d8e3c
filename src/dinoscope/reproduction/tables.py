"""The published tables by name: their models, their data, their title."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dinoscope.reproduction.bench import Bench, Settings
from dinoscope.reproduction.davis import DavisBench
from dinoscope.reproduction.imagenet import LINEAR, LINEAR_REFERENCE, ImageNetBench
from dinoscope.reproduction.targets import Target, davis_targets, imagenet_targets, unreleased, voc_targets
from dinoscope.reproduction.voc import VocBench

Linear = Literal["fast", "reference", "none"]

PROBES: dict[Linear, str | None] = {"fast": LINEAR, "reference": LINEAR_REFERENCE, "none": None}
"""What --linear says -> the name that the measurement is kept under."""


@dataclass(frozen=True)
class PublishedTable:
    """targets: from what --models names, and the name of the probe. bench: from data, settings and that name.

    missing: rows of the paper without released weights, in words.
    """

    title: str
    targets: Callable[[Sequence[str], str | None], tuple[Target, ...]]
    bench: Callable[[Path, Settings, str | None], Bench]
    missing: Callable[[], str]


TABLES = {
    "imagenet-table": PublishedTable(
        "ImageNet top-1 in % of frozen features, after DINO's Table 2", imagenet_targets, ImageNetBench, unreleased
    ),
    "voc-table": PublishedTable(
        "Jaccard in % of attention masks on VOC 2012, after DINO's Fig. 4",
        lambda models, _: voc_targets(models),
        lambda data, settings, _: VocBench(data, settings),
        lambda: "Supervised ViT-S/8",
    ),
    "davis-table": PublishedTable(
        "DAVIS 2017 val in %, after DINO's Table 5",
        lambda models, _: davis_targets(models),
        lambda data, settings, _: DavisBench(data, settings),
        lambda: "",
    ),
}
