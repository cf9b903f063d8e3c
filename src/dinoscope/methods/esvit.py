"""EsViT (Li et al. 2021): DINO, and each region of a view learns from the teacher's most similar region."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dinoscope.losses import dino as losses
from dinoscope.losses.esvit import region_loss
from dinoscope.methods import health as signs
from dinoscope.methods import method
from dinoscope.methods.dino import DINO, QUICKSTART, SHORT_RUN, DINOConfig
from dinoscope.methods.method import Outputs, Recipe, by_view, settings
from dinoscope.models.backbone import BackboneConfig
from dinoscope.models.heads import DINOHead, copy_parameters, drop_gradients, follow
from dinoscope.text import Phrase
from dinoscope.types import Step, StepOutput, Tokens, Views


@dataclass(frozen=True)
class EsViTConfig(DINOConfig):
    """Settings of EsViT: DINO's, which hold for both heads, and the weights of the two losses.

    view_weight: of DINO's loss, with KoLeo. One half in the authors' code, 1 in the paper.
    region_weight: of the loss of regions; the same. 0 leaves their head out: with view_weight 1 that is DINO.
    """

    title = "EsViT"

    view_weight: float = 0.5
    region_weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range(0, math.inf, "view_weight", "region_weight")
        if not self.region_weight:
            return
        for name, only in (("loss", "cross_entropy"), ("predictor", "none")):
            if getattr(self, name) != only:
                raise ValueError(f"with regions, {name} must be {only}, not {getattr(self, name)}: or region_weight 0")


class EsViT(DINO):
    """Student and teacher as in DINO, each with a second head for its regions (patches, or cells of the last stage)."""

    config: EsViTConfig

    def __init__(self, config: EsViTConfig, backbone: BackboneConfig) -> None:
        super().__init__(config, backbone)
        self.student_region_head: DINOHead | None = None
        self.teacher_region_head: DINOHead | None = None
        self.region_center: Tensor
        if config.region_weight:  # made last: everything else begins as it does without them
            width = self.student_backbone.dim
            self.student_region_head, self.teacher_region_head = config.head(width), config.head(width)
            copy_parameters(self.student_region_head, self.teacher_region_head)
            self.register_buffer("region_center", torch.zeros(config.out_dim))

    def encode(self, views: Views) -> Outputs:
        """Return DINO's outputs, and of regions logits [views, batch, regions, K] and features, [..., dim].

        Those of global and of local views are apart, since these have fewer regions. Features are the backbones', by
        which regions are matched; no gradient flows through them.
        """
        if self.student_region_head is None or self.teacher_region_head is None:
            return super().encode(views)
        backbone, batch = self.student_backbone, views.batch_size
        groups = [group for group in (views.global_views, views.local_views) if group is not None]
        student: list[Tokens] = [backbone(backbone.normalize(group.flatten(0, 1))) for group in groups]
        with torch.no_grad():
            teacher = self.teacher_backbone(backbone.normalize(views.global_views.flatten(0, 1)))
            of_teacher = self.teacher_region_head(teacher.patches.flatten(0, 1)).unflatten(0, teacher.patches.shape[:2])
        patches = [tokens.patches for tokens in student]
        rows = self.student_region_head(torch.cat([each.flatten(0, 1) for each in patches]))
        logits = rows.split([each.shape[0] * each.shape[1] for each in patches])
        outputs = by_view(self.heads(torch.cat([tokens.feature for tokens in student]), teacher.feature), views)
        outputs |= {
            "teacher_regions": of_teacher.unflatten(0, (-1, batch)),
            "teacher_region_features": teacher.patches.unflatten(0, (-1, batch)),
        }
        for name, of_views, features in zip(("", "local_"), logits, patches, strict=False):
            outputs[f"{name}regions"] = of_views.unflatten(0, (-1, batch, features.shape[1]))
            outputs[f"{name}region_features"] = features.detach().unflatten(0, (-1, batch))
        return outputs

    def loss(self, outputs: Outputs, step: Step) -> StepOutput:
        """Return the weighted sum of DINO's loss (Eq. 1) and that of regions (Eq. 2)."""
        config, of_views = self.config, super().loss(outputs, step)
        if not config.region_weight:
            return replace(of_views, loss=config.view_weight * of_views.loss)
        teacher = outputs["teacher_regions"].detach()
        targets = self.targets(teacher.flatten(1, 2), self.region_center, self.temperature(step))
        student = [*outputs["regions"], *outputs.get("local_regions", ())]
        features = [*outputs["region_features"], *outputs.get("local_region_features", ())]
        of_regions = region_loss(
            student,
            [rows.detach() for rows in features],
            targets.view_as(teacher),
            outputs["teacher_region_features"].detach(),
            config.student_temperature,
        )
        entropy = losses.entropy(targets).mean()
        logged = {
            "region_cross_entropy": of_regions.detach(),
            "region_teacher_entropy": entropy,
            "region_kl": of_regions.detach() - entropy,
            "region_center_norm": self.region_center.square().sum().sqrt(),
        }
        statistics = {
            "region_mean": losses.at_least_float32(teacher).mean(dim=(0, 1, 2)),
            "region_mean_probability": targets.mean(dim=(0, 1)),
        }
        loss = config.view_weight * of_views.loss + config.region_weight * of_regions
        return StepOutput(loss, {**of_views.logged, **logged}, {**of_views.statistics, **statistics})

    def health(self, statistics: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        figures = super().health(statistics)
        if "region_mean_probability" not in statistics:
            return figures
        return {**figures, "region_marginal_entropy": losses.entropy(statistics["region_mean_probability"])}

    def diagnose(self, recent: Mapping[str, float]) -> signs.Verdict | None:
        """Judge the views' head, then that of regions by the same signs."""
        verdict = super().diagnose(recent)
        if verdict or not self.config.region_weight:
            return verdict
        names = {"teacher_marginal_entropy": "region_marginal_entropy"}
        names |= {name: f"region_{name}" for name in ("cross_entropy", "teacher_entropy")}
        verdict = super().diagnose({name: recent[own] for name, own in names.items()})
        return verdict and replace(
            verdict, kind=f"{verdict.kind} of regions", text=Phrase("regions: {text}", text=verdict.text)
        )

    def move_teacher(self, momentum: float) -> None:
        super().move_teacher(momentum)
        if self.student_region_head is not None and self.teacher_region_head is not None:
            follow(self.teacher_region_head, self.student_region_head, momentum)

    def before_update(self, step: Step) -> None:
        super().before_update(step)
        if self.student_region_head is not None and step.position < self.config.freeze_last_layer_epochs:
            drop_gradients(self.student_region_head.last_layer)

    def after_step(self, step: Step, output: StepOutput) -> None:
        """Move the teacher and both centres, that of regions by the mean over all regions of the teacher's views."""
        super().after_step(step, output)
        if self.config.region_weight and self.config.centering != "none":
            mean = output.statistics["region_mean"]
            self.region_center.copy_(losses.updated_center(self.region_center, mean, self.config.center_momentum))


_CPU = {**QUICKSTART, "backbone": "swin_micro", "method.teacher_momentum": 0.99}

METHOD = method.MethodEntry(
    config=EsViTConfig,
    build=EsViT,
    display=method.Display(
        "EsViT",
        deviations={
            "method.centering": ("center", "its teacher is centred otherwise than by the paper's moving means"),
            "method.region_weight": (0.5, "the loss of regions has another weight than in its code"),
            "method.koleo": (0.0, "with the KoLeo loss, which its paper does not have"),
        },
    ),
    year=2021,
    curves=(
        *method.OUTPUT_CURVES,
        *(
            method.Curve(title, "nats", name, figure=method.TEACHER_AND_STUDENT, entropy=entropy, optional=True)
            for title, name, entropy in (
                ("Entropy of region targets", "region_teacher_entropy", True),
                ("Entropy of their mean (regions)", "region_marginal_entropy", True),
                ("KL(teacher, student), regions", "region_kl", False),
            )
        ),
        method.KOLEO,
    ),
    recipes={
        "esvit_swin_tiny": Recipe(
            """ImageNet, Swin-T with windows of 7, EsViT with 2 + 8 crops, 300 epochs at batch 512.

dinoscope train --recipe esvit_swin_tiny --data imagenet --out RUN
Published: k-NN 75.7, linear 78.0; without the loss of regions 74.2 and 77.0 (the authors' README).""",
            settings(
                {"backbone": "swin_tiny_patch4_window7_224", "epochs": 300, "batch_size": 512},
                method={
                    "norm_last_layer": False,
                    "teacher_temperature": 0.07,
                    "warmup_teacher_temperature_epochs": 30,
                },
            ),
        ),
        "esvit_small_images_cpu": Recipe(
            """Images of about 32 px on a CPU: a Swin of 0.3 M parameters, the views of dino_small_images_cpu.

dinoscope train --recipe esvit_small_images_cpu --data cifar10 --out RUN
docs/methods/esvit.md has what is measured.""",
            {**_CPU, "views": "two_views_32", "epochs": 6, "evaluate_every": 1},
        ),
        "esvit_scenes_cpu": Recipe(
            """The drawn scenes on a CPU: the same network, with the quickstart's views.

dinoscope train --recipe esvit_scenes_cpu --data scenes --out RUN""",
            {**_CPU, "image_size": 64},
        ),
    },
    small=lambda views, transformer: settings(method=SHORT_RUN),
)
