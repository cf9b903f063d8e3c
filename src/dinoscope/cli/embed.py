"""`dinoscope embed`: the features of a folder of images, for use in other programs."""

from __future__ import annotations

import csv
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from dinoscope.cli.build import parse
from dinoscope.cli.extraction import ExtractionOptions
from dinoscope.cli.model_option import Model
from dinoscope.errors import UserError, lookup
from dinoscope.files import replacing
from dinoscope.text import spreadsheet_cell

if TYPE_CHECKING:
    from dinoscope.types import FeatureBank


@dataclass(frozen=True)
class Options:
    """Write the features of all images of a folder, labelled or not.

    csv and parquet have the columns path, label, feature_0, feature_1...; npz has the arrays path [n],
    label [n] (only with labels) and features [n, dim]. Paths are relative to --data; a label is the name of
    the class, empty in csv and null in parquet where there is none. Images that cannot be read are left out.
    """

    model: Model

    data: Path
    """Folder of images, at any depth. If each lies in a folder of its class, that is its label: CLASS/..., or
    train/CLASS/... and val/CLASS/..."""

    out: Path
    """File to write: .npz, .csv or .parquet."""

    overwrite: bool = False
    """Replace the file where there is one."""

    extraction: tyro.conf.OmitArgPrefixes[ExtractionOptions] = field(default_factory=ExtractionOptions)


def main(argv: list[str]) -> int:
    """Extract and write. Raises UserError."""
    from dinoscope.cli.console import Console

    options = parse(
        Options,
        args=argv,
        prog="dinoscope embed",
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
    )
    bank = embed(options)
    count, dim = bank.features.shape
    labels = f"labels of {len(bank.classes)} classes" if bank.classes else "no labels"
    line = f"{options.out}: {count} images x {dim} features, {labels}"
    Console().print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def embed(options: Options) -> FeatureBank:
    """Write the features to `options.out`, whole or not at all, and return them.

    Raises UserError where the file exists or is of no kind we write, before anything is computed.
    """
    from dinoscope.cli.console import progress_bar
    from dinoscope.data.sources import find_images_of_splits
    from dinoscope.model_names import load_model

    write = lookup("file format", options.out.suffix.lower(), WRITERS)
    _check_target(options)
    folder = find_images_of_splits(options.data)
    backbone = load_model(options.model, progress_bar).backbone
    bank = options.extraction.context().features(backbone, folder, "features")
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(options.out) as partial:
            write(partial, bank)
    except OSError as error:
        raise UserError(f"{options.out} could not be written: {error}") from error
    return bank


def write_npz(path: Path, bank: FeatureBank) -> None:
    """Arrays path, label (with labels) and features; opens without pickle."""
    import numpy as np

    arrays = {"path": np.array(_portable(bank.paths)), "features": bank.features.numpy()}
    labels = class_names(bank)
    if labels is not None:
        arrays["label"] = np.array(labels)
    with path.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType] (no array is called allow_pickle)


def write_csv(path: Path, bank: FeatureBank) -> None:
    """A header and one row per image; nine digits give every float32 back exactly."""
    labels = class_names(bank) or [""] * len(bank.paths)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", *_feature_columns(bank)])
        for name, label, feature in zip(_portable(bank.paths), labels, bank.features, strict=True):
            writer.writerow(
                [spreadsheet_cell(name), spreadsheet_cell(label), *(f"{value:.9g}" for value in feature.tolist())]
            )


def write_parquet(path: Path, bank: FeatureBank) -> None:
    """The same columns as csv, float32, null where there are no labels."""
    import pyarrow as pa  # pyright: ignore[reportMissingImports] (an extra)
    import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

    columns = {
        "path": pa.array(_portable(bank.paths), pa.string()),
        "label": pa.array(class_names(bank) or [None] * len(bank.paths), pa.string()),
    }
    columns |= {
        name: pa.array(column) for name, column in zip(_feature_columns(bank), bank.features.T.numpy(), strict=True)
    }
    pq.write_table(pa.table(columns), path)


WRITERS = {".npz": write_npz, ".csv": write_csv, ".parquet": write_parquet}


def class_names(bank: FeatureBank) -> list[str] | None:
    """The class of each image by name, or None without labels."""
    if bank.labels is None:
        return None
    return _portable([bank.classes[label] for label in bank.labels.tolist()])


def _check_target(options: Options) -> None:
    if options.out.is_dir():
        raise UserError(f"{options.out} is a folder; --out names the file to write")
    if options.out.exists() and not options.overwrite:
        raise UserError(f"{options.out} exists already; choose another --out, or --overwrite to replace it")
    if options.out.suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError("parquet needs pyarrow: pip install 'dinoscope[parquet]', or write .npz or .csv")


def _feature_columns(bank: FeatureBank) -> list[str]:
    return [f"feature_{index}" for index in range(bank.features.shape[1])]


def _portable(names: list[str] | tuple[str, ...]) -> list[str]:
    """Names with any bytes that are not UTF-8 (Linux allows them) replaced by U+FFFD: the files are UTF-8."""
    return [name.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for name in names]
