"""Fine-tuning: all weights of a model are trained further with labels, and the network is measured on other images.

The training is a run of the method `supervised` that begins from the model, in the one training loop, by a recipe: so
it resumes after an interruption, and the result is the same to the bit on a CPU. The figures are those after the last
epoch; the images that are reported on choose nothing. DINO's transfer table (Caron et al. 2021, Table 6) is such a one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from dinoscope import checkpoint
from dinoscope.config import flat, to_dict
from dinoscope.data.sources import SPLITS, ImageSource
from dinoscope.errors import UserError
from dinoscope.evaluation import base
from dinoscope.evaluation.base import Context, Data, Labelled
from dinoscope.evaluation.knn import labels_as_in
from dinoscope.evaluation.results import new_result, settled
from dinoscope.evaluation.statistics import share_metrics
from dinoscope.features import evaluation_view
from dinoscope.files import cache_folder, write_text, writing
from dinoscope.methods.supervised import SupervisedConfig
from dinoscope.model_names import RANDOM, UNTRAINED, Model, folder_names, load_model
from dinoscope.models.backbone import is_network
from dinoscope.places import parse_place
from dinoscope.prediction import load_classifier
from dinoscope.recipes import run_config
from dinoscope.tables import BOLD, Column, Section, Table, TableRow, best_marked
from dinoscope.text import ABSENT
from dinoscope.training import start
from dinoscope.training.config import RunConfig, SavingConfig, with_epochs
from dinoscope.training.listeners import Listener, RunStart, StepRecord
from dinoscope.training.loop import train
from dinoscope.training.run_folder import CONFIG, changed_settings, portable, read_config
from dinoscope.types import Result

RUNS = "runs"
"""Folder of the tuned runs within the output."""
BEGUN = "begun.json"
"""File of a tuned run that holds hashes of the weights that it began from and of its training images: settings name
their places alone, where others may be by now."""

PUBLISHED_SETS = ("CIFAR-10", "CIFAR-100", "iNat 18", "iNat 19", "Flowers", "Cars", "ImageNet")
PUBLISHED = {
    "ViT-S/16, supervised": (99.0, 89.5, 70.7, 76.6, 98.2, 92.1, 79.9),
    "ViT-S/16, DINO": (99.0, 90.5, 72.0, 78.2, 98.5, 93.0, 81.5),
    "ViT-B/16, supervised": (99.0, 90.8, 73.2, 77.7, 98.4, 92.1, 81.8),
    "ViT-B/16, DINO": (99.1, 91.7, 72.6, 78.6, 98.8, 93.0, 82.8),
}
"""Top-1 in % after fine-tuning (Caron et al. 2021, Table 6)."""

logger = logging.getLogger("dinoscope")


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of fine-tuning; None leaves what the recipe says."""

    recipe: str = "finetune"
    """Recipe of the method `supervised` to train by: finetune (20 epochs, layer-wise decay 0.75), finetune_dino or
    finetune_mae (as published); `dinoscope recipes` lists them."""

    epochs: float | None = None
    """Passes over the training images; the warm-up shrinks with them. The figures are those after the last one."""

    learning_rate: float | None = None
    """Peak of the learning rate, for a batch of 256."""

    layer_decay: float | None = None
    """Factor of the learning rate from a layer to the one before it, in (0, 1]; 1: all layers learn alike."""

    batch_size: int | None = None
    """Training images per step; lowered if there are fewer images."""

    seed: int = 0
    """Seed of the head's first weights, the order of the images, and their views."""

    more_data: tuple[str, ...] = ()
    """Further folders, archives or lists as --data takes them, each with a train and a val split: the models are tuned
    on each of them, too, and each is a column of the table."""


class _Steps(Listener):
    """Hands the steps to a progress bar, and what the run has to say to the log; keeps what the run began from."""

    def __init__(self, progress: Callable[[int, int], None], begun: Mapping[str, str]) -> None:
        self.progress, self.begun = progress, begun

    def started(self, start: RunStart) -> None:
        if start.step.index == 0:
            with writing(start.config.out / BEGUN):
                write_text(start.config.out / BEGUN, json.dumps(self.begun) + "\n")

    def stepped(self, record: StepRecord) -> None:
        self.progress(record.step.index + 1, record.step.total)

    def said(self, message: str) -> None:
        logger.warning("%s", message)


