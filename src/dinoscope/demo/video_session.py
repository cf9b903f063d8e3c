"""What one person has loaded and marked in the video tab: kept between clicks, shared with nobody, removed at the end."""

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
from dinoscope.report.video import objects_overlay

_PICTURES = 8  # the latest that stay: a browser may still be fetching one of them
_RADIUS = 1 / 60  # of a click's mark, as a share of the picture's shorter side


@dataclass(frozen=True)
class Sight:
    """Who looks at the clip: a model, at so many pixels of a frame's short side."""

    model: NamedModel
    size: int


@dataclass
class VideoSession:
    """A clip, the marks on its first frame, and the folder of its own in which all of its files are.

    whole: the clip with all of its frames. clip: with those that are followed.
    """

    folder: Path
    whole: Clip
    clip: Clip
    marks: Marks = field(default_factory=Marks)
    _cells: tuple[str, int, Float[Tensor, "rows columns d"]] | None = None
    _pictures: list[Path] = field(default_factory=list[Path])
    _count: int = 0

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
        """A file of the first frame with the objects and the clicks on it. Raises UserError as `mask` does."""
        laid = objects_overlay(first_frame(self.clip), self.mask(sight))
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
    """Remove all files of a session."""
    if session is not None:
        remove(session.folder)


def _draw(picture: UInt8[ndarray, "h w 3"], click: Click) -> None:
    """A disc where a click was, with a plus or a minus, in place."""
    height, width = picture.shape[:2]
    center = round(click.column * width), round(click.row * height)
    radius = max(4, round(_RADIUS * min(height, width)))
    cv2.circle(picture, center, radius + 1, (255, 255, 255), -1, cv2.LINE_AA)
    cv2.circle(picture, center, radius, object_colors()[click.number - 1], -1, cv2.LINE_AA)
    arm = radius - 2
    cv2.line(picture, (center[0] - arm, center[1]), (center[0] + arm, center[1]), (255, 255, 255))
    if click.adds:
        cv2.line(picture, (center[0], center[1] - arm), (center[0], center[1] + arm), (255, 255, 255))
