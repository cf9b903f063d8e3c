"""Distillation: a network learns to give the features of a larger, frozen one, without labels.

Features of the image and of its patches are compared behind learned projections (Romero et al. 2015, FitNets, section
2.1), on the same pixels for both networks. Local views are taught the features of the global ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor, nn

from dinoscope import checkpoint
from dinoscope.errors import UserError
from dinoscope.losses.distillation import DISTANCES, resized_patches, view_distances
from dinoscope.methods import method
from dinoscope.methods.health import moments
from dinoscope.methods.method import Load, Method, MethodConfig, Outputs, Recipe, settings
from dinoscope.models.backbone import Backbone, BackboneConfig, build_backbone
from dinoscope.models.heads import projector
from dinoscope.models.network import require_patches
from dinoscope.types import Step, StepOutput, Tokens, Views


@dataclass(frozen=True)
class DistillConfig(MethodConfig):
    """Settings of distillation.

    teacher: the model to learn from, of any network: run folder, exported folder, weights file, released weights,
        shipped, timm:NAME.
    teacher_hash: of its weights; filled in when the run begins. Another model is then refused.
    teacher_size: side in pixels at which the teacher sees the global views; 0 for that of the views themselves.
    loss: distance of features: cosine, or mse to the teacher's features whitened by a layer norm.
    feature_weight, patch_weight: of the distances of image and patch features; 0 leaves one out.
    hidden_dim, head_layers: of the two projections from the student's to the teacher's width, MLPs of head_layers
        linear maps.
    head_batch_norm: batch norm before each ReLU of these MLPs.
    """

    found: ClassVar[frozenset[str]] = frozenset({"teacher_hash"})

    teacher: str = ""
    teacher_hash: str = ""
    teacher_size: int = 0
    loss: Literal["cosine", "mse"] = "cosine"
    feature_weight: float = 1.0
    patch_weight: float = 1.0
    hidden_dim: int = 2048
    head_layers: int = 1
    head_batch_norm: bool = False

    def __post_init__(self) -> None:
        self.check_choices()
        self.check_range(0, math.inf, "teacher_size", "feature_weight", "patch_weight")
        self.check_range(1, math.inf, "hidden_dim", "head_layers")
        if self.feature_weight + self.patch_weight <= 0:
            raise ValueError("feature_weight and patch_weight are both 0: nothing would be learned; raise one of them")

    def settled(self, load: Load) -> MethodConfig:
        return replace(self, teacher_hash=checkpoint.weights_hash(self.loaded(load)))

    def portable(self) -> MethodConfig:
        is_path = bool(self.teacher) and Path(self.teacher).exists()
        return replace(self, teacher=str(Path(self.teacher).absolute())) if is_path else self

    def loaded(self, load: Load) -> Backbone:
        """Return the teacher. Raises UserError if it is missing, or not the one that the run began with."""
        if not self.teacher:
            raise UserError(
                "distillation needs a trained model to learn from: give --method.teacher MODEL, a run folder or a "
                "name that `dinoscope models` lists"
            )
        try:
            teacher = load(self.teacher)
        except UserError as error:
            raise UserError(f"--method.teacher {self.teacher}: {error}") from error
        if self.teacher_hash and (found := checkpoint.weights_hash(teacher)) != self.teacher_hash:
            raise UserError(
                f"--method.teacher {self.teacher} is not the model that the run began with (weights {found[:12]}, then "
                f"{self.teacher_hash[:12]}): put that one back, or begin again with --overwrite"
            )
        return teacher


class Distill(Method):
    """A student that gives a frozen teacher's features of the same pixels, behind projections of its own.

    The teacher is no part of the state: a checkpoint names it, and holds neither its weights nor gradients of it.
    """

    teacher: Backbone

    def __init__(self, config: DistillConfig, backbone: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(backbone)
        hooks = cast(Any, self)  # torch's have no types
        hooks.register_state_dict_post_hook(_without_teacher)
        hooks.register_load_state_dict_post_hook(_ignore_teacher)

    def adopt(self, load: Load) -> None:
        """Take in the teacher, and make the projections to its widths. Raises UserError if it cannot teach."""
        config, size = self.config, self.backbone.config.layout_size
        with cast(Any, torch.random).fork_rng(devices=()):  # how a teacher is built must not change the projections
            self.teacher = config.loaded(load).requires_grad_(False).eval()
        if config.patch_weight > 0:
            require_patches(self.teacher, "--method.patch-weight above 0")
        try:
            taught = _tokens_of(self.teacher, config.teacher_size or size)
        except (RuntimeError, AssertionError, ValueError) as error:
            raise UserError(
                f"--method.teacher {config.teacher} cannot see images of {config.teacher_size or size} px: give "
                f"--method.teacher-size, such as {self.teacher.config.image_size} ({error})"
            ) from error
        shape: dict[str, Any] = {"layers": config.head_layers, "batch_norm": config.head_batch_norm}
        if config.feature_weight > 0:
            self.head = projector(self.backbone.dim, config.hidden_dim, taught.feature.shape[-1], **shape)
        if config.patch_weight > 0:
            width = _tokens_of(self.backbone, size).patches.shape[-1]
            self.patch_head = projector(width, config.hidden_dim, taught.patches.shape[-1], **shape)

    @property
    def frozen(self) -> tuple[Backbone, ...]:
        return (self.teacher,)

    def train(self, mode: bool = True) -> Distill:
        """Switch the student alone: the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def encode(self, views: Views) -> Outputs:
        """Return features of all views, [views, batch, ...]: `features` are the student's, before its projection.

        `prediction` of all views and `target` of the global ones: [views, batch, width]; `patch_prediction` and
        `patch_target` of the global ones, on the teacher's grid: [views, batch, rows * columns, width].
        """
        config, batch = self.config, views.batch_size
        pixels = views.global_views.flatten(0, 1)
        with torch.no_grad():
            taught = self._taught(pixels)
        seen, outputs = self.backbone.normalize(pixels), dict[str, Tensor]()
        if config.patch_weight > 0:
            tokens = self.backbone(seen)
            patches = resized_patches(tokens.patches, tokens.grid, taught.grid)
            predicted = self.patch_head(patches.flatten(0, 1)).reshape(*patches.shape[:2], -1)
            outputs |= {"patch_prediction": predicted, "patch_target": taught.patches}
            features = [tokens.feature]
        else:
            features = [self.backbone.feature(seen)]
        if views.local_views is not None and config.feature_weight > 0:
            features.append(self.backbone.feature(self.backbone.normalize(views.local_views.flatten(0, 1))))
        outputs["features"] = torch.cat(features)
        if config.feature_weight > 0:
            outputs |= {"prediction": self.head(outputs["features"]), "target": taught.feature}
        return {name: rows.reshape(-1, batch, *rows.shape[1:]) for name, rows in outputs.items()}

    def _taught(self, pixels: UInt8[Tensor, "n c h w"]) -> Tokens:
        """Return the teacher's tokens of the views, at its size and with its own normalisation."""
        size = self.config.teacher_size
        if size and pixels.shape[-2:] != (size, size):
            resized = F.interpolate(pixels.float(), (size, size), mode="bilinear", align_corners=False, antialias=True)
            pixels = resized.round().clamp(0, 255).to(torch.uint8)
        return self.teacher(self.teacher.normalize(pixels))

    def loss(self, outputs: Outputs, step: Step) -> StepOutput:
        """Return the weighted sum of the mean distances of image features and of patch features."""
        config, logged = self.config, dict[str, Tensor]()
        distance, parts = DISTANCES[config.loss], list[Tensor]()
        if config.feature_weight > 0:
            of_features = view_distances(outputs["prediction"], outputs["target"], distance)
            parts.append(config.feature_weight * of_features)
            logged["feature_loss"] = of_features.detach()
        if config.patch_weight > 0:
            of_patches = distance(outputs["patch_prediction"], outputs["patch_target"]).mean()
            parts.append(config.patch_weight * of_patches)
            logged["patch_loss"] = of_patches.detach()
        statistics = {"embedding_moments": moments(outputs["features"])}
        return StepOutput(torch.stack(parts).sum(), logged, statistics)


