"""The files of a folder, written as each kind of container."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path


def files_of(folder: Path) -> list[tuple[str, Path]]:
    """Names within the folder, in an order of their own."""
    return sorted(
        ((file.relative_to(folder).as_posix(), file) for file in folder.rglob("*") if file.is_file()), reverse=True
    )


def write_tar(folder: Path, out: Path) -> Path:
    with tarfile.open(out.with_suffix(".tar"), "w") as archive:
        for name, file in files_of(folder):
            archive.add(file, f"./{name}")
    return out.with_suffix(".tar")


def write_zip(folder: Path, out: Path, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(out.with_suffix(".zip"), "w", method) as archive:
        for name, file in files_of(folder):
            archive.write(file, name)
    return out.with_suffix(".zip")


def write_deflated(folder: Path, out: Path) -> Path:
    return write_zip(folder, out.with_name(f"{out.name}-deflated"), zipfile.ZIP_DEFLATED)


def write_parquet(folder: Path, out: Path) -> Path:
    """As Hugging Face lays it out: the path is the name of the file alone if there is a class."""
    import pyarrow
    import pyarrow.parquet

    rows = files_of(folder)
    labelled = all(name.count("/") == 1 for name, _ in rows)
    table = {"image": [{"bytes": file.read_bytes(), "path": file.name if labelled else name} for name, file in rows]}
    if labelled:
        table["label"] = [file.parent.name for _, file in rows]
    pyarrow.parquet.write_table(pyarrow.table(table), out.with_suffix(".parquet"), row_group_size=5)
    return out.with_suffix(".parquet")


WRITERS: dict[str, Callable[[Path, Path], Path]] = {
    "tar": write_tar,
    "zip": write_zip,
    "deflated zip": write_deflated,
    "parquet": write_parquet,
}
