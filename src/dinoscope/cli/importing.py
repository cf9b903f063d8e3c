"""`dinoscope import`: a weights file of others as an exported model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from dinoscope.cli.build import parse
from dinoscope.cli.window_option import window_registry
from dinoscope.errors import UserError


@dataclass(frozen=True)
class Options:
    """Recognise a weights file by the names of its tensors, load its network strictly, and write it as a model.

    DINO, DINOv2, iBOT, DeiT, MoCo v1 to v3, SwAV, ports of SimCLR and BYOL, solo-learn, lightly, timm, torchvision and
    Hugging Face's ViTs, as .pth, .pt, .bin, .pth.tar, .ckpt or .safetensors. Nothing in a file is run. Commands
    take such files as --model directly too; importing once is quicker, and keeps what is decided here.
    """

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """Weights file, or a folder with model.safetensors or pytorch_model.bin, as model hubs have it."""

    out: Path | None = None
    """Folder to write; by default nothing is written, and only what was found is said."""

    arch: str | None = None
    """Name of the network; by default it is told by the shapes of the tensors. Where nothing tells how many attention
    heads it has, what is assumed is printed."""

    part: str | None = None
    """Which of several networks in the file: teacher, student, ema or plain. By default the one that the method's own
    evaluations take."""

    mean: tuple[float, float, float] | None = None
    """Mean of red, green and blue, in [0, 1], that the network was trained with. By default what the settings beside
    the file in a folder of a model hub say, else ImageNet's."""

    std: tuple[float, float, float] | None = None
    """Standard deviation, likewise."""

    window: tuple[float, float] | None = None
    """Grey range by which the model is given images of more than 8 bits: LEVEL - WIDTH / 2 becomes black, and
    LEVEL + WIDTH / 2 white. By default each image takes its own. It stays with the model that is written."""

    overwrite: bool = False
    """Replace a model that is there."""


def main(argv: list[str]) -> int:
    """Import, say what was found and how to use it. Raises UserError."""
    from dinoscope.cli.console import Console

    options = parse(
        Options,
        args=argv,
        prog="dinoscope import",
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
        registry=window_registry(),
    )
    Console().print("\n".join(import_weights(options)), markup=False, highlight=False, soft_wrap=True)
    return 0


def import_weights(options: Options) -> list[str]:
    """Load the file, and write the folder if one is named; return what was found, and how to use it.

    Raises UserError as `import_file` does, or where a model stands in `options.out` already or cannot be written.
    """
    from dinoscope.export import write
    from dinoscope.model_names import Model
    from dinoscope.models.pretrained import Choices, import_file

    if options.std is not None and not all(value > 0 for value in options.std):
        raise UserError(f"--std must be above 0, not {options.std}")
    backbone, found = import_file(options.file, Choices(options.arch, options.part, options.mean, options.std))
    if options.window is not None:
        backbone.config = replace(backbone.config, window=options.window)
    said = f"{options.file}: {found.line()}"
    if options.out is None:
        return [said, "loads strictly; nothing was written (--out FOLDER writes it as a model)"]
    model = Model(str(options.file), options.file.stem, backbone, options.file, found.provenance())
    lines = write("safetensors", options.out, model, overwrite=options.overwrite)
    config = backbone.config
    return [said, f"{options.out}: {config.name}, {config.image_size} px", *(f"  {line}" for line in lines)]
