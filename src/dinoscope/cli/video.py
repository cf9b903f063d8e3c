"""`dinoscope track`: follow objects through a video, from a mask of the first frame."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro
from jaxtyping import UInt8
from numpy import ndarray

from dinoscope.cli.command import Command, ModelName
from dinoscope.cli.console import progress_bar, say, stdout
from dinoscope.data.benchmarks import read_objects
from dinoscope.data.video import Video, open_video
from dinoscope.errors import UserError
from dinoscope.evaluation.propagation import PropagationConfig, check_config, propagate, warn_of_lost
from dinoscope.files import claim, mark
from dinoscope.model_names import load_model
from dinoscope.system import pick_device
from dinoscope.videos import write_followed

MASKS = "masks"
_ANY_MASK = "[0-9]" * 5 + ".png"
PROPAGATION = PropagationConfig()


def track(
    video: Annotated[Path, tyro.conf.arg(metavar="VIDEO")],
    /,
    mask: Path,
    model: ModelName,
    out: Path = Path("track"),
    mask_at: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FRAME:FILE...")] = (),
    gif: bool = False,
    overwrite: bool = False,
    propagation: tyro.conf.OmitArgPrefixes[PropagationConfig] = PROPAGATION,
    device: str = "auto",
) -> int:
    """Follow objects through a video: their masks in the first frame are handed on from frame to frame.

    Nothing is trained: a place takes the label of the places of earlier frames that look most like it to the
    network. Writes OUT/masks/00000.png and so on, PNGs whose values are the objects, and OUT/overlay.mp4.
    Stopped on the way, the masks so far stay, each whole; the overlay is there only when all are.

    In a mask, 0 is background and every other value an object. 255 is the object if there are only 0 and 255,
    else it is left out. White that is painted with soft edges is cut at one half.

    Args:
        video: Video file (.mp4, .avi, .gif, .webm...), or folder whose images are the frames, in the order of their
            names.
        mask: Mask of the first frame, of its size: a PNG with a palette, or of 8-bit grey.
        out: Folder for the masks and the overlay.
        mask_at: Masks of later frames, counted from 0, as in 40:dog.png: objects that appear there, or are to be
            corrected. Objects that such a mask does not hold stay as they were.
        gif: Write OUT/overlay.gif instead of overlay.mp4.
        overwrite: Replace what an earlier call wrote to OUT.
        device: cpu, cuda, cuda:N or mps; auto takes the best there is.
    """
    overlay = out / ("overlay.gif" if gif else "overlay.mp4")
    try:
        check_config(propagation)
        chosen, frames, files = pick_device(device), open_video(video), _mask_files(mask, mask_at)
        if frames.files and max(files) >= frames.frames:
            raise UserError(f"--mask-at {max(files)}:...: {video} has {frames.frames} frames, counted from 0")
        masks = {number: _read_mask(file, frames) for number, file in files.items()}
        backbone = load_model(model, progress_bar).backbone
        frames = replace(frames, window=backbone.config.window)
        for number, file in files.items():
            warn_of_lost(masks[number], str(file), propagation.size, backbone.patch_size)
        _claim(out, {video, *frames.files, *files.values()}, overwrite=overwrite)
        with progress_bar("tracking") as progress:
            results = propagate(backbone, frames, masks, propagation, chosen, progress)
            # the video is read a second time for the overlay, so that no frame need be kept
            count = sum(1 for _ in write_followed(results, frames, frames.fps, out / MASKS, overlay))
    except KeyboardInterrupt:
        count = len(list((out / MASKS).glob(_ANY_MASK)))
        whole = f"{_counted(count)} in {out / MASKS}, each whole, and no overlay. --overwrite begins again"
        say(f"dinoscope track: stopped; {whole if count and not overlay.exists() else 'nothing was written'}")
        return 130
    stdout(f"{_counted(count)} in {out / MASKS}, over the frames in {overlay}")
    return 0


def _counted(masks: int) -> str:
    return f"{masks} mask{'s' * (masks != 1)}"


def _mask_files(first: Path, later: tuple[str, ...]) -> dict[int, Path]:
    """Return the mask files by frame. Raises UserError for an option that names none, or a frame twice."""
    files = {0: first}
    for text in later:
        number, colon, file = text.partition(":")
        if not colon or not file or not number.isdecimal():
            raise UserError(f"--mask-at {text!r}: give the number of a frame and a file, as in 40:dog.png")
        if int(number) in files:
            raise UserError(f"--mask-at {text}: there is a mask for frame {int(number)} already")
        files[int(number)] = Path(file)
    return files


def _read_mask(file: Path, video: Video) -> UInt8[ndarray, "h w"]:
    ids = read_objects(file)
    if ids.shape != video.size:
        raise UserError(
            f"{file} is {ids.shape[1]} x {ids.shape[0]} px, and the frames of {video.path} are "
            f"{video.size[1]} x {video.size[0]}: a mask must be of the frame's size"
        )
    if not ids.any():
        raise UserError(f"{file} holds no object: every pixel is 0, which is background")
    return ids


def _claim(out: Path, given: set[Path], *, overwrite: bool) -> None:
    """Make the folders; remove the masks and the overlays of an earlier call if that is wanted.

    given: files that are read, which must not be replaced.

    Raises UserError if one would be, or if some are there and not to be replaced.
    """
    masks, resolved = out / MASKS, {path.resolve() for path in given}
    earlier = [*sorted(masks.glob(_ANY_MASK)), out / "overlay.mp4", out / "overlay.gif"]
    if spoilt := next((path for path in earlier if path.resolve() in resolved), None):
        raise UserError(f"{spoilt} would be replaced, and is what is to be read: name another folder with --out")
    claim(out, [str(path.relative_to(out)) for path in earlier], overwrite=overwrite)
    mark(out, ["overlay.mp4", "overlay.gif"])
    mark(masks)
    for abandoned in (*out.glob(".overlay.*.partial-*"), *masks.glob(".*.png.partial-*")):  # by a kill
        shutil.rmtree(abandoned, ignore_errors=True)
    for path in earlier:  # of a longer video some would stay and be taken for masks of this one
        path.unlink(missing_ok=True)


COMMANDS = {"track": Command("follow objects through a video, from a mask of the first frame", track)}
