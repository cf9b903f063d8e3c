"""Throughput against accuracy: the published rows of EsViT's Table 1, with one's own models on top.

Accuracies are the published ones. Speeds are measured here, by `evaluation.throughput`, on random weights of the same
networks: images per second of another machine are never on one axis with them. Rows whose network cannot be built are
in the table alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import timm
import torch

from dinoscope.config import to_dict
from dinoscope.data.sources import SPLITS
from dinoscope.errors import UserError
from dinoscope.evaluation import EVALUATIONS, base
from dinoscope.evaluation.base import Context
from dinoscope.evaluation.compare import METHOD_NAMES
from dinoscope.evaluation.results import DATASET, classified, keep_as, kept
from dinoscope.evaluation.throughput import ThroughputConfig, millions_of_parameters, throughput
from dinoscope.files import cache_folder, claim, write_all
from dinoscope.model_names import Model, load_models
from dinoscope.models.backbone import TIMM, Backbone, BackboneConfig, build_backbone, network_title
from dinoscope.models.foreign import TimmBackbone
from dinoscope.report.charts import Panel, Point, figure_files, file_names, scatter
from dinoscope.report.comparison import require_different
from dinoscope.report.tables import csv_text, markdown
from dinoscope.study.reproduce import CLASSES, IMAGE_SIZE, VAL_IMAGES
from dinoscope.system import machine
from dinoscope.tables import Column, Section, Table, TableRow
from dinoscope.text import ABSENT, figure
from dinoscope.types import Metric, Result

SOURCE = (
    "Published: Li et al. 2021, Efficient Self-supervised Vision Transformers for Representation Learning "
    "(arXiv:2106.09785), Table 1: ImageNet-1k, top-1 in % on the validation images, and images per second on the GPU "
    "of that paper"
)
WIDE = "wider ResNets are not among the networks"
BATCH_NORM = "a ViT with batch norm is not among the networks"
ESTIMATED = "images per second estimated by the paper's authors"
FINE_TUNED = "fine-tuned after pre-training on JFT: no linear probe"
FILES = ("sota.md", "sota.csv", *file_names("sota"))

AccuracyName = Literal["knn", "linear"]

logger = logging.getLogger("dinoscope")


@dataclass(frozen=True)
class Published:
    """One row of the paper's table.

    parameters: of the backbone, in millions. images_per_second: as published; None if it was not.
    linear, knn: top-1 in %. network: what is built here for its speed; "" if it cannot be, and then `reason`.
    options: of timm's network. estimated: the published speed. fine_tuned: `linear` is no linear probe.
    """

    method: str
    architecture: str
    parameters: float
    images_per_second: float | None
    linear: float
    knn: float | None
    network: str = ""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    reason: str = ""
    estimated: bool = False
    fine_tuned: bool = False

    def notes(self) -> list[str]:
        """Return what a reader of the row must know."""
        own = {self.reason: not self.network, ESTIMATED: self.estimated, FINE_TUNED: self.fine_tuned}
        return [note for note, holds in own.items() if holds]

    def accuracy(self, metric: AccuracyName) -> float | None:
        """Return the figure on the y axis; None if there is none by that protocol."""
        return self.knn if metric == "knn" else None if self.fine_tuned else self.linear

    def values(self) -> dict[str, Any]:
        """Return what a file holds of the row, unrounded, without its speed here."""
        return {
            "source": "Li et al. 2021, Table 1",
            "model": None,
            "method": self.method,
            "architecture": self.architecture,
            "network": self.key,
            "parameters_millions": self.parameters,
            "linear": self.linear,
            "knn": self.knn,
            "data": "ImageNet-1k",
            "published_images_per_second": self.images_per_second,
            "notes": "; ".join(self.notes()),
        }

    @property
    def image_size(self) -> int:
        """Side in pixels at which its speed is measured."""
        return IMAGE_SIZE

    @property
    def key(self) -> str:
        """Name and options of the network: equal keys have equal speeds."""
        return " ".join([self.network, *(f"{name}={value}" for name, value in self.options.items())])

    def build(self) -> Backbone:
        """Build the network with random weights."""
        config = BackboneConfig(self.network, IMAGE_SIZE)
        if not self.options:
            return build_backbone(config)
        net = cast(Any, timm).create_model(self.network.removeprefix(TIMM), num_classes=0, **self.options)
        return TimmBackbone(config, net)


VIT_B16, SWIN = "vit_base_patch16_224", f"{TIMM}swin_{{}}_patch4_window7_224"
W14 = {"window_size": 14}

ROWS = (
    Published("SwAV", "RN50w5", 586, 76, 78.5, 67.1, reason=WIDE),
    Published("BYOL", "RN200w2", 250, 123, 79.6, 73.9, reason=WIDE),
    Published("SimCLR v2", "RN152w3+SK", 794, 46, 79.8, 73.1, reason=WIDE),
    Published("iGPT", "iGPT-XL", 6801, None, 72.0, None, reason="iGPT is not among the networks"),
    Published("Masked patch prediction", "ViT-B/16", 85, 312, 79.9, None, VIT_B16, fine_tuned=True),
    Published("DINO", "ViT-S/16", 21, 1007, 77.0, 74.5, "vit_small_patch16_224"),
    Published("DINO", "ViT-S/8", 21, 180, 79.7, 78.3, "vit_small_patch8_224"),
    Published("DINO", "ViT-B/16", 85, 312, 78.2, 76.1, VIT_B16),
    Published("DINO", "ViT-B/8", 85, 63, 80.1, 77.4, "vit_base_patch8_224"),
    Published("MoCo v3", "ViT-B/16", 85, 312, 76.7, None, VIT_B16),
    Published("MoCo v3", "ViT-B-BN/7", 85, 63, 79.5, None, reason=BATCH_NORM, estimated=True),
    Published("MoCo v3", "ViT-L-BN/7", 304, 17, 81.0, None, reason=BATCH_NORM, estimated=True),
    Published("MoCo v3", "ViT-H-BN/16", 632, 32, 79.1, None, reason=BATCH_NORM, estimated=True),
    Published("MoBY", "Swin-T", 28, 808, 75.1, None, SWIN.format("tiny")),
    Published("EsViT", "Swin-T", 28, 808, 78.1, 75.7, SWIN.format("tiny")),
    Published("EsViT", "Swin-S", 49, 467, 79.5, 77.7, SWIN.format("small")),
    Published("EsViT", "Swin-S, window 14", 49, 383, 80.8, 79.1, SWIN.format("small"), W14),
    Published("EsViT", "Swin-B", 87, 297, 80.4, 78.9, SWIN.format("base")),
    Published("EsViT", "Swin-B, window 14", 87, 254, 81.3, 79.3, SWIN.format("base"), W14),
)


@dataclass(frozen=True)
class Own:
    """A model of the person's. metrics: by the name of the accuracy. data: what they were measured on, in words."""

    model: Model
    method: str
    parameters: float
    metrics: Mapping[str, Metric]
    data: str
    is_imagenet: bool
    image_size: int

    def values(self) -> dict[str, Any]:
        """Return the same as of a published row."""
        accuracies = {name: metric.value for name, metric in self.metrics.items()}
        return {
            "source": "measured",
            "model": self.model.name,
            "method": self.method,
            "architecture": self.architecture,
            "network": self.model.backbone.config.name,
            "parameters_millions": self.parameters,
            "linear": accuracies.get("linear"),
            "knn": accuracies.get("knn"),
            "data": self.data,
            "published_images_per_second": None,
            "notes": None,
        }

    @property
    def architecture(self) -> str:
        return network_title(self.model.backbone.config.name)

    @property
    def key(self) -> str:
        return f"{self.model.backbone.config.name} {self.model.backbone.signature}".strip()


