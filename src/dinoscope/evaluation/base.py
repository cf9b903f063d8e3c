"""What an evaluation is, the conditions that all evaluations share, and the labelled images that some of them need.

One evaluation is one file of this room: its settings, its run, its protocol, and how its results are shown. A new one
is such a file and one line in `evaluation.EVALUATIONS`; the command line, `compare`, the report, the studies and the
Python API iterate over that and know no evaluation by name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch

from dinoscope.data.sources import SPLITS, ImageFolder, find_images, find_split, resolve_split
from dinoscope.errors import UserError
from dinoscope.evaluation.results import conditions, keep, settled
from dinoscope.evaluation.statistics import Estimate, estimate_metric, mean_intervals
from dinoscope.features import ExtractConfig, cached_extract, evaluation_view, extract
from dinoscope.model_names import Model, Watch, unwatched
from dinoscope.models.backbone import Backbone
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

Data = Path | tuple[Path, Path | None] | None
"""A folder; or of labelled images, the folders that classify and that are classified (None: each by all others)."""


@dataclass
class Context:
    """Where networks run and how features are computed: the same for every evaluation. Figures depend on the device,
    the precision, the image size and the crop alone.

    device: None leaves a network where it is. precision: "fp32", "bf16" or "fp16".
    batch_size: images per forward; None takes the evaluation's own. workers: loader processes; -1 chooses.
    image_size: side of the square that networks see, in pixels; None takes the size that each stores.
    crop_fraction: part of the short side that the centre crop keeps; None takes `features.default_crop_fraction`.
    cached: keep features on disk and take them from there (see `cached_extract`), in the folder `place` if given.
    watch: hears of the progress.
    listed: labelled images that were found already; see `labelled`.
    finished: told of each model's result as soon as it is there; returns the name under which it is kept, if it is.
    out, overwrite: the folder for what is made besides results, as masks of every frame; None makes nothing.
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
    finished: Callable[[Model, Result], str | None] = lambda _, __: None
    out: Path | None = None
    overwrite: bool = False
    listed: dict[Any, tuple[ImageFolder, ImageFolder | None]] = field(default_factory=dict[Any, Any], repr=False)

    def extraction(self, feature: Literal["image", "linear"] = "image") -> ExtractConfig:
        """Return these conditions as `features.extract` takes them."""
        size, crop = self.image_size, self.crop_fraction
        return ExtractConfig(
            self.device, self.batch_size or 64, self.workers, size, crop, DTYPES[self.precision], feature
        )

    def features(
        self, backbone: Backbone, folder: ImageFolder, what: str, feature: Literal["image", "linear"] = "image"
    ) -> FeatureBank:
        """Return the features of a folder; `what` names them for `watch`. Raises UserError as `extract` does."""
        config = self.extraction(feature)
        with self.watch(what) as progress:
            if self.cached:
                return cached_extract(backbone, folder, config, progress, self.place)
            return extract(backbone, folder, config, progress)

    def network(self, model: Model) -> dict[str, Any]:
        """Return the entries of a protocol about weights, view and arithmetic."""
        view = evaluation_view(model.backbone, self.extraction())
        return {
            "weights": model.weights,
            "weights_hash": model.weights_hash,
            "image_size": view.size,
            "crop_fraction": view.crop_fraction,
            "precision": self.precision,
        }

    def labelled(self, data: Data) -> tuple[ImageFolder, ImageFolder | None]:
        """Return the labelled images that classify and that are classified; each folder is listed once.

        Raises UserError as `gallery_and_queries` does, or if there are no data.
        """
        if data is None:
            raise UserError("no images to measure on: give --data FOLDER with train/CLASS/... and val/CLASS/...")
        if data not in self.listed:
            found = gallery_and_queries_in(*data) if isinstance(data, tuple) else gallery_and_queries(data)
            self.listed[data] = found
        return self.listed[data]


