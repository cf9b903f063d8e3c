"""Named settings, as functions of where the images are and where the run goes.

Each says what it is for, how to start it, and what was measured with it or by whom it was published.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dinoscope.study.recipes import comparison, imagenet, small
from dinoscope.training.config import RunConfig

RECIPES: dict[str, Callable[[Path, Path], RunConfig]] = {
    recipe.__name__: recipe
    for recipe in (
        imagenet.dino_deit_small_100ep,
        imagenet.dino_deit_small_300ep,
        imagenet.dino_resnet50,
        imagenet.simclr_resnet50,
        imagenet.moco_v2_resnet50,
        imagenet.moco_v2_deit_small,
        imagenet.moco_v3_deit_small,
        imagenet.byol_resnet50,
        imagenet.byol_deit_small,
        imagenet.swav_resnet50,
        imagenet.swav_deit_small,
        imagenet.supervised_resnet50,
        imagenet.supervised_deit_small,
        small.dino_small_images,
        comparison.simclr_small_images,
        comparison.moco_small_images,
        comparison.byol_small_images,
        comparison.swav_small_images,
        comparison.supervised_small_images,
        small.dino_small_images_cpu,
        small.dino_folder,
        small.quickstart,
        small.quickstart_long,
    )
}
