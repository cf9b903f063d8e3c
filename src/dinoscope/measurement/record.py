"""What was measured and how, and where it is kept: in a run folder, or of any other model in the cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dinoscope.config import flat, from_dict, to_dict
from dinoscope.errors import UserError
from dinoscope.evaluation.bootstrap import BootstrapConfig, interval_kind, mean_intervals
from dinoscope.files import cache_folder, write_text
from dinoscope.training.run_folder import CONFIG
from dinoscope.types import Metric

OF_THE_MODEL = frozenset(
    {"weights", "weights_hash", "feature", "learning_rate", "rate_at_edge", "network", "maps", "fixed_heads"}
)
"""Entries of a protocol about the model, and what was found for it; comparable results share all others."""

_RESAMPLES = 2_000
"""Of the differences of two results: enough to see whether an interval contains 0."""

_ENDS = ("_low", "_high")
"""What the names of the ends of an interval end with."""

_PLACES = frozenset({"gallery", "queries", "train", "val", "data"})  # folders in a protocol

_INCIDENTAL = frozenset(
    {
        "backbone",
        "forwards_per_repeat",
        "memory",
        "feature",
        "learning_rate",
        "rate_at_edge",
        "map_shown",
        "empty_maps",
        "interval",
    }
)
"""Entries of a protocol that follow from the model or the number of images, or are found while it is measured."""


@dataclass(frozen=True)
class Examples:
    """What single images or videos scored, so that the best and the worst are known.

    figures: name -> one value in % for each of the names; two digits after the point are kept.
    """

    names: tuple[str, ...]
    figures: Mapping[str, tuple[float, ...]]

    @staticmethod
    def of(names: Iterable[str], figures: Mapping[str, Iterable[float]]) -> Examples:
        """Rounded to what is kept."""
        return Examples(tuple(names), {name: tuple(round(x, 2) for x in values) for name, values in figures.items()})


@dataclass(frozen=True)
class Measurement:
    """Figures, and how they came about.

    protocol: plain JSON values: the model (`OF_THE_MODEL`), and what two results must share to be compared.
    examples: what the figures are means of, where that is kept.
    """

    protocol: Mapping[str, Any]
    metrics: tuple[Metric, ...]
    examples: Examples | None = None

    def figures(self) -> dict[str, Any]:
        """Protocol and metrics as plain values, without the examples."""
        return {name: value for name, value in to_dict(self).items() if name != "examples"}

    def to_json(self) -> str:
        """The text of the file that keeps it; ends with a newline."""
        text = json.dumps(self.figures(), indent=2)
        if self.examples is None:
            return text + "\n"
        # on one line: with one value a line they would be nearly all of the file
        return f'{text.removesuffix("}").rstrip()},\n  "examples": {json.dumps(to_dict(self.examples))}\n}}\n'

    @staticmethod
    def from_json(text: str, source: str) -> Measurement:
        """The inverse of `to_json`; `source` names the file for the error.

        Raises UserError for a text that is not exactly that.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise UserError(f"{source} is damaged: it is not JSON ({error}). Delete it and measure again") from error
        if not (isinstance(values, dict) and isinstance(values.get("metrics"), list)):
            raise UserError(f"{source} is no measurement: it holds no list of metrics. Delete it and measure again")
        return from_dict(Measurement, values, source)

    @staticmethod
    def of(protocol: Any, metrics: Iterable[Metric], examples: Examples | None = None) -> Measurement:
        """With a protocol given as a dataclass; its values become those that JSON would give back."""
        return Measurement(json.loads(json.dumps(to_dict(protocol))), tuple(metrics), examples)


def trusted_figures(measurement: Measurement, items: int) -> dict[str, float]:
    """The metrics by name, without the intervals of an earlier result on so few items that they are too narrow."""
    stale = measurement.protocol.get("interval", "bootstrap") != interval_kind(items)
    return {metric.name: metric.value for metric in measurement.metrics if not (stale and metric.name.endswith(_ENDS))}


