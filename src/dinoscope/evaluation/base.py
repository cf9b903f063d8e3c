"""What an evaluation is, the conditions that all evaluations share, and the labelled images that some of them need.

One evaluation is one file of this room: its settings, its run, its protocol, and how its results are shown. A new one
is such a file and one line in `evaluation.EVALUATIONS`; the command line, `compare`, the report, the studies and the
Python API iterate over that and know no evaluation by name.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch

from dinoscope import features
from dinoscope.data.finding import find_images, find_split, resolve_split
from dinoscope.data.groups import NONE, settled
from dinoscope.data.sources import SPLITS, ImageSource, split_images
from dinoscope.errors import UserError
from dinoscope.evaluation import results
from dinoscope.evaluation.statistics import Estimate, estimate_metric, mean_intervals
from dinoscope.features import ExtractConfig, cached_extract, evaluation_view, extract
from dinoscope.model_names import Model, Watch, unwatched
from dinoscope.models.backbone import Backbone
from dinoscope.places import JoinedPath, parse_place
from dinoscope.system import DTYPES
from dinoscope.tables import BOLD, LineChart, Section, Table, TableRow, best_marked
from dinoscope.tables import Column as TableColumn
from dinoscope.text import ABSENT
from dinoscope.types import FeatureBank, Items, Metric, Result

if TYPE_CHECKING:
    from dinoscope.pictures import Sheet

A = TypeVar("A")
B = TypeVar("B")

LABEL_SEED = 0
"""Chooses the images of a fraction of the labels: the same ones for every model that is compared."""

Images = tuple[ImageSource, ImageSource | None]
"""Labelled images that classify, and those that are classified; None if each is classified by all others."""

Data = Path | Images | None
"""A folder; or labelled images."""

logger = logging.getLogger("dinoscope")


@dataclass(frozen=True)
class Context:
    """Where networks run, how features are computed, and which labelled images are measured on: the same for every
    evaluation. Figures depend on the device, the precision, the image size, the crop, the groups and the split alone.

    device: None leaves a network where it is. precision: "fp32", "bf16" or "fp16".
    batch_size: images per forward; None takes the evaluation's own. workers: loader processes; -1 chooses.
    image_size: side of the square that networks see, in pixels; None takes the size that each stores.
    crop_fraction: part of the short side that the centre crop keeps; None takes `features.default_crop_fraction`.
    cached: keep features on disk and take them from there (see `cached_extract`), in the folder `place` if given.
    watch: shows progress.
    group: pattern that finds the group (patient, slide, video...) of an image in its key, or header:patient and the
        like (`sources.grouped_by`); "none" takes groups away. None takes those of the run that is measured
        (`inherited`), else those that the images have, if any.
    split: share of labelled images without a val split to train on (`sources.split_images`); "none" makes no split.
        None takes that of the run that is measured, else makes none.
    out, overwrite: the folder for files other than results, such as the masks of every frame; None writes none.
    """

    device: torch.device | None = None
    precision: str = "fp32"
    batch_size: int | None = None
    workers: int = -1
    image_size: int | None = None
    crop_fraction: float | None = None
    cached: bool = True
    place: Path | None = None
    watch: Watch = unwatched
    group: str | None = None
    split: float | Literal["none"] | None = None
    out: Path | None = None
    overwrite: bool = False

    @property
    def share(self) -> float | None:
        """The share of `split`, None for none."""
        return None if self.split == NONE else self.split

    def extraction(self, feature: Literal["image", "linear"] = "image") -> ExtractConfig:
        size, crop = self.image_size, self.crop_fraction
        return ExtractConfig(
            self.device, self.batch_size or 64, self.workers, size, crop, DTYPES[self.precision], feature
        )

    def features(
        self, backbone: Backbone, images: ImageSource, what: str, feature: Literal["image", "linear"] = "image"
    ) -> FeatureBank:
        """Return the features of images; `what` names them for `watch`. Raises UserError as `extract` does."""
        config = self.extraction(feature)
        with self.watch(what) as progress:
            if self.cached:
                return cached_extract(backbone, images, config, progress, self.place)
            return extract(backbone, images, config, progress)

    def fitted(self, model: Model, data: Data) -> Model:
        """Return the model, fitted to the train split of the data, without labels, if it must be (`Backbone.fit`).

        Of a folder without splits, all images are taken, or the share `split` of them. Without data it is returned as
        it is. Raises UserError if no image can be read.
        """
        if model.backbone.fit is None or data is None:
            return model
        images, queries = (find_images(resolve_split(data, "train")), None) if isinstance(data, Path) else data
        if queries is None and self.share is not None:
            images = self.prepared(images, None)[0]
        extraction, place = self.extraction(), self.place
        made = features.fitted(model.backbone, images, extraction, self.watch, cached=self.cached, place=place)
        return replace(model, backbone=made)

    def prepared(self, known: ImageSource, queries: ImageSource | None) -> Images:
        """Return labelled images with their groups, and split if they are asked to be (`group`, `split`).

        Raises UserError if the pattern does not fit them, groups of the two are not of one kind, or the groups are
        the classes.
        """
        if self.group is not None:
            with self.watch("reading groups") as progress:
                known = known.grouped_by(self.group, progress)
                queries = None if queries is None else queries.grouped_by(self.group, progress)
        if queries is None and self.share is not None:
            known, queries = split_images(known, self.share)
        if queries is not None and known.grouping != queries.grouping:
            first, second = (images.grouping or "unknown" for images in (known, queries))
            raise UserError(
                f"the groups of {known.name} ({first}) and of {queries.name} ({second}) must come from one column, or "
                "from one pattern: --group"
            )
        if known.groups is not None and known.labels is not None:
            pairs = set(zip(known.labels, known.groups, strict=True))
            if len(pairs) == len({label for label, _ in pairs}) == len({group for _, group in pairs}):
                raise UserError(
                    f"{known.name}: the groups ({known.grouping}) are the classes, so no image has a neighbour of its "
                    "class in another group. If a folder is a class, let the pattern begin behind it: '^[^/]+/([^/]+)/'"
                )
        return known, queries

    def naming(self, model: str) -> Context:
        """Return a copy whose progress is shown under the name of the model."""

        def watch(what: str) -> AbstractContextManager[Callable[[int, int], None]]:
            return self.watch(f"{model}: {what}")

        return replace(self, watch=watch)

    def network(self, model: Model) -> dict[str, Any]:
        """Return the entries of a protocol about weights, view and arithmetic."""
        view, made_of = evaluation_view(model.backbone, self.extraction()), model.backbone.made_of
        return {
            **({"made_of": made_of} if made_of else {}),
            "weights": model.weights,
            "weights_hash": model.weights_hash,
            "image_size": view.size,
            "crop_fraction": view.crop_fraction,
            "precision": self.precision,
        }


DEFAULT_CONTEXT = Context()


_OF_FEATURES = ("device", "precision", "batch_size", "workers", "image_size", "crop_fraction", "cached")

OF_LABELLED_IMAGES = (*_OF_FEATURES, "group", "split")
"""Fields of `Context` that matter to an evaluation of labelled images: `Evaluation.uses`."""


@dataclass(frozen=True)
class Column:
    """A headline figure of an evaluation, in tables that compare models.

    name: unique over all evaluations; its key in files. title: of the column.
    metric, parameters: of `Result.metric`. pick: chooses the metric if those do not decide it.
    unit, digits: of the shown value. ranked: rows are sorted by it, and the best is in bold.
    """

    name: str
    title: str
    metric: str
    parameters: Mapping[str, float] = field(default_factory=dict[str, float])
    unit: str = "%"
    digits: int = 1
    ranked: bool = True
    pick: Callable[[Result], Metric | None] | None = None

    def metric_of(self, result: Result) -> Metric | None:
        """Return the figure of a result, or None if it has none."""
        return self.pick(result) if self.pick else result.metric(self.metric, **self.parameters)


Labelled = Sequence[tuple[str, Result]]
"""Labels of models, and the result of each under one protocol."""


@dataclass(frozen=True)
class Evaluation:
    """One way to evaluate models.

    name: its key in `EVALUATIONS` and its command. title: in sentences and above columns. summary: one line of help.
    needs: what `data` must hold: "labels" (train/CLASS/... and val/CLASS/..., CLASS/..., or `Images`), "masks" (images
        with masks of objects), "videos", "images", or "nothing".
    config: a frozen dataclass of its settings, each with a docstring. The command's options are its fields, but those
        with `field(metadata=INTERNAL)`.
    run: evaluate models on data. Yields a result for each model, in order; then those of whatever else the settings
        name (folders of masks), labelled by their protocol's `label` or `weights`. Raises UserError.
    columns: the headline figures, in the order of a table.
    protocol_line: a protocol in one line for a person, with or without the entries about the model
        (`results.OF_THE_MODEL`). Raises KeyError if another entry is missing.
    expected: the entries of a protocol that are known beforehand for a model, data (None: the settings alone) and
        settings; a kept result that has them all need not be measured again. Raises UserError as `run` does.
    check: raises UserError for data and settings that `run` refuses whatever the models are. It is called before models
        are loaded, fetched or fitted, and leaves groups and a split to `run`, as these may come from a model.
    default: part of every comparison and report.
    by_network: the result depends on the network and not on its weights (speed).
    keeps_results: `run` keeps the results itself, because files belong to them (masks of a few frames).
    needs_no_model: it can do without any model, as its settings may name something else.
    uses: fields of `Context` that matter to it.
    train_data: from data and settings, the data to whose train split a baseline is fitted (`fitted`).
    prefix: what the names of its kept results begin with; "" takes `name`.
    file_name: the name under which a result is kept, from its settings and protocol.
    tables: results of several models under one protocol as tables, with published figures in the first if asked for.
    charts: the same as curves.
    examples: sheets of the best and the worst items (`ends` of each) for results of these models, for the screen or,
        with so many dots an inch, for print; empty if nothing was kept to draw. Raises UserError if the data are not
        there any more.
    csv: header and rows of a file of single figures; None takes the items (`items_csv`).
    earlier_csv: what that file was called in version 0.1; it is written under both names for one release.
    """

    name: str
    title: str
    summary: str
    needs: Literal["labels", "masks", "videos", "images", "nothing"]
    config: type[Any]
    run: Callable[[Sequence[Model], Data, Any, Context], Iterable[Result]]
    columns: tuple[Column, ...]
    protocol_line: Callable[[Mapping[str, Any]], str]
    expected: Callable[[Model, Data, Any, Context], Mapping[str, Any]]
    check: Callable[[Data, Any, Context], object] = lambda data, config, context: None
    default: bool = False
    by_network: bool = False
    keeps_results: bool = False
    needs_no_model: bool = False
    uses: tuple[str, ...] = _OF_FEATURES
    train_data: Callable[[Data, Any], Data] = lambda data, _: data
    prefix: str = ""
    file_name: Callable[[Any, Mapping[str, Any]], str] | None = None
    tables: Callable[[Labelled, bool], list[Table]] | None = None
    charts: Callable[[Labelled], list[LineChart]] | None = None
    examples: Callable[[Sequence[Result], Sequence[Model], int, Context, int | None], list[Sheet]] | None = None
    csv: Callable[[Labelled], tuple[Sequence[str], Sequence[Sequence[str]]]] | None = None
    earlier_csv: str = ""


INTERNAL = {"internal": True}
"""Metadata of a setting that is no option of the command."""


# Results that are measured and kept


def measure(evaluation: Evaluation, models: Sequence[Model], data: Data, config: Any, context: Context) -> list[Result]:
    """Evaluate models, and keep the result of each as soon as it is there.

    Raises UserError as `Evaluation.run` does.
    """
    measured: list[Result] = []
    if any(model.backbone.fit is not None for model in models):  # takes a while, before the run opens the data
        evaluation.check(data, config, context)
    if "group" in evaluation.uses:
        context = inherited(context, models, data)
    models = fitted(evaluation, models, data, config, context)
    for place, result in enumerate(evaluation.run(models, data, config, context)):
        if place < len(models) and not evaluation.keeps_results:
            keep_result(evaluation, models[place], config, result)
        measured.append(result)
    return measured


def fitted(evaluation: Evaluation, models: Sequence[Model], data: Data, config: Any, context: Context) -> list[Model]:
    """Return the models that `evaluation.run` takes: baselines that must see images first have seen the training ones.

    Without data they are returned as they are. Raises UserError as `Context.fitted` does.
    """
    if all(model.backbone.fit is None for model in models):
        return list(models)
    seen = evaluation.train_data(data, config)
    return [context.fitted(model, seen) for model in models]


def keep_result(evaluation: Evaluation, model: Model, config: Any, result: Result) -> str | None:
    """Write a result to the model's home; return the name that it is kept under.

    None if the model has no home, or it cannot be written to, which is logged as a warning.
    """
    if model.home is None:
        return None
    named = evaluation.file_name
    name = named(config, result.protocol) if named else evaluation.prefix or evaluation.name
    try:
        return results.keep(model.home, name, result)
    except UserError as error:
        logger.warning("%s", error)
        return None


def kept_results(evaluation: Evaluation, model: Model) -> Iterator[Result]:
    """Yield what is kept of a model, the newest first, if it has a headline figure and is of the model's weights.

    Raises UserError for a damaged file.
    """
    if model.home is None:
        return
    files = [
        results.result_file(model.home, n) for n in results.kept_names(model.home, evaluation.prefix or evaluation.name)
    ]
    for file in sorted(files, key=lambda file: file.stat().st_mtime_ns, reverse=True):
        result = results.kept(model.home, file.stem)
        if result is None or not any(column.metric_of(result) for column in evaluation.columns):
            continue
        if result.protocol.get("weights_hash", model.weights_hash) == model.weights_hash:
            yield result
        else:
            logger.warning("%s: its %s was measured with other weights and is ignored", model.name, file.stem)


def is_expected(result: Result, expected: Mapping[str, Any]) -> bool:
    """Return whether a result has all expected entries of a protocol, whatever the weights."""
    found, wanted = results.conditions(result), results.conditions(Result(result.evaluation, expected, ()))
    return all(found.get(name) == value for name, value in wanted.items())


def mapped_ahead(function: Callable[[A], B], items: Iterable[A], threads: int, ahead: int) -> Generator[B, None, None]:
    """Yield `function(item)` of each item, in order, computed on threads; at most `ahead` results wait to be taken."""
    waiting: deque[Future[B]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


# Results as tables


def metrics_table(labelled: Labelled, title: str = "") -> list[Table]:
    """Return one table of all metrics of the results: a row for each metric, a column for each model."""
    metrics = [{metric.title: metric for metric in reversed(result.metrics)} for _, result in labelled]
    units = {metric.title: metric.unit for _, result in reversed(labelled) for metric in reversed(result.metrics)}
    names = dict.fromkeys(metric.title for _, result in labelled for metric in result.metrics)
    rows = (
        TableRow((name, *(own[name].text(2) if name in own else ABSENT for own in metrics), units[name]))
        for name in names
    )
    columns = (TableColumn("metric"), *(TableColumn(label, "right") for label, _ in labelled), TableColumn("unit"))
    return [Table(columns, (Section(tuple(rows)),), title)]


def models_table(
    labelled: Labelled,
    titles: Mapping[str, str],
    caption: str,
    remarks: Sequence[str],
    *,
    rank: str,
    not_bold: Collection[str] = (),
    extra: Mapping[str, Mapping[str, float]] | None = None,
    published: tuple[str, Mapping[str, Mapping[str, float]], str] | None = None,
) -> Table:
    """Return one row for each model, sorted by the metric `rank`; the best figures of each column are bold.

    titles: name of a metric -> title of its column. not_bold: metrics whose best is not marked. extra: further rows,
    label -> figures. published: title, rows and source of a section of published figures.
    """
    by_rank = [result.metric(rank) for _, result in labelled]
    values = [0 if metric is None else metric.value for metric in by_rank]
    ordered = [labelled[place] for place in sorted(range(len(labelled)), key=lambda place: -values[place])]
    names = list(titles)
    metrics = [[result.metric(name) for name in names] for _, result in ordered]
    rows = best_marked(
        [
            TableRow((label, *(ABSENT if metric is None else metric.text() for metric in row)))
            for (label, _), row in zip(ordered, metrics, strict=True)
        ],
        [[None, *(None if m is None or m.name in not_bold else m.value for m in row)] for row in metrics],
        lambda column, top, row: results.settled(ordered[top][1], ordered[row][1], names[column - 1]),
    )

    def plain_rows(figures: Mapping[str, Mapping[str, float]]) -> tuple[TableRow, ...]:
        cells = (
            (label, *(f"{row[name]:.1f}" if name in row else ABSENT for name in names))
            for label, row in figures.items()
        )
        return tuple(map(TableRow, cells))

    remarks = [*remarks, *([BOLD] if any(row.best for row in rows) else [])]
    sections = [Section((*rows, *plain_rows(extra or {})), "Measured here" if published else "")]
    if published is not None:
        title, figures, source = published
        sections.append(Section(plain_rows(figures), title))
        remarks.append(source)
    columns = (TableColumn("Model"), *(TableColumn(title, "right") for title in titles.values()))
    return Table(columns, tuple(sections), caption, remarks=tuple(remarks))


def items_csv(labelled: Labelled) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return a row for each item of each model: facts, then figures with four digits after the point."""
    items = [(label, result.items or Items((), {})) for label, result in labelled]
    facts = dict.fromkeys(name for _, own in items for name in own.facts)
    figures = dict.fromkeys(name for _, own in items for name in own.figures)
    rows: list[tuple[str, ...]] = []
    for label, own in items:
        for place, name in enumerate(own.names):
            texts = (own.facts[fact][place] if fact in own.facts else "" for fact in facts)
            values = (f"{own.figures[figure][place]:.4f}" if figure in own.figures else "" for figure in figures)
            rows.append((label, name, *texts, *values))
    return ("model", "item", *facts, *figures), rows


