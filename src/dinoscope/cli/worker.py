"""`python -m dinoscope.cli.worker SETTINGS.json`: what a study starts for each of its runs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dinoscope.training.config import RunConfig
    from dinoscope.training.listeners import Listener

COMMAND = (sys.executable, "-m", "dinoscope.cli.worker", "--stop-with-stdin")
"""For `dinoscope.study`, which adds the settings file."""


def work(argv: list[str]) -> int:
    """Bring one run to its end; return 0 when it is, 130 where a signal stopped it, 2 for a mistake (one line)."""
    options = parse(parser("dinoscope.cli.worker"), argv)
    return bring(options.settings, lambda config: [])


def parser(prog: str) -> argparse.ArgumentParser:
    """The options of every worker."""
    found = argparse.ArgumentParser(prog=prog)
    found.add_argument("settings", type=Path)
    found.add_argument("--stop-with-stdin", action="store_true", help="save and end when standard input ends")
    return found


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """The options; standard input is watched from now on, if that was asked for."""
    options = parser.parse_args(argv)
    if options.stop_with_stdin:
        threading.Thread(target=_stop_with_stdin, daemon=True).start()
    return options


def bring(settings: Path, listeners: Callable[[RunConfig], Sequence[Listener]]) -> int:
    """Bring the run of a settings file to its end, with progress on the terminal and these listeners."""
    import functools

    from dinoscope import api
    from dinoscope.cli.progress import ConsoleProgress
    from dinoscope.cli.train import one_line
    from dinoscope.errors import UserError
    from dinoscope.study.run import read_settings
    from dinoscope.study.state import bring_to_end
    from dinoscope.text import printable

    try:
        config = read_settings(settings)
        audience = [ConsoleProgress(), *listeners(config)]
        with one_line(config.out):
            finished = bring_to_end(config, functools.partial(api.train, listeners=audience))
    except UserError as error:
        print(printable(str(error)), file=sys.stderr)
        return 2
    return 0 if finished else 130


def _stop_with_stdin() -> None:
    """Wait for the end of standard input, a pipe from the study: however that dies, this run stops and is saved.

    The bare descriptor, because a thread that waits inside of `sys.stdin` makes Python fail at exit.
    """
    while os.read(0, 1024):
        pass
    if sys.platform == "win32":  # os.kill would end the process at once
        signal.raise_signal(signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.SIGTERM)  # to the process: it interrupts what the main thread waits for


if __name__ == "__main__":
    sys.exit(work(sys.argv[1:]))
