"""`dinoscope train`."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dinoscope.api import RunConfig

DEFAULT_RECIPE = "dino_deit_small_100ep"


@dataclass(frozen=True)
class Choices:
    """Train on a folder of images, labelled or not. What is not set here comes from the recipe.

    Ctrl-C or SIGTERM ends the step under way and writes a checkpoint.
    Many GPUs: torchrun --nproc-per-node N -m dinoscope train ...
    """

    recipe: str = DEFAULT_RECIPE
    """Named settings to begin with; `dinoscope recipes` lists them."""

    method: str = ""
    """dino, simclr, moco, byol, swav or supervised, with its default settings instead of the recipe's."""

    views: str = ""
    """Preset of the views instead of the recipe's: imagenet, two_views, simclr, moco, byol, swav, supervised (224 px);
    small_64, small_32, two_views_32, scenes."""

    resume: bool = False
    """Continue the run in --out; nothing else need be given."""

    overwrite: bool = False
    """Delete the run in --out and begin again."""


def main(argv: list[str]) -> int:
    """Parse, train, say where things are."""
    from dinoscope import api
    from dinoscope.cli.console import Console
    from dinoscope.cli.progress import ConsoleProgress

    config, chosen = settings(argv)
    with one_line(config.out):
        result = api.train(config, resume=chosen.resume, overwrite=chosen.overwrite, listeners=[ConsoleProgress()])
    console = Console()
    if not result.is_main:
        return 130 if result.interrupted else 0
    if result.interrupted:
        line = f"stopped after step {result.steps}; go on: dinoscope train --out {quote(str(result.out))} --resume"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        return 130
    lines = [f"done: {result.out}", *next_steps(result.out, config.data)]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
    return 0


@contextlib.contextmanager
def one_line(out: Path) -> Iterator[None]:
    """Make one line of what ended a run, whatever it was; the traceback is in the log of the run, which names it."""
    from dinoscope.errors import UserError

    try:
        yield
    except UserError:
        raise
    except Exception as error:
        notes = getattr(error, "__notes__", ())
        if not notes:  # the loop has neither logged it nor noted what there is to continue from
            raise
        lines = str(error).strip().splitlines() or ["no message"]
        line = lines[-1] if lines[0].startswith("Caught ") else lines[0]  # torch's words on an error in a worker
        known = ". ".join(notes)
        raise UserError(f"{type(error).__name__}: {line}. {known}. The traceback is in {out / 'train.log'}") from error


def next_steps(out: Path, data: Path) -> list[str]:
    """Commands to go on with, to be copied into a shell; k-NN only where there are labels to compare with."""
    from dinoscope.training.run_folder import read_sessions

    run, images = quote(str(out)), quote(str(data))
    learned = (
        f"dinoscope knn --model {run} --data {images}"
        if read_sessions(out)[-1].classes
        else f"dinoscope map --model {run} --data {images} --out {quote(str(out / 'map.png'))}"
    )
    return [
        f"  what it learned     {learned}",
        f"  what it looks at    dinoscope attention --model {run} IMAGE...",
        f"  how training went   dinoscope report {run} --out {quote(str(out / 'report.html'))}",
        f"                      tensorboard --logdir {quote(str(out / 'tensorboard'))}",
    ]


def settings(argv: list[str]) -> tuple[RunConfig, argparse.Namespace]:
    """The settings of a command line, and the options that are none.

    Raises UserError for what is wrong or unknown.
    """
    import tyro

    from dinoscope import api
    from dinoscope.cli.build import parse
    from dinoscope.cli.window_option import window_registry
    from dinoscope.errors import UserError

    chosen, rest = _preparser().parse_known_args(argv)
    try:
        config = parse(
            api.RunConfig,
            default=_defaults(chosen),
            args=rest,
            prog="dinoscope train",
            config=(tyro.conf.AvoidSubcommands,),
            registry=window_registry(),
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    return config, chosen


def _preparser() -> argparse.ArgumentParser:
    """The options that choose the defaults of all others."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--method")
    parser.add_argument("--views")
    parser.add_argument("--init")
    parser.add_argument("--backbone")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--overwrite", action="store_true")
    return parser


def _defaults(chosen: argparse.Namespace):
    """The settings before the command line: a recipe's, or those of the run to resume."""
    import tyro

    from dinoscope import api
    from dinoscope.cli.console import progress_bar
    from dinoscope.errors import UserError, lookup

    if chosen.resume and chosen.overwrite:
        raise UserError("--resume and --overwrite exclude each other")
    if chosen.resume and chosen.out is None:
        raise UserError("--resume needs --out, the folder of the run to go on with")
    if chosen.resume:
        config = api.read_config(chosen.out)
        config = replace(config, init=chosen.init or config.init)
    else:
        config = api.run_config(chosen.recipe or DEFAULT_RECIPE, tyro.MISSING, chosen.out or tyro.MISSING)
    if chosen.init and not chosen.resume:
        config = api.beginning_from(config, chosen.init, progress_bar)
    if chosen.backbone:
        config = replace(config, backbone=chosen.backbone)
    if chosen.method:
        config = replace(config, method=lookup("method", chosen.method, api.METHODS).config())
    if chosen.views:
        config = replace(config, views=lookup("preset of views", chosen.views, api.VIEWS))
    return config
