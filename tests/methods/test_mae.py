"""What is particular to MAE: few tokens in the network, the decoder, the loss, and refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dinoscope import checkpoint
from dinoscope.data.masking import PatchMasking
from dinoscope.errors import UserError
from dinoscope.methods.mae import MAE, MAEConfig, Patches
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.models.vit import sine_cosine_positions
from dinoscope.recipes import run_config, small_run
from dinoscope.training.config import RunConfig, check
from dinoscope.types import Step, Views
from tests.conformance import cases

VIT = BackboneConfig("vit_micro_patch4_64", image_size=32)
STEM = BackboneConfig("vit_micro_conv8", image_size=32)
REGISTERS = BackboneConfig("vit_small_patch14_reg4_dinov2", image_size=56)
SMALL = MAEConfig(decoder_dim=32, decoder_depth=2, decoder_heads=4)
START = Step(0, 10, 5)


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def mae(backbone: BackboneConfig = VIT, **changes: object) -> MAE:
    """With weights that are no zeros anywhere, so that every part counts."""
    torch.manual_seed(0)
    method = MAE(replace(SMALL, **changes), backbone)
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return method


def views(masking: PatchMasking, batch: int = 3, size: int = 32) -> Views:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1, batch, 3, size, size), generator=generator, dtype=torch.uint8)
    return Views(images, None, torch.arange(batch), masks=masking.sample_batch(0, 0, range(batch), 1))


# The slow way: one image after another, one head after another, all sums written out


def linear(layer: nn.Linear, row: Tensor) -> Tensor:
    return layer.weight @ row + layer.bias


def norm(layer: nn.LayerNorm, row: Tensor) -> Tensor:
    centred = row - row.mean()
    return centred / torch.sqrt((centred * centred).mean() + 1e-6) * layer.weight + layer.bias


def gelu(row: Tensor) -> Tensor:
    return row * (1 + torch.erf(row / math.sqrt(2))) / 2


def block(layer: nn.Module, rows: list[Tensor], heads: int) -> list[Tensor]:
    width = len(rows[0]) // heads
    fused = [linear(layer.attn.qkv, norm(layer.norm1, row)) for row in rows]
    query, key, value = ([row[part * len(rows[0]) :][: len(rows[0])] for row in fused] for part in range(3))
    mixed = []
    for own in query:
        parts = []
        for head in range(heads):
            place = slice(head * width, (head + 1) * width)
            scores = [float(own[place] @ other[place]) / math.sqrt(width) for other in key]
            shares = [math.exp(score - max(scores)) for score in scores]
            parts.append(sum(share * row[place] for share, row in zip(shares, value, strict=True)) / sum(shares))
        mixed.append(torch.cat(parts))
    rows = [row + linear(layer.attn.proj, mix) for row, mix in zip(rows, mixed, strict=True)]
    return [row + linear(layer.mlp.fc2, gelu(linear(layer.mlp.fc1, norm(layer.norm2, row)))) for row in rows]


def encoded(method: MAE, image: Tensor, visible: list[int]) -> list[Tensor]:
    """Class token and visible patches of one image [3, h, w]; nothing else is ever computed."""
    net, patch = method.backbone.net, method.backbone.patch_size
    columns = image.shape[-1] // patch
    rows = [net.cls_token[0, 0] + net.pos_embed[0, 0]]
    for number in visible:
        top, left = patch * (number // columns), patch * (number % columns)
        pixels = image[:, top : top + patch, left : left + patch]
        kernel = net.patch_embed.proj
        embedded = (kernel.weight * pixels).sum(dim=(1, 2, 3)) + kernel.bias
        rows.append(embedded + net.pos_embed[0, 1 + number])
    for layer in net.blocks:
        rows = block(layer, rows, method.backbone.heads)
    return [norm(net.norm, row) for row in rows]


def decoded(method: MAE, tokens: list[Tensor], visible: list[int], count: int) -> list[Tensor]:
    """Pixels of all patches, in their order in the image, as the authors' code puts them."""
    decoder = method.decoder
    embedded = [linear(decoder.project, token) for token in tokens]
    rows = [embedded[0]]
    for number in range(count):
        at = embedded[1 + visible.index(number)] if number in visible else decoder.mask_token[0, 0]
        rows.append(at + decoder.positions[0, number])
    for layer in decoder.blocks:
        rows = block(layer, rows, method.config.decoder_heads)
    return [linear(decoder.pixels, norm(decoder.norm, row)) for row in rows[1:]]


