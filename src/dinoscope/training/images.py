"""The images of a run: found, checked, and without the unreadable ones."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence, Set

from dinoscope.data.grey_range import Window, check_window, joined
from dinoscope.data.scan import ScanReport, Unreadable, check_readable, scan
from dinoscope.data.sources import LATER_EXTENSIONS, ImageFolder, find_images, image_fraction, resolve_split
from dinoscope.errors import UserError
from dinoscope.files import cache_folder, write_text, writing
from dinoscope.training.config import RunConfig
from dinoscope.training.run_folder import RunFolder

logger = logging.getLogger("dinoscope")


def scanned_images(
    config: RunConfig, progress: Callable[[int, int], None]
) -> tuple[ImageFolder, tuple[Unreadable, ...], Window | None]:
    """Find the images of a new run, those that were left out since they cannot be read, and their grey range.

    Only the run's fraction is looked at, as `config.scan` says (results are cached by path, size and time). For an
    unreadable image the next one in the fraction's order is taken, since the fraction is that of the readable ones.

    progress: told (0, 0) while the files are listed, then (done, total).

    Raises UserError if there are none, or more than `config.max_unreadable` of them cannot be read.
    """
    progress(0, 0)
    folder = find_images(resolve_split(config.data, "train"))
    unreadable: dict[str, Unreadable] = {}
    looked_at, reports = set[str](), list[ScanReport]()
    while True:
        images = trained_on(config, folder, unreadable.keys())
        rest = images.without(looked_at)
        if not len(rest):
            return images, tuple(unreadable.values()), grey_range(config, reports)
        reports.append(look_at(config, rest, progress))
        unreadable |= {fault.path: fault for fault in reports[-1].unreadable}
        looked_at.update(rest.keys)
        check_readable(folder.name, tuple(unreadable.values()), len(looked_at), config.max_unreadable)


def begun_images(config: RunConfig, run: RunFolder, fingerprint: str) -> ImageFolder:
    """The images that a run began with, among those that are there now: without the files that it left out then.

    fingerprint: of the images as the run began; runs of version 0.1 knew fewer endings of JPEG.
    """
    folder, left_out = find_images(resolve_split(config.data, "train")), set(read_unreadable(run))
    images = trained_on(config, folder, left_out)
    later = {path for path in folder.keys if path.lower().endswith(LATER_EXTENSIONS)}
    if later and images.fingerprint() != fingerprint:
        earlier = trained_on(config, folder, left_out | later)
        if earlier.fingerprint() == fingerprint:
            return earlier
    return images


def look_at(config: RunConfig, images: ImageFolder, progress: Callable[[int, int], None]) -> ScanReport:
    """What these images are, as far as `config.scan` looks."""
    progress(0, len(images))
    return scan(images, full=config.scan == "full", cache=cache_folder("scan"), progress=progress)


def grey_range(config: RunConfig, reports: Sequence[ScanReport]) -> Window | None:
    """The grey range of a new run: the one that was chosen, else that of its images; None if all have 8 bits.

    Raises UserError for a choice that is none.
    """
    if config.window is not None:
        check_window(config.window)
        return config.window
    if unknown := sum(report.over_8_bit for report in reports if report.values is None):
        logger.warning(
            "%d images of more than 8 bits, whose values were not looked at, each take a grey range of their own: "
            "--scan full finds one for all, and --window LEVEL,WIDTH sets it",
            unknown,
        )
        return None
    values = joined(report.values for report in reports if report.values is not None)
    return None if values is None else values.window


def trained_on(config: RunConfig, folder: ImageFolder, unreadable: Set[str]) -> ImageFolder:
    """The run's fraction of the folder, without the files named in `unreadable`.

    Raises UserError where the fraction is not in (0, 1].
    """
    return image_fraction(folder.without(unreadable), config.fraction)


def write_unreadable(run: RunFolder, unreadable: Iterable[Unreadable]) -> None:
    """List the files that are left out, with the reason, in the run folder."""
    reasons = {fault.path: fault.reason for fault in unreadable}
    with writing(run.unreadable):
        write_text(run.unreadable, json.dumps(reasons, indent=2) + "\n")
        # That of an earlier version would contradict this one.
        run.unreadable.with_suffix(".txt").unlink(missing_ok=True)


def read_unreadable(run: RunFolder) -> dict[str, str]:
    """Path and reason of each file of `write_unreadable`; of a run of an earlier version, from its unreadable.txt.

    Raises UserError if the list is damaged.
    """
    file = run.unreadable
    try:
        if not file.exists() and (earlier := file.with_suffix(".txt")).exists():
            lines = earlier.read_bytes().decode("utf-8", "surrogateescape").split("\n")
            return {path: reason for path, _, reason in (line.partition("\t") for line in lines if line)}
        reasons = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    if not isinstance(reasons, dict) or not all(isinstance(reason, str) for reason in reasons.values()):
        raise UserError(f"{file} is no list of files and reasons")
    return reasons
