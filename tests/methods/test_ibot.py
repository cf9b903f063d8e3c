"""What is particular to iBOT and DINOv2: masks, heads, the centre of patches, and refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dinoscope.data.masking import PatchMasking
from dinoscope.errors import UserError
from dinoscope.methods import build_method, shown_name
from dinoscope.methods.dino import DINO, DINOConfig
from dinoscope.methods.ibot import IBOT, Hidden, IBOTConfig
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.training.config import RunConfig, check
from dinoscope.types import Step, Views
from tests.conformance import cases

VIT = BackboneConfig("vit_micro_patch4_64", image_size=32)
REGISTERS = BackboneConfig("vit_small_patch14_reg4_dinov2", image_size=56)
START = Step(0, 10, 5)
SMALL = IBOTConfig(out_dim=32, hidden_dim=16, bottleneck_dim=8)


def views(masking: PatchMasking, batch: int = 6, size: int = 32) -> Views:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, batch, 3, size, size), generator=generator, dtype=torch.uint8)
    return Views(images, None, torch.arange(batch), masks=masking.sample_batch(0, 0, range(batch), 2))


def ibot(**changes: object) -> IBOT:
    torch.manual_seed(0)
    method = IBOT(replace(SMALL, **changes), VIT)
    with torch.no_grad():
        method.mask_token.normal_()
    return method


@pytest.mark.parametrize("config", [VIT, REGISTERS], ids=["plain", "registers"])
def test_a_mask_token_stands_for_a_patch_before_positions_are_added(config) -> None:
    backbone = build_backbone(config).eval()
    images = torch.randn(2, 3, config.image_size, config.image_size)
    token = torch.randn(1, backbone.dim)
    side = config.image_size // backbone.patch_size
    mask = torch.zeros(2, side * side, dtype=torch.bool)
    mask[0, 3] = True
    plain, grid = backbone.embed(images)
    hidden, _ = backbone.embed(images, mask, token)
    changed = (plain != hidden).any(dim=-1)
    assert changed.sum() == 1
    assert changed[0, backbone.prefix + 3]
    positions = backbone.positions(grid)[0, -side * side :]
    torch.testing.assert_close(hidden[0, backbone.prefix + 3], token[0] + positions[3])
    with torch.no_grad():
        assert torch.equal(
            backbone.masked_forward(images, torch.zeros_like(mask), token).patches, backbone(images).patches
        )


def test_what_is_hidden_does_not_reach_the_student() -> None:
    method = ibot(mask_probability=1.0)
    seen = views(method.masking)
    outputs = method.encode(seen)
    pixels = seen.masks.view(2, 6, 1, 8, 8).repeat_interleave(4, dim=3).repeat_interleave(4, dim=4)
    other = replace(seen, global_views=torch.where(pixels, 255 - seen.global_views, seen.global_views))
    again = method.encode(other)
    torch.testing.assert_close(outputs["student_patches"], again["student_patches"])
    torch.testing.assert_close(outputs["student"], again["student"])
    assert (outputs["teacher_patches"] - again["teacher_patches"]).abs().max() > 1e-3


def dense(method: IBOT, seen: Views) -> tuple[Tensor, Tensor]:
    """Student and teacher logits of all patches, the slow way: [v, b, n, k]."""
    images = method.student_backbone.normalize(seen.global_views.flatten(0, 1))
    student = method.student_backbone.masked_forward(images, seen.masks.flatten(0, 1), method.mask_token).patches
    teacher = method.teacher_backbone(images).patches
    shape = seen.masks.shape
    return tuple(
        head.patch_logits(head.patch_bottleneck(patches.flatten(0, 1))).unflatten(0, shape)
        for head, patches in ((method.student_head, student), (method.teacher_head, teacher))
    )


@pytest.mark.parametrize("masked_views", ["independent", "exact"])
def test_hidden_patches_lie_in_places_that_their_number_allows(masked_views) -> None:
    method = ibot(masked_views=masked_views)
    seen = views(method.masking)
    outputs, (student, teacher) = method.encode(seen), dense(method, seen)
    weights, count = outputs["weights"], seen.masks.sum(dim=-1)
    assert weights.shape == ((1 if masked_views == "exact" else 2), 6, 32)
    assert int((weights > 0).sum()) == int(seen.masks.sum())
    torch.testing.assert_close(weights.sum(dim=-1).sum(dim=0), (count > 0).sum(dim=0).float())
    for name, expected in (("student_patches", student), ("teacher_patches", teacher)):
        for image in range(6):
            found = outputs[name][:, image][weights[:, image] > 0]
            order = count[:, image].argsort(descending=True, stable=True)
            wanted = torch.cat([expected[view, image][seen.masks[view, image]] for view in order])
            torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("patch_head", ["shared", "last_layer", "separate"])
def test_the_mean_over_all_patches_is_that_of_their_outputs(patch_head) -> None:
    """The last layer is linear: it is applied to the mean only."""
    method = ibot(patch_head=patch_head)
    seen = views(method.masking)
    _, teacher = dense(method, seen)
    torch.testing.assert_close(method.encode(seen)["teacher_patch_mean"], teacher.mean(dim=2), atol=1e-6, rtol=1e-5)


def test_centres_move_towards_the_means_of_all_or_of_masked_patches() -> None:
    for which in ("all", "masked"):
        method = ibot(patch_center=which)
        seen = views(method.masking)
        _, teacher = dense(method, seen)
        output = method.loss(method.encode(seen), START)
        method.after_step(START, output)
        mean = teacher.mean(dim=(0, 1, 2)) if which == "all" else teacher[seen.masks].mean(dim=0)
        torch.testing.assert_close(method.patch_center, 0.1 * mean, atol=1e-6, rtol=1e-5)
    without = replace(seen, masks=torch.zeros_like(seen.masks))
    before = method.patch_center.clone()
    method.after_step(START, method.loss(method.encode(without), START))
    torch.testing.assert_close(method.patch_center, before)


def test_a_batch_without_masks_has_no_loss_of_patches() -> None:
    method = ibot(centering="sinkhorn")
    seen = views(method.masking)
    output = method.loss(method.encode(replace(seen, masks=torch.zeros_like(seen.masks))), START)
    assert float(output.logged["patch_loss"]) == 0
    output.loss.backward()
    assert all(parameter.grad.isfinite().all() for _, parameter in method.trained_parameters())


def test_it_begins_with_the_weights_that_dino_has() -> None:
    torch.manual_seed(0)
    dino = DINO(DINOConfig(out_dim=32, hidden_dim=16, bottleneck_dim=8), VIT)
    for patch_head in ("shared", "last_layer", "separate"):
        method = ibot(patch_head=patch_head)
        for name, value in dino.student_backbone.state_dict().items():
            assert torch.equal(method.student_backbone.state_dict()[name], value), name
        for name, value in dino.student_head.state_dict().items():
            assert torch.equal(method.student_head.of_class.state_dict()[name], value), name


def test_heads_share_what_they_are_told_to() -> None:
    shared, last, separate = (ibot(patch_head=kind).student_head for kind in ("shared", "last_layer", "separate"))
    points = torch.randn(3, VIT.image_size * 3)
    assert torch.equal(shared.patch_logits(shared.patch_bottleneck(points)), shared.of_class(points))
    assert torch.equal(last.patch_bottleneck(points), last.of_class.bottleneck(points))
    assert not torch.equal(last.patch_logits(last.patch_bottleneck(points)), last.of_class(points))
    assert not torch.equal(separate.patch_bottleneck(points), separate.of_class.bottleneck(points))
    assert [len(head.last_layers) for head in (shared, last, separate)] == [1, 2, 2]


def test_prototypes_of_patches_are_held_too() -> None:
    method = ibot(patch_head="separate", freeze_last_layer_epochs=1)
    method.loss(method.encode(views(method.masking)), START).loss.backward()
    method.before_update(START)
    held = {name for name, parameter in method.trained_parameters() if parameter.grad is None}
    assert held == {
        f"student_head.{head}.last_layer.{part}"
        for head in ("of_class", "of_patches")
        for part in ("weight_g", "weight_v")
    }


def test_hidden_patches_are_numbered_on_the_cpu() -> None:
    masks = torch.tensor([[[0, 0, 0, 0], [1, 0, 0, 0]], [[0, 1, 1, 0], [0, 0, 0, 0]]], dtype=torch.bool)
    hidden = Hidden.of(masks, PatchMasking(2, 2, views="exact"), torch.float32)
    assert hidden.rows.tolist() == [9, 10, 4]  # view 1 of image 0, patches 1 and 2; view 0 of image 1, patch 0
    assert hidden.places.tolist() == [0, 1, 2]
    assert hidden.weights.tolist() == [[[0.5, 0.5], [1.0, 0.0]]]


def test_koleo_makes_it_dinov2() -> None:
    assert shown_name(SMALL) == "ibot"
    assert shown_name(replace(SMALL, koleo=0.1)) == "dinov2"


def test_collapsed_patches_are_reported_apart() -> None:
    method = build_method(SMALL, VIT)
    healthy = {"teacher_marginal_entropy": 3.0, "cross_entropy": 2.0, "teacher_entropy": 1.0}
    patches = {"patch_marginal_entropy": 3.0, "patch_cross_entropy": 2.0, "patch_teacher_entropy": 1.0}
    assert method.diagnose(healthy | patches) is None
    verdict = method.diagnose(healthy | patches | {"patch_marginal_entropy": 0.01})
    assert verdict is not None
    assert verdict.kind == "one-hot collapse of patches"
    assert "--method.patch-teacher-temperature" in verdict.text


@pytest.mark.parametrize(
    ("changes", "run", "words"),
    [
        ({}, {"backbone": "resnet_micro"}, "choose a Vision Transformer"),
        ({"mask_probability": 0.4, "masked_views": "exact"}, {}, "less than one"),
        ({"head_batch_norm": True}, {}, "--method.masked-views exact"),
        ({"freeze_last_layer_epochs": 3}, {}, "would be frozen"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, run, words) -> None:
    config: RunConfig = cases.run_config("ibot", Path("data"), Path("out"), **run)
    with pytest.raises(UserError, match=words):
        check(replace(config, method=replace(config.method, **changes)), images=100, processes=1)


def test_a_network_without_mask_tokens_is_refused() -> None:
    with pytest.raises(UserError, match="iBOT masks patch tokens, which timm:vit_tiny_patch16_224 cannot"):
        IBOT(SMALL, BackboneConfig("timm:vit_tiny_patch16_224", image_size=224))


@pytest.mark.parametrize("ratio", [(0.0, 0.5), (0.5, 0.1), (0.1, 1.0)])
def test_shares_that_cannot_be_masked_are_refused(ratio) -> None:
    with pytest.raises(ValueError, match="mask_ratio is"):
        IBOTConfig(mask_ratio=ratio)
