"""A study's result as JSON and back, strictly."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from dinoscope import __version__
from dinoscope.ablation.effects import effect, importances, label_free
from dinoscope.ablation.grouping import Study, arrange
from dinoscope.ablation.records import AblationResult
from dinoscope.config import from_dict, to_dict
from dinoscope.errors import UserError

FILE = "ablation.json"
FORMAT = 2
_ADDED: dict[int, dict[str, Any]] = {1: {"base_values": {}}, FORMAT: {}}
"""Format -> what a result of it lacks, as it is taken for."""
_KEYS = {"format", "dinoscope", "result", "statistics"}

_NOT_FINITE = "not_finite"
"""JSON has no NaN and no infinity: they are written as {"not_finite": "nan"}."""


def to_json(result: AblationResult) -> str:
    """The text of `ablation.json`: the result, unrounded, and what was computed of it, for other programs.

    Raises UserError where a variant has two runs of one seed, or a value is none that JSON has.
    """
    values = {
        "format": FORMAT,
        "dinoscope": __version__,
        "result": to_dict(result),
        "statistics": _statistics(arrange(result)),
    }
    try:
        return json.dumps(_written(values), indent=1, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise UserError(f"a value of the study cannot be written as JSON: {error}") from error


def from_json(text: str, source: str) -> AblationResult:
    """The inverse of `to_json`; settings come back as JSON has them (a tuple as a list). `source` names the file.

    Results of format 1 are read too; in them, the base is no value of an axis.

    Raises UserError for a text that is not exactly what `to_json` writes; its statistics are not looked at.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UserError(f"{source} is damaged: it is not JSON ({error})") from error
    if not isinstance(values, dict) or values.keys() != _KEYS or not isinstance(values["result"], dict):
        raise UserError(f"{source} is no result of an ablation study")
    if values["format"] not in list(_ADDED):  # a list also takes what cannot be hashed
        raise UserError(
            f"{source} has format {values['format']!r}; this version of dinoscope reads formats 1 to {FORMAT}"
        )
    held = _ADDED[values["format"]] | values["result"]
    try:
        result = from_dict(AblationResult, _read(held), source)
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{source} is damaged: {error}") from error
    # What was left out, or was converted ("3" to 3, 3.7 to 3), would not be written like that again.
    if json.loads(json.dumps(_written(to_dict(result)))) != held:
        raise UserError(f"{source} is damaged: a value is missing or of the wrong kind")
    arrange(result)
    return result


def read_result(path: Path) -> AblationResult:
    """The result in a folder that `write_result` wrote, or in its `ablation.json`.

    Raises UserError where there is none, or it is damaged.
    """
    file = path / FILE if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"there is no result of an ablation study at {file}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    return from_json(text, str(file))


def _statistics(study: Study) -> dict[str, Any]:
    """Differences, ranking and agreement as plain values."""
    every = importances(study)
    return {
        "differences": [
            {"axis": axis.name, "label": group.label, "knn_top1": None if found is None else to_dict(found)}
            for axis in study.axes
            for group in axis.groups
            for found in [effect(group, study.base)]
        ],
        "ranking": [
            {
                "axis": one.axis.name,
                "largest": None if one.largest is None else one.largest.group.label,
                "collapsed": one.largest is not None and one.largest.collapsed,
                "largest_not_collapsed": None if one.healthy is None else one.healthy.group.label,
                "failed": list(one.failed),
            }
            for one in every
        ],
        "without_labels": [to_dict(found) for found in label_free(study)],
    }


def _written(values: Any) -> Any:
    """Plain values with what JSON lacks replaced."""
    if isinstance(values, float) and not math.isfinite(values):
        return {_NOT_FINITE: str(values)}
    if isinstance(values, dict):
        return {key: _written(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_written(value) for value in values]
    return values


def _read(values: Any) -> Any:
    """The inverse of `_written`."""
    if isinstance(values, dict):
        if values.keys() == {_NOT_FINITE} and values[_NOT_FINITE] in ("nan", "inf", "-inf"):
            return float(values[_NOT_FINITE])
        return {key: _read(value) for key, value in values.items()}
    return [_read(value) for value in values] if isinstance(values, list) else values
