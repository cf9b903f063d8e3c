"""Make `options.json`, the options of every command as data: `python -m dinoscope.cli.schema`.

Options come from tyro's reading of the commands' functions and of the library's configs. An option without a text of
its own takes it from the docstring of its class, from a line such as "epochs: passes over the images".
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any, get_args, get_type_hints

import tyro

from dinoscope.choosing import AUTO, CHOSEN
from dinoscope.cli.command import MARKERS, Command, registry_of_types
from dinoscope.cli.options import ANY, FILE, REGISTRIES, SOME, Option, Spec
from dinoscope.cli.train import Choices
from dinoscope.data.views import VIEWS
from dinoscope.methods import METHODS
from dinoscope.recipes import RECIPES, run_config
from dinoscope.training.config import RunConfig

GROUPS = (
    "train",
    "duplicates",
    "demo",
    "evaluate",
    "predict",
    "compare",
    "verdict",
    "pictures",
    "video",
    "models",
    "curate",
    "studies",
)
"""Modules with commands, in the order of `dinoscope --help`."""

NAMES_BY_METAVAR = {
    "MODEL": "model",
    "MODEL...": "model",
    "RUN...": "model",
    "EVALUATION...": "evaluation",
    "PART...": "part of a verdict",
    "STUDY": "study",
    "TABLE": "table",
    "NAME": "figure",
}
NAMES_BY_OPTION = {
    "init": "model",
    "copies-model": "model",
    "backbone": "backbone",
    "backbones": "backbone",
    "methods": "method",
    "recipe": "recipe",
    "map": "kind of map",
    "by": "way to segment",
}
"""What the words of an option are, or else its name -> the kind of their names (`Option.names`)."""

_WORDS = {"*": ANY, "+": SOME, "?": 1, None: 1}
_NOTE = re.compile(r"\s*\((?:(required)|repeatable|default: ((?:.|\n)*))\)$")

COMMON = (
    "data",
    "out",
    "recipe",
    "method",
    "backbone",
    "views",
    "init",
    "epochs",
    "batch-size",
    "image-size",
    "device",
    "minutes",
    "resume",
    "overwrite",
    "plan",
)
"""The first options of `train`."""


def names() -> dict[str, list[str]]:
    """Return the names of each kind."""
    return {kind: list(getattr(importlib.import_module(m), registry)) for kind, (m, registry) in REGISTRIES.items()}


def schema() -> dict[str, Any]:
    """Return every command as plain values."""
    modules = [importlib.import_module(f"dinoscope.cli.{group}") for group in GROUPS]
    return {
        name: _plain(_spec(module.__name__, command)) for module in modules for name, command in module.COMMANDS.items()
    }


def options(kind: Callable[..., Any], default: Any = tyro.MISSING_NONPROP, markers: Any = MARKERS) -> Iterator[Option]:
    """Give the options that tyro makes of a function or a dataclass, in its order."""
    with warnings.catch_warnings(), registry_of_types():
        warnings.simplefilter("ignore", DeprecationWarning)  # get_parser: nothing else tells what tyro made
        parser = tyro.extras.get_parser(kind, default=default, config=markers)
    for action in parser._actions:
        if action.dest == "help":
            continue
        pair = "Boolean" in type(action).__name__  # --x and --no-x
        note = _NOTE.search(action.help or "")
        text = (action.help or "")[: note.start()] if note else action.help or ""
        text = " ".join((text or _documented(kind, default, action.dest)).split())
        unsaid = ("None", "''", *(() if pair else ("False",)))
        flags = tuple(action.option_strings if pair else reversed(action.option_strings))  # tyro puts aliases first
        name, metavar = flags[0].removeprefix("--") if flags else action.dest, _metavar(action)
        yield Option(
            name=name,
            flags=flags,
            words=action.nargs if isinstance(action.nargs, int) else _WORDS[action.nargs],
            metavar=metavar,
            names=NAMES_BY_METAVAR.get(metavar, NAMES_BY_OPTION.get(name, "")),
            choices=tuple(  # of several words, tyro lists them twice
                dict.fromkeys(
                    word for words in re.findall(r"{([^} ]+)}", str(action.metavar)) for word in words.split(",")
                )
            ),
            help=text[:1].upper() + text[1:] if re.match(r"[a-z]+ ", text) else text,
            default="" if note is None or note[2] is None or note[2] in unsaid else note[2].removesuffix(".0"),
            required=note is not None and note[1] is not None,
            repeated="Append" in type(action).__name__,
        )


def _metavar(action: Any) -> str:
    """Return FOLDER for a positional PATH, INT... for [INT [INT ...]], and nothing for choices, which are listed."""
    text = action.metavar if isinstance(action.metavar, str) and not action.choices else ""
    if not action.option_strings and text in ("PATH", "STR"):
        return action.dest.upper()
    return re.sub(r"^{?\[(\S+) \[\1 \.\.\.\]\]}?$", r"\1...", text).replace("{None}", "None")


def _documented(kind: Any, default: Any, dest: str) -> str:
    """Return what the docstring of the option's class says of it, or that of a class it extends."""
    *path, name = dest.replace("-", "_").split(".")
    for part in path:
        default = getattr(default, part, None)
        kind = type(default) if is_dataclass(default) else _dataclass_in(get_type_hints(kind)[part])
    texts = "\n\n".join(inspect.cleandoc(each.__doc__ or "") for each in inspect.getmro(kind) if is_dataclass(each))
    entries = re.findall(r"^(\w+(?:, \w+)*): ((?:.|\n)*?)(?=^\w+(?:, \w+)*: |^$|\Z)", texts, re.M)
    return next((text for names, text in entries if name in names.split(", ")), "")


