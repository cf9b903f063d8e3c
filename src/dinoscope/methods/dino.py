"""DINO: self-distillation with no labels (Caron et al. 2021)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from dinoscope import distributed
from dinoscope.losses.dino import at_least_float32, dino_loss, entropy, teacher_probabilities, updated_center
from dinoscope.losses.koleo import koleo_loss
from dinoscope.losses.sinkhorn import sinkhorn
from dinoscope.methods.health import Verdict, one_output, uniform
from dinoscope.methods.method import Outputs, RunShape, too_few_views
from dinoscope.methods.online import OnlineMethod, by_view, view_features
from dinoscope.models.backbone import Backbone, BackboneConfig, build_backbone, without_drop_path
from dinoscope.models.heads import DINOHead
from dinoscope.models.teacher import copy_parameters, follow
from dinoscope.schedules import cosine, epoch_warmup
from dinoscope.types import Step, StepOutput, Views


@dataclass(frozen=True)
class DINOConfig:
    """Settings of DINO; the defaults are the reference's.

    out_dim: K, the number of outputs (prototypes). 65,536 for ImageNet; a few thousand or fewer for small sets.
    hidden_dim, bottleneck_dim, head_layers: the projection head's MLP.
    head_batch_norm: batch norm inside that MLP. It tells images apart from the first step on, which lets small
        networks start that would else stay at ln K for long.
    norm_last_layer: hold the prototypes at length 1: steadier; False does a little better for ViT-S.
    student_temperature: sharpness of the student's output.
    teacher_temperature, warmup_teacher_temperature, warmup_teacher_temperature_epochs: the teacher's; lower is
        sharper. Lower it (0.02) when the loss stays at ln K.
    balance: how the teacher's outputs are kept from collapsing. "center" subtracts a moving mean (the paper);
        "sinkhorn" shares the batch out equally among the outputs (the paper's Table 14, and DINOv2): sturdier for
        short runs and small networks.
    koleo: weight of a loss that pushes apart the bottlenecks of the images in a batch (DINOv2 has it, on the
        features); 0 is the paper. It makes small networks start within minutes.
    center_momentum: of the moving mean subtracted from the teacher's output, against collapse to one output.
    teacher_momentum: of the teacher's weights at the start; rises to 1 by a cosine. Longer runs and smaller
        batches want it nearer to 1 (0.9995 at batch 256), very short runs lower.
    freeze_last_layer_epochs: the prototypes do not move in the first epochs.
    """

    out_dim: int = 65536
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    head_layers: int = 3
    head_batch_norm: bool = False
    norm_last_layer: bool = True
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    warmup_teacher_temperature: float = 0.04
    warmup_teacher_temperature_epochs: int = 0
    balance: Literal["center", "sinkhorn"] = "center"
    koleo: float = 0.0
    center_momentum: float = 0.9
    teacher_momentum: float = 0.996
    freeze_last_layer_epochs: int = 1

    def __post_init__(self) -> None:
        for name in ("student_temperature", "teacher_temperature", "warmup_teacher_temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("center_momentum", "teacher_momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0 to 1, not {getattr(self, name)}")
        if self.out_dim < 2 or self.head_layers < 1:
            raise ValueError(
                f"out_dim must be at least 2 and head_layers at least 1, not {self.out_dim} and {self.head_layers}"
            )
        if self.koleo < 0:
            raise ValueError(f"koleo must be 0 (off) or more, not {self.koleo}")

    def faults(self, run: RunShape) -> Iterator[str]:
        """See `MethodConfig.faults`."""
        yield from too_few_views("DINO", run)
        if self.freeze_last_layer_epochs >= run.epochs:
            yield (
                f"the last layer would be frozen for all of the run's {run.epochs:g} epochs: "
                "lower --method.freeze-last-layer-epochs or raise --epochs"
            )


class DINO(OnlineMethod):
    """Student and teacher of one architecture; the student predicts the teacher's output on other views."""

    def __init__(self, config: DINOConfig, backbone: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.additive = config.balance == "center" and config.koleo == 0
        self.student_backbone = build_backbone(backbone)
        self.student_head = self._head()
        self.teacher_backbone = build_backbone(without_drop_path(backbone))
        self.teacher_head = self._head()
        copy_parameters(self.student_backbone, self.teacher_backbone)
        copy_parameters(self.student_head, self.teacher_head)
        self.center: Tensor
        self.register_buffer("center", torch.zeros(config.out_dim))

    def _head(self) -> DINOHead:
        config = self.config
        return DINOHead(
            self.student_backbone.dim,
            config.out_dim,
            hidden_dim=config.hidden_dim,
            bottleneck_dim=config.bottleneck_dim,
            layers=config.head_layers,
            batch_norm=config.head_batch_norm,
            norm_last_layer=config.norm_last_layer,
        )

    def encode(self, views: Views) -> Outputs:
        """Logits of the student for all views and of the teacher for the global ones: [views, batch, K].

        Beside them the student's bottlenecks and the teacher's features, [views, batch, dim].
        """
        bottleneck = self.student_head.bottleneck(view_features(self.student_backbone, views))
        with torch.no_grad():
            teacher_features = view_features(self.teacher_backbone, views, local=False)
            teacher = self.teacher_head(teacher_features)
        outputs = {
            "student": self.student_head.last_layer(bottleneck),
            "bottleneck": bottleneck,
            "teacher": teacher,
            "features": teacher_features,
        }
        return by_view(outputs, views)

    def loss(self, outputs: Outputs, step: Step) -> StepOutput:
        """Eq. 3 with the teacher centred and sharpened; logs what tells a healthy run from a collapsed one."""
        config = self.config
        temperature = epoch_warmup(
            step.epoch,
            config.warmup_teacher_temperature_epochs,
            config.warmup_teacher_temperature,
            config.teacher_temperature,
        )
        teacher = self._targets(outputs["teacher"], temperature)
        cross_entropy = dino_loss(outputs["student"], teacher, config.student_temperature)
        mean = at_least_float32(outputs["teacher"]).mean(dim=(0, 1))
        teacher_entropy = entropy(teacher).mean()
        logged = {
            "teacher_entropy": teacher_entropy,
            "teacher_marginal_entropy": entropy(teacher.mean(dim=(0, 1))),
            "cross_entropy": cross_entropy.detach(),
            "kl_teacher_student": cross_entropy.detach() - teacher_entropy,
            "center_norm": self.center.square().sum().sqrt(),
            "teacher_temperature": torch.tensor(temperature),
            "teacher_momentum": torch.tensor(self._momentum(step)),
        }
        loss = cross_entropy
        if config.koleo:
            spread = self._spread(outputs["bottleneck"][: len(teacher)])
            logged["koleo"] = spread.detach()
            loss = cross_entropy + config.koleo * spread
        return StepOutput(loss, logged, {"teacher_mean": mean})

    def _spread(self, bottleneck: Float[Tensor, "t b e"]) -> Float[Tensor, ""]:
        """KoLeo within each global view, over all processes: two views of one image are meant to be alike."""
        return torch.stack([koleo_loss(distributed.gather(at_least_float32(view))) for view in bottleneck]).mean()

    @torch.no_grad()
    def _targets(self, logits: Float[Tensor, "t b k"], temperature: float) -> Float[Tensor, "t b k"]:
        """What the student is to predict: the teacher's outputs, kept from collapse and sharpened."""
        if self.config.balance == "center":
            return teacher_probabilities(logits, self.center, temperature)
        flat = at_least_float32(logits).flatten(0, 1)
        shares = sinkhorn(flat, temperature, total=distributed.sum_reduce, largest=distributed.max_reduce)
        return shares.view_as(logits)

    def diagnose(self, recent: Mapping[str, float]) -> Verdict | None:
        """One output for all images, or none that says anything."""
        outputs = self.config.out_dim
        return one_output(
            recent["teacher_marginal_entropy"],
            outputs,
            "Raise --method.teacher-temperature, lower --method.center-momentum, or lower the learning rate.",
        ) or uniform(
            recent["cross_entropy"],
            recent["teacher_entropy"],
            outputs,
            "Lower --method.teacher-temperature (0.02) and its warm-up, lower --method.out-dim for a small data set, "
            "or train for more steps with a higher learning rate.",
        )

    def before_update(self, step: Step) -> None:
        """Hold the prototypes in the first epochs: without a gradient, the optimiser leaves them alone."""
        if step.epoch < self.config.freeze_last_layer_epochs:
            for parameter in self.student_head.last_layer.parameters():
                parameter.grad = None

    def after_step(self, step: Step, output: StepOutput) -> None:
        """One step of the teacher's weights (cosine momentum) and of the centre (mean over all processes)."""
        momentum = self._momentum(step)
        follow(self.teacher_backbone, self.student_backbone, momentum)
        follow(self.teacher_head, self.student_head, momentum)
        mean = distributed.mean_reduce(output.statistics["teacher_mean"])
        self.center.copy_(updated_center(self.center, mean, self.config.center_momentum))

    def _momentum(self, step: Step) -> float:
        """Of the teacher's weights at a step: a cosine to 1."""
        return cosine(self.config.teacher_momentum, 1.0, step.index / step.total)

    @property
    def evaluated_backbone(self) -> Backbone:
        """The teacher's: it is the better network all through training (Fig. 6)."""
        return self.teacher_backbone

    @property
    def evaluated_prefix(self) -> str:
        """Prefix of the teacher backbone's weights in the state dict."""
        return "teacher_backbone."
