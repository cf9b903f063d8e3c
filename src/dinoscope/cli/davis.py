"""`dinoscope davis`: how well a model's features follow objects through the videos of DAVIS."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from dinoscope.cli.command import Command
from dinoscope.cli.command import ModelNames as Models
from dinoscope.cli.davis_files import ModelFiles, claim_tables
from dinoscope.cli.davis_results import Measured, json_values, object_rows, result_table, write_tables
from dinoscope.errors import UserError
from dinoscope.evaluation.window import PropagationConfig, check_config

if TYPE_CHECKING:
    from dinoscope.data.benchmarks import Davis, DavisSequence
    from dinoscope.measurement.davis import Masks, SequenceResult
    from dinoscope.model_names import Model


@dataclass(frozen=True)
class Options:
    """Measure video object segmentation on DAVIS: J (overlap) and F (contours), with the official definitions.

    The objects of each sequence's first frame are followed by the similarity of patch features; nothing is trained.
    First and last frame are not scored. With --out, writes LABEL/SEQUENCE/00000.png (the layout of a submission),
    LABEL/overlays/SEQUENCE.mp4, scores.csv, scores.json and table.md; a run that was broken off goes on where it was.
    """

    data: Path
    """Folder DAVIS: JPEGImages, Annotations and ImageSets."""

    model: Models = ()

    results: tuple[Path, ...] = ()
    """Folders of masks that exist already, SEQUENCE/00000.png, to be scored too, or without any model."""

    year: Literal[2017, 2016] = 2017
    """2017 has several objects a sequence; in 2016 everything that is marked is one."""

    sequences: tuple[str, ...] = ()
    """Only these, in the year's list or not."""

    limit_frames: int | None = None
    """Only so many frames of each sequence, for a first look: such figures are not DAVIS's."""

    out: Path | None = None
    """Folder to write to; without it figures are only shown."""

    no_overlay: bool = False
    """Write no videos."""

    gif: bool = False
    """Write the videos as GIF instead of MP4."""

    published: bool = False
    """Add published figures of DINO."""

    overwrite: bool = False
    """Replace what is in --out, also masks that could be taken up."""

    json: bool = False
    """Print JSON instead of tables."""

    propagation: tyro.conf.OmitArgPrefixes[PropagationConfig] = field(default_factory=PropagationConfig)

    device: str = "auto"
    """cpu, cuda, cuda:N or mps; auto takes the best there is."""


def run(options: tyro.conf.OmitArgPrefixes[Options]) -> int:
    """Measure, write, print. Raises UserError."""
    from dinoscope.cli.console import Console, rich_table
    from dinoscope.report.davis_tables import object_table

    measured = measure(options)
    table = result_table(measured, published=options.published)
    if options.out is not None:
        write_tables(options.out, measured, table)
    if options.json:
        print(json.dumps(json_values(measured), indent=2))
        return 0
    console = Console()
    console.print(rich_table(object_table(object_rows(measured), "Every object, in %")))
    console.print(rich_table(table))
    for line in table.remarks:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if options.out is not None:
        console.print(f"written to {options.out}", markup=False, highlight=False, soft_wrap=True)
    return 0


