"""`dinoscope models`: the released weights that can be named as a model."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import tyro

from dinoscope.cli.build import parse

if TYPE_CHECKING:
    from rich.table import Table


WIDTH = 125
"""Columns that the table needs."""

BYTES_PER_PARAMETER = 4


@dataclass(frozen=True)
class Options:
    """List the models that have a name: the shipped one, and released weights, fetched on first use and kept.

    Any --model takes these names, and also a path, "pixels" (no network), "random" (the network of the first other
    model, untrained), random:NETWORK or random:MODEL, and timm:NAME.

    The figures are those their authors published for ImageNet, in %: k-NN and linear of frozen features, "own" of the
    classifier that the network was trained with. None was measured here. MB are the file's where its source says so; ≥
    stands before those of the network's weights, which are in it at least.
    """

    json: bool = False
    """Print JSON, with sources, addresses and notes."""


def main(argv: list[str]) -> int:
    """Print the catalogue."""
    from dinoscope.cli.console import Console

    options = parse(Options, args=argv, prog="dinoscope models", config=(tyro.conf.FlagCreatePairsOff,))
    rows = models()
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        console = Console()
        console.width = max(console.width, WIDTH)  # a narrower terminal wraps lines rather than cutting names
        console.print(_table(rows), highlight=False)
    return 0


def models() -> list[dict[str, Any]]:
    """Return one row for each name: all fields of its `Release`, `parameters` in millions, whether `cached`."""
    from dinoscope.model_names import SHIPPED, SHIPPED_RELEASE
    from dinoscope.models.pretrained import CATALOGUE, is_cached

    return [
        {
            "name": name,
            **asdict(release),
            "parameters": _millions(release.architecture, 64 if name == SHIPPED else 224),
            "cached": name == SHIPPED or is_cached(release),
        }
        for name, release in {SHIPPED: SHIPPED_RELEASE, **CATALOGUE}.items()
    ]


@functools.cache
def _millions(architecture: str, size: int) -> float:
    """Return the parameters of the network in millions, without taking memory for them."""
    import torch

    from dinoscope.models.backbone import BackboneConfig, build_backbone

    with torch.device("meta"):
        backbone = build_backbone(BackboneConfig(architecture, size))
    return round(sum(parameter.numel() for parameter in backbone.parameters()) / 1e6, 1)


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for title in ("name", "network", "method"):
        table.add_column(title, no_wrap=True)
    for title in ("M par.", "k-NN", "linear", "own"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("licence", no_wrap=True)
    table.add_column("MB", justify="right", no_wrap=True)
    table.add_column("here", no_wrap=True)
    for row in rows:
        figures = [f"{row[name]:.1f}" if row[name] is not None else "" for name in ("knn", "linear", "own")]
        least = row["parameters"] * BYTES_PER_PARAMETER  # files may hold heads, or a whole training, besides
        megabytes = f"≥ {least:.0f}" if row["megabytes"] is None else f"{row['megabytes']:.0f}"
        cells = [row["name"], row["architecture"], row["method"], f"{row['parameters']:.1f}"]
        table.add_row(*cells, *figures, row["licence"], megabytes, "yes" if row["cached"] else "")
    return table
