"""What every backbone shares: the config that travels with its weights, and one surface for all networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dinoscope.types import Tokens

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class BackboneConfig:
    """What is needed to build a backbone again, apart from its weights. Travels with every checkpoint.

    name: a key of `BACKBONES`.
    image_size: side of the square, in pixels, that evaluations take as the image size of the model.
    position_size: side of the square, in pixels, that the position embeddings are laid out for, where it is another
        one (DINOv2: 518, and evaluated at 224); at all others they are interpolated. None: `image_size`.
    drop_path: highest rate of stochastic depth (linear over the blocks); only training uses it.
    mean, std: normalisation of RGB in [0, 1].
    window: (level, width), the grey range by which images of more than 8 bits are read, that of the training set. None:
        each by its own (models of others, and those of runs from before there was a range).
    """

    name: str = "vit_small_patch16_224"
    image_size: int = 224
    drop_path: float = 0.0
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    position_size: int | None = None
    window: tuple[float, float] | None = None

    @property
    def layout_size(self) -> int:
        """Side of the square, in pixels, that the position embeddings are laid out for."""
        return self.image_size if self.position_size is None else self.position_size


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