@pytest.mark.parametrize("norm_pixels", [True, False])
def test_everything_equals_the_slow_way(norm_pixels: bool) -> None:
    """Network among visible tokens, decoder over all in their order, and the loss over hidden patches."""
    method = mae(norm_pixels=norm_pixels)
    seen = views(method.masking, batch=2)
    outputs = method.encode(seen)
    errors, powers = [], []
    with torch.no_grad():
        for number in range(2):
            image = method.backbone.normalize(seen.global_views[0, number])
            hidden = [place for place in range(64) if seen.masks[0, number, place]]
            visible = [place for place in range(64) if place not in hidden]
            assert (len(visible), len(hidden)) == (16, 48)
            tokens = encoded(method, image, visible)
            torch.testing.assert_close(outputs["features"][0, number], tokens[0])
            pixels = decoded(method, tokens, visible, 64)
            for place, patch in enumerate(hidden):
                torch.testing.assert_close(outputs["prediction"][0, number, place], pixels[patch])
                top, left = 4 * (patch // 8), 4 * (patch % 8)
                target = image[:, top : top + 4, left : left + 4].permute(1, 2, 0).flatten()
                if norm_pixels:
                    mean = sum(target) / 48
                    target = (target - mean) / torch.sqrt(sum((target - mean) ** 2) / 47 + 1e-6)
                torch.testing.assert_close(outputs["target"][0, number, place], target)
                errors.append(float(((pixels[patch] - target) ** 2).sum() / 48))
                powers.append(float((target**2).sum() / 48))
    result = method.loss(outputs, START)
    assert result.loss.item() == pytest.approx(sum(errors) / 96, rel=1e-10)
    explained = method.health(result.statistics)["explained_share"]
    assert float(explained) == pytest.approx(1 - sum(errors) / sum(powers), rel=1e-10)


def test_the_gradient_is_that_of_differences() -> None:
    method = mae()
    seen = views(method.masking)

    def loss() -> Tensor:
        return method.loss(method.encode(seen), START).loss

    loss().backward()
    for parameter in (
        method.backbone.net.patch_embed.proj.weight,
        method.decoder.mask_token,
        method.decoder.pixels.bias,
    ):
        flat, place = parameter.data.view(-1), 5
        flat[place] += 1e-5
        above = loss().item()
        flat[place] -= 2e-5
        below = loss().item()
        flat[place] += 1e-5
        assert float(parameter.grad.view(-1)[place]) == pytest.approx((above - below) / 2e-5, rel=1e-4)


@pytest.mark.parametrize("backbone", [VIT, STEM, REGISTERS], ids=["plain", "stem", "registers"])
def test_what_is_hidden_does_not_reach_the_network(backbone: BackboneConfig) -> None:
    """Through a convolutional stem neither, whose cells see their neighbours."""
    method = mae(backbone)
    side, size = method.backbone.patch_size, backbone.image_size
    seen = views(method.masking, size=size)
    outputs = method.encode(seen)
    grid = size // side
    pixels = seen.masks.view(1, 3, 1, grid, grid).repeat_interleave(side, dim=3).repeat_interleave(side, dim=4)
    other = replace(seen, global_views=torch.where(pixels, 255 - seen.global_views, seen.global_views))
    again = method.encode(other)
    torch.testing.assert_close(outputs["prediction"], again["prediction"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(outputs["features"], again["features"], rtol=1e-12, atol=1e-12)
    assert (outputs["target"] - again["target"]).abs().max() > 0.1


@pytest.mark.parametrize("backbone", [VIT, REGISTERS], ids=["plain", "registers"])
def test_with_all_patches_it_is_the_network_itself(backbone: BackboneConfig) -> None:
    network = build_backbone(backbone).eval()
    images = torch.randn(2, 3, backbone.image_size, backbone.image_size)
    tokens = network(images)
    count = tokens.patches.shape[1]
    order = torch.stack([torch.randperm(count), torch.arange(count)])
    found = network.visible_forward(images, order)
    torch.testing.assert_close(found[:, 0], tokens.cls)
    for image in range(2):
        torch.testing.assert_close(found[image, network.prefix :], tokens.patches[image, order[image]])


def test_blocks_of_the_network_get_a_quarter_of_the_patches() -> None:
    method, lengths = mae(), []
    for layer in method.backbone.blocks:
        layer.register_forward_pre_hook(lambda module, inputs: lengths.append(inputs[0].shape[1]))
    method.encode(views(method.masking))
    assert lengths == [17] * 3


def test_masks_are_of_the_image_and_the_epoch() -> None:
    """75 % exactly, whichever images share the batch; another one in each epoch."""
    masking = mae().masking
    masks = masking.sample_batch(3, 1, range(8), 1)
    assert masks.sum(dim=-1).tolist() == [[48] * 8]
    assert torch.equal(masks[:, 2:5], masking.sample_batch(3, 1, range(2, 5), 1))
    assert not torch.equal(masks, masking.sample_batch(3, 2, range(8), 1))
    assert len({tuple(mask.tolist()) for mask in masks[0]}) == 8
    patches = Patches.of(masks[0])
    assert torch.equal(patches.visible[0], torch.tensor([place for place in range(64) if not masks[0, 0, place]]))


def test_every_global_view_is_a_sample() -> None:
    method = mae()
    seen = views(method.masking, batch=4)
    two = Views(seen.global_views.view(2, 2, 3, 32, 32), None, torch.arange(2), masks=seen.masks.view(2, 2, 64))
    found, wanted = method.encode(two), method.encode(seen)
    for name, rows in found.items():
        torch.testing.assert_close(rows.flatten(0, 1), wanted[name][0])


def test_positions_are_fixed_and_weights_are_drawn_as_published(picture_folder, tmp_path: Path) -> None:
    torch.manual_seed(0)
    method = MAE(SMALL, VIT)
    wanted = torch.cat([torch.zeros(1, 1, 96), sine_cosine_positions(96, 8)], dim=1).double()
    assert torch.equal(method.backbone.net.pos_embed, wanted)
    assert "pos_embed" not in {name.rpartition(".")[2] for name, _ in method.trained_parameters()}
    for weight, limit in (
        (method.backbone.net.patch_embed.proj.weight, math.sqrt(6 / (48 + 96))),
        (method.backbone.net.blocks[0].attn.qkv.weight, math.sqrt(6 / (4 * 96))),
        (method.decoder.pixels.weight, math.sqrt(6 / (32 + 48))),
    ):
        assert 0.9 * limit < float(weight.abs().max()) <= limit
    assert 0.01 < float(method.decoder.mask_token.std()) < 0.03


def test_a_checkpoint_gives_the_network_without_its_decoder(picture_folder, tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    config = cases.run_config("mae", picture_folder(8), tmp_path / "run", backbone="vit_micro_patch8_64")
    trainer = cases.trainer(config)
    trainer.make_step(next(trainer.batches()))
    trainer.save(tmp_path / "step.safetensors")
    loaded = checkpoint.load_backbone(tmp_path / "step.safetensors")
    assert torch.equal(loaded.net.pos_embed, trainer.method.backbone.net.pos_embed)
    assert not any("decoder" in name or "mask_token" in name for name in loaded.state_dict())
    images = torch.randn(2, 3, 48, 48)  # at another size, positions are resized as those of any ViT
    assert loaded(images).patches.shape == (2, 36, 96)


def test_a_reconstruction_of_one_grey_is_told() -> None:
    method = mae()
    verdict = method.diagnose({"explained_share": 0.001}) or pytest.fail("no verdict")
    assert verdict.kind == "stagnation"
    assert method.diagnose({"explained_share": 0.1}) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone": "resnet18"}, "MAE leaves patches out: choose a Vision Transformer"),
        ({"views": cases.VIEWS}, "--views.num-local must be 0"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(changes: dict[str, object], words: str) -> None:
    config = replace(run_config("mae_small_images", Path("data"), Path("out")), **changes)
    with pytest.raises(UserError, match=words):
        check(config, 5000, 1)


def test_networks_that_cannot_leave_patches_out_are_refused() -> None:
    with pytest.raises(UserError, match="vit_small_patch16_dinov3 cannot: choose a vit_"):
        MAE(SMALL, BackboneConfig("vit_small_patch16_dinov3", image_size=32))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mask_ratio": 1.0}, "mask_ratio"),
        ({"mask_ratio": 0.0}, "mask_ratio"),
        ({"decoder_dim": 30, "decoder_heads": 3}, "multiple of 4"),
        ({"decoder_dim": 32, "decoder_heads": 5}, "multiple of decoder_heads"),
        ({"decoder_depth": 0}, "decoder_depth"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MAEConfig(**settings)


def test_the_published_recipe() -> None:
    config = run_config("mae_vit_base", Path("data"), Path("out"))
    check(config, 1_281_167, 64)
    assert config.method == MAEConfig()
    optimizer, seen = config.optimizer, config.views
    assert optimizer.peak(config.batch_size) == pytest.approx(2.4e-3)
    assert (optimizer.beta2, optimizer.weight_decay, optimizer.final_weight_decay) == (0.95, 0.05, 0.05)
    assert (optimizer.clip, optimizer.warmup_epochs, optimizer.min_learning_rate) == (0, 40, 0.0)
    assert (seen.num_views, seen.global_scale, seen.jitter_probability, seen.grayscale) == (1, (0.2, 1.0), 0, 0)
    assert (seen.blur_probability[0], seen.solarize_probability[0], seen.horizontal_flip) == (0, 0, 0.5)


def test_one_view_in_the_small_comparison() -> None:
    config: RunConfig = small_run("mae", "vit_micro_conv8", "scenes", Path("data"), Path("out"))
    check(config, 5000, 1)
    assert (config.views.num_views, config.views.global_scale) == (1, (0.3, 1.0))