@dataclass(frozen=True)
class Picture:
    """All that the figure and the table show.

    speeds: (`key` of the network, image size in pixels) -> result of the measurement of speed.
    """

    metric: AccuracyName
    own: tuple[Own, ...]
    speeds: Mapping[tuple[str, int], Result]

    def speed(self, row: Published | Own) -> Result | None:
        return self.speeds.get((row.key, row.image_size))


def write_sota(
    ours: Sequence[str | Path | Model],
    out: Path,
    metric: AccuracyName = "knn",
    config: ThroughputConfig | None = None,
    *,
    context: Context = base.DEFAULT_CONTEXT,
    overwrite: bool = False,
) -> tuple[Table, list[Path]]:
    """Measure the speeds that this machine has no record of, draw the figure, and write `FILES` to `out`.

    Args:
        ours: models, as `load_models` takes them, whose accuracy was measured and kept before.
        metric: the accuracy on the y axis.
        config: of the measurement of speed; its image size is not used: published networks are measured at 224 px, the
            person's own at the size at which their accuracy was measured.
        context: device, precision and progress.

    Raises UserError if a model is none or was given twice, has no such result, or `out` holds these files already.
    """
    require_different(ours)
    claim(out, FILES, overwrite=overwrite)
    own = tuple(_own(model, metric) for model in (load_models(ours, context.watch) if ours else ()))
    wanted: dict[tuple[str, int], Callable[[], Backbone]] = {
        (row.key, row.image_size): row.build for row in ROWS if row.network
    }
    wanted |= {(each.key, each.image_size): lambda each=each: each.model.backbone for each in own}
    picture = Picture(metric, own, speeds(wanted, config or ThroughputConfig(), context))
    table = sota_table(picture)
    return table, write_all(out, _contents(picture, table))


