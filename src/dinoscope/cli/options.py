"""The options of every command as data: help, and errors of usage, without torch.

`options.json` is made by `python -m dinoscope.cli.schema` from the commands' functions and the library's configs; a
test keeps it current. This module renders help from it and checks what was typed. Only then is the command imported,
and tyro builds its arguments.
"""

from __future__ import annotations

import difflib
import functools
import json
import math
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinoscope.config import RANGES, current_name
from dinoscope.errors import UserError, lookup
from dinoscope.naming import TIMM, require_model_name
from dinoscope.places import joined, parse_place, require_place
from dinoscope.remote import is_address
from dinoscope.text import window_parts

FILE = Path(__file__).with_name("options.json")

SYNONYMS = {
    synonym: name
    for name, synonyms in {
        "accumulate": "accum-iter",
        "backbone": "arch architecture network",
        "batch-size": "bs",
        "clip": "grad-clip",
        "data": "dataset data-dir data-path input",
        "device": "gpu cuda",
        "image-size": "resolution img-size input-size",
        "init": "pretrained",
        "ks": "k",
        "learning-rate": "lr",
        "model": "weights checkpoint",
        "out": "output output-dir",
        "overwrite": "force",
        "precision": "amp fp16 bf16 dtype",
        "resume": "continue",
        "temperature": "temp",
        "warmup-epochs": "warmup",
        "weight-decay": "wd",
        "workers": "num-workers",
    }.items()
    for synonym in synonyms.split()
}
"""What other programs call an option -> the last part of its name here."""

EARLIER = {"--queries": "--query"}
"""Spellings of an earlier version that are still read, for one release -> the option."""

PLACES = {"data", "folder"}
"""Options that name images, wherever they are: given several times, they are joined."""

LOCAL = "PATH", "PATH...", "IMAGE...", "VIDEO", "FILE"
"""What the words of options are that name files on this machine, except `PLACES` and those of `ADDRESSES`."""

ADDRESSES = PLACES | {"gallery", "query"}
"""Options that take an address as well as a path."""

WRITTEN = {"out", "save-masks"}
"""Options that name what is to be written: all others whose words are `LOCAL` or `ADDRESSES` name what must exist."""

ANY, SOME = -1, -2
"""How many words follow an option: any number, or at least one."""


@dataclass(frozen=True)
class Option:
    """An option, or a positional argument (without flags).

    name: such as optimizer.learning-rate; what stands before the last dot is its group.
    flags: its spellings, the one to show first.
    words: how many follow: 0 for a flag, n for n, `ANY` or `SOME`.
    metavar: what the words are; also their type, see `TYPES`.
    names: kind of the names of which each word must be one, see `names`; "" for any words.
    when: values of other options with which it exists, such as {"method": "moco"}.
    """

    name: str
    flags: tuple[str, ...] = ()
    words: int = 1
    metavar: str = ""
    names: str = ""
    choices: tuple[str, ...] = ()
    help: str = ""
    default: str = ""
    required: bool = False
    repeated: bool = False
    when: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Spec:
    """A command: the module that holds it, what it does, and its options.

    presets: option -> each of its values -> defaults that it changes (name -> text).
    first: as in `Command`.
    """

    module: str
    summary: str
    description: str
    options: tuple[Option, ...]
    presets: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)
    first: str = ""


@dataclass
class Given:
    """A command line that was checked: each option with its flag and words, in order."""

    entries: list[tuple[Option, str, list[str]]]

    def take(self, name: str) -> str | None:
        """Remove an option and return its last word ("" of a flag); None if it was not given."""
        found = [words for option, _, words in self.entries if option.name == name]
        self.entries = [entry for entry in self.entries if entry[0].name != name]
        return " ".join(found[-1]) if found else None

    def word(self, name: str) -> str | None:
        """Return the last word of an option; None if it was not given."""
        return next((words[-1] for option, _, words in reversed(self.entries) if option.name == name and words), None)

    def argv(self) -> list[str]:
        """Return the command line for tyro, positional arguments first; of an option given twice, the last."""
        last = {option.name: number for number, (option, _, _) in enumerate(self.entries)}
        positional, named = list[str](), list[str]()
        for number, (option, flag, words) in enumerate(self.entries):
            if not option.flags:
                positional += words
            elif option.repeated or last[option.name] == number:
                named += [f"{flag}={words[0]}"] if len(words) == 1 else [flag, *words]
        return [*positional, *named]


@functools.cache
def commands() -> dict[str, Spec]:
    """Return every command by name, in the order of `dinoscope --help`."""

    def option(values: dict[str, Any]) -> Option:
        lists: dict[str, Any] = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return Option(**(values | lists))

    specs = _file()["commands"]
    return {name: Spec(**spec | {"options": tuple(map(option, spec["options"]))}) for name, spec in specs.items()}