def settings(model: Model, images: int | None, config: FinetuneConfig, context: Context) -> RunConfig:
    """Return the settings of the run that tunes a model, without its images and its folder.

    images: how many there are to train on, if it is known.
    Raises UserError for an unknown recipe, one without labels, or a model whose network cannot be built by its name.
    """
    backbone = model.backbone.config
    if not is_network(backbone.name):
        raise UserError(f"{model.name} cannot be fine-tuned: there are no weights of a network that is known by name")
    name = f"{RANDOM}{backbone.name}" if model.name == UNTRAINED else model.name
    run = start.continuing(run_config(config.recipe, Path(), Path()), name, backbone)
    if not isinstance(run.method, SupervisedConfig):
        raise UserError(f"--recipe {config.recipe} trains without labels: give one of supervised training, as finetune")
    mixes, run = run.method.mixing is not None, with_epochs(run, config.epochs)
    rate = run.optimizer.learning_rate if config.learning_rate is None else config.learning_rate
    decay = run.optimizer.layer_decay if config.layer_decay is None else config.layer_decay
    batch = run.batch_size if config.batch_size is None else config.batch_size
    if images is not None:
        batch = min(batch, images)
        batch -= batch % 2 if mixes else 0
    size = evaluation_view(model.backbone, context.extraction()).size
    return replace(
        run,
        optimizer=replace(run.optimizer, learning_rate=rate, layer_decay=decay),
        views=replace(run.views, global_size=size),
        batch_size=batch,
        seed=config.seed,
        precision=context.precision,
        device=str(context.device or "cpu"),
        workers=context.workers,
        saving=SavingConfig(keep=1),
        evaluate_every=0,
    )


def run(models: Sequence[Model], data: Data, config: FinetuneConfig, context: Context) -> Iterator[Result]:
    """Fine-tune each model on the train split, and report top-1 and top-5 accuracy on the val split.

    The run is kept in OUT/runs/LABEL, or in the cache if there is no output folder; called again, it is continued, or
    taken as it is if it has ended. Results on further data come after those of all models, labelled as these are.

    Entries of the protocol: those of `Context.network`; recipe, epochs, batch_size, seed, peak_rate (for a batch of
    256), layer_decay; training (a digest of method, optimiser, views and drop path); classes; train, val (folders),
    train_images, val_images; tuned (the run folder); those of `base.grouping`.

    Raises UserError if a split or labels are missing, val has classes that train lacks, a model has no network that
    can be trained, or settings contradict each other. Raises KeyboardInterrupt if a signal ends the training.
    """
    names, further = folder_names([model.label for model in models]), [parse_place(own) for own in config.more_data]
    every: list[tuple[ImageSource, ImageSource]] = []
    for place in (data, *further):  # all misfits are refused before anything is trained
        every.append(base.images_of_splits(place, context, what="a fine-tuned network"))
        for model in models:
            settings(model, len(every[-1][0]), config, context)
    yield from (_measured(*own, every[0], config, context) for own in zip(models, names, strict=True))
    titles = folder_names([title(base.location(train)) for train, _ in every])
    for images, suffix in zip(every[1:], titles[1:], strict=True):
        for model, name in zip(models, names, strict=True):
            found = _measured(model, f"{name}-{suffix}", images, config, context)
            found = replace(found, protocol={**found.protocol, "label": model.label})
            base.keep_result(EVALUATION, model, config, found)
            yield found


def check(data: Data, config: FinetuneConfig, context: Context) -> None:
    for place in (data, *map(parse_place, config.more_data)):
        base.require_labels(place, context)