ABREAST = 4
"""Models on one sheet of examples."""


def best_first(measured: Sequence[Result], figure: str) -> list[tuple[str, tuple[float, ...]]]:
    """Return the items that all results with items share, and what each result scored, best mean first."""
    scores = [
        dict(zip(result.items.names, result.items.figures[figure], strict=True))
        for result in measured
        if result.items is not None and figure in result.items.figures
    ]
    common = [name for name in scores[0] if all(name in each for each in scores)] if scores else []
    items = [(name, tuple(each[name] for each in scores)) for name in common]
    return sorted(items, key=lambda item: (-sum(item[1]) / len(item[1]), item[0]))


def differences(labelled: Labelled, figure: str) -> list[tuple[str, str, Estimate]]:
    """Return how much larger a figure of the later of two models is, of every pair: over the same items, paired.

    Means and 95 % intervals, in the unit of the figure. Pairs without items in common are left out.
    """
    found: list[tuple[str, str, Estimate]] = []
    for (first, one), (second, two) in combinations(labelled, 2):
        items = best_first([one, two], figure)
        if items and len(items[0][1]) == 2:
            order = dict(items)
            names = one.items.names if one.items else ()
            column = torch.tensor([[order[n][1] - order[n][0]] for n in names if n in order], dtype=torch.float64)
            found.append((first, second, mean_intervals(column, limits=[(-100.0, 100.0)])[0]))
    return found


