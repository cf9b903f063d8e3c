"""Which models the page shows when none are named: a supervised one beside DINO, from what is there already."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dinoscope.checkpoint import find_weights
from dinoscope.errors import UserError
from dinoscope.methods import method_name
from dinoscope.model_names import RANDOM, shipped_model
from dinoscope.models.pretrained import CATALOGUE, is_cached
from dinoscope.training.run_folder import CONFIG, read_config

RELEASED = ("deit_small", "dino_vits16")
"""The pair of the DINO paper's figures: one network, trained with labels and without."""


@dataclass(frozen=True)
class _Run:
    path: Path
    method: str
    changed: float


def default_models(runs: Path) -> list[str]:
    """Names for `model_names.load_models`, the pair to begin with first, then the shipped model.

    The pair: released weights where both are here already; else the newest supervised run beside the newest of DINO;
    else the newest two runs; else one run, or the shipped model, behind its own network with random weights.
    """
    shipped = str(shipped_model())
    if all(is_cached(CATALOGUE[name]) for name in RELEASED):
        return [*RELEASED, shipped]
    found = sorted(_find_runs(runs), key=lambda run: run.changed, reverse=True)
    newest = {run.method: run for run in reversed(found)}
    if {"supervised", "dino"} <= newest.keys():
        return [str(newest["supervised"].path), str(newest["dino"].path), shipped]
    names = [str(run.path) for run in found[:2]]
    if len(names) > 1:
        return [*names, shipped]
    if names:
        return [f"{RANDOM}{names[0]}", names[0], shipped]
    return [f"{RANDOM}{shipped}", shipped]


def _find_runs(runs: Path) -> list[_Run]:
    """The run folders in a folder that have weights to load."""
    found: list[_Run] = []
    for config in runs.glob(f"*/{CONFIG}"):
        try:
            find_weights(config.parent)
            method = method_name(read_config(config.parent).method)
        except UserError:
            continue  # begun and without a checkpoint yet, or of another version
        found.append(_Run(config.parent, method, config.stat().st_mtime))
    return found