def _measured(
    model: Model, name: str, images: tuple[ImageSource, ImageSource], config: FinetuneConfig, context: Context
) -> Result:
    """Return the result of one model, whose run is called by this name."""
    train_images, val_images = images
    own, source = _with_images(settings(model, len(train_images), config, context), train_images, context)
    folder = _place(own, model, train_images) if context.out is None else context.out / RUNS / name
    begun = {"weights": model.weights_hash, "images": train_images.fingerprint()}
    tuned = _tuned(replace(own, out=folder), source, begun, context)
    classifier = load_classifier(tuned)
    bank = context.features(tuned.backbone, val_images, "features of the validation images")
    hits = classifier.hits(bank.features, labels_as_in(classifier.classes, bank))
    metrics = share_metrics([("finetune_top1", {}), ("finetune_top5", {})], hits, bank.groups)
    protocol = _protocol(model, images, config, context) | {"val_images": len(bank.features), "tuned": str(folder)}
    return new_result("finetune", protocol, metrics)


def _with_images(run: RunConfig, images: ImageSource, context: Context) -> tuple[RunConfig, ImageSource | None]:
    """Return the settings with the images to train on, and these themselves if the settings do not find the same."""
    if images.stamp(0) is not None:
        group = None if context.group == base.NONE else context.group
        found = replace(run, data=parse_place(images.name), group=group, split=context.share)
        own = start.found_images(found)
        if own.labels is not None and (own.keys, own.classes) == (images.keys, images.classes):
            return found, None
        run = replace(run, data=found.data)
    return run, images


def _place(run: RunConfig, model: Model, images: ImageSource) -> Path:
    """Return the folder in the cache that belongs to these weights, settings and images."""
    values = to_dict(portable(replace(run, data=Path(), out=Path(), device="", workers=0)))
    parts = json.dumps([values, model.weights_hash, images.fingerprint()], sort_keys=True)
    name = hashlib.blake2b(parts.encode(), digest_size=12).hexdigest()
    return cache_folder("finetuned") / f"{model.backbone.config.name.replace(':', '-')}-{name}"


def _tuned(run: RunConfig, source: ImageSource | None, begun: Mapping[str, str], context: Context) -> Model:
    """Return the network after the last step of the run, which is begun, continued or taken as it is.

    begun: hashes of the weights to begin from and of the training images.
    """
    resume = (run.out / CONFIG).is_file()
    newest = checkpoint.newest_metadata(run.out / "checkpoints") if resume else None
    changed = changed_settings(read_config(run.out), run) if resume else []
    if newest is not None:
        changed += [f"other {what}" for what, value in _read_begun(run.out).items() if value != begun[what]]
    if changed:
        if not context.overwrite:
            hint = "name another folder with --out, or add --overwrite"
            raise UserError(f"{run.out} was tuned with other settings ({'; '.join(changed)}): {hint}")
        resume, newest = False, None
    if newest is None or newest.get("step") != newest.get("total") or not (run.out / "exported").is_dir():
        with context.watch("fine-tuning") as progress, torch.random.fork_rng(devices=()):  # pyright: ignore[reportUnknownMemberType]
            overwrite = context.overwrite and not resume
            done = train(run, resume=resume, overwrite=overwrite, listeners=[_Steps(progress, begun)], source=source)
        if done.interrupted:
            logger.warning("stopped after step %d; the same command continues", done.steps)
            raise KeyboardInterrupt
    return load_model(str(run.out))


def _read_begun(run: Path) -> dict[str, str]:
    """Return what `BEGUN` holds; "" for what it lacks, or if it is missing or damaged."""
    found: Any = None
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((run / BEGUN).read_text(encoding="utf-8"))
    known = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    return {name: str(known.get(name, "")) for name in ("weights", "images")}


def _protocol(
    model: Model, images: tuple[ImageSource, ImageSource] | None, config: FinetuneConfig, context: Context
) -> dict[str, Any]:
    own = settings(model, None if images is None else len(images[0]), config, context)
    training = flat(to_dict({"method": own.method, "optimizer": own.optimizer, "views": own.views}))
    training |= {"drop_path": own.drop_path}
    digest = hashlib.blake2b(json.dumps(training, sort_keys=True).encode(), digest_size=4).hexdigest()
    protocol = {
        **context.network(model),
        "recipe": config.recipe,
        "epochs": own.epochs,
        "seed": own.seed,
        "peak_rate": own.optimizer.learning_rate,
        "layer_decay": own.optimizer.layer_decay,
        "training": digest,
    }
    if images is not None:
        train, val = images
        protocol |= {"classes": len(train.classes), "train": base.location(train), "val": base.location(val)}
        protocol |= {"batch_size": own.batch_size, "train_images": len(train)} | base.grouping(images, context)
    return protocol