def differences_table(labelled: Labelled, figures: Mapping[str, str]) -> Table:
    """Return one row for each pair of models. figures: name of a metric -> title of its column."""
    cells: dict[str, dict[str, str]] = {}
    for figure in figures:
        for first, second, estimate in differences(labelled, figure):
            text = estimate_metric(figure, estimate, 0, scale=1).text(sign=True)
            cells.setdefault(f"{second} − {first}", {})[figure] = text
    rows = (TableRow((pair, *(row.get(figure, ABSENT) for figure in figures))) for pair, row in cells.items())
    columns = (TableColumn("Models"), *(TableColumn(title, "right") for title in figures.values()))
    caption = "Differences in points of % [95 % interval], paired: the models saw the same items"
    return Table(columns, (Section(tuple(rows)),), caption)


# Groups and split of a run


def inherited(context: Context, models: Sequence[Model], data: Data, *, say: bool = True) -> Context:
    """Return the context with the groups and the split that models were trained with, where it has none of its own.

    So what is measured on is what a run did not see. It is taken from runs that were trained on these data, if there
    are some; other models do not matter. say: log what is taken, and runs whose split is of other data.

    Raises UserError if these runs differ in what is to be taken, or a split by other groups than the given.
    """
    runs = [(model.name, model.settings) for model in models if model.run and model.settings]
    trained = [(name, settings) for name, settings in runs if "data" in settings]
    if not isinstance(data, Path) or not any(_as_options(settings) for _, settings in trained):
        return context
    place, here = training_place(data), list[tuple[str, Mapping[str, Any]]]()
    for name, settings in trained:
        if training_place(parse_place(settings["data"])) == place:
            here.append((name, settings))
        elif say and context.split is None and settings.get("split") is not None:
            options = _as_options(settings)
            logger.warning(
                "%s: the split of its data, %s (%s), is not taken for %s", name, settings["data"], options, data
            )
    keyed = (settings.get("group") for _, settings in here)
    keyed = next((group for group in keyed if group and group.partition("#")[0] == context.group), context.group)
    context = replace(context, group=keyed)  # with the name of the key of the run, which must be there
    taken: dict[str, Any] = {}
    for setting in _OF_RUNS:
        if getattr(context, setting) is not None or (setting == "split" and _has_val(data)):
            continue
        values = dict.fromkeys(settings.get(setting) for _, settings in here)
        if len(values) > 1:
            each = "; ".join(f"{name}: {_as_options(settings) or 'neither'}" for name, settings in here)
            raise UserError(
                f"the runs were trained on {data} with different --group or --split ({each}): give both, for all; "
                f"{NONE} stands for none"
            )
        (value,) = values or (None,)
        taken |= {} if value is None else {setting: value}
    if "split" in taken and context.group is not None and settled(context.group) != here[0][1].get("group"):
        raise UserError(
            f"--group {context.group} makes another split than that of {here[0][0]} ({_as_options(here[0][1])}), which "
            f"would have images that it was trained on: give --split, too; --split {NONE} makes none"
        )
    if taken and say:
        names = ", ".join(name for name, _ in here)
        logger.warning(
            "measured as %s was trained: %s (--group %s, --split %s: without)", names, _as_options(taken), NONE, NONE
        )
    return replace(context, **taken)


