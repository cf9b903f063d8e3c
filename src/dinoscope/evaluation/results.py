"""Kept results: in a run folder, or for any other model in the cache; one file for each protocol and data set."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from dinoscope.config import flat, from_dict, to_dict
from dinoscope.errors import UserError
from dinoscope.evaluation.statistics import BootstrapConfig, interval_kind, mean_intervals, share_metric
from dinoscope.files import write_text
from dinoscope.places import parse_place
from dinoscope.types import Items, Metric, Result

OF_THE_MODEL = frozenset(
    {"label", "weights", "weights_hash", "feature", "learning_rate", "rate_at_edge", "network", "maps", "fixed_heads"}
    | {"made_of", "tuned"}
)
"""Entries of a protocol about the model, and what was found for it; comparable results share all others."""

_INCIDENTAL = frozenset(
    {"backbone", "forwards_per_repeat", "steps_per_repeat", "memory", "map_shown", "empty_maps", "interval"}
    | {"whole_image", "masks_from"}
)
"""Entries that follow from the model or the number of images, or are found while it is measured."""

_PLACES = frozenset({"gallery", "queries", "train", "val", "data"})
"""Entries that name images: folders, or datasets."""

DATASET = "dataset:"
"""What the name of images without files begins with; a digest of them follows."""

_RESAMPLES = 2_000
"""For the difference of two results: enough to tell whether its interval contains 0."""

_ITEM_DIGITS = 2
"""Digits after the point of an item's figure in a file."""


def new_result(evaluation: str, protocol: Any, metrics: Iterable[Metric], items: Items | None = None) -> Result:
    """Return a result whose protocol is given as a dataclass or a mapping; its values become those of JSON."""
    return Result(evaluation, json.loads(json.dumps(to_dict(protocol))), tuple(metrics), items)


# What two results share


def shared_protocol(result: Result) -> dict[str, Any]:
    """Return the protocol without its entries about the model, and what follows from it."""
    return {name: value for name, value in result.protocol.items() if name not in OF_THE_MODEL | _INCIDENTAL}


def conditions(result: Result) -> dict[str, Any]:
    """Return what two results must share to be compared, protocol and data: flat, with absolute folders."""
    protocol = shared_protocol(result)
    for name in _PLACES & protocol.keys():
        if protocol[name] is not None and not str(protocol[name]).startswith(DATASET):
            protocol[name] = str(parse_place(protocol[name]).resolve())
    return flat(protocol)


def settled(first: Result, other: Result, name: str) -> bool | None:
    """Return whether a metric of one result is above another's by more than chance; None if it has no interval.

    Paired over the images or videos of which both keep a score, each counted once: whether the 95 % interval of the
    differences lies above 0. Without such scores, whether the intervals of the two lie apart.
    """
    if first.items is not None and other.items is not None and name in other.items.figures:
        theirs = dict(zip(other.items.names, _rounded(other.items.figures[name]), strict=True))
        ours = zip(first.items.names, _rounded(first.items.figures.get(name, ())), strict=False)
        differences = [value - theirs[item] for item, value in ours if item in theirs]
        if len(differences) > 1:
            column = torch.tensor(differences, dtype=torch.float64)[:, None]
            (interval,) = mean_intervals(column, BootstrapConfig(_RESAMPLES))
            return interval.low is not None and interval.low > 0
    ahead, behind = first.metric(name), other.metric(name)
    if ahead is None or behind is None or ahead.low is None or behind.high is None:
        return None
    return ahead.low > behind.high


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(value, _ITEM_DIGITS) for value in values]  # as a file keeps them: one verdict before and after


def classified(protocol: Mapping[str, Any]) -> int | None:
    """Return how many images an accuracy is a share of; None if the protocol does not tell."""
    return protocol.get("val_images", protocol.get("query_images") or protocol.get("gallery_images"))


# Files


def keep(home: Path, name: str, result: Result) -> str:
    """Write to HOME/evaluations, one file for each protocol and data set; return its name without the suffix.

    The first result is NAME.json. Another one under other conditions is NAME-DIGEST.json, and a later one under the
    same conditions replaces the earlier one. Raises UserError if the file cannot be written.
    """
    digest = _digest(result)
    with contextlib.suppress(UserError):  # a damaged file is replaced
        first = kept(home, name)
        if first is not None and _digest(first) != digest:
            name = f"{name}-{digest}"
    keep_as(home, name, result)
    return name


def keep_as(home: Path, name: str, result: Result) -> None:
    """Write HOME/evaluations/NAME.json, in place of what is there. Raises UserError if that fails."""
    file = result_file(home, name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, to_json(result))
    except OSError as error:
        raise UserError(f"the result could not be written to {file}: {error}") from error


def kept(home: Path, name: str) -> Result | None:
    """Return what `keep` or `keep_as` wrote, in this version or an earlier one; None if there is no file.

    Raises UserError if the file is damaged.
    """
    file = result_file(home, name)
    if not file.is_file():
        return None
    try:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    return from_json(text, str(file))


def kept_names(home: Path, evaluation: str) -> list[str]:
    """Return the names of the results of an evaluation and its variants: `voc`, `voc-rollout`, `voc-100`..."""
    names = sorted(file.stem for file in (home / "evaluations").glob("*.json"))
    return [name for name in names if name == evaluation or name.startswith(f"{evaluation}-")]


def kept_name(evaluation: str, fraction: float = 1.0) -> str:
    """Return the name of a result: `knn`, or with 10 % of the labels `knn-10`, so that neither overwrites the other."""
    return evaluation if fraction == 1 else f"{evaluation}-{100 * fraction:g}"


