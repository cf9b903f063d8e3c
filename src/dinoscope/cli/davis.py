"""`dinoscope davis`: how well a model's features follow objects through the videos of DAVIS."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from dinoscope.cli.davis_files import ModelFiles, claim_tables
from dinoscope.cli.davis_results import Measured, json_values, object_rows, result_table, write_tables
from dinoscope.errors import UserError

if TYPE_CHECKING:
    from dinoscope.data.davis import Davis, DavisSequence
    from dinoscope.evaluation.window import PropagationConfig
    from dinoscope.measurement.davis import SequenceResult
    from dinoscope.model_names import NamedModel


@dataclass(frozen=True)
class PropagationOptions:
    """How labels travel from frame to frame. The defaults are DINO's."""

    size: int = 480
    """Short side at which the network sees a frame, in pixels."""

    context: int = 7
    """Frames before the current one that it is compared with, besides the first."""

    radius: int = 12
    """A patch is compared with those at most so many rows and columns of patches away."""

    top_k: int = 5
    """Most similar patches that count, over all frames together."""

    temperature: float = 0.1
    """A patch weighs exp(cosine similarity / temperature)."""

    device: str = "auto"
    """cpu, cuda, cuda:N or mps; auto takes the best there is."""


@dataclass(frozen=True)
class Options:
    """Measure video object segmentation on DAVIS: J (overlap) and F (contours), with the official definitions.

    The objects of each sequence's first frame are followed by the similarity of patch features; nothing is trained.
    First and last frame are not scored. With --out, writes LABEL/SEQUENCE/00000.png (the layout of a submission),
    LABEL/overlays/SEQUENCE.mp4, scores.csv, scores.json and table.md; a run that was broken off goes on where it was.
    """

    data: Path
    """Folder DAVIS: JPEGImages, Annotations and ImageSets."""

    model: tuple[str, ...] = ()
    """Run folders, exported folders, weights files, or random:NETWORK."""

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
    """Replace what is in --out."""

    json: bool = False
    """Print JSON instead of tables."""

    propagation: tyro.conf.OmitArgPrefixes[PropagationOptions] = field(default_factory=PropagationOptions)


def main(argv: list[str]) -> int:
    """Measure, write, print. Raises UserError."""
    options = tyro.cli(
        Options, args=argv, prog="dinoscope davis", config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
    )
    from rich.console import Console

    from dinoscope.cli.compare import rich_table
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
    from dinoscope.data.davis import find_davis
    from dinoscope.evaluation.window import PropagationConfig, check_config
    from dinoscope.measurement import keep
    from dinoscope.measurement.davis import davis_name, limited
    from dinoscope.model_names import load_models

    if not (options.model or options.results):
        raise UserError("nothing to measure: give --model RUN, or --results with a folder of masks")
    absent = next((folder for folder in options.results if not folder.is_dir()), None)
    if absent is not None:
        raise UserError(f"--results {absent}: no such folder")
    asked = options.propagation
    config = PropagationConfig(asked.size, asked.context, asked.radius, asked.top_k, asked.temperature)
    check_config(config)
    davis = find_davis(options.data, options.year, options.sequences)
    sequences = limited(davis, options.limit_frames)
    models = load_models(options.model) if options.model else []
    if options.out is not None:
        claim_tables(options.out, overwrite=options.overwrite)
    from dinoscope.model_names import folder_names

    names = folder_names([model.label for model in models])
    measured: list[Measured] = []
    for model, name in zip(models, names, strict=True):
        measured.append(_measure_model(options, davis, sequences, model, name, config))
        if model.path is not None:
            keep(model.path, davis_name(davis, options.limit_frames), measured[-1].measurement)
    return measured + [_measure_results(options, davis, sequences, folder) for folder in options.results]


def _measure_model(
    options: Options,
    davis: Davis,
    sequences: Sequence[DavisSequence],
    model: NamedModel,
    name: str,
    config: PropagationConfig,
) -> Measured:
    from dinoscope.cli.console import progress_bar
    from dinoscope.measurement.davis import (
        davis_measurement,
        kept_masks,
        model_settings,
        propagated,
        score_masks,
    )
    from dinoscope.training.device import pick_device

    follow = propagated(model, config, pick_device(options.propagation.device))
    files = None
    if options.out is not None:
        files = ModelFiles(options.out / name, None if options.no_overlay else "gif" if options.gif else "mp4")
        settings = model_settings(model, davis, config, options.limit_frames)
        files.prepare(sequences, settings, overwrite=options.overwrite)
    results: list[SequenceResult] = []
    total, before = sum(map(len, sequences)), 0
    with progress_bar(f"following objects with {model.label}") as progress:
        for sequence in sequences:
            masks = kept_masks(files.folder) if files is not None and files.complete(sequence) else follow
            with files.recording(sequence) if files is not None else contextlib.nullcontext() as record:

                def seen(index: int, image: Any, mask: Any, before: int = before, record: Any = record) -> None:
                    progress(before + index, total)
                    if record is not None:
                        record(index, image, mask)

                results.append(score_masks(sequence, masks, seen))
            before += len(sequence)
    measurement = davis_measurement(davis, results, model, config, options.limit_frames)
    return Measured(model.label, measurement, tuple(results))


def _measure_results(options: Options, davis: Davis, sequences: Sequence[DavisSequence], folder: Path) -> Measured:
    from dinoscope.cli.console import progress_bar
    from dinoscope.measurement.davis import davis_measurement, kept_masks, score_masks

    results: list[SequenceResult] = []
    with progress_bar(f"scoring {folder}") as progress:
        for done, sequence in enumerate(sequences):
            progress(done, len(sequences))
            results.append(score_masks(sequence, kept_masks(folder)))
    measurement = davis_measurement(davis, results, folder, None, options.limit_frames)
    return Measured(folder.resolve().name, measurement, tuple(results))
