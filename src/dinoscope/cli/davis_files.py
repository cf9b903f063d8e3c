"""What `dinoscope davis` writes of each model: masks in the layout of a submission, and overlay videos beside them."""

from __future__ import annotations

import contextlib
import glob
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dinoscope.cli.davis_results import TABLES
from dinoscope.errors import UserError
from dinoscope.files import write_text

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from numpy import ndarray

    from dinoscope.data.benchmarks import DavisSequence
    from dinoscope.data.grey_range import Window

SETTINGS = "settings"
_OVERLAYS = "overlays"
_KINDS = ("mp4", "gif")


@dataclass(frozen=True)
class ModelFiles:
    """FOLDER/SEQUENCE/00000.png, FOLDER/overlays/SEQUENCE.mp4; what decided them in FOLDER/settings/SEQUENCE.json.

    window: the model's grey range.
    """

    folder: Path
    overlay: Literal["mp4", "gif"] | None
    window: Window | None = None

    def prepare(self, sequence: DavisSequence, settings: Mapping[str, Any], *, overwrite: bool) -> None:
        """Make room for a sequence, or take up what was begun of it with the same settings.

        Raises UserError where there are masks of other settings, not to be overwritten, or nothing can be written.
        """
        from dinoscope.files import mark

        text = json.dumps(settings, indent=2) + "\n"
        record = self.folder / SETTINGS / f"{sequence.name}.json"
        there = self._present(sequence)
        try:
            if not overwrite and there and not (record.is_file() and record.read_bytes() == text.encode()):
                raise UserError(
                    f"{self.folder} holds masks made with other settings or of other frames, such as {there[0].name} "
                    f"of {sequence.name}: name another --out, or add --overwrite"
                )
            for file in there if overwrite else ():
                file.unlink()
            for abandoned in self._half_written(sequence):
                shutil.rmtree(abandoned)
            mark(self.folder)
            write_text(self._place(record), text)
        except OSError as error:
            raise UserError(f"--out {self.folder}: {error}") from error

    def complete(self, sequence: DavisSequence) -> bool:
        """Whether every frame has its mask already."""
        return all(self._mask(sequence, index).is_file() for index in range(len(sequence)))

    @contextlib.contextmanager
    def recording(self, sequence: DavisSequence) -> Iterator[Callable[[int, Any, UInt8[ndarray, "h w"]], None]]:
        """Give a function that is told number, image (or None) and mask of every frame, and writes what is missing.

        Masks are written unless all are there: what is scored is then what lies in the folder.

        Raises UserError where that is not possible.
        """
        from dinoscope.data.video import FOLDER_FPS
        from dinoscope.pictures import objects_overlay
        from dinoscope.report.video import video_writer, write_mask

        kept = self.complete(sequence)
        video = None if self.overlay is None or self._video(sequence).is_file() else self._video(sequence)
        with contextlib.nullcontext() if video is None else video_writer(self._place(video), FOLDER_FPS) as add:

            def record(index: int, image: UInt8[ndarray, "h w 3"] | None, mask: UInt8[ndarray, "h w"]) -> None:
                if not kept:
                    write_mask(self._place(self._mask(sequence, index)), mask)
                if add is not None:
                    add(objects_overlay(sequence.image(index, self.window) if image is None else image, mask))

            yield record

    @staticmethod
    def _place(file: Path) -> Path:
        """The file, with a folder to lie in. Raises UserError where that cannot be made."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{file.parent} cannot be made: {error.strerror}") from error
        return file

    def _present(self, sequence: DavisSequence) -> list[Path]:
        """Masks and videos of the sequence, those of frames that it no longer has among them."""
        videos = (self.folder / _OVERLAYS / f"{sequence.name}.{kind}" for kind in _KINDS)
        return [*sorted((self.folder / sequence.name).glob("*.png")), *(file for file in videos if file.exists())]

    def _half_written(self, sequence: DavisSequence) -> list[Path]:
        """What a killed process left."""
        name = glob.escape(sequence.name)
        return [*self.folder.glob(f"{name}/.*.partial-*"), *self.folder.glob(f"{_OVERLAYS}/.{name}.*.partial-*")]

    def _mask(self, sequence: DavisSequence, index: int) -> Path:
        return self.folder / sequence.name / f"{sequence.frames[index].stem}.png"

    def _video(self, sequence: DavisSequence) -> Path:
        return self.folder / _OVERLAYS / f"{sequence.name}.{self.overlay}"


def claim_tables(out: Path, *, overwrite: bool) -> None:
    """Make the folder of the tables, and take away those of an earlier run if that is wanted.

    Raises UserError where it holds some, not to be overwritten, or is none.
    """
    there = [out / name for name in TABLES if (out / name).exists()]
    if there and not overwrite:
        raise UserError(f"{out} holds results already ({there[0].name}): name another --out, or add --overwrite")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for table in there:  # they would lie beside masks of other settings until the end
            table.unlink()
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror}") from error
