"""The methods under test, small enough for a CPU; a new method is added here and nowhere else in this folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from dinoscope.data.finding import find_images
from dinoscope.data.views import ViewsConfig
from dinoscope.methods.barlow import BarlowConfig
from dinoscope.methods.byol import BYOLConfig
from dinoscope.methods.dino import DINOConfig
from dinoscope.methods.distill import DistillConfig
from dinoscope.methods.emp import EMPConfig
from dinoscope.methods.esvit import EsViTConfig
from dinoscope.methods.ibot import IBOTConfig
from dinoscope.methods.mae import MAEConfig
from dinoscope.methods.method import MethodConfig
from dinoscope.methods.moco import MoCoConfig
from dinoscope.methods.simclr import SimCLRConfig
from dinoscope.methods.simdino import SimDINOConfig
from dinoscope.methods.supervised import SupervisedConfig
from dinoscope.methods.swav import SwAVConfig
from dinoscope.methods.vicreg import VICRegConfig
from dinoscope.training.config import OptimizerConfig, RunConfig, SavingConfig
from dinoscope.training.trainer import Trainer
from dinoscope.types import Views

DINO = DINOConfig(out_dim=64, hidden_dim=32, bottleneck_dim=16, freeze_last_layer_epochs=0, teacher_momentum=0.9)
ESVIT = EsViTConfig(out_dim=64, hidden_dim=32, bottleneck_dim=16, freeze_last_layer_epochs=0, teacher_momentum=0.9)
SMALL_HEAD = {"hidden_dim": 32, "projection_dim": 16, "head_batch_norm": False}
SWAV = SwAVConfig(**SMALL_HEAD, num_prototypes=12, freeze_prototypes_steps=1, queue_size=0)
SIMDINO = SimDINOConfig(hidden_dim=32, bottleneck_dim=16, teacher_momentum=0.9)
IBOT = IBOTConfig(
    out_dim=64,
    hidden_dim=32,
    bottleneck_dim=16,
    warmup_teacher_temperature_epochs=0,
    freeze_last_layer_epochs=0,
    teacher_momentum=0.9,
)
MAE = MAEConfig(decoder_dim=32, decoder_depth=1, decoder_heads=2)

SETTINGS: dict[str, MethodConfig] = {
    "dino": DINO,
    "dino-sinkhorn-koleo": replace(DINO, centering="sinkhorn", koleo=0.5),
    "simclr": SimCLRConfig(**SMALL_HEAD, temperature=0.2),
    "moco": MoCoConfig(**SMALL_HEAD, queue_size=24, key_momentum=0.9),
    "moco-v3": MoCoConfig(
        **SMALL_HEAD,
        queue_size=0,
        key_momentum=0.9,
        final_key_momentum=1.0,
        prediction_head=True,
        symmetric=True,
        freeze_patch_projection=True,
    ),
    "byol": BYOLConfig(**SMALL_HEAD, target_momentum=0.9),
    "swav": SWAV,
    "swav-queue": replace(SWAV, queue_size=16, queue_from_epoch=0),
    "distill": DistillConfig(teacher="shipped", head_layers=2, hidden_dim=32),
    "emp": EMPConfig(**SMALL_HEAD, alignment_weight=30.0),
    "simdino": SIMDINO,
    "simdino-groups": replace(SIMDINO, rate_images=4, expanded="student"),
    "vicreg": VICRegConfig(**SMALL_HEAD),
    "barlow": BarlowConfig(**SMALL_HEAD, scale=1 / 16),  # its loss is a sum over dimensions, those of others are means
    "esvit": ESVIT,
    "esvit-sinkhorn": replace(ESVIT, centering="sinkhorn", view_weight=1.0, region_weight=1.0),
    "ibot": IBOT,
    "ibot-dinov2": replace(
        IBOT, masked_views="exact", centering="sinkhorn", koleo=0.1, patch_head="separate", norm_last_layer=True
    ),
    "mae": MAE,
    "supervised": SupervisedConfig(),
}
"""case -> settings; without batch norm, to which a batch that is cut up is another batch."""

ABLATIONS: dict[str, MethodConfig] = {
    "dino-softmax-student": replace(DINO, centering="softmax", teacher="student", loss="reverse_kl"),
    "dino-mse-predictor": replace(DINO, loss="mse", predictor="mlp", head_activation="relu"),
    "dino-bare-epoch": replace(
        DINO, centering="none", teacher="previous_epoch", loss="mse_softmax", bottleneck_dim=0, head_weight_norm=False
    ),
    "dino-lagging": replace(DINO, teacher="previous_step", loss="kl", head_l2=False, predictor="mlp"),
    "supervised-mixed": SupervisedConfig(mixup=0.8, cutmix=1.0),
    "ibot-masked-center": replace(IBOT, patch_center="masked", patch_head="last_layer", mask_shape="random"),
}
"""case -> settings of ablations, each several at once. Not all of them learn: they are not overfitted."""

PAIRED = ("supervised-mixed",)
"""Cases that mix pairs of images, so that a micro-batch has at least two."""

ALONE = ("dino-bare-epoch", "dino-lagging", "dino-mse-predictor")
"""Cases in which nothing crosses processes but gradients, as in others: they are trained in one only."""

OVERFITTING: dict[str, MethodConfig] = {
    name: replace(settings, head_batch_norm=True)
    for name, settings in SETTINGS.items()
    if name not in ("mae", "supervised")
}
"""case -> settings with which eight images are learned by heart in a hundred steps."""
OVERFITTING |= {
    "dino": replace(OVERFITTING["dino"], teacher_momentum=0.95),
    "dino-sinkhorn-koleo": replace(OVERFITTING["dino-sinkhorn-koleo"], teacher_momentum=0.95),
    "esvit": replace(OVERFITTING["esvit"], teacher_momentum=0.95),
    "esvit-sinkhorn": replace(OVERFITTING["esvit-sinkhorn"], teacher_momentum=0.95),
    "ibot": replace(OVERFITTING["ibot"], teacher_momentum=0.95, masked_views="exact"),
    "ibot-dinov2": replace(OVERFITTING["ibot-dinov2"], teacher_momentum=0.95),
    "mae": MAE,
    "supervised": SupervisedConfig(label_smoothing=0.0),
}

SETTINGS |= ABLATIONS

Steps = Sequence[Mapping[str, float]]


def _learned_dino(steps: Steps) -> bool:
    """The student gives the teacher's answers, and they differ from image to image."""
    gap = [step["kl_teacher_student"] for step in steps]
    return gap[-1] < 0.1 * max(gap) and steps[-1]["teacher_marginal_entropy"] > 1.0


