"""`dinoscope demo`: an interactive page in the browser, on this machine."""

from __future__ import annotations

import importlib.util
import webbrowser
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dinoscope.cli.build import parse
from dinoscope.cli.model_option import WHAT_MAY_BE_NAMED
from dinoscope.demo.limits import Limits
from dinoscope.errors import UserError

_BY_DEFAULT = (
    "Without it: released DINO and DeiT-S weights if they are here, else runs in --runs, else the shipped model, "
    "each beside another or random weights."
)


@dataclass(frozen=True)
class Options:
    """Open a page on which to upload images, and to see what one or two models attend to.

    It runs on this machine and sends nothing anywhere. Stop it with Ctrl-C.
    """

    model: Annotated[
        tuple[str, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="MODEL", help=f"May be given several times. {WHAT_MAY_BE_NAMED} {_BY_DEFAULT}"),
    ] = ()

    data: Path | None = None
    """Folder of images to offer, and to search for neighbours; by default drawn scenes are offered."""

    masks: Path | None = None
    """Their true masks: a folder of PNG files named like the images, or a VOC folder. Needs --data."""

    runs: Path = Path("runs")
    """Where runs are looked for when no model is named."""

    host: str = "127.0.0.1"
    """Address to listen on. 0.0.0.0 lets other machines in: there is no password."""

    port: int | None = None
    """Port to listen on; by default the first free one from 7860 on."""

    language: Literal["auto", "en", "es"] = "auto"
    """Language of the page; auto is that of the browser."""

    no_browser: bool = False
    """Do not open a browser, only print the address."""

    device: str = "auto"
    """cpu, cuda, cuda:N or mps; auto takes the best there is."""

    limits: Limits = field(default_factory=Limits)


def main(argv: list[str]) -> int:
    """Serve until Ctrl-C. Raises UserError where Gradio, a model or the data is missing, or the port is taken."""
    options = parse(Options, args=argv, prog="dinoscope demo", config=(tyro.conf.FlagCreatePairsOff,))
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the page needs Gradio: pip install 'dinoscope[demo]'")
    if options.masks is not None and options.data is None:
        raise UserError("--masks are those of the images in --data: give that folder too")
    serve(options)
    return 0


def serve(options: Options) -> None:
    """Load the models, print the address, and wait. Raises UserError as `main` does."""
    from dinoscope.cli.console import Console, progress_bar
    from dinoscope.demo.serving import LOOPBACK, default_models, free_port, page_served, wait_for_the_end
    from dinoscope.model_names import load_models
    from dinoscope.system import pick_device

    console = Console()
    free_port(options.host, options.port)  # refuses a taken port before anything slow
    device = pick_device(options.device)
    models = load_models(options.model or default_models(options.runs), progress_bar)
    for model in models:
        model.backbone.to(device)
    language = None if options.language == "auto" else options.language
    served = page_served(models, options.data, options.masks, options.host, options.port, language, options.limits)
    with served as address:
        names = ", ".join(model.label for model in models)
        console.print(f"{address}   ({names}; Ctrl-C ends it)", markup=False, highlight=False, soft_wrap=True)
        if options.host not in LOOPBACK:
            console.print(
                f"Open to every machine that reaches {options.host}:{address.rpartition(':')[2].strip('/')}, "
                "without a password.",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        if not options.no_browser:
            webbrowser.open(address)
        wait_for_the_end()
