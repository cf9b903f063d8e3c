"""SwAV: contrasting cluster assignments between views (Caron et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dinoscope import distributed
from dinoscope.losses.dino import at_least_float32, entropy
from dinoscope.losses.sinkhorn import sinkhorn
from dinoscope.losses.swav import swav_loss
from dinoscope.methods.health import Verdict, moments, one_point, uniform
from dinoscope.methods.method import Outputs, RunShape
from dinoscope.methods.online import OnlineMethod, by_view, view_features
from dinoscope.models.backbone import BackboneConfig, build_backbone
from dinoscope.models.heads import Prototypes, projector
from dinoscope.types import Step, StepOutput, Views


@dataclass(frozen=True)
class SwAVConfig:
    """Settings of SwAV; the defaults are the paper's.

    num_prototypes: clusters; about ten times the number of classes that one expects.
    hidden_dim, projection_dim, head_batch_norm: the projection head, an MLP of two linear maps.
    temperature: tau, divides the scores of the prediction.
    epsilon, sinkhorn_iterations: of the assignment; a smaller epsilon makes sharper codes.
    freeze_prototypes_steps: the prototypes do not move in the first optimiser steps.
    queue_size: embeddings of earlier batches that the assignment sees too, for batches that are small beside the
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
        for name in ("temperature", "epsilon"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.num_prototypes < 2 or self.sinkhorn_iterations < 1:
            raise ValueError("num_prototypes must be at least 2 and sinkhorn_iterations at least 1")
        if min(self.hidden_dim, self.projection_dim) < 1 or min(self.queue_size, self.freeze_prototypes_steps) < 0:
            raise ValueError(
                "hidden_dim and projection_dim must be at least 1, queue_size and the frozen steps at least 0"
            )

    def faults(self, run: RunShape) -> Iterator[str]:
        """See `MethodConfig.faults`."""
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


class SwAV(OnlineMethod):
    """Each view predicts the cluster that another view of its image was assigned to; all clusters are used equally."""

    additive = False

    def __init__(self, config: SwAVConfig, backbone: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(backbone)
        self.head = projector(
            self.backbone.dim, config.hidden_dim, config.projection_dim, batch_norm=config.head_batch_norm
        )
        self.prototypes = Prototypes(config.projection_dim, config.num_prototypes)
        self.queue: Tensor
        self.queue_length: Tensor
        self.register_buffer("queue", torch.zeros(2, config.queue_size, config.projection_dim))
        self.register_buffer("queue_length", torch.zeros((), dtype=torch.int64))

    def encode(self, views: Views) -> Outputs:
        """Scores of all views; embeddings of the global ones; features: [views, batch, ...]."""
        features = view_features(self.backbone, views)
        embedding = F.normalize(self.head(features), dim=-1)
        rows = {"scores": self.prototypes(embedding), "embedding": embedding, "features": features}
        outputs = by_view(rows, views)
        return outputs | {"embedding": outputs["embedding"][: len(views.global_views)].detach()}

    def loss(self, outputs: Outputs, step: Step) -> StepOutput:
        """Eq. 2: codes of the global views, by Sinkhorn-Knopp over all processes and the queue; logs their health."""
        embedding = outputs["embedding"]
        codes = self._codes(outputs["scores"][: len(embedding)])
        loss = swav_loss(outputs["scores"], codes, self.config.temperature)
        logged = {"cross_entropy": loss.detach(), "code_entropy": entropy(codes).mean()}
        uses_queue = self.config.queue_size and step.epoch >= self.config.queue_from_epoch
        kept = {"embedding": embedding[:2].detach()} if uses_queue else {}
        return StepOutput(loss, logged, {"embedding_moments": moments(embedding)}, kept)

    @torch.no_grad()
    def _codes(self, scores: Float[Tensor, "g b k"]) -> Float[Tensor, "g b k"]:
        """Assignments of each global view on its own, rows sum to 1."""
        codes: list[Tensor] = []
        for view, rows in enumerate(at_least_float32(scores)):
            everything = torch.cat([self._queue_scores(view), rows]) if view < 2 else rows
            shares = sinkhorn(
                everything,
                self.config.epsilon,
                self.config.sinkhorn_iterations,
                total=distributed.sum_reduce,
                largest=distributed.max_reduce,
            )
            codes.append(shares[-len(rows) :])
        return torch.stack(codes)

    def _queue_scores(self, view: int) -> Float[Tensor, "m k"]:
        """Scores of this process's part of a full queue; a queue that is still filling is not used."""
        full = self.config.queue_size > 0 and int(self.queue_length) == self.config.queue_size
        rows = self.queue[view] if full else self.queue[view, :0]
        part = len(rows) // distributed.world_size()
        start = distributed.rank() * part
        return at_least_float32(self.prototypes(rows[start : start + part]))

    def before_update(self, step: Step) -> None:
        """Hold the prototypes at first."""
        if step.index < self.config.freeze_prototypes_steps:
            self.prototypes.weight.grad = None

    def after_step(self, step: Step, output: StepOutput) -> None:
        """Prototypes back to length 1; the batch's embeddings enter the queue at its front."""
        self.prototypes.normalize()
        if "embedding" not in output.kept:
            return
        new = torch.stack([distributed.gather(rows) for rows in output.kept["embedding"]])
        self.queue.copy_(torch.cat([new, self.queue[:, : -new.shape[1]]], dim=1))
        self.queue_length.fill_(min(int(self.queue_length) + new.shape[1], self.config.queue_size))

    def diagnose(self, recent: Mapping[str, float]) -> Verdict | None:
        """All images at one point, or codes that say nothing."""
        return one_point(recent["embedding_spread"], "Lower the learning rate.") or uniform(
            recent["cross_entropy"],
            recent["code_entropy"],
            self.config.num_prototypes,
            "Lower --method.epsilon (0.03), or --method.num-prototypes for a small data set.",
        )