def _learned_ibot(steps: Steps) -> bool:
    """And the hidden patches are told, whose masks are the same in every step."""
    gap = [step["patch_cross_entropy"] - step["patch_teacher_entropy"] for step in steps]
    return _learned_dino(steps) and gap[-1] < 0.1 * max(gap) and steps[-1]["patch_marginal_entropy"] > 1.0


def _learned_esvit(steps: Steps) -> bool:
    """And regions give the answers of the regions that they resemble."""
    gap = [step["region_kl"] for step in steps]
    return _learned_dino(steps) and gap[-1] < 0.2 * max(gap) and steps[-1]["region_marginal_entropy"] > 1.0


def _learned_swav(steps: Steps) -> bool:
    """Views predict the codes of other views."""
    gap = [step["cross_entropy"] - step["code_entropy"] for step in steps]
    return gap[-1] < 0.1 * max(gap) and steps[-1]["embedding_spread"] > 0.5


def _learned_code(steps: Steps) -> bool:
    """Views of an image have the same direction, and images fill the dimensions."""
    return steps[-1]["alignment"] > 0.9 and steps[-1]["coding_rate_share"] > 0.5


def _learned(share: float) -> Callable[[Steps], bool]:
    """The loss fell to this share, and images have different embeddings."""
    return lambda steps: steps[-1]["loss"] < share * steps[0]["loss"] and steps[-1]["embedding_spread"] > 0.5


