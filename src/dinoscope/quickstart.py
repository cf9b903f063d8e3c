"""Minutes from nothing to a trained, evaluated and visible model, on a CPU and without a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dinoscope import api, pictures
from dinoscope.checkpoint import load_backbone, write_text
from dinoscope.data.images import decode
from dinoscope.data.sources import ImageFolder, images_in_folder
from dinoscope.evaluation.base import Context
from dinoscope.evaluation.knn import EVALUATION, KNNConfig
from dinoscope.evaluation.results import keep
from dinoscope.evaluation.voc import jaccard
from dinoscope.explain.attention import attention_maps, map_masks, network_input
from dinoscope.model_names import Model, load_model, random_backbone, shipped_model
from dinoscope.models.backbone import PIXELS, Backbone, without_drop_path
from dinoscope.models.dictionary import PATCHES
from dinoscope.pictures import Tile, fitted, overlay, write_png
from dinoscope.report.pages import attention_panel
from dinoscope.training.config import RunConfig
from dinoscope.training.listeners import Listener

K, MASS, SHOWN = 20, 0.6, 6
TRAINED, SHIPPED = "trained just now", "the shipped model"
TILE = 180  # width of a picture on the overview, in pixels


@dataclass(frozen=True)
class Row:
    """One row of the table: k-NN top-1 in %, and Jaccard in % of the mean attention's mask, if there is attention.

    image_size: side of the network's input in pixels.
    """

    name: str
    image_size: int
    knn: float
    jaccard: float | None


def quickstart(
    config: RunConfig, data: Path, listeners: Sequence[Listener], progress: Callable[[int, int], None]
) -> list[Row]:
    """Train on the scenes, compare with baselines and the shipped model, and draw attention.

    The run folder gets quickstart.json, attention/overview.png with all models, and attention/panel-*.png.

    config: of the recipe `quickstart` or `quickstart_long`, for the scenes' image folder. data: the scenes.
    progress: called during the evaluations.

    Raises KeyboardInterrupt if a signal stopped the training: there is nothing to evaluate then.
    """
    if api.train(config, listeners=listeners).interrupted:
        raise KeyboardInterrupt
    context = Context(workers=0, cached=False)
    progress(0, 1)
    baselines = [context.fitted(load_model(name), data / "folder") for name in (PIXELS, PATCHES)]
    models = {
        "random weights": random_weights(config),
        TRAINED: load_backbone(config.out),
        SHIPPED: load_backbone(shipped_model()),
    }
    baselines = {model.label: model.backbone for model in baselines}
    rows = evaluate({**baselines, **models}, data, config.out, progress)
    draw(models, images_in_folder(data / "folder" / "val"), config.out / "attention")
    write_text(config.out / "quickstart.json", json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return rows


def random_weights(config: RunConfig) -> Backbone:
    """Return the run's network with random weights of its seed."""
    return random_backbone(without_drop_path(config.backbone_config), config.seed)


def evaluate(models: dict[str, Backbone], data: Path, run: Path, progress: Callable[[int, int], None]) -> list[Row]:
    """Return k-NN and attention Jaccard of each model on the validation images.

    run: stores the k-NN of the model that was trained in it, for comparisons and the report.
    """
    queries, rows = images_in_folder(data / "folder" / "val"), list[Row]()
    for done, (name, backbone) in enumerate(models.items()):
        progress(done, len(models))
        model = Model(name, name, backbone, run if name == TRAINED else None)
        context = Context(workers=0, cached=False)
        (result,) = EVALUATION.run([model], data / "folder", KNNConfig(ks=(K,)), context)
        if name == TRAINED:
            keep(run, "knn", result)
        top1 = next(metric.value for metric in result.metrics if metric.name == "knn_top1")
        has_attention = backbone.class_attention is not None
        score = attention_on_objects(backbone, queries, data / "folder-masks" / "val") if has_attention else None
        rows.append(Row(name, backbone.config.image_size, top1, score))
    progress(len(models), len(models))
    return rows


def attention_on_objects(backbone: Backbone, images: ImageFolder, masks: Path) -> float:
    """Return the mean Jaccard in % of the mask that holds `MASS` of the mean attention with the object's mask."""
    scores = []
    for position, name in enumerate(images.paths):
        with Image.open((masks / name).with_suffix(".png")) as file:
            ground_truth = torch.from_numpy(np.asarray(file) > 0)
        mean = _maps(backbone, decode(images.path(position), window=backbone.config.window)).mean(dim=0)
        scores.append(jaccard(map_masks(mean, MASS), ground_truth))
    return 100 * sum(scores) / len(scores)


def draw(models: dict[str, Backbone], folder: ImageFolder, out: Path) -> None:
    """Draw a contact sheet of all models, and a panel of the shipped one for each of a few images."""
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, position in enumerate(np.linspace(2, len(folder) - 3, SHOWN)):
        image = decode(folder.path(round(position)))
        large = fitted(image, TILE)
        maps = {name: _maps(model, image) for name, model in models.items()}
        overlays = [overlay(large, each.mean(dim=0).numpy()) for each in maps.values()]
        titles = [""] * (1 + len(models)) if rows else ["image", *models]
        rows.append(pictures.Row([Tile(*tile) for tile in zip([large, *overlays], titles, strict=True)], TILE))
        panel = attention_panel(image, maps[SHIPPED], MASS, title=SHIPPED)
        write_png(out / f"panel-{number}.png", panel)
    write_png(out / "overview.png", pictures.page(rows, min_width=0))


def _maps(backbone: Backbone, image: np.ndarray) -> Tensor:
    return attention_maps(backbone, network_input(backbone, image))[0]