def _tokens_of(backbone: Backbone, size: int) -> Tokens:
    """Return the tokens of an empty image, for their widths and grid."""
    training = backbone.training
    backbone.eval()
    with torch.no_grad():
        tokens = backbone(backbone.normalize(torch.zeros(1, backbone.config.channels, size, size, dtype=torch.uint8)))
    backbone.train(training)
    return tokens


_TEACHER = "teacher."


def _without_teacher(module: nn.Module, state: dict[str, Any], prefix: str, metadata: object) -> None:
    for name in [name for name in state if name.startswith(prefix + _TEACHER)]:
        del state[name]


def _ignore_teacher(module: nn.Module, incompatible: Any) -> None:
    kept = [name for name in incompatible.missing_keys if not name.startswith(_TEACHER)]
    incompatible.missing_keys[:] = kept


METHOD = method.MethodEntry(
    config=DistillConfig,
    build=Distill,
    display=method.Display(
        "Distillation",
        deviations={
            "method.loss": ("cosine", "taught by another distance than the cosine"),
            "method.patch_weight": (1.0, "with another weight of the patch loss"),
        },
    ),
    year=2015,
    curves=(
        method.Curve("Loss of the feature", "distance", "feature_loss", optional=True),
        method.Curve("Loss of the patches", "loss", "patch_loss", optional=True),
        method.EMBEDDING_DEVIATION,
    ),
    from_model=True,
    recipes={
        "distill_vit_small": Recipe(
            """1,000 to 50,000 photographs, ViT-S/16 taught by a larger model, 100 epochs of batch 128.

dinoscope train --recipe distill_vit_small --method.teacher dino_vitb16 --data FOLDER --out RUN
Optimiser after lightly-train's distillation: AdamW, 5e-4 for a batch of 1536, scaled by the square root.
Not run yet.""",
            settings(
                {"epochs": 100, "batch_size": 128, "views": "two_views", "drop_path": 0.0},
                views={"global_scale": (0.14, 1.0)},
                optimizer=method.optimizer("adamw", 2.04e-4, 0.04) | {"scaling": "sqrt", "clip": 1.0},
            ),
        )
    },
    small_about="It needs --method.teacher MODEL.",
)
