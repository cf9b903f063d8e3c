"""Parts of methods next to the backbone: projection heads, prototypes, and the teacher as a moving average."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class WeightNormLinear(nn.Module):
    """y = x W^T with W = g v / |v| row by row (Salimans & Kingma 2016); no bias.

    The key names (`weight_g`, `weight_v`) are those of the released DINO files. `train_scale=False` fixes g at 1.
    """

    def __init__(self, in_features: int, out_features: int, *, train_scale: bool) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_features, 1), requires_grad=train_scale)
        self.weight_v = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.kaiming_uniform_(self.weight_v, a=5**0.5)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Return logits."""
        return cast(Tensor, _WeightNorm.apply(x, self.weight_v, self.weight_g))


class _WeightNorm(torch.autograd.Function):
    # The rows' lengths scale the few outputs instead of the many weights: nothing of the weights' size is made but
    # their gradient. With 65,536 outputs W alone is 67 MB, for student and teacher and each micro-batch.

    @staticmethod
    def forward(ctx: Any, x: Tensor, v: Tensor, g: Tensor) -> Tensor:
        lengths = torch.linalg.vector_norm(v, dim=1)
        outputs = F.linear(x, v)
        outputs *= g[:, 0] / lengths  # in place: bf16 is multiplied in float32
        ctx.save_for_backward(x, v, g, lengths, outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        x, v, g, lengths, outputs = ctx.saved_tensors
        along = (gradients[0] * outputs).sum(dim=0, dtype=lengths.dtype)  # what y grows by with ln |w|, which v leaves
        scaled = torch.mul(gradients[0], g[:, 0] / lengths, out=torch.empty_like(outputs))
        of_v = (scaled.T @ x.to(scaled.dtype)).to(v.dtype)
        of_v.addcmul_(v, (along / lengths.square())[:, None], value=-1)
        of_g = along[:, None] / g if ctx.needs_input_grad[2] else None
        return (scaled @ v.to(scaled.dtype)).to(x.dtype), of_v, of_g


def projector(
    in_dim: int,
    hidden_dim: int,
    out_dim: int,
    *,
    layers: int = 2,
    batch_norm: bool = True,
    last_batch_norm: bool = False,
    last_bias: bool = True,
) -> nn.Sequential:
    """MLP of `layers` linear maps with ReLU between them: the head of SimCLR, MoCo, BYOL, SwAV and others.

    Args:
        in_dim, hidden_dim, out_dim: widths.
        layers: linear maps; 1 is a linear head.
        batch_norm: before each ReLU.
        last_batch_norm: without scale and shift, behind the last map (MoCo v3, SimCLR's released code).
        last_bias: of the last map, unless that batch norm follows; losses that subtract the mean give it no gradient.
    """
    widths = [in_dim, *[hidden_dim] * (layers - 1)]
    modules: list[nn.Module] = []
    for incoming, outgoing in pairwise(widths):
        modules.append(nn.Linear(incoming, outgoing, bias=not batch_norm))
        modules += [nn.BatchNorm1d(outgoing)] if batch_norm else []
        modules.append(nn.ReLU())
    modules.append(nn.Linear(widths[-1], out_dim, bias=last_bias and not last_batch_norm))
    modules += [nn.BatchNorm1d(out_dim, affine=False)] if last_batch_norm else []
    return nn.Sequential(*modules)


class Prototypes(nn.Module):
    """Rows of length 1 on the unit sphere; the output is the cosine with each row (SwAV, section 3.1)."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, dim))
        self.normalize()

    @torch.no_grad()
    def normalize(self) -> None:
        """Scale the rows to length 1."""
        self.weight.copy_(F.normalize(self.weight, dim=-1))

    def forward(self, embeddings: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch k"]:
        """Return the cosines of L2-normalised embeddings with the prototypes."""
        return F.linear(embeddings, self.weight)


@dataclass(frozen=True)
class HeadShape:
    """The shape of DINO's head; the defaults are the paper's (Caron et al. 2021, appendix C).

    hidden_dim, layers: of the MLP: `layers` linear maps, an activation between them.
    bottleneck_dim: output of the MLP. 0 leaves the bottleneck out: the MLP then has one linear map less and ends with
        an activation, and the last layer maps from there, `layers` linear maps in all.
    batch_norm: normalise over all views in the batch: between each linear map and its activation, and (without scale
        and shift) the bottleneck, so that a student that cannot predict yet cannot shrink its output either.
    activation: between the linear maps.
    l2: scale the bottleneck to length 1.
    weight_norm: parametrise the rows of the last layer by length and direction; False is a plain linear map. Neither
        has a bias.
    norm_last_layer: fix that length at 1 (steadier; a little worse for ViT-S).
    """

    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    layers: int = 3
    batch_norm: bool = False
    activation: Literal["gelu", "relu"] = "gelu"
    l2: bool = True
    weight_norm: bool = True
    norm_last_layer: bool = True


class BottleneckHead(nn.Module):
    """MLP and L2-normalised bottleneck: DINO's head without its prototypes, which is SimDINO's head.

    Args:
        in_dim: width of the backbone's feature.
        shape: of the layers; the last layer's settings do nothing.
    """

    def __init__(self, in_dim: int, shape: HeadShape = HeadShape()) -> None:
        super().__init__()
        activation = {"gelu": nn.GELU, "relu": nn.ReLU}[shape.activation]
        widths = [in_dim, *[shape.hidden_dim] * (shape.layers - 1)]
        modules: list[nn.Module] = []
        for incoming, outgoing in pairwise(widths):
            norm = [nn.BatchNorm1d(outgoing)] if shape.batch_norm else []
            modules += [nn.Linear(incoming, outgoing), *norm, activation()]
        self.embedding_dim = shape.bottleneck_dim or widths[-1]
        if shape.bottleneck_dim:
            modules += [nn.Linear(widths[-1], shape.bottleneck_dim)]
            modules += [nn.BatchNorm1d(shape.bottleneck_dim, affine=False)] if shape.batch_norm else []
        self.l2 = shape.l2 and shape.bottleneck_dim > 0
        self.mlp = nn.Sequential(*modules)
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def bottleneck(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        """Return a point on the unit sphere, where the prototypes also lie: the input of the last layer."""
        return self.normalized(self.mlp(features))

    def normalized(self, embeddings: Float[Tensor, "n e"]) -> Float[Tensor, "n e"]:
        """Scale to length 1, if the head does that."""
        return F.normalize(embeddings, dim=-1) if self.l2 else embeddings

    def forward(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        return self.bottleneck(features)


class DINOHead(BottleneckHead):
    """MLP, L2-normalised bottleneck, weight-normalised prototypes (Caron et al. 2021, appendix C and Fig. 9).

    Args:
        in_dim: width of the backbone's feature.
        out_dim: K, the number of outputs.
        shape: of the layers between.
    """

    def __init__(self, in_dim: int, out_dim: int, shape: HeadShape = HeadShape()) -> None:
        super().__init__(in_dim, shape)
        self.last_layer: nn.Module
        if shape.weight_norm:
            self.last_layer = WeightNormLinear(self.embedding_dim, out_dim, train_scale=not shape.norm_last_layer)
        else:
            self.last_layer = nn.Linear(self.embedding_dim, out_dim, bias=False)

    def forward(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Return logits; with the defaults they are cosines of the bottleneck with each prototype, in [-1, 1]."""
        return self.last_layer(self.bottleneck(features))


def drop_gradients(module: nn.Module) -> None:
    """Drop the gradients of all parameters, so that the optimiser leaves them as they are."""
    for parameter in module.parameters():
        parameter.grad = None


def copy_parameters(source: nn.Module, target: nn.Module) -> None:
    """Copy parameters and buffers of `source` to `target` (strict), and stop the gradients of `target`."""
    target.load_state_dict(source.state_dict(), strict=True)
    target.requires_grad_(False)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Set teacher = momentum * teacher + (1 - momentum) * student, over parameters only (Caron et al. 2021).

    Buffers (batch-norm statistics) are the teacher's own: it runs in training mode.
    """
    targets = [parameter.data for parameter in teacher.parameters()]
    sources = [parameter.data for parameter in student.parameters()]
    torch._foreach_lerp_(targets, sources, 1 - momentum)
