"""DINO: self-distillation without labels (Caron et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dinoscope import distributed
from dinoscope.data.grey_range import HEADER, WINDOWS
from dinoscope.losses import dino as losses
from dinoscope.losses.sinkhorn import batch_softmax, sinkhorn
from dinoscope.methods import health as signs
from dinoscope.methods import method
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
from dinoscope.models.backbone import Backbone, BackboneConfig
from dinoscope.models.heads import DINOHead, HeadShape, drop_gradients, projector
from dinoscope.schedules import cosine, epoch_warmup
from dinoscope.text import Phrase
from dinoscope.types import Step, StepOutput, Views

Loss = Literal["cross_entropy", "kl", "reverse_kl", "mse", "mse_softmax"]
Centering = Literal["center", "sinkhorn", "softmax", "none"]
TeacherRule = Literal["ema", "student", "previous_step", "previous_epoch", "frozen"]
Predictor = Literal["none", "mlp"]


@dataclass(frozen=True)
class DINOConfig(MethodConfig):
    """Settings of DINO; the defaults are the reference's. docs/methods/dino.md has what the paper found of each.

    out_dim: K, the number of outputs (prototypes). 65,536 for ImageNet; a few thousand or fewer for small sets.
    hidden_dim, bottleneck_dim, head_layers: the projection head's MLP. bottleneck_dim 0 leaves the bottleneck out:
        the last layer maps straight from the hidden units, and the head has head_layers linear maps in all.
    head_batch_norm: batch norm inside that MLP: small networks start at once that would otherwise stay at ln K long.
    head_activation: between the linear maps.
    head_l2: scale the bottleneck to length 1.
    head_weight_norm: train direction and length of the prototypes separately; False is a plain linear last layer.
    norm_last_layer: hold the prototypes at length 1: steadier; False does a little better for ViT-S. Without
        head_weight_norm it does nothing.
    predictor: "mlp" puts two linear maps with a ReLU between them after the student's bottleneck, as in BYOL; the
        teacher has none.
    loss: distance of the student from the teacher, over pairs of different views. "cross_entropy" (the paper); "kl",
        with the same gradient, less by the teacher's entropy; "reverse_kl", of the teacher from the student; "mse", of
        the L2-normalised outputs, without temperatures (the paper's and BYOL's); "mse_softmax", of the probabilities.
    student_temperature: sharpness of the student's output.
    teacher_temperature, warmup_teacher_temperature, warmup_teacher_temperature_epochs: the teacher's; lower is
        sharper. A whole number of epochs moves it once an epoch, another one with every step. Lower it (0.02) when the
        loss stays at ln K. At the student's temperature nothing is sharpened.
    centering: of the teacher's outputs, against collapse. "center" subtracts a moving mean (the paper);
        "sinkhorn" uses all outputs equally over the batch (the paper's Table 15, and DINOv2): more robust for short
        runs and small networks; "softmax" does so once, roughly (Table 15); "none" changes nothing.
    koleo: weight of a loss that pushes apart the bottlenecks of the images in a batch (DINOv2 has it, on the
        features); 0 is the paper. It makes small networks start within minutes.
    center_momentum: of the moving mean subtracted from the teacher's output, against collapse to one output.
    teacher: source of the teacher's weights: "ema", a moving average of the student's; "student", the student's of this
        step; "previous_step", of the step before; "previous_epoch", of the end of the epoch before (in the first epoch
        the first ones); "frozen", the first ones for good. Gradients never reach it. Evaluations use the teacher under
        "ema", otherwise the student.
    teacher_momentum: of "ema" at the start; rises to 1 by a cosine. Longer runs and smaller batches want it nearer to
        1 (0.9995 at batch 256), very short runs lower.
    freeze_last_layer_epochs: the prototypes do not move in the first epochs.
    """

    title = "DINO"

    out_dim: int = 65536
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    head_layers: int = 3
    head_batch_norm: bool = False
    head_activation: Literal["gelu", "relu"] = "gelu"
    head_l2: bool = True
    head_weight_norm: bool = True
    norm_last_layer: bool = True
    predictor: Predictor = "none"
    loss: Loss = "cross_entropy"
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    warmup_teacher_temperature: float = 0.04
    warmup_teacher_temperature_epochs: float = 0
    centering: Centering = "center"
    koleo: float = 0.0
    center_momentum: float = 0.9
    teacher: TeacherRule = "ema"
    teacher_momentum: float = 0.996
    freeze_last_layer_epochs: float = 1

    def __post_init__(self) -> None:
        self.check_choices()
        self.check_above_0("student_temperature", "teacher_temperature", "warmup_teacher_temperature")
        self.check_range(0, 1, "center_momentum", "teacher_momentum")
        self.check_range(2, math.inf, "out_dim")
        self.check_range(1, math.inf, "hidden_dim", "head_layers")
        self.check_range(0, math.inf, "bottleneck_dim", "koleo")  # 0: none
        if self.loss == "mse" and self.centering in ("sinkhorn", "softmax"):
            raise ValueError(
                f"loss mse compares outputs, and centering {self.centering} gives probabilities: take centering center "
                "or none, or loss mse_softmax"
            )

    def faults(self, run: RunShape) -> Iterator[str]:
        if run.num_global + run.num_local < 2:
            yield f"{self.title} {method.TOO_FEW_VIEWS}"
        if self.freeze_last_layer_epochs >= run.epochs:
            yield (
                f"the last layer would be frozen for all of the run's {run.epochs:g} epochs: "
                "lower --method.freeze-last-layer-epochs or raise --epochs"
            )

    @property
    def outputs(self) -> int:
        return self.out_dim

    def head(self, width: int) -> DINOHead:
        """Make a head for features of that width."""
        shape = HeadShape(
            hidden_dim=self.hidden_dim,
            bottleneck_dim=self.bottleneck_dim,
            layers=self.head_layers,
            batch_norm=self.head_batch_norm,
            activation=self.head_activation,
            l2=self.head_l2,
            weight_norm=self.head_weight_norm,
            norm_last_layer=self.norm_last_layer,
        )
        return DINOHead(width, self.out_dim, shape)


LOSSES_OF_PROBABILITIES = {
    "cross_entropy": losses.dino_loss,
    "kl": losses.kl_loss,
    "reverse_kl": losses.reverse_kl_loss,
    "mse_softmax": losses.softmax_mse_loss,
}


class DINO(StudentTeacher[DINOHead]):
    """Student and teacher of one architecture; the student predicts the teacher's output on other views."""

    def __init__(self, config: DINOConfig, backbone: BackboneConfig) -> None:
        super().__init__(backbone, config.head)
        self.config = config
        self.additive = config.centering in ("center", "none") and config.koleo == 0
        self.center: Tensor
        self.register_buffer("center", torch.zeros(config.out_dim))
        self.predictor: nn.Sequential | None = None
        if config.predictor == "mlp":  # made last: everything else begins as it does without it
            width = self.student_head.embedding_dim
            self.predictor = projector(width, config.hidden_dim, width, batch_norm=config.head_batch_norm)

    def encode(self, views: Views) -> Outputs:
        """Return logits of the student for all views and of the teacher for the global ones: [views, batch, K].

        Also return the student's bottlenecks (before a predictor) and the evaluated network's features of the global
        views, [views, batch, dim].
        """
        student_features = view_features(self.student_backbone, views)
        with torch.no_grad():
            teacher_features = view_features(self.teacher_backbone, views, local=False)
        return by_view(self.heads(student_features, teacher_features), views)

    def heads(
        self, student_features: Float[Tensor, "rows d"], teacher_features: Float[Tensor, "rows2 d"]
    ) -> dict[str, Tensor]:
        """Return what `encode` does, as rows, of the backbones' features of all and of the global views."""
        head = self.student_head
        bottleneck = head.bottleneck(student_features)
        predicted = bottleneck if self.predictor is None else head.normalized(self.predictor(bottleneck))
        with torch.no_grad():
            teacher = self.teacher_head(teacher_features)
        return {
            "student": head.last_layer(predicted),
            "bottleneck": bottleneck,
            "teacher": teacher,
            "features": teacher_features if self._teacher_is_better else student_features[: len(teacher)].detach(),
        }

    def loss(self, outputs: Outputs, step: Step) -> StepOutput:
        """Return Eq. 3, or another `Loss`, and log what separates a healthy run from a collapsed one.

        Whatever the loss, entropies, cross-entropy and divergence are of the probabilities at the two temperatures.
        """
        config = self.config
        temperature = self.temperature(step)
        student, logits = outputs["student"], outputs["teacher"].detach()
        teacher = self.targets(logits, self.center, temperature)
        if config.loss == "mse":
            loss = losses.byol_loss(student, losses.at_least_float32(logits) - self.center)
        else:
            loss = LOSSES_OF_PROBABILITIES[config.loss](student, teacher, config.student_temperature)
        cross_entropy = loss.detach()
        if config.loss != "cross_entropy":
            cross_entropy = losses.dino_loss(student.detach(), teacher, config.student_temperature)
        teacher_entropy = losses.entropy(teacher).mean()
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
            "teacher_mean": losses.at_least_float32(logits).mean(dim=(0, 1)),
            "teacher_mean_probability": teacher.mean(dim=(0, 1)),
        }
        if config.loss == "mse":
            statistics["output_moments"] = signs.moments(logits)
        if config.koleo:
            # Within each global view: two views of one image are meant to be alike.
            views = outputs["bottleneck"][: len(teacher)]
            terms = [losses.koleo_loss(distributed.gather(losses.at_least_float32(view))) for view in views]
            koleo = torch.stack(terms).mean()
            logged["koleo"] = koleo.detach()
            loss = loss + config.koleo * koleo
        return StepOutput(loss, logged, statistics)

    def temperature(self, step: Step) -> float:
        """Return the teacher's."""
        config = self.config
        start, epochs = config.warmup_teacher_temperature, config.warmup_teacher_temperature_epochs
        return epoch_warmup(step.position, epochs, start, config.teacher_temperature)

    @torch.no_grad()
    def targets(
        self, logits: Float[Tensor, "t b k"], center: Float[Tensor, " k"], temperature: float
    ) -> Float[Tensor, "t b k"]:
        """Return the teacher's probabilities."""
        if self.config.centering in ("center", "none"):  # with none the centre stays at 0
            return losses.teacher_probabilities(logits, center, temperature)
        assign = sinkhorn if self.config.centering == "sinkhorn" else batch_softmax
        rows = losses.at_least_float32(logits).flatten(0, 1)
        shares = assign(rows, temperature, total=distributed.sum_reduce, largest=distributed.max_reduce)
        return shares.view_as(logits)

    def health(self, statistics: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        figures = {"teacher_marginal_entropy": losses.entropy(statistics["teacher_mean_probability"])}
        if "output_moments" in statistics:
            figures["output_spread"] = signs.standard_deviation_of(statistics["output_moments"])
        return figures

    def diagnose(self, recent: Mapping[str, float]) -> signs.Verdict | None:
        config, guards = self.config, list[str]()
        if config.centering == "none":
            guards.append("--method.centering center")
        if config.teacher_temperature >= config.student_temperature:
            guards.append("--method.teacher-temperature below --method.student-temperature")
        if config.teacher != "ema":
            guards.append("--method.teacher ema")
        missing = (
            Phrase("These settings leave out what guards against it: {settings}. ", settings=", ".join(guards))
            if guards
            else ""
        )

        def advice(text: str) -> Phrase:
            return Phrase("{missing}{advice}", missing=missing, advice=text)

        if config.loss == "mse":
            return signs.complete_collapse(recent["output_spread"], advice("Take --method.loss cross_entropy."))
        marginal, entropy, outputs = recent["teacher_marginal_entropy"], recent["teacher_entropy"], config.out_dim
        return (
            signs.one_hot_collapse(
                marginal,
                outputs,
                advice(
                    "Raise --method.teacher-temperature, lower --method.center-momentum, or lower the learning rate."
                ),
            )
            or signs.uniform_collapse(
                recent["cross_entropy"],
                entropy,
                outputs,
                advice(
                    "Lower --method.teacher-temperature (0.02) and its warm-up, lower --method.out-dim for a small "
                    "data set, or train for more steps with a higher learning rate."
                ),
            )
            or signs.constant_output(
                marginal,
                entropy,
                outputs,
                advice("Raise --method.center-momentum or --method.teacher-momentum, or lower the learning rate."),
            )
        )

    def before_update(self, step: Step) -> None:
        """Hold the prototypes in the first epochs: without a gradient, the optimiser leaves them alone."""
        if step.position < self.config.freeze_last_layer_epochs:
            drop_gradients(self.student_head.last_layer)
        if self.config.teacher == "previous_step":  # the weights that the next step will have left behind
            self.move_teacher(momentum=0.0)

    def after_step(self, step: Step, output: StepOutput) -> None:
        """Move the teacher's weights (cosine momentum) and the centre (mean over all processes) by one step."""
        rule = self.config.teacher
        if rule == "ema":
            self.move_teacher(self._momentum(step))
        elif rule == "student" or (rule == "previous_epoch" and (step.index + 1) % step.per_epoch == 0):
            self.move_teacher(momentum=0.0)
        if self.config.centering != "none":
            mean = output.statistics["teacher_mean"]
            self.center.copy_(losses.updated_center(self.center, mean, self.config.center_momentum))

    def _momentum(self, step: Step) -> float:
        return cosine(self.config.teacher_momentum, 1.0, step.progress)

    @property
    def _teacher_is_better(self) -> bool:
        return self.config.teacher == "ema"  # better than its student all through training (Fig. 6)

    @property
    def evaluated_backbone(self) -> Backbone:
        return self.teacher_backbone if self._teacher_is_better else self.student_backbone


# Small heads start at once with batch norm and Sinkhorn-Knopp (the paper's Table 15); with the paper's moving mean,
# short runs stay at the uniform output.
SHORT_RUN: dict[str, Any] = {
    "head_batch_norm": True,
    "centering": "sinkhorn",
    "teacher_temperature": 0.03,
    "warmup_teacher_temperature": 0.03,
    "freeze_last_layer_epochs": 0,
}

QUICKSTART = settings(
    {"backbone": "vit_micro_conv8", "drop_path": 0.0, "views": "scenes", "threads": 1}
    | {"epochs": 12, "batch_size": 128, "evaluate_every": 2},
    method=SHORT_RUN
    | {"out_dim": 512, "hidden_dim": 256, "bottleneck_dim": 64, "koleo": 0.5, "teacher_momentum": 0.97},
    optimizer={"learning_rate": 4e-3, "warmup_epochs": 1, "weight_decay": 0.04, "final_weight_decay": 0.04},
)

_SCENES: dict[str, Any] = {**QUICKSTART, "image_size": 64}  # their own size; training crops are smaller, to be cheap

_SMALL_HEAD: dict[str, Any] = {"out_dim": 4096, "hidden_dim": 1024}


def _modality(views: str, **more: Any) -> dict[str, Any]:
    """Settings for grey images of a hospital or a laboratory, on a small GPU."""
    return settings(
        {"backbone": "vit_tiny_patch16_224", "drop_path": 0.0, "epochs": 100, "batch_size": 64, "accumulate": 4}
        | {"views": views, **more},
        method=_SMALL_HEAD | {"teacher_momentum": 0.99},
        optimizer={"learning_rate": 1e-3, "warmup_epochs": 5},
    )


_RECIPES = {
    "dino_deit_small_100ep": Recipe(
        """ImageNet, ViT-S/16, 100 epochs, batch 512: the reference's defaults on one machine of 8 GPUs.

dinoscope train --recipe dino_deit_small_100ep --data imagenet --out RUN
Published: k-NN 69.3, linear 74.0 (the reference's README; about 1.75 days).""",
        {"epochs": 100, "batch_size": 512},
    ),
    "dino_deit_small_300ep": Recipe(
        """ImageNet, ViT-S/16, 300 epochs with the teacher's temperature warmed up to 0.07, batch 1024.

Published: k-NN 73.3, linear 76.0 (the reference's README; 2 x 8 GPUs, 2.6 days).""",
        settings(
            method.VIT_SMALL_300,
            method={"norm_last_layer": False, "teacher_temperature": 0.07, "warmup_teacher_temperature_epochs": 30},
        ),
    ),
    "dino_deit_small_4gb": Recipe(
        """ViT-S/16 with all ten crops and K = 65,536 on a GPU of 4 GB: batch 64, cut into 16 micro-batches.

dinoscope train --recipe dino_deit_small_4gb --data imagenet --out RUN
Planned (`train --plan`: 1.9 GB of tensors at the peak in fp32; docs/methods/dino.md), not yet run on such a GPU.""",
        {"epochs": 100, "batch_size": 64, "accumulate": 16, "method.teacher_momentum": 0.9995},
    ),
    "dino_resnet50": Recipe(
        """ImageNet, ResNet-50 with SGD and wider crops; 300 epochs.

Published at 800 epochs: k-NN 67.5, linear 75.3 (Caron et al. 2021, Table 2).""",
        settings(
            method.RESNET50 | {"epochs": 300, "batch_size": 1024},
            views={"global_scale": (0.14, 1.0), "local_scale": (0.05, 0.14)},
            optimizer={"name": "sgd", "learning_rate": 0.03, "weight_decay": 1e-4, "final_weight_decay": 1e-4},
        ),
    ),
    "dino_small_images": Recipe(
        """Images of about 32 px (CIFAR): ViT-Ti/4, 2 + 4 crops, a small head, 200 epochs.

dinoscope train --recipe dino_small_images --data cifar10 --out RUN
For a GPU: a CPU core makes about six images a second of it; see `dino_small_images_cpu`.""",
        settings(
            {"backbone": "vit_tiny_patch4_32", "drop_path": 0.0, "views": "small_32", "epochs": 200, "batch_size": 256},
            method=_SMALL_HEAD,
            optimizer={"learning_rate": 1e-3},
        ),
    ),
    "dino_small_images_cpu": Recipe(
        """Images of about 32 px in half an hour on a CPU: the quickstart's network and loss with milder colours.

dinoscope train --recipe dino_small_images_cpu --data cifar10 --out RUN
What it gave on CIFAR-10 is in docs/results/.""",
        {**QUICKSTART, "method.teacher_momentum": 0.99, "views": "two_views_32", "epochs": 6, "evaluate_every": 1},
    ),
    "dino_folder": Recipe(
        """One's own folder of a few hundred to a hundred thousand photographs, on a small GPU (4 GB) or a patient CPU.

ViT-Ti/16 at 128 px with 2 + 4 crops and a small head; about 15 times cheaper per image than the ImageNet recipe.
dinoscope train --recipe dino_folder --data FOLDER --out RUN""",
        settings(
            {"backbone": "vit_tiny_patch16_224", "drop_path": 0.0, "epochs": 50, "batch_size": 64},
            method=_SMALL_HEAD | {"teacher_momentum": 0.99},
            views={"global_size": 128, "local_size": 64, "num_local": 4},
            optimizer={"learning_rate": 1e-3, "warmup_epochs": 5},
        ),
    ),
    "dino_xray": Recipe(
        """Radiographs, on a small GPU: one channel, large crops, no flip.

ViT-Ti/16 at 224 px. The grey range is the data set's; `--window header` takes each file's own.
dinoscope train --recipe dino_xray --data FOLDER --group header:patient --split 0.9 --out RUN
Not run on clinical images yet.""",
        _modality("xray", channels=1),
    ),
    "dino_ct": Recipe(
        """Slices of CT, on a small GPU: one channel, the window of soft tissue, no flip.

For lungs, `--window lung`; MR has no units, so give it `--window header`, or none.
dinoscope train --recipe dino_ct --data FOLDER --group header:patient --split 0.9 --out RUN
Not run on clinical images yet.""",
        _modality("ct", channels=1, window=WINDOWS["soft"]),
    ),
    "dino_microscopy": Recipe(
        """Cells or tissue under a microscope, on a small GPU: as many channels as the images, flips both ways.

dinoscope train --recipe dino_microscopy --data FOLDER --group '(?P<well>[^/]+)/' --split 0.9 --out RUN
Not run on images of a laboratory yet.""",
        _modality("microscopy"),
    ),
    "quickstart_medical": Recipe(
        """The drawn mammograms, DICOM files of 12 and 14 bits: the quickstart with one channel and each file's window.

dinoscope quickstart --data medical""",
        {**QUICKSTART, "views": "mammograms", "channels": 1, "window": HEADER, "image_size": 64},
    ),
    "quickstart": Recipe(
        """The embedded scenes in about three minutes on two CPU cores: a ViT of 0.3 M parameters, two views of 32 px.

Sinkhorn instead of a moving mean, batch norm in the head and KoLeo (both from DINOv2) let it start at once; with the
paper's moving mean alone it stayed near the uniform output for the whole of so short a run. Strong colour jitter makes
colour useless for telling images apart, so that shape and texture are what is left.
dinoscope quickstart""",
        _SCENES,
    ),
    "quickstart_long": Recipe(
        """The quickstart for longer: it made the shipped model.

dinoscope quickstart --recipe quickstart_long""",
        {**_SCENES, "method.teacher_momentum": 0.99, "optimizer.warmup_epochs": 3, "epochs": 60, "evaluate_every": 10},
    ),
}

METHOD = method.MethodEntry(
    config=DINOConfig,
    build=DINO,
    display=method.Display(
        "DINO",
        "#d55e00",
        {
            "method.centering": ("center", "its teacher is centred otherwise than by the paper's moving mean"),
            "method.loss": ("cross_entropy", "trained with another loss than its paper's"),
            "method.teacher": ("ema", "its teacher is not a moving average"),
            "method.predictor": ("none", "with a predictor, which its paper does not have"),
            "method.head_activation": ("gelu", "another activation in its head than its paper's"),
            "method.head_l2": (True, "its bottleneck is not scaled to length 1"),
            "method.head_weight_norm": (True, "its last layer is a plain linear map"),
            "method.koleo": (0.0, "with the KoLeo loss, which its paper does not have"),
        },
    ),
    year=2021,
    curves=(*method.OUTPUT_CURVES, method.KOLEO),
    recipes=_RECIPES,
    small=lambda views, transformer: settings(method=SHORT_RUN),
)
