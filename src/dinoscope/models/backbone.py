"""timm's networks behind one surface: normalised images in, `Tokens` out, at any image size.

The key names of the state dicts are those of timm, which are also those of the official DINO and DeiT files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from timm.layers.attention import Attention
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dinoscope.errors import UserError, lookup
from dinoscope.models.position import resized_position_embedding
from dinoscope.models.stem import ConvStem
from dinoscope.types import Tokens

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LINEAR_BLOCKS = 4
"""Blocks whose class tokens make the feature for linear probes (DINO's evaluation of ViT-S)."""
WIDE = 768
"""Width from which that feature is the last class token and the mean patch token instead (its ViT-B)."""


@dataclass(frozen=True)
class BackboneConfig:
    """What is needed to build a backbone again, apart from its weights. Travels with every checkpoint.

    name: a key of `BACKBONES`.
    image_size: side of the square, in pixels, that the position embeddings are laid out for; others are
        interpolated. Evaluations take it as the image size of the model.
    drop_path: highest rate of stochastic depth (linear over the blocks); only training uses it.
    mean, std: normalisation of RGB in [0, 1].
    """

    name: str = "vit_small_patch16_224"
    image_size: int = 224
    drop_path: float = 0.0
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


class Backbone(nn.Module):
    """What both families share: the config, the feature width, and the normalisation of uint8 images."""

    config: BackboneConfig
    dim: int
    patch_size: int
    net: nn.Module
    checkpoint_activations: bool
    mean: Tensor
    std: Tensor

    def __init__(self, config: BackboneConfig, dim: int, patch_size: int) -> None:
        super().__init__()
        self.config, self.dim, self.patch_size, self.checkpoint_activations = config, dim, patch_size, False
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)

    def normalize(self, images: UInt8[Tensor, "*batch 3 h w"]) -> Float[Tensor, "*batch 3 h w"]:
        """uint8 RGB to the network's input, in the dtype of its weights."""
        dtype = next(self.parameters()).dtype
        return (images.to(dtype) / 255 - self.mean.to(dtype)) / self.std.to(dtype)

    def feature(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """`forward(images).feature`, for whoever needs no patches."""
        return self(images).feature

    @property
    def linear_dim(self) -> int:
        """Width of `linear_feature`."""
        return self.dim

    def linear_feature(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b f"]:
        """What DINO's linear probe is trained on; of a ResNet the image feature, of a ViT more than that."""
        return self.feature(images)

    def __call__(self, images: Float[Tensor, "b 3 h w"]) -> Tokens:
        """Run the network; see `forward` of the subclass."""
        return cast(Tokens, super().__call__(images))


class ViTBackbone(Backbone):
    """A Vision Transformer with a class token (and any registers), position embeddings as in DINO."""

    net: VisionTransformer

    def __init__(self, config: BackboneConfig, net: VisionTransformer, patch_size: int) -> None:
        super().__init__(config, net.embed_dim, patch_size)
        self.net = net

    @property
    def patch_projection(self) -> nn.Module:
        """What turns pixels into patch tokens."""
        return cast(nn.Module, self.net.patch_embed)

    def embed(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b n d"], tuple[int, int]]:
        """Input of the first block: prefix tokens, then patch tokens, positions added; and the patch grid.

        Pixels beyond the last whole patch are left out, as the strided convolution does.
        """
        cells = self.net.patch_embed(images)
        rows, columns = cells.shape[-2:]
        position = resized_position_embedding(
            cast(Tensor, self.net.pos_embed), self.net.num_prefix_tokens, (rows, columns)
        )
        prefix = cast(Tensor, self.net.cls_token).expand(images.shape[0], -1, -1)  # len() would fix it in a trace
        tokens = torch.cat([prefix, cells.flatten(2).transpose(1, 2)], dim=1) + position
        return tokens, (rows, columns)

    def run_blocks(self, tokens: Float[Tensor, "b n d"], stop: int | None = None) -> Float[Tensor, "b n d"]:
        """Tokens after the blocks before `stop` (all of them by default; negative counts from the end)."""
        for block in self.net.blocks[:stop]:
            if self.checkpoint_activations and torch.is_grad_enabled():
                tokens = cast(Tensor, checkpoint(block, tokens, use_reentrant=False))
            else:
                tokens = block(tokens)
        return tokens

    def feature(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """The class token alone: equal to `forward(images).cls`, without what the last block does for the patches."""
        tokens, _ = self.embed(images)
        last = cast(Block, self.net.blocks[-1])
        return self.net.norm(class_token_after(last, self.run_blocks(tokens, stop=-1)))[:, 0]

    @property
    def linear_dim(self) -> int:
        """Width of `linear_feature`."""
        return self.dim * (2 if self.dim >= WIDE else min(LINEAR_BLOCKS, len(self.net.blocks)))

    def linear_feature(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b f"]:
        """The class tokens of the last four blocks in order (of all, if there are fewer), each after the final norm.

        From a width of 768: the class token and the mean patch token of the last block, after the norm.
        """
        if self.dim >= WIDE:
            tokens = self(images)
            return torch.cat([tokens.feature, tokens.patches.mean(dim=1)], dim=1)
        hidden, _ = self.embed(images)
        *earlier, last = cast("list[Block]", list(self.net.blocks))
        start = max(0, len(earlier) + 1 - LINEAR_BLOCKS)
        hidden, class_tokens = self.run_blocks(hidden, stop=start), list[Tensor]()
        for block in earlier[start:]:
            hidden = block(hidden)
            class_tokens.append(hidden[:, 0])
        class_tokens.append(class_token_after(last, hidden)[:, 0])
        return self.net.norm(torch.stack(class_tokens, dim=1)).flatten(1)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Tokens:
        """Class and patch tokens after the final LayerNorm."""
        tokens, grid = self.embed(images)
        tokens = self.net.norm(self.run_blocks(tokens))
        return Tokens(tokens[:, 0], tokens[:, self.net.num_prefix_tokens :], grid)


def class_token_after(block: Block, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b 1 d"]:
    """The class token behind a block: keys and values of all tokens, everything else for that one only.

    Saves ten twelfths of the block's multiplications, and draws the same random numbers for stochastic depth.
    """
    attention = cast(Attention, block.attn)
    normed, (weight, bias) = block.norm1(tokens), (attention.qkv.weight, attention.qkv.bias)
    width = weight.shape[0] // 3
    query = F.linear(normed[:, :1], weight[:width], bias[:width]).unflatten(-1, (attention.num_heads, -1))
    key, value = (
        F.linear(normed, weight[width:], bias[width:]).unflatten(-1, (2, attention.num_heads, -1)).unbind(dim=2)
    )
    query, key = attention.q_norm(query.transpose(1, 2)), attention.k_norm(key.transpose(1, 2))
    mixed = F.scaled_dot_product_attention(query, key, value.transpose(1, 2)).transpose(1, 2).flatten(2)
    token = tokens[:, :1] + block.drop_path1(block.ls1(attention.proj(mixed)))
    return token + block.drop_path2(block.ls2(block.mlp(block.norm2(token))))


class ResNetBackbone(Backbone):
    """A ResNet; its last feature map is given as patches, its image feature is their mean (global pooling)."""

    net: ResNet

    def __init__(self, config: BackboneConfig, net: ResNet, patch_size: int) -> None:
        super().__init__(config, cast(int, net.num_features), patch_size)
        self.net = net

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Tokens:
        """The last feature map, row by row."""
        self.net.set_grad_checkpointing(self.checkpoint_activations)
        cells = self.net.forward_features(images)
        return Tokens(None, cells.flatten(2).transpose(1, 2), (cells.shape[-2], cells.shape[-1]))


@dataclass(frozen=True)
class ViTShape:
    """Sizes of a Vision Transformer. stem: "patch" (one strided convolution) or "conv" (see `ConvStem`)."""

    patch: int
    width: int
    depth: int
    heads: int
    stem: str = "patch"
    mlp_ratio: float = 4.0


@dataclass(frozen=True)
class ResNetShape:
    """Sizes of a ResNet.

    width: channels of the first stage; doubled at each of the others.
    stem_stride: of a 3x3 convolution without pooling, for images of 32 to 64 px; 0 is ImageNet's stem of stride 4.
    """

    block: type[BasicBlock] | type[Bottleneck]
    layers: tuple[int, int, int, int]
    width: int = 64
    stem_stride: int = 0


BACKBONES: dict[str, ViTShape | ResNetShape] = {
    "vit_micro_conv8": ViTShape(8, 96, 3, 3, stem="conv", mlp_ratio=2.0),
    "vit_tiny_patch4_32": ViTShape(4, 192, 12, 3),
    "vit_tiny_patch8_64": ViTShape(8, 192, 12, 3),
    "vit_tiny_patch8_224": ViTShape(8, 192, 12, 3),
    "vit_tiny_patch16_224": ViTShape(16, 192, 12, 3),
    "vit_small_patch4_32": ViTShape(4, 384, 12, 6),
    "vit_small_patch8_64": ViTShape(8, 384, 12, 6),
    "vit_small_patch8_224": ViTShape(8, 384, 12, 6),
    "vit_small_patch16_224": ViTShape(16, 384, 12, 6),
    "vit_base_patch8_224": ViTShape(8, 768, 12, 12),
    "vit_base_patch16_224": ViTShape(16, 768, 12, 12),
    "deit_tiny_patch16_224": ViTShape(16, 192, 12, 3),
    "deit_small_patch16_224": ViTShape(16, 384, 12, 6),
    "deit_base_patch16_224": ViTShape(16, 768, 12, 12),
    "resnet_micro": ResNetShape(BasicBlock, (1, 1, 1, 1), width=32, stem_stride=2),
    "resnet18": ResNetShape(BasicBlock, (2, 2, 2, 2)),
    "resnet18_small": ResNetShape(BasicBlock, (2, 2, 2, 2), stem_stride=1),
    "resnet50": ResNetShape(Bottleneck, (3, 4, 6, 3)),
    "resnet50_small": ResNetShape(Bottleneck, (3, 4, 6, 3), stem_stride=1),
}


def build_backbone(config: BackboneConfig) -> Backbone:
    """Build the network with fresh weights.

    Raises UserError for a name that is not in `BACKBONES`, naming the nearest ones.
    """
    shape = check_backbone(config)
    return _vit(config, shape) if isinstance(shape, ViTShape) else _resnet(config, shape)


def check_backbone(config: BackboneConfig) -> ViTShape | ResNetShape:
    """Return the shape of the network, or refuse what cannot be built without building anything.

    Raises UserError for a name that is not in `BACKBONES`, or an image size that its patches do not fill.
    """
    shape = lookup("backbone", config.name, BACKBONES)
    if isinstance(shape, ViTShape) and config.image_size % shape.patch:
        raise UserError(
            f"{config.name} needs an image size that is a multiple of its patch of {shape.patch} px; "
            f"{config.image_size} is not (nearest: {round(config.image_size / shape.patch) * shape.patch})"
        )
    return shape


def without_drop_path(config: BackboneConfig) -> BackboneConfig:
    """Return the same network without stochastic depth: the teacher's, and what is exported."""
    return replace(config, drop_path=0.0)


def _vit(config: BackboneConfig, shape: ViTShape) -> ViTBackbone:
    net = VisionTransformer(
        img_size=config.image_size,
        patch_size=shape.patch,
        embed_dim=shape.width,
        depth=shape.depth,
        num_heads=shape.heads,
        mlp_ratio=shape.mlp_ratio,
        num_classes=0,
        drop_path_rate=config.drop_path,
        norm_layer=cast(Callable[..., nn.Module], lambda width, **kwargs: nn.LayerNorm(width, eps=1e-6, **kwargs)),
    )
    stem = ConvStem(shape.patch, shape.width) if shape.stem == "conv" else net.patch_embed.proj
    net.patch_embed = nn.Sequential()
    net.patch_embed.proj = stem
    return ViTBackbone(config, net, shape.patch)


def _resnet(config: BackboneConfig, shape: ResNetShape) -> ResNetBackbone:
    channels = tuple(shape.width * 2**stage for stage in range(4))
    net = ResNet(
        cast(Any, shape.block), shape.layers, num_classes=0, channels=channels, drop_path_rate=config.drop_path
    )
    if not shape.stem_stride:
        return ResNetBackbone(config, net, 32)
    # SimCLR, appendix B.9: for 32 px images the first convolution keeps the resolution, pooling is dropped.
    net.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=shape.stem_stride, padding=1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()
    return ResNetBackbone(config, net, 8 * shape.stem_stride)
