"""MoCo v2 (Chen et al. 2020, "Improved baselines with momentum contrastive learning"), and v3's changes as settings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dinoscope import distributed
from dinoscope.losses.contrastive import batch_info_nce, info_nce
from dinoscope.losses.dino import at_least_float32
from dinoscope.methods import method
from dinoscope.methods.health import moments
from dinoscope.methods.method import Method, MethodConfig, Outputs, Recipe, RunShape, by_view, settings, view_features
from dinoscope.models.backbone import Backbone, BackboneConfig, build_backbone, without_drop_path
from dinoscope.models.heads import copy_parameters, follow, projector
from dinoscope.models.vit import fix_positions
from dinoscope.schedules import cosine
from dinoscope.types import Step, StepOutput, Views


@dataclass(frozen=True)
class MoCoConfig(MethodConfig):
    """Settings of MoCo; the defaults are v2's. v3's (Chen et al. 2021, for transformers) are in brackets.

    queue_size: keys of earlier batches that serve as negatives; 0 takes the other keys of the batch (v3).
    key_momentum, final_key_momentum: of the key network's weights, from one to the other by a cosine (v3: 0.99 to 1).
    temperature: tau of InfoNCE.
    hidden_dim, projection_dim, head_layers: the projection head's MLP (v3: 4096, 256, 3).
    head_batch_norm: batch norm in that MLP and the predictor (v3).
    prediction_head: an MLP of two linear maps after the query's projection (v3).
    symmetric: each global view is query and key in turn (v3); else the second view is the key of all others.
    freeze_patch_projection: a Vision Transformer's patch projection keeps its first weights (v3: steadier).
    v3_initialization: a Vision Transformer begins as v3's: fixed sine-cosine positions, Xavier-uniform weights.
    shuffle_groups: keys pass a network with batch norm in so many groups of shuffled images, each with its own
        statistics, so that statistics do not show which key belongs to a query: v2's shuffling over GPUs, on any
        number of devices. 1 for none.
    """

    queue_size: int = 65536
    key_momentum: float = 0.999
    final_key_momentum: float = 0.999
    temperature: float = 0.2
    hidden_dim: int = 2048
    projection_dim: int = 128
    head_layers: int = 2
    head_batch_norm: bool = False
    prediction_head: bool = False
    symmetric: bool = False
    freeze_patch_projection: bool = False
    v3_initialization: bool = False
    shuffle_groups: int = 8

    def __post_init__(self) -> None:
        self.check_above_0("temperature")
        self.check_range(0, 1, "key_momentum", "final_key_momentum")
        self.check_range(1, math.inf, "hidden_dim", "projection_dim", "head_layers", "shuffle_groups")
        self.check_range(0, math.inf, "queue_size")

    def faults(self, run: RunShape) -> Iterator[str]:
        queue, groups, batch = self.queue_size, self.shuffle_groups, run.batch_size
        if run.num_global < 2:
            yield "MoCo needs a query and a key of each image: --views.num-global must be 2 or more"
        if queue % batch:
            yield (
                f"--method.queue-size {queue} is not a multiple of --batch-size {batch}; nearest: "
                f"{max(round(queue / batch), 1) * batch}"
            )
        if queue > run.images * (2 if self.symmetric else 1):
            yield (
                f"--method.queue-size {queue} holds more keys than there are images ({run.images}): every image would "
                f"be pushed away from itself. Lower it ({max(run.images // 2 // batch, 1) * batch} would do)"
            )
        if not queue and batch < 2:
            yield "without a queue the negatives are the other images of the batch: --batch-size must be 2 or more"
        if run.transformer:
            return
        for name in ("freeze_patch_projection", "v3_initialization"):
            if getattr(self, name):
                option = name.replace("_", "-")
                yield f"--method.{option} is for Vision Transformers: turn it off, or choose another backbone"
        if run.micro_batch % groups:
            yield (
                f"{run.micro_batch} images of a forward cannot be cut into --method.shuffle-groups {groups}: choose a "
                "divisor, or 1 for no shuffling"
            )
        if run.micro_batch // groups < 2:
            yield (
                f"each of the --method.shuffle-groups {groups} needs 2 images or more for its batch norm, and a "
                f"forward has {run.micro_batch}: raise --batch-size or lower the groups"
            )

    @property
    def variant(self) -> str | None:
        return None if self.queue_size else "moco_v3"


class MoCo(Method):
    """Queries find their keys among the keys of many other images; keys come from a slow copy of the network."""

    advice = "Lower the learning rate, or raise --method.key-momentum."

    def __init__(self, config: MoCoConfig, backbone: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.additive = config.queue_size > 0
        self.backbone = build_backbone(backbone)
        if config.v3_initialization and self.backbone.patch_projection is not None:
            begin_as_v3(self.backbone)
        self.head = self._mlp(self.backbone.dim, config.head_layers)
        self.predictor = self._mlp(config.projection_dim, 2) if config.prediction_head else nn.Identity()
        self.key_backbone = build_backbone(without_drop_path(backbone))
        self.key_head = self._mlp(self.backbone.dim, config.head_layers)
        copy_parameters(self.backbone, self.key_backbone)
        copy_parameters(self.head, self.key_head)
        if config.freeze_patch_projection and self.backbone.patch_projection is not None:
            self.backbone.patch_projection.requires_grad_(False)
        self.shuffled = any(isinstance(module, nn.BatchNorm2d) for module in self.key_backbone.modules())
        self.queue: Tensor
        self.queue_position: Tensor
        self.register_buffer("queue", F.normalize(torch.randn(config.queue_size, config.projection_dim), dim=-1))
        self.register_buffer("queue_position", torch.zeros((), dtype=torch.int64))

    def _mlp(self, dim: int, layers: int) -> nn.Sequential:
        hidden, out, norm = self.config.hidden_dim, self.config.projection_dim, self.config.head_batch_norm
        return projector(dim, hidden, out, layers=layers, batch_norm=norm, last_batch_norm=norm)

    def encode(self, views: Views) -> Outputs:
        """Return queries with their features, and keys: [views, batch, dim].

        If symmetric, every view is a query and every global one a key; else no view is both.
        """
        if self.config.symmetric:
            query_views, key_views = views, views.global_views
        else:
            rest = torch.cat([views.global_views[:1], views.global_views[2:]])
            query_views, key_views = replace(views, global_views=rest), views.global_views[1:2]
        features = view_features(self.backbone, query_views)
        query = self.predictor(self.head(features))
        with torch.no_grad():
            key = self.key_head(self._key_features(replace(views, global_views=key_views)))
        return by_view({"query": query, "key": key, "features": features}, views)

    def _key_features(self, views: Views) -> Float[Tensor, "rows d"]:
        """Return features of the global views: with batch norm, in shuffled groups that are a forward each."""
        groups = self.config.shuffle_groups if self.shuffled else 1
        if groups == 1:
            return view_features(self.key_backbone, views, local=False)
        order = torch.randperm(views.batch_size).to(views.global_views.device, non_blocking=True)
        shuffled = replace(views, global_views=views.global_views[:, order])
        by_group = [
            view_features(self.key_backbone, part, local=False).reshape(len(part.global_views), part.batch_size, -1)
            for part in shuffled.split(groups)
        ]
        return torch.cat(by_group, dim=1)[:, order.argsort()].flatten(0, 1)

    def loss(self, outputs: Outputs, step: Step) -> StepOutput:
        """Return InfoNCE (Eq. 1), averaged over the pairs (query, key) of different views."""
        query, key = outputs["query"], F.normalize(at_least_float32(outputs["key"].detach()), dim=-1)
        losses = [
            self._pair_loss(query[i], key[j])
            for j in range(len(key))
            for i in range(len(query))
            if i != j or not self.config.symmetric
        ]
        rows = {"key": key} if self.config.queue_size else {}
        logged = {"teacher_momentum": torch.tensor(self._momentum(step))}
        return StepOutput(torch.stack(losses).mean(), logged, {"embedding_moments": moments(key)}, rows)

    def _pair_loss(self, query: Float[Tensor, "b d"], key: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
        temperature = self.config.temperature
        if self.config.queue_size:
            return info_nce(query, key, self.queue, temperature)
        offset = distributed.rank() * len(query)
        return batch_info_nce(query, key, temperature, gather=distributed.gather, offset=offset)

    def after_step(self, step: Step, output: StepOutput) -> None:
        """Move the key network by one step; the batch's keys replace the oldest of the queue."""
        follow(self.key_backbone, self.backbone, self._momentum(step))
        follow(self.key_head, self.head, self._momentum(step))
        for view in output.rows.get("key", ()):
            rows = distributed.gather(view)
            # With indices on the device, which is not waited for; the batch divides the queue.
            self.queue[self.queue_position + torch.arange(len(rows), device=rows.device)] = rows
            self.queue_position.add_(len(rows)).remainder_(self.config.queue_size)

    def _momentum(self, step: Step) -> float:
        return cosine(self.config.key_momentum, self.config.final_key_momentum, step.progress)

    @property
    def backbones(self) -> tuple[Backbone, ...]:
        return (self.backbone, self.key_backbone)