def measure(options: Options) -> list[Measured]:
    """Every model in turn, then every folder of masks; a model's figures are kept in its run folder at once.

    Raises UserError where nothing is named, the data, a model or masks cannot be used, or files are in the way.
    """
    from dinoscope.cli.console import progress_bar
    from dinoscope.data.benchmarks import find_davis
    from dinoscope.evaluation.propagation import working_size
    from dinoscope.evaluation.results import keep
    from dinoscope.measurement.davis import davis_measurement, davis_name, limited, propagated
    from dinoscope.measurement.davis_frames import keep_frames
    from dinoscope.model_names import distinct, load_models
    from dinoscope.system import pick_device

    if not (options.model or options.results):
        raise UserError("nothing to measure: give --model RUN, or --results with a folder of masks")
    absent = next((folder for folder in options.results if not folder.is_dir()), None)
    if absent is not None:
        raise UserError(f"--results {absent}: no such folder")
    config, device = options.propagation, pick_device(options.device)
    check_config(config)
    davis = find_davis(options.data, options.year, options.sequences)
    sequences = limited(davis, options.limit_frames)
    models = load_models(options.model, progress_bar) if options.model else []
    # all that may be wrong is looked for before the first of what takes hours; masks that exist take seconds
    for model in models:
        for sequence in sequences:
            working_size(*sequence.size, config.size, model.backbone.patch_size)
    places = _places(options, sequences, models, config)
    labels = distinct([*((model.label, None) for model in models), *((f.resolve().name, f) for f in options.results)])
    scored = [
        _measure_results(options, davis, sequences, folder, label)
        for folder, label in zip(options.results, labels[len(models) :], strict=True)
    ]
    measured: list[Measured] = []
    for model, files in zip(models, places, strict=True):
        follow = propagated(model, config, device)
        results, frames = _follow(model.label, follow, sequences, files)
        measurement = davis_measurement(davis, results, model, config, options.limit_frames)
        measured.append(Measured(model.label, measurement, tuple(results)))
        if model.path is not None:
            name = davis_name(davis, options.limit_frames)
            if (name := keep(model.path, name, measurement)) is not None:
                keep_frames(model.path, name, frames, measurement)
    return measured + scored


def _places(
    options: Options, sequences: Sequence[DavisSequence], models: Sequence[Model], config: PropagationConfig
) -> list[ModelFiles | None]:
    """Where the masks of each model go, made ready; None without --out. Raises UserError where files are in the way."""
    from dinoscope.measurement.davis import mask_settings
    from dinoscope.model_names import folder_names

    if options.out is None:
        return [None] * len(models)
    claim_tables(options.out, overwrite=options.overwrite)
    overlay = None if options.no_overlay else "gif" if options.gif else "mp4"
    names = folder_names([model.label for model in models])
    places = [
        ModelFiles(options.out / name, overlay, model.backbone.config.window)
        for name, model in zip(names, models, strict=True)
    ]
    for model, files in zip(models, places, strict=True):
        weights = model.weights_hash
        for sequence in sequences:
            files.prepare(sequence, mask_settings(weights, sequence, config), overwrite=options.overwrite)
    return [*places]


def _follow(
    label: str, follow: Masks, sequences: Sequence[DavisSequence], files: ModelFiles | None
) -> tuple[list[SequenceResult], dict[tuple[str, int], Any]]:
    """Scores of every sequence, whose masks are written on the way, or read where all are there; and a few masks."""
    from dinoscope.cli.console import progress_bar
    from dinoscope.measurement.davis import kept_masks, score_masks
    from dinoscope.measurement.davis_frames import kept_places

    results: list[SequenceResult] = []
    frames: dict[tuple[str, int], Any] = {}
    total, before = sum(map(len, sequences)), 0
    with progress_bar(f"following objects with {label}") as progress:
        for sequence in sequences:
            places = kept_places(len(sequence))
            masks = kept_masks(files.folder) if files is not None and files.complete(sequence) else follow
            with files.recording(sequence) if files is not None else contextlib.nullcontext() as record:

                def seen(
                    index: int,
                    image: Any,
                    mask: Any,
                    before: int = before,
                    record: Any = record,
                    name: str = sequence.name,
                    places: Sequence[int] = places,
                ) -> None:
                    progress(before + index, total)
                    if index in places:
                        frames[name, index] = mask
                    if record is not None:
                        record(index, image, mask)

                results.append(score_masks(sequence, masks, seen))
            before += len(sequence)
    return results, frames


def _measure_results(
    options: Options, davis: Davis, sequences: Sequence[DavisSequence], folder: Path, label: str
) -> Measured:
    from dinoscope.cli.console import progress_bar
    from dinoscope.measurement.davis import davis_measurement, kept_masks, score_masks

    results: list[SequenceResult] = []
    with progress_bar(f"scoring {folder}") as progress:
        for done, sequence in enumerate(sequences):
            progress(done, len(sequences))
            results.append(score_masks(sequence, kept_masks(folder)))
    measurement = davis_measurement(davis, results, folder, None, options.limit_frames)
    return Measured(label, measurement, tuple(results))


run.__doc__ = Options.__doc__
COMMANDS = {
    "davis": Command("how well a model's features follow objects through videos: J and F on DAVIS 2017 or 2016", run)
}