def settled(first: Measurement, other: Measurement, example: str, metric: str) -> bool | None:
    """Whether a metric of one result is above another's by more than chance; None if it has no interval.

    Paired over the images or videos of which both keep a score, each counted once: whether the 95 % interval of the
    differences lies above 0. Without such scores, whether the intervals of the two lie apart.

    example: name of the score among the examples.
    """
    if first.examples is not None and other.examples is not None and example in other.examples.figures:
        theirs = dict(zip(other.examples.names, other.examples.figures[example], strict=True))
        ours = zip(first.examples.names, first.examples.figures.get(example, ()), strict=False)
        apart = [value - theirs[name] for name, value in ours if name in theirs]
        if len(apart) > 1:
            (found,) = mean_intervals(torch.tensor(apart, dtype=torch.float64)[:, None], BootstrapConfig(_RESAMPLES))
            return found.low is not None and found.low > 0
    low, high = ({each.name: each.value for each in result.metrics} for result in (first, other))
    if f"{metric}_low" not in low or f"{metric}_high" not in high:
        return None
    return low[f"{metric}_low"] > high[f"{metric}_high"]


def kept_name(evaluation: str, fraction: float = 1.0) -> str:
    """Name of a result: `knn`, or with 10 % of the labels `knn-10`, so that neither overwrites the other."""
    return evaluation if fraction == 1 else f"{evaluation}-{100 * fraction:g}"


def variant_name(evaluation: str, map: str, block: int, *parts: str | int | None) -> str:
    """Name of a result of maps: `voc`, or `voc-rollout-block0-100` of another kind, block, or part of the images."""
    kind = None if map == "attention" else map
    at = None if block == -1 else f"block{block}"
    return "-".join(str(part) for part in (evaluation, kind, at, *parts) if part is not None)


def conditions(measurement: Measurement) -> dict[str, Any]:
    """What two measurements must share to be compared: protocol and data; flat, with absolute folders."""
    found = {
        name: str(Path(value).resolve()) if name in _PLACES and value is not None else value
        for name, value in measurement.protocol.items()
        if name not in OF_THE_MODEL | _INCIDENTAL
    }
    return flat(found)


def keep(model: Path, name: str, measurement: Measurement) -> str | None:
    """`keep_in` if the model is a run folder, else nothing. Raises UserError if the file cannot be written."""
    return keep_in(model, name, measurement) if (model / CONFIG).is_file() else None


def cached_home(weights: str) -> Path:
    """The folder for the measurements of a model that is no run: in the cache, under the hash of its weights.

    So nothing is written beside files of others, and one model under two names is measured once.
    """
    return cache_folder("measurements") / weights


def keep_in(home: Path, name: str, measurement: Measurement) -> str:
    """Write to HOME/evaluations, one file for each protocol and data set; return its name without the suffix.

    The first result is NAME.json. Another one under other conditions is NAME-DIGEST.json, and a later one under the
    same conditions replaces the earlier one. Raises UserError if the file cannot be written.
    """
    digest = _digest(measurement)
    place = f"{name}-{digest}"
    for candidate in (name, place):
        with contextlib.suppress(UserError):  # a damaged file is replaced
            held = kept(home, candidate)
            if held is not None and _digest(held) != digest:
                continue
        place = candidate
        break
    keep_as(home, place, measurement)
    return place


def keep_as(home: Path, name: str, measurement: Measurement) -> None:
    """Write HOME/evaluations/NAME.json, in place of what is there. Raises UserError if that fails."""
    file = _file(home, name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, measurement.to_json())
    except OSError as error:
        raise UserError(f"the result could not be written to {file}: {error}") from error


def kept(home: Path, name: str) -> Measurement | None:
    """What `keep` or `keep_in` wrote, or None where there is no such result.

    Raises UserError where the file is damaged.
    """
    file = _file(home, name)
    if not file.is_file():
        return None
    try:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    return Measurement.from_json(text, str(file))


def kept_names(home: Path, evaluation: str) -> list[str]:
    """Names of the results of an evaluation and its variants that are kept: `voc`, `voc-rollout`, `voc-100`..."""
    names = sorted(file.stem for file in (home / "evaluations").glob("*.json"))
    return [name for name in names if name == evaluation or name.startswith(f"{evaluation}-")]


def newest_first(home: Path, names: Iterable[str]) -> list[str]:
    """The names of kept results, that which was written last first."""
    return sorted(names, key=lambda name: _file(home, name).stat().st_mtime_ns, reverse=True)


def _digest(measurement: Measurement) -> str:
    """Return eight hex digits that differ for other protocols, data, metrics (the ks of k-NN) and given learning rates.

    Whether a metric has an interval makes no difference.
    """
    protocol = measurement.protocol
    given = protocol.get("learning_rate") if protocol.get("rate_choice") == "given" else None
    names = [metric.name for metric in measurement.metrics if not metric.name.endswith(_ENDS)]
    values = [conditions(measurement), names, given]
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=4).hexdigest()


def _file(home: Path, name: str) -> Path:
    return home / "evaluations" / f"{name}.json"
