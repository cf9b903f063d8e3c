"""Files of DINOv3 and XCiT in every layout, made of timm's own networks with random weights; nothing is fetched."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from dinoscope import cli
from dinoscope.errors import UserError
from dinoscope.model_names import load_model
from dinoscope.models import backbone as backbones
from dinoscope.models.convnext import ConvNeXtShape
from dinoscope.models.pretrained import Choices, import_file
from dinoscope.models.rotary import RotaryShape

Tensors = dict[str, Tensor]

WIDTH = 64
VITS = {
    "MLP": ("vit_small_patch16_dinov3", False),
    "MLP with bias": ("vit_small_patch16_dinov3_qkvb", False),
    "SwiGLU": ("vit_small_plus_patch16_dinov3", True),
    "SwiGLU with bias": ("vit_small_plus_patch16_dinov3_qkvb", True),
}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, (name, gated) in VITS.items():
        shape = RotaryShape(16, WIDTH, 2, 2, 4 * WIDTH, gated=gated, bias=name.endswith("_qkvb"))
        monkeypatch.setitem(backbones.BACKBONES, f"tiny, {kind}", shape)
    monkeypatch.setitem(backbones.BACKBONES, "tiny_convnext", ConvNeXtShape((1, 1, 2, 1), 8))


def randomised(name: str, **sizes: Any) -> Any:
    """timm's network with weights that are not at their initial values."""
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=0, **sizes).eval()
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            parameter += (0.5 if "gamma" in key else 0.05) * torch.randn_like(parameter)
        for key, buffer in net.named_buffers():
            if "running_" in key:
                buffer += 0.1 * torch.rand_like(buffer)
    return net


def tiny_vit(kind: str) -> Any:
    return randomised(VITS[kind][0], embed_dim=WIDTH, depth=2, num_heads=2)


def replaced(tensors: Tensors, pairs: dict[str, str]) -> Tensors:
    for pattern, replacement in pairs.items():
        tensors = {re.sub(pattern, replacement, name): tensor for name, tensor in tensors.items()}
    return tensors


# timm's names -> the other layouts'


def official_vit(tensors: Tensors) -> Tensors:
    """As facebookresearch/dinov3 saves it: the key part of the bias is hidden by a mask, periods are in bfloat16."""
    result = dict(tensors)
    for name in tensors:
        if name.endswith("q_bias"):
            query, value = result.pop(name), result.pop(name.replace("q_bias", "v_bias"))
            bias = name.replace("q_bias", "qkv.bias")
            result[bias] = torch.cat([query, torch.randn(len(query)), value])
            result[f"{bias}_mask"] = torch.cat(
                [torch.ones_like(query), torch.zeros_like(query), torch.ones_like(value)]
            )
    names = {r"^reg_token$": "storage_tokens", r"gamma_([12])$": r"ls\1.gamma"}
    gates = {r"mlp\.fc1_g": "mlp.w1", r"mlp\.fc1_x": "mlp.w2"}
    if any("fc1_g" in name for name in tensors):
        gates[r"mlp\.fc2"] = "mlp.w3"
    periods = 100 ** (torch.arange(8) / 8)  # heads of 32 channels
    return replaced(result, names | gates) | {
        "mask_token": torch.zeros(1, WIDTH),
        "rope_embed.periods": periods.bfloat16(),
        "local_cls_norm.weight": torch.ones(WIDTH),
    }


