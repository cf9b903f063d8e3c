"""Runs of a few steps for the tests of the report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2

from dinoscope import api
from tests.conformance import cases
from tests.conftest import draw_picture

HOSTILE = "<script>alert(1)<&>\"'"
"""Name of a run folder that must be shown as it is, and nothing else."""


def labelled(root: Path) -> Path:
    """Twelve training and six validation pictures of three classes."""
    for split, count in (("train", 12), ("val", 6)):
        for number in range(count):
            file = root / split / f"class{number % 3}" / f"{number:02d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), draw_picture(number + 50 * (split == "val")))
    return root


def trained(root: Path) -> Path:
    """Runs of DINO (with a hostile name), SimCLR on a ResNet and supervised training below `root`, images in data."""
    data = labelled(root / "data")
    for name, method, backbone in (
        (HOSTILE, "dino", "vit_micro_conv8"),
        ("simclr", "simclr", "resnet_micro"),
        ("supervised", "supervised", "vit_micro_conv8"),
    ):
        config = cases.run_config(method, data, root / name, epochs=2, evaluate_every=1)
        api.train(replace(config, backbone=backbone))
        _never_waiting(root / name / "metrics.jsonl")
    return root


def _never_waiting(metrics: Path) -> None:
    """As on an idle machine: on a busy one the report says, rightly, that training waited for its images."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    kept = [line | {"waiting_for_data": 0.0} if "waiting_for_data" in line else line for line in lines]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in kept))
