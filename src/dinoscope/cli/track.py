"""`dinoscope track`: follow objects through a video, from a mask of the first frame."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from dinoscope.cli.build import parse
from dinoscope.cli.model_option import Model
from dinoscope.cli.pictures import claim
from dinoscope.cli.propagation_options import PropagationOptions
from dinoscope.errors import UserError
from dinoscope.text import printable

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from numpy import ndarray

    from dinoscope.data.video import Video

MASKS = "masks"
_ANY_MASK = "[0-9]" * 5 + ".png"


@dataclass(frozen=True)
class Options:
    """Follow objects through a video: their masks in the first frame are handed on from frame to frame.

    Nothing is trained: a place takes the label of the places of earlier frames that look most like it to the
    network. Written are OUT/masks/00000.png and so on, PNGs whose values are the objects, and OUT/overlay.mp4.
    Stopped on the way, the masks so far stay, each whole; the overlay is there only when all are.

    In a mask, 0 is background and every other value an object. 255 is the object where there are only 0 and 255,
    else it is left out. White that is painted with soft edges is cut at one half.
    """

    video: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO")]
    """Video file (.mp4, .avi, .gif, .webm...), or folder whose images are the frames, in the order of their names."""

    mask: Path
    """Mask of the first frame, of its size: a PNG with a palette, or of 8-bit grey."""

    model: Model

    out: Path = Path("track")
    """Folder for the masks and the overlay."""

    mask_at: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FRAME:FILE")] = ()
    """Masks of later frames, counted from 0, as in 40:dog.png: objects that appear there, or are to be
    corrected. Objects that such a mask does not hold go on as they were."""

    gif: bool = False
    """Write OUT/overlay.gif instead of overlay.mp4."""

    overwrite: bool = False
    """Replace what an earlier call wrote to OUT."""

    propagation: tyro.conf.OmitArgPrefixes[PropagationOptions] = field(default_factory=PropagationOptions)


def main(argv: list[str]) -> int:
    """Track, and say where the masks are. Raises UserError."""
    from dinoscope.cli.console import Console

    options = parse(Options, args=argv, prog="dinoscope track", config=(tyro.conf.FlagCreatePairsOff,))
    try:
        count = track(options)
    except KeyboardInterrupt:
        print(printable(f"dinoscope track: {_stopped(options)}"), file=sys.stderr)
        return 130
    line = f"{count} mask{'s' * (count != 1)} in {options.out / MASKS}, over the frames in {_overlay(options)}"
    Console().print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def track(options: Options) -> int:
    """Write the masks and the overlay; return the number of frames.

    Raises UserError where the video, a mask or the model cannot be read, they do not fit each other, no object is
    given, an option is out of range, or something is there already or cannot be written.
    """
    from dinoscope.cli.console import progress_bar
    from dinoscope.data.video import open_video
    from dinoscope.evaluation.propagation import propagate, warn_of_lost
    from dinoscope.model_names import load_model
    from dinoscope.system import pick_device

    config, device = options.propagation.config(), pick_device(options.propagation.device)
    video = open_video(options.video)
    masks = _masks(options, video)
    backbone = load_model(options.model, progress_bar).backbone
    video = replace(video, window=backbone.config.window)
    for number, file in _mask_files(options).items():
        warn_of_lost(masks[number], str(file), config.size, backbone.patch_size)
    _claim(options, video)
    with progress_bar("tracking") as progress:
        results = propagate(backbone, video, masks, config, device, progress)
        return _write(options, video, results)


def _stopped(options: Options) -> str:
    """What a stop has left; of an earlier call nothing is there any more, once the first mask is."""
    count = len(list((options.out / MASKS).glob(_ANY_MASK)))
    if not count or _overlay(options).exists():
        return "stopped; nothing was written"
    return (
        f"stopped; {count} mask{'s' * (count != 1)} in {options.out / MASKS}, each whole, and no overlay. "
        "--overwrite begins again"
    )


def _write(options: Options, video: Video, masks: Iterator[UInt8[ndarray, "h w"]]) -> int:
    """Write each mask as it comes, and the overlay; return their number.

    The video is read a second time beside the first, so that no frame need be kept.
    """
    from dinoscope.videos import write_followed

    return sum(1 for _ in write_followed(masks, video, video.fps, options.out / MASKS, _overlay(options)))


def _mask_files(options: Options) -> dict[int, Path]:
    """Mask files by frame. Raises UserError for an option that names none, or a frame twice."""
    files = {0: options.mask}
    for text in options.mask_at:
        number, colon, file = text.partition(":")
        if not colon or not file or not number.isdecimal():
            raise UserError(f"--mask-at {text!r}: give the number of a frame and a file, as in 40:dog.png")
        if int(number) in files:
            raise UserError(f"--mask-at {text}: there is a mask for frame {int(number)} already")
        files[int(number)] = Path(file)
    return files


def _masks(options: Options, video: Video) -> dict[int, UInt8[ndarray, "h w"]]:
    """All masks by frame. Raises UserError where one cannot be read or does not fit the video."""
    files = _mask_files(options)
    if video.files and max(files) >= video.frames:
        raise UserError(f"--mask-at {max(files)}:...: {video.path} has {video.frames} frames, counted from 0")
    return {number: _read_mask(file, video) for number, file in files.items()}


def _read_mask(file: Path, video: Video) -> UInt8[ndarray, "h w"]:
    """The objects of a mask file; see `Options` on 255."""
    import numpy as np

    from dinoscope.data.benchmarks import read_indices

    values = read_indices(file)
    if values.shape != video.size:
        raise UserError(
            f"{file} is {values.shape[1]} x {values.shape[0]} px, and the frames of {video.path} are "
            f"{video.size[1]} x {video.size[0]}: a mask must be of the frame's size"
        )
    objects = np.setdiff1d(values, (0, 255))
    if not len(objects) and not (values == 255).any():
        raise UserError(f"{file} holds no object: every pixel is 0, which is background")
    return np.where(values == 255, 0 if len(objects) else 1, values).astype(np.uint8)


def _overlay(options: Options) -> Path:
    return options.out / ("overlay.gif" if options.gif else "overlay.mp4")


def _claim(options: Options, video: Video) -> None:
    """Make the folders; take away the masks and the overlays of an earlier call if that is wanted.

    Raises UserError where some are there and not to be replaced, or are themselves what is to be read.
    """
    masks = options.out / MASKS
    given = {path.resolve() for path in (options.video, *video.files, *_mask_files(options).values())}
    earlier = [*sorted(masks.glob(_ANY_MASK)), options.out / "overlay.mp4", options.out / "overlay.gif"]
    if spoilt := next((path for path in earlier if path.resolve() in given), None):
        raise UserError(f"{spoilt} would be replaced, and is what is to be read: name another folder with --out")
    claim(options.out, earlier, overwrite=options.overwrite)
    claim(masks, (), overwrite=True)
    for abandoned in (*options.out.glob(".overlay.*.partial-*"), *masks.glob(".*.png.partial-*")):  # by a kill
        shutil.rmtree(abandoned, ignore_errors=True)
    for path in earlier:  # of a longer video some would stay and be taken for masks of this one
        path.unlink(missing_ok=True)
