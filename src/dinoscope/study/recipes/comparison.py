"""Every method on small images with one budget: what the small comparison runs.

All self-supervised methods get the same views, batch, optimiser, epochs and width of head, so that the table compares
losses. What is published for each (its own views, LARS, a thousand epochs) is in `imagenet`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from dinoscope.data.views import VIEWS, ViewsConfig
from dinoscope.errors import lookup
from dinoscope.methods import MethodSettings
from dinoscope.methods.byol import BYOLConfig
from dinoscope.methods.dino import DINOConfig
from dinoscope.methods.moco import MoCoConfig
from dinoscope.methods.simclr import SimCLRConfig
from dinoscope.methods.supervised import SupervisedConfig
from dinoscope.methods.swav import SwAVConfig
from dinoscope.models.backbone import BACKBONES, ViTShape
from dinoscope.training.config import OptimizerConfig, RunConfig


@dataclass(frozen=True)
class Budget:
    """What a row of the comparison may cost.

    hidden_dim, projection_dim: of every head (DINO's bottleneck counts as projection).
    outputs: of DINO, and SwAV's prototypes.
    queue_size: keys that MoCo remembers; few beside the images, lest it pushes an image away from itself.
    teacher_momentum: of DINO. A short run wants a teacher that follows quickly: at 0.97 it is about the mean of the
        last 33 steps.
    """

    epochs: float
    batch_size: int
    hidden_dim: int
    projection_dim: int
    outputs: int
    queue_size: int
    teacher_momentum: float
    threads: int = 0


CPU = Budget(12, 128, hidden_dim=256, projection_dim=64, outputs=512, queue_size=1024, teacher_momentum=0.97, threads=1)
"""Minutes for each run on one core, with the micro networks."""

GPU = Budget(200, 256, hidden_dim=2048, projection_dim=256, outputs=4096, queue_size=4096, teacher_momentum=0.996)
"""Hours for each run on a GPU, with ResNet-18 and ViT-Ti/4."""

CPU_BACKBONES = ("resnet_micro", "vit_micro_conv8")
GPU_BACKBONES = ("resnet18_small", "vit_tiny_patch4_32")


def small_run(method: str, backbone: str, views: str, data: Path, out: Path) -> RunConfig:
    """One row of the small comparison.

    Args:
        method: a name in `METHODS`.
        backbone: a name in `BACKBONES`; the micro networks get the CPU's budget, all others the GPU's.
        views: a name in `VIEWS`. Supervised training takes one such view with crop and flip alone.

    Raises UserError for a name that is not known.
    """
    budget = CPU if backbone in CPU_BACKBONES else GPU
    transformer = isinstance(lookup("backbone", backbone, BACKBONES), ViTShape)
    shown = lookup("preset of views", views, VIEWS)
    return RunConfig(
        data=data,
        out=out,
        method=lookup("method", method, _methods(budget, transformer=transformer)),
        backbone=backbone,
        drop_path=0.0,
        views=_plain(shown) if method == "supervised" else shown,
        optimizer=_optimizer(budget, transformer=transformer),
        epochs=budget.epochs,
        batch_size=budget.batch_size,
        threads=budget.threads,
        evaluate_every=max(round(budget.epochs) // 6, 1),
    )


def _methods(budget: Budget, *, transformer: bool) -> dict[str, MethodSettings]:
    """Settings by name. Heads have batch norm, which lets small networks start; MoCo's on a ResNet has none, as in v2.

    DINO is balanced by Sinkhorn-Knopp (its paper's Table 15): with centring, short runs stay at the uniform output.
    """
    hidden, projection = budget.hidden_dim, budget.projection_dim
    return {
        "supervised": SupervisedConfig(),
        "simclr": SimCLRConfig(temperature=0.2, hidden_dim=hidden, projection_dim=projection),
        "moco": MoCoConfig(
            queue_size=budget.queue_size,
            key_momentum=0.99,
            final_key_momentum=1.0,
            hidden_dim=hidden,
            projection_dim=projection,
            head_batch_norm=transformer,
            symmetric=True,
        ),
        "byol": BYOLConfig(hidden_dim=hidden, projection_dim=projection, target_momentum=0.99),
        "swav": SwAVConfig(
            num_prototypes=budget.outputs,
            hidden_dim=hidden,
            projection_dim=projection,
            freeze_prototypes_steps=100,
            queue_size=0,
        ),
        "dino": DINOConfig(
            out_dim=budget.outputs,
            hidden_dim=hidden,
            bottleneck_dim=projection,
            head_batch_norm=True,
            balance="sinkhorn",
            teacher_temperature=0.03,
            warmup_teacher_temperature=0.03,
            teacher_momentum=budget.teacher_momentum,
            freeze_last_layer_epochs=0,
        ),
    }


def _optimizer(budget: Budget, *, transformer: bool) -> OptimizerConfig:
    """AdamW for transformers and short runs; else SGD as SimSiam on CIFAR-10 (Chen & He 2021, appendix D)."""
    if budget is GPU and not transformer:
        return OptimizerConfig("sgd", 0.03, 0.0, 10, 5e-4, 5e-4, clip=0)
    if budget is GPU:
        return OptimizerConfig(learning_rate=1e-3, warmup_epochs=10)
    # Batch norm bears, and in a short run wants, a higher rate than a transformer.
    rate = 4e-3 if transformer else 2e-2
    return OptimizerConfig(learning_rate=rate, warmup_epochs=1, weight_decay=0.04, final_weight_decay=0.04)


def _plain(views: ViewsConfig) -> ViewsConfig:
    """One view of the same size and scale, with crop and flip alone."""
    plain = VIEWS["supervised"]
    return replace(plain, global_size=views.global_size, global_scale=views.global_scale)


def simclr_small_images(data: Path, out: Path) -> RunConfig:
    """Images of about 32 px (CIFAR), ResNet-18, SimCLR, 200 epochs, for a GPU.

    dinoscope train --recipe simclr_small_images --data cifar10 --out RUN
    Not run yet. Published at 1000 epochs with other views: linear 90.7 on CIFAR-10 (the solo-learn zoo).
    """
    return small_run("simclr", "resnet18_small", "two_views_32", data, out)


def moco_small_images(data: Path, out: Path) -> RunConfig:
    """The same with MoCo v2, symmetric. Not run yet. Published at 1000 epochs: linear 92.9 (the solo-learn zoo)."""
    return small_run("moco", "resnet18_small", "two_views_32", data, out)


def byol_small_images(data: Path, out: Path) -> RunConfig:
    """The same with BYOL. Not run yet. Published at 1000 epochs: linear 92.6 (the solo-learn zoo)."""
    return small_run("byol", "resnet18_small", "two_views_32", data, out)


def swav_small_images(data: Path, out: Path) -> RunConfig:
    """The same with SwAV. Not run yet. Published at 1000 epochs: linear 89.2 (the solo-learn zoo)."""
    return small_run("swav", "resnet18_small", "two_views_32", data, out)


def supervised_small_images(data: Path, out: Path) -> RunConfig:
    """The same with labels: crop and flip, cross-entropy. Not run yet."""
    return small_run("supervised", "resnet18_small", "two_views_32", data, out)
