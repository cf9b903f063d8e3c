"""Projection heads: what stands between the backbone's feature and the loss, and is thrown away afterwards."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class WeightNormLinear(nn.Module):
    """y = x W^T with W = g v / |v| row by row (Salimans & Kingma 2016); no bias.

    The key names (`weight_g`, `weight_v`) are those of the released DINO files. `train_scale=False` holds g at 1.
    """

    def __init__(self, in_features: int, out_features: int, *, train_scale: bool) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_features, 1), requires_grad=train_scale)
        self.weight_v = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.kaiming_uniform_(self.weight_v, a=5**0.5)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Logits."""
        return F.linear(x, torch._weight_norm(self.weight_v, self.weight_g, 0))


def projector(
    in_dim: int,
    hidden_dim: int,
    out_dim: int,
    *,
    layers: int = 2,
    batch_norm: bool = True,
    last_batch_norm: bool = False,
) -> nn.Sequential:
    """MLP of `layers` linear maps with ReLU between them: the head of SimCLR, MoCo, BYOL and SwAV.

    Args:
        in_dim, hidden_dim, out_dim: widths.
        layers: linear maps; 1 is a linear head.
        batch_norm: before each ReLU.
        last_batch_norm: without scale and shift, behind the last map (MoCo v3, SimCLR's released code).
    """
    widths = [in_dim, *[hidden_dim] * (layers - 1)]
    modules: list[nn.Module] = []
    for incoming, outgoing in pairwise(widths):
        modules.append(nn.Linear(incoming, outgoing, bias=not batch_norm))
        modules += [nn.BatchNorm1d(outgoing)] if batch_norm else []
        modules.append(nn.ReLU())
    modules.append(nn.Linear(widths[-1], out_dim, bias=not last_batch_norm))
    modules += [nn.BatchNorm1d(out_dim, affine=False)] if last_batch_norm else []
    return nn.Sequential(*modules)


class Prototypes(nn.Module):
    """Rows of length 1 on the unit sphere; the output is the cosine with each of them (SwAV, section 3.1)."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, dim))
        self.normalize()

    @torch.no_grad()
    def normalize(self) -> None:
        """Bring the rows back to length 1."""
        self.weight.copy_(F.normalize(self.weight, dim=-1))

    def forward(self, embeddings: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch k"]:
        """Cosines of L2-normalised embeddings with the prototypes."""
        return F.linear(embeddings, self.weight)


class DINOHead(nn.Module):
    """MLP, L2-normalised bottleneck, weight-normalised prototypes (Caron et al. 2021, appendix C).

    Args:
        in_dim: width of the backbone's feature.
        out_dim: K, the number of outputs.
        hidden_dim, bottleneck_dim, layers: of the MLP; `layers` linear maps, GELU between them.
        batch_norm: normalise over all views in the batch: between each linear map and its GELU, and (without scale
            and shift) the bottleneck, so that a student that cannot predict yet cannot shrink its output either.
        norm_last_layer: hold the length of the prototypes at 1 (steadier; a little worse for ViT-S).
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        layers: int = 3,
        norm_last_layer: bool = True,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        widths = [in_dim, *[hidden_dim] * (layers - 1), bottleneck_dim]
        modules: list[nn.Module] = []
        for incoming, outgoing in pairwise(widths[:-1]):
            modules += [nn.Linear(incoming, outgoing), *([nn.BatchNorm1d(outgoing)] if batch_norm else []), nn.GELU()]
        modules += [nn.Linear(widths[-2], bottleneck_dim)]
        modules += [nn.BatchNorm1d(bottleneck_dim, affine=False)] if batch_norm else []
        self.mlp = nn.Sequential(*modules)
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.last_layer = WeightNormLinear(bottleneck_dim, out_dim, train_scale=not norm_last_layer)

    def bottleneck(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        """Where a feature lies on the unit sphere on which the prototypes lie."""
        return F.normalize(self.mlp(features), dim=-1)

    def forward(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Logits in [-1, 1] while g is 1: cosines between the bottleneck and each prototype."""
        return self.last_layer(self.bottleneck(features))
