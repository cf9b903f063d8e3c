"""Do scores without labels order models as k-NN does? Spearman's correlation of each with k-NN, over runs.

    python benchmarks/label_free.py RUN... --data FOLDER [--images N] [--json FILE]
    python benchmarks/label_free.py --rehearse          # random networks on drawn scenes: whether it works

RUN may be a folder of runs. RankMe, LiDAR and the last loss, over all runs, and over those of each method if there are
at least four. k-NN (k = 20) is the newest that is kept for FOLDER; what is missing is measured and kept. Intervals are
Fisher's with the standard error of Bonett and Wright (2000): sqrt((1 + r^2 / 2) / (n - 3)). Losses of different methods
are not comparable, so for them the figure over all runs means nothing, and is not given.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from scipy.stats import spearmanr

from dinoscope.evaluation.base import Context
from dinoscope.evaluation.compare import Entry, gather
from dinoscope.evaluation.evidence import SCORES, final_loss
from dinoscope.evaluation.knn import KNNConfig
from dinoscope.evaluation.lidar import LiDARConfig
from dinoscope.evaluation.rank import RankConfig
from dinoscope.model_names import load_models, run_settings, say_once
from dinoscope.scenes import ScenesConfig, write_scenes

FEWEST = 4
"""Runs that a correlation needs: with three, the interval has no end."""
LOSS = "last loss"
REHEARSED = ("pixels", *(f"random:vit_micro_patch{size}_64" for size in (4, 8, 16)))


class Correlation(NamedTuple):
    """Spearman's, of n runs, with its 95 % interval."""

    runs: str
    score: str
    value: float
    low: float
    high: float
    n: int

    def line(self) -> str:
        return f"{self.runs:12} {self.score:10} {self.value:6.2f} [{self.low:5.2f}, {self.high:5.2f}]  n = {self.n}"


def correlation(runs: str, score: str, values: Sequence[float], accuracies: Sequence[float]) -> Correlation | None:
    """Return the correlation; None for fewer than `FEWEST` runs, or values that are all equal."""
    n = len(values)
    if n < FEWEST or len(set(values)) == 1 or len(set(accuracies)) == 1:
        return None
    found = float(spearmanr(values, accuracies).statistic)
    error = math.sqrt((1 + found**2 / 2) / (n - 3))
    middle = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, found)))
    low, high = (math.tanh(middle + sign * 1.96 * error) for sign in (-1, 1))
    return Correlation(runs, score, found, low, high, n)


def correlations(scores: Mapping[str, Mapping[str, float]], methods: Mapping[str, str]) -> list[Correlation]:
    """Return all correlations with k-NN. scores: run -> "knn" and other scores -> value. methods: run -> its method."""
    found: list[Correlation | None] = []
    for group in ("all", *dict.fromkeys(methods.values())):
        names = [name for name in scores if group in ("all", methods[name]) and "knn" in scores[name]]
        for score in (*SCORES, LOSS):
            if score == LOSS and group == "all" and len({methods[name] for name in names}) > 1:
                continue
            own = [name for name in names if score in scores[name]]
            values, accuracies = ([scores[name][key] for name in own] for key in (score, "knn"))
            if group == "all" or len(own) < len(names) or len(set(methods.values())) > 1:
                found.append(correlation(group, score, values, accuracies))
    return [each for each in found if each is not None]


def runs_in(places: Sequence[Path]) -> list[Path]:
    """Return the runs among these places, and those right in them."""
    every = [path for place in places for path in ([place] if run_settings(place) else sorted(place.iterdir()))]
    return [path for path in every if path.is_dir() and run_settings(path) is not None]


def measured(
    names: Sequence[str | Path], data: Path, images: int
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Return the scores and the method of each model."""
    models = load_models(names, say_once)
    wanted = {"knn": (None, KNNConfig()), "rank": (None, RankConfig()), "lidar": (None, LiDARConfig(limit=images))}
    comparison = gather(models, data, wanted, context=Context(torch.device("cpu"), watch=say_once))
    entries: dict[str, Entry] = {entry.run: entry for row in comparison.rows for entry in row.entries}
    scores: dict[str, dict[str, float]] = {}
    for model in models:
        entry, loss = entries[model.name], final_loss(model)
        values = {name: value for name in ("knn", *SCORES) if (value := entry.value(name)) is not None}
        scores[model.label] = values | ({} if loss is None else {LOSS: loss})
    return scores, {model.label: model.method for model in models}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", type=int, default=LiDARConfig.limit)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    given = parser.parse_args()
    if given.rehearse:
        with tempfile.TemporaryDirectory() as place:
            config = ScenesConfig(
                size=32, train_per_class=3, val_per_class=1, voc_images=1, davis_sequences=1, davis_frames=3
            )
            scores, methods = measured(REHEARSED, write_scenes(Path(place) / "scenes", config) / "folder", 4)
    else:
        if not given.runs or given.data is None:
            parser.error("give runs and --data, or --rehearse")
        scores, methods = measured(runs_in(given.runs), given.data, given.images)
    for name, values in scores.items():
        figures = "  ".join(f"{score} {value:.4g}" for score, value in values.items())
        print(f"{name:24} {methods[name]:12} {figures}")
    found = correlations(scores, methods)
    print("\nSpearman's correlation with k-NN, and its 95 % interval")
    for each in found:
        print(each.line())
    if given.json:
        given.json.write_text(json.dumps({"scores": scores, "correlations": [e._asdict() for e in found]}, indent=2))


if __name__ == "__main__":
    main()
