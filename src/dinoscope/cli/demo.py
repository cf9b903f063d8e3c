"""`dinoscope demo`, the interactive page, and `dinoscope quickstart`."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.table import Table

from dinoscope.checkpoint import find_weights
from dinoscope.cli.command import WHAT_MAY_BE_NAMED, Command
from dinoscope.cli.console import progress_bar, stdout
from dinoscope.cli.progress import ConsoleProgress
from dinoscope.demo.pictures import Limits
from dinoscope.demo.waiting import LOOPBACK, waiting_page
from dinoscope.errors import UserError
from dinoscope.evaluation.base import Context
from dinoscope.files import cache_folder
from dinoscope.methods import method_name
from dinoscope.model_names import RANDOM, load_models, runs_at, shipped_model
from dinoscope.models import pretrained
from dinoscope.quickstart import DRAWN, TRAINED, K
from dinoscope.quickstart import quickstart as run_quickstart
from dinoscope.recipes import run_config
from dinoscope.report.build import write_report
from dinoscope.report.verdict import read_verdicts
from dinoscope.system import pick_device
from dinoscope.text import listed
from dinoscope.training.run_folder import CONFIG, read_config

BY_DEFAULT = (
    "Without it: released DINO and DeiT-S weights if they are here, else runs in --runs, else the shipped model, "
    "each next to another or random weights."
)
RELEASED = ("deit_small", "dino_vits16")
"""The pair of the DINO paper's figures: one network, trained with labels and without."""
LIMITS = Limits()


