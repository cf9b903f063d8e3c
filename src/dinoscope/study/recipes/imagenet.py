"""The published settings for ImageNet: DINO and its rivals, on ResNet-50 and DeiT-S.

The rivals' figures on DeiT-S are those that DINO's authors measured (Caron et al. 2021, Table 2); they say that they
ran them for 300 epochs, not with which optimiser settings: here DINO's are taken, with the rival's own views.

A linear figure marked * is of its paper's own protocol (learning rate, epochs, which features), which is not DINO's and
not `dinoscope linear`'s. What else differs from the papers is on the methods' pages in docs/methods/.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dinoscope.data.views import VIEWS, ViewsConfig
from dinoscope.methods.byol import BYOLConfig
from dinoscope.methods.dino import DINOConfig
from dinoscope.methods.moco import MoCoConfig
from dinoscope.methods.simclr import SimCLRConfig
from dinoscope.methods.supervised import SupervisedConfig
from dinoscope.methods.swav import SwAVConfig
from dinoscope.training.config import OptimizerConfig, RunConfig


def dino_deit_small_100ep(data: Path, out: Path) -> RunConfig:
    """ImageNet, ViT-S/16, 100 epochs, batch 512: the reference's defaults on one machine of 8 GPUs.

    dinoscope train --recipe dino_deit_small_100ep --data imagenet --out RUN
    Published: k-NN 69.3, linear 74.0 (the reference's README; about 1.75 days).
    """
    return RunConfig(
        data=data,
        out=out,
        method=DINOConfig(),
        epochs=100,
        batch_size=512,
    )


def dino_deit_small_300ep(data: Path, out: Path) -> RunConfig:
    """ImageNet, ViT-S/16, 300 epochs with the teacher's temperature warmed up to 0.07, batch 1024.

    Published: k-NN 73.3, linear 76.0 (the reference's README; 2 x 8 GPUs, 2.6 days).
    """
    method = DINOConfig(norm_last_layer=False, teacher_temperature=0.07, warmup_teacher_temperature_epochs=30)
    return replace(dino_deit_small_100ep(data, out), method=method, epochs=300, batch_size=1024)


def dino_resnet50(data: Path, out: Path) -> RunConfig:
    """ImageNet, ResNet-50 with SGD and wider crops; 300 epochs.

    Published at 800 epochs: k-NN 67.5, linear 75.3 (Caron et al. 2021, Table 2).
    """
    return RunConfig(
        data=data,
        out=out,
        backbone="resnet50",
        drop_path=0.0,
        views=ViewsConfig(global_scale=(0.14, 1.0), local_scale=(0.05, 0.14)),
        optimizer=OptimizerConfig(name="sgd", learning_rate=0.03, weight_decay=1e-4, final_weight_decay=1e-4),
        epochs=300,
        batch_size=1024,
    )


def simclr_resnet50(data: Path, out: Path) -> RunConfig:
    """ImageNet, ResNet-50, SimCLR with LARS at batch 4096, 1000 epochs.

    Published: linear 69.3* (Chen et al. 2020, Table 6); k-NN 60.7 (Caron et al. 2021, Table 2).
    """
    return RunConfig(
        data=data,
        out=out,
        method=SimCLRConfig(),
        backbone="resnet50",
        drop_path=0.0,
        zero_init_residual=True,
        views=VIEWS["simclr"],
        optimizer=_lars(0.3, 1e-6),
        epochs=1000,
        batch_size=4096,
    )


def moco_v2_resnet50(data: Path, out: Path) -> RunConfig:
    """ImageNet, ResNet-50, MoCo v2 with SGD at batch 256, 800 epochs.

    Published: linear 71.1*, k-NN 61.9 (Caron et al. 2021, Table 2; linear: Chen et al. 2020).
    """
    return RunConfig(
        data=data,
        out=out,
        method=MoCoConfig(),
        backbone="resnet50",
        drop_path=0.0,
        views=VIEWS["moco"],
        optimizer=replace(_sgd(0.03, 1e-4), decayed="all"),
        epochs=800,
        batch_size=256,
    )


def moco_v2_deit_small(data: Path, out: Path) -> RunConfig:
    """ImageNet, ViT-S/16, MoCo v2, 300 epochs.

    Published: linear 72.7, k-NN 64.4 (Caron et al. 2021, Table 2).
    """
    return replace(dino_deit_small_300ep(data, out), method=MoCoConfig(), views=VIEWS["moco"])


def moco_v3_deit_small(data: Path, out: Path) -> RunConfig:
    """ImageNet, ViT-S/16 with 12 heads, MoCo v3: no queue, symmetric, prediction head, fixed patches; 300 epochs.

    Published: linear 73.2* (CONFIG.md of facebookresearch/moco-v3; batch 4096).
    """
    method = MoCoConfig(
        queue_size=0,
        key_momentum=0.99,
        final_key_momentum=1.0,
        hidden_dim=4096,
        projection_dim=256,
        head_layers=3,
        head_batch_norm=True,
        prediction_head=True,
        symmetric=True,
        freeze_patch_projection=True,
        v3_initialization=True,
    )
    return RunConfig(
        data=data,
        out=out,
        method=method,
        backbone="vit_small_heads12_patch16_224",
        drop_path=0.0,
        zero_init_residual=True,
        views=replace(VIEWS["byol"], interpolation="bilinear"),
        optimizer=OptimizerConfig(
            learning_rate=1.5e-4,
            warmup_epochs=40,
            weight_decay=0.1,
            final_weight_decay=0.1,
            clip=0,
            min_learning_rate=0,
            decayed="all",
        ),
        epochs=300,
        batch_size=4096,
    )


def byol_resnet50(data: Path, out: Path) -> RunConfig:
    """ImageNet, ResNet-50, BYOL with LARS at batch 4096, 1000 epochs.

    Published: linear 74.4*, k-NN 64.8 (Caron et al. 2021, Table 2; linear: Grill et al. 2020).
    """
    return RunConfig(
        data=data,
        out=out,
        method=BYOLConfig(target_momentum=0.996),
        backbone="resnet50",
        drop_path=0.0,
        zero_init_residual=True,
        views=VIEWS["byol"],
        optimizer=_lars(0.2, 1.5e-6),
        epochs=1000,
        batch_size=4096,
    )


def byol_deit_small(data: Path, out: Path) -> RunConfig:
    """ImageNet, ViT-S/16, BYOL, 300 epochs.

    Published: linear 71.4, k-NN 66.6 (Caron et al. 2021, Table 2).
    """
    return replace(dino_deit_small_300ep(data, out), method=BYOLConfig(), views=VIEWS["byol"])


def swav_resnet50(data: Path, out: Path) -> RunConfig:
    """ImageNet, ResNet-50, SwAV with 2 + 6 crops and LARS at batch 4096, 800 epochs.

    As in the released script: the rate rises from 0.3 to 4.8 and falls to 0.0048, everything has weight decay, and red
    is divided by 0.228. No queue is needed at this batch size.
    Published: linear 75.3*, k-NN 65.7 (Caron et al. 2021, Table 2; linear: Caron et al. 2020).
    """
    return RunConfig(
        data=data,
        out=out,
        method=SwAVConfig(),
        backbone="resnet50",
        std=(0.228, 0.224, 0.225),
        drop_path=0.0,
        views=VIEWS["swav"],
        optimizer=replace(_lars(0.3, 1e-6), min_learning_rate=0.0048, start_learning_rate=0.3, decayed="all"),
        epochs=800,
        batch_size=4096,
    )


def swav_deit_small(data: Path, out: Path) -> RunConfig:
    """ImageNet, ViT-S/16, SwAV with 2 + 6 crops, 300 epochs.

    Published: linear 73.5, k-NN 66.3 (Caron et al. 2021, Table 2).
    """
    return replace(dino_deit_small_300ep(data, out), method=SwAVConfig(), views=VIEWS["swav"])


def supervised_resnet50(data: Path, out: Path) -> RunConfig:
    """ImageNet, ResNet-50 with labels: crop and flip, SGD 0.1, 100 epochs: the upper baseline.

    Published: 79.3 with a longer recipe (Caron et al. 2021, Table 2); 76 to 77 is usual for this one.
    """
    return RunConfig(
        data=data,
        out=out,
        method=SupervisedConfig(),
        backbone="resnet50",
        drop_path=0.0,
        views=VIEWS["supervised"],
        optimizer=replace(_sgd(0.1, 1e-4), warmup_epochs=5),
        epochs=100,
        batch_size=256,
    )


def supervised_deit_small(data: Path, out: Path) -> RunConfig:
    """ImageNet, ViT-S/16 with labels, 300 epochs: DeiT's optimiser (Touvron et al. 2021, Table 9).

    No clipping, and no weight decay on class token and positions, as in its code.
    Published: 79.8. DeiT also mixes images (mixup, CutMix) and repeats and erases them; none of this is here.
    """
    return RunConfig(
        data=data,
        out=out,
        method=SupervisedConfig(),
        views=replace(VIEWS["supervised"], brightness=0.3, contrast=0.3, saturation=0.3, jitter_probability=0.8),
        optimizer=OptimizerConfig(
            learning_rate=2.5e-4,
            min_learning_rate=1e-5,
            warmup_epochs=5,
            weight_decay=0.05,
            final_weight_decay=0.05,
            clip=0,
            start_learning_rate=1e-6,
            decayed="not_tokens",
        ),
        epochs=300,
        batch_size=1024,
    )


def _lars(learning_rate: float, weight_decay: float) -> OptimizerConfig:
    """LARS as SimCLR, BYOL and SwAV use it: 10 epochs of warm-up, cosine to 0, no clipping."""
    return OptimizerConfig("lars", learning_rate, 0.0, 10, weight_decay, weight_decay, clip=0)


def _sgd(learning_rate: float, weight_decay: float) -> OptimizerConfig:
    """SGD with momentum, cosine to 0 from the first step, no clipping."""
    return OptimizerConfig("sgd", learning_rate, 0.0, 0, weight_decay, weight_decay, clip=0)