_OF_RUNS = ("group", "split")
"""Settings of a run that are fields of `Context` too."""


def _as_options(settings: Mapping[str, Any]) -> str:
    values = ((name, settings.get(name)) for name in _OF_RUNS)
    return " ".join(f"--{name} {quote(f'{value}')}" for name, value in values if value is not None)


def training_place(data: Path) -> frozenset[Path]:
    """Return the places of a training, in whatever order they were given."""
    with contextlib.suppress(UserError):  # moved away since
        data = resolve_split(data, "train")
    place = data.resolve()
    return frozenset(place.places if isinstance(place, JoinedPath) else (place,))


def _has_val(data: Path) -> bool:
    with contextlib.suppress(UserError):
        return find_split(data, "val") is not None
    return False


# Labelled images


def labelled_images(data: Data, context: Context = DEFAULT_CONTEXT) -> Images:
    """Return the labelled images that classify and that are classified.

    Of a folder, these are its train split and its val split. Without a val split they are those that `context.split`
    makes; without it and without a train split, all images and None.

    Raises UserError if there are no data or no labels, one split alone, a single class in the first, or as
    `Context.prepared`.
    """
    if data is None:
        raise UserError("no images to measure on: give --data FOLDER with train/CLASS/... and val/CLASS/...")
    if isinstance(data, Path):
        train = find_split(data, "train")
        if find_split(data, "val") is None and (train is None or context.share is not None):
            return images_of(train or data, None, context)
        val = resolve_split(data, "val")
        if train is None:  # training takes DATA itself then; an evaluation must not, for val lies in it
            raise UserError(
                f"{data}: no training folder found next to {val.name} (looked for {', '.join(SPLITS['train'])}). "
                "Add one with labelled images."
            )
        return images_of(train, val, context)
    _require_classes(*data)
    return context.prepared(*data)


