"""The images of a run: found, checked, and without the unreadable ones."""

from __future__ import annotations

from collections.abc import Callable

from dinoscope import checkpoint
from dinoscope.cache import cache_folder
from dinoscope.data.folder import ImageFolder, find_images, image_fraction, resolve_split
from dinoscope.data.grey_range import Window, check_window
from dinoscope.data.scan import ScanReport, check_readable, scan
from dinoscope.training.config import RunConfig
from dinoscope.training.run_folder import RunFolder
from dinoscope.training.writing import writing


def scanned_images(config: RunConfig, progress: Callable[[int, int], None]) -> tuple[ImageFolder, ScanReport]:
    """Find the training images and decode each once (results are cached by path, size and time).

    Raises UserError where there are none, or more than 5 % cannot be read.
    """
    folder = find_images(resolve_split(config.data, "train"))
    report = scan(folder, cache=cache_folder("scan"), progress=progress)
    check_readable(report)
    return folder, report


def grey_range(config: RunConfig, report: ScanReport) -> Window | None:
    """The grey range of a new run: the one that was chosen, else that of its images; None if all have 8 bits.

    Raises UserError for a choice that is none.
    """
    if config.window is not None:
        check_window(config.window)
        return config.window
    return None if report.values is None else report.values.window


def trained_on(config: RunConfig, folder: ImageFolder, unreadable: set[str]) -> ImageFolder:
    """The run's fraction of the folder, without the files named in `unreadable`.

    Raises UserError where the fraction is not in (0, 1].
    """
    whole = folder.subset([i for i, path in enumerate(folder.paths) if path not in unreadable])
    return image_fraction(whole, config.fraction)


def write_unreadable(run: RunFolder, report: ScanReport) -> None:
    """List the files that are left out, with the reason, in the run folder."""
    lines = [f"{fault.path}\t{fault.reason}\n" for fault in report.unreadable]
    with writing(run.unreadable):
        checkpoint.write_text(run.unreadable, "".join(lines))


def read_unreadable(run: RunFolder) -> set[str]:
    """Paths of `write_unreadable`."""
    text = run.unreadable.read_text(encoding="utf-8", errors="surrogateescape")
    return {line.partition("\t")[0] for line in text.splitlines()}
