"""Official files: recognised by their names, told by their shapes, loaded strictly, and never run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dinoscope.errors import UserError
from dinoscope.models.backbone import Backbone
from dinoscope.models.pretrained import Choices, Found, import_file
from tests.official_files import (
    dino_checkpoint,
    head,
    hugging_face,
    official_dinov2,
    random_network,
    register_tiny,
    weights,
)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    register_tiny(monkeypatch)


def equal(one: Backbone, other: Backbone) -> bool:
    ours, theirs = one.net.state_dict(), other.net.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def load(tmp_path: Path, content: Any, choices: Choices | None = None) -> tuple[Backbone, Found]:
    torch.save(content, tmp_path / "file.pth")
    return import_file(tmp_path / "file.pth", choices)


MOCO_HEAD = {"fc.0.weight": torch.randn(4, 4), "fc.2.bias": torch.randn(4)}
TWO_LAYERS = {"0.weight": torch.randn(4, 4), "3.bias": torch.randn(4)}


def below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def sequential(network: Backbone) -> dict[str, Tensor]:
    """torchvision's ResNet as a list of children: conv1 bn1 relu maxpool layer1 to layer4."""
    places = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    return {
        f"{places[first]}.{rest}": tensor
        for first, _, rest, tensor in ((*name.partition("."), tensor) for name, tensor in weights(network).items())
    }


VIT_FILES: dict[str, tuple[Callable[[Backbone], Any], str]] = {
    "DINO, backbone": (weights, ""),
    "DeiT": (lambda net: {"model": weights(net) | {"head.weight": torch.randn(10, 64)}}, "supervised"),
    "timm": (
        lambda net: weights(net) | {"head.weight": torch.randn(10, 64), "head.bias": torch.randn(10)},
        "",
    ),
    "DDP": (lambda net: {"state_dict": weights(net, "module.")}, ""),
    "Hugging Face, bare": (lambda net: hugging_face(weights(net), "", False), ""),
    "Hugging Face, classifier": (
        lambda net: hugging_face(weights(net), "vit.", False) | {"classifier.weight": torch.randn(10, 64)},
        "",
    ),
    "chunked blocks": (
        lambda net: {
            "teacher": {
                re.sub(r"blocks\.(\d)", r"blocks.0.\1", name): tensor
                for name, tensor in weights(net, "backbone.").items()
            }
            | head("dino_head.")
        },
        "DINOv2",
    ),
}


@pytest.mark.parametrize("layout", VIT_FILES)
def test_files_of_a_vit(layout: str, tmp_path: Path) -> None:
    network = random_network("tiny", 64)
    make, method = VIT_FILES[layout]
    loaded, found = load(tmp_path, make(network))
    assert equal(loaded, network)
    assert (found.architecture, found.image_size, found.method) == ("tiny", 64, method)
    assert not loaded.training


RESNET_FILES: dict[str, tuple[Callable[[Backbone], Any], str, str]] = {
    "torchvision": (lambda net: weights(net) | {"fc.weight": torch.randn(10, 512)}, "", "plain"),
    "linear probe of MoCo": (
        lambda net: {
            "epoch": 100,
            "arch": "resnet50",
            "state_dict": weights(net, "module.") | {"module.fc.weight": torch.randn(10, 512)},
            "optimizer": {"state": {}, "param_groups": [{"params": [0, 1]}]},
        },
        "",
        "plain",
    ),
    "MoCo v2": (
        lambda net: {
            "arch": "resnet50",
            "state_dict": below("module.encoder_q.", weights(net) | MOCO_HEAD)
            | below("module.encoder_k.", weights(random_network("resnet18", 64)) | MOCO_HEAD)
            | {"module.queue": torch.randn(4, 8), "module.queue_ptr": torch.zeros(1)},
        },
        "MoCo v1 or v2",
        "student",
    ),
    "SwAV": (
        lambda net: below(
            "module.", weights(net) | below("projection_head.", TWO_LAYERS) | {"prototypes.weight": torch.randn(4, 4)}
        ),
        "SwAV",
        "plain",
    ),
    "BYOL port": (
        lambda net: (
            below("net.", weights(net))
            | below("online_encoder.net.", weights(net))
            | below("online_encoder.projector.", TWO_LAYERS)
            | below("target_encoder.net.", weights(random_network("resnet18", 64)))
        ),
        "BYOL",
        "student",
    ),
    "solo-learn": (
        lambda net: {
            "state_dict": weights(net, "backbone.")
            | {"classifier.weight": torch.randn(4, 4)}
            | below("projector.", TWO_LAYERS)
        },
        "",
        "plain",
    ),
    "OpenMMLab": (lambda net: {"meta": {"author": "x"}, "state_dict": weights(net, "backbone.")}, "", "plain"),
    "SimCLR port": (lambda net: {"model": weights(net, "encoder.") | below("projector.", TWO_LAYERS)}, "", "plain"),
    "VISSL": (
        lambda net: {"classy_state_dict": {"base_model": {"model": {"trunk": weights(net, "_feature_blocks.")}}}},
        "",
        "plain",
    ),
    "lightly": (
        lambda net: {"state_dict": below("backbone.", sequential(net)) | below("projection_head.layers.", TWO_LAYERS)},
        "",
        "plain",
    ),
    "DINO, ResNet": (
        lambda net: dino_checkpoint(net, random_network("resnet18", 64)),
        "DINO",
        "teacher",
    ),
}


