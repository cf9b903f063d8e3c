"""DINO: self-distillation with no labels (Caron et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dinoscope import distributed
from dinoscope.losses.byol import byol_loss
from dinoscope.losses.dino import (
    at_least_float32,
    dino_loss,
    entropy,
    kl_loss,
    reverse_kl_loss,
    softmax_mse_loss,
    teacher_probabilities,
    updated_center,
)
from dinoscope.losses.koleo import koleo_loss
from dinoscope.losses.sinkhorn import batch_softmax, sinkhorn
from dinoscope.methods.dino_settings import DINOConfig
from dinoscope.methods.health import Verdict, moments, one_output, one_point, spread_of, uniform
from dinoscope.methods.method import Outputs
from dinoscope.methods.online import OnlineMethod, by_view, view_features
from dinoscope.models.backbone import Backbone, BackboneConfig, build_backbone, without_drop_path
from dinoscope.models.heads import DINOHead, HeadShape, copy_parameters, follow, projector
from dinoscope.schedules import cosine, epoch_warmup
from dinoscope.types import Step, StepOutput, Views

_OF_PROBABILITIES = {
    "cross_entropy": dino_loss,
    "kl": kl_loss,
    "reverse_kl": reverse_kl_loss,
    "mse_softmax": softmax_mse_loss,
}
"""name of a loss -> it, as a function of the student's logits, the teacher's probabilities and the temperature."""


class DINO(OnlineMethod):
    """Student and teacher of one architecture; the student predicts the teacher's output on other views."""

    def __init__(self, config: DINOConfig, backbone: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.additive = config.balance in ("center", "none") and config.koleo == 0
        self.student_backbone = build_backbone(backbone)
        self.student_head = self._head()
        self.teacher_backbone = build_backbone(without_drop_path(backbone))
        self.teacher_head = self._head()
        copy_parameters(self.student_backbone, self.teacher_backbone)
        copy_parameters(self.student_head, self.teacher_head)
        self.center: Tensor
        self.register_buffer("center", torch.zeros(config.out_dim))
        self.predictor: nn.Sequential | None = None
        if config.predictor == "mlp":  # made last: everything else begins as it does without it
            width = self.student_head.embedding_dim
            self.predictor = projector(width, config.hidden_dim, width, batch_norm=config.head_batch_norm)

    def _head(self) -> DINOHead:
        config = self.config
        shape = HeadShape(
            hidden_dim=config.hidden_dim,
            bottleneck_dim=config.bottleneck_dim,
            layers=config.head_layers,
            batch_norm=config.head_batch_norm,
            activation=config.head_activation,
            l2=config.head_l2,
            weight_norm=config.head_weight_norm,
            norm_last_layer=config.norm_last_layer,
        )
        return DINOHead(self.student_backbone.dim, config.out_dim, shape)

    def encode(self, views: Views) -> Outputs:
        """Logits of the student for all views and of the teacher for the global ones: [views, batch, K].

        Beside them the student's bottlenecks (before a predictor) and the evaluated network's features of the global
        views, [views, batch, dim].
        """
        head = self.student_head
        student_features = view_features(self.student_backbone, views)
        bottleneck = head.bottleneck(student_features)
        predicted = bottleneck if self.predictor is None else head.normalized(self.predictor(bottleneck))
        with torch.no_grad():
            teacher_features = view_features(self.teacher_backbone, views, local=False)
            teacher = self.teacher_head(teacher_features)
        outputs = {
            "student": head.last_layer(predicted),
            "bottleneck": bottleneck,
            "teacher": teacher,
            "features": teacher_features if self._follows else student_features[: len(teacher)].detach(),
        }
        return by_view(outputs, views)

    def loss(self, outputs: Outputs, step: Step) -> StepOutput:
        """Eq. 3, or another of `Loss`; logs what tells a healthy run from a collapsed one.

        Whatever the loss, entropies, cross-entropy and divergence are of the probabilities at the two temperatures.
        """
        config = self.config
        temperature = epoch_warmup(
            step.epoch,
            config.warmup_teacher_temperature_epochs,
            config.warmup_teacher_temperature,
            config.teacher_temperature,
        )
        student, logits = outputs["student"], outputs["teacher"].detach()
        teacher = self._targets(logits, temperature)
        if config.loss == "mse":
            loss = byol_loss(student, at_least_float32(logits) - self.center)
        else:
            loss = _OF_PROBABILITIES[config.loss](student, teacher, config.student_temperature)
        cross_entropy = loss.detach()
        if config.loss != "cross_entropy":
            cross_entropy = dino_loss(student.detach(), teacher, config.student_temperature)
        teacher_entropy = entropy(teacher).mean()
        logged = {
            "teacher_entropy": teacher_entropy,
            "cross_entropy": cross_entropy,
            "kl_teacher_student": cross_entropy - teacher_entropy,
            "center_norm": self.center.square().sum().sqrt(),
            "teacher_temperature": torch.tensor(temperature),
        }
        if config.teacher == "ema":
            logged["teacher_momentum"] = torch.tensor(self._momentum(step))
        statistics = {
            "teacher_mean": at_least_float32(logits).mean(dim=(0, 1)),
            "teacher_mean_probability": teacher.mean(dim=(0, 1)),
        }
        if config.loss == "mse":
            statistics["output_moments"] = moments(logits)
        if config.koleo:
            apart = self._koleo(outputs["bottleneck"][: len(teacher)])
            logged["koleo"] = apart.detach()
            loss = loss + config.koleo * apart
        return StepOutput(loss, logged, statistics)

    def health(self, statistics: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Entropy of the teacher's mean answer; to an error of outputs, how far apart they are."""
        figures = {"teacher_marginal_entropy": entropy(statistics["teacher_mean_probability"])}
        if "output_moments" in statistics:
            figures["output_spread"] = spread_of(statistics["output_moments"])
        return figures

    def _koleo(self, bottleneck: Float[Tensor, "t b e"]) -> Float[Tensor, ""]:
        """KoLeo within each global view, over all processes: two views of one image are meant to be alike."""
        return torch.stack([koleo_loss(distributed.gather(at_least_float32(view))) for view in bottleneck]).mean()

    @torch.no_grad()
    def _targets(self, logits: Float[Tensor, "t b k"], temperature: float) -> Float[Tensor, "t b k"]:
        """What the student is to predict: the teacher's outputs, kept from collapse and sharpened."""
        if self.config.balance in ("center", "none"):  # without balance the centre stays at 0
            return teacher_probabilities(logits, self.center, temperature)
        share_out = sinkhorn if self.config.balance == "sinkhorn" else batch_softmax
        flat = at_least_float32(logits).flatten(0, 1)
        shares = share_out(flat, temperature, total=distributed.sum_reduce, largest=distributed.max_reduce)
        return shares.view_as(logits)

    def diagnose(self, recent: Mapping[str, float]) -> Verdict | None:
        """One output for all images, or none that says anything; to an error of outputs, one point."""
        config, outputs = self.config, self.config.out_dim
        if config.loss == "mse":
            return one_point(recent["output_spread"], f"{self._missing()}Take --method.loss cross_entropy.")
        return one_output(
            recent["teacher_marginal_entropy"],
            outputs,
            f"{self._missing()}Raise --method.teacher-temperature, lower --method.center-momentum, or lower the "
            "learning rate.",
        ) or uniform(
            recent["cross_entropy"],
            recent["teacher_entropy"],
            outputs,
            f"{self._missing()}Lower --method.teacher-temperature (0.02) and its warm-up, lower --method.out-dim for a "
            "small data set, or train for more steps with a higher learning rate.",
        )

    def _missing(self) -> str:
        """What against collapse these settings left out, as advice."""
        config, advice = self.config, list[str]()
        if config.balance == "none":
            advice.append("--method.balance center")
        if config.teacher_temperature >= config.student_temperature:
            advice.append("--method.teacher-temperature below --method.student-temperature")
        if config.teacher != "ema":
            advice.append("--method.teacher ema")
        return f"These settings leave out what guards against it: {', '.join(advice)}. " if advice else ""

    def before_update(self, step: Step) -> None:
        """Hold the prototypes in the first epochs: without a gradient, the optimiser leaves them alone."""
        if step.epoch < self.config.freeze_last_layer_epochs:
            for parameter in self.student_head.last_layer.parameters():
                parameter.grad = None
        if self.config.teacher == "previous_step":  # the weights that the next step will have left behind
            self._move_teacher(momentum=0.0)

    def after_step(self, step: Step, output: StepOutput) -> None:
        """One step of the teacher's weights (cosine momentum) and of the centre (mean over all processes)."""
        rule = self.config.teacher
        if rule == "ema":
            self._move_teacher(self._momentum(step))
        elif rule == "student" or (rule == "previous_epoch" and (step.index + 1) % step.per_epoch == 0):
            self._move_teacher(momentum=0.0)
        if self.config.balance != "none":
            self.center.copy_(
                updated_center(self.center, output.statistics["teacher_mean"], self.config.center_momentum)
            )

    def _move_teacher(self, momentum: float) -> None:
        """Towards the student; all the way at momentum 0."""
        follow(self.teacher_backbone, self.student_backbone, momentum)
        follow(self.teacher_head, self.student_head, momentum)

    @property
    def _follows(self) -> bool:
        """Whether the teacher is the better network: a moving average is, all through training (Fig. 6)."""
        return self.config.teacher == "ema"

    def _momentum(self, step: Step) -> float:
        """Of the teacher's weights at a step: a cosine to 1."""
        return cosine(self.config.teacher_momentum, 1.0, step.index / step.total)

    @property
    def evaluated_backbone(self) -> Backbone:
        """The teacher's where it is a moving average, else the student's (a frozen teacher learns nothing)."""
        return self.teacher_backbone if self._follows else self.student_backbone

    @property
    def evaluated_prefix(self) -> str:
        """Prefix of that backbone's weights in the state dict."""
        return "teacher_backbone." if self._follows else "student_backbone."
