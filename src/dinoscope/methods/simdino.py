"""SimDINO: DINO with a coding rate in place of prototypes, softmax and centring (Wu et al. 2025)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from dinoscope import distributed
from dinoscope.losses.coding_rate import coding_rate, max_coding_rate
from dinoscope.losses.dino import at_least_float32, mean_cosine
from dinoscope.methods import method
from dinoscope.methods.health import Verdict, dimensional_collapse, moments
from dinoscope.methods.method import (
    MethodConfig,
    Outputs,
    Recipe,
    RunShape,
    StudentTeacher,
    by_view,
    settings,
    view_features,
)
from dinoscope.models.backbone import BackboneConfig
from dinoscope.models.heads import BottleneckHead, HeadShape
from dinoscope.schedules import cosine
from dinoscope.types import Step, StepOutput, Views


@dataclass(frozen=True)
class SimDINOConfig(MethodConfig):
    """Settings of SimDINO; the defaults are the released command's, with the coding rate of the whole batch.

    hidden_dim, bottleneck_dim, head_layers: the projection head's MLP, whose output is scaled to length 1.
    head_batch_norm: batch norm inside that MLP.
    eps: squared distortion of the coding rate; a smaller one makes it steadier.
    alignment_weight: of the cosine between student and teacher, against the coding rate times 1/d + 1/n.
    expanded: the rows of the coding rate: "mean" of student and teacher for each global view (the released code's
        default), or "student" alone.
    rate_images: images whose coding rate is computed together; 0 is the whole batch (the equation). The released
        code computes that of each process's 64 images.
    teacher_momentum: at the start; rises to 1 by a cosine. Very short runs want it lower.
    """

    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    head_layers: int = 3
    head_batch_norm: bool = False
    eps: float = 0.05
    alignment_weight: float = 1.0
    expanded: Literal["mean", "student"] = "mean"
    rate_images: int = 0
    teacher_momentum: float = 0.996

    def __post_init__(self) -> None:
        self.check_choices()
        self.check_above_0("eps")
        self.check_range(0, 1, "teacher_momentum")
        self.check_range(1, math.inf, "hidden_dim", "bottleneck_dim", "head_layers")
        self.check_range(0, math.inf, "alignment_weight", "rate_images")

    def faults(self, run: RunShape) -> Iterator[str]:
        if run.num_global + run.num_local < 2:
            yield f"SimDINO {method.TOO_FEW_VIEWS}"
        if run.batch_size < 2 or self.rate_images == 1:
            yield "a coding rate needs 2 images or more: raise --batch-size, or --method.rate-images"
        if self.rate_images and run.batch_size % self.rate_images:
            yield f"--batch-size {run.batch_size} cannot be cut into groups of --method.rate-images {self.rate_images}"


class SimDINO(StudentTeacher[BottleneckHead]):
    """The student gives each view the direction that the teacher gives another one; a coding rate keeps them apart."""

    additive = False

    def __init__(self, config: SimDINOConfig, backbone: BackboneConfig) -> None:
        shape = HeadShape(
            hidden_dim=config.hidden_dim,
            bottleneck_dim=config.bottleneck_dim,
            layers=config.head_layers,
            batch_norm=config.head_batch_norm,
        )
        super().__init__(backbone, lambda width: BottleneckHead(width, shape))
        self.config = config

    def encode(self, views: Views) -> Outputs:
        """Return the student's directions of all views, the teacher's and its features of the global ones."""
        student = self.student_head(view_features(self.student_backbone, views))
        with torch.no_grad():
            features = view_features(self.teacher_backbone, views, local=False)
            teacher = self.teacher_head(features)
        return by_view({"student": student, "teacher": teacher, "features": features}, views)

    def loss(self, outputs: Outputs, step: Step) -> StepOutput:
        """Return minus the weighted cosine minus the scaled coding rate, the mean over the global views."""
        config, targets = self.config, outputs["teacher"].detach()
        alignment = mean_cosine(outputs["student"], targets)
        student, teacher = (F.normalize(at_least_float32(rows), dim=-1) for rows in (outputs["student"], targets))
        expanded = student[: len(teacher)]
        if config.expanded == "mean":
            expanded = (expanded + teacher) / 2
        rows = distributed.gather_views(expanded)
        views, batch, d = rows.shape
        images = config.rate_images or batch
        rate = coding_rate(rows.reshape(views, batch // images, images, d), config.eps).mean()
        loss = -config.alignment_weight * alignment - (1 / d + 1 / batch) * rate
        logged = {
            "alignment": alignment.detach(),
            "coding_rate": rate.detach(),
            "coding_rate_share": rate.detach() / max_coding_rate(images, d, config.eps),
            "teacher_momentum": torch.tensor(self._momentum(step)),
        }
        return StepOutput(loss, logged, {"embedding_moments": moments(teacher)})

    def after_step(self, step: Step, output: StepOutput) -> None:
        """Move the teacher's weights by one step."""
        self.move_teacher(self._momentum(step))

    def _momentum(self, step: Step) -> float:
        return cosine(self.config.teacher_momentum, 1.0, step.progress)

    def diagnose(self, recent: Mapping[str, float]) -> Verdict | None:
        return super().diagnose(recent) or dimensional_collapse(
            recent["coding_rate_share"],
            "Lower --method.alignment-weight or --method.eps, raise --batch-size, or lower the learning rate.",
        )


METHOD = method.MethodEntry(
    config=SimDINOConfig,
    build=SimDINO,
    display=method.Display(
        "SimDINO",
        "#8c564b",
        {
            "method.expanded": ("mean", "its coding rate is that of the student alone"),
            "method.head_batch_norm": (False, "with batch norm in its head, which its code does not have"),
        },
    ),
    year=2025,
    curves=(*method.CODING_CURVES, method.TEACHER_MOMENTUM),
    recipes={
        "simdino_deit_small": Recipe(
            """ImageNet, ViT-S/16, SimDINO with 2 + 10 crops, 100 epochs, batch 512.

The settings of the published run of ViT-B/16. Each of its 8 processes computes the coding rate of its own 64 images,
but divides by all 512: groups of 64 images with eps 0.05 x 8 = 0.4 are the same loss, in any number of processes.
Published for ViT-B/16: k-NN 74.9, linear 77.3 (the released code's README). None for ViT-S.""",
            settings(
                {"epochs": 100, "batch_size": 512, "views.num_local": 10},
                method={"eps": 0.4, "rate_images": 64},
            ),
        ),
    },
    small=lambda views, transformer: settings(method={"alignment_weight": 2.0}),
)
