"""Settings for small images, small folders and small machines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dinoscope.data.views import VIEWS, ViewsConfig
from dinoscope.methods.dino import DINOConfig
from dinoscope.training.config import OptimizerConfig, RunConfig


def dino_small_images(data: Path, out: Path) -> RunConfig:
    """Images of about 32 px (CIFAR): ViT-Ti/4, 2 + 4 crops, a small head, 200 epochs.

    dinoscope train --recipe dino_small_images --data cifar10 --out RUN
    For a GPU: a CPU core makes about six images a second of it; see `dino_small_images_cpu`.
    """
    return RunConfig(
        data=data,
        out=out,
        method=DINOConfig(out_dim=4096, hidden_dim=1024, bottleneck_dim=256, teacher_momentum=0.996),
        backbone="vit_tiny_patch4_32",
        drop_path=0.0,
        views=VIEWS["small_32"],
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_epochs=10),
        epochs=200,
        batch_size=256,
    )


def dino_small_images_cpu(data: Path, out: Path) -> RunConfig:
    """Images of about 32 px in half an hour on a CPU: the quickstart's network and loss with milder colours.

    dinoscope train --recipe dino_small_images_cpu --data cifar10 --out RUN
    What it gave on CIFAR-10 is in docs/results/.
    """
    base = quickstart(data, out)
    return replace(
        base,
        method=replace(base.method, teacher_momentum=0.99),
        image_size=None,
        views=VIEWS["two_views_32"],
        epochs=6,
        evaluate_every=1,
    )


def dino_folder(data: Path, out: Path) -> RunConfig:
    """One's own folder of a few hundred to a hundred thousand photographs, on a small GPU (4 GB) or a patient CPU.

    ViT-Ti/16 at 128 px with 2 + 4 crops and a small head; about 15 times cheaper an image than the ImageNet recipe.
    dinoscope train --recipe dino_folder --data FOLDER --out RUN
    """
    return RunConfig(
        data=data,
        out=out,
        method=DINOConfig(out_dim=4096, hidden_dim=1024, teacher_momentum=0.99),
        backbone="vit_tiny_patch16_224",
        drop_path=0.0,
        views=ViewsConfig(global_size=128, local_size=64, num_local=4),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_epochs=5),
        epochs=50,
        batch_size=64,
    )


def quickstart(data: Path, out: Path) -> RunConfig:
    """The embedded scenes in about three minutes on two CPU cores: a ViT of 0.3 M parameters, two views of 32 px.

    Sinkhorn instead of centring, batch norm in the head and KoLeo (both from DINOv2) let it start at once; with the
    paper's centring alone it stayed near the uniform output for the whole of so short a run. Strong colour jitter
    makes colour useless for telling images apart, so that shape and texture are what is left.
    dinoscope quickstart
    """
    return RunConfig(
        data=data,
        out=out,
        method=DINOConfig(
            out_dim=512,
            hidden_dim=256,
            bottleneck_dim=64,
            head_batch_norm=True,
            balance="sinkhorn",
            koleo=0.5,
            teacher_temperature=0.03,
            warmup_teacher_temperature=0.03,
            teacher_momentum=0.97,
            freeze_last_layer_epochs=0,
        ),
        backbone="vit_micro_conv8",
        drop_path=0.0,
        image_size=64,  # the scenes' own size; training crops are smaller, to be cheap
        views=VIEWS["scenes"],
        optimizer=OptimizerConfig(learning_rate=4e-3, warmup_epochs=1, weight_decay=0.04, final_weight_decay=0.04),
        epochs=12,
        batch_size=128,
        threads=1,
        evaluate_every=2,
    )


def quickstart_long(data: Path, out: Path) -> RunConfig:
    """The quickstart for longer: it made the shipped model.

    dinoscope quickstart --recipe quickstart_long
    """
    short = quickstart(data, out)
    return replace(
        short,
        method=replace(short.method, teacher_momentum=0.99),
        optimizer=replace(short.optimizer, warmup_epochs=3),
        epochs=60,
        evaluate_every=10,
    )