def hidden_vit(tensors: Tensors, blocks: str = "layer.") -> Tensors:
    """As transformers' DINOv3ViTModel."""
    gated = any("fc1_g" in name for name in tensors)
    result: Tensors = {"embeddings.mask_token": torch.zeros(1, 1, WIDTH)}
    for name, tensor in tensors.items():
        if name.endswith("attn.qkv.weight"):
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                result[name.replace("attn.qkv", f"attention.{part}_proj")] = third.clone()
        else:
            result[name] = tensor
    return replaced(
        result,
        {
            r"^cls_token$": "embeddings.cls_token",
            r"^reg_token$": "embeddings.register_tokens",
            r"^patch_embed\.proj\.": "embeddings.patch_embeddings.",
            r"\.attn\.proj\.": ".attention.o_proj.",
            r"\.attn\.([qv])_bias$": r".attention.\1_proj.bias",
            r"\.gamma_([12])$": r".layer_scale\1.lambda1",
            r"\.mlp\.fc1_g\.": ".mlp.gate_proj.",
            r"\.mlp\.fc1_x\." if gated else r"\.mlp\.fc1\.": ".mlp.up_proj.",
            r"\.mlp\.fc2\.": ".mlp.down_proj.",
            r"^blocks\.": blocks,
        },
    )


def official_convnext(tensors: Tensors) -> Tensors:
    renamed = replaced(
        tensors,
        {
            r"^stem\.": "downsample_layers.0.",
            r"^stages\.(\d)\.downsample\.": r"downsample_layers.\1.",
            r"^stages\.(\d)\.blocks\.": r"stages.\1.",
            "conv_dw": "dwconv",
            r"mlp\.fc": "pwconv",
            r"^head\.norm\.": "norm.",
        },
    )
    return renamed | {f"norms.3.{kind}": renamed[f"norm.{kind}"] for kind in ("weight", "bias")}


def hidden_convnext(tensors: Tensors, prefix: str = "") -> Tensors:
    return replaced(
        tensors,
        {
            r"^stem\.": "stages.0.downsample_layers.",
            r"^stages\.(\d)\.downsample\.": r"stages.\1.downsample_layers.",
            r"^(stages\.\d)\.blocks\.(\d)\.norm\.": r"\1.blocks.\2.layer_norm.",
            r"\.blocks\.": ".layers.",
            "conv_dw": "depthwise_conv",
            r"mlp\.fc": "pointwise_conv",
            r"^head\.norm\.": "layer_norm.",
            r"^stages\.": f"{prefix}stages.",
        },
    )


VIT_LAYOUTS: dict[str, Callable[[Tensors], Tensors]] = {
    "official": official_vit,
    "timm": dict,
    "Hugging Face": hidden_vit,
    "Hugging Face, newer": lambda tensors: hidden_vit(tensors, "model.layer."),
}
CONVNEXT_LAYOUTS: dict[str, Callable[[Tensors], Tensors]] = {
    "official": official_convnext,
    "timm": dict,
    "Hugging Face": hidden_convnext,
    "Hugging Face, newer": lambda tensors: hidden_convnext(tensors, "model."),
}


def write(tensors: Tensors, file: Path) -> Path:
    if file.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    else:
        torch.save(tensors, file)
    return file