RATES = {"distill": (3e-2, 200)}
"""case -> learning rate and epochs of overfitting, if not 6e-2 and 100.

At 6e-2, whether distilled embeddings stay apart depends on the kernels and the number of threads.
"""

LEARNED: dict[str, Callable[[Steps], bool]] = {
    "dino": _learned_dino,
    "dino-sinkhorn-koleo": _learned_dino,
    "simclr": _learned(0.1),
    # The queue of 24 holds three earlier keys of every image, as good as the right one: no loss below ln 4.
    "moco": lambda steps: steps[-1]["loss"] < math.log(4) + 0.3 and steps[-1]["embedding_spread"] > 0.5,
    "moco-v3": _learned(0.2),
    "byol": _learned(0.2),
    "swav": _learned_swav,
    "swav-queue": _learned_swav,
    "distill": lambda steps: steps[-1]["loss"] < 0.1 * steps[0]["loss"] and steps[-1]["embedding_spread"] > 0.2,
    "emp": _learned_code,
    "simdino": _learned_code,
    "simdino-groups": _learned_code,
    # Eight images leave at most seven of the sixteen dimensions apart: the rest of the covariance stays.
    "vicreg": lambda steps: steps[-1]["invariance"] < 0.01 and steps[-1]["participation_ratio"] > 3,
    "barlow": lambda steps: steps[-1]["view_correlation"] > 0.95 and steps[-1]["participation_ratio"] > 3,
    "esvit": _learned_esvit,
    "esvit-sinkhorn": _learned_esvit,
    "ibot": _learned_ibot,
    "ibot-dinov2": _learned_ibot,
    # A hundred steps are few for so many pixels; after six hundred at a higher rate the share is above 0.9.
    "mae": lambda steps: steps[-1]["explained_share"] > 0.25 > 0 > steps[0]["explained_share"],
    # One of the 32 views is 16 px of a background that both classes have: 31 of 32 is all that can be told.
    "supervised": lambda steps: steps[-1]["loss"] < 0.25 * steps[0]["loss"] and steps[-1]["training_top1"] > 96,
}
"""case -> whether these steps on the same eight images learned them by heart."""

VARIANTS = ("dino-sinkhorn-koleo", "esvit-sinkhorn", "ibot-dinov2", "moco-v3", "simdino-groups", "swav-queue")
"""Cases beside which another one of the same method is overfitted: these only among the slow tests."""

VIEWS = ViewsConfig(global_size=32, local_size=16, num_local=2, blur_probability=(0.0, 0.0, 0.0))

WITHOUT_LOCAL_VIEWS = ("mae",)


def run_config(name: str, data: Path, out: Path, **changes: object) -> RunConfig:
    """A run of a few steps on a few pictures."""
    config = RunConfig(
        data=data,
        out=out,
        method=SETTINGS[name],
        backbone="vit_micro_conv8",
        drop_path=0.0,
        views=replace(VIEWS, num_local=0) if name in WITHOUT_LOCAL_VIEWS else VIEWS,
        optimizer=OptimizerConfig(learning_rate=2e-2, warmup_epochs=0),
        saving=SavingConfig(every_steps=0),
        epochs=3,
        batch_size=8,
        workers=0,
        device="cpu",
        precision="fp32",  # whatever the hardware
        log_every=1,
        evaluate_every=0,
    )
    return replace(config, **changes)


def trainer(config: RunConfig, *, double: bool = False) -> Trainer:
    """A trainer on the CPU, in float64 if asked, so that only real differences show."""
    torch.set_default_dtype(torch.float64 if double else torch.float32)
    try:
        return Trainer(config, find_images(config.data), torch.device("cpu"))
    finally:
        torch.set_default_dtype(torch.float32)


def batch(config: RunConfig, step: int = 0) -> Views:
    """The views of one step."""
    batches = trainer(config).batches()
    for _ in range(step):
        next(batches)
    return next(batches)