REGISTRIES = {
    "released": ("dinoscope.models.pretrained", "CATALOGUE"),
    "baseline": ("dinoscope.models.baselines", "BASELINES"),
    "backbone": ("dinoscope.models.backbone", "BACKBONES"),
    "method": ("dinoscope.methods", "METHODS"),
    "recipe": ("dinoscope.recipes", "RECIPES"),
    "evaluation": ("dinoscope.evaluation", "EVALUATIONS"),
    "part of a verdict": ("dinoscope.cli.verdict", "MAY_BE_SKIPPED"),
    "kind of map": ("dinoscope.explain.maps", "MAPS"),
    "way to segment": ("dinoscope.cli.pictures", "WAYS_TO_SEGMENT"),
    "study": ("dinoscope.study.definition", "STUDY_NAMES"),
    "table": ("dinoscope.study.reproduce", "TABLES"),
    "figure": ("dinoscope.cli.compare", "FIGURES"),
}
"""Kind of names -> the module and the registry that has them. Models are in three: released, baseline, backbone."""


def names(kind: str) -> dict[str, None]:
    """Return the names of a kind: of the registry if its module is loaded, as a program may have added to it."""
    module, registry = REGISTRIES[kind]
    known = getattr(sys.modules.get(module), registry, None)
    return dict.fromkeys(_file()["names"][kind] if known is None else known)


@functools.cache
def _file() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))


def parse(command: str, argv: Sequence[str]) -> Given | None:
    """Check a command line. If help is asked for, print it and return None.

    Raises UserError for an unknown or missing option, and for words that do not fit one.
    """
    spec = commands()[command]
    chosen = _chosen(spec, argv)
    active = [option for option in spec.options if option.when.items() <= chosen.items()]
    if "--help" in argv or "-h" in argv:
        print(_help(command, spec, active, chosen, argv))
        return None
    given = Given(_joined(_read(command, spec, active, chosen, argv)))
    names = {option.name for option, _, _ in given.entries}
    for option in active:
        unneeded = "resume" in names or (option.name == "out" and "plan" in names)  # a run to resume has its settings
        if option.required and option.name not in names and not unneeded:
            meaning = _first_sentence(option.help)
            meaning = meaning if meaning[1:2].isupper() else meaning[:1].lower() + meaning[1:]
            raise UserError(f"{_shown(option)} is missing: {meaning}; `dinoscope {command} --help` explains it")
    # first what no file on this machine can make right
    for option, flag, words in sorted(given.entries, key=lambda entry: entry[0].names in ("", "model")):
        if option.name not in spec.presets:
            _check_known(option, flag, words)
    return given


def _chosen(spec: Spec, argv: Sequence[str]) -> dict[str, str]:
    """Return the value of each option with presets: as typed, else of an earlier preset, else the default.

    Raises UserError for a value without a preset.
    """
    chosen = {option.name: option.default for option in spec.options if option.name in spec.presets}
    for name, presets in spec.presets.items():
        chosen[name] = _typed(argv, name) or chosen[name]
        if chosen[name]:
            effects = lookup({"views": "preset of views"}.get(name, name), chosen[name], presets)
            chosen |= {key: text for key, text in effects.items() if key in chosen}
    if "--resume" in argv and "method" in chosen and _typed(argv, "method") is None:
        chosen["method"] = _method_of_run(_typed(argv, "out"), spec) or chosen["method"]
    return chosen


def _typed(argv: Sequence[str], name: str) -> str | None:
    for word, following in zip(argv, [*argv[1:], None], strict=True):
        if word == f"--{name}":
            return following
        if word.startswith(f"--{name}="):
            return word.partition("=")[2]
    return None


