"""SwAV: contrasting cluster assignments between views (Caron et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dinoscope import distributed
from dinoscope.losses.dino import at_least_float32, dino_loss, entropy
from dinoscope.losses.sinkhorn import sinkhorn
from dinoscope.methods import method
from dinoscope.methods.health import Verdict, moments, uniform_collapse
from dinoscope.methods.method import Method, MethodConfig, Outputs, Recipe, RunShape, by_view, settings, view_features
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.models.heads import Prototypes, projector
from dinoscope.types import Step, StepOutput, Views


@dataclass(frozen=True)
class SwAVConfig(MethodConfig):
    """Settings of SwAV; the defaults are the paper's.

    num_prototypes: clusters; about ten times the number of classes that one expects.
    hidden_dim, projection_dim, head_batch_norm: the projection head, an MLP of two linear maps.
    temperature: tau, divides the scores of the prediction.
    epsilon, sinkhorn_iterations: of the assignment; a smaller epsilon makes sharper codes.
    freeze_prototypes_steps: the prototypes do not move in the first optimiser steps.
    queue_size: embeddings of earlier batches that the assignment sees too, for batches that are small for the
        number of prototypes (the paper: 3840 at batch 256); 0 for none.
    queue_from_epoch: the queue is filled and used from this epoch on.
    """

    num_prototypes: int = 3000
    hidden_dim: int = 2048
    projection_dim: int = 128
    head_batch_norm: bool = True
    temperature: float = 0.1
    epsilon: float = 0.05
    sinkhorn_iterations: int = 3
    freeze_prototypes_steps: int = 313
    queue_size: int = 0
    queue_from_epoch: int = 15

    def __post_init__(self) -> None:
        self.check_above_0("temperature", "epsilon")
        self.check_range(2, math.inf, "num_prototypes")
        self.check_range(1, math.inf, "hidden_dim", "projection_dim", "sinkhorn_iterations")
        self.check_range(0, math.inf, "queue_size", "freeze_prototypes_steps")

    def faults(self, run: RunShape) -> Iterator[str]:
        if run.num_global < 2:
            yield "SwAV swaps the assignments of two global views: --views.num-global must be 2 or more"
        if self.queue_size % run.batch_size:
            yield (
                f"--method.queue-size {self.queue_size} is not a multiple of --batch-size {run.batch_size}; nearest: "
                f"{round(self.queue_size / run.batch_size) * run.batch_size} (0 is no queue)"
            )
        steps = run.epochs * (run.images // run.batch_size)
        if self.freeze_prototypes_steps >= steps:
            yield (
                f"the prototypes would be frozen for all of the run's {steps:.0f} steps: "
                "lower --method.freeze-prototypes-steps or raise --epochs"
            )

    @property
    def outputs(self) -> int:
        return self.num_prototypes

    def shortened(self, share: float) -> MethodConfig:
        return replace(self, freeze_prototypes_steps=round(self.freeze_prototypes_steps * share))


class SwAV(Method):
    """Each view predicts the cluster that another view of its image was assigned to; all clusters are used equally."""

    additive = False

    def __init__(self, config: SwAVConfig, backbone: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(backbone)
        dim, hidden, out = self.backbone.dim, config.hidden_dim, config.projection_dim
        self.head = projector(dim, hidden, out, batch_norm=config.head_batch_norm)
        self.prototypes = Prototypes(out, config.num_prototypes)
        self.queue: Tensor
        self.queue_length: Tensor
        self.register_buffer("queue", torch.zeros(2, config.queue_size, out))
        self.register_buffer("queue_length", torch.zeros((), dtype=torch.int64))
        self._queued: int | None = None  # `queue_length`, read at the first use only: it may be on a GPU

    def encode(self, views: Views) -> Outputs:
        """Return scores and features of all views, embeddings of the global ones: [views, batch, ...]."""
        features = view_features(self.backbone, views)
        embedding = F.normalize(self.head(features), dim=-1)
        rows = {"scores": self.prototypes(embedding), "embedding": embedding, "features": features}
        outputs = by_view(rows, views)
        return outputs | {"embedding": outputs["embedding"][: len(views.global_views)].detach()}

    def loss(self, outputs: Outputs, step: Step) -> StepOutput:
        """Return Eq. 2, with codes of the global views by Sinkhorn-Knopp over all processes and the queue."""
        embedding = outputs["embedding"]
        codes = self._codes(outputs["scores"][: len(embedding)])
        loss = dino_loss(outputs["scores"], codes, self.config.temperature)
        logged = {"cross_entropy": loss.detach(), "code_entropy": entropy(codes).mean()}
        uses_queue = self.config.queue_size and step.epoch >= self.config.queue_from_epoch
        rows = {"embedding": embedding[:2].detach()} if uses_queue else {}
        return StepOutput(loss, logged, {"embedding_moments": moments(embedding)}, rows)

    @torch.no_grad()
    def _codes(self, scores: Float[Tensor, "g b k"]) -> Float[Tensor, "g b k"]:
        """Return assignments of each global view on its own; rows sum to 1."""
        codes: list[Tensor] = []
        for view, rows in enumerate(at_least_float32(scores)):
            shares = sinkhorn(
                torch.cat([self._queue_scores(view), rows]) if view < 2 else rows,
                self.config.epsilon,
                self.config.sinkhorn_iterations,
                total=distributed.sum_reduce,
                largest=distributed.max_reduce,
            )
            codes.append(shares[-len(rows) :])
        return torch.stack(codes)

    def _queue_scores(self, view: int) -> Float[Tensor, "m k"]:
        """Return scores of this process's part of a full queue; a queue that is still filling is not used."""
        rows = self.queue[view] if 0 < self.config.queue_size == self._filled() else self.queue[view, :0]
        part = len(rows) // distributed.world_size()
        start = distributed.rank() * part
        return at_least_float32(self.prototypes(rows[start : start + part]))

    def _filled(self) -> int:
        if self._queued is None:
            self._queued = int(self.queue_length)
        return self._queued

    def before_update(self, step: Step) -> None:
        if step.index < self.config.freeze_prototypes_steps:
            self.prototypes.weight.grad = None

    def after_step(self, step: Step, output: StepOutput) -> None:
        """Bring the prototypes back to length 1; the batch's embeddings enter the queue at its front."""
        self.prototypes.normalize()
        if "embedding" not in output.rows:
            return
        new = torch.stack([distributed.gather(rows) for rows in output.rows["embedding"]])
        self.queue.copy_(torch.cat([new, self.queue[:, : -new.shape[1]]], dim=1))
        self._queued = min(self._filled() + new.shape[1], self.config.queue_size)
        self.queue_length.fill_(self._queued)

    def diagnose(self, recent: Mapping[str, float]) -> Verdict | None:
        return super().diagnose(recent) or uniform_collapse(
            recent["cross_entropy"],
            recent["code_entropy"],
            self.config.num_prototypes,
            "Lower --method.epsilon (0.03), or --method.num-prototypes for a small data set.",
        )