def demo(
    model: Annotated[
        tuple[str, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="MODEL", help=f"May be given several times. {WHAT_MAY_BE_NAMED} {BY_DEFAULT}"),
    ] = (),
    data: Path | None = None,
    masks: Path | None = None,
    results: Annotated[
        tuple[Path, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(
            metavar="FOLDER", help="Folder that `dinoscope verdict` wrote, to show. May be given several times."
        ),
    ] = (),
    runs: Annotated[
        tuple[Path, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(
            metavar="FOLDER",
            help="Run folder, or a folder of them, to show the training of, next to runs that are named as models. "
            "May be given several times. If neither it nor a model is given: runs.",
        ),
    ] = (),
    host: str = "127.0.0.1",
    port: int | None = None,
    language: Literal["auto", "en", "es"] = "auto",
    no_browser: bool = False,
    device: str = "auto",
    limits: Limits = LIMITS,
) -> None:
    """Open a page on which to upload images, and to see what one or two models attend to.

    It runs on this machine and sends nothing anywhere. Stop it with Ctrl-C.

    Args:
        data: Folder of images to offer, and to search for neighbours; by default drawn scenes are offered.
        masks: Their true masks: a folder of PNG files named like the images, or a VOC folder. Needs --data.
        host: Address to listen on. 0.0.0.0 lets other machines in: there is no password.
        port: Port to listen on; by default the first free one from 7860 on.
        language: Language of the page; auto is that of the browser.
        no_browser: Do not open a browser, only print the address.
        device: cpu, cuda, cuda:N or mps; auto takes the best there is.
    """
    if masks is not None and data is None:
        raise UserError("--masks are those of the images in --data: give that folder too")
    for folder in runs:
        if not folder.is_dir():
            raise UserError(f"--runs {folder}: there is no such folder")
    from dinoscope.demo.serving import page_served, wait_for_the_end

    waiting = waiting_page()
    verdicts = read_verdicts(results)
    chosen = pick_device(device)
    folders = runs or (() if model else (Path("runs"),))
    names = model or default_models(*folders)
    waiting.show("waiting_models", models=listed(names))
    models = load_models(names, progress_bar)
    for loaded in models:
        loaded.backbone.to(chosen)
    words = None if language == "auto" else language
    shown = (*folders, *(loaded.run for loaded in models if loaded.run is not None))
    waiting.show("waiting_page", models=listed([loaded.label for loaded in models]))
    port, close = waiting.port, waiting.close
    with page_served(models, data, masks, host, port, words, limits, verdicts, shown, close) as address:
        stdout(f"{address}   ({', '.join(loaded.label for loaded in models)}; Ctrl-C ends it)")
        if host not in LOOPBACK:
            place = f"{host}:{address.rpartition(':')[2].strip('/')}"
            stdout(f"Open to every machine that reaches {place}, without a password.")
        wait_for_the_end()


def default_models(*folders: Path) -> list[str]:
    """Return names for `load_models` when none are given: the pair to begin with, then the shipped model.

    folders: run folders, and folders of them.

    The pair: released weights if both are here already; else the newest supervised run next to the newest of DINO;
    else the newest two runs; else one run, or the shipped model, before its own network with random weights.
    """
    shipped = str(shipped_model())
    if all(pretrained.is_cached(pretrained.CATALOGUE[name]) for name in RELEASED):
        return [*RELEASED, shipped]
    found = list[tuple[float, str, str]]()  # (time, path, method)
    for run in dict.fromkeys(run for folder in folders for run in runs_at(folder)):
        with contextlib.suppress(UserError):  # without a checkpoint yet, or of another version
            find_weights(run)
            method = method_name(read_config(run).method)
            found.append(((run / CONFIG).stat().st_mtime, str(run), method))
    found.sort()
    newest = [path for _, path, _ in reversed(found)]
    by_method = {method: path for _, path, method in found}
    if {"supervised", "dino"} <= by_method.keys():
        pair = [by_method["supervised"], by_method["dino"]]
    elif len(newest) > 1:
        pair = newest[:2]
    else:
        name = newest[0] if newest else shipped
        pair = [name, f"{RANDOM}{name}"]
    return list(dict.fromkeys([*pair, shipped]))


def quickstart(
    data: Literal["scenes", "medical"] = "scenes",
    out: Path = Path("runs/quickstart"),
    recipe: Literal["quickstart", "quickstart_long", "quickstart_medical"] | None = None,
    device: str = "auto",
    seed: int = 0,
) -> None:
    """Draw images, train DINO on them without labels, evaluate it, show what it attends to, and report on it.

    Args:
        data: scenes: drawings of ten kinds of object; medical: drawings of mammograms with six kinds of finding, as
            DICOM files (pip install 'dinoscope[medical]'), in 9 minutes.
        out: Run folder; if it exists already, the next free name (quickstart-2, ...) is taken.
        recipe: By default that of the data, for a few minutes; quickstart_long, of the scenes, made the shipped model.
        device: cpu, cuda, mps or auto.
        seed: Seed of the weights and the views.
    """
    drawn = DRAWN[data]
    if recipe is not None and recipe not in drawn.recipes:
        raise UserError(f"--recipe {recipe} is not for --data {data}: leave it out, or give {listed(drawn.recipes)}")
    with progress_bar("drawing images") as progress:
        folder = drawn.write(cache_folder(drawn.cache), progress=progress)
    names = (out.with_name(f"{out.name}-{number}") if number > 1 else out for number in itertools.count(1))
    run = next(name for name in names if not name.exists())
    config = replace(run_config(recipe or drawn.recipes[0], folder / "folder", run), device=device, seed=seed)
    with progress_bar("evaluating") as progress:
        rows, baselines = run_quickstart(config, drawn, folder, [ConsoleProgress()], progress)
    table = Table(title=f"Validation images: {drawn.about}", title_justify="left")
    table.add_column("features")
    for heading in ("px", f"k-NN top-1 %, k = {K}", "attention Jaccard", "by chance"):
        table.add_column(heading, justify="right")
    for row in rows:
        jaccard, chance = row.jaccard and row.jaccard.text(), row.chance and f"{row.chance.value:.1f}"
        style = "bold" if row.name == TRAINED else ""
        table.add_row(row.name, str(row.image_size), row.knn.text(), jaccard or "", chance or "", style=style)
    stdout(table)
    knn = {row.name: row.knn.value for row in rows}
    better = [name for name in ("raw pixels", "whitened patches") if knn[TRAINED] <= knn[name]]
    if better:
        names = listed(better).capitalize()
        stdout(f"{names} are as good as the model {TRAINED}, or better: it has not learned enough yet.")
    report = write_report([str(run)], run / "report.html", entries=baselines, context=Context(watch=progress_bar))
    stdout(
        f"\nwhat it attends to        {run / 'attention' / 'overview.png'}\n"
        f"how it went, to mail      {report.path}\n"
        "the page for your photos  make demo   (or dinoscope demo)\n"
        f"the run                   {run}   (tensorboard --logdir {run}/tensorboard)\n"
        f"the images                {folder / 'folder'}\n\n"
        "Your own images next:\n"
        "  dinoscope scan FOLDER\n"
        "  dinoscope train --data FOLDER --out runs/mine\n"
        "  dinoscope attention --model runs/mine FOLDER/IMAGE.jpg"
    )


COMMANDS = {
    "quickstart": Command(
        "train a small model on drawn scenes, evaluate it and show what it attends to (minutes, CPU)",
        quickstart,
    ),
    "demo": Command(
        "an interactive page in the browser: one's own images, two models side by side",
        demo,
        first="dinoscope.demo.waiting",
    ),
}