def _method_of_run(out: str | None, spec: Spec) -> str | None:
    try:
        kind = json.loads(Path(out or "", "config.json").read_text(encoding="utf-8"))["run"]["method"]["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # the command names what is wrong with the folder
    return next((name for name, values in spec.presets["method"].items() if values["kind"] == kind), None)


def _read(
    command: str, spec: Spec, active: Sequence[Option], chosen: Mapping[str, str], argv: Sequence[str]
) -> Iterator[tuple[Option, str, list[str]]]:
    by_flag = {flag: option for option in active for flag in option.flags}
    words, loose = list(argv), list[str]()
    while words:
        word = words.pop(0)
        if not _is_flag(word):
            loose.append(word)
            continue
        flag, equals, inline = word.partition("=")
        flag = flag.replace("_", "-")
        option = by_flag.get(flag := EARLIER.get(flag, current_name(flag)) if flag not in by_flag else flag)
        if option is None:
            raise UserError(_unknown(command, spec, by_flag, chosen, flag))
        taken, limit = [inline] if equals else [], len(argv) if option.words < 0 else option.words
        while words and not equals and len(taken) < limit and not _is_flag(words[0]):
            taken.append(words.pop(0))
        _check(option, flag, taken)
        yield option, flag, taken
    positional = next((option for option in active if not option.flags), None)
    several = positional is not None and positional.name in PLACES
    if loose and (positional is None or (0 < positional.words < len(loose) and not several)):
        raise UserError(f"{loose[-1]!r} is not expected here; `dinoscope {command} --help` lists the options")
    if positional is not None and loose:
        for words in [[word] for word in loose] if several else [loose]:
            _check(positional, positional.metavar, words)
            yield positional, "", words


def _joined(entries: Iterable[tuple[Option, str, list[str]]]) -> list[tuple[Option, str, list[str]]]:
    """Return the entries with all the places of images in one. Raises UserError for an address that is not read."""
    places, others = list[tuple[Option, str, list[str]]](), list[tuple[Option, str, list[str]]]()
    for entry in entries:
        (places if entry[0].name in PLACES else others).append(entry)
    if not places:
        return others
    words = [word for _, _, words in places for word in words]
    text = words[0] if len(words) == 1 else str(joined(map(parse_place, words)))
    return [*others, (*places[-1][:2], [text])]


def _is_flag(word: str) -> bool:
    return word.startswith("-") and word != "-" and re.match(r"-\.?\d", word) is None


def _unknown(command: str, spec: Spec, flags: Iterable[str], chosen: Mapping[str, str], flag: str) -> str:
    owners = [option.when for option in spec.options if flag in option.flags]
    if owners:
        key = next(iter(owners[0]))
        names = " and ".join(when[key] for when in owners)
        other = f"the {key} here is {chosen[key]}" if chosen[key] else f"none is named: add --{key} {owners[0][key]}"
        return f"{flag} is an option of --{key} {names}, and {other}"
    prefix, dot, last = flag.removeprefix("--").rpartition(".")
    wanted = SYNONYMS.get(last, last)
    near = [name for name in flags if f"--{prefix}{dot}{wanted}" == name]
    near = near or [name for name in flags if name.removeprefix("--").rpartition(".")[2] == wanted]
    near = near or difflib.get_close_matches(flag, flags, n=2, cutoff=0.7)
    hint = f"did you mean {' or '.join(near)}?" if near else f"`dinoscope {command} --help` lists the options"
    return f"there is no option {flag}; {hint}"


def _number(kind: Callable[[str], float], word: str) -> float:
    number = kind(word)
    if not math.isfinite(number):
        raise ValueError
    return number


WINDOW_NAMES = ("lung", "soft", "bone", "brain")
"""Those of `dinoscope.data.grey_range.WINDOWS`, which imports numpy."""

TYPES: dict[str, tuple[str, Callable[[str], object]]] = {
    "LEVEL,WIDTH": (
        f"LEVEL,WIDTH (two numbers), {', '.join(WINDOW_NAMES)}, several of these joined by +, or header",
        lambda word: _window(word),
    ),
    "X,Y": ("two whole numbers with a comma between them", lambda word: [int(part) for part in _pair(word)]),
    "INT": ("a whole number", lambda word: _number(int, word)),
    "FLOAT": ("a finite number", lambda word: _number(float, word)),
}
"""Part of a metavar -> what the word must be, and what raises ValueError for any other."""


def _window(word: str) -> object:
    parts = window_parts(word)
    if len(parts) > 1:
        return [_window(part) for part in parts]
    if word in (*WINDOW_NAMES, "header"):
        return word
    return [float(part) for part in _pair(word.removeprefix("header,"))]


def _pair(word: str) -> tuple[str, str]:
    first, second = word.split(",")
    return first, second


def _check(option: Option, flag: str, words: Sequence[str]) -> None:
    """Raise UserError for too few words, or one of another type."""
    if (option.words >= 0 and len(words) != option.words) or (option.words == SOME and not words):
        wanted = f"needs {option.metavar} after it" if option.words else f"takes no value: leave out {words[0]!r}"
        raise UserError(f"{flag} {wanted}")
    kind = next((kind for kind in TYPES if kind in option.metavar), None)
    for word in words:
        if is_address(word) and option.metavar in LOCAL and option.name not in ADDRESSES:
            raise UserError(f"{flag} must be on this machine, not at an address")
        if word in option.choices:
            continue
        if option.choices and not option.metavar:
            raise UserError(f"{flag} is {word!r}; allowed: {', '.join(option.choices)}")
        if kind is not None:
            text, convert = TYPES[kind]
            try:
                value = convert(word)
            except ValueError:
                choices = "".join(f", or {choice}" for choice in option.choices)
                raise UserError(f"{flag} must be {text}{choices}, not {word!r}") from None
            lowest, highest = RANGES.get(option.name.rpartition(".")[2], (-math.inf, math.inf))
            if isinstance(value, int) and not lowest <= value <= highest:
                raise UserError(f"{flag} must be from {lowest} to {highest}, not {word}")


def _check_known(option: Option, flag: str, words: Sequence[str]) -> None:
    """Raise UserError for a name that the library does not know, or a path at which there is nothing."""
    faults: list[UserError] = []
    for word in words:
        if word in option.choices or not word:
            continue
        try:
            if option.names:
                CHECKS.get(option.names, functools.partial(_check_name, option.names))(word)
            elif (option.metavar in LOCAL or option.name in ADDRESSES) and option.name not in WRITTEN:
                require_place(parse_place(word))
        except UserError as error:
            is_told = bool(option.names) or option.name in PLACES or not flag
            faults.append(error if is_told else UserError(f"{flag} {error}"))
    if faults and (option.metavar != "IMAGE..." or len(faults) == len(words)):  # else the others are drawn
        raise faults[0]


def _check_name(kind: str, word: str) -> None:
    lookup(kind, word, names(kind))


def _check_model(word: str) -> None:
    require_model_name(word, names("released"), names("baseline"), names("backbone"))


def _check_network(word: str) -> None:
    if not word.startswith(TIMM):
        _check_name("backbone", word)


def _check_evaluation(word: str) -> None:
    name, _, place = word.partition("=")
    _check_name("evaluation", name)
    if place:
        require_place(parse_place(place))


def _check_study(word: str) -> None:
    if word.endswith(".toml"):
        require_place(Path(word))
    elif not Path(word).is_file():
        _check_name("study", word)


CHECKS: dict[str, Callable[[str], None]] = {
    "model": _check_model,
    "backbone": _check_network,
    "evaluation": _check_evaluation,
    "study": _check_study,
}
"""Kind of names -> what raises UserError for a word that is none; of all other kinds, `lookup` does."""


def _shown(option: Option) -> str:
    return option.flags[0] if option.flags else option.metavar


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.:])\s+(?=[A-Z])", text, maxsplit=1)[0].rstrip(".:")