METHOD = method.MethodEntry(
    config=SwAVConfig,
    build=SwAV,
    display=method.Display("SwAV", "#cc79a7", method.HEAD_BATCH_NORM),
    year=2020,
    curves=(replace(method.TARGET_ENTROPY, name="code_entropy"), method.EMBEDDING_DEVIATION),
    recipes={
        "swav_resnet50": Recipe(
            """ImageNet, ResNet-50, SwAV with 2 + 6 crops and LARS at batch 4096, 800 epochs.

As in the released script: the rate rises from 0.3 to 4.8 and falls to 0.0048, everything has weight decay, and red
is divided by 0.228. No queue is needed at this batch size.
Published: linear 75.3*, k-NN 65.7 (Caron et al. 2021, Table 2; linear: Caron et al. 2020).""",
            settings(
                method.RESNET50 | {"std": (0.228, 0.224, 0.225), "views": "swav", "epochs": 800, "batch_size": 4096},
                optimizer=method.optimizer("lars", 0.3, 1e-6)
                | {"start_learning_rate": 0.3, "min_learning_rate": 0.0048, "decayed": "all"},
            ),
        ),
        "swav_deit_small": Recipe(
            """ImageNet, ViT-S/16, SwAV with 2 + 6 crops, 300 epochs.

Published: linear 73.5, k-NN 66.3 (Caron et al. 2021, Table 2).""",
            method.VIT_SMALL_300 | {"views": "swav"},
        ),
    },
    small=lambda views, transformer: settings(method={"freeze_prototypes_steps": 100, "queue_size": 0}),
    small_about=method.SOLO_LEARN.format(89.2),
)
