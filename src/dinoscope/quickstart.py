"""Minutes from nothing to a trained, evaluated and visible model, on a CPU and without a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dinoscope import api, pictures
from dinoscope.checkpoint import load_backbone, write_text
from dinoscope.data.images import RawImage
from dinoscope.data.sources import ImageFolder, images_in_folder
from dinoscope.evaluation.base import Context
from dinoscope.evaluation.compare import Entry
from dinoscope.evaluation.knn import EVALUATION, KNNConfig
from dinoscope.evaluation.results import keep
from dinoscope.evaluation.statistics import estimate_metric, mean_intervals
from dinoscope.evaluation.throughput import millions_of_parameters
from dinoscope.evaluation.voc import jaccard
from dinoscope.explain.attention import attention_maps, map_masks, network_input
from dinoscope.mammograms import write_mammograms
from dinoscope.model_names import NO_NETWORK, Model, load_model, random_backbone, shipped_model
from dinoscope.models.backbone import PIXELS, Backbone, without_drop_path
from dinoscope.models.dictionary import PATCHES
from dinoscope.pictures import Tile, fitted, overlay, write_png
from dinoscope.report.pages import attention_panel
from dinoscope.scenes import write_scenes
from dinoscope.training.config import RunConfig
from dinoscope.training.listeners import Listener
from dinoscope.types import Metric, Result

K, MASS, SHOWN = 20, 0.6, 6
RANDOM_WEIGHTS, TRAINED, SHIPPED = "random weights", "trained just now", "the shipped model"
TILE = 180  # width of a picture on the overview, in pixels

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Drawn:
    """A data set that is drawn on the spot: folder/{train,val}/CLASS/ and folder-masks/val/CLASS/.

    about: what its validation images are. write: draws it into a folder. cache: name of that folder in the cache.
    recipes: for a run on it, the usual one first. shipped: whether the shipped model is for such images.
    """

    about: str
    write: Callable[..., Path]
    cache: str
    recipes: tuple[str, ...]
    shipped: bool


DRAWN: dict[str, Drawn] = {
    "scenes": Drawn(
        "500 drawn scenes, 10 classes (guessing: 10 %)",
        write_scenes,
        "scenes",
        ("quickstart", "quickstart_long"),
        shipped=True,
    ),
    "medical": Drawn(
        "480 drawn mammograms, DICOM files of 6 kinds of finding (guessing: 16.7 %)",
        write_mammograms,
        "mammograms",
        ("quickstart_medical",),
        shipped=False,
    ),
}


@dataclass(frozen=True)
class Row:
    """One row of the table.

    image_size: side of the network's input in pixels.
    knn: top-1 accuracy.
    jaccard: overlap of the object with the mask that holds `MASS` of the mean attention; None without attention.
    chance: the expected overlap of a mask with as many pixels at random places.
    """

    name: str
    image_size: int
    knn: Metric
    jaccard: Metric | None = None
    chance: Metric | None = None


def quickstart(
    config: RunConfig, drawn: Drawn, data: Path, listeners: Sequence[Listener], progress: Progress
) -> tuple[list[Row], list[Entry]]:
    """Train on drawn images, compare with baselines and the shipped model, and draw attention.

    Returns the rows, and the k-NN of the baselines among them for the comparison of the report. The run folder gets
    quickstart.json, attention/overview.png with all models, and attention/panel-*.png.

    config: of a recipe in `drawn.recipes`, for the image folder of the data. data: what `drawn.write` returned.
    progress: called during the evaluations.

    Raises KeyboardInterrupt if a signal stopped the training: there is nothing to evaluate then.
    """
    if api.train(config, listeners=listeners).interrupted:
        raise KeyboardInterrupt
    context = Context(workers=0, cached=False)
    progress(0, 1)
    trained = load_backbone(config.out)
    baselines: dict[str, Backbone] = {}
    methods = {RANDOM_WEIGHTS: "random"}
    for name in (PIXELS, PATCHES):
        model = load_model(name)
        model.backbone.config = replace(model.backbone.config, window=trained.config.window)
        baselines[model.label] = context.fitted(model, data / "folder").backbone
        methods[model.label] = name
    random = random_backbone(without_drop_path(trained.config), config.seed)
    models = {RANDOM_WEIGHTS: random, TRAINED: trained}
    if drawn.shipped:
        models[SHIPPED] = load_backbone(shipped_model())
    measured = {**baselines, **models}
    rows, results = evaluate(measured, data, config.out, progress)
    draw(models, images_in_folder(data / "folder" / "val"), config.out / "attention")
    write_text(config.out / "quickstart.json", json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return rows, [baseline_entry(name, method, measured[name], results[name]) for name, method in methods.items()]


def baseline_entry(name: str, method: str, backbone: Backbone, knn: Result) -> Entry:
    """Return a baseline as a row of a comparison."""
    network = "" if method in NO_NETWORK else backbone.config.name
    remarks = (f"{name}: {backbone.made_of}",) if backbone.made_of else ()
    size = millions_of_parameters(backbone) or None
    return Entry(method, network, size, name, measurements={EVALUATION.name: knn}, remarks=remarks)


def evaluate(
    models: dict[str, Backbone], data: Path, run: Path, progress: Progress
) -> tuple[list[Row], dict[str, Result]]:
    """Return k-NN and attention Jaccard of each model on the validation images; and all of its k-NN by its name.

    run: stores the k-NN of the model that was trained in it, for comparisons and the report.
    """
    queries, rows, results = images_in_folder(data / "folder" / "val"), list[Row](), dict[str, Result]()
    for done, (name, backbone) in enumerate(models.items()):
        progress(done, len(models))
        model = Model(name, name, backbone, run if name == TRAINED else None)
        context = Context(workers=0, cached=False)
        (result,) = EVALUATION.run([model], data / "folder", KNNConfig(ks=(K,)), context)
        results[name] = result
        if name == TRAINED:
            keep(run, "knn", result)
        top1 = next(metric for metric in result.metrics if metric.name == "knn_top1")
        row = Row(name, backbone.config.image_size, top1)
        if backbone.class_attention is not None:
            jaccard, chance = attention_on_objects(backbone, queries, data / "folder-masks" / "val")
            row = replace(row, jaccard=jaccard, chance=chance)
        rows.append(row)
    progress(len(models), len(models))
    return rows, results


def attention_on_objects(backbone: Backbone, images: ImageFolder, masks: Path) -> tuple[Metric, Metric]:
    """Return `Row.jaccard` and `Row.chance`, means over the images with intervals.

    A mask that covers a share p of an image at random shares p g of it with an object that covers g.
    """
    scores: list[tuple[float, float]] = []
    for position, name in enumerate(images.paths):
        with Image.open((masks / name).with_suffix(".png")) as file:
            ground_truth = torch.from_numpy(np.asarray(file) > 0)
        mask = map_masks(_maps(backbone, images.read(position)).mean(dim=0), MASS)
        predicted, true = float(mask.float().mean()), float(ground_truth.float().mean())
        scores.append((jaccard(mask, ground_truth), predicted * true / (predicted + true - predicted * true)))
    attention, chance = mean_intervals(torch.tensor(scores, dtype=torch.float64))
    mass = {"mass": MASS}
    return (
        estimate_metric("attention_jaccard", attention, len(scores), mass),
        estimate_metric("chance_jaccard", chance, len(scores), mass),
    )


def draw(models: dict[str, Backbone], folder: ImageFolder, out: Path) -> None:
    """Draw a contact sheet of all models, and a panel of the last one for each of a few images."""
    out.mkdir(parents=True, exist_ok=True)
    rows, best = [], list(models)[-1]
    for number, position in enumerate(np.linspace(2, len(folder) - 3, SHOWN)):
        raw = folder.read(round(position))
        image = raw.rgb(models[TRAINED].config.window)
        large = fitted(image, TILE)
        maps = {name: _maps(model, raw) for name, model in models.items()}
        overlays = [overlay(large, heads.mean(dim=0).numpy()) for heads in maps.values()]
        titles = [""] * (1 + len(models)) if rows else ["image", *models]
        rows.append(pictures.Row([Tile(*tile) for tile in zip([large, *overlays], titles, strict=True)], TILE))
        panel = attention_panel(image, maps[best], MASS, title=best)
        write_png(out / f"panel-{number}.png", panel.pixels())
    write_png(out / "overview.png", pictures.page(rows, min_width=0))


def _maps(backbone: Backbone, image: RawImage) -> Tensor:
    pixels = image.pixels(backbone.config.channels, backbone.config.window)
    return attention_maps(backbone, network_input(backbone, pixels))[0]