def variant_name(evaluation: str, map: str, block: int, *parts: str | int | None) -> str:
    """Return the name of a result of maps: `voc`, or `voc-rollout-block0-100` of another kind, block or part."""
    kind = None if map == "attention" else map
    at = None if block == -1 else f"block{block}"
    return "-".join(str(part) for part in (evaluation, kind, at, *parts) if part is not None)


def result_file(home: Path, name: str) -> Path:
    return home / "evaluations" / f"{name}.json"


def _digest(result: Result) -> str:
    """Return eight hex digits that differ for other protocols, data, metrics (the ks of k-NN) and given learning rates.

    Whether a metric has an interval makes no difference. Names are spelled as earlier versions did ("knn_top1_k20"),
    so that a result replaces theirs.
    """
    protocol = result.protocol
    given = protocol.get("learning_rate") if protocol.get("rate_choice") == "given" else None
    names = [
        f"{each.name}_k{each.parameters['k']:g}" if "k" in each.parameters else each.name for each in result.metrics
    ]
    values = [conditions(result), list(dict.fromkeys(names)), given]
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=4).hexdigest()


# JSON


def plain(result: Result) -> dict[str, Any]:
    """Return a result as plain values, without the scores of single items and what is not set."""
    optional = {"low", "high", "n", "parameters"}
    metrics = [
        {name: value for name, value in to_dict(metric).items() if name not in optional or value not in (None, {})}
        for metric in result.metrics
    ]
    return {"evaluation": result.evaluation, "protocol": dict(result.protocol), "metrics": metrics}


def to_json(result: Result) -> str:
    """Return the text of the file that keeps a result; ends with a newline."""
    text = json.dumps(plain(result), indent=2)
    items = result.items
    if items is None:
        return text + "\n"
    figures = {name: _rounded(values) for name, values in items.figures.items() if not any(map(math.isnan, values))}
    values: dict[str, Any] = {"names": list(items.names), "figures": figures}
    values |= {name: value for name in ("left_out", "facts") if (value := to_dict(items)[name])}
    # on one line: with one value a line they would be nearly all of the file
    return f'{text.removesuffix("}").rstrip()},\n  "items": {json.dumps(values)}\n}}\n'


def from_json(text: str, source: str) -> Result:
    """Return the result in the text of a file of this version or an earlier one; `source` names it for the error.

    Raises UserError for a text that is not exactly that.
    """
    try:
        values: Any = json.loads(text)
    except ValueError as error:
        raise UserError(f"{source} is damaged: it is not JSON ({error}). Delete it and measure again") from error
    if not isinstance(values, dict) or not isinstance(cast("dict[str, Any]", values).get("metrics"), list):
        raise UserError(f"{source} is no result: it holds no list of metrics. Delete it and measure again")
    found = cast("dict[str, Any]", values)
    if "evaluation" in found:
        return from_dict(Result, found, source)
    earlier = {"items" if name == "examples" else name: value for name, value in found.items()}
    return _converted(from_dict(Result, {"evaluation": "", **earlier}, source))


_EVALUATIONS_BY_METRIC = {
    "knn_": "knn",
    "linear_": "linear",
    "voc_": "voc",
    "jf_": "davis",
    "explain_": "explain",
    "parameters": "throughput",
    "training_": "throughput",
    "rankme": "rank",
}
"""How the first metric of an earlier file begins -> its evaluation."""


def _converted(result: Result) -> Result:
    """Convert a result of the format before `Result`, whose values were in names: "knn_top1_k20", "jf_mean_low".

    Intervals over so few items that they were too narrow are dropped, and accuracies get theirs.
    """
    protocol, values = result.protocol, {metric.name: metric.value for metric in result.metrics}
    first = result.metrics[0].name if result.metrics else ""
    evaluation = next((name for start, name in _EVALUATIONS_BY_METRIC.items() if first.startswith(start)), "")
    over = {"voc": protocol.get("images"), "davis": len(protocol.get("sequences", ()))}.get(evaluation)
    stale = evaluation in ("voc", "davis") and protocol.get("interval", "bootstrap") != interval_kind(over or 0)
    metrics: list[Metric] = []
    for metric in result.metrics:
        name, parameters = metric.name, {}
        if name.endswith(("_low", "_high")) and name.rpartition("_")[0] in values:
            continue
        low, high = (None, None) if stale else (values.get(f"{name}_low"), values.get(f"{name}_high"))
        if evaluation == "knn" and "_k" in name.removeprefix("knn"):
            name, _, k = name.rpartition("_k")
            parameters = {"k": float(k)}
        if evaluation == "voc":
            percent = name.removeprefix("voc_jaccard_published_")  # of a reproduction: another mass
            parameters = {"mass": float(percent) / 100 if percent.isdecimal() else protocol.get("mass", 0.6)}
            name = "voc_jaccard_published" if percent.isdecimal() else name
        n = None if low is None else over
        converted = replace(metric, name=name, low=low, high=high, n=n, parameters=parameters)
        if "_top" in name and (count := classified(protocol)) and 0 <= metric.value <= 100:
            converted = share_metric(name, metric.value, count, parameters)
        metrics.append(converted)
    items = result.items
    if items is not None and evaluation == "voc":
        items = replace(items, figures={f"voc_jaccard_{name}": values for name, values in items.figures.items()})
    return Result(evaluation, protocol, tuple(metrics), items)