@pytest.mark.parametrize("layout", RESNET_FILES)
def test_files_of_a_resnet(layout: str, tmp_path: Path) -> None:
    network = random_network("resnet18")
    with torch.no_grad():
        network.net.conv1.weight += 1.0  # unlike the decoys
    make, method, part = RESNET_FILES[layout]
    loaded, found = load(tmp_path, make(network))
    assert equal(loaded, network)
    assert (found.architecture, found.image_size, found.method, found.part) == ("resnet18", 224, method, part)


def test_the_stem_tells_images_of_32_pixels(tmp_path: Path) -> None:
    network = random_network("resnet18_small")
    content = {"state_dict": weights(network, "backbone.") | {"classifier.weight": torch.randn(4, 4)}}
    loaded, found = load(tmp_path, content)
    assert equal(loaded, network)
    assert (found.architecture, found.image_size) == ("resnet18_small", 32)
    assert "pad the first convolution" in found.note


def test_dino_checkpoint_opens_with_its_arguments_and_gives_either_part(tmp_path: Path) -> None:
    teacher, student = random_network("tiny", 64), random_network("tiny", 32 + 32)
    with torch.no_grad():
        student.net.cls_token += 1
    content = dino_checkpoint(teacher, student)
    loaded, found = load(tmp_path, content)
    assert equal(loaded, teacher)
    assert (found.part, found.left_out) == ("teacher", ("head",))
    assert found.line().startswith("DINO, full checkpoint (DINO), its teacher: tiny, 64 px; left out: head")
    assert equal(load(tmp_path, content, Choices(part="student"))[0], student)
    assert equal(load(tmp_path, content, Choices(part="student/module.backbone."))[0], student)
    with pytest.raises(UserError, match=r"no part 'ema'; it has: student \(student/module.backbone.\), teacher"):
        load(tmp_path, content, Choices(part="ema"))


@pytest.mark.parametrize("part", ["whole", "teacher", "student's network"])
def test_ibot_s_mask_token_and_second_last_layer_are_known(part: str, tmp_path: Path) -> None:
    """As main_ibot.py saves it: DINO's file, but with a mask token in the student and a last layer for the patches."""
    teacher, student = random_network("tiny", 64), random_network("tiny", 64)
    with torch.no_grad():
        student.net.cls_token += 1
    content = dino_checkpoint(teacher, student)
    mask = {"masked_embed": torch.zeros(1, 64)}
    content["student"] |= below("module.backbone.", mask) | {"module.head.last_layer2.weight_v": torch.randn(4, 4)}
    content["teacher"] |= {"head.last_layer2.weight_v": torch.randn(4, 4)}
    if part == "teacher":
        content = content["teacher"]
    if part == "student's network":
        content = {"state_dict": weights(student) | mask}
    loaded, found = load(tmp_path, content)
    assert equal(loaded, student if part == "student's network" else teacher)
    assert (found.method, found.note) == ("iBOT", "")
    if part == "whole":
        assert equal(load(tmp_path, content, Choices(part="student"))[0], student)


def test_moco_v3_has_twelve_heads(tmp_path: Path) -> None:
    online, momentum = random_network("tiny_heads"), random_network("tiny_heads")
    with torch.no_grad():
        online.net.cls_token += 1
    names = {"module.base_encoder.": online, "module.momentum_encoder.": momentum}
    tensors = {name: t for prefix, net in names.items() for name, t in weights(net, prefix).items()}
    tensors |= {"module.base_encoder.head.0.weight": torch.randn(4, 4), "module.predictor.0.weight": torch.randn(4, 4)}
    loaded, found = load(tmp_path, {"state_dict": tensors, "scaler": {"scale": 1.0}})
    assert equal(loaded, online)
    assert found.architecture == "tiny_heads"
    assert loaded.net.blocks[0].attn.num_heads == 12
    assert found.left_out == ("head", "module.momentum_encoder", "module.predictor")


