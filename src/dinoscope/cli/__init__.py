"""The command `dinoscope`: what it does with a command line before and after a command runs."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import importlib
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from dinoscope import __version__
from dinoscope.cli import options
from dinoscope.errors import UserError
from dinoscope.files import COMPOSITE_VARIABLE, MEGAPIXELS_VARIABLE, OFFLINE_VARIABLE, environment
from dinoscope.text import PrintableFormatter, printable

_ANYWHERE = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
"""Options that may stand anywhere in a command."""
_ANYWHERE.add_argument("--offline", action="store_true")
_ANYWHERE.add_argument("--max-megapixels", nargs="?", const="")
_ANYWHERE.add_argument("--composite", nargs="?", const="")

_THE_DISKS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})
"""A full disk, a quota that is used up, and missing rights: errors of the place, never of the program."""

USAGE = """\
dinoscope {version}: self-supervised vision, made usable, measured and visible.

usage: dinoscope COMMAND [options]        dinoscope COMMAND --help

{commands}

New here?  dinoscope quickstart          Your own images?  dinoscope train --data FOLDER --out runs/mine
With --offline, or DINOSCOPE_OFFLINE=1, no command fetches anything.
With --max-megapixels 200, or DINOSCOPE_MAX_MEGAPIXELS=200, images of up to 200 million pixels are read instead of 60.
With --composite 3,2,1, or DINOSCOPE_COMPOSITE=3,2,1, pictures show these channels (from 0) as red, green and blue.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; return the exit code: 0 done, 2 the person's mistake (one line, no traceback), 130 Ctrl-C."""
    try:
        anywhere, arguments = _ANYWHERE.parse_known_args(argv)
    except argparse.ArgumentError as error:
        _complain("", error)
        return 2
    variables = {OFFLINE_VARIABLE: "1"} if anywhere.offline else {}
    if anywhere.max_megapixels is not None:
        variables[MEGAPIXELS_VARIABLE] = anywhere.max_megapixels
    if anywhere.composite is not None:
        variables[COMPOSITE_VARIABLE] = anywhere.composite
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"dinoscope {__version__}")
        return 0
    with environment(variables):
        return _run(arguments[0], arguments[1:])


def _run(command: str, rest: list[str]) -> int:
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PrintableFormatter())
    warnings.formatwarning = _printable_warning
    try:
        if command not in options.commands():
            near = difflib.get_close_matches(command, options.commands(), n=1)
            hint = f"did you mean {near[0]!r}?" if near else "`dinoscope --help` lists the commands"
            raise UserError(f"there is no command {command!r}; {hint}")
        if MEGAPIXELS_VARIABLE in os.environ:
            from dinoscope.data.images import pixel_limit

            pixel_limit()  # an impossible limit is refused before anything starts
        if COMPOSITE_VARIABLE in os.environ:
            from dinoscope.data.reader import parse_composite

            parse_composite(os.environ[COMPOSITE_VARIABLE])
        return call(command, rest)
    except UserError as error:
        _complain(command, error)
        return 2
    except KeyboardInterrupt:
        _complain(command, "stopped")
        return 130
    except BrokenPipeError:
        # The reader went away (| head): nothing is wrong, and Python must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in _THE_DISKS:
            raise
        _complain(command, _about_the_disk(error))
        return 2


def call(command: str, arguments: Sequence[str]) -> int:
    """Run a command; return its exit code. Raises UserError."""
    given = options.parse(command, arguments)
    if given is None:
        return 0
    spec = options.commands()[command]
    with importlib.import_module(spec.first).begin(given) if spec.first else contextlib.nullcontext():
        from dinoscope.cli.command import LINE

        LINE.set(shlex.join(["dinoscope", command, *arguments]))
        return importlib.import_module(spec.module).COMMANDS[command](given)


_format_warning = warnings.formatwarning


def _printable_warning(*arguments: Any, **named: Any) -> str:
    return printable(_format_warning(*arguments, **named))


def _complain(command: str, reason: object) -> None:
    print(printable(f"{f'dinoscope {command}'.strip()}: {reason}"), file=sys.stderr)


def _about_the_disk(error: OSError) -> str:
    """What happened to which file, and what to do: for what no command has said better itself."""
    where = f"{error.filename}: " if error.filename else ""
    room = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"{where}{error.strerror}. {'Free space' if room else 'See to the rights'}, then call it again"


def _usage() -> str:
    commands = options.commands()
    width = max(map(len, commands))
    lines = [
        f"  {name:<{width}}  {commands[name].summary[:1].lower()}{commands[name].summary[1:].rstrip('.')}"
        for name in sorted(commands, key=lambda name: name != "quickstart")
    ]
    return USAGE.format(version=__version__, commands="\n".join(lines)).rstrip()
