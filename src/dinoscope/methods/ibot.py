"""iBOT (Zhou et al. 2022): DINO, and masked patches that tell what the teacher sees there; DINOv2's as settings."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dinoscope import distributed
from dinoscope.data.masking import MaskedViews, MaskShape, PatchMasking
from dinoscope.errors import UserError
from dinoscope.losses import dino as losses
from dinoscope.losses.ibot import masked_patch_cross_entropy, mean_over_masked
from dinoscope.losses.sinkhorn import sinkhorn
from dinoscope.methods import health as signs
from dinoscope.methods import method
from dinoscope.methods.method import MethodConfig, Outputs, Recipe, RunShape, StudentTeacher, by_view, settings
from dinoscope.models.backbone import BackboneConfig
from dinoscope.models.heads import DINOHead, HeadShape, WeightNormLinear, drop_gradients
from dinoscope.schedules import cosine, epoch_warmup
from dinoscope.text import Phrase
from dinoscope.types import Step, StepOutput, Views

PatchHead = Literal["shared", "last_layer", "separate"]


@dataclass(frozen=True)
class IBOTConfig(MethodConfig):
    """Settings of iBOT; the defaults are those of its recipes, and the table in docs/methods/ibot.md has DINOv2's.

    out_dim: K, the number of outputs (prototypes), of class tokens and of patches. DINOv2: 65,536, and 131,072 in long
        runs; a few hundred or thousand for small sets.
    hidden_dim, bottleneck_dim, head_layers: the projection head's MLP.
    head_batch_norm: batch norm inside that MLP: small networks start at once that would otherwise stay at ln K long.
    norm_last_layer: hold the prototypes at length 1.
    patch_head: what patches pass through: "shared", the head of the class token; "last_layer", a last layer of their
        own on the shared MLP; "separate", a head of their own (DINOv2's long runs).
    mask_ratio: smallest and largest share of the patches that a masked view hides.
    mask_probability: share of the global views that are masked.
    masked_views: "independent", each view by itself with that probability; "exact", that share of every image's
        global views: one of two at 0.5 (DINOv2: half of the crops of a batch).
    mask_shape: "block", or "random" single patches.
    min_block: smallest area that is drawn for a block, in patches; 0 is a third of the grid's side, squared. DINOv2: 4.
    patch_weight: of the loss of masked patches; that of class tokens has weight 1.
    student_temperature: sharpness of the student's outputs.
    teacher_temperature, warmup_teacher_temperature, warmup_teacher_temperature_epochs: the teacher's for class tokens.
    patch_teacher_temperature, warmup_patch_teacher_temperature: the teacher's for patches, with the same warm-up.
    centering: of the teacher's outputs, class tokens and patches each by themselves: "center", moving means;
        "sinkhorn", all outputs equally over the batch and its masked patches (DINOv2's long runs).
    center_momentum: of the moving means.
    patch_center: the mean of the teacher's outputs of "all" patches, or of the "masked" ones (DINOv2).
    koleo: weight of KoLeo of the student's class tokens, added up over the global views. DINOv2: 0.1.
    teacher_momentum: of the moving average at the start; rises to 1 by a cosine. DINOv2: 0.992.
    freeze_last_layer_epochs: the prototypes do not move in the first epochs.
    """

    out_dim: int = 8192
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    head_layers: int = 3
    head_batch_norm: bool = False
    norm_last_layer: bool = False
    patch_head: PatchHead = "shared"
    mask_ratio: tuple[float, float] = (0.1, 0.5)
    mask_probability: float = 0.5
    masked_views: MaskedViews = "independent"
    mask_shape: MaskShape = "block"
    min_block: int = 0
    patch_weight: float = 1.0
    student_temperature: float = 0.1
    teacher_temperature: float = 0.07
    warmup_teacher_temperature: float = 0.04
    warmup_teacher_temperature_epochs: float = 30
    patch_teacher_temperature: float = 0.07
    warmup_patch_teacher_temperature: float = 0.04
    centering: Literal["center", "sinkhorn"] = "center"
    center_momentum: float = 0.9
    patch_center: Literal["all", "masked"] = "all"
    koleo: float = 0.0
    teacher_momentum: float = 0.996
    freeze_last_layer_epochs: float = 1

    def __post_init__(self) -> None:
        self.check_choices()
        self.check_above_0("student_temperature", "teacher_temperature", "warmup_teacher_temperature")
        self.check_above_0("patch_teacher_temperature", "warmup_patch_teacher_temperature", "mask_probability")
        self.check_range(0, 1, "center_momentum", "teacher_momentum", "mask_probability")
        self.check_range(2, math.inf, "out_dim")
        self.check_range(1, math.inf, "hidden_dim", "head_layers", "bottleneck_dim")
        self.check_range(0, math.inf, "koleo", "patch_weight", "min_block")
        low, high = self.mask_ratio
        if not 0 < low <= high < 1:
            raise ValueError(f"mask_ratio is {low:g} {high:g}; allowed: (low, high) with 0 < low <= high < 1")

    def faults(self, run: RunShape) -> Iterator[str]:
        if run.num_global < 1 or run.num_global + run.num_local < 2:
            yield f"iBOT {method.TOO_FEW_VIEWS}"
        if not run.transformer:
            yield "iBOT masks patch tokens: choose a Vision Transformer as --backbone"
        if self.freeze_last_layer_epochs >= run.epochs:
            yield (
                f"the last layer would be frozen for all of the run's {run.epochs:g} epochs: "
                "lower --method.freeze-last-layer-epochs or raise --epochs"
            )
        fewest = self.masking(1, 1).min_views(run.num_global)
        if self.masked_views == "exact" and fewest < 1:
            yield (
                f"--method.mask-probability {self.mask_probability:g} of {run.num_global} global views is less than "
                "one: raise it, or take --method.masked-views independent"
            )
        if self.head_batch_norm and fewest * run.micro_batch < 2:
            yield (
                "batch norm in the head needs masked patches in every forward: take --method.masked-views exact and a "
                "--batch-size of 2 or more for each forward"
            )

    @property
    def outputs(self) -> int:
        return self.out_dim

    @property
    def variant(self) -> str | None:
        return "dinov2" if self.koleo else None

    def masking(self, rows: int, columns: int) -> PatchMasking:
        """Return how patches of such a grid are masked."""
        shares = self.mask_ratio, self.mask_probability
        return PatchMasking(rows, columns, *shares, self.masked_views, self.mask_shape, self.min_block)


class IBOTHead(nn.Module):
    """DINO's head for class tokens, and the same, its last layer's twin, or another head for patches."""

    def __init__(self, config: IBOTConfig, in_dim: int) -> None:
        super().__init__()
        self.kind: PatchHead = config.patch_head
        shape = HeadShape(
            hidden_dim=config.hidden_dim,
            bottleneck_dim=config.bottleneck_dim,
            layers=config.head_layers,
            batch_norm=config.head_batch_norm,
            norm_last_layer=config.norm_last_layer,
        )
        self.of_class = DINOHead(in_dim, config.out_dim, shape)
        self.of_patches = DINOHead(in_dim, config.out_dim, shape) if self.kind == "separate" else None
        self.last_layer = (
            WeightNormLinear(config.bottleneck_dim, config.out_dim, train_scale=not config.norm_last_layer)
            if self.kind == "last_layer"
            else None
        )

    def patch_bottleneck(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        return (self.of_patches or self.of_class).bottleneck(features)

    def patch_logits(self, bottleneck: Float[Tensor, "n e"]) -> Float[Tensor, "n k"]:
        return (self.last_layer or (self.of_patches or self.of_class).last_layer)(bottleneck)

    @property
    def last_layers(self) -> list[nn.Module]:
        heads = [head.last_layer for head in (self.of_class, self.of_patches) if head is not None]
        return heads if self.last_layer is None else [*heads, self.last_layer]


class Hidden(NamedTuple):
    """The hidden patches of a batch, as numbers: known on the CPU, so that a device is not asked for their count.

    rows: of all patches of the global views, [views * batch * patches], those that are hidden.
    places: where each of them goes in [masked views * batch * places].
    weights: 1 / (patches of the mask), 0 in empty places.
    """

    rows: Int[Tensor, " r"]
    places: Int[Tensor, " r"]
    weights: Float[Tensor, "v b m"]

    @classmethod
    def of(cls, masks: Bool[Tensor, "g b n"], masking: PatchMasking, dtype: torch.dtype) -> Hidden:
        (views, batch, patches), places = masks.shape, masking.max_patches
        # The masked views of each image first: with masks on exactly half of the views, half of the places.
        order = masks.sum(dim=-1).argsort(dim=0, descending=True, stable=True)[: masking.max_views(views)]
        chosen = masks.gather(0, order[:, :, None].expand(-1, -1, patches))
        view, image, patch = chosen.nonzero(as_tuple=True)
        within = (chosen.cumsum(dim=-1) - 1)[view, image, patch]
        weights = torch.zeros(len(order), batch, places, dtype=dtype)
        weights[view, image, within] = 1 / chosen.sum(dim=-1)[view, image].to(dtype)
        rows = (order[view, image] * batch + image) * patches + patch
        return cls(rows, (view * batch + image) * places + within, weights)

    def to(self, device: torch.device) -> Hidden:
        return Hidden(*(tensor.to(device, non_blocking=True) for tensor in self))

    def spread(self, values: Float[Tensor, "r k"]) -> Float[Tensor, "v b m k"]:
        """Return the values of the hidden patches in their places; 0 elsewhere."""
        shape = *self.weights.shape, values.shape[-1]
        return values.new_zeros(self.weights.numel(), values.shape[-1]).index_copy(0, self.places, values).view(shape)


class IBOT(StudentTeacher[IBOTHead]):
    """Student and teacher as in DINO; the student also predicts the teacher's output of patches that it cannot see."""

    def __init__(self, config: IBOTConfig, backbone: BackboneConfig) -> None:
        super().__init__(backbone, lambda width: IBOTHead(config, width))
        self.config = config
        self.additive = config.centering == "center" and config.koleo == 0
        forward = self.student_backbone.masked_forward
        if forward is None:
            raise UserError(
                f"iBOT masks patch tokens, which {backbone.name} cannot: choose a vit_... network of dinoscope"
            )
        self.masked_forward = forward
        side = backbone.layout_size // self.student_backbone.patch_size
        self.masking = config.masking(side, side)
        self.mask_token = nn.Parameter(torch.zeros(1, self.student_backbone.dim))
        self.center: Tensor
        self.patch_center: Tensor
        self.register_buffer("center", torch.zeros(config.out_dim))
        self.register_buffer("patch_center", torch.zeros(config.out_dim))

    def encode(self, views: Views) -> Outputs:
        """Return class logits of the student for all views and of the teacher for the global ones: [views, batch, K].

        Of the hidden patches, [masked views, batch, places, K], also logits and weights; with a moving mean over all
        patches, the teacher's mean logits of each global view. The student sees global views with hidden patches.
        """
        if views.masks is None or self.masking is None:
            raise ValueError("iBOT needs the masks of the views: make them by its `masking`")
        device = views.global_views.device
        masks = views.masks.flatten(0, 1).to(device, non_blocking=True)
        hidden = Hidden.of(views.masks, self.masking, self.mask_token.dtype).to(device)
        images = self.student_backbone.normalize(views.global_views.flatten(0, 1))
        student = self.masked_forward(images, masks, self.mask_token)
        features = [student.feature]
        if views.local_views is not None:
            local = self.student_backbone.normalize(views.local_views.flatten(0, 1))
            features.append(self.student_backbone.feature(local))
        head = self.student_head
        with torch.no_grad():
            teacher = self.teacher_backbone(images)
            outputs = {"teacher": self.teacher_head.of_class(teacher.feature), "features": teacher.feature}
            patches, mean = self._teacher_patches(teacher.patches, hidden)
            outputs |= {} if mean is None else {"teacher_patch_mean": mean}
        outputs["student"] = head.of_class(torch.cat(features))
        if self.config.koleo:
            outputs["class_tokens"] = student.feature
        masked = student.patches.flatten(0, 1).index_select(0, hidden.rows)
        return by_view(outputs, views) | {
            "student_patches": hidden.spread(head.patch_logits(head.patch_bottleneck(masked))),
            "teacher_patches": hidden.spread(patches),
            "weights": hidden.weights,
        }

    def _teacher_patches(
        self, patches: Float[Tensor, "b n d"], hidden: Hidden
    ) -> tuple[Float[Tensor, "r k"], Float[Tensor, "b k"] | None]:
        """Return the teacher's logits of the hidden patches, and if it is needed the mean over all of each view."""
        head, flat = self.teacher_head, patches.flatten(0, 1)
        if self.config.centering == "sinkhorn" or self.config.patch_center == "masked":
            return head.patch_logits(head.patch_bottleneck(flat.index_select(0, hidden.rows))), None
        bottleneck = head.patch_bottleneck(flat)
        # The last layer is linear without a bias: the mean of its outputs is its output of the mean.
        mean = head.patch_logits(bottleneck.view(*patches.shape[:2], -1).mean(dim=1))
        return head.patch_logits(bottleneck.index_select(0, hidden.rows)), mean

    def loss(self, outputs: Outputs, step: Step) -> StepOutput:
        """Return DINO's loss of class tokens (Eq. 1) plus that of the hidden patches (Eq. 2), and KoLeo."""
        config = self.config
        temperature, patch_temperature = self._temperatures(step)
        logits, patch_logits = outputs["teacher"].detach(), outputs["teacher_patches"].detach()
        weights, views = outputs["weights"], len(logits)
        present = (weights > 0).to(weights.dtype)
        targets, patch_targets = self._targets(logits, patch_logits, present, temperature, patch_temperature)
        class_loss = losses.dino_loss(outputs["student"], targets, config.student_temperature)
        each = masked_patch_cross_entropy(outputs["student_patches"], patch_targets, config.student_temperature)
        patch_loss = mean_over_masked(each, weights, views)
        loss = class_loss + config.patch_weight * patch_loss
        teacher_entropy, cross_entropy = losses.entropy(targets).mean(), class_loss.detach()
        logged = {
            "teacher_entropy": teacher_entropy,
            "cross_entropy": cross_entropy,
            "kl_teacher_student": cross_entropy - teacher_entropy,
            "patch_loss": patch_loss.detach(),
            "teacher_temperature": torch.tensor(temperature),
            "patch_teacher_temperature": torch.tensor(patch_temperature),
            "teacher_momentum": torch.tensor(self._momentum(step)),
        }
        if config.centering == "center":
            logged["center_norm"] = self.center.square().sum().sqrt()
            logged["patch_center_norm"] = self.patch_center.square().sum().sqrt()
        if config.koleo:
            terms = [
                losses.koleo_loss(distributed.gather(losses.at_least_float32(view))) for view in outputs["class_tokens"]
            ]
            koleo = torch.stack(terms).sum()
            logged["koleo"] = koleo.detach()
            loss = loss + config.koleo * koleo
        return StepOutput(loss, logged, self._statistics(outputs, targets, patch_targets, each.detach(), present))

    def _temperatures(self, step: Step) -> tuple[float, float]:
        config, epochs = self.config, self.config.warmup_teacher_temperature_epochs
        return (
            epoch_warmup(step.position, epochs, config.warmup_teacher_temperature, config.teacher_temperature),
            epoch_warmup(
                step.position, epochs, config.warmup_patch_teacher_temperature, config.patch_teacher_temperature
            ),
        )

    @torch.no_grad()
    def _targets(
        self,
        logits: Float[Tensor, "t b k"],
        patch_logits: Float[Tensor, "v b m k"],
        present: Float[Tensor, "v b m"],
        temperature: float,
        patch_temperature: float,
    ) -> tuple[Float[Tensor, "t b k"], Float[Tensor, "v b m k"]]:
        if self.config.centering == "center":
            patches = losses.at_least_float32(patch_logits) - self.patch_center
            of_class = losses.teacher_probabilities(logits, self.center, temperature)
            return of_class, torch.softmax(patches / patch_temperature, dim=-1)
        assign = functools.partial(sinkhorn, total=distributed.sum_reduce, largest=distributed.max_reduce)
        rows, patch_rows = (losses.at_least_float32(each).flatten(0, -2) for each in (logits, patch_logits))
        of_patches = assign(patch_rows, patch_temperature, present=present.flatten())
        return assign(rows, temperature).view_as(logits), of_patches.view_as(patch_logits)

    @torch.no_grad()
    def _statistics(
        self,
        outputs: Outputs,
        targets: Float[Tensor, "t b k"],
        patch_targets: Float[Tensor, "v b m k"],
        patch_losses: Float[Tensor, "v b m"],
        present: Float[Tensor, "v b m"],
    ) -> dict[str, Tensor]:
        """Return sums over patches per image, which can be averaged; `health` and the centre take their ratios."""
        weights, images = outputs["weights"], present.shape[1]
        figures = [weights * losses.entropy(patch_targets), weights * patch_losses, weights, present]
        statistics = {
            "teacher_mean_probability": targets.mean(dim=(0, 1)),
            "patch_figures": torch.stack([figure.sum() / images for figure in figures]),
            "patch_probability": torch.einsum("vbm,vbmk->k", present, patch_targets) / images,
        }
        if self.config.centering == "center":
            logits = losses.at_least_float32(outputs["teacher"])
            statistics["teacher_mean"] = logits.mean(dim=(0, 1))
            if "teacher_patch_mean" in outputs:
                statistics["patch_mean"] = losses.at_least_float32(outputs["teacher_patch_mean"]).mean(dim=(0, 1))
            else:
                patches = losses.at_least_float32(outputs["teacher_patches"])
                statistics["patch_sum"] = torch.einsum("vbm,vbmk->k", present, patches) / images
        return statistics

    def health(self, statistics: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        entropy, cross_entropy, masks, patches = statistics["patch_figures"].unbind()
        masks, patches = (count.clamp_min(torch.finfo(count.dtype).tiny) for count in (masks, patches))
        return {
            "teacher_marginal_entropy": losses.entropy(statistics["teacher_mean_probability"]),
            "patch_teacher_entropy": entropy / masks,
            "patch_cross_entropy": cross_entropy / masks,
            "patch_marginal_entropy": losses.entropy(statistics["patch_probability"] / patches),
        }

    def diagnose(self, recent: Mapping[str, float]) -> signs.Verdict | None:
        outputs = self.config.out_dim
        raise_it = "Raise --method.{setting}, lower --method.center-momentum, or lower the learning rate."
        lower_it = (
            "Lower --method.{setting} (0.02) and its warm-up, lower --method.out-dim for a small data set, or train "
            "for more steps with a higher learning rate."
        )
        for which, prefix in (("teacher-temperature", ""), ("patch-teacher-temperature", "patch_")):
            marginal = recent["teacher_marginal_entropy" if not prefix else "patch_marginal_entropy"]
            entropy = recent[f"{prefix}teacher_entropy"]
            verdict = (
                signs.one_hot_collapse(marginal, outputs, Phrase(raise_it, setting=which))
                or signs.uniform_collapse(
                    recent[f"{prefix}cross_entropy"], entropy, outputs, Phrase(lower_it, setting=which)
                )
                or signs.constant_output(marginal, entropy, outputs, "Raise --method.teacher-momentum.")
            )
            if verdict:
                if not prefix:
                    return verdict
                text = Phrase("masked patches: {text}", text=verdict.text)
                return replace(verdict, kind=f"{verdict.kind} of patches", text=text)
        return None

    def before_update(self, step: Step) -> None:
        """Hold the prototypes in the first epochs: without a gradient, the optimiser leaves them alone."""
        if step.position < self.config.freeze_last_layer_epochs:
            for layer in self.student_head.last_layers:
                drop_gradients(layer)

    def after_step(self, step: Step, output: StepOutput) -> None:
        """Move the teacher's weights (cosine momentum) and the centres (means over all processes) by one step."""
        statistics = output.statistics
        self.move_teacher(self._momentum(step))
        if self.config.centering != "center":
            return
        if "patch_mean" in statistics:
            patch_mean = statistics["patch_mean"]
        else:
            count = statistics["patch_figures"][-1]
            mean = statistics["patch_sum"] / count.clamp_min(torch.finfo(count.dtype).tiny)
            patch_mean = torch.where(count > 0, mean, self.patch_center)
        rate = self.config.center_momentum
        self.center.copy_(losses.updated_center(self.center, statistics["teacher_mean"], rate))
        self.patch_center.copy_(losses.updated_center(self.patch_center, patch_mean, rate))

    def _momentum(self, step: Step) -> float:
        return cosine(self.config.teacher_momentum, 1.0, step.progress)


# As DINO's short runs, with DINOv2's exact half of masked views, without which batch norm in the head could meet a
# batch without masked patches.
_SHORT_RUN: dict[str, Any] = {
    "head_batch_norm": True,
    "norm_last_layer": True,
    "masked_views": "exact",
    "centering": "sinkhorn",
    "teacher_temperature": 0.03,
    "warmup_teacher_temperature": 0.03,
    "patch_teacher_temperature": 0.03,
    "warmup_patch_teacher_temperature": 0.03,
    "freeze_last_layer_epochs": 0,
}

_DINOV2: dict[str, Any] = {
    "out_dim": 65536,
    "masked_views": "exact",
    "min_block": 4,
    "patch_center": "masked",
    "koleo": 0.1,
    "teacher_momentum": 0.992,
}

_DEVIATIONS = {
    "method.patch_weight": (1.0, "the loss of masked patches has another weight than 1"),
    "method.head_batch_norm": (False, "with batch norm in its head, which its paper does not have"),
    "method.mask_shape": ("block", "masked by single patches"),
    "method.mask_ratio": ((0.1, 0.5), "masks of other sizes than its paper's"),
}

METHOD = method.MethodEntry(
    config=IBOTConfig,
    build=IBOT,
    display=method.Display(
        "iBOT",
        deviations=_DEVIATIONS
        | {
            "method.centering": ("center", "its teacher is centred otherwise than by the paper's moving mean"),
            "method.masked_views": ("independent", "exactly the same share of each image's views is masked"),
        },
    ),
    variants={
        "dinov2": method.Display(
            "DINOv2",
            deviations=_DEVIATIONS
            | {
                "method.koleo": (0.1, "another weight of KoLeo than its paper's"),
                "method.masked_views": ("exact", "views are masked independently"),
            },
        )
    },
    year=2021,
    curves=(
        *method.OUTPUT_CURVES,
        method.Curve("Loss of hidden patches", "nats", "patch_loss"),
        *(
            method.Curve(title, "nats", name, figure=method.TEACHER_AND_STUDENT, entropy=True)
            for title, name in (
                ("Entropy of patch targets", "patch_teacher_entropy"),
                ("Entropy of their mean (patches)", "patch_marginal_entropy"),
            )
        ),
        method.KOLEO,
    ),
    transformers_only=True,
    recipes={
        "ibot_vit_small": Recipe(
            """ImageNet, ViT-S/16, iBOT with 2 + 10 crops, 800 epochs at batch 1024.

Published: k-NN 75.2, linear 77.9 (the authors' README).""",
            settings(
                {"epochs": 800, "batch_size": 1024},
                views={"num_local": 10, "global_scale": (0.25, 1.0), "local_scale": (0.05, 0.25)},
            ),
        ),
        "dinov2_vit_large": Recipe(
            """ImageNet, ViT-L/16, DINOv2 with 2 + 8 crops, 125,000 steps at batch 2048 (its short recipe).

Published: k-NN 81.6, linear 82.9 (the authors' README), with a learning rate that falls with the depth, which there is
none of here.""",
            settings(
                {"backbone": "vit_large_patch16_dinov2", "drop_path": 0.3, "epochs": 200, "batch_size": 2048},
                method=_DINOV2 | {"warmup_teacher_temperature_epochs": 60, "freeze_last_layer_epochs": 2},
                views={"global_scale": (0.32, 1.0), "local_scale": (0.05, 0.32)},
                optimizer={"learning_rate": 2e-3, "scaling": "sqrt", "warmup_epochs": 20},
            ),
        ),
        "ibot_small_images": Recipe(
            """Images of about 32 px (CIFAR): ViT-Ti/4, 2 + 4 crops, a small head, 200 epochs.

dinoscope train --recipe ibot_small_images --data cifar10 --out RUN
For a GPU. Not run yet.""",
            settings(
                {"backbone": "vit_tiny_patch4_32", "drop_path": 0.0, "views": "small_32", "epochs": 200}
                | {"batch_size": 256},
                method=_SHORT_RUN | {"out_dim": 4096, "hidden_dim": 1024},
                optimizer={"learning_rate": 1e-3},
            ),
        ),
        "ibot_small_images_cpu": Recipe(
            """Images of about 32 px on a CPU: the network and views of dino_small_images_cpu, at batch 64.

dinoscope train --recipe ibot_small_images_cpu --data cifar10 --out RUN
Not measured yet; docs/methods/ibot.md has the commands.""",
            settings(
                {"backbone": "vit_micro_conv8", "drop_path": 0.0, "views": "two_views_32", "threads": 1}
                | {"epochs": 5, "batch_size": 64, "evaluate_every": 1},
                method=_SHORT_RUN
                | {"out_dim": 512, "hidden_dim": 256, "bottleneck_dim": 64, "koleo": 0.1, "teacher_momentum": 0.99},
                optimizer={"learning_rate": 4e-3, "warmup_epochs": 1, "final_weight_decay": 0.04},
            ),
        ),
    },
    small=lambda views, transformer: settings(method=_SHORT_RUN),
)