def _dataclass_in(annotation: Any) -> Any:
    candidates = [annotation, *get_args(annotation)]
    return next(candidate for candidate in candidates if is_dataclass(candidate))


def _spec(module: str, command: Command) -> Spec:
    if command.raw:
        return _train(module, command.summary)
    found = options(command.options or command.function)
    shown = tuple(option for option in found if option.name not in command.hidden)
    text = _description(command.options or command.function, command.summary)
    return Spec(module, command.summary, text, shown, first=command.first)


def _description(kind: Any, otherwise: str = "") -> str:
    """Return the docstring without its `Args`, paragraphs apart; that of a generated dataclass says nothing."""
    text = inspect.getdoc(kind) or ""
    return otherwise if text.startswith("Options(") else re.split(r"^Args:$", text, flags=re.M)[0].strip()


def _train(module: str, summary: str) -> Spec:
    """Return the options of all methods, and what recipes and presets of views change."""
    markers = (tyro.conf.AvoidSubcommands,)

    def of(config: Any) -> dict[str, Option]:
        return {option.name: option for option in options(RunConfig, config, markers)}

    def changed(config: Any, known: dict[str, Option]) -> dict[str, str]:
        found = of(config)
        return {name: found[name].default for name, option in known.items() if found[name].default != option.default}

    recipes = {name: run_config(name, tyro.MISSING, tyro.MISSING) for name in RECIPES}
    start = RunConfig(tyro.MISSING, tyro.MISSING)
    names = {entry.config: name for name, entry in METHODS.items()}
    base = {name: option for name, option in of(start).items() if not name.startswith("method.")}
    methods = {
        name: {
            key: replace(option, when={"method": name})
            for key, option in of(replace(start, method=settings())).items()
            if key.startswith("method.")
        }
        for settings, name in names.items()
    }
    # Which method it takes, `train` knows only when it has seen the images.
    presets: dict[str, Any] = {"recipe": {AUTO: {"method": "", **dict.fromkeys(CHOSEN, AUTO)}}}
    for name, config in recipes.items():
        method = names[type(config.method)]
        presets["recipe"][name] = {"method": method, **changed(config, base | methods[method])}
    presets["method"] = {name: {"kind": settings.__name__} for settings, name in names.items()}
    of_views = {name: option for name, option in base.items() if name.startswith("views.")}
    presets["views"] = {name: changed(replace(start, views=views), of_views) for name, views in VIEWS.items()}
    every = {option.name: option for option in options(Choices)} | base
    ordered = sorted(
        every.values(), key=lambda option: COMMON.index(option.name) if option.name in COMMON else len(COMMON)
    )
    of_methods = [option for found in methods.values() for option in found.values()]
    return Spec(module, summary, _description(Choices), (*ordered, *of_methods), presets)


def _plain(spec: Spec) -> dict[str, Any]:
    """Return a command as plain values, without what is by default."""
    defaults = {field.name: field.default for field in fields(Option)}
    values = asdict(spec)
    values["options"] = [
        {key: value for key, value in option.items() if value != defaults[key] and value != {}}
        for option in values["options"]
    ]
    return values


def text() -> str:
    """Return what `options.json` must hold: a line for each option."""
    known = ",\n".join(f" {json.dumps(kind)}: {json.dumps(words)}" for kind, words in names().items())
    commands = ",\n".join(f"{json.dumps(name)}: {{\n{_lines(values)}\n}}" for name, values in schema().items())
    return f'{{"names": {{\n{known}\n}},\n"commands": {{\n{commands}}}}}\n'


def _lines(values: dict[str, Any]) -> str:
    lists = {"options": values.pop("options")}
    lines = [f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    for key, entries in lists.items():
        rows = ",\n  ".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
        lines.append(f" {json.dumps(key)}: [\n  {rows}\n ]")
    return ",\n".join(lines)


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
