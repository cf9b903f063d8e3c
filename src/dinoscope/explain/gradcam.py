"""Grad-CAM (Selvaraju et al. 2017) for networks without a classifier, of both families.

Towards what? A score of the image feature (`targets`): a class that labelled images stand for, or, without
labels, the image's own feature.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dinoscope.errors import UserError
from dinoscope.explain.attention import block_index
from dinoscope.explain.targets import Score, own_direction
from dinoscope.models.backbone import Backbone, ViTBackbone
from dinoscope.types import Tokens


def gradcam_maps(
    backbone: Backbone, images: Float[Tensor, "b 3 h w"], block: int = -1, score: Score = own_direction
) -> Float[Tensor, "b 1 rows columns"]:
    """`gradcam` scaled to sum to 1, by default towards each image's own feature; `images` are normalised.

    A map is zero throughout where nothing speaks for the feature. Raises UserError as `gradcam` does.
    """
    maps = gradcam(backbone, images, score, block)
    return F.normalize(maps.flatten(1), p=1.0).view_as(maps)[:, None]


def gradcam(
    backbone: Backbone, images: Float[Tensor, "b 3 h w"], score: Score = own_direction, block: int = -1
) -> Float[Tensor, "b rows columns"]:
    """ReLU of the activations, each channel weighted by the mean of its gradient (Grad-CAM, Eq. 1 and 2).

    score: gives each image's feature a number, of that image alone.
    block: a ViT's activations are the patch tokens that enter this block, laid out as on the image; a ResNet's
        are its last feature map, and it has only -1.

    Works in inference mode and on frozen weights; no parameter gets a gradient.

    Raises UserError for a block that the network does not have.
    """
    with torch.inference_mode(False):
        images = images.clone()  # of tensors made in inference mode, autograd takes only copies
        with torch.no_grad():
            activations, grid, finish = _cut(backbone, images, block)
        with torch.enable_grad():
            activations = activations.requires_grad_()
            total = score(finish(activations)).sum()  # images do not touch each other, so one sum serves all
            (gradient,) = torch.autograd.grad(total, activations)
        return class_activation(activations.detach(), gradient).unflatten(-1, grid)


def class_activation(activations: Float[Tensor, "b n d"], gradient: Float[Tensor, "b n d"]) -> Float[Tensor, "b n"]:
    """ReLU of the activations, each channel weighted by the mean of its gradient over the places (Eq. 1 and 2)."""
    weights = gradient.mean(dim=1, keepdim=True)
    return (weights * activations).sum(dim=-1).relu()


def _cut(
    backbone: Backbone, images: Float[Tensor, "b 3 h w"], block: int
) -> tuple[Float[Tensor, "b n d"], tuple[int, int], Callable[[Tensor], Float[Tensor, "b d"]]]:
    """The network in two: activations of the patches with their grid, and what makes the feature of them."""
    if not isinstance(backbone, ViTBackbone):
        if block != -1:
            raise UserError(f"{backbone.config.name} has no attention blocks: leave the block at -1, not {block}")
        tokens = backbone(images)
        return tokens.patches.clone(), tokens.grid, lambda patches: Tokens(None, patches, tokens.grid).feature
    block_index(backbone, block)
    hidden, grid = backbone.embed(images)
    hidden = backbone.run_blocks(hidden, stop=block)
    prefix, patches = hidden.tensor_split([backbone.net.num_prefix_tokens], dim=1)

    def finish(patches: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        hidden = torch.cat([prefix, patches], dim=1)
        for each in backbone.net.blocks[block:]:
            hidden = each(hidden)
        return backbone.net.norm(hidden)[:, 0]

    return patches.clone(), grid, finish
