"""`dinoscope quickstart`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Options:
    """Draw scenes, train DINO on them without labels, measure it, show what it attends to, and report on it."""

    out: Path = Path("runs/quickstart")
    """Run folder; where it exists already, the next free name (quickstart-2, ...) is taken."""
    recipe: Literal["quickstart", "quickstart_long"] = "quickstart"
    """quickstart: minutes on two CPU cores; quickstart_long: the one that made the shipped model."""
    device: str = "auto"
    """cpu, cuda, mps or auto."""
    seed: int = 0
    """Of the weights and the views."""


def main(argv: list[str]) -> int:
    """Run it and print one table."""
    from dataclasses import replace

    from dinoscope.cli.build import parse
    from dinoscope.cli.console import Console

    options = parse(Options, args=argv, prog="dinoscope quickstart")
    from dinoscope import api
    from dinoscope.cli.console import progress_bar
    from dinoscope.cli.progress import ConsoleProgress
    from dinoscope.evaluation.base import Context
    from dinoscope.evaluation.compare import Measuring
    from dinoscope.quickstart import TRAINED, quickstart, scenes
    from dinoscope.report.build import Request, write_report

    with progress_bar("drawing scenes") as progress:
        data = scenes(progress)
    out = free_name(options.out)
    config = replace(api.run_config(options.recipe, data / "folder", out), device=options.device, seed=options.seed)
    with progress_bar("measuring") as progress:
        result = quickstart(config, data, [ConsoleProgress()], progress)
    console = Console()
    console.print(_table(result))
    pixels, trained = (next(row for row in result.rows if row.name == name) for name in ("raw pixels", TRAINED))
    if trained.knn <= pixels.knn:
        console.print(f"Raw pixels are as good as the model {TRAINED}, or better: it has not learned enough yet.")
    measuring = Measuring(context=Context(watch=progress_bar), watch=progress_bar)
    report = write_report(Request((str(result.run),), result.run / "report.html", measuring))
    console.print(_where(result, report.path), highlight=False, soft_wrap=True)
    return 0


def free_name(path: Path) -> Path:
    """`path`, or with -2, -3, ... behind it: nothing is overwritten."""
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate


def _table(result):
    from rich.table import Table

    from dinoscope.quickstart import K

    table = Table(title="500 validation images of drawn scenes, 10 classes (guessing: 10 %)", title_justify="left")
    table.add_column("features")
    table.add_column("px", justify="right")
    table.add_column(f"k-NN top-1 % (k = {K})", justify="right")
    table.add_column("attention Jaccard %", justify="right")
    for row in result.rows:
        jaccard = "" if row.jaccard is None else f"{row.jaccard:.1f}"
        table.add_row(
            row.name,
            str(row.image_size),
            f"{row.knn:.1f}",
            jaccard,
            style="bold" if row.name == "trained just now" else "",
        )
    return table


def _where(result, report: Path) -> str:
    return (
        f"\nwhat it attends to        {result.sheet}\n"
        f"how it went, to mail      {report}\n"
        "the page for your photos  make demo   (or dinoscope demo)\n"
        f"the run                   {result.run}   (tensorboard --logdir {result.run}/tensorboard)\n"
        f"the scenes                {result.data}\n\n"
        "Your own images next:\n"
        "  dinoscope scan FOLDER\n"
        "  dinoscope train --recipe dino_folder --data FOLDER --out runs/mine\n"
        "  dinoscope attention --model runs/mine FOLDER/IMAGE.jpg"
    )