def require_labels(data: Data, context: Context = DEFAULT_CONTEXT) -> None:
    """Raise UserError for images that no evaluation with labels can use: `Evaluation.check` of most of them.

    A missing val split is refused only if the context has the split that would be made; else a run may have one.
    """
    context = replace(context, group=None)
    if isinstance(data, Path) and context.split is None and find_split(data, "val") is None:
        images_of(find_split(data, "train") or data, None, context)
        return
    known, queries = labelled_images(data, context)
    if queries is not None:
        require_known_classes(known, queries)


def images_of_splits(data: Data, context: Context = DEFAULT_CONTEXT, *, what: str) -> tuple[ImageSource, ImageSource]:
    """Return the labelled images of a train split, and those of a val split with no other classes.

    what: is measured on the latter; it begins the sentence of an error. Raises UserError as `labelled_images`, and if
    there is no val split.
    """
    train, val = labelled_images(data, context)
    if val is None:
        raise UserError(
            f"{train.name} has no val split, and {what} must be measured on other images: --split 0.8 makes one"
        )
    require_known_classes(train, val)
    return train, val


def images_of(gallery: Path, queries: Path | None, context: Context = DEFAULT_CONTEXT) -> Images:
    """Return the labelled images of two folders, whose paths are made absolute; no queries if both are the same.

    Raises UserError if there are no labels, the gallery holds a single class, a split is asked for and there are
    queries, or as `Context.prepared`.
    """
    known = find_images(gallery.resolve(), labelled=True)
    _require_classes(known, None)
    if queries is None or str(queries.resolve()) == known.name:
        return context.prepared(known, None)
    if context.share is not None:
        raise UserError(f"{queries} is there to measure on: leave out --split, which is for images without a val split")
    return context.prepared(known, find_images(queries.resolve(), labelled=True))