def _own(model: Model, metric: AccuracyName) -> Own:
    """Return what is kept of a model: the newest result of each accuracy on the images of the drawn one."""
    results = {name: list(base.kept_results(EVALUATIONS[name], model)) for name in ("knn", "linear")}
    if not results[metric]:
        title = EVALUATIONS[metric].columns[0].title
        raise UserError(
            f"{model.name} has no {title} result to draw: dinoscope {metric} --model {model.name} --data FOLDER "
            "measures it, and keeps it"
        )
    drawn = results[metric][0]
    data, metrics = _data_of(drawn.protocol), dict[str, Metric]()
    for name, found in results.items():
        same = [result for result in found if _data_of(result.protocol) == data]
        value = EVALUATIONS[name].columns[0].metric_of(same[0]) if same else None
        metrics |= {name: value} if value is not None else {}
    return Own(
        model,
        METHOD_NAMES.get(model.method, model.method),
        millions_of_parameters(model.backbone),
        metrics,
        data,
        (drawn.protocol.get("classes"), classified(drawn.protocol)) == (CLASSES, VAL_IMAGES),
        int(drawn.protocol.get("image_size", model.backbone.config.image_size)),
    )


def _data_of(protocol: Mapping[str, Any]) -> str:
    names = [protocol.get(name) for name in ("queries", "val", "data", "gallery", "train")]
    place = next((str(name) for name in names if name), "unknown images")
    path = Path(place)
    return place if place.startswith(DATASET) else path.parent.name if path.name in SPLITS else path.name


def speeds(
    wanted: Mapping[tuple[str, int], Callable[[], Backbone]], config: ThroughputConfig, context: Context
) -> dict[tuple[str, int], Result]:
    """Return the speed of each network at its image size; measured once for each machine, device and setting.

    wanted: (name, image size in pixels) -> what builds the network. Results are kept in the cache.
    """
    device, home = context.device or torch.device("cpu"), cache_folder("throughput")
    found: dict[tuple[str, int], Result] = {}
    settings = {"precision": context.precision, "machine": to_dict(machine(device)), "batch_size": config.batch_size}
    names: dict[tuple[str, int], str] = {}
    for key in wanted:
        values = json.dumps([*key, settings, config.repeats], sort_keys=True)
        names[key] = hashlib.blake2b(values.encode(), digest_size=8).hexdigest()
        try:
            result = kept(home, names[key])
        except UserError:  # damaged: it is measured again
            result = None
        if result is not None:
            found[key] = result
    missing = [key for key in wanted if key not in found]
    if not missing:
        return found
    with context.watch("speed of networks on this machine") as progress:
        for done, key in enumerate(missing):
            progress(done, len(missing))
            own = ThroughputConfig(key[1], config.batch_size, config.repeats)
            metrics, protocol = throughput(wanted[key](), device, own, precision=context.precision)
            found[key] = Result("throughput", json.loads(json.dumps(protocol)), metrics)
            try:
                keep_as(home, names[key], found[key])
            except UserError as error:
                logger.warning("%s", error)
        progress(len(missing), len(missing))
    return found


# --- the figure -------------------------------------------------------------------------------------------------------

_MIN_DIAMETER = 4.0
_LEGEND = (5, 25, 100)  # millions of parameters


def diameter(millions: float) -> float:
    """Return the diameter in points of a marker whose area stands for the parameters; small ones are all alike."""
    return max(_MIN_DIAMETER, 1.9 * math.sqrt(millions))


def drawing_parts(picture: Picture) -> tuple[Panel, str, str]:
    """Return points, the title of the x axis and the text below them."""
    metric, points = picture.metric, list[Point]()
    for row in sorted(ROWS, key=lambda row: -row.parameters):
        result, accuracy = picture.speed(row), row.accuracy(metric)
        if result is not None and accuracy is not None:
            label = f"{row.method} {row.architecture.replace(', window', ' W')}"
            look = (row.method, "published accuracy, ImageNet", label)
            points.append(Point(*look, speed_of(result), accuracy, diameter=diameter(row.parameters)))
    for own in picture.own:
        result, accuracy = picture.speed(own), own.metrics[metric]
        if result is not None:
            ends = None if accuracy.low is None or accuracy.high is None else (accuracy.low, accuracy.high)
            kind = "own, ImageNet" if own.is_imagenet else f"own, {own.data} (not ImageNet)"
            label = f"{own.model.label} ({own.method}, {own.architecture})"
            x, y = speed_of(result), accuracy.value
            points.append(Point(own.method, kind, label, x, y, ends=ends, diameter=diameter(own.parameters)))
    title = EVALUATIONS[metric].columns[0].title
    note = ". ".join([*_remarks(picture), *_not_drawn(picture)]) + "."
    return Panel(f"{title} against speed", tuple(points)), "images/s, measured on this machine", note


