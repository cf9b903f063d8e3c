"""The command `verdict`: which of these models to take for one's images, and how sure that is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from dinoscope.cli.command import SEVERAL, Command, LabelledOptions
from dinoscope.cli.console import emit
from dinoscope.errors import lookup
from dinoscope.evaluation.evidence import OVERLAP, SCORES, SPEED, WITH_LABELS
from dinoscope.report.verdict import json_values, write_verdict

EXTRACTION = LabelledOptions()

MAY_BE_SKIPPED = (*WITH_LABELS, *SCORES, SPEED, OVERLAP)


def verdict(
    data: Path,
    models: Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODEL...", help=SEVERAL)],
    out: Path | None = None,
    unlabelled: bool = False,
    skip: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PART...")] = (),
    overwrite: bool = False,
    json: bool = False,
    extraction: tyro.conf.OmitArgPrefixes[LabelledOptions] = EXTRACTION,
) -> None:
    """Say which of several models to take for a folder of images, how sure that is, or that the images cannot tell.

    Measures k-NN, linear probe and few labels, each model against each other on the same test images, scores without
    labels, size and speed, and looks for test images that are in the training images, too. What was measured before is
    taken from run folders and the cache. Name pixels and random among the models: what is not better than these has
    learned nothing of use. A folder without a val split is split in half, by group with --group.

    Args:
        data: Images with labels (train/CLASS/... and val/CLASS/..., or CLASS/...), or without.
        out: Folder to write verdict.html, verdict.json, verdict.md, and labels.png, .svg and .pdf to.
        unlabelled: Make no use of labels.
        skip: Names of what is left out: linear, knn, fewshot, rank, lidar, throughput; overlap, the search for leaks.
        overwrite: Replace the verdict in --out.
        json: Print JSON instead of tables.
    """
    for name in skip:
        lookup("part of a verdict", name, dict.fromkeys(MAY_BE_SKIPPED))
    found, tables, files = write_verdict(
        models,
        data,
        out,
        skip=skip,
        unlabelled=unlabelled,
        context=extraction.context(),
        overwrite=overwrite,
    )
    lines = [f"{'Warning: ' if check.kind == 'warning' else ''}{check.text}" for check in found.checks]
    lines += ["", found.sentence]
    if files:
        lines.append(f"written to {out}: {', '.join(path.name for path in files)}")
    emit(json_values(found), tables, lines, json=json)


COMMANDS = {
    "verdict": Command("which of several models to take for your images, and how sure that is", verdict),
}
