"""The command `predict`: classes of images by a run that was trained or fine-tuned with labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from dinoscope.cli.command import EXTRACTION, Command, ExtractionOptions, ModelName
from dinoscope.cli.console import progress_bar, say, stdout
from dinoscope.errors import UserError
from dinoscope.files import claim_file
from dinoscope.model_names import load_model
from dinoscope.prediction import images_at, load_classifier, predictions, shown, write_csv


def predict(
    data: Annotated[Path, tyro.conf.arg(metavar="IMAGES")],
    /,
    model: ModelName,
    out: Path,
    top: int = 5,
    overwrite: bool = False,
    extraction: tyro.conf.OmitArgPrefixes[ExtractionOptions] = EXTRACTION,
) -> None:
    """Write the classes of images, by a model that was trained or fine-tuned with labels (`finetune`, `train`).

    The file has the columns file, class, probability, class_2, probability_2 and so on, a row for each image. Of an
    image that cannot be read, all but the file is empty.

    Args:
        data: Image files, folders, archives or lists of images, labelled or not. Several are joined.
        out: CSV file to write.
        top: So many of the most probable classes.
        overwrite: Replace the file if there is one.
    """
    if top < 1:
        raise UserError(f"--top must be at least 1, not {top}")
    claim_file(out, overwrite=overwrite)
    loaded = load_model(model, progress_bar)
    classifier = load_classifier(loaded)
    images = images_at(data)
    bank = extraction.context().features(loaded.backbone, images, "predicting")
    found = predictions(images, bank, classifier, top)
    write_csv(out, found)
    if len(found.unreadable) > 1:  # one is named by the warning of the extraction
        say(f"{len(found.unreadable)} of {len(found.paths)} images cannot be read: {shown(found.unreadable)}")
    stdout(f"{out}: {len(found.paths)} images, {len(classifier.classes)} classes")


COMMANDS = {
    "predict": Command("write the classes of images, by a model that was trained with labels, to a CSV file", predict),
}