def expected(model: Model, data: Data, config: FinetuneConfig, context: Context) -> dict[str, Any]:
    if data is None:
        return base.expected_grouping(None, context) | _protocol(model, None, config, context)
    images = base.images_of_splits(data, context, what="a fine-tuned network")
    counts = {"val_images": len(images[1])}
    return base.expected_grouping(images, context) | _protocol(model, images, config, context) | counts


def protocol_line(protocol: Mapping[str, Any]) -> str:
    weights = f", from weights {protocol['weights']}" if "weights" in protocol else ""
    tuned = f"; tuned network in {protocol['tuned']}" if "tuned" in protocol else ""
    return (
        f"all weights tuned on {protocol['train_images']} training images by recipe {protocol['recipe']}, last epoch "
        f"of {protocol['epochs']:g}, learning rate {protocol['peak_rate']:g} for 256 images, layer decay "
        f"{protocol['layer_decay']:g}, batch {protocol['batch_size']}, seed {protocol['seed']}; measured on "
        f"{protocol['val_images']} validation images, {protocol['classes']} classes, {protocol['image_size']} px"
        f"{weights}, data {' and '.join(dict.fromkeys((protocol['train'], protocol['val'])))}"
        f"{base.grouping_words(protocol)}{tuned}"
    )


# The table


def title(location: str) -> str:
    """Return what a column calls images: the name of their folder, or of the one above if it is named as a split."""
    path = Path(location)
    is_training = path.name.lower() in SPLITS["train"] and path.parent.name
    return path.parent.name if is_training else path.name


def tables(labelled: Labelled, published: bool) -> list[Table]:
    """Return a row for each model and a column for each set of images, as DINO's table of transfer has them."""
    rows = list(dict.fromkeys(label for label, _ in labelled))
    places = list(dict.fromkeys(result.protocol["train"] for _, result in labelled))
    cells = {(label, result.protocol["train"]): result for label, result in labelled}
    figures = [
        [result.metric("finetune_top1") if (result := cells.get((row, place))) else None for place in places]
        for row in rows
    ]
    shown = best_marked(
        [
            TableRow((row, *(ABSENT if m is None else m.text() for m in own)))
            for row, own in zip(rows, figures, strict=True)
        ],
        [[None, *(None if m is None else m.value for m in own)] for own in figures],
        lambda column, top, other: settled(
            cells[rows[top], places[column - 1]], cells[rows[other], places[column - 1]], "finetune_top1"
        ),
    )
    columns = (Column("Model"), *(Column(title(place), "right") for place in places))
    remarks = [
        "Intervals: 95 %, over the validation images of one run.",
        *([BOLD] if any(r.best for r in shown) else []),
    ]
    found = [Table(columns, (Section(shown),), "Fine-tuned on all training images: top-1 in %", remarks=tuple(remarks))]
    if published:
        sets = (Column("Pre-training"), *(Column(name, "right") for name in PUBLISHED_SETS))
        theirs = tuple(TableRow((name, *(f"{value:.1f}" for value in own))) for name, own in PUBLISHED.items())
        found.append(Table(sets, (Section(theirs),), "Published: Caron et al. 2021, Table 6 (by DeiT's code)"))
    return found


EVALUATION = base.Evaluation(
    "finetune",
    "Fine-tuning",
    "Train all weights of a model further on labelled images, and measure the network on other images.",
    "labels",
    FinetuneConfig,
    run,
    (base.Column("finetune", "Fine-tuned", "finetune_top1"),),
    protocol_line,
    expected,
    check,
    uses=base.OF_LABELLED_IMAGES,
    tables=tables,
)