def _require_classes(known: ImageSource, queries: ImageSource | None) -> None:
    """Raise UserError if there are no labels, or a single class in the first."""
    for images in (known, queries or known):
        if images.labels is None:
            raise UserError(f"{images.name}: no labels; give a dataset whose items are pairs (image, label)")
    present = sorted({known.classes[label] for label in known.labels or ()})
    if len(present) < 2:  # every answer would be right
        raise UserError(
            f"{known.name}: all {len(known)} images are of one class ({', '.join(present)}), so every answer is right. "
            "Give images of at least two classes; the folder may be one level too high"
        )


def grouping(images: Images, context: Context) -> dict[str, Any]:
    """Return the entries of a protocol about groups (where they come from, not their names) and the split, if any."""
    return {name: value for name, value in expected_grouping(images, context).items() if value is not None}


def expected_grouping(images: Images | None, context: Context) -> dict[str, Any]:
    """Return the same for `Evaluation.expected`: None means that a result must not have the entry."""
    given = None if context.group == NONE else settled(context.group)
    return {"group": given if images is None else images[0].grouping or None, "split": context.share}


def grouping_words(protocol: Mapping[str, Any]) -> str:
    """Return the words of a protocol line on the split and where groups come from; "" without."""
    split = f", a split that has {100 * protocol['split']:g} % to train on" if "split" in protocol else ""
    return split + (f", groups by {protocol['group']}" if "group" in protocol else "")


