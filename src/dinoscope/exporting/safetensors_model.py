"""dinoscope's own form of a model: weights in safetensors, and JSON that says how to build the network."""

from __future__ import annotations

from pathlib import Path

from dinoscope import checkpoint
from dinoscope.exporting.subject import Subject
from dinoscope.exporting.timm_model import loading_lines


def write_safetensors(folder: Path, subject: Subject) -> list[str]:
    """Write `backbone.safetensors` and `backbone.json`; return the lines of Python that load them.

    Raises OSError where the folder cannot be written.
    """
    checkpoint.export_backbone(folder, subject.backbone, subject.origin)
    lines = loading_lines(subject.backbone.config, folder / checkpoint.BACKBONE_WEIGHTS)
    return [f"dinoscope.load({str(folder)!r})", *lines]
