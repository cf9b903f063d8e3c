"""Grad-CAM (Selvaraju et al. 2017) for networks without a classifier.

The gradient points towards a score of the image feature: a class that labelled images stand for, or, without labels,
the image's own feature. Perturbed images are scored by them too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dinoscope.explain.attention import require_last_block
from dinoscope.models.network import Backbone, require_patches
from dinoscope.models.vit import block_index
from dinoscope.types import Tokens

Score = Callable[[Float[Tensor, "b d"]], Float[Tensor, " b"]]
"""From image features to a number for each; differentiable."""


def own_direction(features: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """Return the length of each feature along its own direction, held fixed: similarity to itself, without labels.

    The inner product, not the cosine: that one is at its maximum, where its gradient is zero.
    """
    return (features * F.normalize(features.detach(), dim=-1)).sum(dim=-1)


def vote_shares(
    features: Float[Tensor, "b d"],
    gallery: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> Float[Tensor, "b classes"]:
    """Return the share of each class in the weighted vote of the k nearest gallery images (Wu et al. 2018, sec. 3.4).

    A neighbour's vote is exp(cosine / temperature); the shares sum to 1 and serve as probabilities. A k above the size
    of the gallery is lowered to it.
    """
    similarities = F.normalize(features, dim=-1) @ F.normalize(gallery, dim=-1).T
    nearest, index = similarities.topk(min(k, len(gallery)), dim=-1)
    weights = (nearest / temperature).softmax(dim=-1)
    return weights.new_zeros(len(features), num_classes).scatter_add(1, labels[index], weights)


def log_vote(
    features: Float[Tensor, "b d"], members: Float[Tensor, "m d"], k: int = 20, temperature: float = 0.07
) -> Float[Tensor, " b"]:
    """Return the log of the vote that a class has from its own k nearest gallery images (`members`).

    Not divided by the votes of the other classes: if a class has all of them, the share is 1 whatever the image looks
    like, and its gradient zero.
    """
    similarities = F.normalize(features, dim=-1) @ F.normalize(members, dim=-1).T
    return torch.logsumexp(similarities.topk(min(k, len(members)), dim=-1).values / temperature, dim=-1)


def gradcam_maps(
    backbone: Backbone, images: Float[Tensor, "b c h w"], block: int = -1, score: Score = own_direction
) -> Float[Tensor, "b 1 rows columns"]:
    """Return `gradcam` scaled to sum to 1, by default towards each image's own feature; `images` are normalised.

    A map is zero throughout if nothing speaks for the feature. Raises UserError as `gradcam` does.
    """
    maps = gradcam(backbone, images, score, block)
    return F.normalize(maps.flatten(1), p=1.0).view_as(maps)[:, None]


def gradcam(
    backbone: Backbone, images: Float[Tensor, "b c h w"], score: Score = own_direction, block: int = -1
) -> Float[Tensor, "b rows columns"]:
    """Return the ReLU of the activations, each channel weighted by the mean of its gradient (Grad-CAM, Eq. 1 and 2).

    score: gives each image's feature a number, of that image alone.
    block: the activations of a transformer are the patch tokens that enter this block, laid out as on the image; those
        of any other network are its last feature map, and it has only -1.

    Works in inference mode and on frozen weights; no parameter gets a gradient.

    Raises UserError for a block that the network does not have, or a network without patches.
    """
    with torch.inference_mode(False):
        images = images.clone()  # of tensors made in inference mode, autograd takes only copies
        with torch.no_grad():
            activations, grid, finish = _cut(backbone, images, block)
        # images do not touch each other, so one sum serves all
        slope = gradient(activations, lambda each: score(finish(each)).sum())
        return class_activation(activations, slope).unflatten(-1, grid)


def gradient(values: Tensor, total: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the gradient of a scalar function at `values`."""
    with torch.enable_grad():
        values = values.detach().requires_grad_()
        return torch.autograd.grad(total(values), values)[0]


def class_activation(activations: Float[Tensor, "b n d"], slope: Float[Tensor, "b n d"]) -> Float[Tensor, "b n"]:
    """Return the ReLU of the activations, each channel weighted by its mean gradient over the places (Eq. 1 and 2)."""
    return (slope.mean(dim=1, keepdim=True) * activations).sum(dim=-1).relu()


def _cut(
    backbone: Backbone, images: Float[Tensor, "b c h w"], block: int
) -> tuple[Float[Tensor, "b n d"], tuple[int, int], Callable[[Tensor], Float[Tensor, "b d"]]]:
    """Cut the network in two: activations of the patches with their grid, and what makes the feature of them."""
    transformer = backbone.transformer
    if transformer is None:
        require_last_block(block, f"{backbone.config.name} has no attention blocks")
        require_patches(backbone, "Grad-CAM")
        tokens = backbone(images)
        return tokens.patches.clone(), tokens.grid, lambda patches: Tokens(None, patches, tokens.grid).feature
    index = block_index(transformer, block)
    hidden, grid = transformer.embed(images)
    blocks = transformer.blocks_on(grid)
    for each in blocks[:index]:
        hidden = each(hidden)
    prefix, patches = hidden.tensor_split([transformer.prefix], dim=1)

    def finish(patches: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        hidden = torch.cat([prefix, patches], dim=1)
        for each in blocks[index:]:
            hidden = each(hidden)
        return transformer.norm(hidden)[:, 0]

    return patches.clone(), grid, finish
