"""`dinoscope scenes`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """Write the embedded data set: drawn scenes in the layouts of ImageFolder, PASCAL VOC 2012 and DAVIS 2017."""

    out: Path
    """Folder to write; it must not exist, or hold the same data set."""
    size: int = 64
    """Side of the classification images, in pixels."""
    train_per_class: int = 500
    """Training images of each of the ten classes."""
    val_per_class: int = 50
    """Validation images of each class."""
    seed: int = 0
    """Another number, other scenes."""


def main(argv: list[str]) -> int:
    """Draw, and say what lies where."""
    from dinoscope.cli.build import parse
    from dinoscope.cli.console import Console, progress_bar
    from dinoscope.scenes import ScenesConfig, write_scenes

    options = parse(Options, args=argv, prog="dinoscope scenes")
    config = ScenesConfig(
        seed=options.seed,
        size=options.size,
        train_per_class=options.train_per_class,
        val_per_class=options.val_per_class,
    )
    with progress_bar("drawing scenes") as progress:
        write_scenes(options.out, config, progress)
    Console().print(
        f"{options.out}/folder        train/ and val/, a folder per class; masks of val/ in folder-masks/\n"
        f"{options.out}/VOCdevkit     PASCAL VOC 2012 layout\n"
        f"{options.out}/DAVIS         DAVIS 2017 layout",
        highlight=False,
    )
    return 0
