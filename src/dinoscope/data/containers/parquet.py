"""Parquet files in the layout of Hugging Face: a column of {bytes, path}, and a column of labels if there is one.

Images lie in compressed pages there, so their bytes are copied once. An image is called CLASS/PATH, as in a folder with
one folder a class, and without a path by its number.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from dinoscope.data.containers.container import Container, Entry, Progress
from dinoscope.errors import UserError

_LABELS = ("label", "labels", "fine_label", "class", "cls")
_ROWS = 256  # that are in memory at a time


def _entries(path: Path, copies: BinaryIO, progress: Progress) -> Iterator[Entry]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("reading parquet needs pyarrow: pip install 'dinoscope[parquet]'") from error
    try:
        with path.open("rb") as stream, pyarrow.parquet.ParquetFile(stream) as file:
            yield from _rows(file, path.stem, copies, progress)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(f"a damaged parquet file ({' '.join(str(error).split())[:200]})") from error


def _rows(file: Any, stem: str, copies: BinaryIO, progress: Progress) -> Iterator[Entry]:
    import pyarrow

    schema, total = file.schema_arrow, file.metadata.num_rows
    column = next((field.name for field in schema if _is_image(field.type)), None)
    if column is None:
        names = ", ".join(field.name for field in schema)
        raise UserError(f"no column holds images, as {{bytes, path}} or as bytes (columns: {names})")
    label = next((name for name in _LABELS if name in schema.names), None)
    if label is not None and not (
        pyarrow.types.is_integer(schema.field(label).type) or pyarrow.types.is_string(schema.field(label).type)
    ):
        label = None
    names = _class_names(schema.metadata, label)
    _require_space(file, copies, column)
    row, size = 0, progress.total
    for batch in file.iter_batches(_ROWS, columns=[column, *([label] if label else [])]):
        labels = batch.column(label).to_pylist() if label else [None] * len(batch)
        for image, number in zip(batch.column(column), labels, strict=True):
            value = image.as_py()
            content, name = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
            text = "" if number is None else names.get(number, str(number))
            name = name or f"{stem}-{row:0{len(str(total))}d}"
            row += 1
            if content is None:  # a path alone
                continue
            offset = copies.tell()
            copies.write(content)
            key = name if "/" in name or not text else f"{text}/{name}"
            yield Entry(key, offset, len(content), 0, text, Path(copies.name))
        progress.at(row * size // max(total, 1))


def _is_image(kind: Any) -> bool:
    import pyarrow

    if pyarrow.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)


def _class_names(metadata: Any, label: str | None) -> dict[Any, str]:
    """Return the name of each number of a class, from the metadata that the library `datasets` writes."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return dict(enumerate(map(str, features[label]["names"])))
    except (KeyError, TypeError, ValueError):
        return {}


def _require_space(file: Any, copies: BinaryIO, column: str) -> None:
    metadata = file.metadata
    needed = 0
    for group in range(metadata.num_row_groups):
        columns = (metadata.row_group(group).column(place) for place in range(metadata.num_columns))
        needed += sum(part.total_uncompressed_size for part in columns if part.path_in_schema.startswith(column))
    free = shutil.disk_usage(Path(copies.name).parent).free
    if needed > 0.95 * free:
        raise UserError(
            f"its images are copied to {Path(copies.name).parent}, which needs {needed / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free: set $DINOSCOPE_CACHE to a folder on a larger disk"
        )


CONTAINER = Container((".parquet",), lambda start: start[:4] == b"PAR1", _entries)