WIDTH, INDENT = 100, 26
"""Widest help, and where explanations begin, in letters."""


def _help(command: str, spec: Spec, active: Sequence[Option], chosen: Mapping[str, str], argv: Sequence[str]) -> str:
    width = min(shutil.get_terminal_size().columns, WIDTH)
    changed: dict[str, str] = {}
    for name, presets in spec.presets.items():
        if _typed(argv, name) is not None:  # what is chosen by name has its own defaults
            changed = {key: text for key, text in changed.items() if not key.startswith(f"{name}.")}
        changed |= presets.get(chosen[name], {})
    required = [_heading(option) for option in active if option.required and option.flags]
    required += [option.metavar if option.required else f"[{option.metavar}]" for option in active if not option.flags]
    lines = textwrap.wrap(" ".join([f"usage: dinoscope {command}", *required, "[options]"]), width)
    for paragraph in spec.description.split("\n\n"):
        lines += ["", *(paragraph.splitlines() if "\n  " in paragraph else textwrap.wrap(paragraph, width))]
    groups: dict[str, list[Option]] = {}
    for option in active:
        groups.setdefault(option.name.rpartition(".")[0], []).append(option)
    for group, options in groups.items():
        lines += ["", f"{group} ({chosen[group]}):" if chosen.get(group) else f"{group or 'options'}:"]
        for option in options:
            lines += _lines(option, changed.get(option.name, option.default), width)
    return "\n".join(lines)


def _heading(option: Option) -> str:
    words = "{" + ",".join(option.choices) + "}" if option.choices and not option.metavar else option.metavar
    return f"{', '.join(option.flags)} {words}".strip()


def _lines(option: Option, default: str, width: int) -> list[str]:
    note = "(required)" if option.required else f"(default: {default})" if default else ""
    text = textwrap.wrap(f"{option.help} {note}".strip(), max(width - INDENT, 30)) or [""]
    heading = f"  {_heading(option)}"
    first = [f"{heading:<{INDENT}}{text.pop(0)}"] if len(heading) < INDENT - 1 else [heading]
    return [*first, *(" " * INDENT + line for line in text)]