@pytest.mark.parametrize("name", ["tiny_dinov2", "tiny_registers"])
@pytest.mark.parametrize("names", ["official", "timm", "Hugging Face"])
@torch.no_grad()
def test_dinov2(name: str, names: str, tmp_path: Path) -> None:
    network = random_network(name, 224, position_size=518)
    content = weights(network) if names == "timm" else official_dinov2(network)
    if names == "Hugging Face":
        content = hugging_face(content, "", dinov2=True)
    loaded, found = load(tmp_path, content)
    assert loaded.config == network.config
    assert (found.method, found.position_size) == (("DINOv2", 518) if names != "timm" or "reg" in name else ("", 518))
    assert ("mask_token" in found.left_out) == (names != "timm")
    images = torch.randn(1, 3, 42, 56)
    torch.testing.assert_close(loaded(images).patches, network(images).patches, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loaded(images).feature, network(images).feature, atol=1e-5, rtol=1e-5)


def test_safetensors_half_precision_and_old_files(tmp_path: Path) -> None:
    network = random_network("resnet18")
    tensors = {name: t for name, t in weights(network).items() if "num_batches" not in name}
    save_file({name: tensor.half() for name, tensor in tensors.items()}, tmp_path / "x.safetensors")
    loaded, _ = import_file(tmp_path / "x.safetensors")
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())
    torch.testing.assert_close(loaded.net.conv1.weight, network.net.conv1.weight.half().float(), rtol=0, atol=0)
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(import_file(tmp_path / "old.pth")[0].net.conv1.weight, network.net.conv1.weight)


# What is refused


def test_what_is_missing_left_over_or_of_another_shape_is_named(tmp_path: Path) -> None:
    tensors = weights(random_network("tiny", 64))
    without = {name: tensor for name, tensor in tensors.items() if ".norm1.bias" not in name}
    with pytest.raises(UserError, match=r"missing: blocks\.\*\.norm1\.bias \(2 times\)$"):
        load(tmp_path, without)
    with pytest.raises(UserError, match=r"left over: blocks\.0\.attn\.q_norm\.weight, fc_norm\.weight$"):
        load(tmp_path, tensors | {"fc_norm.weight": torch.ones(64), "blocks.0.attn.q_norm.weight": torch.ones(64)})
    with pytest.raises(UserError, match=r"norm\.weight is \(65,\) in the file and \(64,\) here"):
        load(tmp_path, tensors | {"norm.weight": torch.ones(65)})


def test_an_unknown_network_is_told_by_its_sizes(tmp_path: Path) -> None:
    tensors = weights(random_network("tiny", 64))
    deeper = tensors | {name.replace("blocks.1.", "blocks.2."): t for name, t in tensors.items()}
    with pytest.raises(UserError, match=r"patch 16, width 64, 3 blocks, 1 heads, MLP x 4, 0 registers.*--arch"):
        load(tmp_path, deeper)
    with pytest.raises(UserError, match=r"left over: blocks\.2"):
        load(tmp_path, deeper, Choices(architecture="tiny"))
    with pytest.raises(UserError, match="there is no network 'tyny'; did you mean tiny"):
        load(tmp_path, tensors, Choices(architecture="tyny"))
    resnet = {name: t for name, t in weights(random_network("resnet18")).items() if "layer4.1" not in name}
    with pytest.raises(UserError, match=r"BasicBlock x \[2, 2, 2, 1\], width 64"):
        load(tmp_path, resnet)
    distilled = tensors | {"pos_embed": torch.zeros(1, 18, 64), "dist_token": torch.zeros(1, 1, 64)}
    with pytest.raises(UserError, match=r"position embeddings for 18 tokens.*distilled DeiT"):
        load(tmp_path, distilled)


def test_a_named_architecture_decides_what_shapes_do_not_tell(tmp_path: Path) -> None:
    tensors = weights(random_network("tiny_heads"))
    with pytest.raises(UserError, match=r"width 96, 2 blocks, 1 heads"):
        load(tmp_path, tensors)
    loaded, _ = load(tmp_path, tensors, Choices(architecture="tiny_heads", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))
    assert loaded.net.blocks[0].attn.num_heads == 12
    assert loaded.config.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"a": {"weight": torch.ones(2)}}, "no ViT or ResNet that is known here"),
        ([torch.ones(2)], "holds a list, not weights"),
        ({"patch_embed.proj.weight": torch.ones(64, 3, 16, 16)}, "it has no 'blocks.0.mlp.fc1.weight'"),
        ({"patch_embed.proj.weight": torch.ones(64)}, "its tensors have other shapes"),
    ],
)
def test_files_of_something_else(content: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        load(tmp_path, content)