@torch.no_grad()
def begin_as_v3(backbone: Backbone) -> None:
    """Draw first weights as MoCo v3's code does, and fix the positions at sines and cosines.

    Xavier-uniform (Glorot & Bengio 2010), query, key and value each as a map of its own, biases 0.
    """
    net, width, projection = backbone.net, backbone.dim, cast(nn.Module, backbone.patch_projection).proj
    for name, module in cast("Iterator[tuple[str, nn.Module]]", net.named_modules()):
        if isinstance(module, nn.Linear):
            outputs = module.out_features // (3 if name.endswith("qkv") else 1)
            _draw_uniform(module, module.in_features + outputs)
    if isinstance(projection, nn.Conv2d):  # and no convolutional stem, which v3's code leaves alone
        _draw_uniform(projection, backbone.config.channels * backbone.patch_size**2 + width)
    nn.init.normal_(cast(Tensor, net.cls_token), std=1e-6)
    fix_positions(backbone)


def _draw_uniform(module: nn.Linear | nn.Conv2d, inputs_and_outputs: int) -> None:
    limit = math.sqrt(6 / inputs_and_outputs)
    nn.init.uniform_(module.weight, -limit, limit)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


METHOD = method.MethodEntry(
    config=MoCoConfig,
    build=MoCo,
    display=method.Display(
        "MoCo v2",
        "#56b4e9",
        {
            "method.symmetric": (False, "each view is query and key in turn, as in MoCo v3"),
            "method.prediction_head": (False, "with a prediction head, as in MoCo v3"),
            "method.head_batch_norm": (False, "with batch norm in its head, as in MoCo v3"),
            "method.final_key_momentum": (0.999, "its key momentum ends elsewhere than at its paper's 0.999"),
        },
    ),
    variants={
        "moco_v3": method.Display(
            "MoCo v3",
            deviations={
                "method.symmetric": (True, "only the second view is a key, as in MoCo v2"),
                "method.prediction_head": (True, "without the prediction head of its paper"),
                **method.HEAD_BATCH_NORM,
            },
        )
    },
    year=2020,
    curves=(method.EMBEDDING_DEVIATION, method.TEACHER_MOMENTUM),
    recipes={
        "moco_v2_resnet50": Recipe(
            """ImageNet, ResNet-50, MoCo v2 with SGD at batch 256, 800 epochs.

Published: linear 71.1*, k-NN 61.9 (Caron et al. 2021, Table 2; linear: Chen et al. 2020).""",
            settings(
                method.RESNET50 | {"views": "moco", "epochs": 800, "batch_size": 256},
                optimizer=method.optimizer("sgd", 0.03, 1e-4, warmup_epochs=0) | {"decayed": "all"},
            ),
        ),
        "moco_v2_deit_small": Recipe(
            """ImageNet, ViT-S/16, MoCo v2, 300 epochs.

Published: linear 72.7, k-NN 64.4 (Caron et al. 2021, Table 2).""",
            method.VIT_SMALL_300 | {"views": "moco"},
        ),
        "moco_v3_deit_small": Recipe(
            """ImageNet, ViT-S/16 with 12 heads, MoCo v3: symmetric, no queue, predictor, fixed patches; 300 epochs.

Published: linear 73.2* (CONFIG.md of facebookresearch/moco-v3; batch 4096).""",
            settings(
                {"backbone": "vit_small_heads12_patch16_224", "drop_path": 0.0, "zero_init_residual": True}
                | {"views": "byol", "epochs": 300, "batch_size": 4096},
                method={"queue_size": 0, "key_momentum": 0.99, "final_key_momentum": 1.0, "symmetric": True}
                | {"hidden_dim": 4096, "projection_dim": 256, "head_layers": 3, "head_batch_norm": True}
                | {"prediction_head": True, "freeze_patch_projection": True, "v3_initialization": True},
                views={"interpolation": "bilinear"},
                optimizer=method.optimizer("adamw", 1.5e-4, 0.1, warmup_epochs=40) | {"decayed": "all"},
            ),
        ),
    },
    # Batch norm in the head lets small networks start; on a ResNet it has none, as in v2.
    small=lambda views, transformer: settings(
        method={"key_momentum": 0.99, "final_key_momentum": 1.0, "symmetric": True, "head_batch_norm": transformer}
    ),
    small_about=method.SOLO_LEARN.format(92.9),
)
