"""What a verdict rests on: measured answers, splits, leaks, what is refused, and a folder without labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from dinoscope import checkpoint
from dinoscope.config import to_dict
from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation.base import Context
from dinoscope.evaluation.evidence import Verdict, verdict_on
from dinoscope.evaluation.fewshot import FewshotConfig
from dinoscope.evaluation.knn import K
from dinoscope.evaluation.lidar import LiDARConfig
from dinoscope.evaluation.throughput import ThroughputConfig
from dinoscope.model_names import load_models
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.training.config import RunConfig

CPU = Context(torch.device("cpu"), workers=0)
WANTED: dict[str, Any] = {
    "fewshot": FewshotConfig((1, 2), (10.0,), draws=3),
    "lidar": LiDARConfig(limit=8, views=2),
    "throughput": ThroughputConfig(batch_size=1, repeats=1),
}
SKIP = ("linear", "throughput")
PIXELS, NETWORK = "pixels", "random:vit_micro_patch4_64"


def grey_levels(root: Path, counts: dict[str, int], split: str = "", start: int = 0) -> Path:
    """Write noise around one grey level for each class: easy for raw pixels less their mean only by its texture."""
    for number, (name, images) in enumerate(counts.items()):
        folder = root / split / name
        folder.mkdir(parents=True, exist_ok=True)
        for image in range(start, start + images):
            rng = np.random.default_rng([number, image])
            picture = rng.integers(0, 60, (24, 24, 3), dtype=np.uint8)
            rows = slice(0, 12) if number % 2 else slice(12, 24)
            picture[rows] += np.uint8(120 + 20 * (number // 2))
            cv2.imwrite(str(folder / f"{image:03d}.png"), picture)
    return root


def measured(data: Path, *names: str, context: Context = CPU, **options: Any) -> Verdict:
    return verdict_on(load_models(names), data, wanted=WANTED, context=context, **{"skip": SKIP, **options})


def test_answers_give_the_figure_of_knn_and_the_rest_is_measured(tmp_path: Path) -> None:
    grey_levels(tmp_path, {"a": K, "b": K}, "train")
    grey_levels(tmp_path, {"a": 8, "b": 8}, "val", start=100)
    found = measured(tmp_path, PIXELS, NETWORK, skip=("linear",))
    assert found.decision is not None
    assert found.decision.measure == "k-NN"
    assert (found.train, found.images, found.shared) == (2 * K, 16, 0)
    for label, entry in found.entries.items():
        assert found.decision.accuracies[label].value == pytest.approx(entry.value("knn"))
        assert {"knn", "fewshot", "rank", "lidar"} <= entry.measurements.keys()
    sizes = {
        label: e.measurements["throughput"].protocol["image_size"] for label, e in found.entries.items() if e.backbone
    }
    assert sizes == {"random vit_micro_patch4_64": 64}  # its own
    assert [check.kind for check in found.checks if "share no files" in check.text] == ["good"]
    again = measured(tmp_path, PIXELS, NETWORK, skip=("linear",))  # taken from the cache
    assert again.decision == found.decision


def test_fifty_labels_without_a_val_split_are_split_in_half(tmp_path: Path) -> None:
    found = measured(grey_levels(tmp_path, {"a": 25, "b": 25}), PIXELS, NETWORK)
    assert found.decision is not None
    assert found.decision.measure == "logistic regression"
    assert found.train + found.images == 50
    assert found.decision.accuracies["raw pixels"].value == 100
    assert any("There is no val split. 50 % of the images" in check.text for check in found.checks)
    wider = measured(tmp_path, PIXELS, NETWORK, context=replace(CPU, split=0.8))
    assert wider.train > found.train


def test_groups_stay_whole_and_are_the_units(tmp_path: Path) -> None:
    grey_levels(tmp_path, {"a": 30, "b": 30})
    for path in sorted(tmp_path.rglob("*.png")):
        patient = path.parent / f"p{int(path.stem) % 10}"
        patient.mkdir(exist_ok=True)
        path.rename(patient / path.name)
    found = measured(tmp_path, PIXELS, NETWORK, context=replace(CPU, group="[^/]+/(p[0-9])/"))
    assert found.decision is not None
    assert found.decision.groups is not None
    assert 1 < found.decision.groups < 10
    assert found.decision.images == 6 * found.decision.groups
    assert f"test images of {found.decision.groups} groups" in found.sentence


def test_shared_images_forbid_trust_and_are_left_out_of_the_decision(tmp_path: Path) -> None:
    grey_levels(tmp_path, {"a": 12, "b": 12}, "train")
    grey_levels(tmp_path, {"a": 8, "b": 8}, "val", start=100)
    shutil.copy(tmp_path / "train/a/000.png", tmp_path / "val/a/copy.png")
    pixels = cv2.imread(str(tmp_path / "train/b/003.png"))
    assert pixels is not None
    cv2.imwrite(str(tmp_path / "val/b/other.bmp"), pixels)
    found = measured(tmp_path, PIXELS, NETWORK)
    assert (found.shared, found.is_trusted, found.images) == (2, False, 18)
    assert found.decision is not None
    assert found.decision.images == 16
    assert found.sentence.startswith("Do not trust these figures until 2 of 18 test images are removed")
    assert "Without them: " in found.sentence
    faults = [check.text for check in found.checks if check.kind == "warning" and "training image" in check.text]
    assert len(faults) == 2
    assert measured(tmp_path, PIXELS, NETWORK, skip=(*SKIP, "overlap")).is_trusted  # nothing was looked for
    shutil.rmtree(tmp_path / "val")
    shutil.copytree(tmp_path / "train", tmp_path / "val")
    every = measured(tmp_path, PIXELS, NETWORK)
    assert every.shared == every.images == 24
    assert "Without them" not in every.sentence


def test_features_that_are_nearly_those_of_a_training_image_are_a_hint(tmp_path: Path) -> None:
    grey_levels(tmp_path, {"a": 12, "b": 12}, "train")
    grey_levels(tmp_path, {"a": 8, "b": 8}, "val", start=100)
    near = cv2.imread(str(tmp_path / "train/a/000.png"))
    assert near is not None
    near[0, 0] = 255
    cv2.imwrite(str(tmp_path / "val/a/near.png"), near)
    found = measured(tmp_path, PIXELS, NETWORK)
    assert found.is_trusted
    assert any(
        "resemble" in check.text and "near.png" in check.text and "000.png" in check.text for check in found.checks
    )


def test_results_of_other_images_are_not_shown(tmp_path: Path) -> None:
    one, other = (grey_levels(tmp_path / name, {"a": 12, "b": 12}) for name in ("one", "other"))
    measured(one, PIXELS, NETWORK, skip=("linear", "throughput"))
    found = measured(other, PIXELS, NETWORK, skip=("linear", "throughput", "lidar", "knn"))
    for entry in found.entries.values():
        assert entry.measurements.keys() == {"fewshot", "rank"}
        assert str(other) in str(entry.measurements["fewshot"].protocol)
    # and if measuring fails, one with other settings does not stand in
    wrong = verdict_on(
        load_models([PIXELS, NETWORK]),
        one,
        wanted=WANTED | {"fewshot": FewshotConfig((50,), ())},
        context=CPU,
        skip=SKIP,
    )
    assert all("fewshot" not in entry.measurements for entry in wrong.entries.values())
    assert any("not measured" in check.text for check in wrong.checks)


@pytest.mark.parametrize("counts", [{"a": 6}, {"a": 6, "b": 1}, {"a": 6, "b": 6, "c": 1}])
def test_one_class_and_single_images_of_a_class_are_refused(tmp_path: Path, counts: dict[str, int]) -> None:
    with pytest.raises(UserError):
        measured(grey_levels(tmp_path, counts), PIXELS, NETWORK)


def test_without_labels_there_are_scores_and_no_recommendation(
    tmp_path: Path, picture_folder: Callable[..., Path]
) -> None:
    found = measured(picture_folder(12), PIXELS, NETWORK)
    assert found.decision is None
    assert found.images == 12
    for entry in found.entries.values():
        assert {"rank", "lidar"} <= entry.measurements.keys()
    best = max(found.entries, key=lambda label: found.entries[label].value("lidar") or 0)
    assert f"By LiDAR {best} is first" in found.sentence
    labelled = grey_levels(tmp_path / "labelled", {"a": 4, "b": 4})
    assert measured(labelled, PIXELS, NETWORK, unlabelled=True).decision is None
    assert measured(grey_levels(tmp_path / "one", {"a": 4}), PIXELS, NETWORK, unlabelled=True).decision is None


@pytest.mark.parametrize(("split", "is_seen"), [(None, True), (0.5, False)])
def test_a_run_that_was_trained_on_the_test_images_is_named(tmp_path: Path, split: float | None, is_seen: bool) -> None:
    data, run = grey_levels(tmp_path / "data", {"a": 12, "b": 12}), tmp_path / "run"
    checkpoint.export_backbone(run, build_backbone(BackboneConfig("vit_micro_patch4_64", image_size=64)))
    config = RunConfig(data, run, split=split)
    (run / "config.json").write_text(json.dumps({"run": to_dict(config)}))
    (run / "metrics.jsonl").write_text(
        '{"step": 0, "loss": 5.0}\n{"step": 9, "loss": 1.5}\n{"epoch": 1, "knn_top1": 50}\n'
    )
    found = measured(data, str(run), PIXELS)
    seen = [check.kind for check in found.checks if "run was trained on the test images" in check.text]
    assert seen == (["note"] if is_seen else [])
    assert found.losses == {"run": 1.5}


def test_a_model_alone_is_not_judged(tmp_path: Path) -> None:
    found = measured(grey_levels(tmp_path, {"a": 12, "b": 12}), NETWORK, skip=[*EVALUATIONS])
    assert found.decision is not None
    assert (found.decision.kind, found.decision.take) == ("single", None)
