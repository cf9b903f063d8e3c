"""One model after the other: taken from what an earlier start kept, else measured and kept; a failure is a result."""

from __future__ import annotations

import functools
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from dinoscope.config import to_dict
from dinoscope.errors import UserError
from dinoscope.evaluation.results import keep_as, kept
from dinoscope.measurement import Watch
from dinoscope.model_names import Model, folder_names
from dinoscope.reproduction.bench import Bench
from dinoscope.reproduction.targets import Figure, Target
from dinoscope.system import machine
from dinoscope.types import Result

SETTINGS = "reproduction"
"""Entry of a kept protocol: what a later start must ask for to take the measurement up."""

SCRATCH = "features"
"""Folder beside evaluations/ of what is computed for a measurement; gone when that is kept."""

T = TypeVar("T")


@dataclass(frozen=True)
class Work:
    """How models are measured. watch: hears of the progress. overwrite: measure again what is kept."""

    bench: Bench
    device: torch.device
    watch: Watch
    overwrite: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of one model.

    measurements, failures: by evaluation; each is in one of the two.
    """

    target: Target
    measurements: Mapping[str, Result] = field(default_factory=dict[str, Result])
    failures: Mapping[str, str] = field(default_factory=dict[str, str])

    def measured(self, figure: Figure) -> float | None:
        """A figure, or None where there is none."""
        found = self.measurements.get(figure.evaluation)
        metric = None if found is None else found.metric(figure.metric, **figure.parameters)
        return None if metric is None else metric.value


def model_folders(out: Path, targets: Sequence[Target]) -> list[Path]:
    """Where the measurements of each model are kept, below evaluations/."""
    return [out / name for name in folder_names([target.weights.name for target in targets])]


def require_same(out: Path, targets: Sequence[Target], bench: Bench) -> None:
    """Refuse, before the work, kept measurements that were made otherwise: they would have to be replaced.

    Raises UserError that says which, and what is different.
    """
    for target, folder in zip(targets, model_folders(out, targets), strict=True):
        for evaluation in target.evaluations:
            held = kept(folder, evaluation)
            if held is None:
                continue
            before, now = held.protocol.get(SETTINGS, {}), _plain(bench.settings(evaluation))
            changed = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
            if changed:
                raise UserError(
                    f"{folder}/evaluations/{evaluation}.json was measured otherwise (other {', '.join(changed)}): name "
                    "another --out, or add --overwrite to measure it again"
                )


def run(targets: Sequence[Target], work: Work, out: Path) -> Iterator[Outcome]:
    """Give what came of each model, as soon as it is there; one model is in memory at a time.

    Raises UserError where a result cannot be written; all else that goes wrong with a model is its result.
    """
    for target, folder in zip(targets, model_folders(out, targets), strict=True):
        model = attempt(target.weights.load)
        if isinstance(model, str):
            yield Outcome(target, failures=dict.fromkeys(target.evaluations, model))
        else:
            yield _outcome(target, model, work, folder)


def _outcome(target: Target, model: Model, work: Work, folder: Path) -> Outcome:
    weights, measurements, failures = model.weights_hash, dict[str, Result](), dict[str, str]()
    for evaluation in target.evaluations:
        held = None if work.overwrite else kept(folder, evaluation)
        if held is not None and held.protocol.get("weights_hash") == weights:
            measurements[evaluation] = held
        elif held is not None:
            failures[evaluation] = "what is kept was measured of other weights: name another --out, or add --overwrite"
        else:
            found = attempt(functools.partial(_measure, work, evaluation, model, folder / SCRATCH))
            if isinstance(found, str):
                failures[evaluation] = found
            else:
                keep_as(folder, evaluation, found)
                shutil.rmtree(folder / SCRATCH, ignore_errors=True)
                measurements[evaluation] = found
    return Outcome(target, measurements, failures)


def attempt(call: Callable[[], T]) -> T | str:
    """What the call gives, or why it gave nothing: a mistake of the person, memory, or files that cannot be read."""
    try:
        return call()
    except torch.OutOfMemoryError:
        return "it does not fit into the memory of the device: give a smaller --batch-size"
    except MemoryError:
        return "it does not fit into memory"
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or 'a file'}: {error.strerror or error}"


def _measure(work: Work, evaluation: str, model: Model, scratch: Path) -> Result:
    begin, watch = time.perf_counter(), work.watch
    model.backbone.to(work.device)
    found = work.bench.measure(evaluation, model, lambda what: watch(f"{model.label}: {what}"), scratch)
    taken = {"seconds": round(time.perf_counter() - begin, 1), "machine": to_dict(machine(work.device))}
    settings = _plain(work.bench.settings(evaluation))
    return replace(found, protocol={**found.protocol, **taken, SETTINGS: settings})


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON would give it back."""
    return json.loads(json.dumps(dict(settings)))