@dataclass(frozen=True)
class Column:
    """A headline figure of an evaluation, in tables that set models next to each other.

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
"""Labels of models, and what was measured of each under one protocol."""


def metrics_table(results: Labelled, title: str = "") -> list[Table]:
    """Return one table of all metrics of the results: a row for each metric, a column for each model."""
    names = dict.fromkeys(metric.title for _, result in results for metric in result.metrics)
    rows: list[TableRow] = []
    for name in names:
        metrics = [next((each for each in result.metrics if each.title == name), None) for _, result in results]
        unit = next(each.unit for each in metrics if each is not None)
        rows.append(TableRow((name, *(ABSENT if each is None else each.text(2) for each in metrics), unit)))
    columns = (TableColumn("metric"), *(TableColumn(label, "right") for label, _ in results), TableColumn("unit"))
    return [Table(columns, (Section(tuple(rows)),), title)]


def models_table(
    results: Labelled,
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
    by_rank = [result.metric(rank) for _, result in results]
    values = [0 if metric is None else metric.value for metric in by_rank]
    results = [results[place] for place in sorted(range(len(results)), key=lambda place: -values[place])]
    names = list(titles)
    metrics = [[result.metric(name) for name in names] for _, result in results]
    rows = best_marked(
        [
            TableRow((label, *(ABSENT if metric is None else metric.text() for metric in row)))
            for (label, _), row in zip(results, metrics, strict=True)
        ],
        [[None, *(None if m is None or m.name in not_bold else m.value for m in row)] for row in metrics],
        lambda column, top, row: settled(results[top][1], results[row][1], names[column - 1]),
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


def items_csv(results: Labelled) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return a row for each item of each model: facts, then figures with four digits after the point."""
    facts = dict.fromkeys(name for _, result in results if result.items for name in result.items.facts)
    figures = dict.fromkeys(name for _, result in results if result.items for name in result.items.figures)
    rows: list[tuple[str, ...]] = []
    for label, result in results:
        items = result.items or Items((), {})
        for place, name in enumerate(items.names):
            texts = (items.facts[fact][place] if fact in items.facts else "" for fact in facts)
            values = (f"{items.figures[f][place]:.4f}" if f in items.figures else "" for f in figures)
            rows.append((label, name, *texts, *values))
    return ("model", "item", *facts, *figures), rows


ABREAST = 4
"""Models on one sheet of examples."""


def best_first(results: Sequence[Result], figure: str) -> list[tuple[str, tuple[float, ...]]]:
    """Return the items that all results with items share, and what each result scored, best mean first."""
    scores = [
        dict(zip(result.items.names, result.items.figures[figure], strict=True))
        for result in results
        if result.items is not None and figure in result.items.figures
    ]
    common = [name for name in scores[0] if all(name in each for each in scores)] if scores else []
    items = [(name, tuple(each[name] for each in scores)) for name in common]
    return sorted(items, key=lambda item: (-sum(item[1]) / len(item[1]), item[0]))


def differences(results: Labelled, figure: str) -> list[tuple[str, str, Estimate]]:
    """Return how much larger a figure of the later of two models is, of every pair: over the same items, paired.

    Means and 95 % intervals, in the unit of the figure. Pairs without items in common are left out.
    """
    found: list[tuple[str, str, Estimate]] = []
    for (first, one), (second, two) in combinations(results, 2):
        items = best_first([one, two], figure)
        if items and len(items[0][1]) == 2:
            order = dict(items)
            names = one.items.names if one.items else ()
            column = torch.tensor([[order[n][1] - order[n][0]] for n in names if n in order], dtype=torch.float64)
            found.append((first, second, mean_intervals(column, limits=[(-100.0, 100.0)])[0]))
    return found