def agree(one: Tensor, other: Tensor) -> None:
    scale = other.abs().max()
    torch.testing.assert_close(one / scale, other / scale, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", VIT_LAYOUTS)
@pytest.mark.parametrize("kind", VITS)
@torch.no_grad()
def test_a_vit_gives_what_timms_own_gives(kind: str, layout: str, tmp_path: Path) -> None:
    net = tiny_vit(kind)
    ending = "safetensors" if layout.startswith("Hugging") else "pth"
    ours, found = import_file(write(VIT_LAYOUTS[layout](net.state_dict()), tmp_path / f"dinov3.{ending}"))
    assert (found.architecture, found.method, found.image_size) == (f"tiny, {kind}", "DINOv3", 256)
    assert found.licence.startswith("DINOv3 License")
    assert found.provenance()["licence"] == found.licence
    assert found.note == ""
    for size in ((64, 64), (48, 80)):
        images = torch.randn(2, 3, *size)
        theirs, tokens = net.forward_features(images), ours(images)
        agree(tokens.feature, theirs[:, 0])
        agree(tokens.patches, theirs[:, 5:])


@pytest.mark.parametrize("layout", CONVNEXT_LAYOUTS)
@torch.no_grad()
def test_a_convnext_gives_what_timms_own_gives(layout: str, tmp_path: Path) -> None:
    net = randomised("convnext_tiny", depths=(1, 1, 2, 1), dims=(8, 16, 32, 64))
    ours, found = import_file(write(CONVNEXT_LAYOUTS[layout](net.state_dict()), tmp_path / "dinov3.pth"))
    assert (found.architecture, found.method, found.image_size) == ("tiny_convnext", "DINOv3", 224)
    assert found.licence.startswith("DINOv3 License")
    images = torch.randn(2, 3, 64, 96)
    cells, tokens = net.forward_features(images), ours(images)
    agree(tokens.feature, net(images))
    agree(tokens.patches, net.head.norm(cells).flatten(2).transpose(1, 2))
    assert ours.transformer is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3_qkvb", "vit_small_plus_patch16_dinov3"])
@torch.no_grad()
def test_released_sizes_are_known(name: str, tmp_path: Path) -> None:
    net = randomised(name)
    ours, found = import_file(write(net.state_dict(), tmp_path / "model.safetensors"))
    assert found.architecture == name
    images = torch.randn(1, 3, 224, 160)
    agree(ours(images).feature, net.forward_features(images)[:, 0])


@pytest.mark.parametrize("kind", ["backbone", "whole training", "timm"])
@torch.no_grad()
def test_xcit_gives_what_timms_own_gives(kind: str, tmp_path: Path) -> None:
    name = "xcit_nano_12_p8_224"
    net = randomised(name)
    tensors: Tensors = {}
    for key, tensor in net.state_dict().items():
        parts = [key.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
        if kind != "timm" and key.startswith("cls_attn_blocks") and re.search(r"attn\.[qkv]\.", key):
            if ".attn.q." in key:
                tensors[key.replace(".q.", ".qkv.")] = torch.cat([net.state_dict()[part] for part in parts])
        else:
            tensors[key if kind == "timm" else key.replace("pos_embed.", "pos_embeder.")] = tensor
    content: Any = tensors
    if kind == "whole training":
        content = {
            part: {f"{prefix}{key}": tensor for key, tensor in tensors.items()}
            | {f"{prefix.removesuffix('backbone.')}head.last_layer.weight_v": torch.randn(4, 4)}
            for part, prefix in (("student", "module.backbone."), ("teacher", "backbone."))
        }
    torch.save(content, tmp_path / "dino_xcit.pth")
    ours, found = import_file(tmp_path / "dino_xcit.pth")
    assert found.architecture == f"timm:{name}"
    assert found.part == ("teacher" if kind == "whole training" else "plain")
    images = torch.randn(1, 3, 64, 96)
    agree(ours(images).feature, net(images))
    agree(ours(images).patches, net.forward_features(images)[:, 1:])


# What a file tells besides, and what is refused


def test_bias_that_is_no_bias(tmp_path: Path) -> None:
    """The mask hides the bias of keys; a file without one, or with the NaN that it starts as, is refused."""
    tensors = official_vit(tiny_vit("MLP with bias").state_dict())
    without = {name: tensor for name, tensor in tensors.items() if not name.endswith("bias_mask")}
    with pytest.raises(UserError, match="gives keys a bias"):
        import_file(write(without, tmp_path / "without.pth"))
    unset = {name: tensor * float("nan") if name.endswith("bias_mask") else tensor for name, tensor in tensors.items()}
    with pytest.raises(UserError, match="gives keys a bias"):
        import_file(write(unset, tmp_path / "unset.pth"))
    key = {"layer.0.attention.k_proj.bias": torch.ones(WIDTH)}
    file = write(hidden_vit(tiny_vit("MLP").state_dict()) | key, tmp_path / "keys.pth")
    with pytest.raises(UserError, match=r"left over: .*k_proj\.bias"):
        import_file(file)


def test_other_rotations_and_other_sizes_are_refused(tmp_path: Path) -> None:
    tensors = official_vit(tiny_vit("MLP").state_dict())
    other = tensors | {"rope_embed.periods": 10_000 ** (torch.arange(8) / 8)}
    with pytest.raises(UserError, match=r"rope_embed\.periods are not those"):
        import_file(write(other, tmp_path / "other.pth"))
    shallow = {name: tensor for name, tensor in tensors.items() if "blocks.1." not in name}
    with pytest.raises(UserError, match=r"patch 16, width 64, 1 blocks, MLP of 256, 4 registers, no bias"):
        import_file(write(shallow, tmp_path / "shallow.pth"))
    del tensors["blocks.1.norm2.bias"]
    with pytest.raises(UserError, match=r"missing: blocks\.1\.norm2\.bias"):
        import_file(write(tensors, tmp_path / "incomplete.pth"))
    classifier = randomised("convnext_tiny", depths=(1, 1, 2, 1), dims=(8, 16, 32, 64)).state_dict()
    with pytest.raises(UserError, match=r"left over: head\.fc\.weight"):
        import_file(write(classifier | {"head.fc.weight": torch.ones(10, 64)}, tmp_path / "classifier.pth"))


def test_satellite_images_have_their_own_statistics(tmp_path: Path) -> None:
    """By the name of the official file, by the settings of a folder of a model hub, or by the person."""
    tensors = tiny_vit("MLP").state_dict()
    file = write(official_vit(tensors), tmp_path / "dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth")
    ours, found = import_file(file)
    assert ours.config.mean == (0.430, 0.411, 0.296)
    assert ours.config.std == (0.213, 0.156, 0.143)
    assert "Normalised as the name" in found.note
    grey = (0.5, 0.5, 0.5)
    assert import_file(file, Choices(mean=grey, std=grey))[0].config.mean == grey
    folder = tmp_path / "hub"
    folder.mkdir()
    write(hidden_vit(tensors), folder / "model.safetensors")
    settings = {"image_mean": [0.43, 0.411, 0.296], "image_std": [0.213, 0.156, 0.143]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    assert import_file(folder)[0].config.std == (0.213, 0.156, 0.143)


def test_commands_take_such_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """k-NN, and maps; a ConvNeXt, which has no attention, refuses the rollout in one line."""
    vit = str(write(official_vit(tiny_vit("MLP with bias").state_dict()), tmp_path / "dinov3_vits16.pth"))
    net = randomised("convnext_tiny", depths=(1, 1, 2, 1), dims=(8, 16, 32, 64))
    convnext = str(write(official_convnext(net.state_dict()), tmp_path / "dinov3_convnext.pth"))
    assert load_model(vit).method == "DINOv3"
    for split in ("train", "val"):
        for label in range(2):
            folder = tmp_path / "data" / split / str(label)
            folder.mkdir(parents=True)
            for index in range(3):
                Image.new("RGB", (40, 32), (90 * label, 60 * index, 30)).save(folder / f"{index}.png")
    data = ["--data", str(tmp_path / "data"), "--device", "cpu", "--workers", "0", "--image-size", "32"]
    for model in (vit, convnext):
        assert cli.main(["knn", "--model", model, *data]) == 0
    picture = str(next((tmp_path / "data").rglob("*.png")))
    for command in ("attention", "pca"):
        assert cli.main([command, "--model", vit, "--out", str(tmp_path / command), "--device", "cpu", picture]) == 0
    capsys.readouterr()
    options = ["--map", "rollout", "--out", str(tmp_path / "refused"), "--device", "cpu", picture]
    assert cli.main(["attention", "--model", vit, *options]) == 0
    with pytest.raises(UserError, match="needs attention blocks, and tiny_convnext has none"):
        cli.call("attention", ["--model", convnext, *options, "--overwrite"])
