"""The losses of iBOT and DINOv2 against numbers recorded from their code, and against slow sums in NumPy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dinoscope.losses.dino import dino_loss, koleo_loss, teacher_probabilities, updated_center
from dinoscope.losses.ibot import masked_patch_cross_entropy, mean_over_masked
from dinoscope.losses.sinkhorn import sinkhorn
from dinoscope.schedules import epoch_warmup

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return load_file(DATA / "golden_ibot.safetensors")


@pytest.fixture(scope="module")
def numbers() -> dict:
    return json.loads((DATA / "golden_ibot.json").read_text())


def rows(tensors) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Student and teacher logits [v, b, n, k] of all patches, and weights [v, b, n], as if every place were kept."""
    masks = tensors["ibot.masks"].bool()
    weights = masks / masks.sum(dim=-1, keepdim=True).clamp_min(1)
    shape = masks.shape[:2]
    return (
        tensors["ibot.student_patches"].unflatten(0, shape),
        tensors["ibot.teacher_patches"].unflatten(0, shape),
        weights,
    )


def test_ibots_loss_gradient_and_centres(tensors, numbers) -> None:
    golden = numbers["ibot"]
    views, batch = golden["views"], golden["batch"]
    temperatures = [
        epoch_warmup(golden["epoch"], golden["warmup_epochs"], *golden[name])
        for name in ("temperature", "patch_temperature")
    ]
    of_class = tensors["ibot.student_class"].unflatten(0, (views, batch)).requires_grad_()
    local = tensors["ibot.student_local"].unflatten(0, (-1, batch))
    teacher = tensors["ibot.teacher_class"].unflatten(0, (views, batch))
    targets = teacher_probabilities(teacher, tensors["ibot.center"], temperatures[0])
    class_loss = dino_loss(torch.cat([of_class, local]), targets, golden["student_temperature"])
    student, patches, weights = rows(tensors)
    student.requires_grad_()
    patch_targets = torch.softmax((patches - tensors["ibot.patch_center"]) / temperatures[1], dim=-1)
    each = masked_patch_cross_entropy(student, patch_targets, golden["student_temperature"])
    patch_loss = mean_over_masked(each, weights, views)
    assert class_loss.item() == pytest.approx(golden["class"], abs=1e-5)
    assert patch_loss.item() == pytest.approx(golden["patch"], abs=1e-5)
    (class_loss + patch_loss).backward()
    torch.testing.assert_close(of_class.grad.flatten(0, 1), tensors["ibot.student_class_grad"], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(student.grad.flatten(0, 1), tensors["ibot.student_patches_grad"], atol=1e-6, rtol=1e-4)
    for name, mean in (("center", teacher.mean(dim=(0, 1))), ("patch_center", patches.mean(dim=(0, 1, 2)))):
        moved = updated_center(tensors[f"ibot.{name}"], mean, golden["center_momentum"])
        torch.testing.assert_close(moved, tensors[f"ibot.{name}_after"], atol=1e-6, rtol=0)


def test_dinov2s_loss_of_masked_patches(tensors, numbers) -> None:
    golden = numbers["dinov2"]
    student, patches, weights = rows(tensors)
    present = (weights > 0).float()
    centred = torch.softmax((patches - tensors["ibot.patch_center"]) / golden["patch_temperature"], dim=-1)
    codes = sinkhorn(patches.flatten(0, 2), golden["sinkhorn_temperature"], 3, present=present.flatten())
    torch.testing.assert_close(codes[present.flatten() > 0], tensors["dinov2.sinkhorn"], atol=1e-6, rtol=1e-5)
    assert codes[present.flatten() == 0].abs().max() == 0
    for name, targets in (("patch_centering", centred), ("patch_sinkhorn", codes.view_as(patches))):
        loss = mean_over_masked(masked_patch_cross_entropy(student, targets, 0.1), weights, len(weights))
        assert loss.item() == pytest.approx(golden[name], abs=1e-5)
    mean = torch.einsum("vbm,vbmk->k", present, patches) / present.sum()
    moved = updated_center(tensors["ibot.patch_center"], mean, 0.9)
    torch.testing.assert_close(moved, tensors["dinov2.patch_center_after"], atol=1e-6, rtol=0)


def test_dinov2s_koleo_but_for_what_keeps_it_finite(tensors, numbers) -> None:
    """Ours adds 1e-4 to a distance and DINOv2 1e-8: with distances of 0.3 and more, below 4e-4."""
    features = tensors["dinov2.koleo_input"].requires_grad_()
    loss = koleo_loss(features)
    loss.backward()
    assert loss.item() == pytest.approx(numbers["dinov2"]["koleo"], abs=4e-4)
    torch.testing.assert_close(features.grad, tensors["dinov2.koleo_grad"], atol=1e-5, rtol=2e-3)


def test_the_loss_of_masked_patches_by_hand() -> None:
    """Two views of two images; masks of two patches, one, none and one: 1/4 of (mean of two, one, 0, one)."""
    rng = np.random.default_rng(0)
    student, logits = rng.normal(size=(2, 2, 2, 3)), rng.normal(size=(2, 2, 2, 3))
    targets = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    counts = np.array([[2, 1], [0, 1]])
    total = 0.0
    for view in range(2):
        for image in range(2):
            for place in range(counts[view, image]):
                z = student[view, image, place] / 0.1
                log_probabilities = z - np.log(np.exp(z - z.max()).sum()) - z.max()
                total -= (targets[view, image, place] * log_probabilities).sum() / counts[view, image] / 4
    weights = torch.tensor([[[0.5, 0.5], [1, 0]], [[0, 0], [1, 0]]], dtype=torch.float64)
    each = masked_patch_cross_entropy(torch.tensor(student), torch.tensor(targets), 0.1)
    assert mean_over_masked(each, weights, 2).item() == pytest.approx(total, abs=1e-12)


def test_empty_places_change_nothing_of_the_assignment() -> None:
    logits = torch.randn(12, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    present = torch.tensor([1, 0, 1, 1, 0, 1, 0, 1, 1, 1, 0, 1], dtype=torch.float64)
    codes = sinkhorn(logits, 0.05, present=present)
    torch.testing.assert_close(codes[present > 0], sinkhorn(logits[present > 0], 0.05), atol=1e-12, rtol=0)
    assert sinkhorn(logits, 0.05, present=torch.zeros(12, dtype=torch.float64)).abs().max() == 0