def differences_table(results: Labelled, figures: Mapping[str, str]) -> Table:
    """Return one row for each pair of models. figures: name of a metric -> title of its column."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for figure in figures:
        for first, second, estimate in differences(results, figure):
            metric = estimate_metric(figure, estimate, 0, scale=1)
            cells.setdefault((first, second), {})[figure] = metric.text(sign=True)
    rows = [
        TableRow((f"{second} − {first}", *(row.get(figure, ABSENT) for figure in figures)))
        for (first, second), row in cells.items()
    ]
    columns = (TableColumn("Models"), *(TableColumn(title, "right") for title in figures.values()))
    caption = "Differences in points of % [95 % interval], paired: the models saw the same items"
    return Table(columns, (Section(tuple(rows)),), caption)


@dataclass(frozen=True)
class Evaluation:
    """One way to measure models.

    name: its key in `EVALUATIONS` and its command. title: in sentences and above columns. summary: one line of help.
    needs: what `data` must hold: "labels" (train/CLASS/... and val/CLASS/..., or CLASS/...), "masks" (images with
        masks of objects), "videos", "images", or "nothing".
    config: a frozen dataclass of its settings, each with a docstring. The command's options are its fields, but those
        with `field(metadata=INTERNAL)`.
    run: measure models on data. The results are in the order of the models; after them may come others of what the
        settings name besides models (folders of masks), labelled by their protocol's `weights`. Raises UserError.
    columns: the headline figures, in the order of a table.
    protocol_line: a protocol in one line for a person, with or without the entries about the model
        (`results.OF_THE_MODEL`). Raises KeyError if another entry is missing.
    expected: the entries of a protocol that are known beforehand for a model, data (None: the settings alone) and
        settings; a kept result that has them all need not be measured again. Raises UserError as `run` does.
    default: compared and reported without being asked for.
    by_network: the result depends on the network and not on its weights (speed).
    needs_no_model: it can do without any model, as its settings may name something else to be measured.
    uses: fields of `Context` that matter to it.
    prefix: what the names of its kept results begin with; "" takes `name`.
    file_name: the name under which a result is kept, from its settings and protocol.
    tables: results of several models under one protocol as tables, with published figures in the first if asked for.
    charts: the same as curves.
    examples: sheets of the best and the worst items (`ends` of each) for results of these models; empty if nothing
        was kept to draw. Raises UserError if the data are not there any more.
    has_published: whether published figures may stand next to results of a protocol.
    csv: header and rows of a file of single figures; None takes the items (`items_csv`).
    earlier_csv: what that file was called in version 0.1; it is written under both names for one release.
    """

    name: str
    title: str
    summary: str
    needs: Literal["labels", "masks", "videos", "images", "nothing"]
    config: type[Any]
    run: Callable[[Sequence[Model], Data, Any, Context], tuple[Result, ...]]
    columns: tuple[Column, ...]
    protocol_line: Callable[[Mapping[str, Any]], str]
    expected: Callable[[Model, Data, Any, Context], Mapping[str, Any]]
    default: bool = False
    by_network: bool = False
    needs_no_model: bool = False
    uses: tuple[str, ...] = ("device", "precision", "batch_size", "workers", "image_size", "crop_fraction", "cached")
    prefix: str = ""
    file_name: Callable[[Any, Mapping[str, Any]], str] | None = None
    tables: Callable[[Labelled, bool], list[Table]] | None = None
    charts: Callable[[Labelled], list[LineChart]] | None = None
    examples: Callable[[Sequence[Result], Sequence[Model], int, Context], list[Sheet]] | None = None
    has_published: Callable[[Mapping[str, Any]], bool] = lambda _: False
    csv: Callable[[Labelled], tuple[Sequence[str], Sequence[Sequence[str]]]] | None = None
    earlier_csv: str = ""

    def kept_as(self, config: Any, protocol: Mapping[str, Any]) -> str:
        """Return the name under which a result is kept."""
        return self.file_name(config, protocol) if self.file_name else self.prefix or self.name


INTERNAL = {"internal": True}
"""Metadata of a setting that is no option of the command."""


def measure(evaluation: Evaluation, models: Sequence[Model], data: Data, config: Any, context: Context) -> list[Result]:
    """Measure models, and keep each result in the run folder if the model is one.

    Raises UserError as `Evaluation.run` does, or if a result cannot be written.
    """
    done: set[int] = set()

    def finished(model: Model, result: Result) -> str | None:
        done.add(id(model))
        return keep(model.path, evaluation.kept_as(config, result.protocol), result) if model.path is not None else None

    results = evaluation.run(models, data, config, replace(context, finished=finished))
    for model, result in zip(models, results, strict=False):
        if id(model) not in done:
            finished(model, result)
    return list(results)


def is_expected(result: Result, expected: Mapping[str, Any]) -> bool:
    """Return whether a result came about under the conditions that are asked for, whatever the weights."""
    found, wanted = conditions(result), conditions(Result(result.evaluation, expected, ()))
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


# Labelled images


def gallery_and_queries(data: Path) -> tuple[ImageFolder, ImageFolder | None]:
    """Return the labelled images of the train split and of the val split; of a folder without splits all, and None.

    Raises UserError if there is one split alone, or as `gallery_and_queries_in` does.
    """
    if find_split(data, "train") is None and find_split(data, "val") is None:
        return gallery_and_queries_in(data, None)
    return gallery_and_queries_in(*both_splits(data))


def gallery_and_queries_in(gallery: Path, queries: Path | None) -> tuple[ImageFolder, ImageFolder | None]:
    """Return the labelled images of two folders, whose paths are made absolute; no queries if both are the same.

    Raises UserError if there are no labels, or the gallery holds a single class.
    """
    known = find_images(gallery.resolve(), labelled=True)
    require_classes(known)
    apart = queries is not None and queries.resolve() != known.root
    return known, find_images(queries.resolve(), labelled=True) if queries and apart else None


def both_splits(data: Path) -> tuple[Path, Path]:
    """Return the folders of the train split and of the val split. Raises UserError if one is missing.

    Training takes DATA itself if it has no train folder; a measurement must not, for val lies in it.
    """
    val, train = resolve_split(data, "val"), find_split(data, "train")
    if train is None:
        raise UserError(
            f"{data}: no training folder found next to {val.name} (looked for {', '.join(SPLITS['train'])}). "
            "Add one with labelled images."
        )
    return train, val


def require_classes(known: ImageFolder) -> None:
    """Refuse labelled images of a single class, with a UserError: every answer would be right."""
    present = sorted({known.classes[label] for label in known.labels or ()})
    if len(present) < 2:
        raise UserError(
            f"{known.root}: all {len(known)} images are of one class ({', '.join(present)}), so every answer is right. "
            "Give images of at least two classes; the folder may be one level too high"
        )


def require_known_classes(known: ImageFolder, queries: ImageFolder) -> None:
    """Refuse images of classes that `known` lacks, with a UserError that names them."""
    unknown = sorted(set(queries.classes).difference(known.classes))
    if unknown:
        raise UserError(
            f"{len(unknown)} of {len(queries.classes)} classes in {queries.root} are not in {known.root}: "
            f"{', '.join(unknown[:5])} (there: {', '.join(known.classes[:5])}...). "
            "The folder of a class must have the same name in both"
        )
