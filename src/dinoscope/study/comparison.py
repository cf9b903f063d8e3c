"""Comparisons of methods: TOML files that name methods, networks and seeds, and the runs that follow from them.

The named comparisons are the files in `studies/` with the key `backbones`; a user's file has the same form. Keys:
title; methods (a list, or "all"); backbones; views (a preset); seeds; minutes (of training per run, in place of
epochs); and any number of [[changes]], which apply to all runs, or to some methods or networks:

    [[changes]]
    methods = ["emp"]
    backbones = ["airbench_micro"]
    set = { views.num_global = 4, batch_size = 128 }
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dinoscope.config import short
from dinoscope.data.sources import ImageSource
from dinoscope.errors import UserError, located, lookup
from dinoscope.files import write_text
from dinoscope.methods import METHODS
from dinoscope.models.backbone import network
from dinoscope.recipes import small_run
from dinoscope.study.definition import (
    built,
    check_keys,
    dotted_settings,
    named_studies,
    read_text,
    seeds_of,
    study_files,
    typed,
    with_settings,
)
from dinoscope.study.plan import own_threads, scanned_once, settings_key
from dinoscope.system import pick_device
from dinoscope.training.budget import Budget, Costs, chosen_length, measured, open_ended, settled
from dinoscope.training.config import RunConfig, with_epochs

ALL = "all"
"""Every method that needs no other model, with each network that it works with."""

LENGTHS = "lengths.json"
"""File in OUT with the epochs that fit into the time, so that a restarted study continues the same runs."""

TRIAL = 20.0
"""Seconds for timing a run; the first half warms up. They do not count as part of its minutes."""

KEYS = ("title", "methods", "backbones", "views", "seeds", "minutes", "changes")
"""Keys of a comparison's file."""


@dataclass(frozen=True)
class Change:
    """Settings for some runs.

    settings: dotted name -> value. methods, backbones: those it applies to; empty means all.
    """

    settings: Mapping[str, Any]
    methods: tuple[str, ...] = ()
    backbones: tuple[str, ...] = ()

    def applies(self, method: str, backbone: str) -> bool:
        return method in (self.methods or (method,)) and backbone in (self.backbones or (backbone,))


@dataclass(frozen=True)
class Comparison:
    """What is compared, by the keys of the file. methods: () for "all". source: the file, or a name, for errors."""

    backbones: tuple[str, ...]
    methods: tuple[str, ...] = ()
    views: str = "two_views_32"
    seeds: tuple[int, ...] = (0,)
    minutes: float | None = None
    changes: tuple[Change, ...] = ()
    source: str = field(default="", compare=False)

    def configs(self, data: Path, out: Path, epochs: float | None = None) -> list[RunConfig]:
        """Return a run of every method with every backbone and seed, in OUT/runs/METHOD-BACKBONE-sSEED.

        Ordered so that insight comes early: all methods with the first backbone and seed, then the next backbone, and
        only then the next seed.

        epochs: instead of the budget's; what counts epochs is shortened in proportion if this is less.
        Raises UserError for an unknown name (the nearest is offered), one that is given twice, or a wrong value.
        """
        methods = self.methods or tuple(name for name, entry in METHODS.items() if not entry.from_model)
        for option, names in {"methods": methods, "backbones": self.backbones, "seeds": self.seeds}.items():
            twice = next((one for one in names if names.count(one) > 1), None)
            if twice is not None:
                raise UserError(f"--{option} names {twice} twice")
        configs: list[RunConfig] = []
        for seed, backbone, method in itertools.product(self.seeds, self.backbones, methods):
            if not self.methods and METHODS[method].transformers_only and not network(backbone).transformer:
                continue
            config = small_run(method, backbone, self.views, data, out / "runs" / f"{method}-{backbone}-s{seed}")
            config = with_settings(config, self._settings(method, backbone), f"{self.source}, changes")
            configs.append(with_epochs(replace(config, seed=seed), epochs))
        return configs

    def _settings(self, method: str, backbone: str) -> dict[str, Any]:
        applied = [change.settings for change in self.changes if change.applies(method, backbone)]
        return {name: value for settings in applied for name, value in settings.items()}


# Equal time


