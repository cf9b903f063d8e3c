"""The kinds of maps by name, and all blocks of them from a single pass through the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dinoscope.explain.attention import attention_maps, energy_maps, energy_of_patches, require_last_block
from dinoscope.explain.gradcam import class_activation, gradcam_maps, gradient, own_direction
from dinoscope.explain.rollout import rollout_maps, rollout_row
from dinoscope.models.network import Backbone, require_transformer
from dinoscope.models.vit import block_index, class_row
from dinoscope.types import Tokens

CENTRE_WIDTH = 0.25
"""Standard deviation of the centred blob along each side, as a share of that side; not tuned to any data."""


def centre_map(rows: int, columns: int) -> Float[Tensor, "rows columns"]:
    """Return a Gaussian about the middle of the grid, taken at the middle of each patch, that sums to 1.

    Photographs are centred, so this map, which looks at no image, is the bar to clear.
    """
    down, across = (
        torch.exp(-0.5 * (((torch.arange(side) + 0.5) / side - 0.5) / CENTRE_WIDTH) ** 2) for side in (rows, columns)
    )
    blob = down[:, None] * across
    return blob / blob.sum()


def centre_maps(
    backbone: Backbone, images: Float[Tensor, "b c h w"], block: int = -1
) -> Float[Tensor, "b 1 rows columns"]:
    """Return `centre_map` on the grid of the network's patches, the same for every image.

    Raises UserError for another block than the last.
    """
    require_last_block(block, "a centred blob belongs to no block")
    rows, columns = (side // backbone.patch_size for side in images.shape[-2:])
    return centre_map(rows, columns).to(images).expand(len(images), 1, -1, -1)


MapKind = Callable[[Backbone, Tensor, int], Tensor]
"""(backbone, normalised images [b, c, h, w], block) -> [b, maps, rows, columns], nowhere negative."""

MAPS: dict[str, MapKind] = {
    "attention": attention_maps,
    "rollout": rollout_maps,
    "energy": energy_maps,
    "gradcam": gradcam_maps,
    "centre": centre_maps,
}
"""attention: of each head of one block; without class attention the feature energy. rollout: all blocks up to that one.
gradcam: towards the image's own feature. centre: a blob in the middle that looks at no image: the bar to clear."""

TITLES = {
    "attention": "attention",
    "rollout": "attention rollout",
    "energy": "feature energy",
    "gradcam": "Grad-CAM",
    "centre": "centred blob",
}
"""kind -> title in tables and captions."""


def count_maps(kind: str, backbone: Backbone) -> int:
    """Return the number of maps for each image: one for each head, or a single one."""
    return backbone.heads or 1 if kind == "attention" else 1


def map_title(kind: str, backbone: Backbone) -> str:
    """Return the title of a map in a caption: without class attention, `attention` is the feature energy."""
    return TITLES["energy" if kind == "attention" and backbone.class_attention is None else kind]


@dataclass(frozen=True)
class SinglePass:
    """What one pass through a network leaves behind: enough for the maps of all blocks, without running it again.

    grid: (rows, columns) of the patches.
    entering: the tokens that enter each block of a transformer. rows: the class token's row of attention in each block.
    last: patches of the last feature map of any other network.
    """

    grid: tuple[int, int]
    entering: tuple[Float[Tensor, "b n d"], ...] = ()
    rows: tuple[Float[Tensor, "b heads n"], ...] = ()
    last: Float[Tensor, "b m d"] | None = None


@torch.inference_mode()
def single_pass(backbone: Backbone, images: Float[Tensor, "b c h w"]) -> SinglePass:
    """Run the network once; in a transformer's last block only the class token's row is computed."""
    transformer = backbone.transformer
    if transformer is None:
        tokens = backbone(images)
        return SinglePass(tokens.grid, last=tokens.patches)
    hidden, grid = transformer.embed(images)
    *earlier, last = transformer.blocks_on(grid)
    entering, rows = [hidden], list[Tensor]()
    for block in earlier:
        hidden, row = block.with_class_row(hidden)
        entering.append(hidden)
        rows.append(row)
    return SinglePass(grid, tuple(entering), (*rows, class_row(last, hidden)))


def attention_of_pass(backbone: Backbone, passed: SinglePass, block: int = -1) -> Float[Tensor, "b heads rows columns"]:
    """Return `attention.attention_maps` of any block. Raises UserError as it does."""
    transformer = backbone.transformer
    if transformer is None:
        return energy_of_patches(patches_of_pass(backbone, passed))
    row = passed.rows[block_index(transformer, block)]
    return row[:, :, transformer.prefix :].unflatten(-1, passed.grid)


@torch.inference_mode()
def patches_of_pass(backbone: Backbone, passed: SinglePass) -> Float[Tensor, "b rows columns d"]:
    """Return `backbone(images).patches` as [b, rows, columns, d]: the pass left out a transformer's last block."""
    transformer = backbone.transformer
    if transformer is None:
        assert passed.last is not None
        return passed.last.unflatten(1, passed.grid)
    hidden = transformer.norm(transformer.blocks_on(passed.grid)[-1](passed.entering[-1]))
    return hidden[:, transformer.prefix :].unflatten(1, passed.grid)


@torch.inference_mode()
def rollout_of_pass(backbone: Backbone, passed: SinglePass, block: int = -1) -> Float[Tensor, "b 1 rows columns"]:
    """Return `rollout.rollout_maps` from the first block on. Raises UserError as it does."""
    transformer = require_transformer(backbone, TITLES["rollout"])
    end = block_index(transformer, block) + 1
    row = rollout_row(transformer.blocks_on(passed.grid)[:end], passed.entering[:end])
    return row[:, None, transformer.prefix :].unflatten(-1, passed.grid)


def gradcam_of_pass(backbone: Backbone, passed: SinglePass) -> list[Float[Tensor, "b 1 rows columns"]]:
    """Return `gradcam.gradcam_maps` of every block, first to last, by one walk back through the network.

    A network that is no transformer has a single map. The gradient goes from block to block, each run again from the
    tokens that entered it, so that no more than one block's graph is held.
    """
    with torch.inference_mode(False):
        transformer = backbone.transformer
        if transformer is None:
            assert passed.last is not None
            tokens, prefix = [passed.last.clone()], 0
            slopes = [gradient(tokens[0], lambda each: own_direction(Tokens(None, each, passed.grid).feature).sum())]
        else:
            *earlier, last = transformer.blocks_on(passed.grid)
            prefix = transformer.prefix
            tokens = [each.clone() for each in passed.entering]  # autograd takes only copies of inference tensors
            slope = gradient(tokens[-1], lambda each: own_direction(transformer.norm(last(each))[:, 0]).sum())
            slopes = [slope]
            for block, entering in zip(reversed(earlier), reversed(tokens[:-1]), strict=True):
                slope = gradient(entering, lambda each, block=block, slope=slope: (block(each) * slope).sum())
                slopes.insert(0, slope)
        pairs = zip(tokens, slopes, strict=True)
        maps = [class_activation(each[:, prefix:], slope[:, prefix:]) for each, slope in pairs]
        return [F.normalize(each, p=1.0).unflatten(-1, passed.grid)[:, None] for each in maps]
