"""The images of a run: found, checked, and without the unreadable ones."""

from __future__ import annotations

import json
from collections.abc import Callable

from dinoscope import checkpoint
from dinoscope.cache import cache_folder
from dinoscope.data.folder import ImageFolder, find_images, image_fraction, resolve_split
from dinoscope.data.scan import ScanReport, check_readable, scan
from dinoscope.errors import UserError
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


def trained_on(config: RunConfig, folder: ImageFolder, unreadable: set[str]) -> ImageFolder:
    """The run's fraction of the folder, without the files named in `unreadable`.

    Raises UserError where the fraction is not in (0, 1].
    """
    whole = folder.subset([i for i, path in enumerate(folder.paths) if path not in unreadable])
    return image_fraction(whole, config.fraction)


def write_unreadable(run: RunFolder, report: ScanReport) -> None:
    """List the files that are left out, with the reason, in the run folder."""
    reasons = {fault.path: fault.reason for fault in report.unreadable}
    with writing(run.unreadable):
        checkpoint.write_text(run.unreadable, json.dumps(reasons, indent=2) + "\n")
        run.unreadable.with_suffix(".txt").unlink(
            missing_ok=True
        )  # of an earlier version: it would contradict this one


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
