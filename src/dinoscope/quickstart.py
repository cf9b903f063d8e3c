"""Five minutes from nothing to a trained, measured and visible model, on a CPU and without a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dinoscope import api, pictures
from dinoscope.checkpoint import load_backbone, write_text
from dinoscope.data.images import decode
from dinoscope.data.sources import ImageFolder, find_images
from dinoscope.evaluation.base import Context
from dinoscope.evaluation.knn import EVALUATION, KNNConfig
from dinoscope.evaluation.results import keep
from dinoscope.evaluation.voc import jaccard
from dinoscope.explain.attention import attention_maps, map_masks, network_input
from dinoscope.files import cache_folder
from dinoscope.model_names import Model, load_model, random_backbone, shipped_model
from dinoscope.models.backbone import Backbone, without_drop_path
from dinoscope.pictures import Tile, fitted, overlay, write_png
from dinoscope.report.pages import attention_panel
from dinoscope.scenes import write_scenes
from dinoscope.training.config import RunConfig
from dinoscope.training.listeners import Listener
from dinoscope.types import Metric

K, MASS, SHOWN = 20, 0.6, 6
TRAINED = "trained just now"
TILE = 180  # width of a picture on the overview, in pixels
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Row:
    """One line of the table: k-NN top-1 in %, and Jaccard in % of the mean attention's mask, if it has attention.

    image_size: side in pixels at which the images are shown.
    """

    name: str
    image_size: int
    knn: float
    jaccard: float | None


@dataclass(frozen=True)
class Quickstart:
    """Figures of a quickstart, and where its pictures are."""

    rows: tuple[Row, ...]
    run: Path
    data: Path
    sheet: Path
    panels: tuple[Path, ...]


def scenes(progress: Progress | None = None) -> Path:
    """Return the embedded data set in the cache folder; draw it first if it is not there yet."""
    return write_scenes(cache_folder("scenes"), progress=progress)


def quickstart(config: RunConfig, data: Path, listeners: Sequence[Listener], progress: Progress) -> Quickstart:
    """Train on the scenes, measure against pixels, random weights and the shipped model, draw attention.

    Args:
        config: recipe `quickstart` or `quickstart_long`, with `data` being the scenes' image folder.
        data: the scenes, as `scenes` gives them.
        listeners: are told about the training.
        progress: is told the progress of the evaluations.

    Raises KeyboardInterrupt if a signal stopped the training: there is nothing to measure then.
    """
    if api.train(config, listeners=listeners).interrupted:
        raise KeyboardInterrupt
    models = {
        "random weights": random_weights(config),
        TRAINED: load_backbone(config.out),
        "the shipped model": load_backbone(shipped_model()),
    }
    rows = measure(models, data, config.out, progress)
    pictures = draw(models, data, config.out / "attention")
    write_text(config.out / "quickstart.json", json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return Quickstart(tuple(rows), config.out, data, pictures[0], tuple(pictures[1:]))


def random_weights(config: RunConfig) -> Backbone:
    """Return the run's network with random weights of its seed."""
    return random_backbone(without_drop_path(config.backbone_config), config.seed)


def measure(models: dict[str, Backbone], data: Path, run: Path, progress: Progress) -> list[Row]:
    """Return k-NN and attention Jaccard on the validation images, for raw pixels and each model.

    run: keeps the k-NN of the model that was trained in it, for comparisons and the report.
    """
    queries, rows = find_images(data / "folder" / "val"), list[Row]()
    pixels = load_model("pixels")
    every = {pixels.label: pixels.backbone, **models}
    for done, (name, backbone) in enumerate(every.items()):
        progress(done, len(every))
        named = Model(name, name, backbone, run if name == TRAINED else None)
        context = Context(workers=0, cached=False)
        (found,) = EVALUATION.run([named], data / "folder", KNNConfig(ks=(K,)), context)
        if name == TRAINED:
            keep(run, "knn", found)
        has_attention = backbone.class_attention is not None
        jaccard = attention_on_objects(backbone, queries, data / "folder-masks" / "val") if has_attention else None
        rows.append(Row(name, backbone.config.image_size, _top1(found.metrics), jaccard))
    progress(len(every), len(every))
    return rows


def _top1(metrics: Iterable[Metric]) -> float:
    return next(metric.value for metric in metrics if "top1" in metric.name)


def attention_on_objects(backbone: Backbone, images: ImageFolder, masks: Path) -> float:
    """Return the mean Jaccard in % of the mask that holds `MASS` of the mean attention with the object's mask."""
    scores = []
    for position, name in enumerate(images.paths):
        with Image.open((masks / name).with_suffix(".png")) as file:
            ground_truth = torch.from_numpy(np.asarray(file) > 0)
        mean = _maps(backbone, decode(images.path(position), window=backbone.config.window)).mean(dim=0)
        scores.append(jaccard(map_masks(mean, MASS), ground_truth))
    return 100 * sum(scores) / len(scores)


def draw(models: dict[str, Backbone], data: Path, out: Path) -> list[Path]:
    """Draw a contact sheet of all models, and a panel per image of the last one. Return the paths, sheet first."""
    out.mkdir(parents=True, exist_ok=True)
    folder = find_images(data / "folder" / "val")
    images = [decode(folder.path(round(place))) for place in np.linspace(2, len(folder) - 3, SHOWN)]
    rows = []
    for image in images:
        large = fitted(image, TILE)
        maps = [overlay(large, _maps(model, image).mean(dim=0).numpy()) for model in models.values()]
        titles = [""] * (1 + len(models)) if rows else ["image", *models]
        rows.append(pictures.Row([Tile(*tile) for tile in zip([large, *maps], titles, strict=True)], TILE))
    paths = [out / "overview.png"]
    write_png(paths[0], pictures.page(rows, min_width=0))
    shown = models["the shipped model"]
    for number, image in enumerate(images):
        paths.append(out / f"panel-{number}.png")
        write_png(paths[-1], attention_panel(image, _maps(shown, image), MASS, title="the shipped model"))
    return paths


def _maps(backbone: Backbone, image: np.ndarray) -> Tensor:
    return attention_maps(backbone, network_input(backbone, image))[0]
