"""The commands that set models next to each other: `compare`, `report` and `figure`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from dinoscope.cli.command import SEVERAL, WHAT_MAY_BE_NAMED, Command, DeviceOptions, LabelledOptions
from dinoscope.cli.console import emit, say, stdout
from dinoscope.errors import UserError, lookup
from dinoscope.evaluation import EVALUATIONS
from dinoscope.evaluation.base import Data
from dinoscope.evaluation.compare import default_evaluations
from dinoscope.evaluation.throughput import ThroughputConfig
from dinoscope.model_names import with_runs_inside
from dinoscope.places import parse_place
from dinoscope.report import build, comparison, sota


@dataclass(frozen=True)
class MeasuringOptions:
    """What is measured of models, and on which images."""

    data: Path | None = None
    """Labelled images to measure on: train/CLASS/... and val/CLASS/..., or only CLASS/..."""

    evaluations: Annotated[tuple[str, ...], tyro.conf.arg(metavar="EVALUATION...")] = ()
    """Besides linear, knn and throughput: names of evaluations (`voc`, `davis`...), or NAME=FOLDER for one with data
    of its own."""

    label_fraction: float = 1.0
    """Share of each class of the training images whose labels are used, in (0, 1]."""

    no_baselines: bool = False
    """Leave out raw pixels, whitened patches, and networks with random weights, which are added if --data is given."""

    skip: Annotated[tuple[str, ...], tyro.conf.arg(metavar="EVALUATION...")] = ()
    """Names of evaluations that are not measured; kept results are shown."""

    extraction: tyro.conf.OmitArgPrefixes[LabelledOptions] = field(default_factory=LabelledOptions)

    def wanted(self, **settings: Any) -> dict[str, tuple[Data, Any]]:
        """Return the evaluations with their data and settings. settings: by evaluation, instead of the default ones.

        Raises UserError for an unknown evaluation, or a share of labels out of range.
        """
        if not 0 < self.label_fraction <= 1:
            raise UserError(f"--label-fraction must be above 0 and at most 1, not {self.label_fraction:g}")
        folders = {
            name: parse_place(folder) if folder else None
            for name, _, folder in (e.partition("=") for e in self.evaluations)
        }
        for name in (*folders, *self.skip):
            lookup("evaluation", name, EVALUATIONS)
        wanted: dict[str, tuple[Data, Any]] = {}
        for name in dict.fromkeys((*default_evaluations(), *folders)):
            config = settings.get(name) or EVALUATIONS[name].config()
            if hasattr(config, "label_fraction"):
                config = replace(config, label_fraction=self.label_fraction)
            wanted[name] = folders.get(name), config
        return wanted


MEASURING = MeasuringOptions()


def compare(
    runs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODEL...", help=SEVERAL)],
    /,
    out: Path,
    baselines: bool = False,
    published: bool = False,
    throughput_image_size: int = 224,
    throughput_batch_size: int | None = None,
    overwrite: bool = False,
    measuring: tyro.conf.OmitArgPrefixes[MeasuringOptions] = MEASURING,
) -> None:
    """Set models next to each other: accuracy, size and speed, method by method, as tables and figures.

    Runs, and next to them whatever else can be named as a model; such models need --data. What was measured before is
    taken from the run folders (evaluations/), of other models from the cache; what is missing is measured and kept
    there. With --data, what was measured on other images or otherwise is measured again; without, its row is marked.
    Runs that differ in the seed alone are one row. Rows that differ from most in data, epochs, views or batch size
    are marked, with the difference. Writes comparison.md, .csv, .tex, .json, and comparison and curves as .png,
    .svg and .pdf.

    Args:
        out: Folder to write to.
        baselines: Add raw pixels, whitened patches, and each network with random weights; done without asking if
            --data is given.
        published: Add published figures on ImageNet, in a section of their own.
        throughput_image_size: Side of the images on which speed is measured, in pixels.
        throughput_batch_size: Images per forward while speed is measured; by default 128 on a GPU and 16 on a CPU.
        overwrite: Replace the comparison in --out.
    """
    without = measuring.no_baselines
    if baselines and without:
        raise UserError("--baselines and --no-baselines exclude each other")
    _, table, files = comparison.compare_runs(
        runs,
        out,
        measuring.data,
        measuring.wanted(throughput=ThroughputConfig(throughput_image_size, throughput_batch_size)),
        skip=measuring.skip,
        context=measuring.extraction.context(),
        baselines=(baselines or measuring.data is not None) and not without,
        published=published,
        overwrite=overwrite,
    )
    names = ", ".join(path.name for path in files)
    emit(None, [table], [f"written to {files[0].parent}: {names}"], json=False)


def report(
    runs: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="RUN...", help=SEVERAL),
    ],
    /,
    out: Path,
    no_pictures: bool = False,
    title: str = "",
    overwrite: bool = False,
    measuring: tyro.conf.OmitArgPrefixes[MeasuringOptions] = MEASURING,
) -> None:
    """Write one HTML file about runs: what was trained, curves, comparison, pictures, health, and how to do it again.

    The file holds all that it shows and fetches nothing. Without --data, it shows what was measured before; with
    --data, what is missing is measured and kept in the run folders.

    Args:
        out: File to write, such as report.html.
        no_pictures: Leave out the sections that show images.
        title: Title of the report; by default the names of the runs.
        overwrite: Replace the file in --out.
    """
    models = with_runs_inside(runs)
    if models != list(runs):
        say(f"the models of this report: {', '.join(map(str, models))}")
    written = build.write_report(
        models,
        out,
        measuring.data,
        measuring.wanted(),
        skip=measuring.skip,
        context=measuring.extraction.context(),
        baselines=not measuring.no_baselines,
        pictures=not no_pictures,
        title=title,
        overwrite=overwrite,
    )
    stdout(f"written to {written.path} ({written.size / 1e6:.1f} MB): {', '.join(written.sections)}")


FIGURES = {"sota": sota.write_sota}
"""Figures by name."""


DEVICE = DeviceOptions()


def figure(
    name: Annotated[str, tyro.conf.arg(metavar="NAME", help=f"Of the figure: {', '.join(FIGURES)}.")],
    /,
    out: Path,
    ours: Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODEL...", help=f"Your own. {WHAT_MAY_BE_NAMED}")] = (),
    metric: Literal["knn", "linear"] = "knn",
    throughput_batch_size: int | None = None,
    repeats: int = 5,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    overwrite: bool = False,
    device: tyro.conf.OmitArgPrefixes[DeviceOptions] = DEVICE,
) -> None:
    """Draw a figure of published results with your own models on top.

    sota: throughput against accuracy, after EsViT's Table 1. Accuracies of the published rows are the published ones,
    on ImageNet; speeds of all networks that can be built are measured on this machine, once. Your own models show their
    newest kept result (`dinoscope knn`, `dinoscope linear`). Writes sota.png, .svg, .pdf, .csv and .md.

    Args:
        out: Folder to write to.
        metric: Accuracy on the y axis.
        throughput_batch_size: Images per forward while speed is measured; by default 128 on a GPU and 16 on a CPU.
        repeats: Timed repeats, of which the median is taken.
        precision: Of the matrix products while speed is measured.
        overwrite: Replace the figure in --out.
    """
    config = ThroughputConfig(batch_size=throughput_batch_size, repeats=repeats)
    context = device.context(precision=precision)
    write = lookup("figure", name, FIGURES)
    table, files = write(ours, out, metric, config, context=context, overwrite=overwrite)
    emit(None, [table], [f"written to {out}: {', '.join(path.name for path in files)}"], json=False)


COMMANDS = {
    "compare": Command(
        "the table and the figures of several models: accuracy, size and speed, method by method", compare
    ),
    "report": Command(
        "one HTML file about runs, to read, print and mail: curves, comparison, pictures, health, commands", report
    ),
    "figure": Command("a figure of published results with your own on top: throughput against accuracy", figure),
}
