"""`dinoscope explain`: what models' maps are worth, as numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from dinoscope.cli.command import Command
from dinoscope.cli.command import ModelNames as Models

if TYPE_CHECKING:
    from dinoscope.measurement.explain import ExplainResult

TABLE, PER_IMAGE, VALUES, CURVES = "table.md", "explain.csv", "explain.json", "curves.png"


@dataclass(frozen=True)
class Options:
    """Measure the maps of several models: on the objects, by taking away what they point at, and head by head.

    With masks: Jaccard, pointing game and energy on the objects, beside chance and a blob in the middle of the
    image. Always: areas under deletion and insertion against random orders, entropy of the heads and how far they
    agree. Writes table.md, explain.csv (every image), explain.json and curves.png.
    """

    model: Models

    data: Path
    """Folder of images; or a VOC 2012 folder, whose validation images and masks are then used."""

    masks: Path | None = None
    """Folder of masks (PNG) with the names of the images, or a VOC folder: 0 is background, 255 void, all else
    object; where there are only 0 and 255, 255 is the object."""

    gallery: Path | None = None
    """Labelled images, CLASS/...: deletion, insertion and Grad-CAM then follow the k-NN vote for an image's class
    instead of its feature."""

    map: str = "attention"
    """attention (of a ResNet: feature energy), rollout, energy, gradcam, or centre (looks at no image)."""

    block: int = -1
    """Block of the transformer: from 0, or from the end with -1 the last."""

    mass: float = 0.6
    """Share of a map that its mask holds, above 0 and at most 1."""

    tolerance: float = 15.0
    """Pixels of the original by which a map's maximum may miss the object. 15 is published, for photographs of
    about 500 px; take less where images are small."""

    size: int | None = None
    """Short side at which a network sees an image, in pixels; by default the one the model stores."""

    limit: int | None = None
    """At most so many images, spread evenly."""

    steps: int = 20
    """Steps of deletion and of insertion."""

    random_orders: int = 3
    """Random orders in the control of deletion and insertion."""

    fill: Literal["blur", "mean"] = "blur"
    """What replaces a patch: the blurred image, or its mean colour."""

    blur: float = 0.1
    """Standard deviation of that blur, as a share of the short side."""

    seed: int = 0
    """Of the random orders."""

    out: Path = Path("explain")
    """Folder to write to."""

    overwrite: bool = False
    """Replace what is already there."""

    json: bool = False
    """Print JSON instead of a table."""

    device: str = "auto"
    """cpu, cuda, cuda:N or mps; auto takes the best there is."""

    batch_size: int = 64
    """Perturbed images at a time; lower it where memory is short."""


def run(options: tyro.conf.OmitArgPrefixes[Options]) -> int:
    """Measure, write, print, and keep the results in run folders. Raises UserError."""
    from rich.markup import escape

    from dinoscope.cli.console import Console, rich_table
    from dinoscope.evaluation.results import keep
    from dinoscope.files import write_all
    from dinoscope.report.explain_table import IN_THE_NETWORK, ON_OBJECTS, explain_json, explain_table

    result = measure(options)
    written = [path.name for path in write_all(options.out, _files(result))]
    for row in result.rows:
        if row.model is not None and row.model.path is not None:
            keep(row.model.path, _kept_name(options, result), result.measurement(row))
    if options.json:
        print(explain_json(result), end="")
        return 0
    console = Console()  # two tables without intervals: one with them would not fit
    halves = (ON_OBJECTS, IN_THE_NETWORK) if result.subjects.masked is not None else (IN_THE_NETWORK,)
    tables = [explain_table(result, half, intervals=False) for half in halves]
    console.print(*map(rich_table, tables))
    for remark in tables[0].remarks:
        console.print(escape(remark), highlight=False, soft_wrap=True, style="dim")
    files = f"written to {options.out}: {', '.join(written)} ({TABLE} has 95 % intervals)"
    console.print(files, highlight=False, markup=False, soft_wrap=True)
    return 0


def measure(options: Options) -> ExplainResult:
    """Check everything that can be checked before the work, then do it. Raises UserError."""
    from dinoscope.cli.console import progress_bar
    from dinoscope.data.sources import find_images, resolve_split
    from dinoscope.evaluation.base import Context
    from dinoscope.explain.faithfulness import PerturbationConfig
    from dinoscope.files import claim
    from dinoscope.measurement.explain import explain_models
    from dinoscope.measurement.explain_images import find_subjects
    from dinoscope.measurement.explain_scores import ExplainConfig
    from dinoscope.model_names import load_models
    from dinoscope.system import pick_device

    perturbation = PerturbationConfig(
        options.steps, options.random_orders, options.fill, options.blur, options.seed, options.batch_size
    )
    config = ExplainConfig(
        options.map,
        options.block,
        options.mass,
        options.size,
        options.tolerance,
        perturbation=perturbation,
    )
    claim(options.out, (TABLE, PER_IMAGE, VALUES, CURVES), overwrite=options.overwrite)
    subjects = find_subjects(options.data, options.masks, options.limit)
    gallery = None if options.gallery is None else find_images(resolve_split(options.gallery, "train"), labelled=True)
    # the images that are measured are not cropped: the gallery's are no more than to their middle square
    context = Context(
        pick_device(options.device),
        batch_size=options.batch_size,
        image_size=options.size,
        crop_fraction=1.0,
        watch=progress_bar,
    )
    models = load_models(options.model, progress_bar)
    return explain_models(models, subjects, config, context, gallery)


def _kept_name(options: Options, result: ExplainResult) -> str:
    from dinoscope.evaluation.results import variant_name

    part = None if options.limit is None or len(result.subjects) < options.limit else options.limit
    gallery = None if options.gallery is None else "gallery"
    return variant_name("explain", options.map, options.block, gallery, part)


def _files(result: ExplainResult) -> Iterator[tuple[str, bytes | None]]:
    """Names and contents; None for what these figures do not have."""
    from dinoscope.report.charts import png
    from dinoscope.report.explain_table import explain_csv, explain_json, explain_table
    from dinoscope.report.faithfulness_figure import faithfulness_figure
    from dinoscope.report.tables import markdown

    figure = faithfulness_figure(result)
    picture = "" if figure is None else f"\n![Deletion and insertion]({CURVES})\n"
    texts = {
        TABLE: "# Maps in numbers\n\n" + markdown(explain_table(result)) + picture,
        PER_IMAGE: explain_csv(result),
        VALUES: explain_json(result),
    }
    yield from ((name, text.encode("utf-8", errors="surrogateescape")) for name, text in texts.items())
    yield CURVES, None if figure is None else png(figure)


run.__doc__ = Options.__doc__
COMMANDS = {
    "explain": Command("what models' maps are worth: on the objects, by deletion and insertion, head by head", run)
}
