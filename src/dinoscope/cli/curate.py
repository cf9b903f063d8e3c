"""The command `curate`: a good training set from a large uncurated collection."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from dinoscope import distributed
from dinoscope.cli.command import EXTRACTION, Command, ExtractionOptions, ModelName
from dinoscope.cli.console import progress_bar, stdout
from dinoscope.curation import CurationConfig, curate_images
from dinoscope.data.finding import find_images, resolve_split
from dinoscope.data.listing import list_text
from dinoscope.model_names import load_model
from dinoscope.report.curation import claim_files, write_files
from dinoscope.text import count


def curate(
    model: ModelName,
    data: Path,
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")],
    config: tyro.conf.OmitArgPrefixes[CurationConfig],
    copies_model: str | None = None,
    overwrite: bool = False,
    extraction: tyro.conf.OmitArgPrefixes[ExtractionOptions] = EXTRACTION,
) -> None:
    """Choose a balanced training set from many images by their features, without labels (Vo et al. 2024).

    Near copies are left out, images far from everything else are listed, the rest is clustered by hierarchical
    k-means, and from the coarsest clusters down each gives as many images as any other, as far as it has them.

    Three files are written: the list of the chosen images, which `dinoscope train --data` takes; NAME-images.csv with
    what became of every image and why; and NAME.html with counts, clusters, copies and outliers to look at.

    Args:
        data: Folder of images, or a list of them; of a folder with train and val, the train split. Archives must be
            unpacked first, because a list names files.
        out: List to write: .txt, or .csv or .tsv with the labels, if there are any.
        copies_model: Model whose features find copies, named as --model; by default --model itself. "patches" sees
            small differences, but takes longer.
        overwrite: Replace files that are there.
    """
    claim_files(out, overwrite=overwrite)
    images = find_images(resolve_split(data, "train"))
    list_text(out, images)  # what no list can name is refused before the work
    loaded = [load_model(name, progress_bar) for name in (model, copies_model) if name is not None]
    curation = curate_images(loaded[0], images, config, extraction.context(), *loaded[1:])
    if not distributed.is_main():
        return
    with progress_bar("drawing clusters") as progress:
        files = write_files(curation, out, progress)
    choice = curation.choice
    copies, far = int(choice.is_copy.sum()), int((choice.outlier & ~choice.is_copy).sum())
    stdout(
        f"{count(len(images))} images: {count(copies)} copies of others, {count(far)} outliers"
        f"{' left out' if config.leave_out_outliers else ''}, {count(len(curation.unreadable))} not readable"
    )
    stdout(f"{count(int(choice.chosen.sum()))} chosen, {count(config.wanted(len(choice.chosen)))} were wanted")
    stdout(f"written: {', '.join(map(str, files))}")


COMMANDS = {
    "curate": Command("choose a balanced training set from many images, without copies", curate, is_shared=True),
}
