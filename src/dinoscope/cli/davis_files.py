"""What `dinoscope davis` writes of each model: masks in the layout of a submission, and overlay videos beside them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dinoscope.cli.davis_results import TABLES
from dinoscope.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from numpy import ndarray

    from dinoscope.data.davis import DavisSequence

SETTINGS = "settings.json"


@dataclass(frozen=True)
class ModelFiles:
    """FOLDER/SEQUENCE/00000.png, FOLDER/overlays/SEQUENCE.mp4, and what decided them in FOLDER/settings.json."""

    folder: Path
    overlay: Literal["mp4", "gif"] | None

    def prepare(self, sequences: Sequence[DavisSequence], settings: Mapping[str, Any], *, overwrite: bool) -> None:
        """Make the folder, or take up what was begun in it with the same settings.

        Raises UserError where it holds masks of other settings and is not to be overwritten, or cannot be written.
        """
        from dinoscope import checkpoint

        text = json.dumps(settings, indent=2) + "\n"
        record = self.folder / SETTINGS
        there = [file for sequence in sequences for file in self._files(sequence) if file.exists()]
        try:
            if overwrite:
                for file in there:
                    file.unlink()
            elif there and not (record.is_file() and record.read_text(encoding="utf-8") == text):
                raise UserError(
                    f"{self.folder} holds masks made with other settings, such as {there[0].name} of "
                    f"{there[0].parent.name}: name another --out, or add --overwrite"
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            checkpoint.write_text(record, text)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--out {self.folder}: {error}") from error

    def complete(self, sequence: DavisSequence) -> bool:
        """Whether every frame has its mask already."""
        return all(self._mask(sequence, index).is_file() for index in range(len(sequence)))

    @contextlib.contextmanager
    def recording(self, sequence: DavisSequence) -> Iterator[Callable[[int, Any, UInt8[ndarray, "h w"]], None]]:
        """Give a function that is told number, image (or None) and mask of every frame, and writes what is missing.

        Raises UserError where that is not possible.
        """
        from dinoscope.data.video import FOLDER_FPS
        from dinoscope.report.video import objects_overlay, video_writer

        video = None if self.overlay is None or self._video(sequence).is_file() else self._video(sequence)
        with contextlib.nullcontext() if video is None else video_writer(self._place(video), FOLDER_FPS) as add:

            def record(index: int, image: UInt8[ndarray, "h w 3"] | None, mask: UInt8[ndarray, "h w"]) -> None:
                self._write_mask(sequence, index, mask)
                if add is not None:
                    add(objects_overlay(sequence.image(index) if image is None else image, mask))

            yield record

    def _write_mask(self, sequence: DavisSequence, index: int, mask: UInt8[ndarray, "h w"]) -> None:
        from dinoscope import checkpoint
        from dinoscope.data.index_png import encode_indices

        file = self._mask(sequence, index)
        if file.is_file():
            return
        try:
            with checkpoint.replacing(self._place(file)) as partial:
                partial.write_bytes(encode_indices(mask))
        except OSError as error:
            raise UserError(f"{file} cannot be written: {error.strerror}") from error

    @staticmethod
    def _place(file: Path) -> Path:
        """The file, with a folder to lie in. Raises UserError where that cannot be made."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{file.parent} cannot be made: {error.strerror}") from error
        return file

    def _files(self, sequence: DavisSequence) -> list[Path]:
        masks = [self._mask(sequence, index) for index in range(len(sequence))]
        return masks if self.overlay is None else [*masks, self._video(sequence)]

    def _mask(self, sequence: DavisSequence, index: int) -> Path:
        return self.folder / sequence.name / f"{sequence.frames[index].stem}.png"

    def _video(self, sequence: DavisSequence) -> Path:
        return self.folder / "overlays" / f"{sequence.name}.{self.overlay}"


def claim_tables(out: Path, *, overwrite: bool) -> None:
    """Make the folder of the tables. Raises UserError where it holds some, not to be overwritten, or is none."""
    there = [name for name in TABLES if (out / name).exists()]
    if there and not overwrite:
        raise UserError(f"{out} holds results already ({there[0]}): name another --out, or add --overwrite")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror}") from error