def of_equal_time(
    configs: Sequence[RunConfig], minutes: float, out: Path, progress: Callable[[int, int], None], *, keep: bool = True
) -> list[RunConfig]:
    """Return the runs with as many epochs as fit into the minutes. Runs that differ in the seed alone are timed once.

    The epochs are stored in OUT/`LENGTHS` and read from there the next time, so that a restarted study continues its
    runs. Only training steps count: start-up, evaluations and checkpoints take extra time.

    keep: False writes nothing.
    Raises UserError as `training.budget.fit` does, and if OUT was begun with another time.
    """
    file, budget = out / LENGTHS, Budget(minutes, ("evaluate_every",))
    known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"minutes": minutes}
    if known.pop("minutes") != minutes:
        raise UserError(f"{out} was begun with another --minutes: give the same, or another --out")
    images_of = scanned_once(lambda done, total: None)
    chosen: list[RunConfig] = []
    for number, config in enumerate(configs):
        progress(number, len(configs))
        key = _without_seed(config)
        if key not in known:
            with located(f"run {config.out.name}"):
                known[key] = _epochs_within(config, images_of(config), budget)
            if keep:
                out.mkdir(parents=True, exist_ok=True)
                write_text(file, json.dumps({"minutes": minutes, **known}, indent=1))
        chosen.append(settled(config, known[key], config.evaluate_every, budget.given))
    return chosen


def _epochs_within(config: RunConfig, images: ImageSource, budget: Budget) -> float:
    with own_threads(config):
        costs = measured(open_ended(config), images, pick_device(config.device), TRIAL)
    costs = Costs(costs.step)  # only steps count
    return chosen_length(config, len(images) // config.batch_size, costs, 60 * budget.minutes, budget)[0]


def _without_seed(config: RunConfig) -> str:
    """Return the method, the network and a digest of all settings but the seed."""
    digest = hashlib.sha256(settings_key(replace(config, seed=0)).encode()).hexdigest()
    return f"{config.out.name.rpartition('-s')[0]} {digest[:16]}"


# Files


def comparison(study: str, **given: Any) -> Comparison:
    """Return a comparison by its name, or from a TOML file.

    given: fields that replace those of the file; None, () and "" replace nothing.
    Raises UserError for an unknown name, or a file that does not hold a comparison.
    """
    if study.endswith(".toml"):
        found = built(read_text(Path(study)), study, lambda values: _comparison(values, study))
    else:
        lookup("study", study, named_studies("backbones"))
        found = _comparison(study_files()[study], f"study {study}")
    return replace(found, **{name: value for name, value in given.items() if value not in (None, (), "")})


def _comparison(values: Mapping[str, Any], source: str) -> Comparison:
    check_keys(values, KEYS)
    backbones = _names(values, "backbones", network)
    if not backbones:
        raise UserError("backbones are missing: list the networks that the methods are trained with")
    minutes = values.get("minutes")
    if minutes is not None and (not isinstance(minutes, int | float) or isinstance(minutes, bool)):
        raise UserError(f"minutes must be a number, not {short(minutes)}")
    changes = typed(values.get("changes", []), list, "changes")
    return Comparison(
        backbones,
        methods=() if values.get("methods", ALL) == ALL else _names(values, "methods", _method),
        views=typed(values.get("views", "two_views_32"), str, "views"),
        seeds=seeds_of(values),
        minutes=minutes,
        changes=tuple(_change(change, number) for number, change in enumerate(changes, 1)),
        source=source,
    )


def _change(table: Any, number: int) -> Change:
    with located(f"change {number}"):
        check_keys(typed(table, Mapping, "it"), ("methods", "backbones", "set"))
        settings = dotted_settings(typed(table.get("set"), Mapping, "`set`"), "`set`")
        if "backbone" in settings:
            raise UserError("backbone cannot be set here: `backbones` lists the networks")
        return Change(settings, _names(table, "methods", _method), _names(table, "backbones", network))


def _names(table: Mapping[str, Any], key: str, look_up: Callable[[str], object]) -> tuple[str, ...]:
    """Return the names that a table lists. Raises UserError for one that is unknown, with the nearest."""
    names = typed(table.get(key, []), list, key)
    for name in names:
        look_up(typed(name, str, f"each of {key}"))
    return tuple(names)


def _method(name: str) -> object:
    return lookup("method", name, METHODS)
