"""`dinoscope voc`: Jaccard of attention masks on PASCAL VOC 2012, model beside model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from dinoscope.cli.command import Command
from dinoscope.cli.command import ModelNames as Models
from dinoscope.errors import UserError

if TYPE_CHECKING:
    from dinoscope.data.benchmarks import MaskedImages
    from dinoscope.measurement.voc import VocConfig
    from dinoscope.tables import Table


@dataclass(frozen=True)
class Options:
    """Compare masks of the last block's attention, or of other maps, with the objects of PASCAL VOC 2012.

    Any number of models, of any kind, on the same images.

    Two protocols. "published" is that of the literature, in which the truth chooses the head. "strict" chooses
    nothing by the truth and leaves void pixels out. A ResNet has no heads: its one map, feature energy, is taken.
    """

    model: Models

    data: Path
    """Folder VOCdevkit or VOC2012; or, with --masks, a folder of images."""

    masks: Path | None = None
    """Folder of masks (PNG) with the names of the images, or a VOC folder: 0 is background, 255 void, all else a
    class; where there are only 0 and 255, 255 is the object."""

    split: str = "val"
    """ImageSets/Segmentation/SPLIT.txt lists the images: val, train, trainval."""

    limit: int | None = None
    """At most so many images, spread evenly."""

    protocol: Literal["both", "published", "strict"] = "both"
    """One protocol alone takes half of the time."""

    mass: float = 0.6
    """Share of the attention that a mask holds. 0.6 is the published text's, 0.9 the public script's."""

    masses: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    """For the table and the figure of the sweep. None of them is chosen for you."""

    size: int = 480
    """Strict protocol: short side at which the networks see an image, in pixels; the aspect is kept."""

    square: int = 512
    """Published protocol: side of the square, in pixels. Other than 512 does not compare with published figures."""

    map: str = "attention"
    """attention (of a ResNet: feature energy), rollout, energy, gradcam, or centre (looks at no image). Published
    figures are of attention."""

    block: int = -1
    """Block of the transformer: from 0, or from the end with -1 the last."""

    published: bool = False
    """Add the published figures to the table."""

    out: Path | None = None
    """Folder for table.md, voc.csv (each image), voc.json and sweep.png."""

    save_masks: Path | None = None
    """Folder for MODEL/IMAGE.png: 255 where the mask is, at the image's own size (strict: the mean over the heads;
    published alone: the heads that the truth chose, together)."""

    pictures: int = 0
    """With --out: so many images beside their truth and each model's mask, the best, the worst, and evenly between,
    in pictures-01.png and so on."""

    overwrite: bool = False
    """Replace what is in --out and --save-masks."""

    json: bool = False
    """Print JSON instead of tables."""

    seed: int = 0
    """Of the resamples, and of the halves between which the strict protocol chooses a head."""

    resamples: int = 10_000
    """Of the bootstrap, for intervals."""

    batch_size: int = 8
    """Images at a time, at most; lower it where memory is short. The figures do not depend on it."""

    device: str = "auto"
    """cpu, cuda, cuda:N or mps; auto takes the best there is."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the matrix products. Published figures are fp32."""


def run(options: tyro.conf.OmitArgPrefixes[Options]) -> int:
    """Measure, print, write, and keep each result in its run folder. Raises UserError."""
    from dinoscope.cli import voc_files
    from dinoscope.cli.console import progress_bar
    from dinoscope.data.benchmarks import find_masked_images
    from dinoscope.evaluation.results import keep, variant_name
    from dinoscope.measurement.voc import measure_voc
    from dinoscope.measurement.voc_record import measurements, summarise
    from dinoscope.model_names import load_models

    _check(options)
    found = find_masked_images(options.data, options.masks, options.split)
    images, limit = _limited(found, options.limit)
    models = load_models(options.model, progress_bar)
    config = _config(options)
    voc_files.claim_files(options, images, models)
    keep_masks = options.save_masks is not None or options.pictures > 0
    with progress_bar("attention masks") as progress:
        result = measure_voc(models, images, config, progress, keep_masks=keep_masks)
    summary = summarise(result)
    values = voc_files.json_values(summary, limit, options.published)
    tables = voc_files.tables(summary, limit, len(found), options.published)
    written = voc_files.write(options, summary, values, tables)
    for model, measurement in zip(models, measurements(summary, limit), strict=True):
        if model.path is not None:
            keep(model.path, variant_name("voc", options.map, options.block, limit), measurement)
    if options.json:
        print(json.dumps(values, indent=2))
    else:
        _show(tables.terminal)
    _say(written, options)
    return 0


def _check(options: Options) -> None:
    if options.pictures < 0:
        raise UserError(f"--pictures must be 0 or more, not {options.pictures}")
    if options.pictures and options.out is None:
        raise UserError("--pictures needs a folder to go to: add --out")


def _limited(found: MaskedImages, limit: int | None) -> tuple[MaskedImages, int | None]:
    """The images, and the limit if it left any out."""
    taken = found.subset(limit)
    return taken, None if len(taken) == len(found) else limit


def _config(options: Options) -> VocConfig:
    from dinoscope.evaluation.statistics import BootstrapConfig
    from dinoscope.measurement.voc import VocConfig
    from dinoscope.system import pick_device

    return VocConfig(
        protocols=("published", "strict") if options.protocol == "both" else (options.protocol,),
        mass=options.mass,
        masses=options.masses,
        square=options.square,
        short_side=options.size,
        map=options.map,
        block=options.block,
        seed=options.seed,
        bootstrap=BootstrapConfig(options.resamples, seed=options.seed),
        device=pick_device(options.device),
        precision=options.precision,
        batch_size=options.batch_size,
    )


def _show(tables: Sequence[Table]) -> None:
    from rich.markup import escape

    from dinoscope.cli.console import Console, rich_table

    console = Console()
    for table in tables:
        console.print(rich_table(table))
        for remark in table.remarks:
            console.print(escape(remark), highlight=False, soft_wrap=True, style="dim")
        console.print()


def _say(written: Sequence[Path], options: Options) -> None:
    """Where the files are, on stderr where JSON is printed."""
    from dinoscope.cli.console import Console

    console = Console(stderr=options.json)
    if options.out is not None:
        names = ", ".join(path.name for path in written if path.parent == options.out)
        console.print(f"written to {options.out}: {names}", markup=False, highlight=False, soft_wrap=True)
    if options.save_masks is not None:
        count = sum(options.save_masks in path.parents for path in written)
        console.print(f"{count} masks in {options.save_masks}", markup=False, highlight=False, soft_wrap=True)


run.__doc__ = Options.__doc__
COMMANDS = {
    "voc": Command("do attention masks lie on the objects? Jaccard on PASCAL VOC 2012, model beside model", run)
}
