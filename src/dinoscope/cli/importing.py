"""`dinoscope import`: a weights file of others as an exported model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from dinoscope.errors import UserError

if TYPE_CHECKING:
    from dinoscope.models.backbone import Backbone
    from dinoscope.models.pretrained import Found


@dataclass(frozen=True)
class Options:
    """Recognise a weights file by the names of its tensors, load its network strictly, and write it as a model.

    DINO, DINOv2, DeiT, MoCo v1 to v3, SwAV, ports of SimCLR and BYOL, solo-learn, lightly, timm, torchvision and
    Hugging Face's ViTs, as .pth, .pt, .bin, .pth.tar, .ckpt or .safetensors. Nothing in a file is run. Commands
    take such files as --model directly too; importing once is quicker, and keeps what is decided here.
    """

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """Weights file."""

    out: Path | None = None
    """Folder to write; by default nothing is written, and only what was found is said."""

    arch: str | None = None
    """Name of the network; by default it is told by the shapes of the tensors."""

    part: str | None = None
    """Which of several networks in the file: teacher, student, ema or plain. By default the one that the method's own
    evaluations take."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of red, green and blue, in [0, 1], that the network was trained with; no file says it. ImageNet's."""

    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation, likewise."""

    overwrite: bool = False
    """Replace a model that is there."""


def main(argv: list[str]) -> int:
    """Import, say what was found and how to use it. Raises UserError."""
    from rich.console import Console

    options = tyro.cli(
        Options,
        args=argv,
        prog="dinoscope import",
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
    )
    backbone, found = import_weights(options)
    lines = [f"{options.file}: {found.line()}"]
    if options.out is None:
        lines.append("loads strictly; nothing was written (--out FOLDER writes it as a model)")
    else:
        from dinoscope.cli.export import how_to_load

        lines.append(how_to_load(options.out, backbone.config))
    Console().print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
    return 0


def import_weights(options: Options) -> tuple[Backbone, Found]:
    """Load the file, and write the folder if one is named.

    Raises UserError as `import_file` does, or where a model stands in `options.out` already or cannot be written.
    """
    from dinoscope import checkpoint
    from dinoscope.models.pretrained import Choices, import_file

    if options.out is not None and (options.out / checkpoint.BACKBONE_WEIGHTS).exists() and not options.overwrite:
        raise UserError(f"{options.out} holds a model already; choose another --out, or --overwrite to replace it")
    if not all(value > 0 for value in options.std):
        raise UserError(f"--std must be above 0, not {options.std}")
    backbone, found = import_file(options.file, Choices(options.arch, options.part, options.mean, options.std))
    if options.out is not None:
        try:
            checkpoint.export_backbone(options.out, backbone, found.provenance())
        except OSError as error:
            raise UserError(f"{options.out} could not be written: {error}") from error
    return backbone, found
