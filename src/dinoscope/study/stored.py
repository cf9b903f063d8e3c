"""A study's result as JSON and back, strictly."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from dinoscope import __version__
from dinoscope.config import from_dict, to_dict
from dinoscope.errors import UserError
from dinoscope.study.definition import BASELINE
from dinoscope.study.effects import Study, arrange, effect, importances, label_free
from dinoscope.study.results import AblationResult

FILE = "ablation.json"
FORMAT = 3
_KEYS = {"format", "dinoscope", "result", "statistics"}

_NOT_FINITE = "not_finite"
"""JSON has no NaN and no infinity: they are written as {"not_finite": "nan"}."""


def to_json(result: AblationResult) -> str:
    """Return the text of `ablation.json`: the result, unrounded, and what was computed of it, for other programs.

    Raises UserError if a variant has two runs of one seed, or a value is none that JSON has.
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
    """Return the result that `to_json` wrote, in this version or an earlier one; a tuple in a setting is a list then.

    Raises UserError, naming `source`, for a text that is not exactly what was written. Statistics are not looked at.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UserError(f"{source} is damaged: it is not JSON ({error})") from error
    if not isinstance(values, dict) or values.keys() != _KEYS or not isinstance(values["result"], dict):
        raise UserError(f"{source} is no result of an ablation study")
    if values["format"] not in list(range(1, FORMAT + 1)):  # a list also takes what cannot be hashed
        raise UserError(
            f"{source} has format {values['format']!r}; this version of dinoscope reads formats 1 to {FORMAT}"
        )
    try:
        stored = _upgraded(values["format"], values["result"])
        result = from_dict(AblationResult, _read(stored), source)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise UserError(f"{source} is damaged: {error}") from error
    # What was left out, or was converted ("3" to 3, 3.7 to 3), would not be written like that again.
    if json.loads(json.dumps(_written(to_dict(result)))) != stored:
        raise UserError(f"{source} is damaged: a value is missing or of the wrong kind")
    arrange(result)
    return result


def read_result(path: Path) -> AblationResult:
    """Return the result in a study's folder, or in its `ablation.json`.

    Raises UserError if there is none, or it is damaged.
    """
    file = path / FILE if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"there is no result of an ablation study at {file}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    return from_json(text, str(file))


def _upgraded(number: int, values: dict[str, Any]) -> dict[str, Any]:
    """Return a result as this format has it: format 1 had no values of the baseline, 1 and 2 called it the base."""
    if number == FORMAT:
        return values
    values = {"base_values": {}, **values} if number == 1 else values
    renamed = {"base": "baseline", "base_values": "baseline_values"}
    values = {renamed.get(name, name): value for name, value in values.items()}
    runs = [{**run, "variant": _renamed(run["variant"])} for run in values["runs"]]
    return {**values, "baseline": _renamed(values["baseline"]), "runs": runs}


def _renamed(variant: dict[str, Any]) -> dict[str, Any]:
    is_base = variant["axis"] == BASELINE.axis and variant["label"] == "base"
    return {**variant, "label": BASELINE.label} if is_base else variant


def _statistics(study: Study) -> dict[str, Any]:
    """Return differences, ranking and agreement as plain values."""
    differences = [(axis, group, effect(group, study.baseline)) for axis in study.axes for group in axis.groups]
    return {
        "differences": [
            {"axis": axis.name, "label": group.label, "knn_top1": None if one is None else to_dict(one)}
            for axis, group, one in differences
        ],
        "ranking": [
            {
                "axis": one.axis.name,
                "largest": None if one.largest is None else one.largest.group.label,
                "collapsed": one.largest is not None and one.largest.collapsed,
                "largest_not_collapsed": None if one.healthy is None else one.healthy.group.label,
                "failed": list(one.failed),
            }
            for one in importances(study)
        ],
        "without_labels": [to_dict(one) for one in label_free(study)],
    }


def _written(values: Any) -> Any:
    """Return plain values with what JSON lacks replaced."""
    if isinstance(values, float) and not math.isfinite(values):
        return {_NOT_FINITE: str(values)}
    if isinstance(values, dict):
        return {key: _written(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_written(value) for value in values]
    return values


def _read(values: Any) -> Any:
    """Return plain values with what JSON lacks put back."""
    if isinstance(values, dict):
        if values.keys() == {_NOT_FINITE} and values[_NOT_FINITE] in ("nan", "inf", "-inf"):
            return float(values[_NOT_FINITE])
        return {key: _read(value) for key, value in values.items()}
    return [_read(value) for value in values] if isinstance(values, list) else values