def shown_images(data: Data) -> ImageSource:
    """Return the val images, or the training images if there is no val split; labels do not matter.

    Raises UserError if there are no data or no images.
    """
    if data is None:
        raise UserError("no images to measure on: give --data FOLDER")
    if isinstance(data, Path):
        return find_images(find_split(data, "val") or resolve_split(data, "train"))
    return data[1] or data[0]


def shown_entries(data: Data) -> dict[str, Any]:
    """Return the entries of a protocol of images without labels: images (their folder) and count; none without data."""
    if data is None:
        return {}
    images = shown_images(data)
    return {"images": location(images), "count": len(images)}


def other_images(place: Path, data: Data, option: str, measured: Iterable[ImageSource] = ()) -> ImageSource:
    """Return the images of a folder that has none of those that are measured, as what is learned on these is too good.

    data: what was given to measure on. option: names the folder. measured: the images of `data` that are measured.
    Raises UserError if the folder is `data`, has one of these images, or has no image.
    """
    if isinstance(data, Path) and place.resolve() == data.resolve():
        raise UserError(f"{option} {place} is what is measured: give a folder of other images")
    others = find_images(place.resolve(), labelled=False)
    files = {others.listed_as(index) for index in range(len(others))} - {None}
    for images in measured:
        for index in range(len(images)):
            if (file := images.listed_as(index)) in files:
                raise UserError(f"{option} {place} has {file}, which is measured: give a folder of other images")
    return others


def require_known_classes(known: ImageSource, queries: ImageSource) -> None:
    """Refuse images of classes that `known` lacks, with a UserError that names them."""
    unknown = sorted(set(queries.classes).difference(known.classes))
    if unknown:
        raise UserError(
            f"{len(unknown)} of {len(queries.classes)} classes in {queries.name} are not in {known.name}: "
            f"{', '.join(unknown[:5])} (there: {', '.join(known.classes[:5])}...). "
            "The folder of a class must have the same name in both"
        )


def made_of(protocol: Mapping[str, Any]) -> str:
    """Return the words of a protocol line on what a fitted baseline consists of; "" for all other models."""
    return f" ({protocol['made_of']})" if "made_of" in protocol else ""


def location(images: ImageSource) -> str:
    """Return what a protocol calls images: their folder, or if they are no files a digest of them."""
    return images.name if images.stamp(0) is not None else f"{results.DATASET}{images.fingerprint()[:12]}"
