"""Layer-wise decay of the learning rate: depths and scales by hand, and what a run does with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from dinoscope.errors import UserError
from dinoscope.models.backbone import BackboneConfig, build_backbone, wrap
from dinoscope.models.network import Depths, depths_by_block, require_depths
from dinoscope.training.config import OptimizerConfig, RunConfig, check_settings
from dinoscope.training.loop import train
from dinoscope.training.trainer import build_optimizer, layer_scales, set_schedules
from dinoscope.types import Step
from tests.conformance import cases

RATE = 2e-3


def depths_of(name: str, size: int = 32) -> Depths:
    with torch.device("meta"):
        return require_depths(build_backbone(BackboneConfig(name, image_size=size)), "layers")


@pytest.mark.parametrize(
    ("name", "top", "some"),
    [
        (
            "vit_micro_conv8",
            4,
            {"cls_token": 0, "pos_embed": 0, "blocks.0.norm1.weight": 1, "blocks.2.mlp.fc2.bias": 3, "norm.weight": 4},
        ),
        ("vit_small_patch16_dinov3", 13, {"patch_embed.proj.weight": 0, "reg_token": 0, "blocks.11.gamma_1": 12}),
        # A block of each stage, no norm after the last.
        ("resnet_micro", 5, {"conv1.weight": 0, "bn1.bias": 0, "layer1.0.conv1.weight": 1, "layer4.0.bn2.weight": 4}),
        (
            "convnext_tiny_dinov3",  # 3, 3, 9 and 3 blocks
            19,
            {
                "stem.0.weight": 0,
                "stages.0.blocks.2.gamma": 3,
                "stages.1.downsample.1.weight": 4,
                "stages.1.blocks.0.gamma": 4,
                "stages.3.blocks.2.gamma": 18,
                "head.norm.weight": 19,
            },
        ),
        (
            "swin_micro",  # 2 and 2 blocks
            5,
            {
                "patch_embed.proj.weight": 0,
                "layers.0.blocks.1.attn.qkv.weight": 2,
                "layers.1.downsample.reduction.weight": 3,
                "layers.1.blocks.1.norm2.bias": 4,
                "norm.weight": 5,
            },
        ),
        ("airbench_micro", 4, {"blocks.0.conv1.weight": 1, "blocks.2.norm2.bias": 3}),
        # timm's groups: the final norm goes with the last block.
        ("timm:vit_tiny_patch16_224", 13, {"cls_token": 0, "blocks.0.norm1.weight": 1, "norm.weight": 12}),
        ("timm:resnet18", 9, {"conv1.weight": 0, "layer1.1.conv1.weight": 2, "layer4.1.bn2.weight": 8}),
    ],
)
def test_depths_count_blocks_from_the_input(name: str, top: int, some: dict[str, int]) -> None:
    depths = depths_of(name, 224 if "224" in name or "dinov3" in name else 32)
    assert depths.top == top
    assert {key: depths.by_name[key] for key in some} == some
    with torch.device("meta"):
        net = build_backbone(BackboneConfig(name, image_size=224 if "224" in name else 32)).net
    assert depths.by_name.keys() == dict(net.named_parameters()).keys()
    assert set(depths.by_name.values()) <= set(range(top + 1))


def test_what_lies_between_two_blocks_goes_with_the_one_behind() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    depths = depths_by_block(net, [net[1], net[3]])
    found = [depths.by_name[f"{number}.weight"] for number in range(5)]
    assert (found, depths.top) == ([0, 1, 2, 2, 3], 3)


def test_scales_are_powers_of_the_distance_from_the_head(picture_folder, tmp_path: Path) -> None:
    """Three blocks: 1/16 for the input, 1/8, 1/4 and 1/2 for the blocks, 1 for the norm; the head is in no network."""
    method = cases.trainer(cases.run_config("supervised", picture_folder(8, classes=2), tmp_path / "run")).method
    scales = layer_scales(method, 0.5)
    assert scales["backbone.net.cls_token"] == 1 / 16
    assert scales["backbone.net.blocks.0.attn.qkv.weight"] == 1 / 8
    assert scales["backbone.net.blocks.2.attn.qkv.bias"] == 1 / 2
    assert scales["backbone.net.norm.bias"] == 1
    assert scales.keys() == {name for name, _ in method.named_parameters() if name.startswith("backbone.")}
    assert layer_scales(method, 1.0) == {}


def test_each_parameter_learns_at_its_own_rate_and_one_dimension_does_not_decay() -> None:
    config = RunConfig(Path(), Path(), optimizer=OptimizerConfig(learning_rate=RATE, warmup_epochs=0), batch_size=256)
    names = {"deep.weight": (2, 2), "deep.bias": (2,), "head.weight": (2, 2)}
    parameters = {name: nn.Parameter(torch.zeros(shape)) for name, shape in names.items()}
    optimizer = build_optimizer(config, parameters.items(), {"deep.weight": 0.25, "deep.bias": 0.25})
    logged = set_schedules(optimizer, config, Step(0, 10, 10))
    rates = {id(each): group["lr"] for group in optimizer.param_groups for each in group["params"]}
    decays = {id(each): group["weight_decay"] for group in optimizer.param_groups for each in group["params"]}
    assert {name: rates[id(parameter)] for name, parameter in parameters.items()} == {
        "deep.weight": RATE / 4,
        "deep.bias": RATE / 4,
        "head.weight": RATE,
    }
    assert logged["learning_rate"] == RATE
    assert [decays[id(parameter)] > 0 for parameter in parameters.values()] == [True, False, True]


def test_without_decay_the_optimiser_is_what_it_was() -> None:
    """Two groups without a factor, so that checkpoints of earlier runs fit."""
    parameters = {"a.weight": nn.Parameter(torch.zeros(2, 2)), "a.bias": nn.Parameter(torch.zeros(2))}
    groups = build_optimizer(RunConfig(Path(), Path()), parameters.items()).param_groups
    assert [len(group["params"]) for group in groups] == [1, 1]
    assert all("scale" not in group for group in groups)


@pytest.mark.parametrize("method", ["supervised", "dino"])
def test_a_run_with_decay_resumes_bit_by_bit(method: str, picture_folder, tmp_path: Path) -> None:
    decayed = OptimizerConfig(learning_rate=2e-2, warmup_epochs=0, layer_decay=0.65)
    config = cases.run_config(method, picture_folder(24, classes=2), tmp_path / "run", optimizer=decayed)
    trainer = cases.trainer(config)
    batches = trainer.batches()
    for _ in range(2):
        trainer.make_step(next(batches))
    trainer.save(tmp_path / "step.safetensors")
    restored = cases.trainer(config)
    restored.restore(tmp_path / "step.safetensors")
    again = restored.batches()
    for _ in range(3):
        trainer.make_step(next(batches))
        restored.make_step(next(again))
    for name, value in trainer.method.state_dict().items():
        assert torch.equal(value, restored.method.state_dict()[name]), name
    assert [group["scale"] for group in restored.optimizer.param_groups][::2] == [0.65**n for n in (4, 3, 2, 1, 0)]


def test_layers_near_the_input_move_less(picture_folder, tmp_path: Path) -> None:
    """AdamW's first step is the rate itself, whatever the gradient."""
    data = picture_folder(8, classes=2)
    plain = cases.run_config("supervised", data, tmp_path / "run")
    plain = replace(plain, optimizer=replace(plain.optimizer, clip=0.0, weight_decay=0.0, final_weight_decay=0.0))
    moved = {}
    for decay in (1.0, 0.5):
        trainer = cases.trainer(replace(plain, optimizer=replace(plain.optimizer, layer_decay=decay)))
        before = {name: value.clone() for name, value in trainer.method.named_parameters()}
        trainer.make_step(next(trainer.batches()))
        moved[decay] = {
            name: (value - before[name]).abs().max().item() for name, value in trainer.method.named_parameters()
        }
    for name, share in {
        "classifier.weight": 1,
        "backbone.net.blocks.2.mlp.fc1.weight": 1 / 2,
        "backbone.net.cls_token": 1 / 16,
    }.items():
        assert moved[0.5][name] == pytest.approx(share * moved[1.0][name], rel=1e-3), name


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.5])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(UserError, match="layer-decay"):
        check_settings(RunConfig(Path(), Path(), optimizer=OptimizerConfig(layer_decay=decay)))


def test_a_network_without_known_layers_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="Flat") as error:
        require_depths(
            wrap(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 4)), 4, name="Flat"), "--optimizer.layer-decay"
        )
    assert "\n" not in str(error.value)


def test_nothing_is_written_for_a_decay_that_cannot_be(picture_folder, tmp_path: Path) -> None:
    config = cases.run_config("supervised", picture_folder(8, classes=2), tmp_path / "run")
    with pytest.raises(UserError, match="layer-decay"):
        train(replace(config, optimizer=OptimizerConfig(layer_decay=2.0)))
    assert not (tmp_path / "run").exists()
