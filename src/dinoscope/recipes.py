"""Named settings: a recipe, which is plain data in its method's file, becomes a `RunConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dinoscope.config import changed, leaves
from dinoscope.data.views import VIEWS
from dinoscope.errors import lookup
from dinoscope.methods import METHODS
from dinoscope.methods.method import Recipe, optimizer, settings
from dinoscope.models.backbone import network
from dinoscope.training.config import RunConfig


def run_config(recipe: str, data: Path, out: Path) -> RunConfig:
    """Return the settings of a recipe by name. Raises UserError for an unknown name."""
    known = lookup("recipe", recipe, RECIPES)
    return _built(known.method, known.settings, data, out)


def _built(method: str, settings: Mapping[str, Any], data: Path, out: Path) -> RunConfig:
    config = RunConfig(data, out, method=METHODS[method].config())
    if "views" in settings:
        config = replace(config, views=lookup("preset of views", settings["views"], VIEWS))
    return changed(config, {name: value for name, value in settings.items() if name != "views"})


# The small comparison: every method on small images with one budget. All self-supervised methods get the same views,
# batch, optimiser, epochs and width of head, so that the table compares losses. What is published for each (its own
# views, LARS, a thousand epochs) is in the method's file.
# Methods take those settings of a budget that they have. DINO's bottleneck counts as projection. MoCo's queue holds few
# keys compared with the images, or it pushes an image away from itself. A short run needs a teacher that follows
# quickly: at 0.97 it is about the mean of the last 33 steps.

CPU_BACKBONES = ("resnet_micro", "vit_micro_conv8")
MICRO_BACKBONES = (*CPU_BACKBONES, "swin_micro", "airbench_micro")
GPU_BACKBONES = ("resnet18_small", "vit_tiny_patch4_32")

CPU = settings(
    {"epochs": 12, "batch_size": 128, "threads": 1},
    method={"hidden_dim": 256, "projection_dim": 64, "bottleneck_dim": 64, "out_dim": 512, "num_prototypes": 512}
    | {"queue_size": 1024, "teacher_momentum": 0.97},
)
"""Minutes for each run on one core, with the micro networks."""

GPU = settings(
    {"epochs": 200, "batch_size": 256},
    method={"hidden_dim": 2048, "projection_dim": 256, "bottleneck_dim": 256, "out_dim": 4096, "num_prototypes": 4096}
    | {"queue_size": 4096, "teacher_momentum": 0.996},
)
"""Hours for each run on a GPU, with ResNet-18 and ViT-Ti/4."""


def small_run(method: str, backbone: str, views: str, data: Path, out: Path) -> RunConfig:
    """Return one run of the small comparison.

    The micro networks get the CPU's budget, all others the GPU's. `views` is a preset; supervised training takes one
    such view with crop and flip alone. Raises UserError for an unknown name.
    """
    return _built(method, small_settings(method, backbone, views), data, out)


def small_settings(method: str, backbone: str, views: str) -> dict[str, Any]:
    """Return the settings of `small_run` by dotted name; "views" is the preset."""
    entry, preset = lookup("method", method, METHODS), lookup("preset of views", views, VIEWS)
    transformer, on_cpu = network(backbone).transformer, backbone in MICRO_BACKBONES
    if on_cpu:
        # Batch norm bears, and in a short run needs, a higher rate than a transformer.
        rate = 4e-3 if transformer else 2e-2
        optimiser = {"learning_rate": rate, "warmup_epochs": 1, "final_weight_decay": 0.04}
    elif transformer:
        optimiser = {"learning_rate": 1e-3}
    else:  # as SimSiam on CIFAR-10 (Chen & He 2021, appendix D)
        optimiser = optimizer("sgd", 0.03, 5e-4)
    budget, known = CPU if on_cpu else GPU, leaves(RunConfig(Path(), Path(), method=entry.config()))
    run = {name: value for name, value in budget.items() if name in known}
    run |= {"backbone": backbone, "drop_path": 0.0, "views": views, "evaluate_every": max(run["epochs"] // 6, 1)}
    return settings(run, optimizer=optimiser) | dict(entry.small(preset, transformer))


def _recipes_of(method: str) -> dict[str, Recipe]:
    entry, name = METHODS[method], f"{method}_small_images"
    about = f"""Images of about 32 px (CIFAR), ResNet-18, {entry.display.title}, 200 epochs, for a GPU.

dinoscope train --recipe {name} --data cifar10 --out RUN
Not run yet. {entry.small_about}"""
    small = Recipe(about.strip(), small_settings(method, "resnet18_small", "two_views_32"))
    recipes = {**entry.recipes} if name in entry.recipes else {**entry.recipes, name: small}
    return {name: replace(recipe, method=method) for name, recipe in recipes.items()}


RECIPES: dict[str, Recipe] = {name: recipe for method in METHODS for name, recipe in _recipes_of(method).items()}
"""The recipes of every method, and one of the small comparison for each."""
