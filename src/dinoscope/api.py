"""The package in Python. `import dinoscope as ds` gives every name of `__all__`, loaded when it is first used.

    run   = ds.train("photos/", method="dino", backbone="vit_tiny_patch16_224", epochs=50, out="runs/a")
    model = ds.load("runs/a")
    bank  = ds.embed(model, "photos/")
    found = ds.predict("runs/tuned", "photos/")
    table = ds.evaluate([run, model], ["knn", "linear"], data="cifar10/")
    ds.attention(model, "cat.jpg").save("cat.png")
    study = ds.ablate(run.config, axes={"method.teacher_temperature": [0.02, 0.04]}, seeds=2, out="study")
    ds.report([run, model], out="report.html")
    ds.verdict([run, "dino_vits16", "pixels"], "photos/").sentence

Images are paths, PIL images, numpy arrays or tensors. Data are a folder, or a map-style `torch.utils.data.Dataset` of
images or (image, label) pairs. A mistake raises `UserError`, whose text says what to do.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import nn
from torch.utils.data import Dataset

from dinoscope.choosing import AUTO, chosen
from dinoscope.config import changed, leaves
from dinoscope.curation import Curation, CurationConfig, curate_images
from dinoscope.data.finding import find_images, resolve_split
from dinoscope.data.images import as_raw
from dinoscope.data.listing import list_text
from dinoscope.data.sources import ImageSource, dataset_images
from dinoscope.data.views import VIEWS
from dinoscope.errors import UserError, lookup
from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation.base import Context, Images, fitted, inherited, measure
from dinoscope.evaluation.evidence import Verdict
from dinoscope.evaluation.online import AttentionSnapshots, OnlineKNN
from dinoscope.explain.attention import network_input
from dinoscope.explain.maps import MAPS, map_title
from dinoscope.explain.patch_features import load_patches as load_patches
from dinoscope.methods import METHODS
from dinoscope.model_names import Model, load_models, wrap
from dinoscope.near_duplicates import Duplicates, DuplicatesConfig, find_duplicates
from dinoscope.places import joined, parse_place
from dinoscope.prediction import Predictions, images_at, load_classifier, predictions
from dinoscope.recipes import RECIPES as RECIPES
from dinoscope.recipes import run_config
from dinoscope.system import pick_device
from dinoscope.tables import Column, Section, Table, TableRow
from dinoscope.training.budget import Budget, now
from dinoscope.training.config import RunConfig, fitted_channels, fitted_warm_up
from dinoscope.training.listeners import Listener
from dinoscope.training.loop import RunResult as Run
from dinoscope.training.loop import train as run_training
from dinoscope.training.start import beginning_from
from dinoscope.types import FeatureBank, Metric, Result, import_pandas

if TYPE_CHECKING:
    from dinoscope.study.results import AblationResult

logger = logging.getLogger("dinoscope")

Data = Path | str | Dataset[Any] | ImageSource
Image = Any
"""A path, PIL image, array [h, w, c] or tensor [c, h, w]; see `data.images.as_raw`."""


AnyModel = Path | str | Run | Model | nn.Module


def recipe(name: str, data: Path | str, out: Path | str, **changes: Any) -> RunConfig:
    """Return settings by name, with changes: `recipe("dino_small_images", "cifar10", "runs/c", epochs=20)`.

    With init=MODEL, the network is that of the model to begin from, unless backbone=NAME says otherwise.
    Raises UserError for an unknown name or model.
    """
    config = run_config(name, parse_place(data), Path(out))
    if changes.get("init") is not None:
        config = beginning_from(config, changes["init"])
    return fitted_channels(replace(config, **changes), changes)


def train(
    data: Data | RunConfig,
    *,
    out: Path | str | None = None,
    method: str | None = None,
    recipe: str | None = None,
    views: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    minutes: float | Budget | None = None,
    listeners: Sequence[Listener] = (),
    **settings: Any,
) -> Run:
    """Train, with online k-NN and attention snapshots at every evaluation.

    Args:
        data: a folder or a dataset; or the whole settings, and then only what follows `views`.
        out: the run folder, which must not exist yet.
        method: a name in `METHODS`; by default the recipe's, else DINO.
        recipe: a name in `RECIPES`, whose settings are the defaults instead of those of `RunConfig`; or "auto", which
            chooses what is not given by the images and the machine (`choosing`), and logs why.
        views: a name in `VIEWS`.
        resume: continue the run in `out`, with the same dataset if it was trained on one.
        overwrite: replace the run in `out`.
        minutes: how long the training takes in all, instead of epochs. A `Budget` also names settings that are not to
            be fitted to the length besides those that are given here.
        listeners: see `dinoscope.training.listeners.Listener`.
        settings: of `RunConfig`, with dotted names for those within: `epochs=50, **{"method.koleo": 0.1}`.

    Raises UserError for settings, data or an existing run folder that do not fit.
    """
    source = None
    limit = Budget(minutes, tuple(settings), now()) if isinstance(minutes, int | float) else minutes
    if isinstance(data, RunConfig):
        config = fitted_channels(changed(data, settings), settings)
    else:
        if out is None:
            raise UserError("out, the folder of the run, is missing")
        source = None if isinstance(data, str | Path) else _source(data)
        folder, automatic = parse_place(data) if isinstance(data, str | Path) else Path(), recipe == AUTO and not resume
        config = _config(folder, Path(out), method, None if recipe == AUTO else recipe, views)
        usual, config = config, fitted_channels(changed(config, settings), settings)
        if automatic:
            config = _chosen(config, {*settings}, method, views, source)
        elif not resume:
            config, shortened = fitted_warm_up(config, usual, settings)
            if shortened:
                logger.info("%s", shortened)
    return run_training(
        config,
        resume=resume,
        overwrite=overwrite,
        listeners=[OnlineKNN(source=source), AttentionSnapshots(source=source), *listeners],
        source=source,
        limit=limit,
    )


def _config(data: Path, out: Path, method: str | None, recipe: str | None, views: str | None) -> RunConfig:
    config = RunConfig(data, out) if recipe is None else run_config(recipe, data, out)
    if method is not None:
        config = replace(config, method=lookup("method", method, METHODS).config())
    return config if views is None else replace(config, views=lookup("preset of views", views, VIEWS))


def _chosen(
    config: RunConfig, given: set[str], method: str | None, views: str | None, source: ImageSource | None
) -> RunConfig:
    given |= {"method"} if method else set()
    given |= {name for name in leaves(config) if views and name.startswith("views.")}
    choice = chosen(config, given, lambda done, total: None, source)
    logger.info("%s", "; ".join(choice.reasons))
    return choice.config


def load(model: AnyModel) -> Model:
    """Return a model, in evaluation mode, on the CPU.

    model: a run (or its folder), an exported folder, a weights file, released weights by name, `shipped`,
        `random:NETWORK`, `timm:NAME`, or a module of one's own (see `wrap`).

    `model.backbone` is a module that returns `Tokens` for normalised images: with uint8 RGB images
    [batch, channels, height, width], `model(images)` are their tokens.

    Raises UserError if there is no such model, or released weights cannot be fetched.
    """
    loaded, *others = _models([model])
    if others:
        raise UserError(f"{model} holds {len(others) + 1} runs: name one of them")
    return loaded


def _models(models: Sequence[AnyModel]) -> list[Model]:
    return load_models(_named(models))


def _named(models: Sequence[AnyModel]) -> list[str | Model]:
    """Return models as `load_models` takes them. One that is given twice, as a run and as a `Model`, counts once."""
    names: dict[Any, str | Model] = {}
    for model in models:
        if isinstance(model, nn.Module):
            names[id(model)] = wrap(model)
        elif isinstance(model, Model):
            names[model.name if model.path is None else model.path.resolve()] = model
        else:
            name = str(model.out if isinstance(model, Run) else model)
            names[Path(name).resolve() if Path(name).exists() else name] = name
    return list(names.values())


def _source(data: Data) -> ImageSource:
    if isinstance(data, ImageSource):
        return data
    return find_images(parse_place(data)) if isinstance(data, str | Path) else dataset_images(data)


def _images(data: Data | tuple[Data, Data]) -> Images:
    if not isinstance(data, tuple):
        return _source(data), None
    train, val = data
    return _source(train), _source(val)


def embed(model: AnyModel, data: Data, *, device: str = "auto", **context: Any) -> FeatureBank:
    """Return the feature of every readable image: `features` [n, dim], `labels`, `paths`; `.to_pandas()`.

    context: fields of `evaluation.base.Context` (batch_size, image_size, workers, ...).

    Raises UserError if there are no images.
    """
    conditions = Context(pick_device(device), **context)
    images = _source(data)
    return conditions.features(conditions.fitted(load(model), (images, None)).backbone, images, "features")


def curate(
    model: AnyModel,
    data: Data,
    *,
    out: Path | str | None = None,
    overwrite: bool = False,
    copies_model: AnyModel | None = None,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    **choice: Any,
) -> Curation:
    """Choose a balanced training set from many images, without labels: `train(curate(model, data, share=0.5).chosen)`.

    Args:
        model: as `load` takes it; its features decide.
        data: a folder (of one with splits, the train split), an archive, a list or a dataset.
        out: list to write, .txt, .csv or .tsv, with a table and a page next to it; for files of this machine only.
        overwrite: replace these files.
        copies_model: whose features find copies; by default those of `model`.
        device: cpu, cuda, mps or auto.
        settings: fields of `evaluation.base.Context` (batch_size, image_size, workers, ...).
        choice: fields of `curation.CurationConfig`: size or share, clusters, copies_above, seed, ...

    Returns what became of each image; `.chosen` are the images to train on.

    Raises UserError as `curation.curate_images` and `report.curation.write_files` do.
    """
    from dinoscope.report.curation import claim_files, write_files

    if out is not None:
        claim_files(Path(out), overwrite=overwrite)
    config = CurationConfig(**choice)
    images = find_images(resolve_split(parse_place(data), "train")) if isinstance(data, str | Path) else _source(data)
    if out is not None:
        list_text(Path(out), images)  # what no list can name is refused before the work
    context, other = Context(pick_device(device), **(settings or {})), None
    if copies_model is not None:
        other = load(copies_model)
    curation = curate_images(load(model), images, config, context, other)
    if out is not None:
        write_files(curation, Path(out), lambda done, total: None)
    return curation


def predict(
    model: AnyModel, data: Data | Sequence[Path | str], *, top: int = 5, device: str = "auto", **context: Any
) -> Predictions:
    """Return the most probable classes of images, by a model that was trained or fine-tuned with labels.

    data: images as of `embed`, or one or several image files. top: how many classes, at most.
    context: fields of `evaluation.base.Context` (batch_size, image_size, workers, ...).

    Raises UserError if the model has no classifier, or no image can be read.
    """
    loaded = load(model)
    classifier = load_classifier(loaded)
    if isinstance(data, str | Path):
        images = images_at(parse_place(data))
    elif isinstance(data, Sequence) and not isinstance(data, Dataset | ImageSource):
        images = images_at(joined([parse_place(own) for own in data]))
    else:
        images = _source(data)
    bank = Context(pick_device(device), **context).features(loaded.backbone, images, "features")
    return predictions(images, bank, classifier, top)


@dataclass(frozen=True)
class Row:
    """One figure of one model. low, high: its 95 % interval, if it has one; n: the items that it is over."""

    model: str
    evaluation: str
    metric: str
    value: float
    unit: str
    low: float | None
    high: float | None
    n: int | None
    parameters: Mapping[str, float]


@dataclass(frozen=True)
class EvaluationTable:
    """Results of several models. `results[i]` is of `models[i]`, as often as it was evaluated."""

    models: tuple[str, ...]
    results: tuple[Result, ...]

    @property
    def rows(self) -> list[Row]:
        """Every figure of every model."""
        return list(self._rows())

    def __iter__(self) -> Iterator[Row]:
        return self._rows()

    def _rows(self) -> Iterator[Row]:
        for model, result in zip(self.models, self.results, strict=True):
            for m in result.metrics:
                yield Row(model, result.evaluation, m.name, m.value, m.unit, m.low, m.high, m.n, m.parameters)

    def to_pandas(self) -> Any:
        """Return the rows as a pandas.DataFrame. Needs pandas."""
        return import_pandas().DataFrame([{**vars(row), "parameters": dict(row.parameters)} for row in self])

    def table(self) -> Table:
        """Return a row for each model and a column for each headline figure."""
        names = tuple(dict.fromkeys(self.models))
        columns = [
            column
            for name in dict.fromkeys(result.evaluation for result in self.results)
            for column in EVALUATIONS[name].columns
        ]
        shown = {(model, column.name): "" for model in names for column in columns}
        for model, result in zip(self.models, self.results, strict=True):
            for column in EVALUATIONS[result.evaluation].columns:
                metric = column.metric_of(result)
                shown[model, column.name] = "" if metric is None else metric.text(column.digits)
        rows = tuple(TableRow((model, *(shown[model, column.name] for column in columns))) for model in names)
        titles = (Column("Model"), *(Column(column.title, "right") for column in columns))
        return Table(titles, (Section(rows),), "95 % intervals in brackets")

    def latex(self) -> str:
        """Return `table` for LaTeX (booktabs)."""
        from dinoscope.report.tables import latex

        return latex(self.table())

    def markdown(self) -> str:
        """Return `table` for Markdown."""
        from dinoscope.report.tables import markdown

        return markdown(self.table())

    def __str__(self) -> str:
        return self.markdown()


def evaluate(
    models: AnyModel | Sequence[AnyModel],
    evaluations: str | Sequence[str] = ("knn", "linear"),
    data: Data | tuple[Data, Data] | None = None,
    *,
    device: str = "auto",
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    **context: Any,
) -> EvaluationTable:
    """Measure models, and keep each result in its run folder, or in the cache for models without one.

    Args:
        models: one or several, each as `load` takes it.
        evaluations: names in `EVALUATIONS`.
        data: what the evaluations need: a folder of labelled images with train and val splits, a VOC or DAVIS layout,
            ...; or a dataset of (image, label) pairs, or two: that of train and that of val.
        device: cpu, cuda, mps or auto.
        settings: evaluation -> its settings that are not the defaults: `{"knn": {"ks": (20,)}}`.
        context: fields of `evaluation.base.Context` (batch_size, image_size, precision, ...).

    Raises UserError for an unknown name, or if data or models do not fit an evaluation.
    """
    several = models if isinstance(models, Sequence) and not isinstance(models, str) else [models]
    names = [evaluations] if isinstance(evaluations, str) else list(evaluations)
    chosen = [lookup("evaluation", name, EVALUATIONS) for name in names]
    configs = [changed(each.config(), (settings or {}).get(each.name, {})) for each in chosen]
    images = None if data is None else parse_place(data) if isinstance(data, str | Path) else _images(data)
    conditions = Context(pick_device(device), **context)
    if isinstance(data, tuple) and conditions.share is not None:
        raise UserError("split is for images without a val split; give one source, or two and no split")
    for evaluation, config in zip(chosen, configs, strict=True):
        evaluation.check(images, config, conditions)
    loaded = _models(several)
    results = [
        (model.label, result)
        for evaluation, config in zip(chosen, configs, strict=True)
        for model, result in zip(loaded, measure(evaluation, loaded, images, config, conditions), strict=False)
    ]
    return EvaluationTable(tuple(label for label, _ in results), tuple(result for _, result in results))


def knn(model: AnyModel, data: Path | str, config: Any = None, device: str = "auto") -> list[Metric]:
    """Return k-NN accuracies; kept for programs of version 0.1, use `evaluate(model, "knn", data)`."""
    return _one(model, "knn", data, config, device)


def linear(
    model: AnyModel, data: Path | str, config: Any = None, device: str = "auto", fraction: float = 1.0
) -> list[Metric]:
    """Return accuracies of a linear probe; kept for programs of version 0.1, use `evaluate(model, "linear", data)`."""
    settings = replace(config or EVALUATIONS["linear"].config(), label_fraction=fraction)
    return _one(model, "linear", data, settings, device)


def _one(model: AnyModel, name: str, data: Path | str, config: Any, device: str) -> list[Metric]:
    evaluation, context = EVALUATIONS[name], Context(pick_device(device))
    config, models, place = config or evaluation.config(), _models([model]), parse_place(data)
    context = inherited(context, models, place)
    models = fitted(evaluation, models, place, config, context)
    (result,) = evaluation.run(models, place, config, context)
    return list(result.metrics)


@dataclass(frozen=True)
class Attention:
    """What a model attends to in one image.

    image: RGB. maps: of each head, over the patches. title: the kind of map, in words.
    """

    image: UInt8[np.ndarray, "h w 3"]
    maps: Float[np.ndarray, "heads rows columns"]
    title: str

    def save(self, path: Path | str, *, mass: float = 0.6, dpi: int | None = None) -> None:
        """Write a picture: the mean map and its mask of `mass` of the attention, then those of each head.

        path: a PNG, or a PDF if it ends in .pdf. dpi: dots an inch for print, such as 300; None is for the screen, and
        300 in a PDF.

        Raises UserError if the file cannot be written.
        """
        from dinoscope.pictures import PRINT_DPI, write_page
        from dinoscope.report.pages import attention_panel

        dpi = PRINT_DPI if dpi is None and Path(path).suffix.lower() == ".pdf" else dpi
        write_page(Path(path), attention_panel(self.image, torch.from_numpy(self.maps), mass, what=self.title, dpi=dpi))


def attention(
    model: AnyModel, image: Image, size: int | None = None, block: int = -1, *, map: str = "attention"
) -> Attention:
    """Return what a model attends to in an image, head by head (a network without attention: the energy of features).

    Args:
        model: as `load` takes it.
        image: a path, PIL image, array [h, w, c] or tensor [c, h, w].
        size: the short side is resized to it, in pixels; None takes the image size that the model stores.
        block: of a transformer; -1 is the last.
        map: a kind of map, a name in `explain.maps.MAPS`.

    Raises UserError if the image cannot be read, or the model has no such map.
    """
    kind = lookup("kind of map", map, MAPS)
    backbone = load(model).backbone
    config = backbone.config
    raw = as_raw(image)
    given = raw if config.slices == 1 else as_raw(image, config.slices)
    inputs = network_input(backbone, given.pixels(config.channels, config.window), size)
    with torch.set_grad_enabled(map == "gradcam"):
        maps = kind(backbone, inputs, block)[0]
    return Attention(raw.rgb(config.window), maps.detach().float().cpu().numpy(), map_title(map, backbone))


def compare(models: Sequence[AnyModel], out: Path | str, *, data: Path | str | None = None, **options: Any) -> Table:
    """Set models next to each other: accuracy, size and speed, as tables and figures in the folder `out`.

    models: runs, folders of runs, and whatever else `load` takes.
    options: baselines, published, overwrite; see `report.comparison.compare_runs`.

    Raises UserError as `report.comparison.compare_runs` does.
    """
    from dinoscope.report.comparison import compare_runs

    return compare_runs(_models(models), Path(out), None if data is None else parse_place(data), **options)[1]


def duplicates(
    data: Data,
    model: AnyModel | None = None,
    *,
    threshold: float | None = None,
    model_threshold: float | None = None,
    exact: bool = False,
    out: Path | str | None = None,
    device: str = "auto",
    **context: Any,
) -> Duplicates:
    """Return the images that are there more than once, as groups; nothing is moved.

    Args:
        data: a folder, an archive, a list or a dataset.
        model: compares images by its features, too; as `load` takes it. None compares them by their lowest frequencies
            alone, without any network.
        threshold: cosine similarity of lowest frequencies from which two images are near duplicates; None takes 0.9.
        model_threshold: the same of the model's features, which must be given with a model.
        exact: look for equal pixels alone.
        out: folder for duplicates.csv and duplicates.html, which are replaced; None writes nothing.
        device: cpu, cuda, mps or auto.
        context: fields of `evaluation.base.Context` (batch_size, image_size, precision, ...).

    Raises UserError as `near_duplicates.find_duplicates` does, or if a file cannot be written.
    """
    from dinoscope.report.duplicates import write_duplicates

    if isinstance(data, str | Path):
        place = parse_place(data)
        images, given = find_images(place, labelled=False), place
    else:
        images = _source(data)
        given = images, None
    conditions = Context(pick_device(device), **context)
    loaded = None if model is None else conditions.fitted(load(model), given)
    found = find_duplicates(images, DuplicatesConfig(threshold, model_threshold, exact), loaded, conditions)
    if out is not None:
        write_duplicates(found, Path(out))
    return found


def verdict(models: Sequence[AnyModel], data: Path | str, out: Path | str | None = None, **options: Any) -> Verdict:
    """Return which of the models to take for these images, how sure that is, or that the images cannot tell.

    `.sentence` is for a person, `.decision` for a program. out: a folder for verdict.html, .json and .md.
    options: wanted, skip, unlabelled, context, overwrite; see `report.verdict.write_verdict`.

    Raises UserError as `report.verdict.write_verdict` does.
    """
    from dinoscope.report.verdict import write_verdict

    return write_verdict(_models(models), parse_place(data), None if out is None else Path(out), **options)[0]


def report(models: Sequence[AnyModel], out: Path | str, *, data: Path | str | None = None, **options: Any) -> Path:
    """Write one HTML file about models: curves, comparison, pictures, health, settings. Return its path.

    models: runs, folders of runs, and whatever else `load` takes.
    data: labelled images on which what is missing is measured; without, only kept results are shown.
    options: baselines, pictures, title, overwrite; see `report.build.write_report`.

    Raises UserError as `report.build.write_report` does.
    """
    from dinoscope.report.build import write_report

    named = [str(each.run) if isinstance(each, Model) and each.run else each for each in _named(models)]
    return write_report(named, Path(out), None if data is None else parse_place(data), **options).path


def ablate(
    config: RunConfig,
    axes: Mapping[str, Sequence[Any] | Mapping[str, Mapping[str, Any]]],
    out: Path | str,
    *,
    seeds: int | Sequence[int] = 1,
    jobs: int = 1,
    overwrite: bool = False,
) -> AblationResult:
    """Vary settings one at a time around those of a run, train and measure each, and write the result to `out`.

    Called again, it continues; finished runs are not repeated.

    Args:
        config: the baseline.
        axes: dotted name of a setting -> its values; or a name -> label -> settings.
        seeds: how many, from 0 on, or which.
        jobs: runs at the same time.
        overwrite: replace the result of an earlier study in `out`; runs are kept.

    Raises UserError if settings do not fit, or a run failed.
    """
    from dinoscope.report.ablation import claim, write_result
    from dinoscope.study.definition import study_of
    from dinoscope.study.evaluations import Evaluating
    from dinoscope.study.plan import plan_study
    from dinoscope.study.results import gather
    from dinoscope.study.run import WORKER, LocalRunner, execute

    plan = plan_study(study_of(config, axes, seeds), config.data, Path(out))
    claim(Path(out), overwrite=overwrite)
    done = execute(plan.configs, LocalRunner(WORKER, jobs))
    if done.interrupted:
        raise KeyboardInterrupt
    failures = {run.name: run.diagnosis for run in done.named("failed")}
    context = Context(pick_device(config.device), group=config.group, split=config.split)
    evaluating = Evaluating(config.data, context=context)
    result, _ = gather(plan, evaluating, failures, {"data": str(config.data)})
    write_result(result, Path(out), overwrite=overwrite)
    return result