def speed_of(result: Result) -> float:
    """Return the images per second of a measurement."""
    metric = result.metric("images_per_second")
    assert metric is not None, "`throughput` always gives it"
    return metric.value


def _remarks(picture: Picture) -> list[str]:
    """Return what the axes rest on."""
    example = next(iter(picture.speeds.values())).protocol
    speed = EVALUATIONS["throughput"].protocol_line(
        {k: v for k, v in example.items() if k not in ("backbone", "memory")}
    )
    lines = [SOURCE, f"Speed on the axis: measured here, random weights; {speed}"]
    others = list(dict.fromkeys(own.data for own in picture.own if not own.is_imagenet))
    if others:
        lines.append(
            f"Own models were measured on {', '.join(others)}, not on ImageNet, and at their own image size: their "
            "height is not comparable with that of the published rows"
        )
    return lines


def _not_drawn(picture: Picture) -> list[str]:
    """Return which published rows are in the table alone, and why."""
    reasons: dict[str, list[str]] = {}
    title = EVALUATIONS[picture.metric].columns[0].title
    for row in ROWS:
        if picture.speed(row) is None:
            reasons.setdefault(row.reason, []).append(f"{row.method} {row.architecture}")
        elif row.accuracy(picture.metric) is None:
            why = FINE_TUNED if row.fine_tuned and picture.metric == "linear" else f"no {title} published"
            reasons.setdefault(why, []).append(f"{row.method} {row.architecture}")
    listing = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
    return [f"In the table alone: {listing}"] if listing else []


# --- table and files --------------------------------------------------------------------------------------------------


def sota_table(picture: Picture) -> Table:
    """Return all published rows, and the person's own in a section above them."""
    notes = list(dict.fromkeys(note for row in ROWS for note in row.notes()))
    columns = (Column("Method"), Column("Arch."), Column("Param. (M)", "right"))
    columns += tuple(Column(title, "right") for title in ("im/s published", "im/s here", "px here", "Linear", "k-NN"))
    own = tuple(
        TableRow(
            (
                f"{each.method} {each.model.label}, on {each.data}",
                each.architecture,
                f"{each.parameters:.3g}",
                ABSENT,
                *_speed_cells(picture, each),
                *(figure(metric and metric.value) for metric in map(each.metrics.get, ("linear", "knn"))),
            )
        )
        for each in picture.own
    )
    rows = tuple(
        TableRow(
            (
                row.method,
                row.architecture,
                f"{row.parameters:.0f}",
                ABSENT if row.images_per_second is None else f"{'~' * row.estimated}{row.images_per_second:.0f}",
                *_speed_cells(picture, row),
                figure(row.linear),
                figure(row.knn),
            ),
            tuple(notes.index(note) + 1 for note in row.notes()),
        )
        for row in ROWS
    )
    sections = (Section(own, "Measured here"), Section(rows, "Published, ImageNet"))
    remarks = tuple(f"{line}." for line in _remarks(picture))
    return Table(columns, sections, "Throughput and accuracy", tuple(notes), remarks)


def _speed_cells(picture: Picture, row: Published | Own) -> tuple[str, str]:
    result = picture.speed(row)
    if result is None:
        return ABSENT, ABSENT
    speed = speed_of(result)
    return f"{speed:.{0 if speed >= 100 else 1 if speed >= 10 else 2}f}", str(result.protocol["image_size"])


def csv_table(picture: Picture) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the CSV file; figures are unrounded, and empty if there are none."""
    rows: list[dict[str, Any]] = []
    for row in (*picture.own, *ROWS):
        result, values = picture.speed(row), row.values()
        for name in ("images_per_second", "images_per_second_slowest", "images_per_second_fastest"):
            metric = None if result is None else result.metric(name)
            values[name] = metric and metric.value
        values["image_size"] = None if result is None else result.protocol["image_size"]
        rows.append(values)
    return list(rows[0]), [["" if value is None else str(value) for value in row.values()] for row in rows]


def _contents(picture: Picture, table: Table) -> Iterator[tuple[str, bytes | None]]:
    panel, x_title, note = drawing_parts(picture)
    legend = [(f"{millions} M parameters", diameter(millions)) for millions in _LEGEND]
    drawn = scatter([panel], x_title, note, (9.6, 6.6), legend, by_run=False)
    texts = {
        "sota.md": f"# {table.caption}\n\n![{panel.title}](sota.png)\n\n" + markdown(table),
        "sota.csv": csv_text(*csv_table(picture)),
    }
    for name, text in texts.items():
        yield name, text.encode("utf-8", errors="surrogateescape")
    yield from figure_files("sota", drawn)
