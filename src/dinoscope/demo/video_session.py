"""What one person has loaded and marked in the tab for videos: shared with nobody, and removed at the end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor

from dinoscope.demo.clip import Clip, Taking, first_frame
from dinoscope.demo.marking import Click, Marks, object_colors
from dinoscope.demo.pictures import Refused
from dinoscope.demo.session_folders import remove
from dinoscope.demo.tracking import clip_cells
from dinoscope.model_names import NamedModel
from dinoscope.pictures import objects_overlay

SHOWN = 720
"""Longer side of the pictures, in pixels."""
_PICTURES = 8  # the latest that stay: a browser may still be fetching one of them
_RADIUS = 7  # px of a click's mark


@dataclass(frozen=True)
class Sight:
    """Who looks at the clip: a model, at so many pixels of a frame's short side."""

    model: NamedModel
    size: int


@dataclass
class VideoSession:
    """A clip, the marks on its first frame, and the folder of its own in which all of its files are.

    whole: the clip with all of its frames. clip: with those that are followed. following: since it was asked for,
        neither ended nor told to be stopped.
    """

    folder: Path
    whole: Clip
    clip: Clip
    marks: Marks = field(default_factory=Marks)
    following: bool = False
    _asked: bool = False
    _turn: int = 0
    _cells: tuple[str, int, Float[Tensor, "rows columns d"]] | None = None
    _pictures: list[Path] = field(default_factory=list[Path])
    _count: int = 0

    def ask(self) -> None:
        """The clip is to be followed as soon as it is its turn."""
        self.following, self._asked = True, True
        self._turn += 1

    def stop(self) -> None:
        """Whatever was asked for is not to be done, or not any longer."""
        self.following, self._asked = False, False
        self._turn += 1

    def begin(self) -> int | None:
        """The turn that begins; None where nothing is asked for any longer, or another has begun with it."""
        asked, self._asked = self._asked, False
        return self._turn if asked else None

    def goes_on(self, turn: int) -> bool:
        """Whether nobody has stopped it, or asked for another, since it began."""
        return self._turn == turn

    def take(self, how: Taking, most: int) -> None:
        """Choose the frames of a clip that has too many; they begin with the same one."""
        self.clip = self.whole.taking(how, most)

    def mask(self, sight: Sight) -> UInt8[ndarray, "h w"]:
        """The object at each pixel of the first frame. Raises UserError as `clip_cells` does."""
        self.require()
        if not self.marks.clicks:  # what is painted needs no network
            cells = None
        else:
            label = sight.model.label
            if self._cells is None or self._cells[:2] != (label, sight.size):
                self._cells = label, sight.size, clip_cells(sight.model.backbone, self.clip, sight.size)
            cells = self._cells[2]
        return self.marks.ids(cells, self.clip.size)

    def picture(self, sight: Sight) -> Path:
        """A file of the first frame with the objects and the clicks on it, enlarged where it is small.

        Raises UserError as `mask` does.
        """
        self.require()
        laid = objects_overlay(self._shown(first_frame(self.clip)), self._shown(self.mask(sight)))
        for click in self.marks.clicks:
            _draw(laid, click)
        return self.save(laid)

    def save(self, pixels: UInt8[ndarray, "h w 3"]) -> Path:
        """A picture in the session's folder, under a name of its own, as browsers keep what they know by name."""
        self.require()
        self._count += 1
        file = self.folder / f"picture-{self._count}.jpg"
        Image.fromarray(pixels).save(file, quality=92)
        self._pictures.append(file)
        while len(self._pictures) > _PICTURES:
            self._pictures.pop(0).unlink(missing_ok=True)
        return file

    def save_frame(self, frame: UInt8[ndarray, "h w 3"]) -> Path:
        """A file of any frame of the clip, as large as `picture`."""
        return self.save(self._shown(frame))

    @property
    def shown(self) -> tuple[int, int]:
        """Height and width of `picture`."""
        scale = SHOWN / max(self.clip.size)
        return max(1, round(self.clip.size[0] * scale)), max(1, round(self.clip.size[1] * scale))

    def _shown(self, array: UInt8[ndarray, "_ _ *c"]) -> UInt8[ndarray, "_ _ *c"]:
        smooth = cv2.INTER_CUBIC if array.ndim == 3 else cv2.INTER_NEAREST
        return cv2.resize(array, self.shown[::-1], interpolation=smooth)

    def results(self) -> Path:
        """A folder for what is written next, which is not there; that of before is removed."""
        self.require()
        for old in self.folder.glob("followed-*"):
            remove(old)
        self._count += 1
        return self.folder / f"followed-{self._count}"

    def require(self) -> None:
        """Raise Refused where the files are gone, as after hours."""
        if not self.folder.is_dir():
            raise Refused("video_gone")

    def reach(self, reach: float) -> None:
        """Let regions grow or shrink; see `Marks`."""
        self.marks = replace(self.marks, reach=reach)


def end(session: VideoSession | None) -> None:
    """Remove all files of a session, and stop what it does."""
    if session is not None:
        session.stop()
        remove(session.folder)


def _draw(picture: UInt8[ndarray, "h w 3"], click: Click) -> None:
    """A disc where a click was, with a plus or a minus, in place."""
    height, width = picture.shape[:2]
    center = round(click.column * width), round(click.row * height)
    cv2.circle(picture, center, _RADIUS + 2, (255, 255, 255), -1, cv2.LINE_AA)
    cv2.circle(picture, center, _RADIUS, object_colors()[click.number - 1], -1, cv2.LINE_AA)
    arm = _RADIUS - 3
    cv2.line(picture, (center[0] - arm, center[1]), (center[0] + arm, center[1]), (255, 255, 255), 2)
    if click.adds:
        cv2.line(picture, (center[0], center[1] - arm), (center[0], center[1] + arm), (255, 255, 255), 2)
